"""The arguments of `DeepAttentionRegLogic` for the choices of the panel."""

from dataclasses import fields, replace
from typing import Any

import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol.settings import Settings

from ..engine import Anatomies, Methods
from ..engine.Qualities import CUSTOM, qualityOf
from ..nodes.InputNodes import InputNodes
from ..Parameters import Alignment, DeepAttentionRegParameterNode, MethodChoice, settingsOf
from ..tasks.Request import OUTPUT_NAMES


def ofPair(parameters: DeepAttentionRegParameterNode) -> dict[str, Any]:
    """Return the arguments of `register` for the choices of the panel."""
    settings = usable(parameters)
    if parameters.initialTransform is not None:
        settings = replace(settings, alignment=Alignment.NONE.value)
    return {
        **{name: getattr(parameters, name) for name in (*(item.name for item in fields(InputNodes)), *OUTPUT_NAMES)},
        "settings": settings,
        "showRecursions": parameters.preview,
        "keepRecursions": parameters.inspectEvidence,
        "keepAttention": parameters.inspectEvidence,
        "keepStructures": parameters.keepStructures and seesStructures(parameters),
    }


def seesStructures(parameters: DeepAttentionRegParameterNode) -> bool:
    """Return whether the chosen method and weights tell structures apart."""
    chosen = usable(parameters, parameters.fixedVolume)
    return bool(Methods.structuresOf(chosen.method, parameters.fixedVolume, chosen.weights))


def ofSequence(parameters: DeepAttentionRegParameterNode) -> dict[str, Any]:
    """Return the arguments of `registerSequence` for the choices of the panel."""
    sequence = parameters.sequence
    isEmpty = sequence is None or sequence.GetNumberOfDataNodes() == 0
    # Segmentations and landmarks are those of the volumes, not of the frames.
    settings = usable(parameters, None if isEmpty else sequence.GetNthDataNode(0))
    return {
        "sequenceNode": sequence,
        "referenceFrame": parameters.referenceFrame - 1,
        "withVolumes": parameters.sequenceVolumes,
        "settings": replace(settings, steered="", guided=False, rigid="", volume_keeping="", sliding=""),
    }


def usable(parameters: DeepAttentionRegParameterNode, frame: slicer.vtkMRMLScalarVolumeNode | None = None) -> Settings:
    """Return the settings of the panel with weights that suit the images.

    :param parameters: the choices.
    :param frame: what is registered in place of the chosen volumes.
    """
    volumes = (parameters.fixedVolume, parameters.movingVolume) if frame is None else (frame, None)
    settings, axes = settingsOf(parameters), Methods.axesOf(volumes[0])
    settings = replace(settings, weights=Anatomies.usableWeights(settings.method, parameters.weights, *volumes))
    # The numbers win anyhow; the quality is what reports tell.
    found = (qualityOf(settings, axes, onGpu) for onGpu in (False, True))
    quality = next((quality for quality in found if quality != CUSTOM), settings.quality)
    return replace(settings, quality=quality)


def checkChoice(parameters: DeepAttentionRegParameterNode) -> str:
    """Return a sentence if the choices come to nothing; empty if there is something to do."""
    isLinear = parameters.alignment.value in ("rigid", "affine") and not parameters.initialTransform
    if parameters.method is MethodChoice.REFINEMENT_ONLY and not parameters.refine and not isLinear:
        return _("Nothing would be registered: choose a method or turn on the refinement.")
    return ""
