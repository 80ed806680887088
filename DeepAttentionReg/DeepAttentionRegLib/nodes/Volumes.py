"""Volumes, label maps, segmentations and landmarks from nodes to files, and from arrays to nodes.

Everything of the fixed side is written in world coordinates, everything of the moving side in the coordinates that the
moving volume has below its parent transform ("frame"): so the field found replaces that parent.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import get_vtk_array_type, vtk_to_numpy

from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras
from DeepAttentionRegEngine.volume.segment_pairs import Segment
from DeepAttentionRegEngine.volume.segments import Segments, as_segments, write_segments

from .Present import present
from .SegmentPairs import SegmentNumbers, segmentsOf

BINARY_LABELMAP = "Binary labelmap"
# What a display says of each segment by itself.
SEGMENT_DISPLAY = (
    *("Visibility", "Visibility3D", "Visibility2DFill", "Visibility2DOutline"),
    *("Opacity3D", "Opacity2DFill", "Opacity2DOutline"),
)


def checkNode(node: slicer.vtkMRMLTransformableNode) -> str:
    """Return why a volume, segmentation or list of landmarks is no input, as a sentence; empty if it can be one."""
    problem = _checkFrame(node) or _checkContent(node)
    return problem.format(name=node.GetName())


def _checkFrame(node: slicer.vtkMRMLTransformableNode) -> str:
    matrix = matrixToWorld(node)
    if matrix is None:
        return _("{name} is under a non-linear transform; take it out of that or harden it first (Data module).")
    if isinstance(node, slicer.vtkMRMLMarkupsNode):
        return ""
    isVolume = isinstance(node, slicer.vtkMRMLVolumeNode)
    try:
        Geometry.from_ijk_to_ras(matrix @ ijkToRas(node) if isVolume else matrix, (1, 1, 1))
    except errors.EngineError:
        if isVolume:  # hardening would leave its axes sheared
            return _(
                "{name} is sheared, by its parent transform or its own axes; resample it first"
                " (Resample Scalar/Vector/DWI Volume module)."
            )
        return _("{name} is sheared by its parent transform; harden that first (Data module).")
    return ""


def _checkContent(node: slicer.vtkMRMLNode) -> str:
    if isinstance(node, slicer.vtkMRMLMarkupsNode):
        count = node.GetNumberOfControlPoints()
        isPlaced = count > 0 and node.GetNumberOfDefinedControlPoints() == count
        return "" if isPlaced else _("{name} has no landmarks, or one that is not placed yet.")
    if isinstance(node, slicer.vtkMRMLSegmentationNode):
        return "" if node.GetSegmentation().GetNumberOfSegments() else _("{name} has no segments.")
    image = node.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        return _("{name} is empty.")
    return "" if image.GetNumberOfScalarComponents() == 1 else _("{name} has several values per voxel (color, vector).")


def matrixToWorld(node: slicer.vtkMRMLTransformableNode) -> np.ndarray | None:
    """Return the 4x4 RAS matrix of a node's parent transforms; None if they are not linear."""
    return linearMatrix(node.GetParentTransformNode())


def linearMatrix(transformNode: slicer.vtkMRMLTransformNode | None) -> np.ndarray | None:
    """Return the 4x4 RAS matrix from a transform to the world; the identity for None, None for a non-linear one."""
    if transformNode is None:
        return np.eye(4)
    if not transformNode.IsTransformToWorldLinear():  # asking for its matrix all the same would log an error
        return None
    matrix = vtk.vtkMatrix4x4()
    transformNode.GetMatrixTransformToWorld(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def ijkToRas(volumeNode: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    """Return the 4x4 matrix from voxels to the coordinates of a volume below its parent transforms, RAS mm."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def frameOf(node: slicer.vtkMRMLTransformableNode) -> np.ndarray:
    """Return the 4x4 RAS matrix from world to the coordinates of a node below its (linear) parent transforms."""
    return np.linalg.inv(present(matrixToWorld(node)))


def geometryOf(volumeNode: slicer.vtkMRMLVolumeNode, worldToFrame: np.ndarray) -> Geometry:
    """Return the grid of a volume in a frame, its parent transforms included.

    :param worldToFrame: 4x4 RAS; the identity for world coordinates.
    """
    matrix = worldToFrame @ present(matrixToWorld(volumeNode)) @ ijkToRas(volumeNode)
    return Geometry.from_ijk_to_ras(matrix, volumeNode.GetImageData().GetDimensions())


def placeOf(volumeNode: slicer.vtkMRMLVolumeNode) -> Geometry:
    """Return the grid of a volume in the world.

    :raises ValueError: if it has none there, or is no input; says why.
    """
    problem = checkNode(volumeNode)
    if problem:
        raise ValueError(problem)
    return geometryOf(volumeNode, np.eye(4))


def exportVolume(volumeNode: slicer.vtkMRMLVolumeNode, worldToFrame: np.ndarray, path: Path) -> None:
    """Write a volume in a frame, in its own voxel type."""
    array = slicer.util.arrayFromVolume(volumeNode)
    _write(images.to_sitk(array, geometryOf(volumeNode, worldToFrame)), path)


def exportPoints(markupsNode: slicer.vtkMRMLMarkupsNode, worldToFrame: np.ndarray, path: Path) -> None:
    """Write landmarks in a frame; a curve as one, through the points that it is drawn with."""
    isCurve = isinstance(markupsNode, slicer.vtkMRMLMarkupsCurveNode)
    if isCurve:
        points = vtk_to_numpy(markupsNode.GetCurvePointsWorld().GetData()).astype(float)
    else:
        points = slicer.util.arrayFromMarkupsControlPoints(markupsNode, world=True)
    pointsLps = flip_lps_ras(points @ worldToFrame[:3, :3].T + worldToFrame[:3, 3])
    if isCurve:
        images.write_curve(path, pointsLps, closed=isinstance(markupsNode, slicer.vtkMRMLMarkupsClosedCurveNode))
    else:
        places = range(markupsNode.GetNumberOfControlPoints())
        images.write_points(path, pointsLps, [markupsNode.GetNthControlPointDescription(place) for place in places])


def exportLabels(
    node: slicer.vtkMRMLNode, numbers: SegmentNumbers, reference: Geometry, worldToFrame: np.ndarray, path: Path
) -> dict[int, slicer.vtkSegment]:
    """Write segments in a frame, each whole: a label map volume as it is, a segmentation drawn on a grid.

    :param node: segmentation or label map volume.
    :param numbers: label value by segment id, from `numberSegments`.
    :param reference: grid (in the frame) to draw segments on.
    :param worldToFrame: 4x4 RAS.
    :param path: .seg.nrrd; without a need for layers any image.
    :return: empty segments that tell the name and color of each label value.
    """
    if isinstance(node, slicer.vtkMRMLSegmentationNode):
        made = _layered(node, numbers, reference, worldToFrame)
        segments = {numbers[name]: node.GetSegmentation().GetSegment(name) for name in numbers}
        descriptions = {value: _copyDescription(segment) for value, segment in segments.items()}
    else:
        made = as_segments((slicer.util.arrayFromVolume(node), geometryOf(node, worldToFrame)))
        descriptions = {segment.value: describeLabel(node, segment.value) for segment in made.items}
    write_segments(path, made)
    return descriptions


def exportMask(node: slicer.vtkMRMLNode, reference: Geometry, worldToFrame: np.ndarray, path: Path) -> None:
    """Write all segments, or all labels, of a node as one mask; arguments as of `exportLabels`."""
    if isinstance(node, slicer.vtkMRMLSegmentationNode):
        mask, geometry = np.zeros(reference.shape, np.uint8), reference
        for _segmentId, drawn in _drawn(node, reference, worldToFrame):
            mask |= drawn
    else:
        mask, geometry = slicer.util.arrayFromVolume(node) != 0, geometryOf(node, worldToFrame)
    _write(images.to_sitk(mask.astype(np.uint8), geometry), path)


def _write(image: sitk.Image, path: Path) -> None:
    # Not compressed: the file is read once and then gone.
    sitk.WriteImage(image, str(path))


def _layered(
    node: slicer.vtkMRMLSegmentationNode, numbers: SegmentNumbers, reference: Geometry, worldToFrame: np.ndarray
) -> Segments:
    """Draw segments on a grid, in as few label maps as their overlaps allow."""
    kind = np.min_scalar_type(max(numbers.values(), default=1))
    layers, places = [np.zeros(reference.shape, kind)], dict.fromkeys(numbers, 0)
    for segmentId, mask in _drawn(node, reference, worldToFrame):
        place = next((index for index, layer in enumerate(layers) if not layer[mask].any()), len(layers))
        if place == len(layers):
            layers.append(np.zeros(reference.shape, kind))
        layers[place][mask] = numbers[segmentId]
        places[segmentId] = place
    names = {segmentId: segment.GetName() for segmentId, segment in segmentsOf(node).items()}
    items = [Segment(names[segmentId], numbers[segmentId], place) for segmentId, place in places.items()]
    return Segments(layers, reference, items)


def _drawn(
    node: slicer.vtkMRMLSegmentationNode, reference: Geometry, worldToFrame: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Draw the segments that are not empty on a grid: id and mask (k, j, i) of one after the other."""
    toFrame = worldToFrame @ present(matrixToWorld(node))
    segmentation = withBinaryLabelmaps(node, reference, toFrame)
    grid = images.to_sitk(np.zeros(reference.shape, np.uint8), reference)
    for layer in range(segmentation.GetNumberOfLayers(BINARY_LABELMAP)):
        image = segmentation.GetLayerDataObject(layer, BINARY_LABELMAP)
        if image.IsEmpty():
            continue
        scalars = vtk_to_numpy(image.GetPointData().GetScalars())
        voxels = sitk.GetImageFromArray(scalars.reshape(image.GetDimensions()[::-1]))
        toVoxels = images.to_affine(_lpsToVoxels(image, toFrame))
        drawn = sitk.GetArrayFromImage(sitk.Resample(voxels, grid, toVoxels, sitk.sitkNearestNeighbor, 0))
        for segmentId in segmentation.GetSegmentIDsForLayer(layer, BINARY_LABELMAP):
            yield segmentId, drawn == segmentation.GetSegment(segmentId).GetLabelValue()


def withBinaryLabelmaps(
    node: slicer.vtkMRMLSegmentationNode, reference: Geometry, toFrame: np.ndarray
) -> slicer.vtkSegmentation:
    """Return a node's segmentation, or a converted copy where it has surfaces only, so that the node stays as it is.

    :param reference: grid in a frame, whose voxels a converted copy gets.
    :param toFrame: 4x4 RAS, from the node's own coordinates.
    """
    segmentation = node.GetSegmentation()
    if segmentation.ContainsRepresentation(BINARY_LABELMAP):
        return segmentation
    copy = slicer.vtkSegmentation()
    copy.DeepCopy(segmentation)
    converter = slicer.vtkSegmentationConverter
    matrix = slicer.util.vtkMatrixFromArray(np.linalg.inv(toFrame) @ reference.ijk_to_ras)
    extent = [bound for size in reference.size for bound in (0, size - 1)]
    text = converter.SerializeImageGeometry(matrix, extent)
    copy.SetConversionParameter(converter.GetReferenceImageGeometryParameterName(), text)
    if not copy.CreateRepresentation(BINARY_LABELMAP):
        raise ValueError(_("{name} cannot be converted to a label map.").format(name=node.GetName()))
    return copy


def _lpsToVoxels(image: slicer.vtkOrientedImageData, toFrame: np.ndarray) -> np.ndarray:
    """Return the 4x4 matrix of LPS points in a frame to voxels of a label map, whose axes may be sheared.

    :param toFrame: 4x4 RAS, from the label map's space.
    """
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    toFirstVoxel = np.eye(4)
    toFirstVoxel[:3, 3] = image.GetExtent()[::2]
    toRas = toFrame @ slicer.util.arrayFromVTKMatrix(matrix) @ toFirstVoxel
    return np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ toRas)


def _copyDescription(segment: slicer.vtkSegment) -> slicer.vtkSegment:
    copy = slicer.vtkSegment()
    copy.DeepCopyMetadata(segment)
    return copy


def describeLabel(labelmapNode: slicer.vtkMRMLLabelMapVolumeNode, value: int) -> slicer.vtkSegment:
    """Return an empty segment that tells the name and color of a label value."""
    segment = slicer.vtkSegment()
    display = labelmapNode.GetDisplayNode()
    colors = display.GetColorNode() if display else None
    color = [0.0, 0.0, 0.0, 0.0]
    if colors is not None and colors.GetColor(value, color):
        segment.SetColor(*color[:3])
    name = colors.GetColorName(value) if colors is not None else None
    segment.SetName(name or _("Label {value}").format(value=value))
    return segment


def makeImage(array: np.ndarray, kind: type[vtk.vtkImageData] = vtk.vtkImageData) -> vtk.vtkImageData:
    """Return a copy of an array (k, j, i) as VTK image with the voxel grid as its space."""
    scalars = vtk.vtkDataArray.CreateDataArray(get_vtk_array_type(array.dtype))
    scalars.SetNumberOfTuples(array.size)
    vtk_to_numpy(scalars)[:] = array.ravel()
    image = kind()
    image.SetDimensions(array.shape[::-1])
    image.GetPointData().SetScalars(scalars)
    return image


def fillVolume(node: slicer.vtkMRMLVolumeNode, image: vtk.vtkImageData, geometry: Geometry) -> None:
    """Give a volume node its voxels and their place in the world."""
    node.SetAndObserveTransformNodeID(None)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(geometry.ijk_to_ras))
    node.SetAndObserveImageData(image)


def makeSegmentation(
    labels: np.ndarray, geometry: Geometry, descriptions: dict[int, slicer.vtkSegment]
) -> slicer.vtkSegmentation:
    """Return a segmentation outside of any scene, its segments sharing one label map.

    :param labels: (k, j, i) of whole numbers; each that occurs, and each described, becomes a segment.
    :param geometry: grid of the label map.
    :param descriptions: name and color of each label value, as `exportLabels` returned them.
    """
    return makeLayers(Segments([labels], geometry, []), descriptions)


def makeLayers(segments: Segments, descriptions: dict[int, slicer.vtkSegment]) -> slicer.vtkSegmentation:
    """Return a segmentation outside of any scene, whose segments may overlap.

    :param segments: each listed, described or occurring label value becomes a segment, once.
    :param descriptions: name and color of each label value, as `exportLabels` returned them.
    """
    layerOf = {segment.value: segment.layer for segment in segments.items}
    pictures = []
    for index, layer in enumerate(segments.layers):
        layerOf |= {value: index for value in np.unique(layer).tolist() if value not in layerOf}
        pictures.append(makeImage(layer, slicer.vtkOrientedImageData))
        pictures[-1].SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(segments.geometry.ijk_to_ras))
    segmentation = slicer.vtkSegmentation()
    segmentation.SetSourceRepresentationName(BINARY_LABELMAP)
    for value in sorted({*layerOf, *descriptions} - {0}):
        segment = slicer.vtkSegment()
        segment.SetName(_("Label {value}").format(value=value))
        if value in descriptions:
            segment.DeepCopyMetadata(descriptions[value])
        segment.SetLabelValue(value)
        segment.AddRepresentation(BINARY_LABELMAP, pictures[layerOf.get(value, 0)])
        segmentation.AddSegment(segment)
    return segmentation


def createVolume(
    image: vtk.vtkImageData,
    geometry: Geometry,
    name: str,
    like: slicer.vtkMRMLScalarVolumeNode,
    node: slicer.vtkMRMLScalarVolumeNode | None = None,
) -> slicer.vtkMRMLScalarVolumeNode:
    """Put an image into a volume node.

    :param image: from `makeImage`.
    :param geometry: its grid in the world.
    :param name: name of a new node.
    :param like: volume whose colors and window a new node takes.
    :param node: existing node to write into; None adds one.
    """
    isNew = node is None
    node = node or slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    fillVolume(node, image, geometry)
    node.CreateDefaultDisplayNodes()
    source, display = like.GetScalarVolumeDisplayNode(), node.GetScalarVolumeDisplayNode()
    if isNew and source is not None:
        display.SetAndObserveColorNodeID(source.GetColorNodeID())
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(source.GetWindow(), source.GetLevel())
    return node


def createSegmentation(
    segmentation: slicer.vtkSegmentation,
    name: str,
    fixed: slicer.vtkMRMLScalarVolumeNode,
    node: slicer.vtkMRMLSegmentationNode | None = None,
    like: slicer.vtkMRMLNode | None = None,
) -> slicer.vtkMRMLSegmentationNode:
    """Put a segmentation into a node.

    :param segmentation: from `makeSegmentation`.
    :param name: name of a new node.
    :param fixed: volume on whose grid it lies.
    :param node: existing node to write into; None adds one.
    :param like: segmentation as which a new node is shown; a label map has no say in that.
    """
    isNew = node is None
    node = node or slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.SetAndObserveTransformNodeID(None)
    node.SetAndObserveSegmentation(segmentation)
    node.SetReferenceImageGeometryParameterFromVolumeNode(fixed)
    node.CreateDefaultDisplayNodes()
    if isNew and isinstance(like, slicer.vtkMRMLSegmentationNode) and like.GetDisplayNode() is not None:
        _displayLike(node, like)
    return node


def _displayLike(node: slicer.vtkMRMLSegmentationNode, like: slicer.vtkMRMLSegmentationNode) -> None:
    """Show a segmentation as another one, and each of its segments as that of the same name."""
    display, source = node.GetDisplayNode(), like.GetDisplayNode()
    display.CopyContent(source)
    segmentation = like.GetSegmentation()
    for segmentId, segment in segmentsOf(node).items():
        sourceId = segmentation.GetSegmentIdBySegmentName(segment.GetName())
        for setting in SEGMENT_DISPLAY if sourceId else ():
            value = getattr(source, f"GetSegment{setting}")(sourceId)
            getattr(display, f"SetSegment{setting}")(segmentId, value)
