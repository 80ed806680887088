"""Smooth fields through scattered displacements, and how well each of them agrees with the others.

Source: Gaussian processes with a trend (Rasmussen, Williams 2006, section 2.7; universal kriging, Matheron 1969).
Errors of leaving one out come from one inverse (Dubrule 1983). Trend and reach are chosen by them, this project's
choice: a few points that move alike want a shift, points all over a badly aligned image an affine map.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

TRENDS = ("none", "shift", "affine")
REACHES = (0.06, 0.12, 0.25, 0.5)  # of the extent
USUAL_REACH = 0.12  # where points are too few to tell
NOISE = 1e-3  # variance in units of that of the field, so that points that lie close do no harm


@dataclass(frozen=True)
class Interpolation:
    """A smooth field through displacements of points.

    Attributes:
        points: `(N, nd)` mm along axes of any frame, all different.
        vectors: `(N, nd)` mm, what the field is there.
        trend: Of `TRENDS`: what is fitted to all of them, apart from what decays around each.
        reach: Standard deviation in mm of the Gaussian by which a point's vector decays around it.
    """

    points: np.ndarray
    vectors: np.ndarray
    trend: str
    reach: float

    @cached_property
    def _inverse(self) -> np.ndarray:
        trend, kernel = self._trend_at(self.points), self._kernel_at(self.points)
        zeros = np.zeros((trend.shape[1],) * 2)
        system = np.block([[kernel + NOISE * np.eye(len(kernel)), trend], [trend.T, zeros]])
        return np.linalg.pinv(system)

    @cached_property
    def weights(self) -> np.ndarray:
        """The vector `(nd,)` of the Gaussian around each point, then those of the terms of the trend, in mm."""
        return self._inverse[:, : len(self.points)] @ self.vectors

    @cached_property
    def left_out(self) -> np.ndarray:
        """By how much `(N, nd)`, in mm, each vector differs from what the others make of its place."""
        count = len(self.points)
        return self.weights[:count] / np.diag(self._inverse)[:count, None]

    @cached_property
    def disagreement(self) -> np.ndarray:
        """The lengths `(N,)` of `left_out`."""
        return np.linalg.norm(self.left_out, axis=1)

    def on_grid(self, axes: Sequence[np.ndarray]) -> np.ndarray:
        """Return the field `(nd, *spatial)` in mm where the coordinates along each axis, `(n,)` mm, meet.

        A Gaussian is the product of those along the axes, so that all voxels are one product of matrices.
        """
        count, spatial = len(self.points), [len(axis) for axis in axes]
        first, *others = (
            np.exp(-0.5 * ((axis[:, None] - along) / self.reach) ** 2)
            for axis, along in zip(axes, self.points.T, strict=True)
        )
        rest = np.ones((1, count))
        for other in others:
            rest = (rest[:, None] * other).reshape(-1, count)
        near = self.weights[:count].T[:, None] * first
        field = (near @ rest.T).reshape(-1, *spatial)
        trend = self.weights[count:].reshape(-1, len(spatial), *[1] * len(spatial))
        for number, factor in enumerate(trend):
            field += factor if number == 0 else factor * self._along(axes, number - 1)
        return field

    def _along(self, axes: Sequence[np.ndarray], axis: int) -> np.ndarray:
        """Return what the trend is linear in, along an axis of a grid, to be broadcast over it."""
        shape = [-1 if other == axis else 1 for other in range(len(axes))]
        return ((axes[axis] - self.points[:, axis].mean()) / self.reach).reshape(shape)

    def at(self, places: np.ndarray) -> np.ndarray:
        """Return the field `(M, nd)` in mm at places `(M, nd)`."""
        return np.hstack([self._kernel_at(places), self._trend_at(places)]) @ self.weights

    def _kernel_at(self, places: np.ndarray) -> np.ndarray:
        squares = ((places[:, None] - self.points[None]) ** 2).sum(2)
        return np.exp(-0.5 * squares / self.reach**2)

    def _trend_at(self, places: np.ndarray) -> np.ndarray:
        columns = {"none": 0, "shift": 1, "affine": 1 + places.shape[1]}[self.trend]
        scaled = (places - self.points.mean(0)) / self.reach
        return np.hstack([np.ones((len(places), 1)), scaled])[:, :columns]


def interpolate(points: np.ndarray, vectors: np.ndarray, extent: float) -> Interpolation:
    """Return the field that foretells each vector best from the others, by the median error.

    Args:
        points: `(N, nd)` mm.
        vectors: `(N, nd)` mm.
        extent: Of the image, in mm.
    """
    candidates = list(_candidates(points, vectors, extent))
    return min(candidates, key=lambda one: float(np.median(one.disagreement)))


def _candidates(points: np.ndarray, vectors: np.ndarray, extent: float) -> Iterator[Interpolation]:
    count, nd = points.shape
    needed = {"none": 0, "shift": 4, "affine": 2 * (nd + 1)}  # points, twice as many as the trend can explain away
    reaches: Sequence[float] = REACHES if count > nd else (USUAL_REACH,)
    for trend in TRENDS:
        if count >= needed[trend]:
            for reach in reaches:
                yield Interpolation(points, vectors, trend, reach * extent)
