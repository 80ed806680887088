"""What a registration is asked for: nodes, settings of the engine, and what to keep of its way."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import contract
from DeepAttentionRegEngine.protocol.settings import Settings

from ..nodes import EvidenceFiles
from ..nodes.InputNodes import InputNodes
from .Results import OutputNodes

EVIDENCE = {"recursions": "recursions", "gaussians": "gaussians.json", "structures": "structures"}
# Arguments that name existing nodes to write into, and what they become in `OutputNodes`.
OUTPUT_NAMES = {
    "outputTransform": "transformNode",
    "outputVolume": "warpedVolumeNode",
    "outputJacobian": "jacobianVolumeNode",
    "outputError": "errorVolumeNode",
    "outputSegmentation": "warpedSegmentationNode",
}


@dataclass(frozen=True)
class Kept:
    """What is shown and kept besides the result.

    Recursions that are kept, and with `keepAttention` also what the network attended to in them, become nodes: see
    RecursionEvidence.py. Those shown (`showRecursions`) are only told, as the `file` of a `contract.Progress` that is
    there until the callback returns. The structures that the network tells apart (`keepStructures`) become
    segmentations and a table: see Structures.py. Where an `evidenceFolder` is given, the files of all these are kept
    there, too, and a sequence of Gaussians (`keepGaussians`); the outputs of `Outcome.result` name them, and
    recursions.py, structures.py and gaussian_files.py of the engine say what they hold. Nothing in that folder is
    overwritten.
    """

    showRecursions: bool = False
    keepRecursions: bool = False
    keepAttention: bool = False
    keepGaussians: bool = False
    keepStructures: bool = False
    evidenceFolder: str | Path | None = None

    @property
    def asNodes(self) -> bool:
        """Whether recursions become nodes."""
        return self.keepRecursions or self.keepAttention

    def outputs(self, settings: Settings, axes: int) -> dict[str, Any]:
        """Return the fields of a job that ask for it; refinement alone has no recursions.

        :param settings: of the same job.
        :param axes: of the images: 2 of single slices, 3 of volumes.
        """
        values: dict[str, Any] = {
            "output_gaussians": EVIDENCE["gaussians"] if self.keepGaussians else None,
            "output_structures": EVIDENCE["structures"] if self.keepStructures else None,
        }
        if settings.method != contract.METHOD_NONE and (self.asNodes or self.showRecursions):
            values["output_recursions"] = EVIDENCE["recursions"]
            values["recursion_voxels"] = EvidenceFiles.stepVoxels(settings, axes)
            values["attention"] = self.keepAttention
        return values

    def problems(self) -> list[str]:
        """Return why it cannot be kept, as sentences."""
        folder = self.evidenceFolder
        if folder is None:
            return [_("Choose a folder for the sequence of Gaussians.")] if self.keepGaussians else []
        taken = [name for name in EVIDENCE.values() if (Path(folder) / name).exists()]
        text = _("{folder} already holds {name}; choose another folder.")
        return [text.format(folder=folder, name=name) for name in taken]


@dataclass(frozen=True)
class Request:
    """A registration as it was asked for."""

    inputs: InputNodes
    settings: Settings = field(default_factory=Settings)
    outputs: OutputNodes = field(default_factory=OutputNodes)
    kept: Kept = field(default_factory=Kept)


def camelCase(name: str) -> str:
    """Return what a setting of the engine is called on this side."""
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)


SETTING_NAMES = {camelCase(item.name): item.name for item in fields(Settings)}


def requestOf(arguments: Mapping[str, Any], settings: Settings | None = None) -> Request:
    """Return what the arguments of `DeepAttentionRegLogic.register` ask for.

    :param arguments: nodes by the names of `InputNodes` and `OUTPUT_NAMES`, fields of `Kept`, and those of the engine's
        `Settings` in this side's spelling, such as `refinementSteps`.
    :param settings: of which those among the arguments take the place.
    :raises TypeError: if an argument is not known.
    """
    names: dict[str, dict[str, str]] = {
        "inputs": {item.name: item.name for item in fields(InputNodes)},
        "outputs": OUTPUT_NAMES,
        "kept": {item.name: item.name for item in fields(Kept)},
        "settings": SETTING_NAMES,
    }
    homes = {name: (part, inner) for part, inner_of in names.items() for name, inner in inner_of.items()}
    values: dict[str, dict[str, Any]] = {part: {} for part in names}
    for name, value in arguments.items():
        if name not in homes:
            msg = f"register takes no argument {name!r}; it takes {', '.join(sorted(homes))}"
            raise TypeError(msg)
        part, inner = homes[name]
        values[part][inner] = value
    return Request(
        InputNodes(**{item.name: values["inputs"].get(item.name) for item in fields(InputNodes)}),
        replace(settings or Settings(), **values["settings"]),
        OutputNodes(**values["outputs"]),
        Kept(**values["kept"]),
    )


def settingsOf(arguments: Mapping[str, Any], settings: Settings | None = None) -> Settings:
    """Return the settings among arguments that are nothing else; parameters as `requestOf`.

    :raises TypeError: if one is no setting.
    """
    other = next((name for name in arguments if name not in SETTING_NAMES), None)
    if other is not None:
        msg = f"{other!r} is no setting; known are {', '.join(sorted(SETTING_NAMES))}"
        raise TypeError(msg)
    return requestOf(arguments, settings).settings
