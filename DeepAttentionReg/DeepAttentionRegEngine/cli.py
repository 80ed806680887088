"""The command line, and the process that Slicer starts.

`deepattentionreg register FIXED MOVING ...` talks to people; `run JOB.json` takes a job file and prints one JSON event
per line (contract.py). Exit code 0: done, 1: failed, 3: cancelled.
"""

import argparse
import io
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from . import __version__
from .arguments import add_settings
from .console import Console, say
from .deform.allocator import keep_freed_memory
from .protocol import batch, contract, errors
from .protocol.errors import is_out_of_memory, shown
from .protocol.fetching import fetch
from .protocol.files import read_content
from .protocol.owned_folders import PREFIX, remove_left, remove_noted
from .protocol.privacy import Discreet
from .protocol.reporting import Audience, Reporter
from .protocol.settings import Settings
from .protocol.watchdog import Wish, watch

EXIT_FAILED, EXIT_CANCELLED = 1, 3
BATCH_OUTPUTS = tuple(batch.OUTPUTS)
FIELD_HELP = "displacement field (nrrd, nii.gz, mha, h5)"
Emit = Callable[[contract.Event], None]


def emit(event: contract.Event) -> None:
    """Print an event as one line of ASCII JSON; the only place where the engine prints for programs."""
    say(sys.stdout, contract.dump_event(event) + "\n")


def _fill_closed_streams() -> None:
    """Open what was closed of the standard streams, lest an output take its number and get what is printed there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _share_well() -> None:
    """Set up what all of the process has in common, before torch is loaded."""
    # Threads that spin while they wait make PyTorch several times slower as soon as another program uses a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()


def execute(job: contract.Job, send: Emit, read: Sequence[Path] = ()) -> int:
    """Run a job, send its events and return the exit code.

    Args:
        job: What to do.
        send: Gets every event; as an audience it hears of more.
        read: Files besides those that the job names, which it must not write.
    """
    cancellation, finish = Wish(job.cancel_file), Wish(job.finish_file)
    if job.parent_pid is not None:
        watch(job.parent_pid, job.cancel_file)
    try:
        jobs = _load_engine()
        reporter = Reporter(send, cancellation.made, finish.made)
        if isinstance(send, Audience):
            reporter.audience = send
        send(jobs.run(job, reporter, read))
    except errors.EngineError as error:
        send(contract.Failure(error.code, error.message, error.hint))
        return EXIT_CANCELLED if error.code == errors.CANCELLED else EXIT_FAILED
    except KeyboardInterrupt:
        send(contract.Failure(errors.CANCELLED, "The job was interrupted."))
        return EXIT_CANCELLED
    except Exception as error:
        logging.exception("Unexpected error")
        send(
            contract.Failure(
                errors.INTERNAL,
                f"The engine failed unexpectedly ({type(error).__name__}: {shown(error)}).",
                "Please report this with the log.",
            )
        )
        return EXIT_FAILED
    return 0


def _load_engine() -> Any:
    """Import what needs PyTorch, only once there is a job to do.

    Raises:
        EngineError: If PyTorch, NumPy or SimpleITK is missing or damaged.
    """
    try:
        from . import jobs
    except Exception as error:  # a half-installed torch, or one that finds no memory, raises any kind
        if is_out_of_memory(error):
            raise errors.EngineError(
                errors.OUT_OF_MEMORY,
                "There is not enough memory to load PyTorch.",
                "Close other programs, and try again.",
            ) from error
        if not isinstance(error, (ImportError, OSError, AttributeError)):
            raise
        package = str(getattr(error, "name", "")).partition(".")[0]
        if package == __package__:
            raise  # an engine of mixed versions
        if package in ("numpy", "SimpleITK"):
            raise errors.EngineError(
                errors.PACKAGE_MISSING,
                f"{package} cannot be loaded ({error}).",
                f"Install or repair it: Slicer brings it along, elsewhere with pip install {package}.",
            ) from error
        raise errors.EngineError(
            errors.TORCH_MISSING,
            f"PyTorch cannot be loaded ({error}).",
            "Install or repair it: in Slicer through the PyTorch extension, elsewhere with pip install torch.",
        ) from error
    return jobs


def job_from(arguments: argparse.Namespace) -> contract.Job:
    """Return the job that a command line asks for.

    Raises:
        EngineError: If a value is out of range or the job file cannot be read.
    """
    values = dict(vars(arguments))
    task = values.pop("task")
    values.pop("json", None)
    if task == "run":
        return contract.parse_job(read_content(values["job"]))
    values = {name: value for name, value in values.items() if value is not None}
    if task == "batch":
        own: dict[str, Any] = {name: values.pop(name) for name in ("pairs", "output", "outputs") if name in values}
        values = {**own, "settings": values}
    return contract.build(contract.TASKS[task], values)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run the job and return the exit code."""
    _fill_closed_streams()
    try:
        return _main(arguments)
    except KeyboardInterrupt:  # before the job began, or after it ended
        return EXIT_CANCELLED
    finally:
        say(sys.stdout)
        say(sys.stderr)


def _main(arguments: Sequence[str] | None) -> int:
    handler = logging.StreamHandler()
    handler.addFilter(Discreet())
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", handlers=[handler])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # time limits of clusters end jobs so: clean up first
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names need not be text
            stream.reconfigure(errors="backslashreplace")
    parsed = make_parser().parse_args(arguments)
    with suppress(OSError):  # no temporary folder
        remove_left(tempfile.gettempdir(), PREFIX)
    remove_noted()
    if arguments is None:  # those of the process, so it is ours
        _share_well()
    send: Emit = emit
    if parsed.task != "run" and not getattr(parsed, "json", False):
        send = console = Console()
        handler.addFilter(console.give_way)
    try:
        if parsed.task == "fetch":
            send(contract.Result(outputs={"weights": str(fetch(parsed.weights))}))
            return 0
        job = job_from(parsed)
    except errors.EngineError as error:
        send(contract.Failure(error.code, error.message, error.hint))
        return EXIT_FAILED
    logging.getLogger(__name__).info("job %s", asdict(job))
    return execute(job, send, [Path(parsed.job)] if parsed.task == "run" else [])


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names the default of an option where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        prog="deepattentionreg",
        description="Register medical images non-rigidly with recursive attention networks and instance optimisation. "
        "Not a medical device.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    for name, what, add in (
        ("register", "find the deformation between two images", _add_register),
        ("sequence", "register the frames of a time series to one of them", _add_sequence),
        ("batch", "register many pairs, one after another", _add_batch),
    ):
        add(tasks.add_parser(name, help=what, formatter_class=_HelpFormatter))
    _add_warp(tasks.add_parser("warp", help="resample an image through a displacement field"))
    _add_maps(tasks.add_parser("jacobian", help="write a map of how a field stretches tissue"))
    _add_render(tasks.add_parser("render", help="write a sequence of Gaussians as a displacement field on any grid"))
    _add_structures(
        tasks.add_parser("structures", help="find the structures that a network knows", formatter_class=_HelpFormatter)
    )
    metrics = tasks.add_parser("metrics", help="score a displacement field")
    metrics.add_argument("transform", metavar="TRANSFORM", help=FIELD_HELP)
    _add_reference(metrics)
    _add_references(metrics)
    tasks.add_parser("probe", help="show versions and devices")
    fetching = tasks.add_parser("fetch", help="fetch weights that the package for pip leaves out for their licence")
    fetching.add_argument("weights", metavar="ID", help="such as agf-chest-xray-joint")
    for task in tasks.choices.values():
        task.add_argument("--json", action="store_true", help="print one JSON event per line")
    run = tasks.add_parser("run", help="run a job file, for programs")
    run.add_argument("job", metavar="JOB.json", help="job as in contract.py")
    return parser


def _add_reference(parser: argparse.ArgumentParser) -> None:
    about = "image on whose grid to work, usually the fixed one; without it the grid of the field"
    parser.add_argument("--reference", metavar="FILE", help=about)


def _add_warp(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("moving", metavar="MOVING", help="image, label map or .seg.nrrd to resample")
    parser.add_argument("transform", metavar="TRANSFORM", help=FIELD_HELP)
    parser.add_argument("output", metavar="OUTPUT", help="image to write")
    _add_reference(parser)
    parser.add_argument("--labels", action="store_true", help="nearest neighbour, for label maps")
    group = parser.add_argument_group(
        "what it may be where the field errs",
        "Percentiles of every voxel, or what lies inside of labels surely, as likely as not, and possibly. OUTPUT is "
        "what it is without them.",
    )
    about = "bound of the error of the field in mm, which holds with a probability of 95 %%"
    group.add_argument("--error", metavar="FILE", help=about)
    for name, percent, inside in (("low", 5, 95), ("median", 50, 50), ("high", 95, 5)):
        about = f"{percent}th percentile; of labels, what is inside with a probability of {inside} %%"
        group.add_argument(f"--output-{name}", metavar="FILE", help=about)


def _add_maps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("transform", metavar="TRANSFORM", help=FIELD_HELP)
    parser.add_argument("output", metavar="OUTPUT", help="map to write")
    _add_reference(parser)
    parser.add_argument(
        "--map",
        choices=contract.MAPS,
        default="jacobian",
        help="Jacobian determinant (above 1: moving tissue is shrunk into the fixed image, at or "
        "below 0: folded), its logarithm, the displacement in mm, or the folded voxels",
    )


def _add_render(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("gaussians", metavar="GAUSSIANS", help="what --output-gaussians wrote")
    parser.add_argument("reference", metavar="REFERENCE", help="image whose grid the field gets")
    parser.add_argument("output", metavar="OUTPUT", help=FIELD_HELP)


def _add_structures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="image to look at")
    parser.add_argument(
        "output", metavar="OUTPUT", help="segmentation to write: .seg.nrrd with names and colors, else a label map"
    )
    known = {item.name: item.default for item in fields(contract.StructuresJob)}
    add_settings(parser, leave_out=[item.name for item in fields(Settings) if item.name not in known])
    parser.set_defaults(method=known["method"])


def _add_references(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to score with")
    group.add_argument("--fixed-labels", metavar="FILE", help="label map, or .seg.nrrd, of the fixed image")
    group.add_argument("--moving-labels", metavar="FILE", help="that of the moving image: same names, or label values")
    group.add_argument("--fixed-points", metavar="FILE", help="landmarks on the fixed image (mrk.json, fcsv, csv)")
    group.add_argument("--moving-points", metavar="FILE", help="the same landmarks on the moving image, same order")


def _add_register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("fixed", metavar="FIXED", help="image that stays (nrrd, nii.gz, mha, png, ...)")
    parser.add_argument("moving", metavar="MOVING", help="image to deform onto it")
    add_settings(parser)
    group = parser.add_argument_group("where to start and what to look at")
    group.add_argument(
        "--initial-transform",
        metavar="FILE",
        help="linear transform (tfm, h5, mat) that maps fixed to moving points, applied first",
    )
    group.add_argument("--fixed-mask", metavar="FILE", help="where the fixed image drives the registration")
    group.add_argument("--moving-mask", metavar="FILE", help="where the moving image does")
    _add_outputs(parser)
    _add_references(parser)


def _add_sequence(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("fixed", metavar="FIXED", help="frame that stays")
    parser.add_argument("frames", metavar="FRAME", nargs="+", help="frame to deform onto it")
    parser.add_argument("--output", metavar="FOLDER", required=True, help="gets one folder a frame, counted from 1")
    parser.add_argument("--warped", action="store_true", help="also write the frames as deformed")
    add_settings(parser, leave_out=["samples"])


def _add_batch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pairs",
        metavar="PAIRS",
        help="table of files (csv with a header, or json): fixed, moving and, if wanted, name, fixed_labels, "
        "moving_labels, fixed_mask or any other setting of a registration, which then holds for that pair",
    )
    parser.add_argument("output", metavar="FOLDER", help="gets one folder a pair, summary.csv and summary.json")
    parser.add_argument(
        "--outputs",
        nargs="+",
        metavar="NAME",
        choices=BATCH_OUTPUTS,
        help=f"what each pair gets, of {', '.join(BATCH_OUTPUTS)}; without it the first {len(batch.USUAL_OUTPUTS)}",
    )
    add_settings(parser)


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("outputs")
    group.add_argument("--output-transform", metavar="FILE", help="displacement field in mm (nrrd, nii.gz, mha, h5)")
    group.add_argument("--output-warped", metavar="FILE", help="moving image on the fixed grid")
    group.add_argument("--output-jacobian", metavar="FILE", help="Jacobian determinant on the fixed grid")
    group.add_argument(
        "--output-uncertainty", metavar="FILE", help="spread of the displacement in mm on the fixed grid"
    )
    group.add_argument(
        "--output-error", metavar="FILE", help="bound of the error in mm that holds for 95 %%, where it is known"
    )
    group.add_argument(
        "--output-changes",
        metavar="FILE",
        help="how surely what is there has no counterpart, 0 to 1, on the fixed grid",
    )
    group.add_argument("--output-warped-labels", metavar="FILE", help="moving labels on the fixed grid")
    group.add_argument(
        "--output-structures",
        metavar="FOLDER",
        help="folder for the structures that the network tells apart on both images, and what became of them",
    )
    group.add_argument("--output-recursions", metavar="FOLDER", help="folder for the field after every recursion")
    group.add_argument("--recursion-voxels", type=int, metavar="N", help="voxels at most of each of these fields")
    group.add_argument("--attention", action="store_true", help="put what the network attended to there, too")
    group.add_argument(
        "--output-gaussians",
        metavar="FILE",
        help="the sequence of Gaussians of r2n2 (json), which is then what refinement works on",
    )


if __name__ == "__main__":
    sys.exit(main())
