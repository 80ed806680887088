"""How maps of a deformation look over the fixed volume: their colors and legends, folds, the deformed grid."""

import enum
import math
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from DeepAttentionRegEngine.volume.geometry import Geometry

from . import Volumes

Color = tuple[float, float, float]  # red, green, blue, each 0 to 1
Stops = tuple[tuple[float, Color], ...]

COLORS = 401  # odd, so that one of them is the very center of a scale
BLUE, PALE_BLUE = (0.10, 0.20, 0.75), (0.75, 0.88, 1.0)
RED, PALE_RED = (0.75, 0.05, 0.10), (1.0, 0.85, 0.75)
PALE_YELLOW, ORANGE, DARK_RED = (1.0, 1.0, 0.7), (1.0, 0.6, 0.1), (0.6, 0.0, 0.1)
MAGENTA = (1.0, 0.0, 1.0)
DIVERGING = ((0.0, BLUE), (0.5, PALE_BLUE), (0.5, PALE_RED), (1.0, RED))
SEQUENTIAL = ((0.0, PALE_YELLOW), (0.5, ORANGE), (1.0, DARK_RED))
REVERSED = ((0.0, DARK_RED), (0.5, ORANGE), (1.0, PALE_YELLOW))
FOLDS = ((0.0, MAGENTA), (1.0, MAGENTA))
# From standing still to the largest displacement: bright throughout, to be seen on dark and gray.
GRID_COLORS = ((0.0, (0.45, 0.70, 1.0)), (0.5, (1.0, 0.85, 0.25)), (1.0, (1.0, 0.25, 0.15)))
GRID_LINES = 24  # across the longest side


class Measure(enum.Enum):
    """What a map's threshold is about; the value is the usual threshold."""

    VOLUME = 5.0  # percent by which tissue shrinks or grows: less is hidden
    MILLIMETERS = 1.0  # less is hidden
    SIMILARITY = 0.6  # more is hidden
    CERTAINTY = 0.5  # less is hidden


class Map(enum.Enum):
    """A scalar map of a deformation; the value is the role in which the transform remembers its volume."""

    JACOBIAN = "Jacobian"
    LOG_JACOBIAN = "LogJacobian"
    MAGNITUDE = "Displacement"
    SIMILARITY_BEFORE = "SimilarityBefore"
    SIMILARITY_AFTER = "SimilarityAfter"
    INCONSISTENCY = "InverseConsistency"
    UNCERTAINTY = "Uncertainty"
    ERROR = "Error"
    CHANGE = "Change"

    def label(self) -> str:
        """Return the text for people, with the unit."""
        return {
            Map.JACOBIAN: _("Jacobian (volume ratio)"),
            Map.LOG_JACOBIAN: _("Log Jacobian (ln of ratio)"),
            Map.MAGNITUDE: _("Displacement (mm)"),
            Map.SIMILARITY_BEFORE: _("Similarity before (0 to 1)"),
            Map.SIMILARITY_AFTER: _("Similarity after (0 to 1)"),
            Map.INCONSISTENCY: _("Inverse consistency (mm)"),
            Map.UNCERTAINTY: _("Uncertainty (mm)"),
            Map.ERROR: _("Error, 95 % within (mm)"),
            Map.CHANGE: _("No counterpart (0 to 1)"),
        }[self]

    @property
    def measure(self) -> Measure:
        """What its threshold is about."""
        return _STYLES[self].measure

    @property
    def stops(self) -> Stops:
        """Colors at positions 0 to 1 of its window."""
        return _STYLES[self].stops

    def window(self, largest: float) -> tuple[float, float]:
        """Return the values at positions 0 and 1 of its colors; the largest value matters to open scales alone."""
        return _STYLES[self].window or (0.0, max(largest, 1.0))


@dataclass(frozen=True)
class _Style:
    """Colors of a map.

    :param name: name of the color node.
    :param stops: colors at positions 0 to 1, interpolated between.
    :param measure: what its threshold is about.
    :param window: values at positions 0 and 1; None takes 0 and the maximum.
    """

    name: str
    stops: Stops
    measure: Measure
    window: tuple[float, float] | None = None


_SIMILARITY = _Style("Deformation similarity", REVERSED, Measure.SIMILARITY, (0.0, 1.0))
_DISTANCE = _Style("Deformation distance", SEQUENTIAL, Measure.MILLIMETERS)
_STYLES = {
    Map.JACOBIAN: _Style("Deformation change of volume", DIVERGING, Measure.VOLUME, (0.0, 2.0)),
    Map.LOG_JACOBIAN: _Style("Deformation log change of volume", DIVERGING, Measure.VOLUME, (-1.0, 1.0)),
    Map.MAGNITUDE: _DISTANCE,
    Map.SIMILARITY_BEFORE: _SIMILARITY,
    Map.SIMILARITY_AFTER: _SIMILARITY,
    Map.INCONSISTENCY: _DISTANCE,
    Map.UNCERTAINTY: _DISTANCE,
    Map.ERROR: _DISTANCE,
    Map.CHANGE: _Style("Deformation change", SEQUENTIAL, Measure.CERTAINTY, (0.0, 1.0)),
}
_FOLD_STYLE = _Style("Deformation folds", FOLDS, Measure.VOLUME)


def createMap(
    kind: Map,
    array: np.ndarray,
    geometry: Geometry,
    name: str,
    node: slicer.vtkMRMLScalarVolumeNode | None = None,
) -> slicer.vtkMRMLScalarVolumeNode:
    """Put a map into a volume node, colored so that the unremarkable is transparent, with a color legend.

    Jacobian maps are red where moving tissue is shrunk into the fixed volume, blue where it is stretched.

    :param kind: what the numbers are.
    :param array: (k, j, i) on the grid.
    :param geometry: grid in the world.
    :param name: name of a new node.
    :param node: existing node to write into; None adds one.
    """
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    Volumes.fillVolume(node, Volumes.makeImage(array), geometry)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(_colorNode(_STYLES[kind]).GetID())
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(*kind.window(float(array.max())))
    hideUnremarkable(node, kind)
    _addLegend(node, kind.label(), "%.2f" if kind.measure in (Measure.SIMILARITY, Measure.CERTAINTY) else "%.1f")
    return node


def hideUnremarkable(node: slicer.vtkMRMLScalarVolumeNode, kind: Map, threshold: float | None = None) -> None:
    """Make what is unremarkable in a map transparent, so that the anatomy shows.

    All Jacobian maps of a scene share the threshold, which is in their colors.

    :param node: from `createMap`.
    :param kind: what its numbers are.
    :param threshold: in the unit of `kind.measure`; None takes the usual one.
    """
    measure = kind.measure
    threshold = measure.value if threshold is None else threshold
    display = node.GetDisplayNode()
    if measure is Measure.VOLUME:
        share = threshold / 100
        half = share if kind is Map.JACOBIAN else math.log1p(share)
        _hideCenter(display.GetColorNode(), half)
        display.SetApplyThreshold(False)
        return
    low, high = node.GetImageData().GetScalarRange()
    display.SetAutoThreshold(False)
    # Slicer shows what lies within the threshold, both ends included.
    display.SetThreshold(*((low, threshold) if measure is Measure.SIMILARITY else (threshold, max(high, threshold))))
    display.SetApplyThreshold(True)


def createFolds(
    jacobian: np.ndarray,
    geometry: Geometry,
    name: str,
    node: slicer.vtkMRMLLabelMapVolumeNode | None = None,
) -> slicer.vtkMRMLLabelMapVolumeNode:
    """Return a label map of the folded voxels (determinant at or below 0), in one pure color.

    :param jacobian: Jacobian determinant (k, j, i) on the grid.
    :param geometry: grid in the world.
    :param name: name of a new node.
    :param node: existing node to write into; None adds one.
    """
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", name)
    Volumes.fillVolume(node, Volumes.makeImage((jacobian <= 0).astype(np.uint8)), geometry)
    node.CreateDefaultDisplayNodes()
    colors = _colorNode(_FOLD_STYLE, count=2)
    colors.SetColor(0, 0.0, 0.0, 0.0, 0.0)
    colors.SetColorName(1, _("Folded"))
    node.GetDisplayNode().SetAndObserveColorNodeID(colors.GetID())
    return node


def showGrid(
    transformNode: slicer.vtkMRMLTransformNode,
    regionNode: slicer.vtkMRMLVolumeNode,
    spacingMm: float | None = None,
) -> slicer.vtkMRMLTransformDisplayNode:
    """Show the deformed grid in slice views: where regular lines through the moving volume come to lie.

    :param transformNode: the deformation, from `Transforms.createGridTransform`.
    :param regionNode: volume over which the grid extends in 3D.
    :param spacingMm: distance of the lines; None takes a fraction of the region's longest side.
    """
    transformNode.CreateDefaultDisplayNodes()
    display = transformNode.GetDisplayNode()
    if spacingMm is None:
        bounds = np.zeros(6)
        regionNode.GetRASBounds(bounds)
        spacingMm = float((bounds[1::2] - bounds[::2]).max()) / GRID_LINES
    largestMm = transformNode.GetTransformFromParent().GetDisplacementGrid().GetPointData().GetScalars().GetMaxNorm()
    colors = vtk.vtkColorTransferFunction()
    for share, color in GRID_COLORS:
        colors.AddRGBPoint(share * max(largestMm, 1.0), *color)
    display.SetColorMap(colors)
    display.SetVisualizationMode(display.VIS_MODE_GRID)
    display.SetGridSpacingMm(spacingMm)
    display.SetAndObserveRegionNode(regionNode)
    display.SetVisibility(True)
    display.SetVisibility2D(True)
    display.SetVisibility3D(False)
    return display


def _addLegend(node: slicer.vtkMRMLVolumeNode, title: str, numberFormat: str) -> None:
    legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(node)
    # In one line it would be cut off in a small view.
    legend.SetTitleText(title.replace(" (", "\n("))
    legend.SetLabelFormat(numberFormat)


def _colorNode(style: _Style, count: int = COLORS) -> slicer.vtkMRMLColorTableNode:
    """Return the scene's color table of a style, made on first use."""
    node = slicer.mrmlScene.GetFirstNode(style.name, "vtkMRMLColorTableNode")
    if node is not None:
        return node
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLColorTableNode", style.name)
    node.SetTypeToUser()
    node.SetNumberOfColors(count)
    stops = [position for position, _color in style.stops]
    positions = _positions(count)
    channels = [
        np.interp(positions, stops, channel)
        for channel in zip(*(color for _position, color in style.stops), strict=True)
    ]
    for index, color in enumerate(np.transpose(channels)):
        node.SetColor(index, *color, 1.0)
    node.SetNamesFromColors()
    return node


def _positions(count: int) -> np.ndarray:
    """Return where on the scale, 0 to 1, the middle of each color lies."""
    return (np.arange(count) + 0.5) / count


def _hideCenter(colors: slicer.vtkMRMLColorTableNode, half: float) -> None:
    """Make the center of a scale from -1 to 1 transparent, half of it to each side, and the rest opaque."""
    # Slice views know only transparent and opaque, nothing between.
    count = colors.GetNumberOfColors()
    opacities = (np.abs(2 * _positions(count) - 1) > half).astype(float)
    color = [0.0] * 4
    with slicer.util.NodeModify(colors):
        for index, opacity in enumerate(opacities):
            colors.GetColor(index, color)
            if color[3] != opacity:
                colors.SetColor(index, *color[:3], opacity)
