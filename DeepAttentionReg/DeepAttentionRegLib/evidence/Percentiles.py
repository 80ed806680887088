"""Dose and contours where the deformation may err: warped to their 5th, 50th and 95th percentile.

    Percentiles.warp(dose, transformNode)

The transform has to remember a map of its error; maps/percentiles.py of the engine says what it is taken for. Of a
segmentation the percentiles are what lies inside surely (with a probability of 95 %), as likely as not, and possibly
(5 %). Models and markups have none.
"""

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from DeepAttentionRegEngine.maps import percentiles
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.protocol.reporting import Pause, no_pause
from DeepAttentionRegEngine.volume import fields
from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras
from DeepAttentionRegEngine.volume.images import Volume
from DeepAttentionRegEngine.volume.segment_pairs import Segment
from DeepAttentionRegEngine.volume.segments import Segments

from ..nodes import ErrorBound, Transforms, Volumes, Warping
from ..nodes.Present import present
from ..nodes.Reslicing import Reslicer
from ..nodes.Transforms import WORLD
from ..nodes.Volumes import BINARY_LABELMAP
from ..tasks import Results

Nodes = dict[str, slicer.vtkMRMLDisplayableNode]


def check(
    node: slicer.vtkMRMLNode | None,
    transformNode: slicer.vtkMRMLTransformNode | None,
    reference: slicer.vtkMRMLVolumeNode | None = None,
) -> str:
    """Return why a node cannot be warped to its percentiles, as a sentence; empty if it can. Arguments as of `warp`."""
    problem = Warping.checkWarp(node, transformNode, None, reference)
    if problem:
        return problem
    if ErrorBound.mapOf(transformNode) is None:
        text = _("{name} does not remember a map of its error: register by a method whose error is known.")
        return text.format(name=present(transformNode).GetName())
    return _checkKind(present(node))


def _checkKind(node: slicer.vtkMRMLNode) -> str:
    if isinstance(node, slicer.vtkMRMLLabelMapVolumeNode):
        text = _("What is possibly inside of several labels of {name} overlaps: convert it to a segmentation first.")
    elif node.GetClassName() == "vtkMRMLScalarVolumeNode" or isinstance(node, slicer.vtkMRMLSegmentationNode):
        return ""
    else:
        text = _("{name} has no percentiles; scalar volumes and segmentations have.")
    return text.format(name=node.GetName())


def warp(
    node: slicer.vtkMRMLTransformableNode,
    transformNode: slicer.vtkMRMLTransformNode,
    reference: slicer.vtkMRMLVolumeNode | None = None,
    *,
    pause: Pause = no_pause,
) -> Nodes:
    """Bring a node that belongs to the moving volume onto the fixed one, at three percentiles.

    :param node: scalar volume or segmentation.
    :param transformNode: the transform of a registration, which remembers a map of its error.
    :param reference: volume on whose grid to draw; None takes the transform's fixed volume.
    :param pause: called before every look at the node, of which there are many.
    :return: new nodes of the same class: "low" (5th percentile), "median" and "high" (95th percentile).
    :raises ValueError: if it cannot be done; says why.
    """
    problem = check(node, transformNode, reference)
    if problem:
        raise ValueError(problem)
    reference = reference or transformNode.GetNodeReference(transformNode.GetFixedNodeReferenceRole())
    grid = Volumes.geometryOf(reference, WORLD)
    error = _readMap(present(ErrorBound.mapOf(transformNode)), grid)
    toFrame, transform = present(Warping.toFrame(node, transformNode)), Transforms.forImages(transformNode)
    names = _namesOf(node, reference)
    if isinstance(node, slicer.vtkMRMLVolumeNode):
        reslicer = Reslicer(node.GetImageData(), toFrame @ Volumes.ijkToRas(node), False)
        kind = slicer.util.arrayFromVolume(node).dtype
        arrays = percentiles.of_volume(_view(reslicer, transform), kind, error, grid, pause)
        with Results.allOrNothing([]):
            return {
                name: Volumes.createVolume(Volumes.makeImage(array), grid, names[name], node)
                for name, array in arrays.items()
            }
    drawn = _warpSegments(node, toFrame, transform, error, grid, pause)
    with Results.allOrNothing([]):
        return {name: _addSegmentation(made, names[name], node, reference) for name, made in drawn.items()}


def _readMap(node: slicer.vtkMRMLScalarVolumeNode, grid: Geometry) -> Volume:
    error = Volume(slicer.util.arrayFromVolume(node), Volumes.placeOf(node))
    try:
        percentiles.require_bound(error, grid)
    except errors.EngineError as problem:
        raise ValueError(str(problem)) from problem
    return error


def _namesOf(node: slicer.vtkMRMLNode, reference: slicer.vtkMRMLNode) -> dict[str, str]:
    texts = {
        "low": _("{name} warped to {fixed} (5th percentile)"),
        "median": _("{name} warped to {fixed} (median)"),
        "high": _("{name} warped to {fixed} (95th percentile)"),
    }
    return {
        name: slicer.mrmlScene.GenerateUniqueName(text.format(name=node.GetName(), fixed=reference.GetName()))
        for name, text in texts.items()
    }


def _view(reslicer: Reslicer | None, transform: vtk.vtkAbstractTransform) -> percentiles.View:
    """Return what looks up an image through a transform with errors; nothing but 0 if there is no image."""

    def view(part: Geometry) -> percentiles.Look:
        motion = _motionLps(transform, part)

        def look(errorLpsMm: np.ndarray) -> np.ndarray:
            if reslicer is None:
                return np.zeros(part.shape, np.uint8)
            return Warping.drawnArray(
                reslicer.draw(Transforms.makeGridTransform(motion + errorLpsMm, part), part), part
            )

        return look

    return view


def _motionLps(transform: vtk.vtkAbstractTransform, grid: Geometry) -> np.ndarray:
    """Return where a transform leads the voxels of a grid, (k, j, i, 3) mm LPS from where they are."""
    pointsRas = flip_lps_ras(np.concatenate([points for _slab, points in fields.grid_slabs(grid)]))
    before, after = vtk.vtkPoints(), vtk.vtkPoints()
    after.SetDataTypeToDouble()
    before.SetData(numpy_to_vtk(pointsRas, deep=True))
    transform.TransformPoints(before, after)
    return flip_lps_ras(vtk_to_numpy(after.GetData()) - pointsRas).reshape(*grid.shape, 3)


def _warpSegments(
    node: slicer.vtkMRMLSegmentationNode,
    toFrame: np.ndarray,
    transform: vtk.vtkAbstractTransform,
    error: Volume,
    grid: Geometry,
    pause: Pause,
) -> dict[str, slicer.vtkSegmentation]:
    """Return segmentations outside of any scene, by the name of the percentile."""
    source = Volumes.withBinaryLabelmaps(node, grid, toFrame)
    layers, views, items, ids = [], [], [], []
    for layer in range(source.GetNumberOfLayers(BINARY_LABELMAP)):
        image = source.GetLayerDataObject(layer, BINARY_LABELMAP)
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        isEmpty = image.IsEmpty()
        imageToFrame = toFrame @ slicer.util.arrayFromVTKMatrix(matrix)
        views.append(_view(None if isEmpty else Reslicer(image, imageToFrame, True), transform))
        layers.append(np.zeros(0, np.uint8) if isEmpty else vtk_to_numpy(image.GetPointData().GetScalars()))
        for segmentId in source.GetSegmentIDsForLayer(layer, BINARY_LABELMAP):
            segment = source.GetSegment(segmentId)
            items.append(Segment(segment.GetName(), segment.GetLabelValue(), layer))
            ids.append(segmentId)
    found = percentiles.of_segments(Segments(layers, grid, items), views, error, grid, pause)
    return {name: _segmentation(made, dict(zip(ids, made.items, strict=True)), source) for name, made in found.items()}


def _segmentation(made: Segments, items: dict[str, Segment], source: slicer.vtkSegmentation) -> slicer.vtkSegmentation:
    """Return segments in the order of those that they were made of, with what people know these by."""
    pictures = [Volumes.makeImage(layer, slicer.vtkOrientedImageData) for layer in made.layers]
    for picture in pictures:
        picture.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(made.geometry.ijk_to_ras))
    segmentation = slicer.vtkSegmentation()
    segmentation.SetSourceRepresentationName(BINARY_LABELMAP)
    for segmentId in source.GetSegmentIDs():
        segment = slicer.vtkSegment()
        segment.DeepCopyMetadata(source.GetSegment(segmentId))
        segment.SetLabelValue(items[segmentId].value)
        segment.AddRepresentation(BINARY_LABELMAP, pictures[items[segmentId].layer])
        segmentation.AddSegment(segment, segmentId)
    return segmentation


def _addSegmentation(
    segmentation: slicer.vtkSegmentation,
    name: str,
    like: slicer.vtkMRMLSegmentationNode,
    reference: slicer.vtkMRMLVolumeNode,
) -> slicer.vtkMRMLSegmentationNode:
    node = Volumes.createSegmentation(segmentation, name, reference, like=like)
    # Filled, each would hide the one within it.
    node.GetDisplayNode().SetVisibility2DFill(False)
    if like.GetSegmentation().ContainsRepresentation(Warping.CLOSED_SURFACE):
        node.CreateClosedSurfaceRepresentation()
    return node
