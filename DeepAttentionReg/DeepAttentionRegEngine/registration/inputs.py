"""What a registration is given, from files, SimpleITK images or arrays."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..protocol import errors
from ..volume import images
from ..volume.geometry import Geometry
from ..volume.images import AnyImage
from .belonging import require_belonging
from .evaluation import Reference
from .preprocess import Source, on_grid

AnyPoints = str | Path | np.ndarray
AnyLinear = str | Path | np.ndarray | sitk.Transform
DOUBTFUL_RATIO = 5.0  # of the longest sides: one may be in cm; a small part of a large examination is warned of too
IMPOSSIBLE_RATIO = 100.0  # one is in m or um


@dataclass(frozen=True)
class Inputs:
    """Everything that is registered or measured with, and sentences on what may be wrong with it."""

    fixed: Source
    moving: Source
    reference: Reference
    initial: np.ndarray
    warnings: list[str]


@dataclass(frozen=True)
class Given:
    """What may be given besides the two images; in pairs the fixed image's first, None for what is not given.

    Attributes:
        masks: Where the images drive the registration; label maps on any grid, above 0 inside.
        labels: Label maps to measure with, same label values.
        points: Landmarks to measure with, in the same order: files, or `(N, 3)` LPS mm.
        initial: Linear map of fixed to moving points that comes first: a file, a SimpleITK transform or 4x4 LPS mm.
    """

    masks: tuple[AnyImage | None, AnyImage | None] = (None, None)
    labels: tuple[AnyImage | None, AnyImage | None] = (None, None)
    points: tuple[AnyPoints | None, AnyPoints | None] = (None, None)
    initial: AnyLinear | None = None


def load_inputs(fixed: AnyImage, moving: AnyImage, given: Given) -> Inputs:
    """Read what is in files, and check that images, labels and landmarks go together.

    Raises:
        EngineError: If something cannot be read or used.
    """
    warnings: list[str] = []
    sources = _source(fixed, given.masks[0], warnings), _source(moving, given.masks[1], warnings)
    sizes = [source.geometry.size for source in sources]
    if sources[1].geometry.is_flat and not sources[0].geometry.is_flat:
        raise errors.EngineError(
            errors.INPUT_INVALID,
            f"The moving image is a single slice {sizes[1]}, the fixed one a volume {sizes[0]}.",
            "Register two volumes, two slices, or use the slice as the fixed image.",
        )
    initial = _linear(given.initial)
    warnings += _compare_sizes(sources[0].geometry, sources[1].geometry, initial)
    reference = load_reference(given, sources[0].geometry, warnings)
    require_belonging(reference, sources[0].geometry, sources[1].geometry)
    return Inputs(*sources, reference, initial, list(dict.fromkeys(warnings)))


def load_reference(given: Given, geometry: Geometry, warnings: list[str]) -> Reference:
    """Return what there is to measure with.

    Args:
        given: Labels and points.
        geometry: The fixed grid, onto which the fixed labels are brought.
        warnings: What the files leave open is added to it.
    """
    fixed, moving = given.labels
    labels = None if moving is None else images.as_labels(moving)
    warnings += () if labels is None else labels.notes
    return Reference(
        None if fixed is None else _labels_on(fixed, geometry, warnings),
        None if labels is None else Source(labels.array, labels.geometry),
        _points(given.points[0]),
        _points(given.points[1]),
    )


def _compare_sizes(fixed: Geometry, moving: Geometry, initial: np.ndarray) -> list[str]:
    """Return a sentence if the longest sides of the images, after the initial transform, are far from each other."""
    scale = abs(float(np.linalg.det(initial[:3, :3]))) ** (1 / 3)
    ratio = max(moving.extent_mm) / (max(fixed.extent_mm) * scale)
    ratio = max(ratio, 1 / ratio)
    if ratio < DOUBTFUL_RATIO:
        return []
    sizes = [" x ".join(f"{side:.3g}" for side in grid.extent_mm) for grid in (fixed, moving)]
    message = f"The fixed image measures {sizes[0]} mm, the moving one {sizes[1]} mm"
    if ratio < IMPOSSIBLE_RATIO:
        return [f"{message}; check that the voxel sizes of both are in mm."]
    raise errors.EngineError(
        errors.INPUT_INVALID,
        f"{message}, so they cannot show the same.",
        "Correct the voxel size of the one that is in another unit, in Slicer's module Volumes or where it comes from.",
    )


def _source(image: AnyImage, mask: AnyImage | None, warnings: list[str]) -> Source:
    volume = images.as_volume(image)
    warnings += volume.notes
    if mask is None:
        return Source(volume.array, volume.geometry)
    return Source(volume.array, volume.geometry, _labels_on(mask, volume.geometry, warnings))


def _labels_on(image: AnyImage, geometry: Geometry, warnings: list[str]) -> np.ndarray:
    labels = images.as_labels(image)
    warnings += labels.notes
    return on_grid(Source(labels.array, labels.geometry), geometry)


def _points(points: AnyPoints | None) -> np.ndarray | None:
    if points is None or isinstance(points, (str, Path)):
        return None if points is None else images.read_points(points)
    try:
        found = np.asarray(points, dtype=float)
    except (ValueError, TypeError):
        found = np.empty(0)
    if found.ndim != 2 or found.shape[1] != 3 or not len(found) or not np.isfinite(found).all():
        raise errors.EngineError(
            errors.INPUT_INVALID, "The landmarks are no list of points.", "Give x, y and z of each in LPS mm."
        )
    return found


def _linear(initial: AnyLinear | None) -> np.ndarray:
    if initial is None:
        return np.eye(4)
    if isinstance(initial, (str, Path)):
        return images.read_linear_transform(initial)
    return images.linear_matrix(initial, "The initial transform")
