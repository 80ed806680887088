"""The choices of the panel, kept in the scene by a parameter node."""

import enum
from dataclasses import fields
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin, get_type_hints

import slicer
from slicer import (
    vtkMRMLLabelMapVolumeNode,
    vtkMRMLMarkupsAngleNode,
    vtkMRMLMarkupsClosedCurveNode,
    vtkMRMLMarkupsCurveNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLMarkupsLineNode,
    vtkMRMLMarkupsPlaneNode,
    vtkMRMLMarkupsROINode,
    vtkMRMLModelNode,
    vtkMRMLNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLScriptedModuleNode,
    vtkMRMLSegmentationNode,
    vtkMRMLSequenceNode,
    vtkMRMLTransformNode,
)
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from DeepAttentionRegEngine.protocol import contract, errors, registry
from DeepAttentionRegEngine.protocol.privacy import discreet_logger
from DeepAttentionRegEngine.protocol.quality import resolve
from DeepAttentionRegEngine.protocol.settings import (
    ALIGNMENTS,
    SIMILARITIES,
    TRANSFORM_GRIDS,
    Settings,
    choices_of,
    range_of,
)

from .tasks.Request import SETTING_NAMES, camelCase
from .views.ComparisonModes import Arrangement, ComparedVolume, Divider, Mode

logger = discreet_logger(__name__)

# Settings that are no parameters: the numbers that a quality stands for are, and scripts alone choose a seed.
NOT_OFFERED = ("quality", "seed")
OFFERED_ROLES = ("method", "iterative")  # baselines are there for comparison only
Labels = Union[vtkMRMLSegmentationNode, vtkMRMLLabelMapVolumeNode, None]
Landmarks = Union[vtkMRMLMarkupsFiducialNode, vtkMRMLMarkupsCurveNode, vtkMRMLMarkupsClosedCurveNode, None]
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
            logger.warning("%s", error)
    names = [method.name for role in OFFERED_ROLES for method in methods if method.role == role]
    return {**{name.upper().replace("-", "_"): name for name in names}, "REFINEMENT_ONLY": contract.METHOD_NONE}


if TYPE_CHECKING:

    class MethodChoice(_MethodChoice):
        """The member that is there whichever methods are."""

        REFINEMENT_ONLY = contract.METHOD_NONE

else:
    MethodChoice = _MethodChoice("MethodChoice", _offered(), module=__name__)


class _Choice(enum.Enum):
    """A member for every value that a setting can take, by the name under which a scene stores it."""

    def label(self) -> str:
        """Return the text in the panel."""
        name = type(self).__name__
        return _(choices_of(SETTING_NAMES[name[0].lower() + name[1:]])[self.value])


if TYPE_CHECKING:

    class Alignment(_Choice):
        """The member that the panel knows by name."""

        NONE = "none"

    class Similarity(_Choice):
        """Its members are those of the setting."""

    class TransformGrid(_Choice):
        """Its members are those of the setting."""

else:
    Alignment = _Choice("Alignment", {value.upper(): value for value in ALIGNMENTS}, module=__name__)
    Similarity = _Choice("Similarity", {value.upper(): value for value in SIMILARITIES}, module=__name__)
    TransformGrid = _Choice("TransformGrid", {value.upper(): value for value in TRANSFORM_GRIDS}, module=__name__)


class Moment(enum.Enum):
    """What of a comparison is shown; the value is the name of the state."""

    BEFORE = "before"
    AFTER = "after"
    HIDDEN = None

    def label(self) -> str:
        """Return the text in the panel."""
        return {Moment.BEFORE: _("Before"), Moment.AFTER: _("After"), Moment.HIDDEN: _("Hidden")}[self]


def _withSettings(kind: type) -> type:
    """Add a parameter for every setting that the panel offers: its name in this side's spelling, range and default."""
    usual = Settings()
    if usual.method in registry.method_names():
        method = registry.load_method(usual.method)
        usual = resolve(usual, method, registry.find_variant(method, 3, None))
    hints = get_type_hints(Settings)
    for item in fields(Settings):
        if item.name not in NOT_OFFERED:
            hint, default = _parameter(item.name, hints[item.name], getattr(usual, item.name))
            kind.__annotations__[camelCase(item.name)] = hint
            setattr(kind, camelCase(item.name), default)
    return kind


def _parameter(name: str, hint: Any, default: Any) -> tuple[Any, Any]:
    """Return type and default of the parameter of a setting; a text that may be left out is empty instead."""
    choice = {
        "method": MethodChoice,
        "alignment": Alignment,
        "similarity": Similarity,
        "transform_grid": TransformGrid,
    }.get(name)
    if choice is not None:
        return choice, next((item for item in choice if item.value == default), list(choice)[-1])
    kind = next(kind for kind in (get_args(hint) or (hint,)) if kind is not type(None))
    if kind in (int, float):
        return Annotated[kind, WithinRange(*range_of(name))], default
    return kind, kind() if default is None else default


@parameterNodeWrapper
@_withSettings
class DeepAttentionRegParameterNode:
    """All choices of the panel.

    The volumes, segmentations, masks and landmarks come in pairs, fixed and moving. An output that is None is created
    by the registration; one that is set is written into. The `Settings` of the engine but `NOT_OFFERED` are parameters,
    too. `weights` and `device` are ids, weights empty for those that suit the method, `inspectSegment` is the name of a
    segment; what they can be is known only at run time, so that their widgets are filled by hand, not bound.
    """

    if TYPE_CHECKING:  # what the wrapper adds
        parameterNode: vtkMRMLScriptedModuleNode

        def __init__(self, node: vtkMRMLScriptedModuleNode) -> None: ...
        def connectGui(self, ui: SimpleNamespace) -> int: ...
        def disconnectGui(self, tag: int | None) -> None: ...
        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    fixedVolume: vtkMRMLScalarVolumeNode
    movingVolume: vtkMRMLScalarVolumeNode
    fixedSegmentation: Labels = None
    movingSegmentation: Labels = None
    fixedMask: Labels = None
    movingMask: Labels = None
    fixedLandmarks: Landmarks = None
    movingLandmarks: Landmarks = None
    initialTransform: vtkMRMLTransformNode

    refine: bool = True

    outputTransform: vtkMRMLTransformNode
    outputVolume: vtkMRMLScalarVolumeNode
    outputJacobian: vtkMRMLScalarVolumeNode
    outputError: vtkMRMLScalarVolumeNode
    outputSegmentation: vtkMRMLSegmentationNode
    keepStructures: bool = False
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
    inspectReach: Annotated[float, WithinRange(2.0, 100.0)] = 20.0
    inspectCorrected: bool = True
    inspectEvidence: bool = False
    inspectSteps: bool = False
    inspectGrid: bool = True
    inspectAttention: bool = False
    inspectAttended: str = ""
    inspectThresholdVolume: Annotated[float, WithinRange(0.0, 100.0)] = 5.0
    inspectThresholdMm: Annotated[float, WithinRange(0.0, 20.0)] = 1.0
    inspectThresholdSimilarity: Annotated[float, WithinRange(0.0, 1.0)] = 0.6
    inspectThresholdCertainty: Annotated[float, WithinRange(0.0, 1.0)] = 0.5
    inspectMapOpacity: Annotated[float, WithinRange(0.0, 100.0)] = 60.0
    inspectReportViews: bool = False
    inspectReportPdf: bool = False

    warpNode: Warpable = None
    warpTransform: vtkMRMLTransformNode
    warpReference: vtkMRMLScalarVolumeNode
    warpOutput: Warpable = None
    warpPercentiles: bool = False

    sequence: vtkMRMLSequenceNode
    referenceFrame: Annotated[int, WithinRange(1, 1000)] = 1
    sequenceVolumes: bool = True

    batchPairs: str = ""
    batchFolder: str = ""


def read(node: vtkMRMLScriptedModuleNode) -> tuple[DeepAttentionRegParameterNode, str]:
    """Return the choices in a scene; the usual ones take the place of those that mean nothing here.

    Another version may have known a method or a range that this one does not, and the wrapper would refuse them all.

    :param node: the parameter node of the scene.
    :return: the choices, and a sentence on what was given up; empty if nothing.
    """
    hints = get_type_hints(DeepAttentionRegParameterNode, include_extras=True)
    stored = {name: node.GetParameter(name) for name in hints if node.HasParameter(name)}
    unknown = {name: text for name, text in stored.items() if not _isKnown(hints[name], text)}
    notice = ""
    if unknown:
        text = _("Choices that another version saved in the scene mean nothing here and are the usual ones: {all}.")
        notice = text.format(all=", ".join(f"{name} {value}" for name, value in unknown.items()))
        logger.warning("%s", notice)
    for name in unknown:
        node.UnsetParameter(name)
    return DeepAttentionRegParameterNode(node), notice


def letGo(choices: vtkMRMLScriptedModuleNode, node: vtkMRMLNode) -> None:
    """Choose nothing wherever a node that is about to be removed was chosen."""
    if choices is node:
        return
    with slicer.util.NodeModify(choices):
        for index in range(choices.GetNumberOfNodeReferenceRoles()):
            role = choices.GetNthNodeReferenceRole(index)
            if choices.GetNodeReferenceID(role) == node.GetID():
                choices.SetNodeReferenceID(role, None)


def _isKnown(hint: Any, text: str) -> bool:
    """Return whether a parameter can have a value, by its text in the scene."""
    kind, *ranges = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return text in kind.__members__
    try:
        for allowed in ranges:
            allowed.validate(kind(text))
    except ValueError:
        return False
    return True


def settingsOf(parameters: DeepAttentionRegParameterNode) -> Settings:
    """Return the settings that the panel shows.

    :param parameters: its choices.
    """
    values = {name: getattr(parameters, ours) for ours, name in SETTING_NAMES.items() if name not in NOT_OFFERED}
    values = {name: value.value if isinstance(value, enum.Enum) else value for name, value in values.items()}
    steps = parameters.refinementSteps if parameters.refine else 0
    return Settings(**{**values, "weights": parameters.weights or None, "refinement_steps": steps})
