"""What a registration takes from the scene."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.volume import loading

from .Present import present
from .SegmentPairs import checkPairs
from .Volumes import checkNode, frameOf, linearMatrix


@dataclass(frozen=True)
class InputNodes:
    """Nodes of a registration; label maps may be segmentations or label map volumes.

    :param fixedVolume: volume that stays.
    :param movingVolume: volume to deform.
    :param fixedMask: where the fixed volume drives the registration.
    :param movingMask: where the moving volume does.
    :param fixedSegmentation: structures to score with.
    :param movingSegmentation: structures to warp and to score with.
    :param fixedLandmarks: points to score with.
    :param movingLandmarks: the corresponding points, in the same order.
    :param initialTransform: linear start of the moving volume, in place of the parent transform that it is under.
    """

    fixedVolume: slicer.vtkMRMLScalarVolumeNode
    movingVolume: slicer.vtkMRMLScalarVolumeNode
    fixedMask: slicer.vtkMRMLNode | None = None
    movingMask: slicer.vtkMRMLNode | None = None
    fixedSegmentation: slicer.vtkMRMLNode | None = None
    movingSegmentation: slicer.vtkMRMLNode | None = None
    fixedLandmarks: slicer.vtkMRMLMarkupsNode | None = None
    movingLandmarks: slicer.vtkMRMLMarkupsNode | None = None
    initialTransform: slicer.vtkMRMLTransformNode | None = None

    @property
    def nodes(self) -> list[slicer.vtkMRMLNode]:
        """All nodes that are given."""
        return [node for node in vars(self).values() if node is not None]


def checkInputs(inputs: InputNodes) -> list[str]:
    """Return why a registration of these nodes could not work, as sentences; none if it can be tried."""
    if inputs.fixedVolume is None or inputs.movingVolume is None:
        return [_("Choose a fixed and a moving volume.")]
    if inputs.fixedVolume is inputs.movingVolume:
        return [_("Fixed and moving are the same volume; choose two.")]
    initial = inputs.initialTransform
    nodes = [node for node in inputs.nodes if node is not initial]
    problems = [problem for problem in map(checkNode, nodes) if problem]
    if initial is not None and not initial.IsTransformToWorldLinear():
        problems.append(_("{name} is not linear; choose another initial transform.").format(name=initial.GetName()))
    segmentations = inputs.fixedSegmentation, inputs.movingSegmentation
    # The values of a label map are not looked for: that takes a while, and this is asked often.
    if all(isinstance(node, slicer.vtkMRMLSegmentationNode) for node in segmentations):
        problems += filter(None, [checkPairs(*segmentations)])
    problem = _checkLandmarks([node for node in (inputs.fixedLandmarks, inputs.movingLandmarks) if node is not None])
    return [*problems, problem] if problem else problems


def _checkLandmarks(nodes: list[slicer.vtkMRMLMarkupsNode]) -> str:
    """Return why the chosen lists cannot be landmarks of a pair, as a sentence; empty if they can."""
    if len(nodes) == 1:
        return _("Landmarks are needed on both volumes or on none.")
    if len({node.GetClassName() for node in nodes}) == 2:
        return _("Landmarks must be points on both volumes, or the same kind of curve.")
    counts = [node.GetNumberOfControlPoints() for node in nodes]
    if len(set(counts)) == 2 and not nodes[0].IsA("vtkMRMLMarkupsCurveNode"):
        text = _("There are {fixed} fixed but {moving} moving landmarks; they must correspond one by one.")
        return text.format(fixed=counts[0], moving=counts[1])
    return ""


def tellSizes(inputs: InputNodes) -> list[str]:
    """Return a sentence for each volume whose voxel size is none: how large to print the picture it was loaded from."""
    text = _(
        "{name} was loaded from a picture, and its voxel size of {size:.3g} mm is only how large to print that; set the"
        " true one in the Volumes module, or the displacements are no millimeters."
    )
    nodes = [inputs.fixedVolume, inputs.movingVolume]
    return [text.format(name=node.GetName(), size=node.GetSpacing()[0]) for node in nodes if _hasPrintDensity(node)]


def _hasPrintDensity(node: slicer.vtkMRMLVolumeNode) -> bool:
    storage = node.GetStorageNode()
    path = Path((storage.GetFullNameFromFileName() if storage is not None else None) or "")
    if path.suffix.lower() not in loading.PICTURES or not path.is_file():
        return False
    try:
        return loading.is_print_density(str(path), node.GetSpacing())
    except (RuntimeError, errors.EngineError):  # replaced since it was loaded
        return False


def startOf(inputs: InputNodes) -> np.ndarray:
    """Return the 4x4 RAS matrix from world to the moving volume where its registration starts."""
    initial = inputs.initialTransform
    return frameOf(inputs.movingVolume) if initial is None else np.linalg.inv(present(linearMatrix(initial)))
