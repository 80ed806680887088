"""Local deformations as ellipsoids of one standard deviation, with an arrow for the displacement of the center."""

import numpy as np
import slicer
import vtk

from .RecursionEvidence import Gaussian

COLOR = (0.90, 0.62, 0.0)
OPACITY = 0.5
LINE_PIXELS = 2
ROUNDNESS = 32  # facets around
ARROW_SHARE = 0.1  # radius of an arrow by its length


def make(gaussians: list[Gaussian], thicknessMm: float) -> vtk.vtkPolyData:
    """Return the ellipsoids and arrows, RAS mm.

    :param gaussians: to draw.
    :param thicknessMm: of those in a single slice, which have no extent across it.
    """
    together = vtk.vtkAppendPolyData()
    together.AddInputData(vtk.vtkPolyData())
    for gaussian in gaussians:
        axes, sigma = gaussian.axes.copy(), gaussian.sigma.copy()
        if not sigma[2]:
            axes[2], sigma[2] = np.cross(axes[0], axes[1]), thicknessMm
        together.AddInputData(_placed(_sphere(), axes.T * sigma, gaussian.center))
        if np.any(gaussian.vector):
            together.AddInputData(_placed(_arrow(), _along(gaussian.vector), gaussian.center))
    together.Update()
    return together.GetOutput()


def style(display: slicer.vtkMRMLModelDisplayNode) -> None:
    """Show a model in 3D, and where slices cut it."""
    display.SetColor(*COLOR)
    display.SetOpacity(OPACITY)
    display.SetBackfaceCulling(False)
    display.SetVisibility2D(True)
    display.SetSliceIntersectionThickness(LINE_PIXELS)


def _sphere() -> vtk.vtkPolyData:
    source = vtk.vtkSphereSource()
    source.SetRadius(1.0)
    source.SetThetaResolution(ROUNDNESS)
    source.SetPhiResolution(ROUNDNESS)
    source.Update()
    return source.GetOutput()


def _arrow() -> vtk.vtkPolyData:
    """Return an arrow from the origin to (1, 0, 0)."""
    source = vtk.vtkArrowSource()
    source.SetTipRadius(ARROW_SHARE)
    source.SetShaftRadius(ARROW_SHARE / 3)
    source.Update()
    return source.GetOutput()


def _along(vector: np.ndarray) -> np.ndarray:
    """Return a matrix (3, 3) that turns the first axis to a vector and scales by its length."""
    length = float(np.linalg.norm(vector))
    first = vector / length
    second = np.cross(first, np.eye(3)[np.abs(first).argmin()])
    second /= np.linalg.norm(second)
    return length * np.stack([first, second, np.cross(first, second)], axis=1)


def _placed(shape: vtk.vtkPolyData, linear: np.ndarray, center: np.ndarray) -> vtk.vtkPolyData:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, center
    transform = vtk.vtkTransform()
    transform.SetMatrix(slicer.util.vtkMatrixFromArray(matrix))
    placing = vtk.vtkTransformPolyDataFilter()
    placing.SetInputData(shape)
    placing.SetTransform(transform)
    placing.Update()
    return placing.GetOutput()
