"""The choices of the panel, kept in the scene by a parameter node."""

import enum
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Union

from slicer import (
    vtkMRMLLabelMapVolumeNode,
    vtkMRMLMarkupsAngleNode,
    vtkMRMLMarkupsCurveNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLMarkupsLineNode,
    vtkMRMLMarkupsPlaneNode,
    vtkMRMLMarkupsROINode,
    vtkMRMLModelNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLScriptedModuleNode,
    vtkMRMLSegmentationNode,
    vtkMRMLSequenceNode,
    vtkMRMLTransformNode,
)
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from DeepAttentionRegEngine.protocol import contract, errors, registry

from .views.ComparisonModes import Arrangement, ComparedVolume, Divider, Mode

OFFERED_ROLES = ("method", "iterative")  # baselines are there for comparison only
Labels = Union[vtkMRMLSegmentationNode, vtkMRMLLabelMapVolumeNode, None]
# Concrete classes, for the wrapper makes one of each; those derived from them are meant, too.
Warpable = Union[
    vtkMRMLSegmentationNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLMarkupsLineNode,
    vtkMRMLMarkupsAngleNode,
    vtkMRMLMarkupsCurveNode,
    vtkMRMLMarkupsPlaneNode,
    vtkMRMLMarkupsROINode,
    vtkMRMLModelNode,
    vtkMRMLScalarVolumeNode,
    None,
]


class _MethodChoice(enum.Enum):
    """A member for every method that the panel offers; the value is the method's name in a job."""

    def label(self) -> str:
        """Return the text in the panel."""
        if self.value == contract.METHOD_NONE:
            return _("Refinement only (no network)")
        return registry.load_method(self.value).title


def _offered() -> dict[str, str]:
    """Return the methods to choose from, networks first, by the name under which a scene stores them.

    One whose file is damaged is left out, so that the panel opens all the same.
    """
    methods = []
    for name in registry.method_names():
        try:
            methods.append(registry.load_method(name))
        except errors.EngineError as error:
            logging.warning("%s", error)
    names = [method.name for role in OFFERED_ROLES for method in methods if method.role == role]
    return {**{name.upper().replace("-", "_"): name for name in names}, "REFINEMENT_ONLY": contract.METHOD_NONE}


if TYPE_CHECKING:

    class MethodChoice(_MethodChoice):
        """The member that is there whichever methods are."""

        REFINEMENT_ONLY = contract.METHOD_NONE

else:
    MethodChoice = _MethodChoice("MethodChoice", _offered(), module=__name__)


class Alignment(enum.Enum):
    """What happens before the deformation; the value is its name in a job."""

    NONE = "none"
    CENTER = "center"
    MASS = "mass"
    RIGID = "rigid"
    AFFINE = "affine"

    def label(self) -> str:
        """Return the text in the panel."""
        return {
            Alignment.NONE: _("None"),
            Alignment.CENTER: _("Centers of the volumes"),
            Alignment.MASS: _("Centers of mass"),
            Alignment.RIGID: _("Rigid"),
            Alignment.AFFINE: _("Affine"),
        }[self]


class Similarity(enum.Enum):
    """What refinement compares; the value is the similarity's name in a job."""

    NCC = "ncc"
    MSE = "mse"
    MIND = "mind"

    def label(self) -> str:
        """Return the text in the panel."""
        return {
            Similarity.NCC: _("Local correlation"),
            Similarity.MSE: _("Mean squares"),
            Similarity.MIND: _("MIND (different modalities)"),
        }[self]


class Moment(enum.Enum):
    """What of a comparison is shown; the value is the name of the state."""

    BEFORE = "before"
    AFTER = "after"
    HIDDEN = None

    def label(self) -> str:
        """Return the text in the panel."""
        return {Moment.BEFORE: _("Before"), Moment.AFTER: _("After"), Moment.HIDDEN: _("Hidden")}[self]


@parameterNodeWrapper
class DeepAttentionRegParameterNode:
    """All choices of the panel.

    The volumes, segmentations, masks and landmarks come in pairs, fixed and moving. An output that is None is created
    by the registration; one that is set is written into. `weights` and `device` are ids as in `Registration.Settings`,
    weights empty for those that suit the method, `inspectSegment` is the name of a segment; what they can be is known
    only at run time, so that their widgets are filled by hand instead of being bound.
    """

    if TYPE_CHECKING:  # what the wrapper adds

        def __init__(self, node: vtkMRMLScriptedModuleNode) -> None: ...
        def connectGui(self, ui: SimpleNamespace) -> int: ...
        def disconnectGui(self, tag: int | None) -> None: ...

    fixedVolume: vtkMRMLScalarVolumeNode
    movingVolume: vtkMRMLScalarVolumeNode
    fixedSegmentation: Labels = None
    movingSegmentation: Labels = None
    fixedMask: Labels = None
    movingMask: Labels = None
    fixedLandmarks: vtkMRMLMarkupsFiducialNode
    movingLandmarks: vtkMRMLMarkupsFiducialNode
    initialTransform: vtkMRMLTransformNode

    method: MethodChoice = next((item for item in MethodChoice if item.value == "rman"), MethodChoice.REFINEMENT_ONLY)
    recursions: Annotated[int, WithinRange(1, 100)] = 3
    alignment: Alignment = Alignment.CENTER
    weights: str = ""
    device: str = "auto"

    refine: bool = True
    refinementSteps: Annotated[int, WithinRange(1, 500)] = 40
    similarity: Similarity = Similarity.NCC
    smoothness: Annotated[float, WithinRange(0.0, 10.0)] = 1.0
    velocity: bool = False
    halfPrecision: bool = False

    outputTransform: vtkMRMLTransformNode
    outputVolume: vtkMRMLScalarVolumeNode
    outputJacobian: vtkMRMLScalarVolumeNode
    outputSegmentation: vtkMRMLSegmentationNode
    preview: bool = True

    inspected: vtkMRMLTransformNode
    inspectArrangement: Arrangement = Arrangement.CURRENT
    inspectComparison: Mode = Mode.OFF
    inspectLayer: ComparedVolume = ComparedVolume.AFTER
    inspectFade: Annotated[float, WithinRange(0.0, 100.0)] = 50.0
    inspectRate: Annotated[float, WithinRange(0.2, 2.0)] = 0.5
    inspectTile: Annotated[float, WithinRange(2.0, 100.0)] = 20.0
    inspectDivider: Divider = Divider.RIGHT_LEFT
    inspectReveal: Annotated[float, WithinRange(0.0, 100.0)] = 50.0
    inspectFollow: bool = True
    inspectAbsolute: bool = False
    inspectLinked: bool = True
    inspectReadout: bool = False
    inspectJump: bool = False
    inspectSegments: Moment = Moment.AFTER
    inspectSegment: str = ""
    inspectSegments3d: bool = True
    inspectLandmarks: Moment = Moment.AFTER
    inspectEvidence: bool = False
    inspectSteps: bool = False
    inspectGrid: bool = True
    inspectAttention: bool = False
    inspectAttended: str = ""
    inspectThresholdVolume: Annotated[float, WithinRange(0.0, 100.0)] = 5.0
    inspectThresholdMm: Annotated[float, WithinRange(0.0, 20.0)] = 1.0
    inspectThresholdSimilarity: Annotated[float, WithinRange(0.0, 1.0)] = 0.6
    inspectMapOpacity: Annotated[float, WithinRange(0.0, 100.0)] = 60.0
    inspectSamples: Annotated[int, WithinRange(2, 50)] = 8
    inspectReportViews: bool = False
    inspectReportPdf: bool = False

    warpNode: Warpable = None
    warpTransform: vtkMRMLTransformNode
    warpReference: vtkMRMLScalarVolumeNode
    warpOutput: Warpable = None

    sequence: vtkMRMLSequenceNode
    referenceFrame: Annotated[int, WithinRange(1, 1000)] = 1
    sequenceVolumes: bool = True

    batchPairs: str = ""
    batchFolder: str = ""
