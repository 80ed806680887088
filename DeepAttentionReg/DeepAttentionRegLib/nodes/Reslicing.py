"""Images on other grids, each voxel looked up where a transform points to."""

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from DeepAttentionRegEngine.protocol.reporting import Pause, no_pause
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegEngine.volume.intensity import in_type

from .Transforms import forVoxels

SLAB_VOXELS = 2**19  # drawn in a tenth of a second


class Reslicer:
    """Draws one image on any grids.

    Outside of the image labels are 0 and the rest is its minimum, which takes the place of what is not finite, too.
    """

    def __init__(self, image: vtk.vtkImageData, ijkToFrame: np.ndarray, isLabels: bool) -> None:
        """Prepare an image.

        :param image: not empty.
        :param ijkToFrame: 4x4, from voxels of the image to the coordinates that transforms lead to, RAS mm.
        :param isLabels: take the nearest voxel, instead of interpolating linearly.
        """
        source, background = _plainImage(image)
        self._scalars, self._isLabels = source.GetPointData().GetScalars(), isLabels
        source.GetPointData().SetScalars(_resliceable(self._scalars, isLabels))
        self._frameToIjk = slicer.util.vtkMatrixFromArray(np.linalg.inv(ijkToFrame))
        self._reslice = vtk.vtkImageReslice()
        self._reslice.SetInputData(source)
        self._reslice.SetOutputOrigin(0, 0, 0)
        self._reslice.SetOutputSpacing(1, 1, 1)
        if isLabels:
            self._reslice.SetInterpolationModeToNearestNeighbor()
        else:
            self._reslice.SetInterpolationModeToLinear()
            self._reslice.SetBackgroundLevel(background)

    def draw(
        self, transform: vtk.vtkAbstractTransform, geometry: Geometry, pause: Pause = no_pause
    ) -> vtk.vtkImageData:
        """Return the image on a grid.

        :param transform: from the world of the grid to the coordinates of the image, RAS mm.
        :param geometry: the grid.
        :param pause: called before every slab.
        """
        path = vtk.vtkGeneralTransform()
        path.PostMultiply()
        path.Concatenate(slicer.util.vtkMatrixFromArray(geometry.ijk_to_ras))
        path.Concatenate(forVoxels(transform, geometry))
        path.Concatenate(self._frameToIjk)
        self._reslice.SetResliceTransform(path)
        drawn = _drawInSlabs(self._reslice, geometry, pause)
        drawn.GetPointData().SetScalars(_likeBefore(drawn.GetPointData().GetScalars(), self._scalars, self._isLabels))
        return drawn


def _valuesOf(image: vtk.vtkImageData) -> np.ndarray:
    return vtk_to_numpy(image.GetPointData().GetScalars())


def _drawInSlabs(reslice: vtk.vtkImageReslice, geometry: Geometry, pause: Pause) -> vtk.vtkImageData:
    source, drawn = reslice.GetInput(), vtk.vtkImageData()
    drawn.SetDimensions(geometry.size)
    drawn.AllocateScalars(source.GetScalarType(), source.GetNumberOfScalarComponents())
    size_i, size_j, size_k = geometry.size
    step = max(1, SLAB_VOXELS // (size_i * size_j))
    for first in range(0, size_k, step):
        pause()
        last = min(first + step, size_k) - 1
        reslice.SetOutputExtent(0, size_i - 1, 0, size_j - 1, first, last)
        reslice.Update()
        _valuesOf(drawn)[first * size_i * size_j : (last + 1) * size_i * size_j] = _valuesOf(reslice.GetOutput())
    return drawn


def _isWide(scalars: vtk.vtkDataArray) -> bool:
    """Return whether scalars are integers of 64 bits, on which vtkImageReslice crashes."""
    return scalars.GetDataTypeSize() == 8 and scalars.IsIntegral()


def _resliceable(scalars: vtk.vtkDataArray, isLabels: bool) -> vtk.vtkDataArray:
    """Return scalars in a type that VTK can reslice: labels of 64 bits as their two halves, other values as floats."""
    if not _isWide(scalars):
        return scalars
    values = vtk_to_numpy(scalars)
    values = values.reshape(len(values), -1)
    return numpy_to_vtk(values.view(np.int32) if isLabels else values.astype(float), deep=True)


def _likeBefore(drawn: vtk.vtkDataArray, scalars: vtk.vtkDataArray, isLabels: bool) -> vtk.vtkDataArray:
    """Return what became of `_resliceable` scalars in the type of the scalars themselves."""
    if not _isWide(scalars):
        return drawn
    wide = scalars.NewInstance()
    wide.SetNumberOfComponents(scalars.GetNumberOfComponents())
    wide.SetNumberOfTuples(drawn.GetNumberOfTuples())
    values, kind = vtk_to_numpy(drawn), vtk_to_numpy(scalars).dtype
    vtk_to_numpy(wide).ravel()[:] = values.view(kind).ravel() if isLabels else in_type(values.ravel(), kind)
    return wide


def _plainImage(image: vtk.vtkImageData) -> tuple[vtk.vtkImageData, float]:
    """Return an image with the voxel grid as its space and only finite values, and its minimum."""
    plain = vtk.vtkImageData()
    plain.SetExtent(image.GetExtent())
    scalars = image.GetPointData().GetScalars()
    values = vtk_to_numpy(scalars)
    finite = np.isfinite(values)
    background = float(values[finite].min()) if finite.any() else 0.0
    if not finite.all():
        copy = scalars.NewInstance()
        copy.DeepCopy(scalars)
        vtk_to_numpy(copy)[~finite] = background
        scalars = copy
    plain.GetPointData().SetScalars(scalars)
    return plain, background
