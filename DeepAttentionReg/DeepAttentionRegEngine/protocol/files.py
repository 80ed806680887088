"""Reading and writing files so that a failure is one sentence and leaves nothing half-written."""

import contextlib
import csv
import errno
import json
import math
import os
import re
import shutil
import stat
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from . import errors
from .errors import is_out_of_memory, is_text, shown, unreachable
from .outputs import Outputs, reason, require_name, require_place, unwritable

# What ITK, gzip, zlib and struct raise for files that are damaged or of another kind.
DAMAGES = (RuntimeError, OSError, EOFError, zlib.error, struct.error)

MOST_DIGITS = 30
DEEPEST = 50  # objects and lists within each other; what is read here has some five
TOO_DEEP = "it is nested too deep"
# What Python raises where content is not of the kind, shape or size that its reader expects.
MISSHAPEN = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, csv.Error)

T = TypeVar("T")


def read_file(path: str | Path, reader: Callable[[str], T]) -> T:
    """Return what a reader makes of a file.

    Raises:
        EngineError: If the file is missing, a folder, not to be read, or the reader raises one of `DAMAGES` or
            `MISSHAPEN`; if memory runs out, that is said.
    """
    require_readable(path)
    try:
        return reader(str(path))
    except (MemoryError, *DAMAGES, *MISSHAPEN) as error:
        if is_out_of_memory(error):
            raise errors.EngineError(
                errors.OUT_OF_MEMORY,
                f"There is not enough memory to read the file {shown(path)}.",
                "Close other programs, or crop or down-sample the volume.",
            ) from error
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
            raise unreachable(path, error) from error
        raise unreadable(path, error) from error


def require_readable(path: str | Path) -> None:
    """Check that a file is there, is one, and may be read.

    Raises:
        EngineError: With what is in the way.
    """
    try:
        if not is_text(str(path)):
            raise ValueError
        kind = os.stat(path).st_mode
        if stat.S_ISREG(kind):
            open(path, "rb").close()
    except (OSError, ValueError) as error:
        raise unreachable(path, error) from error
    if stat.S_ISDIR(kind):
        hint = "Choose a file; load a DICOM folder in Slicer and export the volume first."
        raise errors.EngineError(errors.INPUT_UNREADABLE, f"{shown(path)} is a folder, not a file.", hint)
    if not stat.S_ISREG(kind):
        raise errors.EngineError(
            errors.INPUT_UNREADABLE, f"{shown(path)} is no ordinary file but a device or a pipe.", "Choose a file."
        )


def read_content(path: str | Path) -> bytes:
    """Return all that a file holds.

    Raises:
        EngineError: As `read_file`.
    """
    return read_file(path, lambda name: Path(name).read_bytes())


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: If it is no JSON, nested too deep, or holds a number that is out of all range.

    Examples:
        >>> parse_json('{"a": [1, 2.5]}')
        {'a': [1, 2.5]}
    """
    try:
        found = json.loads(text, parse_int=_whole, parse_float=_finite)
        _require_shallow(found)
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error
    return found


def _require_shallow(value: Any) -> None:
    """Refuse what functions that call themselves, as those that copy and print do, would not survive."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            part
            for item in level
            if isinstance(item, (dict, list))
            for part in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise ValueError(TOO_DEEP)


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        msg = f"it holds a whole number of {len(digits)} digits"
        raise ValueError(msg)
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        msg = "it holds a number that is out of range"
        raise ValueError(msg)
    return number


def read_description(path: Path, make: Callable[[Any], T], hint: str = "Install the extension again.") -> T:
    """Return what `make` builds from a JSON file.

    Args:
        path: The file.
        make: May refuse what makes no sense by one of `MISSHAPEN`.
        hint: How to mend a damaged one.

    Raises:
        EngineError: If it cannot be read, or is damaged.
    """
    content = read_content(path)
    try:
        return make(parse_json(content))
    except (errors.EngineError, *MISSHAPEN) as error:
        reason = shown(error.message if isinstance(error, errors.EngineError) else error).rstrip(".")
        told = f"The file {shown(path.name)} is damaged ({reason})."
        raise errors.EngineError(errors.WEIGHTS_CORRUPT, told, hint) from error


def unreadable(path: str | Path, error: Exception | str = "") -> errors.EngineError:
    """Return the error of a file whose content makes no sense to its reader, with what that says of it."""
    lines = str(error).strip().splitlines()
    reason = re.sub(r"^.*\(0x[0-9a-f]+\): |^(itk|sitk)::ERROR: ", "", lines[-1]).rstrip(".") if lines else ""
    return errors.EngineError(
        errors.INPUT_UNREADABLE,
        f"The file {shown(path)} cannot be read: it is damaged, truncated or of a kind unknown here"
        + (f" ({shown(reason)})." if reason else "."),
        "Open it in Slicer and export it again.",
    )


def unfit(path: str | Path, what: str, hint: str) -> errors.EngineError:
    """Return the error of a file that can be read but not used; `what` goes on after its name."""
    return errors.EngineError(errors.INPUT_INVALID, f"The file {shown(path)} {what}.", hint)


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
    require_name(path)
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
    require_name(path)
    suffix = next((suffix for suffix in suffixes if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise unwritable(path, "its name must end in one of " + ", ".join(suffixes))
    return suffix


def _is_complete(temporary: str, complete: Callable[[str], bool]) -> bool:
    try:
        return complete(temporary)
    except (errors.EngineError, *DAMAGES, *MISSHAPEN):
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
