"""A registration job from files to files."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import errors, fields, images
from .alignment import align
from .contract import METHOD_NONE, Event, MetricsJob, Progress, RegisterJob, Result
from .evaluation import Reference, linear_field, regularity, score
from .files import require_writable
from .geometry import Geometry
from .losses import local_ncc
from .networks import load_network
from .networks.base import ImagePair
from .preprocess import GridLimits, Source, WorkingPair, field_on_fixed, on_grid, prepare, warp_volume
from .refine import RefineSettings, refine, shrink
from .registry import Method, Variant, choose_variant, load_method
from .tensors import choose_device
from .warp import resize_displacement, warp

SIMILARITY_WINDOW = 7


@dataclass
class Reporter:
    """Where a job's progress goes and whence its cancellation comes; keeps the seconds of each stage."""

    emit: Callable[[Event], None]
    cancelled: Callable[[], bool]
    seconds: dict[str, float] = field(default_factory=dict)

    def step(self, stage: str, step: int = 0, of: int = 0, message: str = "", file: str | None = None) -> None:
        """Report progress.

        Raises:
            EngineError: If the job was cancelled.
        """
        if self.cancelled():
            raise errors.EngineError(errors.CANCELLED, "The registration was canceled.")
        self.emit(Progress(stage, step, of, message, file))

    @contextmanager
    def stage(self, name: str, message: str) -> Iterator[None]:
        """Announce a stage and time it."""
        self.step(name, message=message)
        started = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - started, 3)


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


def similarity(pair: WorkingPair, displacement: Tensor) -> float:
    """Return the local correlation of the pair under a displacement, in [0, 1]."""
    return float(local_ncc(warp(pair.moving, displacement), pair.fixed, SIMILARITY_WINDOW, pair.weight))


@dataclass
class Registration:
    """A job under way: the displacement so far, how to refine it if it is trusted, and what to tell about it."""

    job: RegisterJob
    inputs: Inputs
    pair: WorkingPair
    reporter: Reporter
    displacement: Tensor
    trusted: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    created: list[Path] = field(default_factory=list)

    @torch.no_grad()
    def run_network(self, network_voxels: int, dimensions: int) -> None:
        """Apply the method's recursions; a network that makes things worse than the alignment alone is not used."""
        job, pair = self.job, self.pair
        method = load_method(job.method)
        variant = choose_variant(method, dimensions, job.weights)
        fitting = self._fits(variant)
        network = load_network(method.architecture, variant).to(pair.fixed.device)
        self.values["weights"] = variant.weights
        spatial = tuple(pair.fixed.shape[2:])
        factor = max(1.0, (math.prod(spatial) / network_voxels) ** (1 / dimensions))
        size = tuple(max(int(method.grid["minimum_size"]), round(n / factor)) for n in spatial)
        fixed, moving = shrink(pair.fixed, size), shrink(pair.moving, size)
        similarities = [similarity(pair, self.displacement)]
        self.reporter.step("recursion", 0, job.recursions, "Running the network.")
        displacement = self.displacement
        for index, state in enumerate(network.recurse(ImagePair(fixed, moving), job.recursions), start=1):
            displacement = resize_displacement(state.displacement, spatial)
            similarities.append(similarity(pair, displacement))
            self.reporter.step(
                "recursion",
                index,
                job.recursions,
                f"Recursion {index} of {job.recursions}.",
                self._keep(displacement, index),
            )
        self.values.update(similarity=similarities, best_recursion=int(np.nanargmax(similarities)))
        if not similarities[-1] >= similarities[0]:  # written so that it holds for a broken field, not a number, too
            self.warnings.append(
                "The network made the volumes less similar, so its deformation was left out; "
                "these weights may not suit the anatomy or modality."
            )
        else:
            self.displacement = displacement
            self.trusted = variant.refinement if fitting else {}

    def _fits(self, variant: Variant) -> bool:
        """Return whether the weights were trained on fields of view of this size; warn if not."""
        grid = self.inputs.fixed.geometry
        extent = max(n * spacing for n, spacing in zip(grid.size, grid.spacing, strict=True))
        low, high = variant.extent_mm
        if not low <= extent <= high:
            self.warnings.append(
                f"The weights {variant.weights} were trained on fields of view of {low:g} to {high:g} mm, this one has "
                f"{extent:.0f} mm; do not rely on the network alone."
            )
        return low <= extent <= high

    def _keep(self, displacement: Tensor, index: int) -> str | None:
        if self.job.output_recursions is None:
            return None
        path = Path(self.job.output_recursions) / f"recursion_{index}.nrrd"
        for folder in reversed([path.parent, *path.parent.parents]):
            self._will_create(folder)
        with suppress(OSError):  # a missing folder is reported when writing
            path.parent.mkdir(parents=True, exist_ok=True)
        fixed = self.inputs.fixed.geometry
        images.write_displacement(self._will_create(path), field_on_fixed(displacement, self.pair, fixed), fixed)
        return str(path)

    def _will_create(self, path: str | Path) -> str:
        """Note a file or folder that is about to be made, unless it is there already."""
        if not Path(path).exists():
            self.created.append(Path(path))
        return str(path)

    def discard(self) -> None:
        """Remove what the job has made so far."""
        for path in reversed(self.created):
            with suppress(OSError):  # never written, or a folder in which others have put something meanwhile
                path.rmdir() if path.is_dir() else path.unlink()

    def run_refinement(self) -> None:
        """Improve the displacement on this pair."""
        settings = RefineSettings(
            steps=self.job.refinement_steps, similarity=self.job.similarity, velocity=self.job.velocity, **self.trusted
        )
        settings = replace(settings, smoothness=settings.smoothness * self.job.smoothness)

        def on_step(step: int, of: int, loss: float) -> None:
            self.reporter.step("refine", step, of, f"Refinement, loss {loss:.4f}.")

        self.displacement = refine(
            self.pair.fixed, self.pair.moving, self.displacement, settings, weight=self.pair.weight, on_step=on_step
        )
        self.values["refined_similarity"] = similarity(self.pair, self.displacement)

    def evaluate(self, displacement_lps_mm: np.ndarray) -> None:
        """Score the field, and for comparison the volumes as they were and after the linear alignment."""
        fixed, reference = self.inputs.fixed.geometry, self.inputs.reference
        device = self.pair.fixed.device
        self.values.update(regularity(displacement_lps_mm, fixed))
        for name, matrix in (("before", self.inputs.initial), ("aligned", self.pair.alignment)):
            # A field of the whole grid is made only if something is measured with it.
            self.values[name] = (
                {} if reference.is_empty else score(linear_field(matrix, fixed), fixed, reference, device)
            )
        self.values["after"] = score(displacement_lps_mm, fixed, reference, device)
        folds = self.values["jacobian"]["folds"]
        if folds:
            self.warnings.append(f"The deformation folds in {folds} voxels; points there have no valid inverse.")

    def write(self, displacement_lps_mm: np.ndarray) -> None:
        """Write what the job asks for."""
        job, fixed, device = self.job, self.inputs.fixed.geometry, self.pair.fixed.device
        if job.output_transform is not None:
            images.write_displacement(self._will_create(job.output_transform), displacement_lps_mm, fixed)
            self.files["transform"] = job.output_transform
        if job.output_warped is not None:
            warped = warp_volume(self.inputs.moving, displacement_lps_mm, fixed, device)
            images.write_volume(self._will_create(job.output_warped), warped, fixed)
            self.files["warped"] = job.output_warped
        if job.output_jacobian is not None:
            jacobian = fields.jacobian_determinant(displacement_lps_mm, fixed)
            images.write_volume(self._will_create(job.output_jacobian), jacobian, fixed)
            self.files["jacobian"] = job.output_jacobian
        labels = self.inputs.reference.moving_labels
        if job.output_warped_labels is not None and labels is not None:
            warped = warp_volume(labels, displacement_lps_mm, fixed, device, nearest=True)
            images.write_volume(self._will_create(job.output_warped_labels), warped, fixed)
            self.files["warped_labels"] = job.output_warped_labels


def register(job: RegisterJob, reporter: Reporter) -> Result:
    """Run a registration job.

    Args:
        job: What to do.
        reporter: Receives progress; polled for cancellation.

    Returns:
        Written files, numbers and warnings.

    Raises:
        EngineError: With a sentence for the user; no file that the job has made is left.
    """
    require_outputs(job)
    torch.manual_seed(job.seed)
    device = choose_device(job.device)
    method = None if job.method == METHOD_NONE else load_method(job.method)
    with reporter.stage("load", "Reading the volumes."):
        inputs = load_inputs(job)
    dimensions = 2 if inputs.fixed.geometry.is_flat else 3
    limits = GridLimits() if method is None else GridLimits(method.grid["minimum_size"], method.grid["maximum_voxels"])
    with reporter.stage("align", "Aligning the volumes."):
        matrix = align(inputs.fixed, inputs.moving, job.alignment, inputs.initial, job.seed, device)
        pair = prepare(inputs.fixed, inputs.moving, matrix, limits, device)
    zero = torch.zeros(1, dimensions, *pair.fixed.shape[2:], device=device)
    state = Registration(job, inputs, pair, reporter, zero)
    state.values.update(method=job.method, device=str(device), alignment=matrix.ravel().tolist())
    try:
        _deform(state, method)
    except BaseException:
        state.discard()
        raise
    state.values["seconds"] = reporter.seconds
    return Result(state.files, state.values, state.warnings)


def _deform(state: Registration, method: Method | None) -> None:
    """Do everything after the linear alignment."""
    reporter, fixed = state.reporter, state.inputs.fixed.geometry
    if method is not None:
        with reporter.stage("recursion", "Loading the network."):
            state.run_network(method.grid["network_voxels"], 2 if fixed.is_flat else 3)
    if state.job.refinement_steps:
        with reporter.stage("refine", "Refining the deformation on this pair."):
            state.run_refinement()
    displacement_lps_mm = field_on_fixed(state.displacement, state.pair, fixed)
    with reporter.stage("evaluate", "Measuring the deformation."):
        state.evaluate(displacement_lps_mm)
    with reporter.stage("write", "Writing the results."):
        state.write(displacement_lps_mm)


def require_outputs(job: RegisterJob) -> None:
    """Check names and folders of the outputs, before hours of work rather than after.

    Raises:
        EngineError: Naming the file that could not be written.
    """
    if job.output_warped_labels is not None and job.moving_labels is None:
        raise errors.EngineError(
            errors.INPUT_MISSING,
            f"There are no moving labels to write as {job.output_warped_labels}.",
            "Give them too.",
        )
    for path in (job.output_warped, job.output_jacobian, job.output_warped_labels):
        if path is not None:
            require_writable(path, images.IMAGE_SUFFIXES)
    if job.output_transform is not None:
        require_writable(job.output_transform, (*images.IMAGE_SUFFIXES, *images.FIELD_TRANSFORM_SUFFIXES))
