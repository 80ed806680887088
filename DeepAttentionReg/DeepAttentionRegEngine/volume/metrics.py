"""Overlap, surface distance, volume and landmark error: one definition each."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ..protocol import errors
from .fields import transform_points
from .geometry import Geometry
from .intensity import count_values

AGREEMENT, MISSED, SURPLUS = 1, 2, 3
VOXELS_FOR_THREADS = 50_000  # below, starting threads takes longer than the distances do
PAIRS_AT_ONCE = 200_000  # up to so many pairs of voxels, the distance of each is found sooner than a distance map


def dice(first: np.ndarray, second: np.ndarray, labels: Iterable[int] | None = None) -> dict[int, float]:
    """Return the Dice overlap `2 |A and B| / (|A| + |B|)` of every label.

    Args:
        first: Label map of whole numbers, any shape.
        second: Label map of the same shape.
        labels: Labels to score; None takes all but 0 that occur in either.

    Returns:
        Dice by label; NaN for a label that occurs in neither.

    Raises:
        EngineError: If the shapes differ.

    Examples:
        >>> dice(np.array([1, 1, 2, 0]), np.array([1, 0, 2, 2]))
        {1: 0.6666666666666666, 2: 0.6666666666666666}
    """
    if first.shape != second.shape:
        raise errors.EngineError(
            errors.INPUT_INVALID,
            f"The label maps have {first.shape} and {second.shape} voxels (k, j, i).",
            "Compare label maps on the same grid.",
        )
    shared, *sizes = count_values(first, first == second), count_values(first), count_values(second)
    if labels is None:
        labels = sorted({*sizes[0], *sizes[1]} - {0})
    totals = {int(label): sizes[0].get(label, 0) + sizes[1].get(label, 0) for label in labels}
    return {label: _dice(shared.get(label, 0), total) for label, total in totals.items()}


def _dice(shared: int, total: int) -> float:
    """Return the overlap of two structures that share voxels and have so many together."""
    return 2 * shared / total if total else math.nan


def regions(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Return where two structures agree: `AGREEMENT`, `MISSED` (fixed alone), `SURPLUS` (moving alone), else 0; uint8.

    Args:
        fixed: Binary, any shape.
        moving: Binary, same shape.
    """
    kinds = np.array([0, MISSED, SURPLUS, AGREEMENT], np.uint8)
    return kinds[(fixed > 0) + 2 * (moving > 0).astype(np.uint8)]


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances between two surfaces in mm; NaN if either is empty.

    Attributes:
        hd95_mm: The larger of the two directed 95th percentiles.
        assd_mm: Average symmetric surface distance, all surface voxels pooled.
    """

    hd95_mm: float
    assd_mm: float


def surface_distances(first: np.ndarray, second: np.ndarray, geometry: Geometry) -> SurfaceDistances:
    """Measure from boundary voxel to boundary voxel, center to center.

    A boundary voxel has a face neighbor outside its structure or lies at the border of the volume; in a single slice
    only neighbors within the slice count.

    Args:
        first: Binary `(k, j, i)`.
        second: Binary, same shape.
        geometry: Grid of both.

    Raises:
        EngineError: If a structure and the grid differ in size.
    """
    for structure in (first, second):
        geometry.require_shape(structure.shape, "structure")
    return surface_distances_by_label(first > 0, second > 0, geometry, (1,))[1]


def surface_distances_by_label(
    first: np.ndarray, second: np.ndarray, geometry: Geometry, labels: Iterable[int]
) -> dict[int, SurfaceDistances]:
    """Measure each label as `surface_distances` does, looking through the maps once however many labels there are.

    Args:
        first: Label map `(k, j, i)`.
        second: Label map, same shape.
        geometry: Grid of both.
        labels: Labels to measure, none of them 0.

    Raises:
        EngineError: If a map and the grid differ in size.
    """
    for label_map in (first, second):
        geometry.require_shape(label_map.shape, "label map")
    surfaces, others = _surfaces(first), _surfaces(second)
    nothing = SurfaceDistances(math.nan, math.nan)
    return {
        label: _between(surfaces[label], others[label], geometry) if label in surfaces and label in others else nothing
        for label in labels
    }


def _surfaces(labels: np.ndarray) -> dict[int, np.ndarray]:
    """Return the boundary voxels `(N, 3)`, indices k, j, i, of every label but 0 of a map `(k, j, i)`."""
    boundary = np.zeros(labels.shape, bool)
    for axis, size in enumerate(labels.shape):
        if size == 1:
            continue
        here, across = np.moveaxis(boundary, axis, 0), np.moveaxis(labels, axis, 0)
        differs = across[1:] != across[:-1]
        here[1:] |= differs
        here[:-1] |= differs
        here[[0, -1]] = True
    voxels = np.argwhere(boundary & (labels != 0))
    values = labels[tuple(voxels.T)]
    order = np.argsort(values, kind="stable")
    found, starts = np.unique(values[order], return_index=True)
    return dict(zip(found.tolist(), np.split(voxels[order], starts)[1:], strict=True))


def _between(first: np.ndarray, second: np.ndarray, geometry: Geometry) -> SurfaceDistances:
    """Measure between two surfaces of voxels `(N, 3)`, indices k, j, i, neither of them empty."""
    each_to_each = len(first) * len(second) <= PAIRS_AT_ONCE
    forward, backward = (_nearest_of_all if each_to_each else _nearest_by_maps)(first, second, geometry)
    return SurfaceDistances(
        hd95_mm=float(max(np.percentile(forward, 95), np.percentile(backward, 95))),
        assd_mm=float((forward.sum(dtype=float) + backward.sum(dtype=float)) / (forward.size + backward.size)),
    )


def _nearest_of_all(first: np.ndarray, second: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance in mm of every voxel to the nearest of the other surface, from all pairs of voxels."""
    squared = np.zeros((len(first), len(second)))
    for axis, spacing in enumerate(geometry.spacing[::-1]):
        squared += (spacing * np.subtract.outer(first[:, axis], second[:, axis])) ** 2
    return np.sqrt(squared.min(1)), np.sqrt(squared.min(0))


def _nearest_by_maps(first: np.ndarray, second: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance in mm of every voxel to the nearest of the other surface, from distance maps of their box."""
    corner = np.minimum(first.min(0), second.min(0))
    box = np.maximum(first.max(0), second.max(0)) - corner + 1
    found = []
    for voxels, surface in ((first, second), (second, first)):
        mask = np.zeros(box, np.uint8)
        mask[tuple((surface - corner).T)] = 1
        places = tuple((voxels - corner).T)
        distance = _distance_to(mask, geometry)
        # Inside, the map tells the distance to the background.
        found.append(np.where(mask[places], 0, sitk.GetArrayViewFromImage(distance)[places]))
    return found[0], found[1]


def _distance_to(mask: np.ndarray, geometry: Geometry) -> sitk.Image:
    """Return the distance in mm from every voxel outside of a mask `(k, j, i)` on a part of the grid to the mask."""
    image = sitk.GetImageFromArray(mask)
    image.SetSpacing(geometry.spacing)
    distance = sitk.SignedMaurerDistanceMapImageFilter()
    distance.InsideIsPositiveOff()
    distance.SquaredDistanceOff()
    distance.UseImageSpacingOn()
    if mask.size < VOXELS_FOR_THREADS:
        distance.SetNumberOfWorkUnits(1)
    return distance.Execute(image)


@dataclass(frozen=True)
class Agreement:
    """How well a structure agrees with another one; NaN for what cannot be measured.

    Attributes:
        dice: Dice overlap.
        hd95_mm: As in `SurfaceDistances`.
        assd_mm: As in `SurfaceDistances`.
        volume_ml: Volume of the second structure in ml.
    """

    dice: float
    hd95_mm: float
    assd_mm: float
    volume_ml: float


def agreement(fixed: np.ndarray, moving: np.ndarray, geometry: Geometry) -> Agreement:
    """Score one structure, binary `(k, j, i)`, against another one on the same grid.

    Raises:
        EngineError: If a structure and the grid differ in size.
    """
    distances = surface_distances(fixed, moving, geometry)
    fixed, moving = fixed > 0, moving > 0
    shared, *sizes = (int(np.count_nonzero(part)) for part in (fixed & moving, fixed, moving))
    return Agreement(
        dice=_dice(shared, sum(sizes)),
        hd95_mm=distances.hd95_mm,
        assd_mm=distances.assd_mm,
        volume_ml=volume_ml(moving, geometry.voxel_volume),
    )


def volume_ml(structure: np.ndarray, voxel_volume: float) -> float:
    """Return the volume of a binary structure in ml, from the volume of a voxel in cubic mm."""
    return int(np.count_nonzero(structure)) * voxel_volume / 1000


def change_percent(before: float, after: float) -> float:
    """Return by how many percent a quantity has grown (negative: shrunk); NaN if it was 0."""
    return 100 * (after / before - 1) if before else math.nan


def target_registration_error(
    fixed_lps: np.ndarray, moving_lps: np.ndarray, displacement: np.ndarray, geometry: Geometry
) -> np.ndarray:
    """Return the distance of each mapped fixed landmark from its moving landmark.

    Args:
        fixed_lps: `(N, 3)` LPS mm.
        moving_lps: `(N, 3)` LPS mm, same order.
        displacement: Field `(k, j, i, 3)` LPS mm on the fixed grid; no inversion is needed.
        geometry: The fixed grid.

    Returns:
        `(N,)` mm.

    Raises:
        EngineError: If the numbers of landmarks differ.
    """
    return identity_error(transform_points(displacement, geometry, fixed_lps), moving_lps)


def identity_error(fixed_lps: np.ndarray, moving_lps: np.ndarray) -> np.ndarray:
    """Return the distances `(N,)` in mm between landmarks `(N, 3)` LPS mm as they are.

    Raises:
        EngineError: If the numbers of landmarks differ.
    """
    if len(fixed_lps) != len(moving_lps):
        raise errors.EngineError(
            errors.INPUT_INVALID,
            f"There are {len(fixed_lps)} fixed but {len(moving_lps)} moving landmarks.",
            "Give the same landmarks in the same order in both lists.",
        )
    return np.linalg.norm(np.asarray(fixed_lps, dtype=float) - moving_lps, axis=1)
