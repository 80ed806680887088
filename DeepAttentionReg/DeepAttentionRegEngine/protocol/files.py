"""Reading and writing files so that a failure is one sentence and leaves nothing half-written."""

import contextlib
import os
import re
import shutil
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from . import errors
from .outputs import Outputs, reason, require_place, unwritable

# What ITK, gzip, zlib and struct raise for files that are damaged or of another kind.
DAMAGES = (RuntimeError, OSError, EOFError, zlib.error, struct.error)

T = TypeVar("T")


def read_file(path: str | Path, reader: Callable[[str], T]) -> T:
    """Return what a reader makes of a file.

    Raises:
        EngineError: If the file is missing, a folder, or the reader raises one of `DAMAGES`.
    """
    if Path(path).is_dir():
        hint = "Choose a file; load a DICOM folder in Slicer and export the volume first."
        raise errors.EngineError(errors.INPUT_UNREADABLE, f"{path} is a folder, not a file.", hint)
    if not Path(path).is_file():
        raise errors.EngineError(errors.INPUT_MISSING, f"The file {path} does not exist.", "Check its path.")
    try:
        return reader(str(path))
    except DAMAGES as error:
        raise unreadable(path, error) from error


def unreadable(path: str | Path, error: Exception | str = "") -> errors.EngineError:
    """Return the error of a file whose content makes no sense to its reader, with what that says of it."""
    lines = str(error).strip().splitlines()
    reason = re.sub(r"^.*\(0x[0-9a-f]+\): |^(itk|sitk)::ERROR: ", "", lines[-1]).rstrip(".")[:200] if lines else ""
    return errors.EngineError(
        errors.INPUT_UNREADABLE,
        f"The file {path} cannot be read: it is damaged, truncated or of a kind unknown here"
        + (f" ({reason})." if reason else "."),
        "Open it in Slicer and export it again.",
    )


def unfit(path: str | Path, what: str, hint: str) -> errors.EngineError:
    """Return the error of a file that can be read but not used; `what` goes on after its name."""
    return errors.EngineError(errors.INPUT_INVALID, f"The file {path} {what}.", hint)


def write_file(
    path: str | Path, suffixes: Sequence[str], write: Callable[[str], object], complete: Callable[[str], bool]
) -> None:
    """Write under a temporary name beside the target, read it back, then rename it.

    Args:
        path: File to write.
        suffixes: Extensions the writer knows; the temporary name has the same.
        write: Writes to the name it is given.
        complete: Reads that file and returns whether all of it is there; some writers say nothing of a full disk.

    Raises:
        EngineError: If it cannot be written; an existing file is then untouched.
    """
    path = Path(path)
    suffix = _suffix(path, suffixes)
    with Outputs() as outputs:
        temporary = outputs.place(path, f"new{suffix}")
        try:
            write(temporary)
        except DAMAGES as error:
            raise unwritable(path, reason(path, error)) from error
        if not _is_complete(temporary, complete):
            raise unwritable(path, "only a part arrived, or its format cannot hold such data")


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files, all of them or none.

    Args:
        contents: What goes into each file; existing ones are replaced.

    Raises:
        EngineError: If one cannot be written; all are then as they were.
    """
    with Outputs() as outputs:
        for path, content in contents.items():
            temporary = outputs.place(path)
            try:
                Path(temporary).write_bytes(content)
            except OSError as error:
                raise unwritable(path, reason(path, error)) from error


def make_folder(path: str | Path) -> None:
    """Make a folder, and those it lies in, unless it is there.

    Raises:
        EngineError: If nothing can be written there.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, (error.strerror or str(error)).lower()) from error
    if not os.access(path, os.W_OK):
        raise unwritable(path, "the folder is read-only")


def require_writable(path: str | Path, suffixes: Sequence[str]) -> None:
    """Check what can be known before a file is written: its extension and its folder.

    Args:
        path: File to be written.
        suffixes: Extensions the writer knows.

    Raises:
        EngineError: If it could not be written.
    """
    _suffix(Path(path), suffixes)
    require_place(Path(path))


def _suffix(path: Path, suffixes: Sequence[str]) -> str:
    suffix = next((suffix for suffix in suffixes if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise unwritable(path, "its name must end in one of " + ", ".join(suffixes))
    return suffix


def _is_complete(temporary: str, complete: Callable[[str], bool]) -> bool:
    try:
        return complete(temporary)
    except (errors.EngineError, *DAMAGES):
        return False


def require_space(path: str | Path, size: int) -> None:
    """Check that so many bytes fit beside a file.

    Raises:
        EngineError: If they do not.
    """
    with contextlib.suppress(OSError):  # a missing folder is reported when writing
        free = shutil.disk_usage(Path(path).parent).free
        if free < size:
            raise unwritable(Path(path), f"it needs {size / 1e6:.0f} MB, but {free / 1e6:.0f} MB are free")
