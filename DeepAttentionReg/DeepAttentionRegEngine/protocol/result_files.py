"""The files that folders of results are known by. Standard library only."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import errors
from .contract import VERSION, Result, build
from .files import MISSHAPEN, parse_json, read_content, unreadable, write_file

RESULT = "result.json"
RECURSIONS = "recursions.json"
STRUCTURES = "structures.json"
STRUCTURE_FILES = {side: f"{side}_structures.seg.nrrd" for side in ("fixed", "moving", "warped")}
HEAD = '{\n "contract": '  # both begin with it


def write_result(folder: str | Path, result: Result, memo: Mapping[str, Any] | None = None) -> Path:
    """Write what came of a job, and if wanted by what the result is known again, and return the file.

    Raises:
        EngineError: If it cannot be written.
    """
    told = {"contract": VERSION, **(memo or {}), "result": asdict(result)}
    path = Path(folder) / RESULT
    write_text(path, json.dumps(told, indent=1, allow_nan=False))
    return path


def read_result(folder: str | Path) -> tuple[Result, dict[str, Any]]:
    """Return what came of a job, and by what the result is known again; nothing if that was not told.

    Raises:
        EngineError: If the file is missing or damaged.
    """
    path = Path(folder) / RESULT
    try:
        data = parse_json(read_content(path))
        result = build(Result, data.pop("result"))
        return result, {name: value for name, value in data.items() if name != "contract"}
    except MISSHAPEN as error:
        raise unreadable(path) from error


def is_own(path: Path, head: str = HEAD) -> bool:
    """Return whether a file begins as ours do, as far as it goes: it may be cut short, and need not be there."""
    try:
        with path.open("rb") as file:
            return head.encode().startswith(file.read(len(head)))
    except OSError:
        return not os.path.lexists(path)


def require_own(path: Path, head: str = HEAD) -> None:
    """Check that a file, if there is one, may be replaced.

    Raises:
        EngineError: If somebody else has made it.
    """
    if not is_own(path, head):
        raise _foreign(path)


def require_own_results(folder: Path, files: Iterable[str | Path]) -> None:
    """Check that what is to be replaced in a folder of results was made by a registration.

    Args:
        folder: The folder.
        files: What will be written there besides the file that tells of it.

    Raises:
        EngineError: If it was not, as far as can be seen.
    """
    require_own(folder / RESULT)
    foreign = [] if os.path.exists(folder / RESULT) else [Path(file) for file in files if os.path.lexists(file)]
    if foreign:
        raise _foreign(foreign[0])


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that a registration fills.

    Attributes:
        index: The file that names the others.
        names: What the names of all of them match.
    """

    index: str
    names: re.Pattern[str]

    def files(self, folder: Path) -> list[Path]:
        """Return the files of a folder that have such names."""
        there = folder.iterdir() if os.path.isdir(folder) else ()
        return sorted(path for path in there if self.names.fullmatch(path.name))

    def require_own(self, folder: Path) -> None:
        """Check that what is to be replaced in a folder was made by a registration.

        Raises:
            EngineError: If it was not, as far as can be seen.
        """
        require_own(folder / self.index)
        found = self.files(folder)
        if found and not os.path.exists(folder / self.index):
            raise _foreign(found[0])


# By the outputs of a job that are folders.
FOLDER_KINDS = {
    "output_recursions": FolderKind(
        RECURSIONS,
        re.compile(r"recursions\.json|recursion_\d+(_(map|attention)_\d+)?\.(nrrd|npz)", re.IGNORECASE),
    ),
    "output_structures": FolderKind(
        STRUCTURES, re.compile("|".join(map(re.escape, (STRUCTURES, *STRUCTURE_FILES.values()))), re.IGNORECASE)
    ),
}


def _foreign(path: Path) -> errors.EngineError:
    return errors.EngineError(
        errors.OUTPUT_UNWRITABLE,
        f"The file {path} would be replaced, but nothing tells that a registration has made it.",
        "Move it, or choose another folder.",
    )


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; characters that are none, as names may hold, are written by number.

    Raises:
        EngineError: If it cannot be written; an existing file is then untouched.
    """
    content = text.encode(errors="backslashreplace")
    write_file(
        path,
        (path.suffix,),
        lambda name: Path(name).write_bytes(content),
        lambda name: Path(name).read_bytes() == content,
    )
