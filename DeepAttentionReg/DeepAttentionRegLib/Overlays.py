"""What a deformation does, drawn over the fixed volume: maps in color, folds, the deformed grid."""

import enum
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from DeepAttentionRegEngine import fields
from DeepAttentionRegEngine.geometry import Geometry

from . import Transforms, Volumes

Color = tuple[float, float, float]  # red, green, blue, each 0 to 1
Stops = tuple[tuple[float, Color], ...]

COLORS = 256
BLUE, PALE_BLUE = (0.10, 0.20, 0.75), (0.75, 0.88, 1.0)
RED, PALE_RED = (0.75, 0.05, 0.10), (1.0, 0.85, 0.75)
PALE_YELLOW, ORANGE, DARK_RED = (1.0, 1.0, 0.7), (1.0, 0.6, 0.1), (0.6, 0.0, 0.1)
MAGENTA = (1.0, 0.0, 1.0)
DIVERGING = ((0.0, BLUE), (0.475, PALE_BLUE), (0.525, PALE_RED), (1.0, RED))
SEQUENTIAL = ((0.0, PALE_YELLOW), (0.5, ORANGE), (1.0, DARK_RED))
FOLDS = ((0.0, MAGENTA), (1.0, MAGENTA))
# From standing still to the largest displacement: bright throughout, to be seen on dark and gray.
GRID_COLORS = ((0.0, (0.45, 0.70, 1.0)), (0.5, (1.0, 0.85, 0.25)), (1.0, (1.0, 0.25, 0.15)))
GRID_LINES = 24  # across the longest side


class Map(enum.Enum):
    """A scalar map of a deformation; the value is its name in a job."""

    JACOBIAN = "jacobian"
    LOG_JACOBIAN = "log-jacobian"
    MAGNITUDE = "magnitude"

    def label(self) -> str:
        """Return the text for people."""
        return {
            Map.JACOBIAN: _("Jacobian determinant"),
            Map.LOG_JACOBIAN: _("Log Jacobian"),
            Map.MAGNITUDE: _("Displacement (mm)"),
        }[self]


@dataclass(frozen=True)
class _Style:
    """Colors of a map.

    :param name: name of the color node.
    :param stops: colors at positions 0 to 1, interpolated between.
    :param hidden: positions between which the map is transparent: what hardly changes, so that the anatomy shows.
    :param window: values at positions 0 and 1; None takes 0 and the maximum.
    """

    name: str
    stops: Stops
    hidden: tuple[float, float]
    window: tuple[float, float] | None = None


_STYLES = {
    Map.JACOBIAN: _Style("Deformation change of volume", DIVERGING, (0.475, 0.525), (0.0, 2.0)),
    Map.LOG_JACOBIAN: _Style("Deformation change of volume", DIVERGING, (0.475, 0.525), (-1.0, 1.0)),
    Map.MAGNITUDE: _Style("Deformation displacement", SEQUENTIAL, (0.0, 0.04)),
}
_FOLD_STYLE = _Style("Deformation folds", FOLDS, (0.0, 0.0))


def computeMap(transformNode: slicer.vtkMRMLTransformNode, kind: Map) -> tuple[np.ndarray, Geometry]:
    """Return a map (k, j, i) of the field a transform node holds, and its grid.

    :raises ValueError: if the node holds no displacement field.
    """
    displacementLps, geometry = Transforms.readGrid(transformNode)
    if kind is Map.MAGNITUDE:
        return fields.magnitude(displacementLps), geometry
    jacobian = fields.jacobian_determinant(displacementLps, geometry)
    return (jacobian if kind is Map.JACOBIAN else fields.log_jacobian(jacobian)), geometry


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
    style = _STYLES[kind]
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(_colorNode(style).GetID())
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(*(style.window or (0.0, max(float(array.max()), 1.0))))
    legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(node)
    legend.SetTitleText(kind.label())
    legend.SetLabelFormat("%.1f")
    return node


def createFolds(jacobian: np.ndarray, geometry: Geometry, name: str) -> slicer.vtkMRMLLabelMapVolumeNode:
    """Return a new label map of the folded voxels (determinant at or below 0), in one pure color.

    :param jacobian: Jacobian determinant (k, j, i) on the grid.
    :param geometry: grid in the world.
    :param name: name of the node.
    """
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", name)
    Volumes.fillVolume(node, Volumes.makeImage((jacobian <= 0).astype(np.uint8)), geometry)
    node.CreateDefaultDisplayNodes()
    colors = _colorNode(_FOLD_STYLE, count=2)
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


def _colorNode(style: _Style, count: int = COLORS) -> slicer.vtkMRMLColorTableNode:
    """Return the scene's color table of a style, made on first use."""
    node = slicer.mrmlScene.GetFirstNode(style.name, "vtkMRMLColorTableNode")
    if node is not None:
        return node
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLColorTableNode", style.name)
    node.SetTypeToUser()
    node.SetNumberOfColors(count)
    stops = [position for position, _color in style.stops]
    positions = np.linspace(0, 1, count)
    channels = [
        np.interp(positions, stops, channel)
        for channel in zip(*(color for _position, color in style.stops), strict=True)
    ]
    # Slice views know only transparent and opaque, nothing between.
    opacities = ~((positions >= style.hidden[0]) & (positions <= style.hidden[1]))
    for index, color in enumerate(np.transpose([*channels, opacities])):
        node.SetColor(index, *color)
    node.SetNamesFromColors()
    return node
