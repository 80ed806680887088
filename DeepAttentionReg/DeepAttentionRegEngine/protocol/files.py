"""Reading and writing files so that a failure is one sentence and leaves nothing half-written."""

import contextlib
import errno
import os
import re
import shutil
import struct
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from . import errors

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
    temporary = path.with_name(f".{uuid.uuid4().hex}{suffix}")
    try:
        write(str(temporary))
        if not _is_complete(temporary, complete):
            raise _unwritable(path, "only a part arrived, or its format cannot hold such data")
        os.replace(temporary, path)
    except DAMAGES as error:
        raise _unwritable(path, _reason(path, error)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files, all of them or none.

    Args:
        contents: What goes into each file; existing ones are replaced.

    Raises:
        EngineError: If one cannot be written; all are then as they were.
    """
    mark = uuid.uuid4().hex
    fresh = {path: path.with_name(f".{mark}.new{number}") for number, path in enumerate(contents)}
    former = {path: path.with_name(f".{mark}.old{number}") for number, path in enumerate(contents)}
    touched: list[Path] = []
    try:
        for path, content in contents.items():
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "Is a directory")
            fresh[path].write_bytes(content)
        for path in contents:
            if path.exists():
                os.replace(path, former[path])
            touched.append(path)
            os.replace(fresh[path], path)
    except OSError as error:
        for done in touched:
            _put_back(done, former[done])
        raise _unwritable(path, _reason(path, error)) from error
    finally:
        for part in (*fresh.values(), *former.values()):
            with contextlib.suppress(OSError):
                part.unlink()


def _put_back(path: Path, former: Path) -> None:
    with contextlib.suppress(OSError):
        os.replace(former, path) if former.exists() else path.unlink()


def make_folder(path: str | Path) -> None:
    """Make a folder, and those it lies in, unless it is there.

    Raises:
        EngineError: If nothing can be written there.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise _unwritable(path, reason) from error
    if not os.access(path, os.W_OK):
        raise _unwritable(path, "the folder is read-only")


def require_writable(path: str | Path, suffixes: Sequence[str]) -> None:
    """Check what can be known before a file is written: its extension and its folder.

    Args:
        path: File to be written.
        suffixes: Extensions the writer knows.

    Raises:
        EngineError: If it could not be written.
    """
    path = Path(path)
    _suffix(path, suffixes)
    if path.is_dir():
        raise _unwritable(path, "it is a folder")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise _unwritable(path, _reason(path, OSError()))


def _suffix(path: Path, suffixes: Sequence[str]) -> str:
    suffix = next((suffix for suffix in suffixes if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise _unwritable(path, "its name must end in one of " + ", ".join(suffixes))
    return suffix


def _is_complete(temporary: Path, complete: Callable[[str], bool]) -> bool:
    try:
        return complete(str(temporary))
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
            raise _unwritable(Path(path), f"it needs {size / 1e6:.0f} MB, but {free / 1e6:.0f} MB are free")


def _reason(path: Path, error: Exception) -> str:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist"
    if not os.access(path.parent, os.W_OK):
        return f"the folder {path.parent} is read-only"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "the disk may be full, or the format cannot hold such data"


def _unwritable(path: Path, why: str) -> errors.EngineError:
    return errors.EngineError(
        errors.OUTPUT_UNWRITABLE,
        f"The file {path} cannot be written: {why}.",
        "Check the name, the folder, its permissions and the free disk space.",
    )
