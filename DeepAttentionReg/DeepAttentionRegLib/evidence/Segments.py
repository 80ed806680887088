"""How the segments of the moving volume agree with those of the fixed one, before and after a registration.

Segments are paired as registrations pair them: by name, or by label value where names do not tell. Each is
compared for itself, so that segments may overlap.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from DeepAttentionRegEngine.protocol.reporting import Pause, no_pause
from DeepAttentionRegEngine.volume import fields, metrics
from DeepAttentionRegEngine.volume.geometry import Geometry

from ..nodes import ErrorBound, FieldMaps, Record, SegmentPairs, Structures, Transforms, Volumes, Warping
from ..nodes.Deformation import Deformation
from ..nodes.Present import present
from ..nodes.SegmentTable import AFTER, BEFORE, MeasuredSegment
from ..nodes.Volumes import BINARY_LABELMAP


@dataclass(frozen=True)
class Part:
    """Where a structure agrees: a piece of the fixed grid.

    :param regions: kinds (k, j, i) of `metrics.regions`.
    :param first: voxel (i, j, k) of the fixed grid at which the piece begins.
    """

    regions: np.ndarray
    first: tuple[int, int, int]


@dataclass(frozen=True)
class Structure(MeasuredSegment):
    """A pair of segments.

    :param parts: regions, by state.
    """

    parts: dict[str, Part] = field(repr=False)


@dataclass(frozen=True)
class SegmentComparison:
    """What was found.

    :param deformation: the deformation.
    :param geometry: grid of the fixed volume.
    :param structures: the pairs, in the order of the fixed segments.
    :param warnings: sentences.
    :param isPredicted: whether a network has drawn the segments.
    """

    deformation: Deformation
    geometry: Geometry = field(repr=False)
    structures: list[Structure]
    warnings: list[str]
    isPredicted: bool = False


def checkSegments(deformation: Deformation, fixed: slicer.vtkMRMLNode | None, moving: slicer.vtkMRMLNode | None) -> str:
    """Return why segments cannot be compared, as a sentence; empty if they can. Arguments as of `compare`."""
    if fixed is None or moving is None:
        return _("Choose a fixed and a moving segmentation among the inputs.")
    if fixed is moving:
        return _("Fixed and moving segmentation are the same; choose two.")
    problem = Volumes.checkNode(fixed) or Warping.checkWarp(moving, deformation.transformNode, None, deformation.fixed)
    if problem:
        return problem
    # The values of a label map are not looked for: that takes a while, and this is asked often.
    areSegmentations = all(isinstance(node, slicer.vtkMRMLSegmentationNode) for node in (fixed, moving))
    return SegmentPairs.checkPairs(fixed, moving) if areSegmentations else ""


def compare(
    deformation: Deformation, fixed: slicer.vtkMRMLNode, moving: slicer.vtkMRMLNode, pause: Pause = no_pause
) -> SegmentComparison:
    """Compare segments on the grid of the fixed volume; the scene stays as it is.

    :param deformation: the deformation.
    :param fixed: segmentation or label map volume that belongs to the fixed volume.
    :param moving: the same of the moving volume.
    :param pause: called between the slabs of what is drawn and between structures.
    :raises ValueError: if it cannot be done; says why.
    """
    problem = checkSegments(deformation, fixed, moving) or SegmentPairs.checkPairs(fixed, moving)
    if problem:
        raise ValueError(problem)
    pause()
    geometry = Volumes.geometryOf(deformation.fixed, Warping.WORLD)
    fixedNumbers, movingNumbers = SegmentPairs.numberSegments([fixed, moving])
    start, toFrame = Record.startOf(deformation), present(Warping.toFrame(moving, deformation.transformNode))
    transforms = {BEFORE: _linear(start), AFTER: Transforms.forImages(deformation.transformNode)}
    toWorld = present(Volumes.matrixToWorld(fixed))
    still = drawStructures(fixed, fixedNumbers, toWorld, _linear(Warping.WORLD), geometry, pause)
    moved = {
        state: drawStructures(moving, movingNumbers, toFrame, transform, geometry, pause)
        for state, transform in transforms.items()
    }
    pause()
    volumes = _volumes(moving, movingNumbers, toFrame, geometry)
    pause()
    jacobian = FieldMaps.jacobian(Transforms.readGrid(deformation.transformNode), geometry, pause)
    pause()
    names, scale = _namesOf(fixed, fixedNumbers), abs(float(np.linalg.det(start[:3, :3])))
    pause()
    common = [value for value in names if value in volumes]
    structures = [
        _structure(
            names[value],
            still[value].mask(),
            {state: drawn[value].mask() for state, drawn in moved.items()},
            (volumes[value], scale),
            geometry,
            jacobian,
            pause,
        )
        for value in common
    ]
    structures = [replace(item, withinMm=_errorWithin(deformation, item, geometry, pause)) for item in structures]
    lonely = [name for value, name in {**_namesOf(moving, movingNumbers), **names}.items() if value not in common]
    warnings = [*SegmentPairs.tellPairs(fixed, moving), *_tellLonely(lonely), *_tellCut(structures, geometry)]
    predicted = Structures.tell((fixed, moving))
    return SegmentComparison(deformation, geometry, structures, [*warnings, *predicted], bool(predicted))


@dataclass(frozen=True)
class Drawn:
    """A structure in a label map (k, j, i) that it may share with others.

    :param labels: the label map.
    :param value: of the structure.
    """

    labels: np.ndarray
    value: int

    def mask(self) -> np.ndarray:
        """Return where the structure is, binary (k, j, i)."""
        return self.labels == self.value


def _namesOf(node: slicer.vtkMRMLNode, numbers: SegmentPairs.SegmentNumbers) -> dict[int, str]:
    """Return the name of each structure by the number that pairs it."""
    if isinstance(node, slicer.vtkMRMLSegmentationNode):
        return {number: node.GetSegmentation().GetSegment(name).GetName() for name, number in numbers.items()}
    values = np.unique(slicer.util.arrayFromVolume(node))
    return {int(value): Volumes.describeLabel(node, int(value)).GetName() for value in values if value != 0}


def _linear(matrix: np.ndarray) -> vtk.vtkTransform:
    transform = vtk.vtkTransform()
    transform.SetMatrix(slicer.util.vtkMatrixFromArray(matrix))
    return transform


def drawStructures(
    node: slicer.vtkMRMLNode,
    numbers: SegmentPairs.SegmentNumbers,
    toFrame: np.ndarray,
    transform: vtk.vtkAbstractTransform,
    geometry: Geometry,
    pause: Pause = no_pause,
) -> dict[int, Drawn]:
    """Return the structures of a node on a grid, by number.

    :param numbers: of its segments, from `SegmentPairs.numberSegments`; other arguments as of `Warping.drawSegments`.
    """
    if isinstance(node, slicer.vtkMRMLSegmentationNode):
        drawn = Warping.drawSegments(node, toFrame, transform, geometry, pause)
        segments = {number: drawn.GetSegment(name) for name, number in numbers.items()}
        images = {number: segment.GetRepresentation(BINARY_LABELMAP) for number, segment in segments.items()}
        return {
            number: Drawn(Warping.drawnArray(images[number], geometry), segment.GetLabelValue())
            for number, segment in segments.items()
        }
    labels = Warping.drawnArray(Warping.drawVolume(node, toFrame, transform, geometry, pause), geometry)
    pause()  # to look for the values takes a moment
    return {value: Drawn(labels, value) for value in _namesOf(node, numbers)}


def _volumes(
    node: slicer.vtkMRMLNode, numbers: SegmentPairs.SegmentNumbers, toFrame: np.ndarray, geometry: Geometry
) -> dict[int, float]:
    """Return the volumes in ml of the structures of a node in its own voxels, in a frame, by number."""
    matrix = vtk.vtkMatrix4x4()
    if not isinstance(node, slicer.vtkMRMLSegmentationNode):
        node.GetIJKToRASMatrix(matrix)
        voxel = _voxelVolume(toFrame, matrix)
        values, counts = np.unique(slicer.util.arrayFromVolume(node), return_counts=True)
        return {int(value): count * voxel / 1000 for value, count in zip(values, counts, strict=True) if value != 0}
    segmentation, volumes = Volumes.withBinaryLabelmaps(node, geometry, toFrame), {}
    for name, number in numbers.items():
        segment = segmentation.GetSegment(name)
        image = segment.GetRepresentation(BINARY_LABELMAP)
        volumes[number] = 0.0
        if image.GetNumberOfPoints():
            image.GetImageToWorldMatrix(matrix)
            labels = vtk_to_numpy(image.GetPointData().GetScalars())
            volumes[number] = metrics.volume_ml(labels == segment.GetLabelValue(), _voxelVolume(toFrame, matrix))
    return volumes


def _voxelVolume(toFrame: np.ndarray, ijkToNode: vtk.vtkMatrix4x4) -> float:
    return abs(np.linalg.det((toFrame @ slicer.util.arrayFromVTKMatrix(ijkToNode))[:3, :3]))


def _structure(
    name: str,
    fixed: np.ndarray,
    moving: dict[str, np.ndarray],
    movingSize: tuple[float, float],
    geometry: Geometry,
    jacobian: np.ndarray,
    pause: Pause,
) -> Structure:
    """Return a pair of segments in numbers.

    :param movingSize: volume of the moving one in its own coordinates, ml, and how many times as large these are.
    """
    ownMl, scale = movingSize
    scores, parts = {}, {}
    for state, mask in moving.items():
        pause()
        scores[state] = metrics.agreement(fixed, mask, geometry)
        pause()
        parts[state] = _part(metrics.regions(fixed, mask))
    return Structure(
        name=name,
        fixedMl=metrics.volume_ml(fixed, geometry.voxel_volume),
        movingMl=ownMl / scale,
        scale=scale,
        scores=scores,
        jacobian=fields.summarize_jacobian(jacobian, fixed) if fixed.any() else None,
        parts=parts,
    )


def _errorWithin(
    deformation: Deformation, structure: Structure, geometry: Geometry, pause: Pause
) -> tuple[float, float] | None:
    """Return the bound of the error in a fixed segment, of which a part holds all voxels; None if it is not known."""
    part = structure.parts[AFTER]
    fixed, first = np.isin(part.regions, (metrics.AGREEMENT, metrics.MISSED)), np.array(part.first)
    place = geometry.cropped(first, first + part.regions.shape[::-1]) if fixed.any() else geometry
    return ErrorBound.within(deformation.transformNode, fixed, place, pause)


def _part(regions: np.ndarray) -> Part:
    """Return regions without the empty space around them."""
    occupied = [np.flatnonzero(regions.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if not occupied[0].size:
        return Part(regions[:0, :0, :0], (0, 0, 0))
    box = tuple(slice(int(part[0]), int(part[-1]) + 1) for part in occupied)
    return Part(regions[box].copy(), tuple(piece.start for piece in reversed(box)))


def _tellLonely(names: list[str]) -> list[str]:
    if not names:
        return []
    return [_("Without a partner, so not compared: {names}.").format(names=", ".join(names))]


def _tellCut(structures: list[Structure], geometry: Geometry) -> list[str]:
    """Return a sentence if structures reach the border of a grid, a single slice's faces apart."""
    names = [item.name for item in structures if any(_reachesBorder(part, geometry) for part in item.parts.values())]
    if not names:
        return []
    text = _("At the border of the fixed volume, beyond which nothing is counted: {names}.")
    return [text.format(names=", ".join(names))]


def _reachesBorder(part: Part, geometry: Geometry) -> bool:
    axes = zip(part.first, part.regions.shape[::-1], geometry.size, strict=True)
    return part.regions.size > 0 and any(
        size > 1 and (first == 0 or first + length == size) for first, length, size in axes
    )
