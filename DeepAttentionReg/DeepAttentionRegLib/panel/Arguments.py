"""The arguments of `DeepAttentionRegLogic`: from the choices of the panel, and to what a registration takes."""

from typing import Any

from ..engine import Methods
from ..nodes.InputNodes import InputNodes
from ..Parameters import Alignment, DeepAttentionRegParameterNode
from ..tasks import Registration, Results

INPUT_NAMES = tuple(InputNodes.__dataclass_fields__)
# Arguments that name existing nodes to write into, and what they become in `Results.OutputNodes`.
OUTPUT_NAMES = {
    "outputTransform": "transformNode",
    "outputVolume": "warpedVolumeNode",
    "outputJacobian": "jacobianVolumeNode",
    "outputSegmentation": "warpedSegmentationNode",
}


def ofPair(parameters: DeepAttentionRegParameterNode) -> dict[str, Any]:
    """Return the arguments of `register` for the choices of the panel."""
    nodes = {name: getattr(parameters, name) for name in (*INPUT_NAMES, *OUTPUT_NAMES)}
    settings = {
        **_settings(parameters, parameters.fixedVolume),
        "showRecursions": parameters.preview,
        "keepRecursions": parameters.inspectEvidence,
        "keepAttention": parameters.inspectEvidence,
    }
    if parameters.initialTransform is not None:
        settings["alignment"] = Alignment.NONE.value
    return {**nodes, **settings}


def ofSequence(parameters: DeepAttentionRegParameterNode) -> dict[str, Any]:
    """Return the arguments of `registerSequence` for the choices of the panel."""
    sequence = parameters.sequence
    isEmpty = sequence is None or sequence.GetNumberOfDataNodes() == 0
    return {
        "sequenceNode": sequence,
        "referenceFrame": parameters.referenceFrame - 1,
        "withVolumes": parameters.sequenceVolumes,
        **_settings(parameters, None if isEmpty else sequence.GetNthDataNode(0)),
    }


def settingsOf(parameters: DeepAttentionRegParameterNode) -> Registration.Settings:
    """Return the settings of the panel for other volumes than the chosen ones."""
    return Registration.Settings(**_settings(parameters, parameters.fixedVolume))


def sort(arguments: dict[str, Any]) -> tuple[InputNodes, Registration.Settings, Results.OutputNodes]:
    """Return the inputs, settings and outputs among the arguments of `register`.

    :raises TypeError: if one is not known.
    """
    inputs = {name: arguments.get(name) for name in INPUT_NAMES}
    outputs = {role: arguments.get(name) for name, role in OUTPUT_NAMES.items()}
    settings = {name: value for name, value in arguments.items() if name not in (*INPUT_NAMES, *OUTPUT_NAMES)}
    return InputNodes(**inputs), Registration.Settings(**settings), Results.OutputNodes(**outputs)


def _settings(parameters: DeepAttentionRegParameterNode, volume: Any) -> dict[str, Any]:
    """Return the arguments that are no nodes, for the registration of a volume."""
    names = ("recursions", "smoothness", "velocity", "halfPrecision", "device")
    method = parameters.method.value
    return {
        **{name: getattr(parameters, name) for name in names},
        **{name: getattr(parameters, name).value for name in ("method", "alignment", "similarity")},
        "weights": Methods.usableWeights(method, parameters.weights, volume),
        "refinementSteps": parameters.refinementSteps if parameters.refine else 0,
    }
