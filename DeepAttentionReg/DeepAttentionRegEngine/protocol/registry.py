"""Methods and weights, as their JSON files in Resources describe them. Standard library only."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import errors
from .contract import build
from .errors import shown
from .files import read_description, require_readable
from .grid import GridPolicy, check_pyramid
from .told import SUFFIX as DESCRIPTION_SUFFIX
from .told import Told, told_beside

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
WEIGHT_SUFFIX = ".pt"
ANYTHING = "Anything"  # what weights without an anatomy are for


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

    def holds(self, count: int) -> bool:
        """Return whether a number is in the range."""
        return self.minimum <= count <= self.maximum


@dataclass(frozen=True)
class Variant:
    """One form of a method that can be run.

    Attributes:
        weights: Id in weights.json or path of a weight file; None for a method that needs none.
        dimensions: 2 or 3, the spatial axes it works on.
        network: Arguments of the architecture.
        extent_mm: Shortest and longest field of view, along its longest axis, of the training; None for any.
        refinement: Refinement settings that suit a pair within that range, where the network's field is trusted.
        anatomy: What the images show that they were trained on, as users say it; empty for anything.
        structures: Names of those that the network tells apart, in the order of its masks.
        recursions: Usual number with these weights; None for the method's.
        spacing_mm: Voxel size that the network knows; None for that of the working grid.
        pyramid: Factors, coarse to fine, by which the grids of the first recursions are coarser, one recursion each.
    """

    weights: str | None
    dimensions: int
    network: dict[str, Any]
    extent_mm: tuple[float, float] | None
    refinement: dict[str, Any]
    anatomy: str = ""
    structures: tuple[str, ...] = ()
    recursions: int | None = None
    spacing_mm: float | None = None
    pyramid: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_pyramid(self.pyramid, sees_structures=bool(self.structures))
        if self.extent_mm is not None and not 0 < self.extent_mm[0] <= self.extent_mm[1]:
            msg = f"extent_mm is {list(self.extent_mm)}, but must be the shortest and the longest field of view"
            raise ValueError(msg)

    def suits(self, extent_mm: float) -> bool:
        """Return whether weights know fields of view of this size along their longest axis."""
        return self.extent_mm is None or self.extent_mm[0] <= extent_mm <= self.extent_mm[1]


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

    def usual_recursions(self, variant: Variant | None) -> int:
        """Return the usual number of recursions with the weights of a variant; the method's where these have none."""
        return self.recursions.default if variant is None or variant.recursions is None else variant.recursions

    def recursions_for(self, wanted: int | None, variant: Variant | None = None) -> int:
        """Return a number of recursions within range, the usual one for None.

        Args:
            wanted: The number that was asked for.
            variant: The form that will run; None where that is not known.

        Raises:
            EngineError: If the wanted number is out of range.
        """
        limits, usual = self.recursions, self.usual_recursions(variant)
        count = usual if wanted is None else wanted
        if not limits.holds(count):
            raise errors.EngineError(
                errors.CONTRACT,
                f"{self.title} takes {limits.minimum} to {limits.maximum} recursions, not {count}.",
                f"{usual} is the usual number.",
            )
        return count

    def checked(self, variant: Variant) -> Variant:
        """Return a variant of the method if its usual number of recursions is one that the method takes.

        Raises:
            ValueError: If it is not.
        """
        limits, usual = self.recursions, self.usual_recursions(variant)
        if not limits.holds(usual):
            msg = f"recursions of the weights are {usual}, but the method takes {limits.minimum} to {limits.maximum}"
            raise ValueError(msg)
        return variant


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
    checked = tuple(method.checked(_as_settings(variant)) for variant in method.variants)
    return replace(method, networks=networks, variants=checked)


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
    chosen = find_variant(method, dimensions, weights)
    if chosen is None:
        fitting = (variant for variant in method.variants if variant.dimensions == dimensions)
        known = "; ".join(f"{variant.anatomy or ANYTHING}: {variant.weights}" for variant in fitting) or "none"
        raise errors.EngineError(
            errors.WEIGHTS_MISSING,
            f"{method.title} has no {dimensions}D weights{'' if weights is None else f' named {shown(repr(weights))}'} "
            f"(available: {known}).",
            "Choose another method or other weights, or the method 'none' with refinement.",
        )
    return chosen


def find_variant(method: Method, dimensions: int, weights: str | None) -> Variant | None:
    """Return the variant of a method for a pair of images; None if none fits. Arguments as `choose_variant`.

    Raises:
        EngineError: If what a file beside weights of the user's own tells is damaged.

    Examples:
        >>> find_variant(load_method("rman"), 3, "rman-hippocampus-mr").anatomy
        'Hippocampus'
    """
    if weights is not None and weights.endswith(WEIGHT_SUFFIX):
        return _user_variant(method, dimensions, Path(weights)) if dimensions in method.networks else None
    fitting = (variant for variant in method.variants if variant.dimensions == dimensions)
    return next((variant for variant in fitting if weights in (None, variant.weights)), None)


def _user_variant(method: Method, dimensions: int, path: Path) -> Variant:
    """Return the variant of the user's own weight file, with what differs from the method's file as told beside it."""

    def make(told: Told) -> Variant:
        network = method.networks[dimensions] | told.network
        named = told.anatomy, told.structures, told.recursions, told.spacing_mm, told.pyramid
        variant = Variant(str(path), dimensions, network, told.extent_mm, told.refinement, *named)
        return method.checked(_as_settings(variant))

    return told_beside(path, make)


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
