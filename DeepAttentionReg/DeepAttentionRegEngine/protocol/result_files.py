"""The file that a folder of results is known by. Standard library only."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .contract import VERSION, Result, build
from .files import read_file, unreadable, write_file

RESULT = "result.json"


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
        data = json.loads(read_file(path, lambda name: Path(name).read_text(encoding="ascii")))
        result = build(Result, data.pop("result"))
        return result, {name: value for name, value in data.items() if name != "contract"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise unreadable(path) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        EngineError: If it cannot be written; an existing file is then untouched.
    """
    write_file(
        path,
        (path.suffix,),
        lambda name: Path(name).write_text(text, encoding="utf-8", newline=""),
        lambda name: Path(name).read_bytes() == text.encode(),
    )
