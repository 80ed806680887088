"""Whether what is given with two images belongs to them, and what users must know of the images themselves."""

import numpy as np
import torch

from ..protocol import errors
from ..volume.geometry import Geometry
from ..volume.segments import Segments
from .deformation import StoredDeformation
from .evaluation import Reference
from .preprocess import Source, on_grid, warp_volume


def require_belonging(
    reference: Reference, fixed: Geometry, moving: Geometry | None = None, *, compared: bool = True
) -> None:
    """Refuse labels and landmarks of which nothing lies in their image, and labels with nothing to compare them with.

    Moving labels alone are welcome, as something to warp.

    Args:
        reference: What is given.
        fixed: The fixed grid, or that of a field if there is no fixed image.
        moving: The moving grid; None where there is a field but no moving image.
        compared: Whether labels are of no use without those of the moving image.

    Raises:
        EngineError: Saying what lies elsewhere or is missing.
    """
    labels = reference.moving_labels
    if reference.fixed_labels is not None:
        _require_labels(_marked_within(reference.fixed_labels, fixed), "fixed")
        if labels is None and compared:
            raise errors.EngineError(
                errors.INPUT_MISSING,
                "The fixed labels have no moving labels to be compared with.",
                "Give those of the moving image too, or leave the fixed ones out.",
            )
    if labels is not None:
        marked = Source(labels.marked, labels.geometry)
        _require_labels(marked.array if moving is None else on_grid(marked, moving), "moving")
    for points, geometry, side in _landmarks(reference, fixed, moving):
        if not _inside(points, geometry).any():
            raise errors.EngineError(
                errors.INPUT_INVALID,
                f"All {len(points)} {side} landmarks lie outside of the {side} image.",
                "Check that they belong to this image, and whether their coordinates are LPS or RAS.",
            )


def _marked_within(labels: Segments, geometry: Geometry) -> np.ndarray:
    """Return what segments mark; where they are on another grid than this one, whether each voxel lies in it."""
    if labels.geometry.matches(geometry):
        return labels.marked
    return _inside(labels.geometry.index_to_lps(np.argwhere(labels.marked)[:, ::-1]), geometry)


def _require_labels(labels: np.ndarray, side: str) -> None:
    if not labels.any():
        raise errors.EngineError(
            errors.INPUT_INVALID,
            f"The {side} labels mark no voxel of the {side} image.",
            "Check that they belong to this image and are not empty.",
        )


def _landmarks(
    reference: Reference, fixed: Geometry, moving: Geometry | None
) -> list[tuple[np.ndarray, Geometry, str]]:
    given = (
        (reference.fixed_points_lps, fixed, "fixed"),
        (reference.moving_points_lps, moving, "moving"),
    )
    return [(points, grid, side) for points, grid, side in given if points is not None and grid is not None]


def _inside(points_lps: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return which points `(N, 3)` lie in a field of view, or a voxel off; a slice's own is of no matter across it."""
    index, size = geometry.lps_to_index(points_lps), np.array(geometry.size)
    return ((index >= -1) & (index <= size) | (size == 1)).all(1)


def doubts(fixed: Source, moving: Source, reference: Reference) -> list[str]:
    """Return a sentence each on voxels without data, unless a mask decides on them, and on landmarks outside."""
    found = []
    for source, side in ((fixed, "fixed"), (moving, "moving")):
        if source.mask is None and source.known is not None:
            found.append(_on_unknown(source.array[~source.known], source.array.size, side))
    for points, geometry, side in _landmarks(reference, fixed.geometry, moving.geometry):
        outside = int((~_inside(points, geometry)).sum())
        if outside:
            found.append(f"{outside} of {len(points)} {side} landmarks lie outside of the {side} image.")
    return found


def _on_unknown(values: np.ndarray, size: int, side: str) -> str:
    finite = values[np.isfinite(values)]
    padding = f"{max(float(finite.min()), float(finite.max()), key=abs):g}" if finite.size else "NaN"
    return (
        f"{100 * values.size / size:.2g} % of the voxels of the {side} image hold no data ({padding}) and do not "
        "count; a mask of that image would decide instead."
    )


def require_reached(
    moving: Source, deformation: StoredDeformation, fixed: Geometry, device: torch.device, *, whole: bool
) -> None:
    """Refuse a deformation that leads nowhere into a volume, of which a warped volume would be empty.

    Args:
        moving: The volume.
        deformation: On any grid.
        fixed: The fixed grid.
        device: Where to work.
        whole: Whether any voxel will do, as of an image; else only labels, which are not 0.

    Raises:
        EngineError: If no such voxel is reached.
    """
    wanted = Source(np.ones(moving.array.shape, np.uint8) if whole else moving.array, moving.geometry)
    require_something(warp_volume(wanted, deformation, fixed, device, nearest=True))


def require_something(warped: np.ndarray) -> None:
    """Refuse labels, or what shows where a volume was reached, that are 0 everywhere after they were warped.

    Raises:
        EngineError: If they are.
    """
    if not warped.any():
        raise errors.EngineError(
            errors.NO_OVERLAP,
            "The transform leads nowhere into what is to be warped, so the result would be empty.",
            "Check that both belong together, and which image was the fixed one.",
        )
