"""What a registration is given, from files, SimpleITK images or arrays."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import SimpleITK as sitk

from ..protocol import errors
from ..volume import images
from ..volume.geometry import Geometry
from ..volume.images import AnyImage
from .evaluation import Reference
from .preprocess import Source, on_grid

AnyPoints = str | Path | np.ndarray
AnyLinear = str | Path | np.ndarray | sitk.Transform


@dataclass(frozen=True)
class Inputs:
    """Everything that is registered or measured with."""

    fixed: Source
    moving: Source
    reference: Reference
    initial: np.ndarray


class Given(TypedDict, total=False):
    """What may be given besides the two images.

    Attributes:
        fixed_mask: Where the fixed image drives the registration; label map on any grid, above 0 inside.
        moving_mask: Where the moving image does.
        fixed_labels: Label map of the fixed image, to measure with.
        moving_labels: Label map of the moving image, same label values.
        fixed_points: Landmarks on the fixed image: a file, or `(N, 3)` LPS mm.
        moving_points: The same landmarks on the moving image, in the same order.
        initial: Linear map of fixed to moving points that comes first: a file, a SimpleITK transform or 4x4 LPS mm.
    """

    fixed_mask: AnyImage | None
    moving_mask: AnyImage | None
    fixed_labels: AnyImage | None
    moving_labels: AnyImage | None
    fixed_points: AnyPoints | None
    moving_points: AnyPoints | None
    initial: AnyLinear | None


def load_inputs(fixed: AnyImage, moving: AnyImage, given: Given) -> Inputs:
    """Read what is in files, and check that the two images go together.

    Raises:
        EngineError: If something cannot be read or used.
    """
    sources = _source(fixed, given.get("fixed_mask")), _source(moving, given.get("moving_mask"))
    sizes = [source.geometry.size for source in sources]
    if sources[1].geometry.is_flat and not sources[0].geometry.is_flat:
        raise errors.EngineError(
            errors.INPUT_INVALID,
            f"The moving image is a single slice {sizes[1]}, the fixed one a volume {sizes[0]}.",
            "Register two volumes, two slices, or use the slice as the fixed image.",
        )
    return Inputs(*sources, load_reference(given, sources[0].geometry), _linear(given.get("initial")))


def load_reference(given: Given, geometry: Geometry) -> Reference:
    """Return what there is to measure with; the fixed labels are brought onto `geometry`, the fixed grid."""
    fixed, moving = given.get("fixed_labels"), given.get("moving_labels")
    labels = None if moving is None else images.as_labels(moving)
    return Reference(
        None if fixed is None else _labels_on(fixed, geometry),
        None if labels is None else Source(labels.array, labels.geometry),
        _points(given.get("fixed_points")),
        _points(given.get("moving_points")),
    )


def _source(image: AnyImage, mask: AnyImage | None) -> Source:
    volume = images.as_volume(image)
    if mask is None:
        return Source(volume.array, volume.geometry)
    return Source(volume.array, volume.geometry, _labels_on(mask, volume.geometry))


def _labels_on(image: AnyImage, geometry: Geometry) -> np.ndarray:
    labels = images.as_labels(image)
    return on_grid(Source(labels.array, labels.geometry), geometry)


def _points(points: AnyPoints | None) -> np.ndarray | None:
    return images.read_points(points) if isinstance(points, (str, Path)) else points


def _linear(initial: AnyLinear | None) -> np.ndarray:
    if initial is None:
        return np.eye(4)
    if isinstance(initial, (str, Path)):
        return images.read_linear_transform(initial)
    return images.linear_matrix(initial, "The initial transform")
