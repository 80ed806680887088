"""Mends a displacement field around single points, and leaves it alone elsewhere.

Every mended state is made from the field as it was first, so that corrections can be taken back in any order.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..volume.fields import jacobian_determinant, sample_field
from ..volume.geometry import Geometry
from .interpolation import Interpolation

Box = tuple[slice, slice, slice]
REACHES = 3.5  # standard deviations around a point that are changed
WATCHED = 2.0  # standard deviations around a point in which folds are looked for
STEEPEST = 1.0  # times its length, the least reach of a correction: a Gaussian's slope is then 0.61
WIDER = 1.5  # times the reach, where it folds
TRIES = 5
UNMOVED_MM = 1e-3


@dataclass(frozen=True)
class Mended:
    """What has been done to a field.

    Attributes:
        boxes: The parts `(k, j, i)` whose values may have changed.
        reach_mm: Standard deviation of the Gaussian by which a correction decays; more than was asked for where the
            field would have folded.
        longest_mm: Of the corrections.
        jacobian: The least and the greatest Jacobian determinant around the corrections; None without any.
    """

    boxes: list[Box]
    reach_mm: float
    longest_mm: float
    jacobian: tuple[float, float] | None


class Mending:
    """A field that is mended.

    Attributes:
        field: `(k, j, i, 3)` LPS mm, float32, as it is now.
    """

    def __init__(self, field: np.ndarray, geometry: Geometry) -> None:
        """Take a field, which is copied, and its grid."""
        self.field = field.astype(np.float32)
        self._first, self._geometry = self.field.copy(), geometry
        self._changed: list[Box] = []

    def mend(self, points_lps: np.ndarray, partners_lps: np.ndarray, reach_mm: float) -> Mended:
        """Let the field lead points `(N, 3)` LPS mm to their partners, and nothing else than those given now.

        Args:
            points_lps: All different.
            partners_lps: Where each belongs in the moving volume.
            reach_mm: How far around a point the field goes along, a standard deviation.
        """
        points, partners = (np.asarray(side, float).reshape(-1, 3) for side in (points_lps, partners_lps))
        missed = partners - points - sample_field(self._first, self._geometry, points)
        longest = float(np.linalg.norm(missed, axis=1).max(initial=0.0))
        reach, boxes = max(reach_mm, STEEPEST * longest), list(self._changed)
        for _try in range(TRIES):
            boxes += self._bend(points, missed, reach)
            jacobian = self._jacobian(points, missed, reach)
            if jacobian is None or jacobian[0] > 0:
                break
            reach *= WIDER
        return Mended(boxes, reach, longest, jacobian)

    def _bend(self, points: np.ndarray, missed: np.ndarray, reach: float) -> list[Box]:
        """Add to the field as it was first what points miss; return the parts that this changes."""
        for box in self._changed:
            self.field[box] = self._first[box]
        self._changed = []
        if len(points):
            local = self._geometry.lps_to_index(points) * self._geometry.spacing
            weights = Interpolation(local, missed, "none", reach).weights
            for place, weight in zip(local, weights, strict=True):
                if np.linalg.norm(weight) > UNMOVED_MM:
                    self._changed.append(self._add(place, weight, reach))
        return self._changed

    def _add(self, place: np.ndarray, weight: np.ndarray, reach: float) -> Box:
        """Add a Gaussian at a place (i, j, k in mm along the grid's axes), as many mm high as a weight says."""
        box = self._around(place, REACHES * reach)
        axes = zip(box[::-1], place, self._geometry.spacing, strict=True)
        i, j, k = (
            np.exp(-0.5 * ((np.arange(part.start, part.stop) * step - middle) / reach) ** 2)
            for part, middle, step in axes
        )
        height = (k[:, None, None] * j[:, None] * i).astype(np.float32)
        for axis, component in enumerate(weight.astype(np.float32)):
            self.field[(*box, axis)] += component * height
        return box

    def _around(self, place: np.ndarray, distance: float) -> Box:
        """Return the part of the grid that is closer to a place than a distance along each axis."""
        spacing, size = np.array(self._geometry.spacing), np.array(self._geometry.size)
        low = np.floor((place - distance) / spacing).astype(int).clip(0, size - 1)
        high = np.ceil((place + distance) / spacing).astype(int).clip(low, size - 1) + 1
        (i, j, k), (end_i, end_j, end_k) = low, high
        return slice(k, end_k), slice(j, end_j), slice(i, end_i)

    def _jacobian(self, points: np.ndarray, missed: np.ndarray, reach: float) -> tuple[float, float] | None:
        """Return the least and the greatest determinant around the points that the field was bent for."""
        bent = points[np.linalg.norm(missed, axis=1) > UNMOVED_MM]
        found = [(float(part.min()), float(part.max())) for part in self._determinants(bent, reach)]
        return (min(low for low, _high in found), max(high for _low, high in found)) if found else None

    def _determinants(self, points: np.ndarray, reach: float) -> Iterator[np.ndarray]:
        for place in self._geometry.lps_to_index(points) * self._geometry.spacing if len(points) else ():
            box = self._around(place, WATCHED * reach)
            low, high = (np.array([getattr(part, end) for part in box[::-1]]) for end in ("start", "stop"))
            yield jacobian_determinant(np.ascontiguousarray(self.field[box]), self._geometry.cropped(low, high))
