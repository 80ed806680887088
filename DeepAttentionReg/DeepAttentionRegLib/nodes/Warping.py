"""Apply the transform of a registration to further nodes: volumes, segmentations, models and markups.

What belongs to the moving volume is brought onto the fixed one. Voxels are looked up where the field points to; points
and surfaces go the opposite way, through its inverse, as they do in Slicer when a transform is hardened.
"""

from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from DeepAttentionRegEngine.protocol.reporting import Pause, no_pause
from DeepAttentionRegEngine.volume.geometry import Geometry

from . import Record, Volumes
from .Present import present
from .Reslicing import Reslicer
from .Transforms import WORLD, forImages
from .Volumes import BINARY_LABELMAP

CLOSED_SURFACE = "Closed surface"
# A point that the field does not bring back to where it was, to this distance, lies in a fold.
RETURN_MM = 0.1


@dataclass(frozen=True)
class Warped:
    """What became of a node.

    :param node: the warped one.
    :param warning: a sentence on what cannot be relied upon; empty if there is nothing to say.
    """

    node: slicer.vtkMRMLTransformableNode
    warning: str = ""


def checkWarp(
    node: slicer.vtkMRMLNode | None,
    transformNode: slicer.vtkMRMLTransformNode | None,
    output: slicer.vtkMRMLNode | None = None,
    reference: slicer.vtkMRMLVolumeNode | None = None,
) -> str:
    """Return why a node cannot be warped, as a sentence; empty if it can. Arguments as of `warp`."""
    if node is None or transformNode is None:
        return _("Choose a transform and what to warp by it.")
    name = node.GetName()
    if not _canBeWarped(node):
        text = _("{name} cannot be warped; scalar and color volumes, segmentations, models and markups can.")
        return text.format(name=name)
    if _isEmpty(node):
        return _("{name} is empty, so there is nothing to warp.").format(name=name)
    if toFrame(node, transformNode) is None:
        text = _("{name} is under a non-linear transform; take it out of that or harden it first (Data module).")
        return text.format(name=name)
    reference = reference or _fixedOf(transformNode)
    return (_checkReference(reference, transformNode) if _isDrawn(node) else "") or (
        _checkOutput(output, node, [transformNode, reference, _fixedOf(transformNode), _movingOf(transformNode)])
    )


def warp(
    node: slicer.vtkMRMLTransformableNode,
    transformNode: slicer.vtkMRMLTransformNode,
    output: slicer.vtkMRMLTransformableNode | None = None,
    reference: slicer.vtkMRMLVolumeNode | None = None,
    *,
    pause: Pause = no_pause,
) -> Warped:
    """Bring a node that belongs to the moving volume onto the fixed one; the node itself stays as it is.

    Volumes and segmentations are drawn on the grid of the fixed volume: images by linear interpolation, labels by the
    nearest voxel. What shares the parent transform of the moving volume, or has the transform itself as parent, is
    taken as it is below that.

    :param node: scalar or color volume, label map, segmentation, model or markup.
    :param transformNode: the transform of a registration.
    :param output: existing node of the same class to write into; None adds one.
    :param reference: volume on whose grid to draw; None takes the transform's fixed volume.
    :param pause: called before every slab.
    :raises ValueError: if it cannot be done; says why.
    """
    problem = checkWarp(node, transformNode, output, reference)
    if problem:
        raise ValueError(problem)
    reference = reference or _fixedOf(transformNode)
    frame, transform = present(toFrame(node, transformNode)), forImages(transformNode)
    if isinstance(node, slicer.vtkMRMLVolumeNode):
        geometry = Volumes.geometryOf(reference, WORLD)
        image = drawVolume(node, frame, transform, geometry, pause)
        output = output or _addNodeLike(node, reference)
        Volumes.fillVolume(output, image, geometry)
        isSeen = _hasContrast(image) or not _hasContrast(node.GetImageData())
        return Warped(output, "" if isSeen else _nothingSeen(node, transformNode))
    if isinstance(node, slicer.vtkMRMLSegmentationNode):
        segmentation = drawSegments(node, frame, transform, Volumes.geometryOf(reference, WORLD), pause)
        output = output or _addNodeLike(node, reference)
        Volumes.createSegmentation(segmentation, output.GetName(), reference, output)
        if node.GetSegmentation().ContainsRepresentation(CLOSED_SURFACE):
            output.CreateClosedSurfaceRepresentation()
        return Warped(output, "" if _hasVoxels(segmentation) else _nothingSeen(node, transformNode))
    output = output or _addNodeLike(node, reference or transformNode)
    return Warped(output, _warpPoints(node, transformNode, output))


def _nothingSeen(node: slicer.vtkMRMLNode, transformNode: slicer.vtkMRMLTransformNode) -> str:
    text = _("{name} lies elsewhere than {transform} leads, so nothing of it is seen in what was warped.")
    return text.format(name=node.GetName(), transform=transformNode.GetName())


def _valuesOf(image: vtk.vtkImageData) -> np.ndarray:
    return vtk_to_numpy(image.GetPointData().GetScalars())


def _hasContrast(image: vtk.vtkImageData) -> bool:
    values = _valuesOf(image)
    return bool(np.nanmax(values) > np.nanmin(values))


def _hasVoxels(segmentation: slicer.vtkSegmentation) -> bool:
    layers = range(segmentation.GetNumberOfLayers(BINARY_LABELMAP))
    images = [segmentation.GetLayerDataObject(layer, BINARY_LABELMAP) for layer in layers]
    return any(image.GetNumberOfPoints() and _valuesOf(image).any() for image in images)


def _canBeWarped(node: slicer.vtkMRMLNode) -> bool:
    if node.GetClassName() == "vtkMRMLVectorVolumeNode":  # a field of vectors would have to be turned, too
        return node.GetVoxelVectorType() != node.VoxelVectorTypeSpatial
    volumesAndModels = ("vtkMRMLScalarVolumeNode", "vtkMRMLLabelMapVolumeNode", "vtkMRMLModelNode")
    others = (slicer.vtkMRMLMarkupsNode, slicer.vtkMRMLSegmentationNode)
    return node.GetClassName() in volumesAndModels or isinstance(node, others)


def _isDrawn(node: slicer.vtkMRMLNode) -> bool:
    return isinstance(node, (slicer.vtkMRMLVolumeNode, slicer.vtkMRMLSegmentationNode))


def _isEmpty(node: slicer.vtkMRMLNode) -> bool:
    if isinstance(node, slicer.vtkMRMLSegmentationNode):
        return node.GetSegmentation().GetNumberOfSegments() == 0
    if isinstance(node, slicer.vtkMRMLVolumeNode):
        return node.GetImageData() is None or node.GetImageData().GetNumberOfPoints() == 0
    return _pointsOf(node).GetNumberOfPoints() == 0


def _fixedOf(transformNode: slicer.vtkMRMLTransformNode) -> slicer.vtkMRMLVolumeNode | None:
    return transformNode.GetNodeReference(transformNode.GetFixedNodeReferenceRole())


def _movingOf(transformNode: slicer.vtkMRMLTransformNode) -> slicer.vtkMRMLVolumeNode | None:
    return transformNode.GetNodeReference(transformNode.GetMovingNodeReferenceRole())


def toFrame(node: slicer.vtkMRMLTransformableNode, transformNode: slicer.vtkMRMLTransformNode) -> np.ndarray | None:
    """Return the 4x4 RAS matrix from a node's own coordinates to those of the moving volume below its parents.

    These are what the transform takes. None if a non-linear transform lies between.
    """
    moving, parent = _movingOf(transformNode), node.GetParentTransformNode()
    if parent is transformNode or (moving is not None and parent is moving.GetParentTransformNode()):
        return WORLD
    toWorld = Volumes.matrixToWorld(node)
    movingToWorld = None if moving is None else Record.movingToWorld(transformNode, moving)
    if toWorld is None or movingToWorld is None:
        return toWorld
    return np.linalg.inv(movingToWorld) @ toWorld


def _checkReference(reference: slicer.vtkMRMLVolumeNode | None, transformNode: slicer.vtkMRMLTransformNode) -> str:
    if reference is None:
        text = _("The fixed volume of {name} is gone; choose a volume on whose grid to draw what is warped.")
        return text.format(name=transformNode.GetName())
    return Volumes.checkNode(reference)


def _checkOutput(
    output: slicer.vtkMRMLNode | None, node: slicer.vtkMRMLNode, others: list[slicer.vtkMRMLNode | None]
) -> str:
    if output is None:
        return ""
    if any(output is given for given in (node, *others)):
        return _("{name} is an input; choose another output.").format(name=output.GetName())
    if output.GetClassName() != node.GetClassName():
        text = _("{output} cannot hold what {name} becomes; choose a node of the same kind.")
        return text.format(output=output.GetName(), name=node.GetName())
    return ""


def _addNodeLike(node: slicer.vtkMRMLDisplayableNode, fixed: slicer.vtkMRMLNode) -> slicer.vtkMRMLDisplayableNode:
    """Add an empty node of the same class that looks the same."""
    name = _("{name} warped to {fixed}").format(name=node.GetName(), fixed=fixed.GetName())
    scene = slicer.mrmlScene
    added = scene.AddNewNodeByClass(node.GetClassName(), scene.GenerateUniqueName(name))
    added.CreateDefaultDisplayNodes()
    if node.GetDisplayNode() is not None and added.GetDisplayNode() is not None:
        added.GetDisplayNode().CopyContent(node.GetDisplayNode())
    return added


def drawVolume(
    node: slicer.vtkMRMLVolumeNode,
    nodeToFrame: np.ndarray,
    transform: vtk.vtkAbstractTransform,
    geometry: Geometry,
    pause: Pause = no_pause,
) -> vtk.vtkImageData:
    """Return a volume on a grid of the world, each voxel looked up where a transform leads.

    :param node: scalar or color volume, or label map.
    :param nodeToFrame: 4x4 RAS, from the node's own coordinates to those that the transform leads to.
    :param transform: from the world, RAS mm.
    :param geometry: the grid.
    :param pause: called before every slab.
    """
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    ijkToFrame = nodeToFrame @ slicer.util.arrayFromVTKMatrix(matrix)
    isLabels = isinstance(node, slicer.vtkMRMLLabelMapVolumeNode)
    return Reslicer(node.GetImageData(), ijkToFrame, isLabels).draw(transform, geometry, pause)


def drawnArray(image: vtk.vtkImageData, geometry: Geometry) -> np.ndarray:
    """Return the voxels (k, j, i) of what `drawVolume` or `drawSegments` drew; a layer without segments is empty."""
    if image.GetNumberOfPoints() == 0:
        return np.zeros(geometry.shape, np.uint8)
    return _valuesOf(image).reshape(geometry.shape)


def drawSegments(
    node: slicer.vtkMRMLSegmentationNode,
    nodeToFrame: np.ndarray,
    transform: vtk.vtkAbstractTransform,
    geometry: Geometry,
    pause: Pause = no_pause,
) -> slicer.vtkSegmentation:
    """Return a segmentation on a grid, outside of any scene; segments that overlap still do.

    Arguments as of `drawVolume`.
    """
    source = Volumes.withBinaryLabelmaps(node, geometry, nodeToFrame)
    segments = {}
    for layer in range(source.GetNumberOfLayers(BINARY_LABELMAP)):
        image = source.GetLayerDataObject(layer, BINARY_LABELMAP)
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        labels = slicer.vtkOrientedImageData()
        if not image.IsEmpty():
            imageToFrame = nodeToFrame @ slicer.util.arrayFromVTKMatrix(matrix)
            labels.ShallowCopy(Reslicer(image, imageToFrame, True).draw(transform, geometry, pause))
        labels.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(geometry.ijk_to_ras))
        for segmentId in source.GetSegmentIDsForLayer(layer, BINARY_LABELMAP):
            segment = slicer.vtkSegment()
            segment.DeepCopyMetadata(source.GetSegment(segmentId))
            segment.SetLabelValue(source.GetSegment(segmentId).GetLabelValue())
            segment.AddRepresentation(BINARY_LABELMAP, labels)
            segments[segmentId] = segment
    warped = slicer.vtkSegmentation()
    warped.SetSourceRepresentationName(BINARY_LABELMAP)
    for segmentId in source.GetSegmentIDs():
        warped.AddSegment(segments[segmentId], segmentId)
    return warped


def _pointsOf(node: slicer.vtkMRMLTransformableNode) -> vtk.vtkPoints:
    """Return the points that define a model or markup, in its own coordinates."""
    if isinstance(node, slicer.vtkMRMLModelNode):
        mesh = node.GetMesh()
        return mesh.GetPoints() if mesh is not None and mesh.GetPoints() is not None else vtk.vtkPoints()
    points = vtk.vtkPoints()
    for index in range(node.GetNumberOfControlPoints()):
        if node.GetNthControlPointPositionStatus(index) == node.PositionDefined:
            points.InsertNextPoint(node.GetNthControlPointPosition(index))
    return points


def _warpPoints(
    node: slicer.vtkMRMLTransformableNode,
    transformNode: slicer.vtkMRMLTransformNode,
    output: slicer.vtkMRMLTransformableNode,
) -> str:
    """Fill a node with the moved points of another one and return a warning, if any is needed."""
    output.CopyContent(node)
    output.SetAndObserveTransformNodeID(None)
    output.ApplyTransformMatrix(slicer.util.vtkMatrixFromArray(present(toFrame(node, transformNode))))
    before = _pointsOf(output)
    output.ApplyTransform(transformNode.GetTransformToParent())
    again = vtk.vtkPoints()
    transformNode.GetTransformFromParent().TransformPoints(_pointsOf(output), again)
    distances = np.linalg.norm(vtk_to_numpy(again.GetData()) - vtk_to_numpy(before.GetData()), axis=1)
    lost = int((distances > RETURN_MM).sum())
    if lost == 0:
        return ""
    text = _("{lost} of {count} points of {name} lie where the deformation folds; where they belong is uncertain.")
    return text.format(lost=lost, count=len(distances), name=node.GetName())
