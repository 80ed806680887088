"""What a deformation does at one point, in plain words, and the point of the moving volume that belongs to it.

Only what is around the point is looked at, so that the words can follow the cursor.

    print(describe(read(deformation, (12.0, -3.5, 80.0)), deformation))
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from DeepAttentionRegEngine.maps import change
from DeepAttentionRegEngine.volume import fields
from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras

from ..nodes import ErrorBound, FieldMaps, Record, Transforms, Volumes
from ..nodes.Deformation import Deformation
from ..nodes.Overlays import Map
from ..nodes.Present import present
from ..tasks.Results import NodeReference
from ..views.Layouts import MOVING_PANE
from ..views.ViewStates import MOVING_ATTRIBUTE, sliceNodeOf
from . import Maps

RADIUS_MM = 10.0
# Takes 20 ms; a finer volume is searched for folds in a smaller sphere.
MAX_VOXELS = 2**17
SMALLEST_MM = 0.05  # what is shown as 0.0
LARGEST_PERCENT = 1000
# A point of the moving volume that the field does not lead back to, to this distance, lies in a fold.
RETURN_MM = 0.1
MARK_COLOR = (0.0, 1.0, 1.0)
MARK_SIZE_PERCENT = 4.0


@dataclass(frozen=True)
class Reading:
    """What a deformation does at a point of the fixed volume. All points are in the world, RAS mm.

    :param point: the point.
    :param origin: where the tissue that is there now was in the moving volume.
    :param moved: the way that the tissue went from there, RAS mm; within the plane of a single slice.
    :param jacobian: determinant of the map from the fixed to the moving volume: how many times as large the tissue was.
    :param folds: folded voxels of the fixed volume around the point.
    :param radiusMm: how far around.
    :param isFlat: whether the fixed volume is a single slice, so that sizes are areas.
    :param isInside: whether the origin lies within the moving volume.
    :param withinMm: the true origin is this near with 95 % probability; None where that is not known.
    :param isChanged: whether the map of what has no counterpart, if the transform remembers one, says that of it.
    """

    point: np.ndarray
    origin: np.ndarray
    moved: np.ndarray
    jacobian: float
    folds: int
    radiusMm: float
    isFlat: bool
    isInside: bool
    withinMm: float | None = None
    isChanged: bool = False


def read(deformation: Deformation, point: Sequence[float] | np.ndarray) -> Reading | None:
    """Return what a deformation does at a point of the world (RAS mm); None outside of the fixed volume."""
    if Volumes.checkNode(deformation.fixed):
        return None
    field, geometry = _fieldOf(deformation), Volumes.placeOf(deformation.fixed)
    inFixed = np.array(point, float)
    index = geometry.lps_to_index(flip_lps_ras(inFixed)[None])[0]
    if not _isWithin(index, geometry.size):
        return None
    inMoving = np.array(field.TransformPoint(inFixed))
    origin = np.array(_movingToWorld(deformation).TransformPoint(inMoving))
    moved = inFixed - origin
    if geometry.is_flat:
        normal = flip_lps_ras(geometry.normal_lps)
        moved -= (moved @ normal) * normal
    jacobian, folds, radiusMm = _around(field, geometry, index)
    rasToIjk = vtk.vtkMatrix4x4()
    deformation.moving.GetRASToIJKMatrix(rasToIjk)
    voxel = rasToIjk.MultiplyPoint((*inMoving, 1.0))[:3]
    isInside = _isWithin(np.array(voxel), deformation.moving.GetImageData().GetDimensions())
    bound = ErrorBound.atPoints(deformation.transformNode, inFixed[None])
    withinMm = None if bound is None else float(bound[0])
    isChanged = _isChanged(deformation, inFixed)
    return Reading(inFixed, origin, moved, jacobian, folds, radiusMm, geometry.is_flat, isInside, withinMm, isChanged)


def fixedPointOf(deformation: Deformation, point: Sequence[float]) -> np.ndarray | None:
    """Return where a point of the moving volume has gone to, in the world, RAS mm; None if that is not certain."""
    inMoving = np.array(_movingToWorld(deformation).GetInverse().TransformPoint(point))
    field = _fieldOf(deformation)
    fixed = np.array(field.GetInverse().TransformPoint(inMoving))
    isBack = np.linalg.norm(np.array(field.TransformPoint(fixed)) - inMoving) <= RETURN_MM
    return fixed if isBack else None


def describe(reading: Reading, deformation: Deformation) -> str:
    """Return a reading in plain words; directions are those of the patient."""
    origin = _("In {moving} it is at {point}.") if reading.isInside else _("It comes from outside of {moving}.")
    origin = origin.format(moving=deformation.moving.GetName(), point=_positionText(reading.origin))
    texts = [_motionText(reading), _sizeText(reading), _foldsText(reading), origin]
    if reading.isChanged:
        text = _("But what is here seems to have no counterpart in {moving}: the deformation means nothing here.")
        texts.append(text.format(moving=deformation.moving.GetName()))
    return " ".join(texts)


def _isChanged(deformation: Deformation, point: np.ndarray) -> bool:
    """Return whether the map of what has no counterpart is sure at a point of the world (RAS mm)."""
    node = Maps.of(deformation, Map.CHANGE)
    if node is None or Volumes.checkNode(node):
        return False
    geometry = Volumes.placeOf(node)
    index = geometry.lps_to_index(flip_lps_ras(point)[None])[0]
    if not _isWithin(index, geometry.size):
        return False
    voxel = np.clip(np.rint(index).astype(int), 0, np.array(geometry.size) - 1)
    return bool(slicer.util.arrayFromVolume(node)[tuple(voxel[::-1])] >= change.SURE)


def _motionText(reading: Reading) -> str:
    names = (
        (_("right"), _("left")),
        (_("forward (anterior)"), _("backward (posterior)")),
        (_("up (superior)"), _("down (inferior)")),
    )
    parts = [
        f"{name[way < 0]} {abs(way):.1f}"
        for name, way in zip(names, reading.moved.tolist(), strict=True)
        if abs(way) >= SMALLEST_MM
    ]
    bound = "" if reading.withinMm is None else _(" (95 % within {mm:.1f} mm)").format(mm=reading.withinMm)
    if not parts:
        return _("The tissue here has not moved{bound}.").format(bound=bound)
    text = _("The tissue here moved {distance:.1f} mm{bound} to get here: {directions}.")
    return text.format(distance=np.linalg.norm(reading.moved), bound=bound, directions=", ".join(parts))


def _sizeText(reading: Reading) -> str:
    if reading.jacobian <= 0:
        return _("The deformation folds here, so its size means nothing.")
    percent = round(min(100 / reading.jacobian, LARGEST_PERCENT))
    size = _("area") if reading.isFlat else _("volume")
    if percent == 100:
        return _("It keeps its {size}.").format(size=size)
    less, more = _("It is compressed to {percent} % of its {size}."), _("It is stretched to {percent} % of its {size}.")
    text = less if percent < 100 else more
    return text.format(percent=percent, size=size)


def _foldsText(reading: Reading) -> str:
    text = (
        _("Folded voxels within {radius:.2g} mm: {count}.") if reading.folds else _("No folds within {radius:.2g} mm.")
    )
    return text.format(radius=reading.radiusMm, count=reading.folds)


def _positionText(point: np.ndarray) -> str:
    """Return a point as Slicer writes it, with the letter of the side that it is on."""
    letters = (("R", "L"), ("A", "P"), ("S", "I"))
    return ", ".join(f"{pair[x < 0]} {abs(x):.1f}" for pair, x in zip(letters, point.tolist(), strict=True)) + " mm"


def _fieldOf(deformation: Deformation) -> slicer.vtkOrientedGridTransform:
    return deformation.transformNode.GetTransformFromParentAs("vtkOrientedGridTransform", False)


def _movingToWorld(deformation: Deformation) -> vtk.vtkGeneralTransform:
    """Return the way from the moving volume's own coordinates to where it is before its deformation."""
    parent = deformation.moving.GetParentTransformNode()
    transform = vtk.vtkGeneralTransform()
    if parent is deformation.transformNode:
        place = present(Record.movingToWorld(deformation.transformNode, deformation.moving))
        transform.Concatenate(slicer.util.vtkMatrixFromArray(place))
    elif parent is not None:
        parent.GetTransformToWorld(transform)
    return transform


def _isWithin(index: np.ndarray, size: Sequence[int]) -> bool:
    """Return whether a place, in voxels, belongs to a voxel of a grid."""
    return bool((index >= -0.5).all() and (index <= np.array(size) - 0.5).all())


def _around(field: slicer.vtkOrientedGridTransform, geometry: Geometry, index: np.ndarray) -> tuple[float, int, float]:
    """Return the Jacobian determinant at a place in the fixed volume, folded voxels around it, and how far around.

    :param geometry: grid of the fixed volume.
    :param index: the place in its voxels.
    :return: the last one in mm.
    """
    radiusMm = _radiusFor(geometry)
    # One voxel more on each side, so that there are the central differences of the whole volume.
    half = radiusMm / np.array(geometry.spacing)
    low = np.maximum(np.floor(index - half).astype(int) - 1, 0)
    high = np.minimum(np.ceil(index + half).astype(int) + 2, geometry.size)
    near = geometry.cropped(low, high)
    jacobian = FieldMaps.jacobian(Transforms.partAround(field, near), near)
    here = geometry.index_to_lps(index[None])
    folded = np.argwhere(jacobian <= 0)[:, ::-1]
    distances = np.linalg.norm(near.index_to_lps(folded.astype(float)) - here, axis=1)
    value = fields.sample_field(jacobian[..., None], near, here)[0, 0]
    return float(value), int((distances <= radiusMm).sum()), radiusMm


def _radiusFor(geometry: Geometry) -> float:
    """Return how far to look around, mm."""
    counts = [2 * RADIUS_MM / step for size, step in zip(geometry.size, geometry.spacing, strict=True) if size > 1]
    share = (MAX_VOXELS / math.prod(counts)) ** (1 / len(counts))
    return RADIUS_MM * min(1.0, share)


def showsMoving(view: slicer.vtkMRMLSliceCompositeNode, deformation: Deformation) -> bool:
    """Return whether a slice view shows the moving volume where it was before its deformation."""
    return any(_isMoving(name, deformation) for name in (view.GetBackgroundVolumeID(), view.GetForegroundVolumeID()))


def showsMovingAlone(view: slicer.vtkMRMLSliceCompositeNode, deformation: Deformation) -> bool:
    """Return whether a point in a slice view is one of the moving volume, before its deformation, and of no other."""
    isCovered = view.GetForegroundVolumeID() and view.GetForegroundOpacity() > 0
    isPane = view.GetLayoutName() == MOVING_PANE or view.GetBackgroundVolumeID() == deformation.moving.GetID()
    return isPane and not isCovered and showsMoving(view, deformation)


def _isMoving(volumeId: str | None, deformation: Deformation) -> bool:
    volume = volumeId and slicer.mrmlScene.GetNodeByID(volumeId)
    if not volume:
        return False
    if volume is deformation.moving:
        return volume.GetParentTransformNode() is not deformation.transformNode
    return volume.GetAttribute(MOVING_ATTRIBUTE) == deformation.moving.GetID()


class Mark:
    """A cross in slice views at the point that corresponds to the one under the cursor."""

    def __init__(self) -> None:
        """Prepare; nothing is shown before `show`."""
        self._node = NodeReference(None)

    def show(self, point: np.ndarray, views: list[slicer.vtkMRMLSliceCompositeNode]) -> None:
        """Show a point of the world, RAS mm, in these views; if it lies off their slices, projected onto them."""
        mark = self._node.get() or self._add()
        names = [node.GetID() for node in map(sliceNodeOf, views) if node is not None]
        display = mark.GetDisplayNode()
        with slicer.util.NodeModify(display):
            display.SetViewNodeIDs(names)
            display.SetVisibility(bool(names))  # named no view, it would be shown in all of them
        mark.SetNthControlPointPosition(0, point)

    def hide(self) -> None:
        """Show no point for now."""
        node = self._node.get()
        if node is not None:
            node.GetDisplayNode().SetVisibility(False)

    def close(self) -> None:
        """Remove the mark from the scene."""
        node, self._node = self._node.get(), NodeReference(None)
        if node is not None:
            slicer.mrmlScene.RemoveNode(node.GetDisplayNode())
            slicer.mrmlScene.RemoveNode(node)

    def _add(self) -> slicer.vtkMRMLMarkupsFiducialNode:
        node, display = slicer.vtkMRMLMarkupsFiducialNode(), slicer.vtkMRMLMarkupsFiducialDisplayNode()
        for item in (display, node):
            item.SetName("Corresponding point")
            item.SetSaveWithScene(False)
            item.SetHideFromEditors(True)
        node.SetAndObserveDisplayNodeID(slicer.mrmlScene.AddNode(display).GetID())
        with _keptPlaceNode():
            slicer.mrmlScene.AddNode(node)
        node.AddControlPoint(vtk.vtkVector3d(0, 0, 0), "")
        node.SetLocked(True)
        display.SetPointLabelsVisibility(False)
        display.SetGlyphTypeFromString("Cross2D")
        display.SetGlyphScale(MARK_SIZE_PERCENT)
        display.SetSelectedColor(*MARK_COLOR)
        display.SetSliceProjection(True)
        display.SetSliceProjectionUseFiducialColor(True)
        self._node = NodeReference(node)
        return node


@contextmanager
def _keptPlaceNode() -> Iterator[None]:
    """Keep what the user places points into, which would be every list that is added."""
    selection = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSelectionNode")
    if selection is None:
        yield
        return
    chosen = selection.GetActivePlaceNodeID(), selection.GetActivePlaceNodeClassName()
    yield
    selection.SetActivePlaceNodeID(chosen[0])
    selection.SetActivePlaceNodeClassName(chosen[1])
