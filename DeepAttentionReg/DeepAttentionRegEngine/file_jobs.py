"""The jobs that register files: they read, call `Registrar.register`, and write."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .evidence.changes import changes, told
from .evidence.expected_error import expected_error
from .evidence.gaussian_files import SUFFIXES as SEQUENCE_SUFFIXES
from .evidence.gaussian_files import of_proposal, write_sequence
from .evidence.recursion_folder import RecursionFolder
from .evidence.structures import predicted_structures, structured_variant, write_structures
from .evidence.uncertainty import measure_spread, on_fixed
from .protocol import errors
from .protocol.contract import METHOD_NONE, RegisterJob, Result, SequenceJob
from .protocol.file_use import files_read
from .protocol.files import make_folder, require_readable, require_writable
from .protocol.outputs import Outputs
from .protocol.registry import load_method
from .protocol.reporting import Reporter
from .protocol.result_files import RESULT, require_own_results
from .protocol.settings import AS_FIXED, Settings, settings_of
from .registration.memory import run_where_it_fits
from .registration.method_run import Observer
from .registration.registered import SAVED, WRITTEN, Registered
from .registration.registrar import Registrar
from .volume import images
from .volume.geometry import Geometry
from .volume.loading import open_image
from .volume.segments import require_room

UNUSED_LABELS = "The moving labels were not used: there are no fixed ones to compare with, and no file to warp them to."


class Registrars:
    """Keeps the last registrar, so that a batch of pairs with the same settings loads its network once."""

    def __init__(self) -> None:
        self._kept: Registrar | None = None

    def of(self, settings: Settings) -> Registrar:
        """Return a registrar with these settings."""
        if self._kept is None or self._kept.settings != settings:
            self._kept = Registrar(settings)
        return self._kept


class KeepGaussians(Observer):
    """Keeps nothing but a sequence of Gaussians."""

    keeps_gaussians = True


@dataclass
class FileJob:
    """A registration of files under way.

    Attributes:
        job: What to do.
        reporter: Told how it goes.
        registrar: Registers; the one that did once that is over, which may be a thriftier one.
        files: Outputs so far.
        fixed: Grid of the fixed volume, once it is registered.
    """

    job: RegisterJob
    reporter: Reporter
    registrar: Registrar
    files: dict[str, str] = field(default_factory=dict)
    fixed: Geometry | None = None

    def run(self) -> Result:
        """Do it."""
        self.files.clear()
        self.fixed = None
        registered = self._register(self._observer())
        self.registrar, self.fixed = registered.registrar, registered.geometry
        warnings, values = registered.warnings, dict(registered.measures)
        used = self.job.fixed_labels or self.job.output_warped_labels or self.registrar.settings.led_by_segments
        if self.job.moving_labels and not used:
            warnings.append(UNUSED_LABELS)
        predicted = None
        if self.job.output_structures is not None:
            with self.reporter.stage("evaluate", "Looking for the structures that the network tells apart."):
                predicted = predicted_structures(registered)
            values["structures"] = predicted.measures
            warnings += predicted.warnings
        spread_mm = None
        if self.job.output_uncertainty is not None:
            with self.reporter.stage("uncertainty", "Registering slightly changed images."):
                spread_mm = self._measure_spread(registered, values, warnings)
        with self.reporter.stage("evaluate", "Looking for signs of errors."):
            expected = expected_error(registered)
        values["expected_error"] = expected.told
        warnings += expected.warnings
        changed = self._find_changes(registered, values, warnings)
        with self.reporter.stage("write", "Writing the results."):
            self._write(registered, values)
            self._write_map("uncertainty", spread_mm, registered.geometry)
            self._write_map("error", expected.within_mm, expected.geometry)
            self._write_map("changes", changed, registered.geometry)
            if predicted is not None:
                self.files["structures"] = str(write_structures(str(self.job.output_structures), predicted))
        own, found = self.reporter.seconds, registered.seconds
        values["seconds"] = {name: found.get(name, 0.0) + own.get(name, 0.0) for name in {**found, **own}}
        return Result(self.files, values, warnings)

    def spare(self) -> bool:
        """Go without more from now on; returns whether that is possible. The registrar has tried what it could."""
        found = None if self.fixed is None else self.registrar.spared(self.fixed, self.reporter)
        self.registrar = found or self.registrar
        return found is not None

    def _observer(self) -> Observer:
        job, keeps = self.job, self.job.output_gaussians is not None
        if job.output_recursions is None:
            return KeepGaussians() if keeps else Observer()
        place, is_fixed = Path(job.output_recursions), job.transform_grid == AS_FIXED
        folder = RecursionFolder(place, job.method, job.recursion_voxels, attends=job.attention, on_fixed=is_fixed)
        folder.keeps_gaussians = keeps
        return folder

    def _register(self, observer: Observer) -> Registered:
        job, reporter = self.job, self.reporter
        registered = self.registrar.register(
            job.fixed,
            job.moving,
            fixed_mask=job.fixed_mask,
            moving_mask=job.moving_mask,
            fixed_labels=job.fixed_labels,
            moving_labels=job.moving_labels,
            fixed_points=job.fixed_points,
            moving_points=job.moving_points,
            initial=job.initial_transform,
            on_progress=reporter.emit,
            cancel=reporter.cancelled,
            finish=reporter.enough,
            observer=observer,
        )
        if isinstance(observer, RecursionFolder):
            self.files["recursions"] = str(observer.index)
        return registered

    def _measure_spread(self, registered: Registered, values: dict[str, Any], warnings: list[str]) -> np.ndarray | None:
        """Return the uncertainty `(k, j, i)` in mm; None if it was ended before there was a second sample."""
        observer = KeepGaussians() if self.job.output_gaussians is not None else None
        spread = measure_spread(registered, self.reporter, observer)
        if spread.count == 1:
            warnings.append("Finished before there was a second sample, so there is no uncertainty to write.")
            return None
        found = on_fixed(spread, registered)
        statistics = {"mean": found.mean(), "p95": np.percentile(found, 95), "max": found.max()}
        values["uncertainty_mm"] = {
            **{name: float(value) for name, value in statistics.items()},
            "samples": spread.count,
        }
        return found

    def _write_map(self, name: str, found: np.ndarray | None, grid: Geometry | None) -> None:
        """Write a map, if it was asked for and there is one."""
        file = getattr(self.job, f"output_{name}")
        if file is not None and found is not None and grid is not None:
            images.write_volume(file, found, grid)
            self.files[name] = file

    def _find_changes(self, registered: Registered, values: dict[str, Any], warnings: list[str]) -> np.ndarray | None:
        """Return how surely what is there has no counterpart `(k, j, i)`; None if not asked for or not to be told."""
        if self.job.output_changes is None:
            return None
        with self.reporter.stage("evaluate", "Looking for what has no counterpart."):
            found = changes(registered, self.reporter.pause)
            values["changes"], sentences = told(found)
            warnings += sentences
        return found.certainty

    def _write(self, registered: Registered, values: dict[str, Any]) -> None:
        """Write what the job asks for, but maps."""
        job, proposal = self.job, registered.search.proposal
        wanted = {name: getattr(job, f"output_{name}") for name in WRITTEN}
        self.files.update(registered.write({name: file for name, file in wanted.items() if file is not None}))
        if job.output_gaussians is not None and proposal is not None:
            sequence = of_proposal(proposal)
            write_sequence(job.output_gaussians, sequence)
            self.files["gaussians"] = job.output_gaussians
            values.update(gaussian_numbers=sequence.numbers, spline_numbers=proposal.spline_numbers)


def register_files(job: RegisterJob, reporter: Reporter, registrars: Registrars) -> Result:
    """Run a registration job, whose outputs are nobody's but this run's until it ends (outputs.py).

    Args:
        job: What to do.
        reporter: Receives progress; polled for cancellation.
        registrars: Where a network may be loaded already.

    Returns:
        Written files, numbers and warnings.

    Raises:
        EngineError: With a sentence for the user.
    """
    require_outputs(job)
    _tell_size(job, reporter)
    file_job = FileJob(job, reporter, registrars.of(settings_of(job)))
    return run_where_it_fits(file_job.run, file_job.spare)


def _tell_size(job: RegisterJob, reporter: Reporter) -> None:
    """Tell how large a registration is, by the header alone; what is wrong with it is told by who reads it."""
    with suppress(errors.EngineError, RuntimeError, EOFError, OSError):
        reader = open_image(job.fixed)
        size, spacing = (*reader.GetSize(), 1)[:3], (*reader.GetSpacing(), 1.0)[:3]
        reporter.audience.expect(size, spacing, job)


def register_sequence(job: SequenceJob, reporter: Reporter) -> Result:
    """Register the frames of a time series to one of them, reading that and loading the network once.

    Every frame gets a folder, counted from 1, with its transform, warped volume if wanted, and result; it is told of
    as progress of the stage "frame" when all are there.

    Raises:
        EngineError: If a frame cannot be registered; the folders of those before it stay.
    """
    _require_frames(job)
    registrar, fixed = Registrar(settings_of(job)), images.read_volume(job.fixed)
    reporter.audience.expect(fixed.geometry.size, fixed.geometry.spacing, job)
    reporter.audience.count(0, 0, len(job.frames))
    warnings: list[str] = []
    done = 0
    for number, frame in enumerate(job.frames, start=1):
        if done and reporter.enough():
            break
        registered = registrar.register(fixed, frame, on_progress=reporter.emit, cancel=reporter.cancelled)
        expected = expected_error(registered)
        registered.measures["expected_error"] = expected.told
        registered.warnings.extend(expected.warnings)
        file = _write_frame(registered, Path(job.output) / str(number), job)
        warnings += [f"{Path(frame).name}: {warning}" for warning in registered.warnings]
        done = number
        reporter.audience.count(done, 0, len(job.frames) - done)
        reporter.step("frame", number, len(job.frames), f"Frame {number} is registered.", str(file))
    return Result(values={"frames": done}, warnings=warnings)


def _require_frames(job: SequenceJob) -> None:
    """Check, before the first frame, that all are there and nothing else would be overwritten.

    Raises:
        EngineError: Naming the file.
    """
    for file in [job.fixed, *job.frames]:
        require_readable(file)
    make_folder(job.output)
    unread = Outputs(files_read(job))
    for number, _frame in enumerate(job.frames, start=1):
        folder = Path(job.output) / str(number)
        files = _frame_files(folder, job)
        for output in [*map(Path, files.values()), folder / RESULT]:
            unread.require_unread(output)
        require_own_results(folder, files.values())


def _frame_files(folder: Path, job: SequenceJob) -> dict[str, str]:
    names = ("transform", "warped") if job.warped else ("transform",)
    return {name: str(folder / SAVED[name]) for name in names}


def _write_frame(registered: Registered, folder: Path, job: SequenceJob) -> Path:
    with Outputs(files_read(job)) as outputs:
        return registered.write_into(folder, _frame_files(folder, job), outputs)


def _require_method(job: RegisterJob) -> None:
    """Refuse what only a method can do where none is chosen."""
    asked = {
        "weights": job.weights,
        "recursions": job.output_recursions,
        "Gaussians": job.output_gaussians,
        "structures": job.output_structures,
    }
    given = [name for name, value in asked.items() if value is not None]
    if job.method == METHOD_NONE and given:
        raise errors.EngineError(
            errors.CONTRACT, f"Refinement alone has no {given[0]}.", "Choose a method, or leave that out."
        )
    if job.output_gaussians is not None and job.refinement_steps != 0 and job.similarity == "mind":
        raise errors.EngineError(
            errors.CONTRACT,
            "A sequence of Gaussians cannot be refined by MIND.",
            "Choose the similarity ncc or mse, or no refinement.",
        )
    if job.attention and job.output_recursions is None:
        raise errors.EngineError(
            errors.CONTRACT, "What the network attended to has no place to go.", "Name a folder for the recursions too."
        )


def _require_structures(job: RegisterJob) -> None:
    """Refuse to look for structures where a network tells none apart; what is wrong with an image is told elsewhere."""
    size: tuple[int, ...] = ()
    with suppress(errors.EngineError, RuntimeError, EOFError, OSError):
        size = (*open_image(job.fixed).GetSize(), 1)[:3]
    if size:
        structured_variant(load_method(job.method), size.count(1) == 1, job.weights)


def require_outputs(job: RegisterJob) -> None:
    """Check names and folders of the outputs, before hours of work rather than after.

    Raises:
        EngineError: Naming the file that could not be written.
    """
    _require_method(job)
    if job.output_structures is not None:
        _require_structures(job)
    if job.output_warped_labels is not None and job.moving_labels is None:
        raise errors.EngineError(
            errors.INPUT_MISSING,
            f"There are no moving labels to write as {job.output_warped_labels}.",
            "Give them too.",
        )
    if job.output_warped_labels is not None and job.moving_labels is not None:
        require_room(job.output_warped_labels, job.moving_labels)
    maps = (job.output_jacobian, job.output_uncertainty, job.output_error, job.output_changes)
    for path in (job.output_warped, *maps, job.output_warped_labels):
        if path is not None:
            require_writable(path, images.IMAGE_SUFFIXES)
    if job.output_gaussians is not None:
        require_writable(job.output_gaussians, SEQUENCE_SUFFIXES)
    if job.output_transform is not None:
        require_writable(job.output_transform, (*images.IMAGE_SUFFIXES, *images.FIELD_TRANSFORM_SUFFIXES))
