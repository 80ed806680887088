"""The tool of the panel that shows maps of a deformation over the fixed volume."""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol.reporting import Pause

from ...evidence import Maps
from ...nodes import ErrorBound, Overlays, Record
from ...nodes.Deformation import Deformation
from ...nodes.Overlays import Map, Measure
from ...Parameters import DeepAttentionRegParameterNode
from ...tasks import Results
from ...views import MapView
from .. import Arguments, Parts
from ..RunSection import RunSection
from .InspectionTool import InspectionTool

BUTTONS = {
    Map.JACOBIAN: "jacobianMapButton",
    Map.LOG_JACOBIAN: "logJacobianMapButton",
    Map.MAGNITUDE: "displacementMapButton",
    Map.SIMILARITY_BEFORE: "similarityBeforeMapButton",
    Map.SIMILARITY_AFTER: "similarityAfterMapButton",
    Map.INCONSISTENCY: "inconsistencyMapButton",
    Map.UNCERTAINTY: "uncertaintyMapButton",
    Map.ERROR: "errorMapButton",
    Map.CHANGE: "changeMapButton",
}
FOLDS_BUTTON = "foldsMapButton"
THRESHOLDS = {
    Measure.VOLUME: ("thresholdVolumeSlider", "inspectThresholdVolume"),
    Measure.MILLIMETERS: ("thresholdMmSlider", "inspectThresholdMm"),
    Measure.SIMILARITY: ("thresholdSimilaritySlider", "inspectThresholdSimilarity"),
    Measure.CERTAINTY: ("thresholdCertaintySlider", "inspectThresholdCertainty"),
}


# The styles themselves draw a pressed button hardly different, least of all dark ones.
PRESSED = (
    "background: palette(highlight); color: palette(highlighted-text);"
    " border: 1px solid palette(dark); border-radius: 2px; padding: 3px;"
)


class MapsTool(InspectionTool):
    """Shows one map at a time, and the folds over it."""

    def __init__(self, ui: SimpleNamespace, run: RunSection, logic: Any) -> None:
        """Connect the widgets; parameters as `InspectionTool`."""
        super().__init__(ui, run, logic)
        self._view = MapView.MapView()
        self._shown: Map | None = None
        self._node = Results.NodeReference(None)
        self._transform = Results.NodeReference(None)
        for kind, name in BUTTONS.items():
            self._connect(name, functools.partial(self.onMap, kind))
        self._connect(FOLDS_BUTTON, self.onFolds)
        # While they are dragged; a choice, which has the whole panel updated, is made when they are let go.
        ui.mapOpacitySlider.connect("valueIsChanging(double)", lambda percent: self._view.setOpacity(percent / 100))
        for name, _parameter in THRESHOLDS.values():
            getattr(ui, name).connect("valueIsChanging(double)", lambda threshold: self._hideLess(threshold))

    def _connect(self, name: str, slot: Callable[[bool], None]) -> None:
        button = getattr(self._ui, name)
        button.connect("clicked(bool)", lambda: slot(button.checked))

    def follow(self, parameters: DeepAttentionRegParameterNode | None) -> None:
        """Take other choices; None lets the views show what they did before."""
        if parameters is None:
            self._close()
        super().follow(parameters)

    def update(self, problem: str) -> None:
        """Show what is shown, and what can be."""
        if problem or self._transform.get() is not self.chosen.inspected:
            self._close()
        if self._shown is not None and self._node.get() is None:
            self._hide()
        ui = self._ui
        self.offer([*BUTTONS.values(), FOLDS_BUTTON], problem)
        if not problem and Maps.of(self.deformation(), Map.UNCERTAINTY) is None:
            self.offer([BUTTONS[Map.UNCERTAINTY]], _missingUncertainty())
        if not problem and Maps.of(self.deformation(), Map.ERROR) is None:
            self.offer([BUTTONS[Map.ERROR]], _missingError(self.deformation()))
        for kind, name in BUTTONS.items():
            _press(getattr(ui, name), kind is self._shown)
        _press(getattr(ui, FOLDS_BUTTON), self._view.marksFolds)
        shown = self._shown
        for item, (name, _parameter) in THRESHOLDS.items():
            Parts.setVisible(
                (getattr(ui, name), getattr(ui, f"{name}Label")), shown is not None and item is shown.measure
            )
        Parts.setVisible((ui.mapOpacitySlider, ui.mapOpacitySliderLabel), shown is not None)
        folds = _("Marked: where the deformation folds.") if self._view.marksFolds else ""
        Parts.putText(ui.mapsLabel, " ".join(text for text in (_explanation(shown), folds) if text))
        ui.mapsLabel.visible = bool(ui.mapsLabel.text)
        if shown is not None:
            self._hideLess(getattr(self.chosen, THRESHOLDS[shown.measure][1]))
            self._view.setOpacity(self.chosen.inspectMapOpacity / 100)

    def onMap(self, kind: Map, isWanted: bool) -> None:
        """Show a map, or what was there before it."""
        if not isWanted:
            self._hide()
            self._tell("")
            return
        deformation = self.attempt(self.deformation)
        if deformation is None:
            return
        if kind is Map.INCONSISTENCY and Maps.backwardOf(deformation) is None:
            self._registerBack(deformation)
            return
        shown = functools.partial(self._onMap, deformation, kind)
        self.work(lambda pause: _node(deformation, kind, pause), shown)

    def _onMap(self, deformation: Deformation, kind: Map, node: slicer.vtkMRMLScalarVolumeNode) -> None:
        if self._parameters is not None:
            self._show(deformation, kind, node)
        self._tell(_summary(kind, node))

    def onFolds(self, isWanted: bool) -> None:
        """Mark the folds, or no longer."""
        if not isWanted:
            self._view.hideFolds()
            self._tell("")
            return
        deformation = self.attempt(self.deformation)
        if deformation is not None:
            shown = functools.partial(self._onFolds, deformation)
            self.work(lambda pause: Maps.createFolds(deformation, pause), shown)

    def _onFolds(self, deformation: Deformation, node: slicer.vtkMRMLLabelMapVolumeNode) -> None:
        if self._parameters is not None:
            self._transform = Results.NodeReference(deformation.transformNode)
            self._view.showFolds(node)
        count, percent = Maps.countFolds(node)
        text = _("{count} voxels are folded ({percent:.2f} %).") if count else _("No voxel is folded.")
        self._tell(text.format(count=count, percent=percent))

    def _registerBack(self, deformation: Deformation) -> None:
        make = functools.partial(Maps.BackwardRegistration, deformation, Arguments.usable(self.chosen))
        self._run.start(self._logic.run, make, onProgress=self._run.show, onFinished=self._onBackward)

    def _onBackward(self, _node: slicer.vtkMRMLTransformNode) -> None:
        if self._parameters is None:
            self._tell(_("The registration the other way round is there; show its map in the panel."))
        else:
            self.onMap(Map.INCONSISTENCY, True)

    def _show(self, deformation: Deformation, kind: Map, node: slicer.vtkMRMLScalarVolumeNode) -> None:
        self._shown, self._node = kind, Results.NodeReference(node)
        self._transform = Results.NodeReference(deformation.transformNode)
        self._view.show(deformation, node, self.chosen.inspectMapOpacity / 100)

    def _hideLess(self, threshold: float) -> None:
        node = self._node.get()
        if node is not None and self._shown is not None:
            Overlays.hideUnremarkable(node, self._shown, threshold)

    def _hide(self) -> None:
        self._shown, self._node = None, Results.NodeReference(None)
        self._view.hide()

    def _close(self) -> None:
        self._hide()
        self._view.close()


def _press(button: Any, isPressed: bool) -> None:
    button.checked = isPressed
    style = PRESSED if isPressed else ""
    if button.styleSheet != style:
        button.styleSheet = style


def _node(deformation: Deformation, kind: Map, pause: Pause) -> slicer.vtkMRMLScalarVolumeNode:
    """Return a map, computed anew where that takes no registration.

    :raises ValueError: if it cannot be; says why.
    """
    if kind not in (Map.UNCERTAINTY, Map.ERROR):
        return Maps.create(deformation, kind, pause)
    node = Maps.of(deformation, kind)
    if node is None:
        raise ValueError(_missingUncertainty() if kind is Map.UNCERTAINTY else _missingError(deformation))
    return node


def _missingUncertainty() -> str:
    return _("Estimate the uncertainty first, below.")


def _missingError(deformation: Deformation) -> str:
    """Return why a deformation has no map of its error, as a sentence."""
    verdict = ErrorBound.verdictOf(Record.recall(deformation.transformNode).values)
    if verdict is not None and not verdict.kind and verdict.sentence:
        return verdict.sentence
    return _("There is no map of the error; register again to get one.")


def _explanation(kind: Map | None) -> str:
    """Return how to read a map, in a sentence."""
    jacobian = _("Red: moving tissue is shrunk into the fixed volume. Blue: it is stretched.")
    similarity = _("The darker, the less alike the volumes are there.")
    return {
        None: "",
        Map.JACOBIAN: jacobian,
        Map.LOG_JACOBIAN: jacobian,
        Map.MAGNITUDE: _("The darker, the farther the tissue is moved."),
        Map.SIMILARITY_BEFORE: similarity,
        Map.SIMILARITY_AFTER: similarity,
        Map.INCONSISTENCY: _("The darker, the less the two directions agree: at most one of them is right there."),
        Map.UNCERTAINTY: _("The darker, the more the result depends on noise and position. No bound of the error."),
        Map.ERROR: _(
            "With 95 % probability the true place lies within so many mm. Stands for calibrated methods only."
        ),
        Map.CHANGE: _("The darker, the surer that it has no counterpart: the deformation means nothing there."),
    }[kind]


def _summary(kind: Map, node: slicer.vtkMRMLScalarVolumeNode) -> str:
    """Return what a map says as a whole, in a sentence."""
    if kind is Map.CHANGE:
        size, unit = Maps.changedSize(node)
        text = _("{size:.3g} {unit} of the fixed volume have no counterpart; the deformation means nothing there.")
        unchanged = _("Everything in the fixed volume seems to have a counterpart.")
        return text.format(size=size, unit=unit) if size else unchanged
    array = slicer.util.arrayFromVolume(node)
    low, middle, high = np.percentile(array, (5, 50, 95))
    text = _("{map}: median {middle:.2f}, 90 % of the voxels between {low:.2f} and {high:.2f}.")
    return text.format(map=kind.label(), low=low, middle=middle, high=high)
