"""What of a fixed image has no counterpart in the registered moving one: resected, new, or taking up contrast agent.

How bright the fixed image should be is told by the moving one: a smooth function of its brightness, with a gain that
varies slowly over the image, as that of a coil does. Content is missed where it is brighter or darker than all that is
expected within a few voxels, and the expectation than all that is there, so that a boundary that is a voxel or two off
is no change. From there on a change reaches as far as the images differ by half as much.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..protocol.reporting import Pause, no_pause
from ..volume.geometry import Geometry, place_text
from ..volume.intensity import blocks
from ..volume.no_data import known_voxels

SURE = 0.5  # of the map: regions are what is at least as sure
# Voxels of the mean size within which the one side must lack content, and within which the other must lack its own.
FAR, NEAR = 2, 1
GROWTH = 3  # voxels by which a change reaches beyond where that holds
LEAST_VOXELS, LEAST_PIXELS = 27, 12  # of a region in a volume, and in a slice
SPREADS = 3.5  # by how many robust standard deviations of what is left unexplained an image differs that is changed
LEAST_SHARE = 0.018  # and by which share of the brightness of the image
# Shares of the brightness that must be explained, voxel by voxel and within a few voxels, to know change from contrast.
LEAST_EXPLAINED, LEAST_EXPLAINED_NEAR = 0.5, 0.96
SAMPLES = 40_000
KNOTS = 6
ROUNDS = 15  # of fitting, in which outliers lose their weight
BULK = (0.5, 99.5)
SLAB_VOXELS = 2**21
BRIGHTER, DARKER = "brighter", "darker"
Places = list[np.ndarray]  # along k, j, i, each from -1 to 1
CANNOT_TELL = (
    "What has no counterpart cannot be told: the brightness of the one image does not follow from that of the other, "
    "as in images of different contrast or far from registered."
)
CONSTANT = "What has no counterpart cannot be told: an image is constant where both are known."


@dataclass(frozen=True)
class Change:
    """A piece of the fixed image that has no counterpart.

    Attributes:
        center_lps: Its center, mm.
        volume_ml: Its volume; 0 in a slice.
        area_mm2: Its area in a slice; 0 in a volume.
        kind: "brighter" or "darker" than the moving image lets expect.
    """

    center_lps: tuple[float, float, float]
    volume_ml: float
    area_mm2: float
    kind: str

    @property
    def size(self) -> float:
        """Its volume in ml, in a slice its area in mm^2."""
        return self.area_mm2 or self.volume_ml

    @property
    def sentence(self) -> str:
        """What users must know of it."""
        size = f"{self.area_mm2:.0f} mm2" if self.area_mm2 else f"{self.volume_ml:.3g} ml"
        return (
            f"What is at {place_text(self.center_lps)} ({size}, {self.kind}) has no counterpart in the moving image; "
            "the deformation means nothing there."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it for a result."""
        size = {"area_mm2": self.area_mm2} if self.area_mm2 else {"volume_ml": self.volume_ml}
        return {"center_lps": list(self.center_lps), **size, "kind": self.kind}


@dataclass(frozen=True, eq=False)
class Changes:
    """What was found.

    Attributes:
        certainty: float32 `(k, j, i)` in [0, 1]: how surely what is there has no counterpart. 0.5 is as sure as a
            region must be; the square of the difference, in units of what is needed, over itself and 1. 0 where an
            image is not known. None if it cannot be told.
        regions: The connected pieces, largest first.
        reason: A sentence on why it cannot be told; empty if it can.
    """

    certainty: np.ndarray | None = field(repr=False)
    regions: list[Change]
    reason: str = ""


def find_changes(
    fixed: np.ndarray, warped: np.ndarray, geometry: Geometry, known: np.ndarray | None = None, pause: Pause = no_pause
) -> Changes:
    """Find what of a fixed image has no counterpart in the registered moving one.

    Args:
        fixed: `(k, j, i)`, any real type.
        warped: The moving image on the same grid.
        geometry: That grid.
        known: Where the moving image was measured, bool `(k, j, i)`; None for everywhere that it is finite.
        pause: Called between pieces of work.

    Returns:
        The map and its regions, or why there are none.

    Raises:
        EngineError: If an image has another size than the grid.
    """
    for array in (fixed, warped):
        geometry.require_shape(array.shape, "volume")
    search = _ChangeSearch(fixed, warped, geometry, _known(fixed, warped, known), pause)
    brightness = search.brightness()
    if brightness is None:
        return Changes(None, [], CONSTANT)
    if brightness.explained < LEAST_EXPLAINED:
        return Changes(None, [], CANNOT_TELL)
    signed, missed = search.signed_certainty(brightness)
    if missed > (1 - LEAST_EXPLAINED_NEAR) * brightness.deviation:
        return Changes(None, [], CANNOT_TELL)
    pause()
    regions = _regions(signed, geometry)
    return Changes(np.abs(signed, out=signed), regions)


def _known(fixed: np.ndarray, warped: np.ndarray, known: np.ndarray | None) -> np.ndarray:
    """Return where both images are known."""
    found = np.isfinite(warped)
    for more in (known, known_voxels(fixed)):
        if more is not None:
            found &= more
    return found


@dataclass(frozen=True, eq=False)
class _Brightness:
    """How bright the fixed image is expected to be.

    Attributes:
        knots: Brightness of the moving image between which the function is linear.
        factors: Of the columns of `_columns`.
        needed: By how much a changed image differs at each of the knots.
        deviation: Mean distance of the fixed image's brightness from its mean, all knots alike.
        explained: Share of that which is explained voxel by voxel; at most 1.
    """

    knots: np.ndarray
    factors: np.ndarray
    needed: np.ndarray
    deviation: float
    explained: float

    @classmethod
    def fitted(cls, fixed: np.ndarray, warped: np.ndarray, places: Places) -> "_Brightness | None":
        """Return what explains samples `(N,)` at places; None if an image is constant."""
        limits = [np.percentile(image, BULK) if image.size else (0.0, 0.0) for image in (fixed, warped)]
        if any(low == high for low, high in limits):
            return None
        (low, high), (first, last) = limits
        knots = np.linspace(first, last, KNOTS)
        nearest = _nearest(warped, knots)
        # Background is most of many images, and must not be all that is explained.
        usual = 1 / np.bincount(nearest, minlength=KNOTS)[nearest]
        columns, weights, least = _columns(warped, places, knots), usual, LEAST_SHARE * (high - low)
        for _round in range(ROUNDS):
            factors = _solve(columns, fixed, weights)
            left = np.abs(fixed - columns @ factors)
            spread = max(1.4826 * float(np.median(left)), least)
            weights = usual / (1 + (left / (2 * spread)) ** 2) ** 2
        deviation = float(np.average(np.abs(fixed - np.average(fixed, weights=usual)), weights=usual))
        explained = 1 - float(np.average(left, weights=usual)) / deviation
        spreads = np.zeros(KNOTS)
        for knot in np.unique(nearest):
            spreads[knot] = 1.4826 * np.median(left[nearest == knot])
        return cls(knots, factors, np.maximum(SPREADS * spreads, least), deviation, explained)

    def expect(self, warped: np.ndarray, places: Places) -> np.ndarray:
        """Return the brightness that a moving image lets expect at places that are broadcast to its shape."""
        hats, slow = self.factors[:KNOTS], self.factors[KNOTS:]
        expected = np.interp(warped, self.knots, hats)
        for end, before, beyond in _beyond_knots(warped, self.knots):
            expected += beyond * (hats[end] - hats[before])
        gain = sum(factor * column for factor, column in zip(slow, _slow(places), strict=True))
        return (expected + gain * _share(warped, self.knots)).astype(np.float32)

    def needed_at(self, warped: np.ndarray) -> np.ndarray:
        """Return by how much a changed image differs where the moving image is so bright."""
        return np.interp(warped, self.knots, self.needed).astype(np.float32)


def _nearest(warped: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Return the index of the knot that is closest to each brightness."""
    return np.rint(np.interp(warped, knots, np.arange(len(knots)))).astype(int)


def _columns(warped: np.ndarray, places: Places, knots: np.ndarray) -> np.ndarray:
    """Return what is combined linearly: brightness between knots, and a gain that varies over the image."""
    hats = [np.interp(warped, knots, unit) for unit in np.eye(len(knots))]
    for end, before, beyond in _beyond_knots(warped, knots):
        hats[end] += beyond
        hats[before] -= beyond
    share = _share(warped, knots)
    return np.stack([*hats, *(share * column for column in _slow(places))], axis=-1)


def _beyond_knots(warped: np.ndarray, knots: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield the knot at each end, the one before, and how far brightness lies beyond, in distances of the two.

    Beyond the bulk lies bone, or what is next to a coil: there the function goes on as it ended.
    """
    for end, before, beyond in ((0, 1, np.minimum(warped - knots[0], 0)), (-1, -2, np.maximum(warped - knots[-1], 0))):
        yield end, before, beyond / (knots[end] - knots[before])


def _slow(places: Places) -> list[np.ndarray]:
    """Return what varies slowly: places, from -1 to 1 along each axis, and their products."""
    return [*places, *(a * b for a, b in combinations_with_replacement(places, 2))]


def _share(warped: np.ndarray, knots: np.ndarray) -> np.ndarray:
    return (warped - knots[0]) / (knots[-1] - knots[0])


def _solve(columns: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return factors of least weighted squares; what is not determined, as across a slice, is 0."""
    weighted = columns * weights[:, None]
    return np.linalg.lstsq(weighted.T @ columns, weighted.T @ values, rcond=1e-9)[0]


@dataclass(frozen=True, eq=False)
class _ChangeSearch:
    """A pair that is searched slab by slab; parameters as of `find_changes`, but known is where both are."""

    fixed: np.ndarray
    warped: np.ndarray
    geometry: Geometry
    known: np.ndarray
    pause: Pause

    def radius(self, voxels: int, *, least: int = 0) -> list[int]:
        """Return so many voxels of the mean size as voxels along i, j, k."""
        steps = [step for size, step in zip(self.geometry.size, self.geometry.spacing, strict=True) if size > 1]
        mean = float(np.prod(steps)) ** (1 / max(1, len(steps)))
        return [
            max(least, round(voxels * mean / step)) if size > 1 else 0
            for size, step in zip(self.geometry.size, self.geometry.spacing, strict=True)
        ]

    def smoothed(self, part: slice) -> list[np.ndarray]:
        """Return a slab of both images without most of their noise; what is not known is the least that is."""
        radius = [min(1, step) for step in self.radius(NEAR)]
        known, found = self.known[part], []
        for image in (self.fixed, self.warped):
            self.pause()
            values = image[part].astype(np.float32)
            values[~known] = values[known].min() if known.any() else 0.0
            found.append(sitk.GetArrayFromImage(sitk.BoxMean(sitk.GetImageFromArray(values), radius)))
        return found

    def places(self, part: slice) -> Places:
        """Return where the voxels of a slab are along k, j, i, from -1 to 1, to be broadcast."""
        axes = [np.linspace(-1, 1, size) if size > 1 else np.zeros(1) for size in self.geometry.shape]
        return list(np.ix_(axes[0][part], *axes[1:]))

    def brightness(self) -> _Brightness | None:
        """Return how the brightness of the fixed image follows from that of the moving one."""
        step = max(1, int(np.count_nonzero(self.known)) // SAMPLES)
        taken: list[list[np.ndarray]] = []
        for slab in blocks(self.geometry.shape, SLAB_VOXELS):
            shape = self.known[slab].shape
            chosen = np.unravel_index(np.flatnonzero(self.known[slab])[::step], shape)
            values = [*self.smoothed(slab), *(np.broadcast_to(axis, shape) for axis in self.places(slab))]
            taken.append([value[chosen].astype(float) for value in values])
        self.pause()
        fixed, warped, *places = (np.concatenate(parts) for parts in zip(*taken, strict=True))
        return _Brightness.fitted(fixed, warped, places)

    def signed_certainty(self, brightness: _Brightness) -> tuple[np.ndarray, float]:
        """Return the certainty, negative where the fixed image is darker than expected, and the mean that is missed.

        The latter is over all brightnesses alike, as is the deviation that it is compared with.
        """
        result, sums = np.empty(self.geometry.shape, np.float32), np.zeros((2, KNOTS))
        # Smoothing, comparison and growth reach beyond the slab.
        reach = 1 + self.radius(FAR, least=1)[2] + self.radius(GROWTH, least=1)[2]
        for slab in blocks(self.geometry.shape, SLAB_VOXELS):
            low, high = max(0, slab.start - reach), min(self.geometry.shape[0], slab.stop + reach)
            own = slice(slab.start - low, slab.stop - low)
            signed, missed, warped = self._signed(slice(low, high), brightness)
            result[slab] = signed[own]
            known = self.known[slab]
            nearest = _nearest(warped[own][known], brightness.knots)
            sums += [np.bincount(nearest, values, KNOTS) for values in (missed[own][known], np.ones(nearest.shape))]
        occurs = sums[1] > 0
        return result, float((sums[0][occurs] / sums[1][occurs]).mean())

    def _signed(self, part: slice, brightness: _Brightness) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return for a slab the signed certainty, by how much content is missed, and the smooth moving image."""
        fixed, warped = self.smoothed(part)
        self.pause()
        expected, needed = brightness.expect(warped, self.places(part)), brightness.needed_at(warped)
        far, near = self.radius(FAR, least=1), self.radius(NEAR)
        # What lies close to the unknown may have its counterpart there.
        known = _eroded(self.known[part], [1 + step if step else 0 for step in far])
        difference, missed = fixed - expected, np.zeros_like(fixed)
        for radii in ((far, near), (near, far)):
            self.pause()
            there = _beyond(fixed, expected, radii[0])
            self.pause()
            here = _beyond(expected, fixed, radii[1])
            agree = (there > 0) & (here < 0) | (there < 0) & (here > 0)
            missed = np.maximum(missed, np.where(agree, np.minimum(np.abs(there), np.abs(here)), 0))
        missed[~known] = 0
        self.pause()
        grown = self._grown(missed, difference, needed) & self.known[part]
        amount = np.where(grown, np.maximum(missed, np.abs(difference)), missed) / needed
        return np.sign(difference) * amount**2 / (1 + amount**2), missed, warped

    def _grown(self, missed: np.ndarray, difference: np.ndarray, needed: np.ndarray) -> np.ndarray:
        """Return changes with what is around them and differs in the same way by half as much at least."""
        grown = missed >= needed
        step = self.radius(1, least=1)
        reach = self.radius(GROWTH, least=1)
        for sign in (-1, 1):
            same = sign * difference
            seeds = np.where((missed >= needed) & (same > 0), same, 0).astype(np.float32)
            if not seeds.any():
                continue
            near = _dilated(seeds, reach)
            allowed = (near > 0) & (same >= np.maximum(needed, 0.5 * near))
            part = seeds > 0
            for _step in range(GROWTH):
                part |= _dilated(part, step) & allowed
            grown |= part
        return grown


def _beyond(image: np.ndarray, other: np.ndarray, radius: list[int]) -> np.ndarray:
    """Return by how much an image is brighter (else negative: darker) than all of another within a radius (i, j, k)."""
    lowest, highest = -_dilated(-other, radius), _dilated(other, radius)
    return np.maximum(image - highest, 0) + np.minimum(image - lowest, 0)


def _dilated(array: np.ndarray, radius: list[int]) -> np.ndarray:
    """Return the largest value within a radius (i, j, k)."""
    for axis, steps in enumerate(reversed(radius)):
        source = np.moveaxis(array, axis, 0)
        array = array.copy()
        largest = np.moveaxis(array, axis, 0)
        for step in range(1, min(steps, len(source) - 1) + 1):
            np.maximum(largest[:-step], source[step:], out=largest[:-step])
            np.maximum(largest[step:], source[:-step], out=largest[step:])
    return array


def _eroded(mask: np.ndarray, radius: list[int]) -> np.ndarray:
    return ~_dilated(~mask, radius)


def _regions(signed: np.ndarray, geometry: Geometry) -> list[Change]:
    """Return the connected pieces that are sure, largest first; smaller ones are taken out of the map."""
    least = LEAST_PIXELS if geometry.is_flat else LEAST_VOXELS
    found = []
    for kind, sign in ((BRIGHTER, 1), (DARKER, -1)):
        sure = (sign * signed >= SURE).astype(np.uint8)
        if not sure.any():
            continue
        pieces = sitk.ConnectedComponent(sitk.GetImageFromArray(sure))
        kept = sitk.GetArrayFromImage(sitk.RelabelComponent(pieces, minimumObjectSize=least))
        signed[(sure > 0) & (kept == 0)] = 0
        found += _pieces(kept, kind, geometry) if kept.any() else []
    return sorted(found, key=lambda change: change.size, reverse=True)


def _pieces(numbers: np.ndarray, kind: str, geometry: Geometry) -> list[Change]:
    """Return the pieces of a label map `(k, j, i)`, numbered from 1 on; all in one pass, for there may be many."""
    voxels = np.nonzero(numbers)
    owner = numbers[voxels]
    counts = np.bincount(owner)[1:]
    centers = np.stack([np.bincount(owner, axis)[1:] for axis in voxels[::-1]], 1) / counts[:, None]
    ml, mm2 = (0.0, geometry.voxel_area) if geometry.is_flat else (geometry.voxel_volume / 1000, 0.0)
    places = zip(geometry.index_to_lps(centers).tolist(), counts.tolist(), strict=True)
    return [Change(tuple(center), ml * count, mm2 * count, kind) for center, count in places]
