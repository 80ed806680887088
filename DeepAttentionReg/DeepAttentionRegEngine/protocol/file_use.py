"""Which files a job and a header read, and where a job writes meanwhile. Standard library only."""

import dataclasses
import glob
import os
import re
from contextlib import suppress
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar

from . import errors
from .contract import METHOD_NONE, Job
from .files import unfit
from .outputs import Outputs, Places
from .registry import load_method, method_files
from .result_files import FOLDER_KINDS

META, NRRD = (".mha", ".mhd"), (".nrrd", ".nhdr")
PAIRED = re.compile(r"\.(hdr|img)(\.gz)?$", re.IGNORECASE)
LONGEST_HEADER = 2**20
FIELDS = {
    META: re.compile(r"ElementDataFile[ \t]*[=:][ \t]*([^\r\n]*)"),
    NRRD: re.compile(r"(?:^|[\r\n])[ \t]*data ?file[ \t]*:(?!=)[ \t]*([^\r\n]*)", re.IGNORECASE),
}
# One number, as in "slice_%03d.raw 1 20 1"; whatever else "%" stands for, a header has no use of.
PATTERN = re.compile(r"[^%]*%\d{0,2}[diu][^%]*")

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
    inside = [file for name, kind in FOLDER_KINDS.items() if name in outputs for file in kind.files(outputs.pop(name))]
    return [*outputs.values(), *inside]


def staged(job: AnyJob, outputs: Outputs) -> AnyJob:
    """Return a job that writes where its outputs lie until all are there.

    Raises:
        EngineError: If an output is read, too, cannot be written, or would replace what no registration has made.
    """
    changes: dict[str, Any] = {}
    for name, value in _outputs(job).items():
        if name in FOLDER_KINDS:
            for file in FOLDER_KINDS[name].files(Path(value)):
                outputs.require_unread(file)
            FOLDER_KINDS[name].require_own(Path(value))
            changes[name] = outputs.place_folder(value)
        else:
            changes[name] = outputs.place(value)
            _require_elsewhere(Path(value), job)
    return dataclasses.replace(job, **changes)


def _require_elsewhere(file: Path, job: Job) -> None:
    """Check that an output is not named as one of the files of a folder that the job fills."""
    for name, folder in _outputs(job).items():
        kind = FOLDER_KINDS.get(name)
        if kind is not None and kind.names.fullmatch(file.name) and file.parent in Places([folder]):
            what = f"The file {file} would be written twice."
            raise errors.EngineError(errors.OUTPUT_UNWRITABLE, what, "Choose another name.")


def _outputs(job: Job) -> dict[str, Any]:
    return {name: value for name, value in vars(job).items() if name.startswith("output") and isinstance(value, str)}


def header_text(path: Path) -> str:
    """Return the beginning of a file, which holds its whole header."""
    with path.open("rb") as stream:
        return stream.read(LONGEST_HEADER).decode("latin-1")


def named_data(path: Path) -> list[str]:
    """Return what a header of MetaImage or NRRD names as its data: files, lists of files and patterns of such.

    A file of another kind names nothing.
    """
    field = next((field for suffixes, field in FIELDS.items() if path.name.lower().endswith(suffixes)), None)
    if field is None:
        return []
    text, names = header_text(path), []
    for match in field.finditer(text):
        value = match[1].strip()
        if value.upper().startswith("LIST"):
            names += [line.strip() for line in text[match.end() :].splitlines() if line.strip()]
        elif value.upper() != "LOCAL":
            names.append(value)
    return names


def require_beside(path: str | Path) -> None:
    """Refuse a header that names data elsewhere than beside or below it, whose content would pass for voxels.

    Raises:
        EngineError: Naming the header.
    """
    for name in named_data(Path(path)):
        parts = PureWindowsPath(name)  # which knows the separators of all systems
        if ".." in parts.parts or parts.anchor or os.path.isabs(name):
            what = "names a file outside of its own folder as its voxels"
            raise unfit(path, what, "Put both into one folder, and write the name alone into the header.")
        if "%" in name and not PATTERN.fullmatch(name):
            raise unfit(path, "names its voxels by a pattern that makes no sense", "Correct its header.")


def with_data(path: Path) -> list[Path]:
    """Return an image file and those with the voxels that it only describes, as far as they are there."""
    pair = PAIRED.search(str(path))
    if pair is not None:
        others = [Path(str(path)[: pair.start()] + end) for end in (".hdr", ".img", ".hdr.gz", ".img.gz")]
        return [path, *(other for other in others if other != path and os.path.isfile(other))]
    try:
        names = named_data(path)
    except (OSError, ValueError):  # it is not there, or cannot be, which is told when it is read
        names = []
    return [path, *(Path(file) for name in names if name for file in _files(path.parent, name))]


def _files(folder: Path, name: str) -> list[str]:
    """Return the files that a name or a pattern such as "slice_%03d.raw 1 20 1" stands for."""
    start, pattern, _ = name.partition("%")
    if pattern:
        return sorted(glob.glob(glob.escape(str(folder / start)) + "*"))
    file = str(folder / name)
    return [file] if os.path.isfile(file) else []
