"""What the result of a registration was made from, told by contents. Standard library only.

A result stands for a job only if all of it is the same: the settings with no number left open, the engine, what every
file held that was read and written. Files are always hashed, however they are dated: copies keep the size and time of
another file (cp -p, rsync, archives), and hashing takes a small part of the time that reading and registering do.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import __version__
from .contract import METHOD_NONE, RegisterJob, Result
from .file_use import with_data
from .pair_table import INPUTS
from .quality import resolve
from .registry import Method, Variant, find_variant, load_method, method_files
from .settings import settings_of

CHUNK_BYTES = 1 << 20
AXES = (2, 3)  # that images can have, which is not known before they are read


class Contents:
    """Hashes files, each once as long as its size and time stay the same."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], str] = {}

    def of(self, path: Path) -> str | None:
        """Return the SHA-256 of a file; None if it cannot be read."""
        try:
            state = path.stat()
            key = str(path), state.st_size, state.st_mtime_ns
            if key not in self._known:
                self._known[key] = _sha256(path)
            return self._known[key]
        except (OSError, ValueError):  # missing, or not even a name
            return None


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            found.update(chunk)
    return found.hexdigest()


def made_from(job: RegisterJob, contents: Contents) -> dict[str, Any]:
    """Return all that the result of a registration depends on, as JSON has it.

    Args:
        job: The registration.
        contents: Hashes the files.

    Raises:
        EngineError: If its method cannot be read, or takes no such settings.
    """
    method = None if job.method == METHOD_NONE else load_method(job.method)
    settings = [resolve(settings_of(job), method, _variant(job, method, axes)) for axes in AXES]
    inputs = {name: Path(value) for name in INPUTS if (value := getattr(job, name)) is not None}
    return {
        "engine": _engine(contents),
        "method": _method(job, method, contents),
        "job": {**asdict(job), **asdict(settings[0]), "recursions": [item.recursions for item in settings]},
        "inputs": {name: {part.name: contents.of(part) for part in with_data(path)} for name, path in inputs.items()},
    }


def proof(result: Result, files: Mapping[Path, Path], contents: Contents) -> dict[str, Any]:
    """Return by what a result and its files are known to be as they were made, as JSON has it.

    Args:
        result: What came of the job.
        files: Where each file lies at present, by its place.
        contents: Hashes them.
    """
    told = hashlib.sha256(json.dumps(asdict(result), sort_keys=True).encode()).hexdigest()
    return {"outputs": {str(place): contents.of(file) for place, file in files.items()}, "result_sha256": told}


def _engine(contents: Contents) -> dict[str, str]:
    """Return the version of the engine and what tells apart those that share it, as nightly builds do."""
    folder = Path(__file__).resolve().parents[1]
    parts = "".join(str(contents.of(path)) for path in sorted(folder.rglob("*.py")))
    return {"version": __version__, "sha256": hashlib.sha256(parts.encode()).hexdigest()}


def _variant(job: RegisterJob, method: Method | None, axes: int) -> Variant | None:
    return None if method is None else find_variant(method, axes, job.weights)


def _method(job: RegisterJob, method: Method | None, contents: Contents) -> dict[str, str | None]:
    files = [] if method is None else method_files(job.method, method, job.weights)
    return {path.name: contents.of(path) for path in files}
