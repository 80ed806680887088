"""Displacement fields as grid transform nodes, and back."""

import itertools

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras

from . import Record

CORNERS = np.array(list(itertools.product((0, 1), repeat=3)))
WORLD = np.eye(4)  # what leads from the world to the world, where a function asks for a frame


def applyMatrix(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return points (N, 3) after a 4x4 matrix."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def makeGridTransform(displacementLps: np.ndarray, geometry: Geometry) -> slicer.vtkOrientedGridTransform:
    """Return a displacement field as the transform from parent (fixed) to moving points, outside of any scene.

    :param displacementLps: (k, j, i, 3) LPS mm; the moving volume is sampled at x + u(x).
    :param geometry: its grid, which need not be that of the fixed volume.
    :return: cubic transform in RAS: cubic is what Slicer sets when it reads a field from a file, so that saving and
        loading changes nothing.
    :raises ValueError: if array and grid differ in size.
    """
    if displacementLps.shape != (*geometry.shape, 3):
        msg = f"A field of shape {displacementLps.shape} does not fit a grid of shape {geometry.shape}."
        raise ValueError(msg)
    vectors = vtk.vtkFloatArray()
    vectors.SetNumberOfComponents(3)
    vectors.SetNumberOfTuples(displacementLps.size // 3)
    flip_lps_ras(displacementLps.reshape(-1, 3), out=vtk_to_numpy(vectors))
    grid = vtk.vtkImageData()
    grid.SetDimensions(geometry.size)
    grid.SetSpacing(geometry.spacing)
    grid.SetOrigin(geometry.ijk_to_ras[:3, 3])
    # As vectors instead of scalars they would be ignored: the transform would be the identity.
    grid.GetPointData().SetScalars(vectors)
    transform = slicer.vtkOrientedGridTransform()
    transform.SetGridDirectionMatrix(_directionsRas(geometry))
    transform.SetDisplacementGridData(grid)
    transform.SetInterpolationModeToCubic()
    return transform


def createGridTransform(
    transform: slicer.vtkOrientedGridTransform,
    name: str,
    fixedNode: slicer.vtkMRMLNode,
    movingNode: slicer.vtkMRMLNode,
    node: slicer.vtkMRMLTransformNode | None = None,
) -> slicer.vtkMRMLTransformNode:
    """Put a field into a transform node of the scene, which moves the moving volume onto the fixed one.

    :param transform: from `makeGridTransform`.
    :param name: name of a new node.
    :param fixedNode: remembered in the node's role "Fixed".
    :param movingNode: remembered in the node's role "Moving".
    :param node: existing node to write into; None adds one.
    """
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", name)
    node.SetAndObserveTransformNodeID(None)
    node.SetAndObserveTransformFromParent(transform)
    node.SetNodeReferenceID(node.GetMovingNodeReferenceRole(), movingNode.GetID())
    node.SetNodeReferenceID(node.GetFixedNodeReferenceRole(), fixedNode.GetID())
    return node


def forImages(node: slicer.vtkMRMLTransformNode) -> vtk.vtkAbstractTransform:
    """Return the way from fixed to moving points by which voxels are looked up.

    A field that a registration has found leads where it led the engine, linearly between its nodes, so that figures are
    the same, in a third of the time; any other transform leads where Slicer says.
    """
    field = node.GetTransformFromParentAs("vtkOrientedGridTransform", False)
    if field is None or field.GetInverseFlag() or node.GetAttribute(Record.ATTRIBUTE) is None:
        return node.GetTransformFromParent()
    return _linear(field)


def forVoxels(transform: vtk.vtkAbstractTransform, geometry: Geometry) -> vtk.vtkAbstractTransform:
    """Return what leads from the voxels of a grid to where a transform does, if it can be in a third of the time.

    At the nodes of a field, linear interpolation is the same as cubic.
    """
    isField = isinstance(transform, slicer.vtkOrientedGridTransform) and not transform.GetInverseFlag()
    if not isField or transform.GetDisplacementGrid() is None or not geometryOfField(transform).matches(geometry):
        return transform
    return _linear(transform)


def _linear(transform: slicer.vtkOrientedGridTransform) -> slicer.vtkOrientedGridTransform:
    """Return a field that shares the vectors of another one, and is linear between its nodes."""
    quick = slicer.vtkOrientedGridTransform()
    quick.SetGridDirectionMatrix(transform.GetGridDirectionMatrix())
    quick.SetDisplacementGridData(transform.GetDisplacementGrid())
    quick.SetDisplacementScale(transform.GetDisplacementScale())
    quick.SetDisplacementShift(transform.GetDisplacementShift())
    quick.SetInterpolationModeToLinear()
    return quick


def partAround(transform: slicer.vtkOrientedGridTransform, grid: Geometry) -> tuple[np.ndarray, Geometry]:
    """Return as much of a field as decides on it at the voxels of a grid, as `readGrid` does all of it."""
    own = geometryOfField(transform)
    index = own.lps_to_index(grid.index_to_lps(CORNERS * (np.array(grid.size) - 1)))
    low = np.clip(np.floor(index.min(axis=0)).astype(int), 0, np.array(own.size) - 1)
    high = np.clip(np.floor(index.max(axis=0)).astype(int) + 2, low + 1, own.size)
    (i, j, k), (endI, endJ, endK) = low, high
    vectors = vtk_to_numpy(transform.GetDisplacementGrid().GetPointData().GetScalars()).reshape(*own.shape, 3)
    part = flip_lps_ras(vectors[k:endK, j:endJ, i:endI].astype(np.float32, copy=False))
    return part, own.cropped(low, high)


def readGrid(node: slicer.vtkMRMLTransformNode) -> tuple[np.ndarray, Geometry]:
    """Return the field that a node holds: displacements (k, j, i, 3) in LPS mm, float32, and their grid.

    :raises ValueError: if the node holds something else than one grid from parent.
    """
    transform = node.GetTransformFromParentAs("vtkOrientedGridTransform", False)
    if transform is None or transform.GetInverseFlag() or transform.GetDisplacementGrid() is None:
        msg = _("{name} is not a displacement field from fixed to moving points.").format(name=node.GetName())
        raise ValueError(msg)
    geometry = geometryOfField(transform)
    vectors = vtk_to_numpy(transform.GetDisplacementGrid().GetPointData().GetScalars()).astype(np.float32, copy=False)
    return flip_lps_ras(vectors).reshape(*geometry.shape, 3), geometry


def geometryOfField(transform: slicer.vtkOrientedGridTransform) -> Geometry:
    """Return the grid of a displacement field."""
    grid = transform.GetDisplacementGrid()
    matrix = np.eye(4)
    directions = transform.GetGridDirectionMatrix()
    for row in range(3):
        for column in range(3):
            matrix[row, column] = directions.GetElement(row, column) if directions else float(row == column)
    matrix[:3, :3] *= grid.GetSpacing()
    matrix[:3, 3] = grid.GetOrigin()
    return Geometry.from_ijk_to_ras(matrix, grid.GetDimensions())


def _directionsRas(geometry: Geometry) -> vtk.vtkMatrix4x4:
    matrix = vtk.vtkMatrix4x4()
    directions = geometry.ijk_to_ras[:3, :3] / geometry.spacing
    for row in range(3):
        for column in range(3):
            matrix.SetElement(row, column, directions[row, column])
    return matrix
