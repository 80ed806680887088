"""Which files a job reads, and where it writes meanwhile. Standard library only."""

import dataclasses
import glob
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from . import errors
from .contract import METHOD_NONE, Job
from .outputs import Outputs, Places
from .registry import load_method, method_files
from .result_files import RECURSION_FILE, recursion_files, require_own_recursions

PAIRED = (".hdr", ".img")
DETACHED = (".mhd", ".nhdr")
FOLDERS = ("output_recursions",)  # outputs that are folders

AnyJob = TypeVar("AnyJob", bound=Job)


def files_read(job: Job) -> list[Path]:
    """Return the files that a job reads, whether they are there or not, those with the voxels of others among them.

    What it is told besides file names may be among them, too; there are no files of such names.
    """
    values = {name: value for name, value in vars(job).items() if not name.startswith("output")}
    named = [item for value in values.values() for item in (value if isinstance(value, list) else [value])]
    files = [part for item in named if isinstance(item, str) and item for part in with_data(Path(item))]
    method = values.get("method", METHOD_NONE)
    if method != METHOD_NONE:
        with suppress(errors.EngineError):  # the job itself will complain
            files += method_files(method, load_method(method), values["weights"])
    return files


def files_written(job: Job) -> list[Path]:
    """Return the files that a job replaces or makes, as far as that is known before."""
    outputs = {name: Path(value) for name, value in _outputs(job).items()}
    folders = [outputs.pop(name) for name in FOLDERS if name in outputs]
    return [*outputs.values(), *(file for folder in folders for file in recursion_files(folder))]


def staged(job: AnyJob, outputs: Outputs) -> AnyJob:
    """Return a job that writes where its outputs lie until all are there.

    Raises:
        EngineError: If an output is read, too, cannot be written, or would replace what no registration has made.
    """
    changes: dict[str, Any] = {}
    for name, value in _outputs(job).items():
        if name in FOLDERS:
            for file in recursion_files(Path(value)):
                outputs.require_unread(file)
            require_own_recursions(Path(value))
            changes[name] = outputs.place_folder(value)
        else:
            changes[name] = outputs.place(value)
            _require_elsewhere(Path(value), job)
    return dataclasses.replace(job, **changes)


def _require_elsewhere(file: Path, job: Job) -> None:
    """Check that an output is not named as one of the files of a folder that the job fills."""
    folders = Places(value for name, value in _outputs(job).items() if name in FOLDERS)
    if RECURSION_FILE.fullmatch(file.name) and file.parent in folders:
        what = f"The file {file} would be written twice."
        raise errors.EngineError(errors.OUTPUT_UNWRITABLE, what, "Choose another name.")


def _outputs(job: Job) -> dict[str, Any]:
    return {name: value for name, value in vars(job).items() if name.startswith("output") and isinstance(value, str)}


def with_data(path: Path) -> list[Path]:
    """Return an image file and those with the voxels that it only describes."""
    suffix = path.suffix.lower()
    if suffix in PAIRED:
        return [path, *(path.with_suffix(other) for other in PAIRED if other != suffix)]
    if suffix not in DETACHED or not path.is_file():
        return [path]
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    named = (re.split("[:=]", line, maxsplit=1)[-1].strip() for line in lines)
    return [path, *(Path(file) for name in named if name for file in _named(path.parent, name))]


def _named(folder: Path, name: str) -> list[str]:
    """Return the files that a header names, if it does: one, or those of a pattern such as "slice_%03d.raw 1 20 1"."""
    start, pattern, _ = name.partition("%")
    if pattern:
        return sorted(glob.glob(glob.escape(str(folder / start)) + "*"))
    file = str(folder / name)
    return [file] if os.path.isfile(file) else []
