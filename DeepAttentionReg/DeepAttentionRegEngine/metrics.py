"""Overlap, surface distance and landmark error: one definition each."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from .fields import transform_points
from .geometry import Geometry


def dice(first: np.ndarray, second: np.ndarray, labels: Iterable[int] | None = None) -> dict[int, float]:
    """Return the Dice overlap `2 |A and B| / (|A| + |B|)` of every label.

    Args:
        first: Label map, any shape.
        second: Label map of the same shape.
        labels: Labels to score; None takes all but 0 that occur in either.

    Returns:
        Dice by label; NaN for a label that occurs in neither.
    """
    if labels is None:
        labels = np.union1d(np.unique(first), np.unique(second)).tolist()
        labels = [label for label in labels if label != 0]
    scores = {}
    for label in labels:
        a, b = first == label, second == label
        total = int(a.sum()) + int(b.sum())
        scores[int(label)] = 2 * int((a & b).sum()) / total if total else math.nan
    return scores


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
    """Measure from boundary voxel to boundary voxel, centre to centre.

    A boundary voxel has a face neighbour outside its structure or lies at the border of the volume.

    Args:
        first: Binary `(k, j, i)`.
        second: Binary, same shape.
        geometry: Grid of both.
    """
    if not first.any() or not second.any():
        return SurfaceDistances(math.nan, math.nan)
    box = _bounding_box(first | second)
    a, b = _boundary(first[box]), _boundary(second[box])
    forward, backward = _distance_to(b, geometry)[a], _distance_to(a, geometry)[b]
    return SurfaceDistances(
        hd95_mm=float(max(np.percentile(forward, 95), np.percentile(backward, 95))),
        assd_mm=float((forward.sum() + backward.sum()) / (forward.size + backward.size)),
    )


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    box = []
    for axis in range(mask.ndim):
        occupied = np.flatnonzero(mask.any(tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return tuple(box)


def _boundary(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    inner = mask.copy()
    for axis in range(mask.ndim):
        if mask.shape[axis] == 1:  # a slice is not all boundary
            continue
        for shift in (0, 2):
            window = [slice(1, -1)] * mask.ndim
            window[axis] = slice(shift, shift + mask.shape[axis])
            inner &= padded[tuple(window)]
    return mask & ~inner


def _distance_to(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return the distance `(k, j, i)` in mm from every voxel to the nearest voxel of a mask."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(geometry.spacing)
    distance = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)
    return np.where(mask, 0.0, np.abs(sitk.GetArrayFromImage(distance)))


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
    """
    return np.linalg.norm(transform_points(displacement, geometry, fixed_lps) - moving_lps, axis=1)
