"""Pictures of the demo: what Slicer's slice views show before and after, and one page with all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from PIL import Image, ImageDraw, ImageFont
from slicer.util import arrayFromVolume

import mrml_scene
from DeepAttentionRegEngine.volume import fields
from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras
from DeepAttentionRegLib.nodes import Overlays, Transforms

ORIENTATIONS = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}
VIEW_PIXELS = 640
TILE_PIXELS = 400
MARGIN, HEADER, FOOTER = 8, 44, 64
SHOWN_PERCENTILES = 0.5, 99.5
RIM = 0.3
MAP_OPACITY = 0.7
GRID_LINE_PIXELS = 2
LEGEND_SIZE = 0.08, 0.4
# By share of the largest displacement.
GRID_COLORS = ((0.0, (0.45, 0.70, 1.0)), (0.5, (1.0, 0.85, 0.25)), (1.0, (1.0, 0.25, 0.15)))
FIXED_COLOR, MOVING_COLOR = "Magenta", "Green"


@dataclass(frozen=True)
class Pictured:
    """The nodes that are drawn.

    Attributes:
        fixed: Fixed volume.
        moving: Moving volume.
        warped: Moving volume on the fixed grid.
        jacobian: Jacobian determinant on the fixed grid, with its colors and legend.
        transform: Grid transform, with its display.
        outlines: Segmentation of the fixed volume, drawn on all gray pictures; None for none.
    """

    fixed: slicer.vtkMRMLScalarVolumeNode
    moving: slicer.vtkMRMLScalarVolumeNode
    warped: slicer.vtkMRMLScalarVolumeNode
    jacobian: slicer.vtkMRMLScalarVolumeNode
    transform: slicer.vtkMRMLTransformNode
    outlines: slicer.vtkMRMLSegmentationNode | None


def open_views(application: mrml_scene.Application) -> dict[str, mrml_scene.SliceView]:
    """Open Slicer's three slice views; like there, before there is anything to show, as color legends expect."""
    size = (VIEW_PIXELS, VIEW_PIXELS)
    return {name: mrml_scene.SliceView(application, name, plane, size) for name, plane in ORIENTATIONS.items()}


def arrange(views: dict[str, mrml_scene.SliceView], nodes: Pictured) -> dict[str, mrml_scene.SliceView]:
    """Fit the views to the fixed volume where it moves most, set up the displays, and return the views that show it.

    A single slice is shown by the one view whose plane is nearest to its own.
    """
    displacement_lps_mm, geometry = Transforms.readGrid(nodes.transform)
    point = flip_lps_ras(busiest_point(displacement_lps_mm, geometry))
    if geometry.is_flat:
        normal = np.reshape(geometry.direction, (3, 3))[:, geometry.size.index(1)]
        name = ("Yellow", "Green", "Red")[int(np.abs(normal).argmax())]
        views = {name: views[name]}
        views[name].node.RotateToVolumePlane(nodes.fixed)
    for view in views.values():
        view.show(nodes.fixed)
        view.jump(point)
    for volume in (nodes.fixed, nodes.moving, nodes.warped):
        window(volume)
    legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(nodes.jacobian)
    # Its letters fill its width.
    legend.SetSize(*LEGEND_SIZE)
    for text in (legend.GetTitleTextProperty(), legend.GetLabelTextProperty()):
        text.SetFontFamilyToArial()
        text.SetBackgroundColor(0, 0, 0)
        text.SetBackgroundOpacity(0.5)
    grid = Overlays.showGrid(nodes.transform, nodes.fixed)
    grid.SetSliceIntersectionThickness(GRID_LINE_PIXELS)
    colors = vtk.vtkColorTransferFunction()
    largest = float(fields.magnitude(displacement_lps_mm).max())
    for share, color in GRID_COLORS:
        colors.AddRGBPoint(share * max(largest, 1.0), *color)
    grid.SetColorMap(colors)
    return views


def busiest_point(displacement_lps_mm: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return the crossing of the three grid planes in which most moves, (3,) LPS mm; the rim is left out."""
    energy = fields.magnitude(displacement_lps_mm) ** 2
    index = []
    for axis, count in enumerate(energy.shape):
        profile = energy.mean(axis=tuple(other for other in range(3) if other != axis))
        rim = int(count * RIM)
        index.append(rim + int(profile[rim : count - rim].argmax()))
    return geometry.index_to_lps(np.array([index[::-1]]))[0]


def window(volume: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Set the gray window of a volume from the percentiles of its finite voxels."""
    values = arrayFromVolume(volume)
    low, high = np.percentile(values[np.isfinite(values)], SHOWN_PERCENTILES)
    display = volume.GetDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(float(low), float(high))


class SliceViewPainter:
    """Sets up one slice view for each kind of picture and draws it."""

    def __init__(self, nodes: Pictured, view: mrml_scene.SliceView) -> None:
        self.nodes, self.view = nodes, view
        scene = view.node.GetScene()
        composites = [scene.GetNthNodeByClass(n, "vtkMRMLSliceCompositeNode") for n in range(len(ORIENTATIONS))]
        self.composite = next(node for node in composites if node.GetLayoutName() == view.node.GetLayoutName())

    def paint(self, kind: str) -> np.ndarray:
        """Return the picture of a kind of `PICTURES`, RGB (height, width, 3)."""
        self._reset()
        PICTURES[kind].setup(self)
        picture = self.view.grab()
        self._reset()
        return picture

    def leave(self) -> None:
        """Show the registered on the fixed volume half and half, as the saved scene will open."""
        self._layers(self.nodes.fixed, self.nodes.warped, 0.5)
        self._outline(True)

    def _reset(self) -> None:
        nodes = self.nodes
        self._layers(nodes.fixed)
        self.composite.SetCompositing(self.composite.Alpha)
        for volume in (nodes.fixed, nodes.moving, nodes.warped):
            volume.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
        nodes.transform.GetDisplayNode().SetVisibility2D(False)
        self._outline(False)
        self._legend(False)

    def _layers(self, background: Any, foreground: Any = None, opacity: float = 1.0) -> None:
        """Change what is shown, keeping the plane and the field of view."""
        self.composite.SetBackgroundVolumeID(background.GetID())
        self.composite.SetForegroundVolumeID(foreground.GetID() if foreground else None)
        self.composite.SetForegroundOpacity(opacity)

    def _outline(self, shown: bool) -> None:
        if self.nodes.outlines is not None:
            self.nodes.outlines.GetDisplayNode().SetVisibility(shown)

    def _legend(self, shown: bool) -> None:
        legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(self.nodes.jacobian)
        legend.SetVisibility(shown)

    def gray(self, volume: slicer.vtkMRMLScalarVolumeNode) -> None:
        """Show one volume with the outlines of the fixed segmentation."""
        self._layers(volume)
        self._outline(True)

    def fuse(self, volume: slicer.vtkMRMLScalarVolumeNode) -> None:
        """Show a volume in green over the fixed one in magenta; where they agree the sum is gray."""
        for node, color in ((self.nodes.fixed, FIXED_COLOR), (volume, MOVING_COLOR)):
            node.GetDisplayNode().SetAndObserveColorNodeID(f"vtkMRMLColorTableNode{color}")
        self._layers(self.nodes.fixed, volume)
        self.composite.SetCompositing(self.composite.Add)

    def grid(self) -> None:
        """Show the deformed grid on the warped volume."""
        self._layers(self.nodes.warped)
        self.nodes.transform.GetDisplayNode().SetVisibility2D(True)

    def jacobian(self) -> None:
        """Show the Jacobian map with its legend on the fixed volume."""
        self._layers(self.nodes.fixed, self.nodes.jacobian, MAP_OPACITY)
        self._legend(True)


@dataclass(frozen=True)
class Picture:
    """One kind of picture: its title on the page and how the view is set up for it."""

    title: str
    setup: Callable[[SliceViewPainter], None]


PICTURES = {
    "fixed": Picture("Fixed", lambda painter: painter.gray(painter.nodes.fixed)),
    "moving": Picture("Moving", lambda painter: painter.gray(painter.nodes.moving)),
    "warped": Picture("Moving, registered", lambda painter: painter.gray(painter.nodes.warped)),
    "before": Picture("Before", lambda painter: painter.fuse(painter.nodes.moving)),
    "after": Picture("After", lambda painter: painter.fuse(painter.nodes.warped)),
    "grid": Picture("Deformed grid", SliceViewPainter.grid),
    "jacobian": Picture("Jacobian determinant", SliceViewPainter.jacobian),
}


def draw_all(views: dict[str, mrml_scene.SliceView], nodes: Pictured, folder: Path, caption: str) -> None:
    """Write every picture of every view as a PNG, and `montage.png`.

    Args:
        views: From `arrange`.
        nodes: What to draw.
        folder: Where to write.
        caption: Text below the montage.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, kind in product(ORIENTATIONS, PICTURES):
        _picture_file(folder, name, kind).unlink(missing_ok=True)  # of an earlier run that showed more views
    painters = {name: SliceViewPainter(nodes, view) for name, view in views.items()}
    rows = {
        name: {kind: Image.fromarray(painter.paint(kind)) for kind in PICTURES} for name, painter in painters.items()
    }
    for name, pictures in rows.items():
        for kind, picture in pictures.items():
            picture.save(_picture_file(folder, name, kind))
    for painter in painters.values():
        painter.leave()
    montage(rows, caption).save(folder / "montage.png")


def _picture_file(folder: Path, view: str, kind: str) -> Path:
    return folder / f"{view.lower()}-{kind}.png"


def montage(rows: dict[str, dict[str, Image.Image]], caption: str) -> Image.Image:
    """Return one page: a row per view, a column per kind of picture, titles above, the caption below."""
    step = TILE_PIXELS + MARGIN
    size = (len(PICTURES) * step + HEADER, len(rows) * step + HEADER + FOOTER)
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(26)
    for column, picture in enumerate(PICTURES.values()):
        draw.text((HEADER + column * step + TILE_PIXELS / 2, HEADER / 2), picture.title, "black", font, anchor="mm")
    for row, (name, pictures) in enumerate(rows.items()):
        top = HEADER + row * step
        strip = Image.new("RGB", (TILE_PIXELS, HEADER), "white")
        ImageDraw.Draw(strip).text((TILE_PIXELS / 2, HEADER / 2), ORIENTATIONS[name], "black", font, anchor="mm")
        page.paste(strip.rotate(90, expand=True), (0, top))
        color = tuple(round(255 * part) for part in mrml_scene.LAYOUT_COLORS[name])
        for column, picture in enumerate(pictures.values()):
            left = HEADER + column * step
            page.paste(picture.resize((TILE_PIXELS, TILE_PIXELS), Image.Resampling.LANCZOS), (left, top))
            draw.rectangle((left, top, left + TILE_PIXELS - 1, top + 4), fill=color)
    draw.text((HEADER, size[1] - FOOTER / 2), caption, "black", font, anchor="lm")
    return page
