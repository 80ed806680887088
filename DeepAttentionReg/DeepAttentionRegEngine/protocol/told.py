"""What a file beside weights of the user's own tells of them. Standard library only."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from .contract import build
from .files import read_description
from .settings import option

SUFFIX = ".json"

T = TypeVar("T")


@dataclass(frozen=True)
class Told:
    """What a JSON file beside a weight file of the user's own may tell; other fields say nothing.

    Attributes:
        network: Arguments of the architecture that differ from the method's.
        extent_mm: As in `Variant`.
        refinement: As in `Variant`.
        anatomy: As in `Variant`.
        structures: As in `Variant`.
        recursions: As in `Variant`.
        spacing_mm: As in `Variant`.
        pyramid: As in `Variant`.
        method: Name of the method that the weights serve.
        dimensions: Spatial axes that they serve, 2, 3 or both.
        title: What people call them.
        licence: Of the weights.
        training_data: What they were trained on.
        sha256: Hash of the file, noted when it was imported.
        bytes: Size of the file.
    """

    network: dict[str, Any] = field(default_factory=dict)
    extent_mm: tuple[float, float] | None = None
    refinement: dict[str, Any] = field(default_factory=dict)
    anatomy: str = ""
    structures: tuple[str, ...] = ()
    recursions: int | None = None
    spacing_mm: float | None = None
    pyramid: tuple[int, ...] = ()
    method: str | None = None
    dimensions: Any = None
    title: str | None = None
    licence: str = ""
    training_data: str = ""
    sha256: str | None = None
    bytes: int = option(0, at_least=0)


def told_beside(path: Path, make: Callable[[Told], T]) -> T:
    """Return what is made of what a JSON file of the same name tells of weights; without one, nothing is told.

    Args:
        path: The weight file.
        make: As in `read_description`.

    Raises:
        EngineError: If that file is damaged, or cannot be read.
    """
    beside = path.with_suffix(SUFFIX)
    if not os.path.lexists(beside):
        return make(Told())
    known = {item.name for item in fields(Told)}

    def build_told(data: dict[str, Any]) -> T:
        return make(build(Told, {name: value for name, value in data.items() if name in known}))

    return read_description(beside, build_told, "Correct it, or remove it.")
