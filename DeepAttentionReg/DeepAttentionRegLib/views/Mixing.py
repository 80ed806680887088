"""Voxels of two volumes brought together: looked up on one grid, matched in brightness, tiled and divided."""

import math
from itertools import permutations

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from DeepAttentionRegEngine.volume.geometry import Geometry

from .ComparisonModes import Divider


def axesOf(geometry: Geometry) -> dict[Divider, tuple[int, bool]]:
    """Return the axis of a grid (0 to 2 for i, j, k) next to each direction in the patient, and whether it runs back.

    Each axis is taken once, however oblique the grid.
    """
    directions = np.reshape(geometry.direction, (3, 3))
    order = max(permutations(range(3)), key=lambda axes: np.abs(directions[range(3), list(axes)]).sum())
    # Left and back are ahead in LPS, but the head is, too, where down is wanted.
    ahead = (1, 1, -1)
    axes = ((axis, bool(directions[row, axis] * ahead[row] < 0)) for row, axis in enumerate(order))
    return dict(zip(Divider, axes, strict=True))


def splitAt(geometry: Geometry, divider: Divider, position: float) -> int:
    """Return the first voxel beyond a divider, along its axis of a grid.

    :param position: 0 to 1, from the right, the front or the head on.
    """
    axis, isBack = axesOf(geometry)[divider]
    return round((1 - position if isBack else position) * geometry.size[axis])


def tilesOf(geometry: Geometry, tileMm: float) -> np.ndarray:
    """Return a checkerboard (k, j, i) on a grid, False in the first tile; tiles are whole voxels, one at least."""
    tiles = (
        np.arange(size) // max(1, round(tileMm / spacing))
        for size, spacing in zip(geometry.shape, geometry.spacing[::-1], strict=True)
    )
    k, j, i = (tile % 2 == 1 for tile in tiles)
    return k[:, None, None] ^ j[:, None] ^ i


def resample(
    volume: slicer.vtkMRMLScalarVolumeNode,
    worldToVolume: np.ndarray | vtk.vtkAbstractTransform,
    geometry: Geometry,
) -> np.ndarray:
    """Return the values of a volume at the voxels of a grid, interpolated linearly: (k, j, i) float32, NaN outside.

    :param volume: its own coordinates are those below its parent transforms.
    :param worldToVolume: 4x4 matrix, or any transform, from the world to these coordinates, RAS mm.
    :param geometry: the grid, in the world.
    """
    isLinear = isinstance(worldToVolume, np.ndarray)
    rasToIjk = vtk.vtkMatrix4x4()
    volume.GetRASToIJKMatrix(rasToIjk)
    path = vtk.vtkTransform() if isLinear else vtk.vtkGeneralTransform()  # the former takes a tenth of the time
    path.PostMultiply()
    path.Concatenate(slicer.util.vtkMatrixFromArray(geometry.ijk_to_ras))
    path.Concatenate(slicer.util.vtkMatrixFromArray(worldToVolume) if isLinear else worldToVolume)
    path.Concatenate(rasToIjk)
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(volume.GetImageData())
    reslice.SetResliceTransform(path)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputExtent([bound for size in geometry.size for bound in (0, size - 1)])
    reslice.SetInterpolationModeToLinear()
    reslice.SetOutputScalarType(vtk.VTK_FLOAT)
    reslice.SetBackgroundLevel(math.nan)
    reslice.Update()
    return vtk_to_numpy(reslice.GetOutput().GetPointData().GetScalars()).reshape(geometry.shape)


def windowOf(volume: slicer.vtkMRMLScalarVolumeNode) -> tuple[float, float]:
    """Return the values that a volume shows as black and as white."""
    display = volume.GetScalarVolumeDisplayNode()
    if display is None:
        return volume.GetImageData().GetScalarRange()
    return display.GetWindowLevelMin(), display.GetWindowLevelMax()
