"""Reads an experiment: by the name it has in this project, or from a file of one's own.

The experiments of the project are the base files, each named as its experiment, and the entries of the sweep file, each
a name and what differs from the experiment that it "extends". Braces in a name stand for several experiments, as in a
shell: "agf-no-ssim_{jsrt,montgomery}" is two, in whose texts "{value}" is "jsrt" or "montgomery", and "{title}" how the
sweep file's "titles" spell it.
"""

import functools
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from DeepAttentionRegEngine.protocol.contract import build
from DeepAttentionRegEngine.protocol.errors import EngineError

from ..paths import TRAINING
from .schema import Config, ConfigError

BASES = TRAINING / "configs" / "bases"
SWEEP = TRAINING / "configs" / "sweep.json"
BRACES = re.compile(r"\{([^}]*)\}")


def read_config(given: str | Path, **changes: Any) -> Config:
    """Return an experiment.

    Args:
        given: Name of an experiment of the project, or a JSON file, whose name ends in ".json". What it "extends" gives
            what it does not say itself: an experiment of the project or a file beside it. Objects are merged with
            those extended; null takes a key away.
        changes: Top-level keys that replace those that were read.

    Raises:
        ConfigError: For an unknown experiment, or unknown, missing or impossible keys.
        OSError: If the file cannot be read.
    """
    try:
        return build(Config, {**_resolved(str(given), Path()), **changes})
    except EngineError as error:
        msg = f"{Path(given).name}: {error}"
        raise ConfigError(msg) from error


def name_of(given: str | Path) -> str:
    """Return the name of an experiment that is given as `read_config` takes it."""
    return Path(given).stem if str(given).endswith(".json") else str(given)


def to_dict(config: Config) -> dict[str, Any]:
    """Return an experiment as JSON objects and lists."""
    return json.loads(json.dumps(asdict(config)))


def names() -> list[str]:
    """Return the names of the experiments of the project."""
    return sorted(_project())


@functools.cache
def _project() -> dict[str, dict[str, Any]]:
    """Return what the project's own files say of each experiment, nothing merged yet."""
    sweep = _read(SWEEP)
    found = {path.stem: _read(path) for path in sorted(BASES.glob("*.json"))}
    for name, content in sweep["experiments"].items():
        found |= expanded(name, content, sweep["titles"])
    return found


def expanded(name: str, content: dict[str, Any], titles: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return the experiments that an entry of the sweep file stands for.

    Args:
        name: With at most one pair of braces.
        content: What differs from the experiment that it extends.
        titles: How texts spell what may stand between the braces, where they spell it otherwise.
    """
    braces = BRACES.search(name)
    if braces is None:
        return {name: content}
    return {
        name.replace(braces[0], value): _filled(content, {"value": value, "title": titles.get(value, value)})
        for value in braces[1].split(",")
    }


def _filled(content: Any, texts: dict[str, str]) -> Any:
    """Return JSON with the texts in braces filled in."""
    if isinstance(content, str):
        return BRACES.sub(lambda found: texts[found[1]], content)
    if isinstance(content, dict):
        return {key: _filled(value, texts) for key, value in content.items()}
    return [_filled(item, texts) for item in content] if isinstance(content, list) else content


def _resolved(given: str, folder: Path) -> dict[str, Any]:
    """Return what an experiment says together with what it extends; files are looked for from a folder."""
    path = folder / given
    own = dict(_read(path) if given.endswith(".json") else _entry(given))
    base = own.pop("extends", None)
    return own if base is None else _merged(_resolved(base, path.parent), own)


def _entry(name: str) -> dict[str, Any]:
    if name not in _project():
        msg = f"there is no experiment {name!r}; `python -m training configs` lists them, a file ends in .json"
        raise ConfigError(msg)
    return _project()[name]


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="ascii"))
    except ValueError as error:
        msg = f"{path.name} is not JSON: {error}"
        raise ConfigError(msg) from error


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merged(base[key], value) if both else value
    return {key: value for key, value in merged.items() if value is not None}
