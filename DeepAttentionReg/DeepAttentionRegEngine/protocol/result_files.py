"""The file that a folder of results is known by. Standard library only."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .contract import VERSION, Result, build
from .files import read_file, unreadable, write_file

RESULT = "result.json"


def write_result(folder: str | Path, result: Result, job: dict[str, Any] | None = None) -> Path:
    """Write what came of a job, and if wanted what the job was, and return the file.

    Raises:
        EngineError: If it cannot be written.
    """
    told = {"contract": VERSION, **({} if job is None else {"job": job}), "result": asdict(result)}
    path = Path(folder) / RESULT
    write_text(path, json.dumps(told, indent=1, allow_nan=False))
    return path


def read_result(folder: str | Path) -> tuple[Result, dict[str, Any] | None]:
    """Return what came of a job, and what the job was if that is known.

    Raises:
        EngineError: If the file is missing or damaged.
    """
    path = Path(folder) / RESULT
    try:
        data = json.loads(read_file(path, lambda name: Path(name).read_text(encoding="ascii")))
        return build(Result, data["result"]), data.get("job")
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
