"""A registration job from files to files."""

import math
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import errors, fields, images
from .alignment import align
from .contract import METHOD_NONE, RegisterJob, Result
from .evaluation import linear_field, regularity, score
from .evidence import RecursionFolder
from .files import require_writable
from .inputs import Inputs, load_inputs
from .losses import local_ncc
from .networks import load_network
from .networks.base import ImagePair, Recursion, RegistrationNetwork
from .preprocess import GridLimits, WorkingPair, field_on_fixed, prepare, warp_volume
from .recursions import INDEX
from .refine import RefineSettings, refine
from .registry import GridPolicy, Method, Variant, choose_variant, load_method
from .reporting import Reporter
from .tensors import choose_device
from .warp import resize_displacement, warp

SIMILARITY_WINDOW = 7


def network_size(spatial: tuple[int, ...], policy: GridPolicy) -> tuple[int, ...]:
    """Return the size of the grid a network sees for a working grid of a given size, both in array order."""
    factor = max(1.0, (math.prod(spatial) / policy.network_voxels) ** (1 / len(spatial)))
    return tuple(max(policy.minimum_size, round(n / factor)) for n in spatial)


def _images(pair: WorkingPair) -> ImagePair:
    masks = (None if mask is None else (mask >= 0.5).float() for mask in (pair.fixed_mask, pair.moving_mask))
    return ImagePair(pair.fixed, pair.moving, *masks)


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
    def run_method(self, method: Method, dimensions: int) -> None:
        """Apply the method's recursions; a deformation worse than the alignment alone is not used."""
        job, pair = self.job, self.pair
        variant = choose_variant(method, dimensions, job.weights)
        count = method.recursions_for(job.recursions)
        view = pair.at(network_size(tuple(pair.fixed.shape[2:]), method.grid[dimensions]))
        network = self._network(method, variant, count)
        self.values["recursions"], self.values["weights"] = count, variant.weights
        similarities = [similarity(view, torch.zeros_like(view.fixed).repeat(1, dimensions, *[1] * dimensions))]
        folder = self._open_folder(view)
        self._recursion(0, count)
        for index, state in enumerate(network.recurse(_images(view), count, attend=job.attention), start=1):
            similarities.append(similarity(view, state.displacement))
            file = None if folder is None else str(self._add(folder, state, similarities[-1]))
            self._recursion(index, count, file)
        if folder is not None:
            self.files["recursions"] = str(folder.close())
        self.values.update(similarity=similarities, best_recursion=int(np.nanargmax(similarities)))
        if not similarities[-1] >= similarities[0]:  # written so that it holds for a broken field, not a number, too
            self.warnings.append(
                f"{method.title} made the volumes less similar, so its deformation was left out; "
                "it may not suit the anatomy or modality."
            )
        else:
            self.displacement = resize_displacement(state.displacement, pair.fixed.shape[2:])
            self.trusted = variant.refinement if self._fits(variant) else {}

    def _network(self, method: Method, variant: Variant, count: int) -> RegistrationNetwork:
        network = load_network(method.architecture, variant).to(self.pair.fixed.device)
        network.half_precision = self.job.half_precision
        network.on_step = lambda done, of, loss: self.reporter.step(
            "recursion", 0, count, f"Iteration {done} of {of}, loss {loss:.4f}."
        )
        return network

    def _recursion(self, index: int, count: int, file: str | None = None) -> None:
        message = f"Recursion {index} of {count}." if index else "Running the method."
        self.reporter.step("recursion", index, count, message, file)

    def _fits(self, variant: Variant) -> bool:
        """Return whether the weights were trained on fields of view of this size; warn if not."""
        if variant.extent_mm is None:
            return True
        grid = self.inputs.fixed.geometry
        extent = max(n * spacing for n, spacing in zip(grid.size, grid.spacing, strict=True))
        low, high = variant.extent_mm
        if not low <= extent <= high:
            self.warnings.append(
                f"The weights {variant.weights} were trained on fields of view of {low:g} to {high:g} mm, this one has "
                f"{extent:.0f} mm; do not rely on the network alone."
            )
        return low <= extent <= high

    def _open_folder(self, view: WorkingPair) -> RecursionFolder | None:
        if self.job.output_recursions is None:
            return None
        path = Path(self.job.output_recursions)
        for folder in reversed([path, *path.parents]):
            self._will_create(folder)
        with suppress(OSError):  # a missing folder is reported when writing
            path.mkdir(parents=True, exist_ok=True)
        self._will_create(path / INDEX)
        return RecursionFolder(path, self.job.method, view, self.inputs.fixed.geometry)

    def _add(self, folder: RecursionFolder, state: Recursion, similarity: float) -> Path:
        for name in folder.names(len(folder.steps) + 1, state.evidence):
            self._will_create(folder.folder / name)
        return folder.add(state, similarity)

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
    limits = GridLimits() if method is None else _limits(method, dimensions)
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


def _limits(method: Method, dimensions: int) -> GridLimits:
    policy = method.grid[dimensions]
    return GridLimits(policy.minimum_size, policy.maximum_voxels, method.normalization)


def _deform(state: Registration, method: Method | None) -> None:
    """Do everything after the linear alignment."""
    reporter, fixed = state.reporter, state.inputs.fixed.geometry
    if method is not None:
        with reporter.stage("recursion", "Preparing the method."):
            state.run_method(method, 2 if fixed.is_flat else 3)
    if state.job.refinement_steps:
        with reporter.stage("refine", "Refining the deformation on this pair."):
            state.run_refinement()
    displacement_lps_mm = field_on_fixed(state.displacement, state.pair, fixed)
    with reporter.stage("evaluate", "Measuring the deformation."):
        state.evaluate(displacement_lps_mm)
    with reporter.stage("write", "Writing the results."):
        state.write(displacement_lps_mm)


def _require_method(job: RegisterJob) -> None:
    """Refuse what only a method can do where none is chosen."""
    asked = {"weights": job.weights, "recursions": job.output_recursions, "Gaussians": job.output_gaussians}
    given = [name for name, value in asked.items() if value is not None]
    if job.method == METHOD_NONE and given:
        raise errors.EngineError(
            errors.CONTRACT, f"Refinement alone has no {given[0]}.", "Choose a method, or leave that out."
        )
    if job.attention and job.output_recursions is None:
        raise errors.EngineError(
            errors.CONTRACT, "What the network attended to has no place to go.", "Name a folder for the recursions too."
        )


def require_outputs(job: RegisterJob) -> None:
    """Check names and folders of the outputs, before hours of work rather than after.

    Raises:
        EngineError: Naming the file that could not be written.
    """
    _require_method(job)
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
