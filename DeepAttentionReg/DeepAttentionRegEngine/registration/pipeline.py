"""A registration job from files to files."""

from contextlib import suppress
from dataclasses import dataclass, field, replace
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..deform.refine import Masks, RefineSettings, refine, usual_settings
from ..deform.tensors import choose_device, use_full_precision
from ..deform.warp import resize, resize_displacement
from ..evidence.gaussian_files import SUFFIXES as SEQUENCE_SUFFIXES
from ..evidence.gaussian_files import write_sequence
from ..evidence.uncertainty import Spread, perturb
from ..protocol import errors
from ..protocol.contract import METHOD_NONE, Event, Progress, RegisterJob, Result
from ..protocol.files import require_writable
from ..protocol.registry import Method, Variant, choose_variant, load_method
from ..protocol.reporting import Reporter
from ..volume import fields, images
from .alignment import align
from .evaluation import linear_field, regularity, score
from .inputs import Inputs, load_inputs
from .method_run import MethodRun, Proposal, similarity, structures_closer
from .preprocess import WorkingPair, field_on_fixed, prepare, warp_volume
from .working_grid import GridLimits


@dataclass
class Registration:
    """A job under way: the displacement so far, how to refine it if it is trusted, and what to tell about it.

    `view` is the pair on the grid on which similarity is told, that of the method; `masks` are those of the structures
    that the method sees; `spread_mm` is the uncertainty.
    """

    job: RegisterJob
    inputs: Inputs
    pair: WorkingPair
    reporter: Reporter
    displacement: Tensor
    view: WorkingPair
    trusted: dict[str, Any] = field(default_factory=dict)
    masks: Masks | None = None
    proposal: Proposal | None = None
    spread_mm: np.ndarray | None = None
    values: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    created: list[Path] = field(default_factory=list)

    def run_method(self, method: Method) -> None:
        """Apply the method; a deformation worse than the alignment alone is not used."""
        spatial = tuple(self.pair.fixed.shape[2:])
        variant = choose_variant(method, len(spatial), self.job.weights)
        count = method.recursions_for(self.job.recursions)
        self.values.update(weights=variant.weights)
        run = MethodRun(self.job, method, variant, count, self.reporter, self._will_create)
        found = run.apply(self.pair, self.inputs.fixed.geometry)
        self.view = found.view
        if found.index is not None:
            self.files["recursions"] = str(found.index)
        if self.job.output_gaussians is not None and found.proposal is None:
            raise errors.EngineError(
                errors.CONTRACT, f"{method.title} makes no sequence of Gaussians.", "Choose the method r2n2."
            )
        similarities = found.similarities
        best = int(np.nanargmax(similarities))
        self.values.update(recursions=len(similarities) - 1, similarity=similarities, best_recursion=best)
        better = similarities[-1] >= similarities[0]  # false for a broken field, not a number, too
        if not better and not structures_closer(found.view, found.displacement):
            self.warnings.append(
                f"{method.title} made the volumes less similar, so its deformation was left out; "
                "it may not suit the anatomy or modality."
            )
            if found.proposal is not None and self.job.output_gaussians is not None:
                self.warnings.append(f"There are no Gaussians left to write as {self.job.output_gaussians}.")
            return
        self.displacement = resize_displacement(found.displacement, spatial)
        if found.masks is not None:
            self.masks = resize(found.masks[0], spatial), resize(found.masks[1], spatial)
        self.trusted = variant.refinement if self._fits(variant) else {}
        if self.job.output_gaussians is not None:
            self.proposal = found.proposal

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
        """Improve the displacement on this pair; a sequence of Gaussians that is to be kept stays one."""
        job, pair = self.job, self.pair

        def on_step(step: int, of: int, loss: float) -> bool:
            self.reporter.step("refine", step, of, f"Refinement, loss {loss:.4f}.")
            return self.reporter.enough()

        if self.proposal is not None:
            self.proposal = self.proposal.refined(job.refinement_steps, job.similarity, job.smoothness, on_step)
            self.displacement = self.proposal.displacement(tuple(pair.fixed.shape[2:]))
        else:
            settings = _refine_settings(job, pair.fixed.ndim - 2, self.trusted)
            settings = replace(settings, smoothness=settings.smoothness * job.smoothness)
            self.displacement = refine(
                pair.fixed,
                pair.moving,
                self.displacement,
                settings,
                weight=pair.weight,
                masks=self.masks,
                on_step=on_step,
            )
        seen = resize_displacement(self.displacement, tuple(self.view.fixed.shape[2:]))
        self.values["refined_similarity"] = similarity(self.view, seen)

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
        if job.output_uncertainty is not None and self.spread_mm is not None:
            images.write_volume(self._will_create(job.output_uncertainty), self.spread_mm, fixed)
            self.files["uncertainty"] = job.output_uncertainty
        if self.proposal is not None and job.output_gaussians is not None:
            sequence = self.proposal.in_world()
            write_sequence(self._will_create(job.output_gaussians), sequence)
            self.files["gaussians"] = job.output_gaussians
            self.values.update(gaussian_numbers=sequence.numbers, spline_numbers=self.proposal.spline_numbers)
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
    use_full_precision()
    method = None if job.method == METHOD_NONE else load_method(job.method)
    with reporter.stage("load", "Reading the volumes."):
        inputs = load_inputs(job)
    dimensions = 2 if inputs.fixed.geometry.is_flat else 3
    limits = GridLimits() if method is None else grid_limits(method, dimensions)
    with reporter.stage("align", "Aligning the volumes."):
        matrix = align(inputs.fixed, inputs.moving, job.alignment, inputs.initial, job.seed, device)
        pair = prepare(inputs.fixed, inputs.moving, matrix, limits, device)
    zero = torch.zeros(1, dimensions, *pair.fixed.shape[2:], device=device)
    state = Registration(job, inputs, pair, reporter, zero, pair)
    state.values.update(method=job.method, device=str(device), alignment=matrix.ravel().tolist())
    try:
        _deform(state, method)
    except BaseException:
        state.discard()
        raise
    state.values["seconds"] = reporter.seconds
    return Result(state.files, state.values, state.warnings)


def _refine_settings(job: RegisterJob, axes: int, trusted: dict[str, Any]) -> RefineSettings:
    try:
        settings = RefineSettings(**trusted) if trusted else usual_settings(axes, job.similarity)
        return replace(settings, steps=job.refinement_steps, similarity=job.similarity, velocity=job.velocity)
    except TypeError as error:
        raise errors.EngineError(
            errors.WEIGHTS_CORRUPT,
            f"The refinement settings beside the weights make no sense ({error}).",
            f"Known: {', '.join(item.name for item in dataclass_fields(RefineSettings))}.",
        ) from error


def grid_limits(method: Method, dimensions: int) -> GridLimits:
    """Return how volumes become images for a method, of 2 or 3 spatial axes."""
    policy = method.grid[dimensions]
    return GridLimits(policy.minimum_size, policy.maximum_voxels, method.normalization, policy.margin)


def _deform(state: Registration, method: Method | None) -> None:
    """Do everything after the linear alignment."""
    reporter, fixed = state.reporter, state.inputs.fixed.geometry
    _find(state, method)
    if reporter.enough():
        state.warnings.append("Finished early on request; more recursions or refinement might improve the result.")
    displacement_lps_mm = field_on_fixed(state.displacement, state.pair, fixed)
    if state.job.output_uncertainty is not None:
        with reporter.stage("uncertainty", "Registering slightly changed images."):
            _measure_spread(state, method, displacement_lps_mm)
    with reporter.stage("evaluate", "Measuring the deformation."):
        state.evaluate(displacement_lps_mm)
    with reporter.stage("write", "Writing the results."):
        state.write(displacement_lps_mm)


def _find(state: Registration, method: Method | None) -> None:
    """Find the displacement by method and refinement."""
    reporter = state.reporter
    if method is not None:
        with reporter.stage("recursion", "Preparing the method."):
            state.run_method(method)
    if state.job.refinement_steps and not reporter.enough():
        with reporter.stage("refine", "Refining the deformation on this pair."):
            state.run_refinement()


def _measure_spread(state: Registration, method: Method | None, displacement_lps_mm: np.ndarray) -> None:
    """Register slightly changed images from the same alignment on, and keep how far the results lie apart."""
    job, reporter = replace(state.job, output_recursions=None, attention=False), state.reporter
    generator = torch.Generator().manual_seed(job.seed)
    spread = Spread(displacement_lps_mm)

    def tell(event: Event) -> None:
        if isinstance(event, Progress):
            text = f"Sample {spread.count + 1} of {job.samples}: {event.message}"
            reporter.emit(Progress("uncertainty", spread.count, job.samples, text))

    while spread.count < job.samples and not reporter.enough():
        changed = perturb(state.pair, generator)
        zero = torch.zeros_like(state.displacement)
        altered = replace(job, smoothness=job.smoothness * changed.smoothness)
        told = Reporter(tell, reporter.cancelled)
        sample = Registration(altered, state.inputs, changed.pair, told, zero, changed.pair)
        _find(sample, method)
        spread.add(field_on_fixed(changed.undo(sample.displacement), state.pair, state.inputs.fixed.geometry))
    if spread.count == 1:
        state.warnings.append("Finished before there was a second sample, so there is no uncertainty to write.")
        return
    state.spread_mm = spread.millimetres()
    statistics = {
        "mean": state.spread_mm.mean(),
        "p95": np.percentile(state.spread_mm, 95),
        "max": state.spread_mm.max(),
    }
    state.values["uncertainty_mm"] = {
        **{name: float(value) for name, value in statistics.items()},
        "samples": spread.count,
    }


def _require_method(job: RegisterJob) -> None:
    """Refuse what only a method can do where none is chosen."""
    asked = {"weights": job.weights, "recursions": job.output_recursions, "Gaussians": job.output_gaussians}
    given = [name for name, value in asked.items() if value is not None]
    if job.method == METHOD_NONE and given:
        raise errors.EngineError(
            errors.CONTRACT, f"Refinement alone has no {given[0]}.", "Choose a method, or leave that out."
        )
    if job.output_gaussians is not None and job.refinement_steps and job.similarity == "mind":
        raise errors.EngineError(
            errors.CONTRACT,
            "A sequence of Gaussians cannot be refined by MIND.",
            "Choose the similarity ncc or mse, or no refinement.",
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
    for path in (job.output_warped, job.output_jacobian, job.output_uncertainty, job.output_warped_labels):
        if path is not None:
            require_writable(path, images.IMAGE_SUFFIXES)
    if job.output_gaussians is not None:
        require_writable(job.output_gaussians, SEQUENCE_SUFFIXES)
    if job.output_transform is not None:
        require_writable(job.output_transform, (*images.IMAGE_SUFFIXES, *images.FIELD_TRANSFORM_SUFFIXES))
