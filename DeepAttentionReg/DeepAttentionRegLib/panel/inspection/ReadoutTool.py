"""The tool of the panel that says what a deformation does at the point under the cursor."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from slicer.i18n import tr as _

from ...evidence import Readout
from ...nodes.Present import present
from ...Parameters import DeepAttentionRegParameterNode
from ...views import Layers, ViewStates
from .. import Parts
from ..RunSection import RunSection
from .InspectionTool import Cursor, InspectionTool


class ReadoutTool(InspectionTool):
    """Writes into its own label and marks the corresponding point, as often as the cursor moves."""

    def __init__(self, ui: SimpleNamespace, run: RunSection, logic: Any) -> None:
        """Take the widgets; parameters as `InspectionTool`."""
        super().__init__(ui, run, logic)
        self._mark = Readout.Mark()
        self._cursor = Cursor(self.onCursor)

    def follow(self, parameters: DeepAttentionRegParameterNode | None) -> None:
        """Take other choices; None lets go of the cursor and removes the mark."""
        if parameters is None:
            self._close()
        super().follow(parameters)

    def update(self, problem: str) -> None:
        """Follow the cursor if that was chosen."""
        ui, isOn = self._ui, self.chosen.inspectReadout and not problem
        self.offer(["readoutCheckBox"], problem)
        ui.readoutLabel.visible = isOn
        if isOn:
            self._cursor.follow(True)
            self.onCursor()
        else:
            self._close()

    def onCursor(self) -> None:
        """Say what is under the cursor, and mark the corresponding point."""
        point = self._cursor.position()
        if point is None:
            self._clear(_("Point at something in a slice view."))
            return
        try:
            deformation = self.deformation()
        except ValueError as reason:  # a volume has just been removed
            self._clear(str(reason))
            return
        here = self._cursor.viewName()
        views = Layers.compositeNodes()
        alone = {view.GetLayoutName() for view in views if Readout.showsMovingAlone(view, deformation)}
        isMoving = here in alone
        fixed = Readout.fixedPointOf(deformation, point) if isMoving else np.array(point)
        reading = None if fixed is None else Readout.read(deformation, fixed)
        if reading is None:
            self._clear(_("The deformation is not known here."))
            return
        Parts.putText(self._ui.readoutLabel, Readout.describe(reading, deformation))
        there = reading.point if isMoving else reading.origin
        others = [view for view in views if Readout.showsMoving(view, deformation) != isMoving]
        self._mark.show(there, others)
        for view in others if self.chosen.inspectJump else ():
            if isMoving or view.GetLayoutName() in alone:
                present(ViewStates.sliceNodeOf(view)).JumpSliceByOffsetting(*there)

    def _clear(self, text: str) -> None:
        Parts.putText(self._ui.readoutLabel, text)
        self._mark.hide()

    def _close(self) -> None:
        self._cursor.follow(False)
        self._mark.close()
