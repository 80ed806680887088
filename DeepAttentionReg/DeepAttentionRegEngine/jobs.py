"""Runs one job of any task."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .deform.speed import registration_speed
from .deform.tensors import describe_devices
from .evidence.gaussian_files import read_sequence, render
from .evidence.percentiles import warp_segments_within, warp_volume_within
from .evidence.structures import describe, structures
from .file_jobs import Registrars, register_files, register_sequence
from .protocol import errors
from .protocol.batch import run_batch
from .protocol.contract import (
    BatchJob,
    JacobianJob,
    Job,
    MetricsJob,
    ProbeJob,
    RegisterJob,
    RenderJob,
    Result,
    SequenceJob,
    StructuresJob,
    WarpJob,
)
from .protocol.errors import is_text, shown
from .protocol.file_use import files_read, staged
from .protocol.files import unfit
from .protocol.outputs import Outputs
from .protocol.reporting import Reporter
from .protocol.settings import Settings
from .registration.belonging import require_belonging, require_reached, require_something
from .registration.deformation import StoredDeformation
from .registration.evaluation import finite, regularity, score
from .registration.inputs import Given, load_reference
from .registration.memory import run_within_memory
from .registration.preprocess import Source, warp_segments, warp_volume
from .registration.versions import versions
from .volume import fields, images
from .volume.geometry import Geometry
from .volume.segments import SEGMENTATION_SUFFIX, Segments, as_segments, write_segments

CPU = torch.device("cpu")


def run(job: Job, reporter: Reporter, read: Iterable[Path] = ()) -> Result:
    """Run a job; its outputs appear together, or not at all.

    Args:
        job: What to do; batches and sequences end pair by pair and frame by frame.
        reporter: Told how it goes.
        read: Files besides those that the job names, which it must not write.

    Raises:
        EngineError: With a sentence for the user, also when memory runs out.
    """
    return _Runner(read).run(job, reporter)


class _Runner:
    """Runs a job, and the jobs within it, of which those after the first find their network loaded."""

    def __init__(self, read: Iterable[Path]) -> None:
        self._registrars, self._read = Registrars(), list(read)

    def run(self, job: Job, reporter: Reporter) -> Result:
        """Run a job; what cannot be measured becomes None, for which JSON has no number."""
        _require_names(job)
        if isinstance(job, (BatchJob, SequenceJob)):
            result = self._finished(job, reporter)
        else:
            with Outputs([*files_read(job), *self._read]) as outputs:
                result = self._finished(staged(job, outputs), reporter)
            files = {name: outputs.final(file) for name, file in result.outputs.items()}
            result = replace(result, outputs=files)
        return result

    def _finished(self, job: Job, reporter: Reporter) -> Result:
        result = run_within_memory(lambda: self._run(job, reporter))
        return replace(result, values=finite({**result.values, "versions": versions()}))

    def _run(self, job: Job, reporter: Reporter) -> Result:
        if isinstance(job, RegisterJob):
            return register_files(job, reporter, self._registrars)
        if isinstance(job, BatchJob):
            return run_batch(job, reporter, self.run)
        if isinstance(job, SequenceJob):
            return register_sequence(job, reporter)
        if isinstance(job, WarpJob):
            return warp_file(job, reporter)
        if isinstance(job, ProbeJob):
            return probe()
        task = TASKS.get(type(job))
        if task is None:
            raise errors.EngineError(errors.CONTRACT, f"There is no task for {type(job).__name__}.")
        return task(job)


def _require_names(job: Job) -> None:
    """Refuse texts that name no file anywhere, before a library is given one and ends the program."""
    given = {name: value if isinstance(value, list) else [value] for name, value in vars(job).items()}
    for name, values in given.items():
        wrong = next((value for value in values if isinstance(value, str) and not is_text(value)), None)
        if wrong is not None:
            raise errors.EngineError(
                errors.CONTRACT, f"{name} holds what is no character ({shown(wrong)}).", "Give the file another name."
            )


def probe() -> Result:
    """Report versions, CUDA devices and their memory, and the speed of each device (deform/speed.py)."""
    devices = describe_devices()
    speed = {name: registration_speed(torch.device(name)) for name in ("cpu", *(str(item["id"]) for item in devices))}
    values = {"cuda": torch.version.cuda, "devices": devices, "threads": torch.get_num_threads(), "speed": speed}
    return Result(values=values)


def read_deformation(path: str, reference: str | None) -> tuple[StoredDeformation, Geometry]:
    """Return the deformation in a file and the grid to work on: that of a volume, else the deformation's own."""
    deformation = StoredDeformation(*images.read_displacement(path))
    return deformation, deformation.geometry if reference is None else images.read_volume(reference).geometry


def write_map(job: JacobianJob) -> Result:
    """Write a scalar map of a displacement field."""
    deformation, geometry = read_deformation(job.transform, job.reference)
    if job.map == "magnitude":
        array = fields.magnitude(deformation.on(geometry))
    else:
        array = deformation.jacobian(geometry)
        if job.map == "folds":
            array = (array <= 0).astype(np.uint8)
        elif job.map == "log-jacobian":
            array = fields.log_jacobian(array)
    images.write_volume(job.output, array, geometry)
    return Result({"map": job.output}, regularity(deformation, geometry))


def warp_file(job: WarpJob, reporter: Reporter) -> Result:
    """Resample a volume or label map through a displacement field, and as it may be where that errs."""
    files = _percentile_files(job)
    deformation, geometry = read_deformation(job.transform, job.reference)
    error = None if job.error is None else images.read_volume(job.error)
    place = deformation, geometry, CPU
    found: dict[str, Any] = {}
    if job.labels:
        segments = as_segments(job.moving)
        _require_room_to_overlap(job.output_high, segments)
        warped, notes = warp_segments(segments, *place), segments.notes
        require_something(warped.marked)
        if error is not None:
            found = warp_segments_within(error, segments, *place, reporter.pause)
        write_segments(job.output, warped)
        for name, file in files.items():
            write_segments(file, found[name])
    else:
        volume = images.read_volume(job.moving)
        source, notes = Source(volume.array, volume.geometry), volume.notes
        require_reached(source, *place, whole=True)
        if error is not None:
            found = warp_volume_within(error, source, *place, reporter.pause)
        images.write_volume(job.output, warp_volume(source, *place), geometry)
        for name, file in files.items():
            images.write_volume(file, found[name], geometry)
    return Result({"warped": job.output, **files}, warnings=[*notes, *(() if error is None else error.notes)])


def _percentile_files(job: WarpJob) -> dict[str, str]:
    """Return where to write percentiles, by their names.

    Raises:
        EngineError: If there are some without an error map, or none with one.
    """
    given = {"low": job.output_low, "median": job.output_median, "high": job.output_high}
    files = {name: file for name, file in given.items() if file is not None}
    if bool(files) != (job.error is not None):
        message = "Percentiles need an error map." if files else "The error map is of use for percentiles alone."
        raise errors.EngineError(
            errors.INPUT_MISSING, message, "Give it together with where to write the 5th, 50th or 95th percentile."
        )
    return files


def _require_room_to_overlap(file: str | None, segments: Segments) -> None:
    """Refuse, before a lot is computed, a file that cannot hold what is possibly inside of several segments."""
    if file is None or len(segments.items) < 2 or file.lower().endswith(SEGMENTATION_SUFFIX):
        return
    what = "cannot hold what is possibly inside of several segments, for it overlaps"
    raise unfit(file, what, f"Give it a name that ends in {SEGMENTATION_SUFFIX}.")


def render_field(job: RenderJob) -> Result:
    """Write a sequence of Gaussians as a displacement field on the grid of a volume."""
    sequence = read_sequence(job.gaussians)
    geometry = images.read_volume(job.reference).geometry
    displacement = render(sequence, geometry)
    images.write_displacement(job.output, displacement, geometry)
    values = {"numbers": sequence.numbers, **regularity(StoredDeformation(displacement, geometry), geometry)}
    return Result({"transform": job.output}, values)


def find(job: StructuresJob) -> Result:
    """Write the structures that a network tells apart on an image, and say how much there is of each."""
    found = structures(job.image, Settings(method=job.method, weights=job.weights, device=job.device))
    write_segments(job.output, found)
    return Result({"structures": job.output}, {"structures": describe(found)}, list(found.notes))


def measure(job: MetricsJob) -> Result:
    """Score a displacement field, and doing nothing for comparison."""
    deformation, geometry = read_deformation(job.transform, job.reference)
    fixed_labels = None if job.fixed_labels is None else as_segments(job.fixed_labels)
    if job.reference is None and fixed_labels is not None:
        geometry = fixed_labels.geometry
    labels, points = (fixed_labels, job.moving_labels), (job.fixed_points, job.moving_points)
    warnings: list[str] = []
    reference = load_reference(Given(labels=labels, points=points), geometry, warnings)
    require_belonging(reference, deformation.geometry)
    if reference.moving_labels is not None:
        if reference.fixed_labels is None:
            raise errors.EngineError(
                errors.INPUT_MISSING,
                "The moving labels have no fixed labels to be compared with.",
                "Give those of the fixed image too.",
            )
        moving = Source(reference.moving_labels.marked, reference.moving_labels.geometry)
        require_reached(moving, deformation, geometry, CPU, whole=False)
    values = {**regularity(deformation, geometry), **reference.unpaired}
    values["before"] = score(StoredDeformation.linear(np.eye(4), geometry), geometry, reference, CPU)
    values["after"] = score(deformation, geometry, reference, CPU)
    return Result(values=values, warnings=warnings)


TASKS: dict[type[Job], Callable[[Any], Result]] = {
    JacobianJob: write_map,
    MetricsJob: measure,
    RenderJob: render_field,
    StructuresJob: find,
}
