"""Methods and weights, as their JSON files in Resources describe them. Standard library only."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import errors


@dataclass(frozen=True)
class Variant:
    """One trained form of a method.

    Attributes:
        weights: Id in weights.json.
        dimensions: 2 or 3, the spatial axes it works on.
        network: Arguments of the architecture.
        extent_mm: Shortest and longest field of view, along its longest axis, that the weights were trained on.
        refinement: Refinement settings that suit a pair within that range, where the network's field is trusted.
    """

    weights: str
    dimensions: int
    network: dict[str, Any]
    extent_mm: tuple[float, float]
    refinement: dict[str, Any]


@dataclass(frozen=True)
class Method:
    """A registration method.

    Attributes:
        name: File name without extension, the id used everywhere.
        title: What users read.
        summary: One sentence.
        architecture: Name of the network.
        recursions: What a recursion means, with "default", "minimum", "maximum".
        grid: `minimum_size` and `maximum_voxels` of the working grid, and `network_voxels`, above which the network
            sees the images reduced.
        citation: How to cite the published method.
        variants: Trained forms, the preferred first.
    """

    name: str
    title: str
    summary: str
    architecture: str
    recursions: dict[str, Any]
    grid: dict[str, int]
    citation: str
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Weights:
    """A weight file.

    Attributes:
        id: Name used in jobs.
        file: File name in Resources/Models.
        sha256: Hash of the file.
        bytes: Size of the file.
        training_data: What it was trained on.
        licence: Licence of the weights.
        command: The command that made it.
        date: When.
        validation: Figures on held-out cases.
    """

    id: str
    file: str
    sha256: str
    bytes: int
    training_data: str
    licence: str
    command: str
    date: str
    validation: dict[str, Any]


def resources() -> Path:
    """Return the Resources folder: beside the engine in Slicer, its own package in a pip installation."""
    parent = Path(__file__).resolve().parents[1]
    beside = parent / "Resources"
    return beside if beside.is_dir() else parent / "DeepAttentionRegResources"


def method_names() -> list[str]:
    """Return the names of all methods."""
    return sorted(path.stem for path in (resources() / "Methods").glob("*.json"))


def load_method(name: str) -> Method:
    """Read a method file.

    Raises:
        EngineError: If there is no such method.
    """
    if name not in method_names():
        raise errors.EngineError(
            errors.METHOD_UNKNOWN,
            f"The method {name!r} is unknown.",
            f"Choose one of: {', '.join(method_names())}, none.",
        )
    data = json.loads((resources() / "Methods" / f"{name}.json").read_text(encoding="ascii"))
    variants = tuple(Variant(**_with_tuples(variant)) for variant in data.pop("variants"))
    return Method(name=name, variants=variants, **data)


def _with_tuples(value: Any) -> Any:
    """Turn JSON's lists into tuples, which settings can hold, at any depth."""
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(_with_tuples(item) for item in value) if isinstance(value, list) else value


def load_weights() -> dict[str, Weights]:
    """Return all listed weight files by id."""
    data = json.loads((resources() / "weights.json").read_text(encoding="ascii"))
    return {entry["id"]: Weights(**entry) for entry in data["weights"]}


def choose_variant(method: Method, dimensions: int, weights: str | None) -> Variant:
    """Return the variant of a method for a pair of images.

    Args:
        method: The method.
        dimensions: 2 for single slices, else 3.
        weights: Id the user asks for; None takes the first that fits.

    Raises:
        EngineError: If none fits.
    """
    fitting = [variant for variant in method.variants if variant.dimensions == dimensions]
    chosen = [variant for variant in fitting if weights in (None, variant.weights)]
    if not chosen:
        known = ", ".join(variant.weights for variant in fitting) or "none"
        raise errors.EngineError(
            errors.WEIGHTS_MISSING,
            f"{method.title} has no {dimensions}D weights{'' if weights is None else f' named {weights!r}'} "
            f"(available: {known}).",
            "Choose other weights, or the method 'none' with refinement.",
        )
    return chosen[0]


def weight_file(identifier: str) -> Path:
    """Return the path of a listed weight file after checking its hash.

    Raises:
        EngineError: If the file is not listed, missing or damaged.
    """
    listed = load_weights()
    if identifier not in listed:
        raise errors.EngineError(
            errors.WEIGHTS_MISSING, f"The weights {identifier!r} are not listed.", f"Known: {', '.join(listed)}."
        )
    entry = listed[identifier]
    path = resources() / "Models" / entry.file
    if not path.is_file():
        raise errors.EngineError(
            errors.WEIGHTS_MISSING, f"The weight file {path.name} is missing.", "Install the extension again."
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != entry.sha256:
        raise errors.EngineError(
            errors.WEIGHTS_CORRUPT,
            f"The weight file {path.name} is damaged ({path.stat().st_size} bytes, expected {entry.bytes}).",
            "Install the extension again.",
        )
    return path
