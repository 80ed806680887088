"""Methods and weights, as their JSON files in Resources describe them. Standard library only."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from . import errors
from .contract import build
from .errors import shown
from .files import read_description, require_readable
from .grid import GridPolicy
from .settings import option

ROLES = ("method", "iterative", "baseline")
PACKAGE = "DeepAttentionRegResources"
# What a method file of the user's own may leave out.
OWN_METHOD: dict[str, Any] = {
    "summary": "A method of the user's own.",
    "role": "method",
    "recursions": {
        "default": 1,
        "minimum": 1,
        "maximum": 100,
        "unit": "recursion",
        "meaning": "Passes of the network.",
    },
    "normalization": [0.5, 99.5],
    "grid": {"2": {}, "3": {}},
    "networks": {"2": {"nd": 2}, "3": {"nd": 3}},
    "needs_weights": False,
    "citation": "",
}
WEIGHT_SUFFIX, DESCRIPTION_SUFFIX = ".pt", ".json"

T = TypeVar("T")


@dataclass(frozen=True)
class Recursions:
    """What the number of recursions of a method means, and its range."""

    default: int
    minimum: int
    maximum: int
    unit: str
    meaning: str

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.default <= self.maximum:
            msg = f"{self.default} is not among {self.minimum} to {self.maximum} recursions, or these are not above 0"
            raise ValueError(msg)


@dataclass(frozen=True)
class Variant:
    """One form of a method that can be run.

    Attributes:
        weights: Id in weights.json or path of a weight file; None for a method that needs none.
        dimensions: 2 or 3, the spatial axes it works on.
        network: Arguments of the architecture.
        extent_mm: Shortest and longest field of view, along its longest axis, of the training; None for any.
        refinement: Refinement settings that suit a pair within that range, where the network's field is trusted.
    """

    weights: str | None
    dimensions: int
    network: dict[str, Any]
    extent_mm: tuple[float, float] | None
    refinement: dict[str, Any]

    def __post_init__(self) -> None:
        if self.extent_mm is not None and not 0 < self.extent_mm[0] <= self.extent_mm[1]:
            msg = f"extent_mm is {list(self.extent_mm)}, but must be the shortest and the longest field of view"
            raise ValueError(msg)

    def suits(self, extent_mm: float) -> bool:
        """Return whether weights know fields of view of this size along their longest axis."""
        return self.extent_mm is None or self.extent_mm[0] <= extent_mm <= self.extent_mm[1]


@dataclass(frozen=True)
class Told:
    """What a JSON file beside a weight file of the user's own may tell; other fields say nothing.

    Attributes:
        network: Arguments of the architecture that differ from the method's.
        extent_mm: As in `Variant`.
        refinement: As in `Variant`.
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
    method: str | None = None
    dimensions: Any = None
    title: str | None = None
    licence: str = ""
    training_data: str = ""
    sha256: str | None = None
    bytes: int = option(0, at_least=0)


@dataclass(frozen=True)
class Method:
    """A registration method.

    Attributes:
        name: File name without extension, the id used everywhere.
        title: What users read.
        summary: One sentence.
        role: "method", "iterative" (optimises on the pair) or "baseline" (for comparison, not offered to clinicians).
        architecture: Name of the network; of the user's own methods "FILE:CLASS", a Python file and its network.
        recursions: What a recursion means and how many there may be.
        normalization: Percentiles of an image that become 0 and 1.
        grid: Size policy by number of spatial axes, 2 and 3.
        networks: Arguments of the architecture by number of spatial axes.
        needs_weights: False for methods that learn nothing.
        citation: How to cite the published method.
        variants: Forms that can be run, the preferred first.
    """

    name: str
    title: str
    summary: str
    role: str
    architecture: str
    recursions: Recursions
    normalization: tuple[float, float]
    grid: dict[int, GridPolicy]
    networks: dict[int, dict[str, Any]]
    needs_weights: bool
    citation: str
    variants: tuple[Variant, ...]

    def recursions_for(self, wanted: int | None) -> int:
        """Return a number of recursions within range, the default for None.

        Raises:
            EngineError: If the wanted number is out of range.
        """
        limits = self.recursions
        count = limits.default if wanted is None else wanted
        if not limits.minimum <= count <= limits.maximum:
            raise errors.EngineError(
                errors.CONTRACT,
                f"{self.title} takes {limits.minimum} to {limits.maximum} recursions, not {count}.",
                f"{limits.default} is the usual number.",
            )
        return count


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
        storage: Bits per weight, and Dice in 16 and 8 bits (training compress); empty for 16 that were never packed.
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
    storage: dict[str, Any] = field(default_factory=dict)


def resources() -> Path:
    """Return the Resources folder: beside the engine in Slicer, its own package in a pip installation."""
    parent = Path(__file__).resolve().parents[2]
    beside = parent / "Resources"
    return beside if beside.is_dir() else parent / PACKAGE


def fetched_folder() -> Path:
    """Return the folder of the user for weights that an installation leaves out; it need not be there yet."""
    return Path.home() / ".DeepAttentionReg" / "Models"


def method_names() -> list[str]:
    """Return the names of all methods."""
    return sorted(path.stem for path in (resources() / "Methods").glob("*.json"))


def load_method(name: str) -> Method:
    """Read a method file.

    Args:
        name: Of one of the methods that come along, or path of a method file (.json) of the user's own; the network
            class and the weights that this names are found relative to it.

    Raises:
        EngineError: If there is no such method, or its file is damaged.

    Examples:
        >>> load_method("rman").recursions.default
        3
    """
    if name.endswith(DESCRIPTION_SUFFIX):
        return _own_method(Path(name))
    if name not in method_names():
        raise errors.EngineError(
            errors.METHOD_UNKNOWN,
            f"The method {shown(repr(name))} is unknown.",
            f"Choose one of: {', '.join(method_names())}, none.",
        )
    return read_description(resources() / "Methods" / f"{name}.json", lambda data: _method(name, data))


def _own_method(path: Path) -> Method:
    """Read a method file of the user's own; what it does not say is as most methods have it."""
    require_readable(path)
    folder = path.resolve().parent

    def make(told: dict[str, Any]) -> Method:
        data = {**OWN_METHOD, "title": path.stem, **told}
        for name in ("recursions", "grid"):
            data[name] = {**OWN_METHOD[name], **told.get(name, {})}
        if ":" in data["architecture"]:
            data["architecture"] = str(folder / data["architecture"])
        variants = told.get("variants") or [{"weights": None, "dimensions": int(axes)} for axes in data["networks"]]
        data["variants"] = [{"extent_mm": None, "refinement": {}, **_beside(variant, folder)} for variant in variants]
        return _method(path.stem, data)

    return read_description(path, make, "Correct it; Resources/Methods holds examples.")


def _beside(variant: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a variant whose weight file, if it has one of its own, is found in a folder."""
    weights = variant["weights"]
    is_file = weights is not None and weights.endswith(WEIGHT_SUFFIX)
    return {**variant, "weights": str(folder / weights) if is_file else weights}


def _method(name: str, data: dict[str, Any]) -> Method:
    networks = {int(axes): arguments for axes, arguments in data["networks"].items()}
    grid = {int(axes): policy for axes, policy in data["grid"].items()}
    variants = [
        {**variant, "network": networks[variant["dimensions"]] | variant.get("network", {})}
        for variant in data["variants"]
    ]
    method = build(Method, {**data, "name": name, "networks": networks, "grid": grid, "variants": variants})
    low, high = method.normalization
    if not 0 <= low < high <= 100:
        msg = f"normalization is {list(method.normalization)}, but must be two percentiles"
        raise ValueError(msg)
    networks = {axes: _with_tuples(arguments) for axes, arguments in method.networks.items()}
    return replace(method, networks=networks, variants=tuple(_as_settings(variant) for variant in method.variants))


def _as_settings(variant: Variant) -> Variant:
    return replace(variant, network=_with_tuples(variant.network), refinement=_with_tuples(variant.refinement))


def _with_tuples(value: Any) -> Any:
    """Turn JSON's lists into tuples, which settings can hold, at any depth."""
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(_with_tuples(item) for item in value) if isinstance(value, list) else value


def load_weights() -> dict[str, Weights]:
    """Return all listed weight files by id.

    Raises:
        EngineError: If the list is damaged.
    """
    return read_description(
        resources() / "weights.json", lambda data: {entry["id"]: Weights(**entry) for entry in data["weights"]}
    )


def choose_variant(method: Method, dimensions: int, weights: str | None) -> Variant:
    """Return the variant of a method for a pair of images.

    Args:
        method: The method.
        dimensions: 2 for single slices, else 3.
        weights: Id of listed weights or path of a weight file that the user asks for; None takes the first that fits.

    Raises:
        EngineError: If none fits.
    """
    if not method.needs_weights and weights is not None:
        raise errors.EngineError(
            errors.CONTRACT, f"{method.title} needs no weights.", "Leave them out, or choose another method."
        )
    if weights is not None and weights.endswith(WEIGHT_SUFFIX):
        return _user_variant(method, dimensions, Path(weights))
    fitting = [variant for variant in method.variants if variant.dimensions == dimensions]
    chosen = [variant for variant in fitting if weights in (None, variant.weights)]
    if not chosen:
        known = ", ".join(str(variant.weights) for variant in fitting) or "none"
        raise errors.EngineError(
            errors.WEIGHTS_MISSING,
            f"{method.title} has no {dimensions}D weights{'' if weights is None else f' named {shown(repr(weights))}'} "
            f"(available: {known}).",
            "Choose another method or other weights, or the method 'none' with refinement.",
        )
    return chosen[0]


def _user_variant(method: Method, dimensions: int, path: Path) -> Variant:
    """Return the variant of the user's own weight file, with what differs from the method's file as told beside it."""

    def make(told: Told) -> Variant:
        network = method.networks[dimensions] | told.network
        return _as_settings(Variant(str(path), dimensions, network, told.extent_mm, told.refinement))

    return told_beside(path, make)


def told_beside(path: Path, make: Callable[[Told], T]) -> T:
    """Return what is made of what a JSON file of the same name tells of weights; without one, nothing is told.

    Args:
        path: The weight file.
        make: As in `read_description`.

    Raises:
        EngineError: If that file is damaged, or cannot be read.
    """
    beside = path.with_suffix(DESCRIPTION_SUFFIX)
    if not os.path.lexists(beside):
        return make(Told())
    known = {item.name for item in fields(Told)}

    def build_told(data: dict[str, Any]) -> T:
        return make(build(Told, {name: value for name, value in data.items() if name in known}))

    return read_description(beside, build_told, "Correct it, or remove it.")


def listed_weights(identifier: str) -> Weights:
    """Return the entry of weights.json.

    Raises:
        EngineError: If there is none.
    """
    listed = load_weights()
    if identifier not in listed:
        raise errors.EngineError(
            errors.WEIGHTS_MISSING,
            f"The weights {shown(repr(identifier))} are not listed.",
            f"Known: {', '.join(listed)}.",
        )
    return listed[identifier]


def stored_file(entry: Weights) -> Path | None:
    """Return where the file of listed weights lies, with the extension or fetched; None if it does not."""
    paths = (folder / entry.file for folder in (resources() / "Models", fetched_folder()))
    return next((path for path in paths if path.is_file()), None)


def method_files(name: str, method: Method, weights: str | None) -> list[Path]:
    """Return the files that say what a method does: its own, its network's if that is the user's, and its weights'.

    Args:
        name: As in `load_method`.
        method: The method.
        weights: Id of listed weights or path of a weight file to use; None takes those of every variant.

    Raises:
        EngineError: If weights are not listed.
    """
    files = [Path(name) if name.endswith(DESCRIPTION_SUFFIX) else resources() / "Methods" / f"{name}.json"]
    code, own, _ = method.architecture.rpartition(":")
    if own:
        files.append(Path(code))
    used = [variant.weights for variant in method.variants] if weights is None else [weights]
    for identifier in filter(None, used):
        if identifier.endswith(WEIGHT_SUFFIX):
            files += [Path(identifier), Path(identifier).with_suffix(".json")]
        else:
            files += filter(None, [stored_file(listed_weights(identifier))])
    return files
