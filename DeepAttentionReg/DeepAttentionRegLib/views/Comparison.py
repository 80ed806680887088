"""Two volumes in the same slice views, to see whether they fit: faded, alternating, in tiles, in colors, subtracted.

The fixed volume is compared with the moving one, before or after its deformation, both looked up at the voxels of the
fixed volume: so before and after are equally sharp. What appears equally bright counts as equal; the windows of the
two volumes say what that is.

    comparison = Comparison(Deformation.ofTransform(transformNode))
    comparison.show(ComparisonOptions(Mode.CHECKERBOARD, tileMm=15))
    comparison.close()

Nodes that this takes are hidden, not saved with the scene, and gone at the end.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import EllipsisType

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras

from ..nodes import Record, Volumes
from ..nodes.Deformation import Deformation
from ..nodes.Present import present
from ..nodes.Transforms import WORLD, forImages, forVoxels
from . import Links, Mixing
from .ComparisonModes import ComparedVolume, Divider, Mode
from .HiddenNodes import HiddenNodes
from .Layers import compositeNodes
from .Layouts import FIXED_PANE, MOVING_PANE, PANES, isSideBySide
from .ViewStates import MOVING_ATTRIBUTE, Shown, ViewState

ATTRIBUTE = "DeepAttentionReg.Comparison"  # of all volumes that are added
# At 2 Hz there are two flashes a second; more than three can bring on seizures (WCAG 2.3.1), which a slider, or a
# script, must not be able to do.
MAX_RATE_HZ = 2.0
ALTERNATING = (Mode.ROCK, Mode.FLICKER)
MIXED = (Mode.CHECKERBOARD, Mode.REVEAL, Mode.DIFFERENCE)
# Green and magenta add up to gray, and the color-blind can tell them apart.
FIXED_COLOR, LAYER_COLOR = "vtkMRMLColorTableNodeGreen", "vtkMRMLColorTableNodeMagenta"
GREY = "vtkMRMLColorTableNodeGrey"
# Black where there is no difference; both ends are bright, and different for the color-blind.
DARKER, BRIGHTER = (0.34, 0.71, 0.91), (0.90, 0.62, 0.0)
COLORS = 256
Part = tuple[slice, ...] | EllipsisType
# So far below every difference that it stays there when slice views interpolate.
NOTHING = -1e30


@dataclass(frozen=True)
class ComparisonOptions:
    """How to compare.

    :param mode: one of `Mode`.
    :param layer: what is compared with the fixed volume.
    :param opacity: share of the layer in a fade, 0 to 1.
    :param tileMm: edge of the tiles of a checkerboard.
    :param divider: direction along which the divider of a reveal moves.
    :param position: where it is, 0 to 1; the fixed volume is shown up to there, the layer beyond.
    :param isAbsolute: whether a difference is without its sign.
    :param isLinked: whether all views scroll and zoom together.
    """

    mode: Mode
    layer: ComparedVolume = ComparedVolume.AFTER
    opacity: float = 0.5
    tileMm: float = 20.0
    divider: Divider = Divider.RIGHT_LEFT
    position: float = 0.5
    isAbsolute: bool = False
    isLinked: bool = True


def opacityAt(mode: Mode, turns: float) -> float:
    """Return the share of the layer, 0 to 1, in a rock or flicker.

    :param turns: how often it has come and gone.
    """
    if mode is Mode.FLICKER:
        return float(turns % 1 >= 0.5)
    return 0.5 - 0.5 * math.cos(2 * math.pi * turns)


class Comparison:
    """A deformation's volumes as slice views show them, until it is closed."""

    def __init__(self, deformation: Deformation) -> None:
        """Prepare; nothing is shown before `show`."""
        self.deformation = deformation
        self._views: dict[str, ViewState] = {}
        self._linked: set[str] = set()
        self._nodes: dict[str, HiddenNodes] = {}  # each a volume, then what belongs to it
        self._values: dict[ComparedVolume, np.ndarray] = {}
        self._options: ComparisonOptions | None = None
        self._source: tuple | None = None
        self._content: ComparisonOptions | None = None  # what the mixed volume holds
        self._split = 0  # first voxel beyond the divider
        self._turns = 0.0  # how often a rock or flicker has come and gone

    def show(self, options: ComparisonOptions) -> None:
        """Show the volumes in all slice views; what is shown already is left alone.

        :raises ValueError: if a volume cannot be compared; says why.
        """
        views = [view for view in compositeNodes() if _isConcerned(view, options.mode) and not self._isTaken(view)]
        names = {view.GetID() for view in views}
        source = self._currentSource() if views else None
        if (options, source, names) == (self._options, self._source, set(self._views)):
            return
        if source != self._source:
            self.close()
        shown = self._shown(options) if options.mode is not Mode.OFF else None
        self._turns = 0.0
        for name in set(self._views) - names:
            self._views.pop(name).restore()
        for view in views:
            state = self._views.setdefault(view.GetID(), ViewState(view))
            state.show(self._pane(view.GetLayoutName(), shown))
        self._link(views if options.isLinked else [])
        for name in {mode.value for mode in MIXED} & set(self._nodes) - {options.mode.value}:
            self._nodes.pop(name).close()
        self._source, self._options = source, options

    def step(self, seconds: float, rateHz: float) -> None:
        """Let a rock or flicker go on; nothing is done in the other modes.

        :param seconds: since the last step.
        :param rateHz: how often a second the layer comes and goes; 2 at most.
        """
        if self._options is None or self._options.mode not in ALTERNATING:
            return
        # Added up, so that no flash comes of changing the rate.
        self._turns += seconds * min(rateHz, MAX_RATE_HZ)
        opacity = opacityAt(self._options.mode, self._turns)
        for state in self._views.values():
            state.setOpacity(opacity)

    def revealAt(self, pointRas: Sequence[float]) -> None:
        """Move the divider of a reveal through a point of the world, RAS mm; nothing is done in the other modes."""
        if self._options is None or self._options.mode is not Mode.REVEAL:
            return
        geometry = self._geometry()
        index = geometry.lps_to_index(flip_lps_ras(np.array([pointRas], float)))[0]
        axis, _isBack = Mixing.axesOf(geometry)[self._options.divider]
        self._moveSplit(round(index[axis] + 0.5))

    def close(self) -> None:
        """Let the views show what they did before, but for those in which the user has chosen something else."""
        for state in self._views.values():
            state.restore()
        self._link([])
        for nodes in self._nodes.values():
            nodes.close()
        self._views, self._nodes, self._values = {}, {}, {}
        self._options = self._source = self._content = None

    def _isTaken(self, view: slicer.vtkMRMLSliceCompositeNode) -> bool:
        """Return whether a view shows another comparison, such as that of a second panel of the module."""
        names = (view.GetBackgroundVolumeID(), view.GetForegroundVolumeID())
        shown = [node for node in (slicer.mrmlScene.GetNodeByID(name) for name in names if name) if node is not None]
        mine = self._nodes.values()
        return any(node.GetAttribute(ATTRIBUTE) and not any(node in nodes for nodes in mine) for node in shown)

    def _link(self, views: list[slicer.vtkMRMLSliceCompositeNode]) -> None:
        """Let these views scroll and zoom together, and no others but those that did before."""
        names = {view.GetID() for view in views}
        if names != self._linked:
            Links.giveBack()
            self._linked = names
        if names:
            Links.link(views)

    def _geometry(self) -> Geometry:
        return Volumes.geometryOf(self.deformation.fixed, WORLD)

    def _currentSource(self) -> tuple:
        """Return what all that is shown is made from, to find out whether that has changed.

        :raises ValueError: if a volume cannot be compared.
        """
        fixed, moving, field = self.deformation.fixed, self.deformation.moving, self._field()
        problem = Volumes.checkNode(fixed) or ("" if self._isShownWarped else Volumes.checkNode(moving))
        if problem:
            raise ValueError(problem)
        matrix = vtk.vtkMatrix4x4()
        moving.GetIJKToRASMatrix(matrix)
        place = self._toWorld() @ slicer.util.arrayFromVTKMatrix(matrix)
        # No two times are equal, whichever objects they belong to.
        data = fixed.GetImageData(), moving.GetImageData(), field, field.GetDisplacementGrid()
        times = [item.GetMTime() for item in data]
        return self._geometry(), place.tolist(), times, Mixing.windowOf(fixed), Mixing.windowOf(moving)

    def _field(self) -> slicer.vtkOrientedGridTransform:
        return self.deformation.transformNode.GetTransformFromParentAs("vtkOrientedGridTransform", False)

    @property
    def _isShownWarped(self) -> bool:
        return self.deformation.moving.GetParentTransformNode() is self.deformation.transformNode

    def _toWorld(self) -> np.ndarray:
        """Return the 4x4 RAS matrix from the moving volume's own coordinates to where it is before its deformation."""
        return present(Record.movingToWorld(self.deformation.transformNode, self.deformation.moving))

    def _valuesOf(self, layer: ComparedVolume) -> np.ndarray:
        """Return the moving volume, before or after, at the voxels of the fixed one; NaN where there is none."""
        if layer not in self._values:
            geometry, isAfter = self._geometry(), layer is ComparedVolume.AFTER
            node = self.deformation.transformNode
            worldToMoving = forVoxels(forImages(node), geometry) if isAfter else np.linalg.inv(self._toWorld())
            values = Mixing.resample(self.deformation.moving, worldToMoving, geometry)
            if not np.isfinite(values).any():
                text = _("{moving} lies outside of {fixed}, so there is nothing to compare.")
                names = {"moving": self.deformation.moving.GetName(), "fixed": self.deformation.fixed.GetName()}
                raise ValueError(text.format(**names))
            self._values[layer] = values
        return self._values[layer]

    def _shown(self, options: ComparisonOptions) -> Shown:
        """Return what views show that have no volume of their own."""
        fixed = self.deformation.fixed
        if options.mode in MIXED:
            mixed = self._mixed(options)
            return Shown(fixed, mixed) if options.mode is Mode.DIFFERENCE else Shown(mixed)
        layer = self._layerNode(options.layer)
        isFusion = options.mode is Mode.FUSION
        color = LAYER_COLOR if isFusion else _colorOf(self.deformation.moving)
        layer.GetDisplayNode().SetAndObserveColorNodeID(color)
        if isFusion:
            return Shown(self._fixedCopy(), layer, compositing=slicer.vtkMRMLSliceCompositeNode.Add)
        return Shown(fixed, layer, options.opacity if options.mode is Mode.FADE else 0.0)

    def _pane(self, name: str, shown: Shown | None) -> Shown:
        """Return what a view shows: of the layout of three, the third is the place to compare."""
        if name == FIXED_PANE:
            return Shown(self.deformation.fixed)
        if name == MOVING_PANE:
            return Shown(self._layerNode(ComparedVolume.BEFORE) if self._isShownWarped else self.deformation.moving)
        return shown or Shown(self._layerNode(ComparedVolume.AFTER))

    def _layerNode(self, layer: ComparedVolume) -> slicer.vtkMRMLScalarVolumeNode:
        if layer.value not in self._nodes:
            values = self._valuesOf(layer)
            image = Volumes.makeImage(np.where(np.isfinite(values), values, np.nanmin(values)))
            self._add(layer.value, image, self.deformation.moving)
        return self._marked(layer.value, layer, "{layer}")

    def _marked(self, key: str, layer: ComparedVolume, name: str) -> slicer.vtkMRMLScalarVolumeNode:
        """Return the volume of a key, which tells what it shows: views write its name into their corners.

        :param name: with {fixed} and {layer} for the names of what is compared.
        """
        node, moving = self._nodes[key].first, self.deformation.moving
        isBefore = layer is ComparedVolume.BEFORE
        node.SetAttribute(MOVING_ATTRIBUTE, moving.GetID() if isBefore else None)
        text = _("{moving} (before)") if isBefore else _("{moving} (warped)")
        node.SetName(name.format(fixed=self.deformation.fixed.GetName(), layer=text.format(moving=moving.GetName())))
        return node

    def _fixedCopy(self) -> slicer.vtkMRMLScalarVolumeNode:
        """Return a volume that shares the voxels of the fixed one and has a color of its own."""
        if "fixed" not in self._nodes:
            self._add("fixed", self.deformation.fixed.GetImageData(), self.deformation.fixed)
            self._nodes["fixed"].first.GetDisplayNode().SetAndObserveColorNodeID(FIXED_COLOR)
            self._nodes["fixed"].first.SetName(_("{fixed} (fixed)").format(fixed=self.deformation.fixed.GetName()))
        return self._nodes["fixed"].first

    def _mixed(self, options: ComparisonOptions) -> slicer.vtkMRMLScalarVolumeNode:
        """Return the volume that is computed of both."""
        name, geometry = options.mode.value, self._geometry()
        if name not in self._nodes:
            self._add(name, Volumes.makeImage(np.zeros(geometry.shape, np.float32)), self.deformation.fixed)
            self._content = None
        isDifference = options.mode is Mode.DIFFERENCE
        node = self._marked(
            name, options.layer, _("{layer} minus {fixed}") if isDifference else _("{fixed} and {layer}")
        )
        content = replace(options, opacity=0.0, position=0.0, isLinked=False)
        if content != self._content:
            self._fill(slicer.util.arrayFromVolume(node), options)
            slicer.util.arrayFromVolumeModified(node)
            self._content = content
        if options.mode is Mode.REVEAL:
            self._moveSplit(Mixing.splitAt(geometry, options.divider, options.position))
        if isDifference:
            self._color(options.isAbsolute)
        return node

    def _fill(self, values: np.ndarray, options: ComparisonOptions) -> None:
        """Compute a mixed volume (k, j, i)."""
        fixed = slicer.util.arrayFromVolume(self.deformation.fixed)
        if options.mode is Mode.DIFFERENCE:
            np.subtract(self._matched(options.layer, NOTHING), fixed, out=values)
            if options.isAbsolute:
                np.abs(values, out=values, where=values > NOTHING / 2)
            return
        values[:] = fixed
        if options.mode is Mode.CHECKERBOARD:
            np.copyto(values, self._matched(options.layer), where=Mixing.tilesOf(self._geometry(), options.tileMm))
        else:
            # Nothing is revealed: the divider is at the end of the volume.
            self._split = Mixing.splitAt(self._geometry(), options.divider, 1.0)

    def _matched(self, layer: ComparedVolume, outside: float | None = None, part: Part = ...) -> np.ndarray:
        """Return values of the moving volume as those of the fixed one that appear equally bright.

        :param outside: value where there is none; None takes what appears black.
        :param part: index of the part to return.
        """
        low, high = Mixing.windowOf(self.deformation.fixed)
        start, end = Mixing.windowOf(self.deformation.moving)
        scale = (high - low) / (end - start) if end > start else 1.0
        values = (self._valuesOf(layer)[part] - np.float32(start)) * np.float32(scale) + np.float32(low)
        values[~np.isfinite(values)] = low if outside is None else outside
        return values

    def _moveSplit(self, split: int) -> None:
        """Have a reveal show the layer beyond another voxel along its divider."""
        geometry, options = self._geometry(), present(self._content)
        axis, isBack = Mixing.axesOf(geometry)[options.divider]
        split = min(max(split, 0), geometry.size[axis])
        first, last = sorted((split, self._split))
        if first == last:
            return
        part = (slice(None),) * (2 - axis) + (slice(first, last),)
        node = self._nodes[Mode.REVEAL.value].first
        isFixed = (split > self._split) != isBack
        fixed = slicer.util.arrayFromVolume(self.deformation.fixed)[part]
        slicer.util.arrayFromVolume(node)[part] = fixed if isFixed else self._matched(options.layer, part=part)
        slicer.util.arrayFromVolumeModified(node)
        self._split = split

    def _color(self, isAbsolute: bool) -> None:
        """Color a difference: black where there is none, as wide as half of the window of the fixed volume."""
        low, high = Mixing.windowOf(self.deformation.fixed)
        limit = (high - low) / 2
        volume = self._nodes[Mode.DIFFERENCE.value].first
        display = volume.GetDisplayNode()
        display.SetAndObserveColorNodeID(GREY if isAbsolute else self._differenceColors().GetID())
        display.SetWindowLevelMinMax(0.0 if isAbsolute else -limit, limit)
        display.SetThreshold(NOTHING / 2, -NOTHING)
        display.SetApplyThreshold(True)
        legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(volume)
        legend.SetTitleText(_("Absolute difference") if isAbsolute else _("Moving minus fixed"))
        legend.SetLabelFormat("%.0f")
        self._hide(Mode.DIFFERENCE.value, legend)

    def _differenceColors(self) -> slicer.vtkMRMLColorTableNode:
        if "colors" not in self._nodes:
            table = slicer.vtkMRMLColorTableNode()
            table.SetTypeToUser()
            table.SetNumberOfColors(COLORS)
            for index, position in enumerate(np.linspace(-1, 1, COLORS)):
                table.SetColor(index, *(abs(position) * np.array(DARKER if position < 0 else BRIGHTER)), 1.0)
            self._hide("colors", table)
        return self._nodes["colors"].first

    def _add(self, key: str, image: vtk.vtkImageData, like: slicer.vtkMRMLScalarVolumeNode) -> None:
        """Add a hidden volume on the grid of the fixed one, to be found by a key; it is shown like another one."""
        fixed, display = self.deformation.fixed, slicer.vtkMRMLScalarVolumeDisplayNode()
        if like.GetScalarVolumeDisplayNode() is not None:
            display.CopyContent(like.GetScalarVolumeDisplayNode())
        display.SetAndObserveColorNodeID(_colorOf(like))
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(*Mixing.windowOf(like))
        volume = slicer.vtkMRMLScalarVolumeNode()
        volume.CopyOrientation(fixed)
        volume.SetAndObserveImageData(image)
        volume.SetAttribute(ATTRIBUTE, key)
        for node in (volume, display):
            self._hide(key, node)
        volume.SetAndObserveDisplayNodeID(display.GetID())
        volume.SetAndObserveTransformNodeID(fixed.GetTransformNodeID())

    def _hide(self, key: str, node: slicer.vtkMRMLNode) -> None:
        """Keep a node of the scene out of sight, and remember to remove it."""
        self._nodes.setdefault(key, HiddenNodes()).add(node, "Deformation comparison")


def _isConcerned(view: slicer.vtkMRMLSliceCompositeNode, mode: Mode) -> bool:
    return isSideBySide() if view.GetLayoutName() in PANES else mode is not Mode.OFF


def _colorOf(volume: slicer.vtkMRMLScalarVolumeNode) -> str:
    display = volume.GetScalarVolumeDisplayNode()
    return (display and display.GetColorNodeID()) or GREY
