"""What a network looked at, drawn over the slice views: attention for a point, maps, local deformations.

    shown = AttentionView(Deformation.ofTransform(transformNode))
    shown.show(shown.choices()[0])
    looked = shown.lookAt(pointRas)
    shown.close()

The recursion is that of the present step (RecursionEvidence.py). Nodes that are shown stay in the scene and can be
saved.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from DeepAttentionRegEngine.volume import fields
from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras

from ..nodes import Record, Volumes
from ..nodes.Deformation import Deformation
from ..nodes.Present import present
from ..views.Layers import compositeNodes
from ..views.Layouts import FIXED_PANE, MOVING_PANE
from ..views.ViewStates import Shown, SlicePlace, ViewState, sliceNodeOf
from . import Ellipsoids
from .RecursionEvidence import RecursionEvidence

LOOK, MAP, GAUSSIANS = "look", "map", "gaussians"
OVERLAY_ROLE, ELLIPSOIDS_ROLE = "AttentionOverlay", "Ellipsoids"
OPACITY = 0.6
HEAT_VOXELS = 2**15  # of the grid on which attention is drawn: finer than its tokens, and ready within a moment
HIDDEN_SHARE = 0.1  # of the largest value: below it, and below the average attention, the anatomy shows instead
COLORS = "vtkMRMLColorTableNodeIron"
SECOND_VIEW = "Yellow"
DEFAULT_CROSSHAIR = "default"


@dataclass(frozen=True)
class Choice:
    """Something that can be shown.

    :param kind: LOOK, MAP or GAUSSIANS.
    :param name: of the layer or map.
    :param image: "fixed" or "moving", on which it is shown.
    """

    kind: str
    name: str = ""
    image: str = "fixed"

    @property
    def key(self) -> str:
        """A text that stands for it."""
        return f"{self.kind}|{self.name}|{self.image}"

    def label(self) -> str:
        """Return the text for people."""
        if self.kind == LOOK:
            return _("Where it looked ({layer})").format(layer=self.name)
        if self.kind == GAUSSIANS:
            return _("Gaussians")
        image = _("fixed") if self.image == "fixed" else _("moving")
        return _("{name} ({image})").format(name=self.name[:1].upper() + self.name[1:], image=image)


@dataclass(frozen=True)
class Looked:
    """Where a network looked for a point of the fixed volume.

    :param peakRas: the place in the moving volume that it looked at most, world, mm.
    :param times: how much it looked there, 1 for the average place.
    :param distanceMm: from there to where the result puts the point.
    """

    peakRas: np.ndarray
    times: float
    distanceMm: float

    def sentence(self) -> str:
        """Return it for people."""
        text = _("Looked most {distance:.1f} mm from where the result puts this point, {times:.1f} times the average.")
        return text.format(distance=self.distanceMm, times=self.times)


@dataclass(frozen=True)
class _Sight:
    """How attention of a recursion is drawn on the moving volume, which each recursion sees warped.

    :param key: recursion and layer.
    :param tokensRas: (n, 3) places of the tokens on the moving volume, below its parent transform.
    :param grid: grid to draw on, below the parent transform of the moving volume.
    :param seenLps: (N, 3) where its voxels are seen by the network.
    :param isSeen: (N,) whether they are within its tokens.
    """

    key: tuple[int, str]
    tokensRas: np.ndarray
    grid: Geometry
    seenLps: np.ndarray
    isSeen: np.ndarray


class AttentionView(slicer.util.VTKObservationMixin):
    """Shows one of the things that a network attended to, and follows the step and the crosshair."""

    def __init__(self, deformation: Deformation, onLooked: Callable[[Looked], None] = lambda looked: None) -> None:
        """Prepare; nothing is shown before `show`.

        :param deformation: the deformation.
        :param onLooked: told where the network looked when the crosshair has moved.
        :raises ValueError: with a sentence, if nothing was kept.
        """
        super().__init__()
        self.evidence = RecursionEvidence(deformation.transformNode)
        self._deformation, self._onLooked = deformation, onLooked
        self._choice: Choice | None = None
        self._views: list[ViewState] = []
        self._places: dict[str, SlicePlace] = {}
        self._sight: _Sight | None = None
        self._pointRas: np.ndarray | None = None

    @property
    def _chosen(self) -> Choice:
        """What is shown, from `show` to `close`."""
        return present(self._choice)

    def choices(self) -> list[Choice]:
        """Return what there is to show."""
        looks = [Choice(LOOK, name, "moving") for name in self.evidence.layers]
        maps = [Choice(MAP, name, image) for name, image in self.evidence.maps]
        return looks + maps + ([Choice(GAUSSIANS)] if self.evidence.hasGaussians else [])

    def show(self, choice: Choice) -> None:
        """Show something, in place of what was shown, until `close`.

        :param choice: one of `choices`.
        """
        self.close()
        self._choice = choice
        self.addObserver(self.evidence.browser, vtk.vtkCommand.ModifiedEvent, self._onStep)
        if choice.kind != LOOK:
            self._update()
            return
        crosshair = slicer.mrmlScene.GetSingletonNode(DEFAULT_CROSSHAIR, "vtkMRMLCrosshairNode")
        if crosshair is not None:
            self.addObserver(crosshair, vtk.vtkCommand.ModifiedEvent, self._onCrosshair)
            self._onCrosshair(crosshair)

    def lookAt(self, pointRas: np.ndarray) -> Looked:
        """Show where the network looked for a point of the fixed volume; needs a `choice` of the kind LOOK.

        :param pointRas: (3,) world, mm.
        """
        self._pointRas = np.asarray(pointRas, float)
        weights, tokens = self.evidence.heatMap(self._chosen.name, self._pointRas)
        times = weights * weights.size
        sight = self._sightOf(self._chosen.name, tokens)
        heat = fields.sample_field(times[..., None], tokens, sight.seenLps)[:, 0] * sight.isSeen
        overlay = self._overlay()
        image = Volumes.makeImage(heat.astype(np.float32).reshape(sight.grid.shape))
        self._fill(overlay, image, sight.grid.ijk_to_ras, float(times.max()))
        peak = sight.tokensRas[times.argmax()]
        end = np.array(self._deformation.transformNode.GetTransformFromParent().TransformPoint(self._pointRas))
        looked = Looked(self._toWorld(peak), float(times.max()), float(np.linalg.norm(peak - end)))
        self._jump(looked.peakRas)
        return looked

    def close(self) -> None:
        """Follow nothing any more, and let the views show what they showed before."""
        self.removeObservers()
        for view in self._views:
            view.restore()
        for place in self._places.values():
            place.restore()
        self._views, self._places = [], {}
        self._choice = self._sight = self._pointRas = None
        model = Record.attached(self.evidence.transformNode, ELLIPSOIDS_ROLE)
        if model is not None:
            model.GetDisplayNode().SetVisibility(False)

    def _onStep(self, caller: object = None, event: object = None) -> None:
        if self._chosen.kind != LOOK:
            self._update()
        elif self._pointRas is not None:
            self._onLooked(self.lookAt(self._pointRas))

    def _onCrosshair(self, caller: slicer.vtkMRMLCrosshairNode, event: object = None) -> None:
        point = np.array(caller.GetCrosshairRAS())
        if self._pointRas is None or not np.array_equal(point, self._pointRas):
            self._onLooked(self.lookAt(point))

    def _update(self) -> None:
        """Draw the map or the Gaussians of the present recursion."""
        if self._chosen.kind == GAUSSIANS:
            model = self._model()
            model.SetAndObservePolyData(
                Ellipsoids.make(self.evidence.gaussians(), _thicknessOf(self._deformation.fixed))
            )
            model.GetDisplayNode().SetVisibility(True)
            return
        frame = self.evidence.map(self._chosen.name, self._chosen.image)
        matrix = vtk.vtkMatrix4x4()
        frame.GetIJKToRASMatrix(matrix)
        largest = float(slicer.util.arrayFromVolume(frame).max())
        self._fill(self._overlay(), frame.GetImageData(), slicer.util.arrayFromVTKMatrix(matrix), largest)

    def _overlay(self) -> slicer.vtkMRMLScalarVolumeNode:
        """Return the volume that is drawn over another, made on first use."""
        node = Record.attached(self.evidence.transformNode, OVERLAY_ROLE)
        if node is None:
            name = _("{name} attention").format(name=self._deformation.name)
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
            node.CreateDefaultDisplayNodes()
            node.GetDisplayNode().SetAndObserveColorNodeID(COLORS)
            node.GetDisplayNode().SetAutoWindowLevel(False)
            node.GetDisplayNode().SetAutoThreshold(False)
            node.GetDisplayNode().SetApplyThreshold(True)
            slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(node).SetLabelFormat("%.3g")
            Record.attach(self.evidence.transformNode, OVERLAY_ROLE, node)
        return node

    def _fill(
        self, node: slicer.vtkMRMLScalarVolumeNode, image: vtk.vtkImageData, ijkToRas: np.ndarray, largest: float
    ) -> None:
        with slicer.util.NodeModify(node):
            node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijkToRas))
            node.SetAndObserveImageData(image)
            parent = self._deformation.moving.GetTransformNodeID() if self._chosen.image == "moving" else None
            node.SetAndObserveTransformNodeID(parent)
        display, largest = node.GetDisplayNode(), max(largest, 1e-6)
        with slicer.util.NodeModify(display):
            display.SetWindowLevelMinMax(0.0, largest)
            average = 1.0 if self._chosen.kind == LOOK else 0.0
            display.SetThreshold(max(HIDDEN_SHARE * largest, average), 2 * largest)
        legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node)
        if legend is not None:
            legend.SetTitleText(_("times the average") if self._chosen.kind == LOOK else self._chosen.label())
        if not self._views:  # which could not draw it before
            self._showInViews()

    def _model(self) -> slicer.vtkMRMLModelNode:
        """Return the model of the Gaussians, made on first use."""
        node = Record.attached(self.evidence.transformNode, ELLIPSOIDS_ROLE)
        if node is None:
            name = _("{name} Gaussians").format(name=self._deformation.name)
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", name)
            node.CreateDefaultDisplayNodes()
            Ellipsoids.style(node.GetDisplayNode())
            Record.attach(self.evidence.transformNode, ELLIPSOIDS_ROLE, node)
        return node

    def _showInViews(self) -> None:
        isMoving = self._chosen.image == "moving"
        below = self._deformation.moving if isMoving else self._deformation.fixed
        for view in [self._movingView()] if isMoving else self._fixedViews():
            self._views.append(ViewState(view))
            self._views[-1].show(Shown(below, self._overlay(), OPACITY))

    def _fixedViews(self) -> list[slicer.vtkMRMLSliceCompositeNode]:
        """Return the views that the fixed volume may be shown in: its own, or else all."""
        panes = [view for view in compositeNodes() if view.GetLayoutName() == FIXED_PANE and _isVisible(view)]
        return panes or compositeNodes()

    def _movingView(self) -> slicer.vtkMRMLSliceCompositeNode:
        """Return the view of the moving volume: its own, one that it is shown in, or else the second one."""
        views, moving = compositeNodes(), self._deformation.moving.GetID()
        return next(
            (
                view
                for isFit in (
                    lambda view: view.GetLayoutName() == MOVING_PANE and _isVisible(view),
                    lambda view: view.GetBackgroundVolumeID() == moving,
                    lambda view: view.GetLayoutName() == SECOND_VIEW,
                )
                for view in views
                if isFit(view)
            ),
            views[-1],
        )

    def _jump(self, pointRas: np.ndarray) -> None:
        """Let the view of the moving volume show the plane through a point."""
        for view in compositeNodes():
            if view.GetForegroundVolumeID() == self._overlay().GetID():
                place = self._places.setdefault(view.GetID(), SlicePlace(present(sliceNodeOf(view))))
                place.jump(pointRas)

    def _toWorld(self, pointRas: np.ndarray) -> np.ndarray:
        """Return a point of the moving volume, below its parent transform, in the world."""
        result = [0.0, 0.0, 0.0]
        self._deformation.moving.TransformPointToWorld(pointRas.tolist(), result)
        return np.array(result)

    def _sightOf(self, layer: str, tokens: Geometry) -> _Sight:
        """Return how the attention that is shown is drawn; the same again is not computed anew."""
        recursion = self.evidence.attending(layer)
        if self._sight is not None and self._sight.key == (recursion, layer):
            return self._sight
        # Each recursion sees the moving volume as the one before has warped it.
        warp = self.evidence.steps.GetNthDataNode(recursion - 1).GetTransformFromParent()
        matrix = vtk.vtkMatrix4x4()
        self._deformation.moving.GetIJKToRASMatrix(matrix)
        size = self._deformation.moving.GetImageData().GetDimensions()
        grid = Geometry.from_ijk_to_ras(slicer.util.arrayFromVTKMatrix(matrix), size).coarsened(HEAT_VOXELS)
        seen = flip_lps_ras(_moved(warp.GetInverse(), _positionsRas(grid)))
        index = tokens.lps_to_index(seen)
        isSeen = np.all((index > -0.5) & (index < np.array(tokens.size) - 0.5), axis=1)
        self._sight = _Sight((recursion, layer), _moved(warp, _positionsRas(tokens)), grid, seen, isSeen)
        return self._sight


def _isVisible(view: slicer.vtkMRMLSliceCompositeNode) -> bool:
    node = sliceNodeOf(view)
    return node is not None and bool(node.IsMappedInLayout())


def _positionsRas(grid: Geometry) -> np.ndarray:
    """Return the voxel centers (N, 3) of a grid in array order."""
    return flip_lps_ras(np.concatenate([points for _slab, points in fields.grid_slabs(grid)]))


def _moved(transform: vtk.vtkAbstractTransform, pointsRas: np.ndarray) -> np.ndarray:
    """Return where a transform puts points (N, 3)."""
    given, found = vtk.vtkPoints(), vtk.vtkPoints()
    given.SetData(numpy_to_vtk(np.ascontiguousarray(pointsRas, np.float64)))
    found.SetDataTypeToDouble()
    transform.TransformPoints(given, found)
    return vtk_to_numpy(found.GetData()).copy()


def _thicknessOf(volume: slicer.vtkMRMLScalarVolumeNode) -> float:
    """Return the largest spacing of a volume in mm."""
    return max(volume.GetSpacing())
