"""What a registration is given, from files, SimpleITK images or arrays."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..landmarks.curves import matched
from ..protocol import errors
from ..protocol.file_use import with_data
from ..volume import images, segments
from ..volume.geometry import Geometry
from ..volume.images import AnyImage
from ..volume.points import Markups
from ..volume.segments import AnySegments
from .belonging import require_belonging
from .evaluation import Reference
from .preprocess import Source, on_grid

AnyPoints = str | Path | np.ndarray
AnyLinear = str | Path | np.ndarray | sitk.Transform
DOUBTFUL_RATIO = 5.0  # of the longest sides: one may be in cm; a small part of a large examination is warned of too
IMPOSSIBLE_RATIO = 100.0  # one is in m or um


@dataclass(frozen=True)
class Inputs:
    """Everything that is registered or measured with, sentences on what may be wrong with it, and where it was read."""

    fixed: Source
    moving: Source
    reference: Reference
    initial: np.ndarray
    warnings: list[str]
    files: list[Path]


@dataclass(frozen=True)
class Given:
    """What may be given besides the two images; in pairs the fixed image's first, None for what is not given.

    Attributes:
        masks: Where the images drive the registration; label maps on any grid, above 0 inside.
        labels: Segmentations or label maps to measure with: same names, or same label values where there are none.
        points: Landmarks to measure with, in the same order: files, or `(N, 3)` LPS mm.
        initial: Linear map of fixed to moving points that comes first: a file, a SimpleITK transform or 4x4 LPS mm.
        compared: Whether the labels do nothing but measure, which takes those of both images.
    """

    masks: tuple[AnyImage | None, AnyImage | None] = (None, None)
    labels: tuple[AnySegments | None, AnySegments | None] = (None, None)
    points: tuple[AnyPoints | None, AnyPoints | None] = (None, None)
    initial: AnyLinear | None = None
    compared: bool = True


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
    require_belonging(reference, sources[0].geometry, sources[1].geometry, compared=given.compared)
    named = [fixed, moving, *given.masks, *given.labels, *given.points, given.initial]
    files = [part for item in named if isinstance(item, (str, Path)) for part in with_data(Path(item))]
    return Inputs(*sources, reference, initial, list(dict.fromkeys(warnings)), files)


def load_reference(given: Given, geometry: Geometry, warnings: list[str]) -> Reference:
    """Return what there is to measure with.

    Args:
        given: Labels and points.
        geometry: The fixed grid, onto which the fixed labels are brought.
        warnings: What the files leave open, and which segments have no partner, is added to it.

    Raises:
        EngineError: If something cannot be read, or no segments belong together.
    """
    fixed, moving = (None if labels is None else segments.as_segments(labels) for labels in given.labels)
    for found in (fixed, moving):
        warnings += () if found is None else found.notes
    if fixed is not None:
        own = fixed.geometry
        fixed = fixed.mapped(lambda layer: on_grid(Source(layer, own), geometry), geometry)
    here, there = (None if side is None else _points(side) for side in given.points)
    reference = Reference(fixed, moving, *_corresponding(here, there), _tolerances(here, there))
    warnings += reference.warnings
    return reference


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
    labels = segments.as_mask(mask)
    warnings += labels.notes
    return Source(volume.array, volume.geometry, on_grid(Source(labels.array, labels.geometry), volume.geometry))


def _corresponding(fixed: Markups | None, moving: Markups | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the landmarks of both images, of curves points that belong together."""
    if fixed is not None and moving is not None:
        return matched(fixed, moving)
    return None if fixed is None else fixed.points, None if moving is None else moving.points


def _tolerances(fixed: Markups | None, moving: Markups | None) -> np.ndarray | None:
    """Return by how much each pair of points may be missed, the larger one that is told of both; None if of none."""
    told = [side.tolerances for side in (fixed, moving) if side is not None and side.kind == "points"]
    known = [side for side in told if side is not None]
    if not known or len({len(side) for side in known}) > 1:
        return None
    return np.fmax.reduce(known)


def _points(points: AnyPoints) -> Markups:
    if isinstance(points, (str, Path)):
        return images.read_markups(points)
    try:
        found = np.asarray(points, dtype=float)
    except (ValueError, TypeError):
        found = np.empty(0)
    if found.ndim != 2 or found.shape[1] != 3 or not len(found) or not np.isfinite(found).all():
        raise errors.EngineError(
            errors.INPUT_INVALID, "The landmarks are no list of points.", "Give x, y and z of each in LPS mm."
        )
    return Markups(found)


def _linear(initial: AnyLinear | None) -> np.ndarray:
    if initial is None:
        return np.eye(4)
    if isinstance(initial, (str, Path)):
        return images.read_linear_transform(initial)
    return images.linear_matrix(initial, "The initial transform")
