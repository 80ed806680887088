"""The JSON contract between whoever starts a job (Slicer, a script) and the engine. Standard library only.

A job is one JSON object in a file; the engine answers with one JSON event per line on standard output: any number of
progress events, then exactly one result or error event. Both sides import this file, so a field is defined once.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from .errors import shown
from .files import parse_json
from .settings import Settings, option, refusal
from .settings import build as build

VERSION = 1
METHOD_NONE = "none"
MAPS = ("jacobian", "log-jacobian", "magnitude", "folds")
STAGES = ("load", "align", "recursion", "refine", "evaluate", "uncertainty", "write")


@dataclass(frozen=True)
class Job:
    """What every job may say.

    Attributes:
        cancel_file: The engine stops at its next step once this file exists.
        finish_file: Once this file exists, recursions and refinement end, and the best field so far is the result.
        parent_pid: The engine stops when this process ends.
    """

    cancel_file: str | None = None
    finish_file: str | None = None
    parent_pid: int | None = option(None, at_least=1, at_most=2**31 - 1)


@dataclass(frozen=True)
class ProbeJob(Job):
    """Ask which devices and versions the engine sees."""


@dataclass(frozen=True, kw_only=True)
class RegisterJob(Settings, Job):
    """Register a moving onto a fixed volume, as the settings say; all paths are files.

    Attributes:
        fixed: Fixed volume.
        moving: Moving volume.
        initial_transform: Linear transform file that maps fixed to moving points, applied before the alignment.
        fixed_mask: Voxels of the fixed volume that drive the similarity; methods with attention masks take it as such.
        moving_mask: The same on the moving volume.
        fixed_labels: Label map or segmentation to score with.
        moving_labels: Label map or segmentation to warp and to score with.
        fixed_points: Landmarks to score with.
        moving_points: The corresponding landmarks, in the same order.
        output_transform: Displacement field file (nrrd, nii.gz, mha, h5).
        output_warped: Moving volume on the fixed grid.
        output_jacobian: Jacobian determinant on the fixed grid.
        output_uncertainty: Spread of the displacement in mm on the fixed grid (uncertainty.py tells of what).
        output_error: File for the bound of the error in mm: with 95 % probability the true displacement lies within it;
            on a coarse grid of its own over the fixed volume's field of view. Not written where it is not known.
        output_changes: How surely what is there has no counterpart, 0 to 1, on the fixed grid (changes.py).
        output_warped_labels: Moving labels on the fixed grid.
        output_recursions: Folder for the field after every recursion (recursions.py tells what it holds).
        recursion_voxels: Voxels at most of these fields, on a coarser grid if need be.
        attention: Put what the network attended to into that folder, too.
        output_gaussians: JSON file for the sequence of Gaussians of a method that makes one.
        output_structures: Folder for the structures that the network tells apart (structures.py tells what it holds).
    """

    fixed: str
    moving: str
    initial_transform: str | None = None
    fixed_mask: str | None = None
    moving_mask: str | None = None
    fixed_labels: str | None = None
    moving_labels: str | None = None
    fixed_points: str | None = None
    moving_points: str | None = None
    output_transform: str | None = None
    output_warped: str | None = None
    output_jacobian: str | None = None
    output_uncertainty: str | None = None
    output_error: str | None = None
    output_changes: str | None = None
    output_warped_labels: str | None = None
    output_recursions: str | None = None
    recursion_voxels: int | None = option(None, at_least=1, at_most=2**31 - 1)
    attention: bool = False
    output_gaussians: str | None = None
    output_structures: str | None = None


@dataclass(frozen=True, kw_only=True)
class SequenceJob(Settings, Job):
    """Register the frames of a time series to one of them, one after another.

    Every frame that is done is told as progress of the stage "frame", whose file is the result of that frame.

    Attributes:
        fixed: The frame that stays.
        frames: The others.
        output: Folder for one folder a frame, counted from 1; made if it is not there.
        warped: Also write the frames on the grid of the fixed one.
    """

    fixed: str
    frames: list[str]
    output: str
    warped: bool = False


@dataclass(frozen=True, kw_only=True)
class JacobianJob(Job):
    """Write a map of a displacement field: "jacobian", "log-jacobian", "magnitude" (mm) or "folds" (0 or 1).

    It gets the grid of the volume `reference`, such as the fixed one; without it that of the field.
    """

    transform: str
    output: str
    reference: str | None = None
    map: str = option("jacobian", choices=MAPS)


@dataclass(frozen=True, kw_only=True)
class WarpJob(Job):
    """Resample a volume or label map through a displacement field, and if wanted as it may be where that errs.

    Attributes:
        moving: What to resample.
        transform: Displacement field.
        output: What becomes of it.
        reference: Volume whose grid it gets, such as the fixed one; None for the grid of the field.
        labels: It is a label map or segmentation.
        error: Error map: bound of the displacement's error in mm that holds with a probability of 95 %.
        output_low: With an error map, the 5th percentile; of labels, what is inside with a probability of 95 %.
        output_median: The 50th percentile; of labels, what is inside with 50 %.
        output_high: The 95th percentile; of labels, what is inside with 5 %.
    """

    moving: str
    transform: str
    output: str
    reference: str | None = None
    labels: bool = False
    error: str | None = None
    output_low: str | None = None
    output_median: str | None = None
    output_high: str | None = None


@dataclass(frozen=True, kw_only=True)
class RenderJob(Job):
    """Write a sequence of Gaussians as a displacement field on the grid of any volume."""

    gaussians: str
    reference: str
    output: str


@dataclass(frozen=True, kw_only=True)
class MetricsJob(Job):
    """Score a displacement field: regularity always, Dice and surface distances with labels, TRE with points.

    All but points is measured on the grid of the volume `reference`, such as the fixed one; without it on that of the
    fixed labels, or of the field.
    """

    transform: str
    reference: str | None = None
    fixed_labels: str | None = None
    moving_labels: str | None = None
    fixed_points: str | None = None
    moving_points: str | None = None


@dataclass(frozen=True, kw_only=True)
class StructuresJob(Job):
    """Write the structures that the network of some weights tells apart on an image; the fields are as in `Settings`.

    A label map on the image's grid, 1 for the first that the weights name; a .seg.nrrd has names and colors, too.
    """

    image: str
    output: str
    method: str = "agf-diffeo"
    weights: str | None = None
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class BatchJob(Job):
    """Register many pairs, one after another; batch.py tells what the table may hold.

    Attributes:
        pairs: Table of files, CSV or JSON.
        output: Folder for one folder a pair and the summary; made if it is not there.
        outputs: What each pair gets, as fields of `RegisterJob` without "output_"; None takes the usual ones.
        settings: Fields of `RegisterJob` for the pairs that do not say otherwise.
    """

    pairs: str
    output: str
    outputs: list[str] | None = None
    settings: dict[str, Any] | None = None


TASKS: dict[str, type[Job]] = {
    "probe": ProbeJob,
    "register": RegisterJob,
    "sequence": SequenceJob,
    "batch": BatchJob,
    "jacobian": JacobianJob,
    "warp": WarpJob,
    "metrics": MetricsJob,
    "render": RenderJob,
    "structures": StructuresJob,
}


@dataclass(frozen=True)
class Progress:
    """One step forward.

    Attributes:
        stage: Name in `STAGES`, or "pair" for the pairs of a batch, or "frame" for a sequence's frames that are done.
        step: Steps of the stage done.
        of: Steps of the stage in all.
        message: A sentence for the user.
        file: Field after this recursion, when kept, where it lies until the job ends; or the result of a frame.
    """

    stage: str
    step: int = 0
    of: int = 0
    message: str = ""
    file: str | None = None


@dataclass(frozen=True)
class Result:
    """What a finished job found.

    Attributes:
        outputs: Files written, by their job field without "output_", such as "transform".
        values: Numbers and texts by name: metrics, similarity per recursion, seconds per stage, versions.
        warnings: Sentences the user must see.
    """

    outputs: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Failure:
    """Why a job did not finish: code for programs, message and hint for people."""

    code: str
    message: str
    hint: str = ""


Event = Progress | Result | Failure
EVENTS: dict[str, type[Progress] | type[Result] | type[Failure]] = {
    "progress": Progress,
    "result": Result,
    "error": Failure,
}


def dump_job(job: Job) -> str:
    """Return a job as JSON."""
    task = next(name for name, kind in TASKS.items() if kind is type(job))
    return json.dumps({"contract": VERSION, "task": task, **dataclasses.asdict(job)}, indent=2)


def parse_job(text: str | bytes) -> Job:
    """Read a job.

    Raises:
        EngineError: If the text is no JSON object, of another version or task, or has unknown, missing or wrong fields.
    """
    data = _load_object(text, "job")
    _check_version(data, "job")
    task = data.pop("task", None)
    if not isinstance(task, str) or task not in TASKS:
        raise refusal(f"The task {shown(repr(task))} is unknown.", f"Known tasks: {', '.join(TASKS)}.")
    return build(TASKS[task], data)


def dump_event(event: Event) -> str:
    """Return an event as one line of ASCII JSON."""
    name = next(name for name, kind in EVENTS.items() if kind is type(event))
    return json.dumps({"contract": VERSION, "event": name, **dataclasses.asdict(event)}, allow_nan=False)


def parse_event(line: str) -> Event | None:
    """Read one line of the engine's output; None for a line that is no event (a library's own message).

    Raises:
        EngineError: If the line is an event of another version or with unknown or wrong fields.
    """
    if not line.lstrip().startswith('{"contract"'):
        return None
    data = _load_object(line, "event")
    _check_version(data, "event")
    name = data.pop("event", None)
    if not isinstance(name, str) or name not in EVENTS:
        raise refusal(f"The event {shown(repr(name))} is unknown.", "Use an engine of the same release as the module.")
    return build(EVENTS[name], data)


def _load_object(text: str | bytes, what: str) -> dict[str, Any]:
    try:
        data = parse_json(text)
    except ValueError as error:
        raise refusal(f"The {what} is not valid JSON ({error}).", "It may be truncated; run the job again.") from error
    if not isinstance(data, dict):
        raise refusal(f"The {what} is not a JSON object.", "Write the fields as one object.")
    return data


def _check_version(data: dict[str, Any], what: str) -> None:
    version = data.pop("contract", None)
    if type(version) is not int or version != VERSION:  # True and 1.0 equal 1
        raise refusal(
            f"The {what} is of contract version {shown(repr(version))}, but this engine speaks version {VERSION}.",
            "Use module and engine of the same release.",
        )
