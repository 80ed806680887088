"""The tool of the panel that corrects a deformation by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.landmarks.mending import Mended

from ...evidence import Corrections, Readout
from ...nodes import Deformation, Record
from ...nodes.Present import present
from ...Parameters import DeepAttentionRegParameterNode
from ...views import Layers
from ...views.Placing import Placing
from ...views.WarpedView import WarpedView
from .. import Parts
from ..RunSection import RunSection
from .InspectionTool import Cursor, InspectionTool

NOTE = _("Corrected by hand after the registration, whose figures are those of before.")
BUTTONS = ("correctButton", "correctionReachSlider")


class CorrectionTool(InspectionTool):
    """Lets the user place pairs of points, mends the deformation at once, and goes back and forth."""

    def __init__(self, ui: SimpleNamespace, run: RunSection, logic: Any) -> None:
        """Connect the widgets; parameters as `InspectionTool`."""
        super().__init__(ui, run, logic)
        self._corrections: Corrections.Corrections | None = None
        self._mended: Mended | None = None
        self._shown: tuple[float, bool] | None = None  # the reach, and whether the corrections are shown
        self._view: WarpedView | None = None
        self._cursor = Cursor(lambda: None)
        self._dragged = slicer.util.VTKObservationMixin()
        self._placing = Placing(self.onFirst, self.onBoth)
        ui.correctButton.connect("clicked(bool)", self.onCorrect)
        ui.undoCorrectionButton.connect("clicked(bool)", lambda: self._step("undo"))
        ui.redoCorrectionButton.connect("clicked(bool)", lambda: self._step("redo"))

    def follow(self, parameters: DeepAttentionRegParameterNode | None) -> None:
        """Take other choices; None lets go of the scene, and lets the views show what they did before."""
        if parameters is None:
            self._close()
        super().follow(parameters)

    def update(self, problem: str) -> None:
        """Offer what can be done, and show the deformation with the corrections or without, as was chosen."""
        ui, corrections = self._ui, self._corrections
        if corrections is not None and (problem or corrections.node is not self.chosen.inspected):
            self._close()
            corrections = None
        self.offer(BUTTONS, problem)
        missing = problem or ("" if corrections else _("Correct a place first."))
        self.offer(["correctedCheckBox"], missing)
        missing = missing or ("" if present(corrections).canUndo else _("There is nothing to take back."))
        self.offer(["undoCorrectionButton"], missing)
        missing = problem or ("" if corrections and corrections.canRedo else _("Nothing was taken back."))
        self.offer(["redoCorrectionButton"], missing)
        if corrections is not None:
            self._showAgain(corrections)
        text = "" if corrections is None or self._mended is None else self._text(corrections, self._mended)
        Parts.putText(ui.correctionsLabel, text)
        ui.correctionsLabel.visible = bool(text)

    def onCorrect(self) -> None:
        """Let the user place a pair of points."""
        if self._corrections is None:
            self._corrections = self.attempt(lambda: Corrections.Corrections(self.deformation()))
        if self._corrections is None:
            return
        self._showWarped(self.deformation())
        self._placing.start(_("Correction"))
        self._tell(_("Click on a place of the fixed volume where the moving one does not fit."))

    def onFirst(self) -> None:
        """Ask for the second point."""
        self._tell(_("Now click where the same is seen: on the warped volume, or on the moving volume alone."))

    def onBoth(self, place: np.ndarray, seen: np.ndarray) -> None:
        """Correct the deformation by two points."""
        deformation = self.deformation()
        here = self._cursor.viewName()
        views = [view for view in Layers.compositeNodes() if view.GetLayoutName() == here]
        onMoving = any(Readout.showsMovingAlone(view, deformation) for view in views)
        corrections = present(self._corrections)
        self._take(lambda: corrections.add(place, seen, self.chosen.inspectReach, onMoving=onMoving))

    def onDragged(self, caller: object = None, event: object = None) -> None:
        """Follow a point that was dragged."""
        corrections = present(self._corrections)
        self._take(lambda: corrections.follow(self.chosen.inspectReach))

    def _step(self, name: str) -> None:
        """Take a step back, or do it again."""
        step = getattr(present(self._corrections), name)
        self._take(lambda: step(self.chosen.inspectReach))

    def _take(self, step: Any) -> None:
        """Take a step and tell what came of it."""
        mended = self.attempt(step)
        if mended is None:
            return
        corrections, chosen = present(self._corrections), self.chosen
        self._mended, self._shown = mended, (chosen.inspectReach, True)
        chosen.inspectCorrected = True
        Record.addWarning(present(corrections.node), NOTE)
        self._guideNext(corrections)
        self._followDragging(corrections)
        self._tell(self._text(corrections, mended) or _("There are no corrections."))

    def _guideNext(self, corrections: Corrections.Corrections) -> None:
        """Let the next registration start from the pairs, unless other landmarks were chosen for it."""
        chosen = self.chosen
        lists = corrections.lists()
        known = (chosen.fixedLandmarks, chosen.movingLandmarks)
        if known == (None, None):
            chosen.fixedLandmarks, chosen.movingLandmarks = lists
            known = lists
        if known == lists:
            chosen.guided = len(corrections.read().places) > 0

    def _followDragging(self, corrections: Corrections.Corrections) -> None:
        self._dragged.removeObservers()
        for node in map(present, corrections.lists()):
            self._dragged.addObserver(node, node.PointEndInteractionEvent, self.onDragged)

    def _showAgain(self, corrections: Corrections.Corrections) -> None:
        """Show another reach, or the deformation without corrections, if that is chosen now."""
        wanted = self.chosen.inspectReach, self.chosen.inspectCorrected
        if self._mended is None or wanted == self._shown:
            return
        self._shown = wanted
        if wanted[1]:
            self._mended = corrections.again(wanted[0])
        else:
            corrections.showWithout()

    def _text(self, corrections: Corrections.Corrections, mended: Mended) -> str:
        return Corrections.describe(mended, len(corrections.read().places))

    def _showWarped(self, deformation: Deformation.Deformation) -> None:
        """Show the moving volume as it is warped now, over the fixed one."""
        if self._view is None:
            self._view = WarpedView(deformation.fixed, deformation.moving, _("corrected"))
            self._view.show(deformation.transformNode)

    def _close(self) -> None:
        """Let go of the deformation, as it is corrected now."""
        self._placing.stop()
        self._dragged.removeObservers()
        if self._view is not None:
            self._view.close()
        self._corrections = self._mended = self._shown = self._view = None
