"""What a registration takes from the scene."""

from dataclasses import dataclass

import numpy as np
import slicer
from slicer.i18n import tr as _

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
    points = [node for node in (inputs.fixedLandmarks, inputs.movingLandmarks) if node is not None]
    counts = [node.GetNumberOfControlPoints() for node in points]
    if len(counts) == 1:
        problems.append(_("Landmarks are needed on both volumes or on none."))
    elif len(set(counts)) == 2:
        text = _("There are {fixed} fixed but {moving} moving landmarks; they must correspond one by one.")
        problems.append(text.format(fixed=counts[0], moving=counts[1]))
    return problems


def startOf(inputs: InputNodes) -> np.ndarray:
    """Return the 4x4 RAS matrix from world to the moving volume where its registration starts."""
    initial = inputs.initialTransform
    return frameOf(inputs.movingVolume) if initial is None else np.linalg.inv(present(linearMatrix(initial)))
