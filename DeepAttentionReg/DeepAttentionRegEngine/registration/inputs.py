"""What a job reads."""

from dataclasses import dataclass

import numpy as np

from ..protocol import errors
from ..protocol.contract import MetricsJob, RegisterJob
from ..volume import images
from ..volume.geometry import Geometry
from .evaluation import Reference
from .preprocess import Source, on_grid


@dataclass(frozen=True)
class Inputs:
    """Everything a job reads."""

    fixed: Source
    moving: Source
    reference: Reference
    initial: np.ndarray


def load_inputs(job: RegisterJob) -> Inputs:
    """Read the files of a job."""
    fixed, moving = (
        _source(image, mask) for image, mask in ((job.fixed, job.fixed_mask), (job.moving, job.moving_mask))
    )
    if moving.geometry.is_flat and not fixed.geometry.is_flat:
        raise errors.EngineError(
            errors.INPUT_INVALID,
            f"The moving image is a single slice {moving.geometry.size}, the fixed one a volume {fixed.geometry.size}.",
            "Register two volumes, two slices, or use the slice as the fixed image.",
        )
    reference = load_reference(job, fixed.geometry)
    initial = np.eye(4) if job.initial_transform is None else images.read_linear_transform(job.initial_transform)
    return Inputs(fixed, moving, reference, initial)


def load_reference(job: RegisterJob | MetricsJob, geometry: Geometry) -> Reference:
    """Read what a job gives to score with; the fixed labels are brought onto `geometry`, the fixed grid."""
    moving = None if job.moving_labels is None else images.read_labels(job.moving_labels)
    return Reference(
        None if job.fixed_labels is None else _labels_on(job.fixed_labels, geometry),
        None if moving is None else Source(moving.array, moving.geometry),
        None if job.fixed_points is None else images.read_points(job.fixed_points),
        None if job.moving_points is None else images.read_points(job.moving_points),
    )


def _source(image: str, mask: str | None) -> Source:
    volume = images.read_volume(image)
    if mask is None:
        return Source(volume.array, volume.geometry)
    return Source(volume.array, volume.geometry, _labels_on(mask, volume.geometry))


def _labels_on(path: str, geometry: Geometry) -> np.ndarray:
    labels = images.read_labels(path)
    return on_grid(Source(labels.array, labels.geometry), geometry)
