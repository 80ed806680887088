"""Pictures of slices, computed from the volumes, so that they need no screen.

The slices are those of the fixed grid, turned as radiologists are used to: the patient's right is at the left of axial
and coronal pictures, anterior at the left of sagittal ones.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from DeepAttentionRegEngine.volume import fields
from DeepAttentionRegEngine.volume.geometry import Geometry

from ..nodes import Overlays

PIXELS = 360  # of the longest side of a volume
GAP = 6  # pixels between slices
LEGEND_SIZE = 256, 14
MAP_OPACITY = 0.65
WHITE = 1.0
USUAL_PERCENTILES = 1.0, 99.0
# For each orientation the LPS axis across the slice, and those to the right and downward in the picture.
ORIENTATIONS = ((2, (0, 1), (1, 1)), (1, (0, 1), (2, -1)), (0, (1, 1), (2, -1)))


@dataclass(frozen=True)
class Plane:
    """A slice at the resolution of a picture.

    :param name: its orientation.
    :param pointsLps: (height, width, 3), the first row at the top.
    """

    name: str
    pointsLps: np.ndarray

    def sample(self, array: np.ndarray, geometry: Geometry, offsetLps: np.ndarray | None = None) -> np.ndarray:
        """Return values of a volume (k, j, i) or of a field (k, j, i, C) in the slice, NaN outside of its grid.

        :param array: the volume.
        :param geometry: its grid.
        :param offsetLps: (height, width, 3), where to look instead, from each point.
        """
        points = (self.pointsLps if offsetLps is None else self.pointsLps + offsetLps).reshape(-1, 3)
        channels = array.reshape(*array.shape[:3], -1)
        values = fields.sample_field(channels, geometry, points)
        index = geometry.lps_to_index(points)
        # Half a voxel belongs to the outermost ones.
        values[((index < -0.5) | (index > np.array(geometry.size) - 0.5)).any(axis=1)] = np.nan
        return values.reshape(*self.pointsLps.shape[:2], *array.shape[3:])

    def nearest(self, labels: np.ndarray, geometry: Geometry) -> np.ndarray:
        """Return the nearest labels (k, j, i) of whole numbers in the slice, 0 outside of their grid."""
        height, width = self.pointsLps.shape[:2]
        # Voxel indices are proportional to rows and columns, which spares a product for every pixel.
        first, right, down = geometry.lps_to_index(self.pointsLps[[0, 0, -1], [0, -1, 0]])
        across = np.linspace(0, 1, width)[None, :, None] * (right - first)
        along = np.linspace(0, 1, height)[:, None, None] * (down - first)
        index = np.rint(first + across + along).astype(int)
        isInside = ((index >= 0) & (index < geometry.size)).all(axis=2)
        values = np.zeros((height, width), labels.dtype)
        i, j, k = index[isInside].T
        values[isInside] = labels[k, j, i]
        return values


def planesThrough(geometry: Geometry, pointLps: np.ndarray) -> list[Plane]:
    """Return the slices of a grid through a point: axial, coronal, sagittal; of a single slice that one alone.

    :param geometry: the grid; where it is oblique its slices are named after the nearest orientation.
    :param pointLps: (3,) mm; outside of the grid the nearest slice is taken.
    """
    directions = np.reshape(geometry.direction, (3, 3))
    # Which axis of the grid runs nearest to x, to y and to z.
    axes = max(
        itertools.permutations(range(3)), key=lambda order: sum(abs(directions[lps, order[lps]]) for lps in range(3))
    )
    names = {0: _("Sagittal"), 1: _("Coronal"), 2: _("Axial")}
    extents = np.array(geometry.size) * geometry.spacing
    pitch = extents.max() / PIXELS
    center = np.rint(geometry.lps_to_index(np.reshape(pointLps, (1, 3)))[0])
    index = np.clip(center, 0, np.array(geometry.size) - 1)
    planes = []
    for across, right, down in ORIENTATIONS:
        steps = [
            _steps(geometry, axes[lps], sign * np.sign(directions[lps, axes[lps]]), pitch)
            for lps, sign in (right, down)
        ]
        if any(geometry.size[axes[lps]] == 1 for lps, _sign in (right, down)):
            continue
        grid = np.empty((len(steps[1]), len(steps[0]), 3))
        grid[:] = index
        grid[..., axes[right[0]]] = steps[0][None, :]
        grid[..., axes[down[0]]] = steps[1][:, None]
        planes.append(Plane(names[across], geometry.index_to_lps(grid.reshape(-1, 3)).reshape(grid.shape)))
    return planes


def _steps(geometry: Geometry, axis: int, sign: float, pitch: float) -> np.ndarray:
    """Return the voxel indices of pixels along an axis of a grid, from its one border to the other."""
    count = max(1, round(geometry.size[axis] * geometry.spacing[axis] / pitch))
    steps = (np.arange(count) + 0.5) * geometry.size[axis] / count - 0.5
    return steps if sign >= 0 else steps[::-1]


def grayWindow(volume: slicer.vtkMRMLScalarVolumeNode) -> tuple[float, float]:
    """Return the values that are black and white in Slicer's views, or that suit the volume where it is not shown."""
    display = volume.GetScalarVolumeDisplayNode()
    if display is not None and display.GetInputImageData() is not None:
        return display.GetWindowLevelMin(), display.GetWindowLevelMax()
    values = slicer.util.arrayFromVolume(volume)
    low, high = np.percentile(values[np.isfinite(values)], USUAL_PERCENTILES)
    return float(low), float(high)


def gray(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Return gray values (height, width), 0 to 1, in which what is not known is black."""
    low, high = window
    return np.nan_to_num(np.clip((values - low) / max(high - low, 1e-12), 0, 1))


def toRgb(grays: np.ndarray) -> np.ndarray:
    """Return a gray picture (height, width) in color (height, width, 3)."""
    return np.repeat(grays[..., None], 3, axis=2)


def fuse(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Return two gray pictures as one: gray where they agree, magenta where the fixed one is brighter, else green."""
    return np.stack([fixed, moving, fixed], axis=-1)


def paint(rgb: np.ndarray, values: np.ndarray, kind: Overlays.Map, window: tuple[float, float]) -> np.ndarray:
    """Return a picture (height, width, 3) with a map over it, but for what is unremarkable.

    :param rgb: the picture, 0 to 1.
    :param values: (height, width) of the map.
    :param kind: what they are.
    :param window: values at the ends of the colors.
    """
    isShown = np.isfinite(values) & _isRemarkable(np.nan_to_num(values), kind)
    colors = _colors(np.nan_to_num(values), kind, window)
    mixed = (1 - MAP_OPACITY) * rgb + MAP_OPACITY * colors
    return np.where(isShown[..., None], mixed, rgb)


def _colors(values: np.ndarray, kind: Overlays.Map, window: tuple[float, float]) -> np.ndarray:
    positions, colors = zip(*kind.stops, strict=True)
    share = np.clip((values - window[0]) / (window[1] - window[0]), 0, 1)
    return np.stack([np.interp(share, positions, channel) for channel in zip(*colors, strict=True)], axis=-1)


def _isRemarkable(values: np.ndarray, kind: Overlays.Map) -> np.ndarray:
    """Return what the threshold of a map does not hide, as Slicer's views do by default."""
    measure = kind.measure
    if measure is Overlays.Measure.SIMILARITY:
        return values <= measure.value
    if measure in (Overlays.Measure.MILLIMETERS, Overlays.Measure.CERTAINTY):
        return values >= measure.value
    change = np.expm1(values) if kind is Overlays.Map.LOG_JACOBIAN else values - 1
    return np.abs(change) > measure.value / 100


def tint(rgb: np.ndarray, mask: np.ndarray, color: tuple[float, float, float], opacity: float) -> None:
    """Put a color over a part (height, width) of a picture (height, width, 3)."""
    rgb[mask] = (1 - opacity) * rgb[mask] + opacity * np.array(color)


def legend(kind: Overlays.Map, window: tuple[float, float]) -> bytes:
    """Return the colors of a map from the lower to the upper end of its window, as PNG."""
    width, height = LEGEND_SIZE
    values = np.linspace(*window, width)
    return png(np.repeat(_colors(values, kind, window)[None], height, axis=0))


def beside(pictures: list[np.ndarray]) -> np.ndarray:
    """Return pictures (height, width, 3) of any size side by side on white, at the same middle."""
    tallest = max(picture.shape[0] for picture in pictures)
    columns: list[np.ndarray] = []
    for picture in pictures:
        top = (tallest - picture.shape[0]) // 2
        bottom = tallest - picture.shape[0] - top
        columns.append(np.pad(picture, ((top, bottom), (0, 0), (0, 0)), constant_values=WHITE))
        columns.append(np.full((tallest, GAP, 3), WHITE))
    return np.concatenate(columns[:-1], axis=1)


def png(rgb: np.ndarray) -> bytes:
    """Return a picture (height, width, 3), 0 to 1, as PNG."""
    pixels = np.ascontiguousarray(np.rint(255 * np.clip(rgb[::-1], 0, 1)).astype(np.uint8))
    image = vtk.vtkImageData()
    image.SetDimensions(rgb.shape[1], rgb.shape[0], 1)
    image.GetPointData().SetScalars(numpy_to_vtk(pixels.reshape(-1, 3)))
    writer = vtk.vtkPNGWriter()
    writer.SetInputData(image)
    writer.WriteToMemoryOn()
    writer.Write()
    return vtk_to_numpy(writer.GetResult()).tobytes()
