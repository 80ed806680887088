"""Registers many pairs, one after another: a table in, a folder per pair and a summary out. Standard library only.

pair_table.py says what the table may hold. What a pair says itself takes the place of the settings of the batch. Its
outputs go to its folder, together with `result.json`, by which a finished pair is known and left alone when the batch
runs again, unless something that the result was made from has changed (memo.py), or the result itself. `summary.csv`
and `summary.json` have one row a pair and are up to date after each.
"""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import errors
from .contract import BatchJob, Event, Progress, RegisterJob, Result, build
from .errors import shown
from .file_use import files_read, files_written, staged
from .files import MISSHAPEN, make_folder, parse_json, unfit, write_together
from .memo import Contents, made_from, proof
from .outputs import Outputs, Places
from .pair_table import Pair, read_pairs
from .privacy import csv_text, discreet_logger, without_folders_within
from .reporting import Reporter
from .result_files import RESULT, read_result, require_own, require_own_results, write_result

SUMMARY = "summary"
SUMMARY_HEADS = {".csv": "name,status,", ".json": '[\n {\n  "name": '}
OUTPUTS = {
    "transform": "transform.nrrd",
    "warped": "warped.nrrd",
    "jacobian": "jacobian.nrrd",
    "warped_labels": "warped_labels.nrrd",
    "uncertainty": "uncertainty.nrrd",
    "error": "error.nrrd",
    "structures": "structures",
    "changes": "changes.nrrd",
}
# Segments may overlap, which a label map cannot hold.
SEGMENTATION_SUFFIX = ".seg.nrrd"
USUAL_OUTPUTS = ("transform", "warped", "jacobian", "warped_labels")
# Where each number of the summary is found among the values of a result.
MEASURES = {
    "dice_before": ("before", "dice", "mean"),
    "dice_after": ("after", "dice", "mean"),
    "hd95_mm_before": ("before", "hd95_mm", "mean"),
    "hd95_mm_after": ("after", "hd95_mm", "mean"),
    "predicted_dice_before": ("structures", "before", "dice", "mean"),
    "predicted_dice_after": ("structures", "after", "dice", "mean"),
    "tre_mm_before": ("before", "tre_mm", "mean"),
    "tre_mm_after": ("after", "tre_mm", "mean"),
    "displacement_mm_max": ("displacement_mm", "max"),
    "jacobian_min": ("jacobian", "minimum"),
    "fold_percent": ("jacobian", "fold_percent"),
    "uncertainty_mm_mean": ("uncertainty_mm", "mean"),
    "error_within_mm_median": ("expected_error", "mm", "median"),
    "error_within_mm_p95": ("expected_error", "mm", "p95"),
    "failure_probability": ("expected_error", "probability"),
    "changes_total": ("changes", "total"),
}
COLUMNS = ("name", "status", "fixed", "moving", "method", *MEASURES, "seconds", "message")
DONE, FAILED, OPEN = "done", "failed", "not done"

Run = Callable[[RegisterJob, Reporter], Result]
logger = discreet_logger(__name__)


def job_of(pair: Pair, job: BatchJob) -> RegisterJob:
    """Return the registration of a pair.

    Raises:
        EngineError: If a value makes no sense.
    """
    folder = Path(os.path.abspath(job.output)) / pair.name
    wanted = USUAL_OUTPUTS if job.outputs is None else job.outputs
    given = {**(job.settings or {}), **pair.fields}
    has_segments = str(given.get("moving_labels")).lower().endswith(SEGMENTATION_SUFFIX)
    names = {**OUTPUTS, "warped_labels": f"warped_labels{SEGMENTATION_SUFFIX}"} if has_segments else OUTPUTS
    values = {**{f"output_{name}": names[name] for name in wanted}, **given}
    if "warped_labels" not in (job.outputs or ()) and values.get("moving_labels") is None:
        values.pop("output_warped_labels", None)
    for name, value in values.items():
        if name.startswith("output_") and isinstance(value, str):
            values[name] = _inside_folder(folder, value)
    return build(RegisterJob, values)


def _inside_folder(folder: Path, file: str) -> str:
    """Return an output of a pair, which stays within the folder of that pair whatever the table says.

    Raises:
        EngineError: If it would not.
    """
    path = os.path.normpath(folder / file)
    if not Path(path).is_relative_to(folder) or Path(path) == folder:
        raise errors.EngineError(
            errors.CONTRACT,
            f"The output {shown(file)} is not in the folder of its pair.",
            "Give a name without a folder before it.",
        )
    return path


@dataclass
class _Row:
    """A pair on its way: its job, or why there is none, and what became of it."""

    pair: Pair
    folder: Path
    table: Path
    job: RegisterJob | None = None
    result: Result | None = None
    failure: str = ""

    @property
    def status(self) -> str:
        return FAILED if self.failure else OPEN if self.result is None else DONE

    @property
    def message(self) -> str:
        return self.failure or " ".join(self.result.warnings if self.result is not None else ())

    def fail(self, error: Exception) -> None:
        """Take an error as why there is no result."""
        if not isinstance(error, errors.EngineError):
            logger.error("The pair %s failed", self.pair.name, exc_info=error)
        unexpected = f"It failed unexpectedly ({type(error).__name__}: {shown(error)})."
        self.result, self.failure = None, str(error) if isinstance(error, errors.EngineError) else unexpected

    def cells(self) -> dict[str, Any]:
        """Return the row of the summary; None for what was not measured."""
        values = {} if self.result is None else self.result.values
        numbers = {name: _look_up(values, keys) for name, keys in MEASURES.items()}
        stages = values.get("seconds")
        spent = [_number(value) or 0 for value in stages.values()] if isinstance(stages, dict) else []
        seconds = round(sum(spent), 1) if spent else None
        files = {side: self._in_table(self.pair.fields.get(side)) for side in ("fixed", "moving")}
        method = values.get("method")
        named = {**files, "method": method if isinstance(method, str) else None}
        head = {"name": self.pair.name, "status": self.status, **named}
        return {**head, **numbers, "seconds": seconds, "message": self.message}

    def _in_table(self, file: Any) -> Any:
        """Return an input by its path from the folder of the table, as long as it lies in there."""
        return file.removeprefix(str(self.table.parent) + os.sep) if isinstance(file, str) else file

    def remembered(self, contents: Contents) -> Result | None:
        """Return what an earlier run left; None if it did not end, or a file or setting is not what it was.

        Raises:
            EngineError: If the method of the job cannot be read, or takes no such settings.
        """
        try:
            result, memo = read_result(self.folder)
        except errors.EngineError:
            return None
        outputs = memo.get("outputs")
        files = {Path(file): Path(file) for file in outputs} if isinstance(outputs, dict) else {}
        same = self.job is not None and memo == {**made_from(self.job, contents), **proof(result, files, contents)}
        return result if same else None

    def do(self, job: RegisterJob, contents: Contents, reporter: Reporter, run: Run, *, own: bool) -> None:
        """Register the pair; its outputs and the file that it is known by appear together.

        Args:
            job: That of the row.
            contents: Hashes files.
            reporter: Told how it goes.
            run: Runs the registration.
            own: Whether a summary tells that the files in its folder come from a registration.

        Raises:
            EngineError: If it fails; then all is as it was.
        """
        made = made_from(job, contents)  # before: what is replaced meanwhile is taken for changed when in doubt
        inside = [file for file in files_written(job) if file.is_relative_to(self.folder)]
        require_own_results(self.folder, () if own else inside)
        with Outputs(files_read(job)) as outputs:
            outputs.make_folder(self.folder)
            result = run(staged(job, outputs), reporter)
            result = dataclasses.replace(
                result, outputs={name: outputs.final(file) for name, file in result.outputs.items()}
            )
            known = {**made, **proof(result, outputs.files(), contents)}
            write_result(Path(outputs.place(self.folder / RESULT)).parent, result, known)
        self.result = result


def _look_up(values: Any, keys: Iterable[str]) -> float | None:
    """Return a number among nested values, to 6 digits; None if it is not there."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    number = _number(values)
    return float(f"{number:.6g}") if isinstance(number, float) else number


def _number(value: Any) -> float | None:
    """Return a number; None for anything else, which a damaged record may hold."""
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def run_batch(job: BatchJob, reporter: Reporter, run: Run) -> Result:
    """Register the pairs of a table.

    Args:
        job: What to do.
        reporter: Told of every pair; polled for cancellation, and after each pair for whether that is enough.
        run: Runs the registration of one.

    Returns:
        The files of the summary, how many pairs were done, and a warning for each that failed.

    Raises:
        EngineError: If the table or the folder cannot be used, no pair could be registered, or it was canceled; what
            was done by then stays, and is not done again.
    """
    unknown = next((name for name in job.outputs or () if name not in OUTPUTS), None)
    if unknown is not None:
        raise errors.EngineError(errors.CONTRACT, f"There is no output {unknown!r}.", f"Known: {', '.join(OUTPUTS)}.")
    folder = Path(os.path.abspath(job.output))
    table = Path(os.path.abspath(job.pairs))
    rows = [_Row(pair, folder / pair.name, table) for pair in read_pairs(table)]
    contents = Contents()
    for row in rows:
        _prepare(row, job, contents)
    summaries = {folder / f"{SUMMARY}{suffix}": head for suffix, head in SUMMARY_HEADS.items()}
    _refuse_collisions(rows, Path(job.pairs), summaries)
    for summary, head in summaries.items():
        require_own(summary, head)
    own = _done_before(folder)
    make_folder(folder)
    resumed = sum(row.status == DONE for row in rows)
    files = _summarize(rows, folder)
    reporter.audience.count(*_counts(rows).values())
    for index, row in enumerate(rows):
        if reporter.enough():
            break
        if row.job is not None and row.status == OPEN:
            inside = _inside(reporter, index, len(rows), row.pair.name)
            _register(row, functools.partial(row.do, row.job, contents, inside, run, own=row.pair.name in own))
            _summarize(rows, folder)
            reporter.audience.count(*_counts(rows).values())
    return _result(rows, files, resumed)


def _done_before(folder: Path) -> set[str]:
    """Return the names of the pairs that the summary of an earlier run has as done."""
    try:
        cells = parse_json((folder / f"{SUMMARY}.json").read_bytes())
        return {row["name"] for row in cells if row["status"] == DONE}
    except (OSError, *MISSHAPEN):
        return set()


def _prepare(row: _Row, job: BatchJob, contents: Contents) -> None:
    """Say what is to be done for a row, or what an earlier run has done; what is wrong concerns the row alone."""
    try:
        row.job = job_of(row.pair, job)
        row.result = row.remembered(contents)
    except Exception as error:
        row.fail(error)


def _refuse_collisions(rows: list[_Row], table: Path, summaries: Iterable[Path]) -> None:
    """Let rows fail whose files would be written twice, or both read and written.

    Raises:
        EngineError: If it is the table that would be replaced by the summary.
    """
    own = {row.folder: [*files_written(row.job), row.folder / RESULT] for row in rows if row.job is not None}
    every = Places([*summaries, *(file for files in own.values() for file in files)])
    written, read = Places(summaries), Places([table])
    if any(summary in read for summary in summaries):
        raise unfit(table, "would be both read and written", "Choose another folder for the results.")
    for row in rows:
        files = own.get(row.folder, []) if row.job is not None else []
        given = [] if row.job is None else files_read(row.job)
        both = [*(file for file in given if file in every), *(file for file in files if file in read)]
        twice = [file for file in files if file in written]
        if both:
            row.fail(unfit(both[0], "would be both read and written", "Choose another name for the output."))
        elif twice:
            row.fail(unfit(twice[0], "would be written by two pairs", "Give each its own output."))
        for file in files:
            written.add(file)


def _inside(outer: Reporter, index: int, of: int, name: str) -> Reporter:
    """Return a reporter that passes the progress of one pair on; a request to finish does not cut the pair short."""

    def tell(event: Event) -> None:
        if isinstance(event, Progress):
            outer.audience.within(name, event)
            outer.emit(Progress("pair", index, of, f"{name}: {event.message}"))

    return Reporter(tell, outer.cancelled, audience=outer.audience)


def _register(row: _Row, do: Callable[[], None]) -> None:
    """Register the pair of a row; what goes wrong with it concerns the row alone.

    Raises:
        EngineError: If it was canceled.
    """
    try:
        do()
    except Exception as error:
        if isinstance(error, errors.EngineError) and error.code == errors.CANCELLED:
            raise
        row.fail(error)


def _summarize(rows: list[_Row], folder: Path) -> dict[str, str]:
    """Write the summary and return its files by kind."""
    cells = without_folders_within([row.cells() for row in rows])
    files = {"summary": folder / f"{SUMMARY}.csv", "summary_json": folder / f"{SUMMARY}.json"}
    texts = (
        csv_text([COLUMNS, *([row[name] for name in COLUMNS] for row in cells)]),
        json.dumps(cells, indent=1, allow_nan=False),
    )
    write_together(
        {file: text.encode(errors="backslashreplace") for file, text in zip(files.values(), texts, strict=True)}
    )
    return {kind: str(path) for kind, path in files.items()}


def _counts(rows: list[_Row]) -> dict[str, int]:
    return {status: sum(row.status == status for row in rows) for status in (DONE, FAILED, OPEN)}


def _result(rows: list[_Row], files: dict[str, str], resumed: int) -> Result:
    counts = _counts(rows)
    failures = [f"{row.pair.name}: {row.failure}" for row in rows if row.failure]
    if not counts[DONE] and failures:
        raise errors.EngineError(
            errors.INPUT_INVALID,
            f"None of the {len(rows)} pairs could be registered. {failures[0]}",
            f"See {files['summary']}.",
        )
    return Result(files, {"pairs": len(rows), **counts, "resumed": resumed}, failures)
