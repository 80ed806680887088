"""The tool of the panel that compares the volumes of a deformation in the slice views."""

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import slicer
from slicer.i18n import tr as _

from ...engine.Ticker import Ticker
from ...Parameters import DeepAttentionRegParameterNode
from ...views import Comparison, Layouts, ViewStates
from ...views.ComparisonModes import Arrangement, Mode
from .. import Parts
from ..RunSection import RunSection
from .InspectionTool import Cursor, InspectionTool

TICK_MS = 40  # 25 pictures a second look smooth
CHOICES = ("arrangementComboBox", "comparisonComboBox", "layerComboBox")
# Widgets that have a label, by the modes in which they mean something.
LABELED = {
    "layerComboBox": set(Mode) - {Mode.OFF},
    "fadeSlider": {Mode.FADE},
    "rateSlider": set(Comparison.ALTERNATING),
    "tileSlider": {Mode.CHECKERBOARD},
    "dividerComboBox": {Mode.REVEAL},
    "revealSlider": {Mode.REVEAL},
}
UNLABELED = {"followCheckBox": {Mode.REVEAL}, "absoluteCheckBox": {Mode.DIFFERENCE}}


class ViewsTool(InspectionTool):
    """Shows what was chosen as long as the module is open."""

    def __init__(self, ui: SimpleNamespace, run: RunSection, logic: Any) -> None:
        """Take the widgets; parameters as `InspectionTool`."""
        super().__init__(ui, run, logic)
        self._comparison: Comparison.Comparison | None = None
        self._options: Comparison.ComparisonOptions | None = None
        self._layout = Layouts.Layout()
        self._cursor = Cursor(self.onCursor)
        self._time = 0.0
        self._ticker = Ticker(TICK_MS)
        # While they are dragged; a choice, which has the whole panel updated, is made when they are let go.
        ui.fadeSlider.connect("valueIsChanging(double)", lambda percent: self.onDrag(opacity=percent / 100))
        ui.revealSlider.connect("valueIsChanging(double)", lambda percent: self.onDrag(position=percent / 100))

    def follow(self, parameters: DeepAttentionRegParameterNode | None) -> None:
        """Take other choices; None lets the views show what they did before."""
        if parameters is None:
            self._close()
        super().follow(parameters)

    def update(self, problem: str) -> None:
        """Show what was chosen, and offer what can be chosen."""
        mode = self.chosen.inspectComparison
        reason = ""
        if problem:
            self._close()
        else:
            reason = self._show()
        ui = self._ui
        self.offer(CHOICES, problem)
        for name, modes in LABELED.items():
            Parts.setVisible((getattr(ui, name), getattr(ui, f"{name}Label")), mode in modes)
        for name, modes in UNLABELED.items():
            getattr(ui, name).visible = mode in modes
        isSideBySide = self.chosen.inspectArrangement is Arrangement.SIDE_BY_SIDE
        ui.linkedCheckBox.visible = isSideBySide or mode is not Mode.OFF
        ui.revealSlider.enabled = not self.chosen.inspectFollow
        Parts.putText(ui.comparisonLabel, reason or _explanation(mode, self.chosen.inspectAbsolute))
        ui.comparisonLabel.visible = bool(ui.comparisonLabel.text)

    def onTick(self) -> None:
        """Let a rock or flicker go on."""
        now = time.monotonic()
        if self._comparison is not None:
            self._comparison.step(now - self._time, self.chosen.inspectRate)
        self._time = now

    def onDrag(self, **changes: Any) -> None:
        """Show what a slider is at while it is dragged.

        :param changes: those to the options of the comparison.
        """
        if self._comparison is not None and self._options is not None:
            self._comparison.show(replace(self._options, **changes))

    def onCursor(self) -> None:
        """Move the divider to the cursor."""
        point = self._cursor.position()
        if point is not None and self._comparison is not None:
            self._comparison.revealAt(point)

    def _show(self) -> str:
        """Show what was chosen and return why that is not possible, if so."""
        import qt

        chosen, deformation = self.chosen, self.deformation()
        options = Comparison.ComparisonOptions(
            mode=chosen.inspectComparison,
            layer=chosen.inspectLayer,
            opacity=chosen.inspectFade / 100,
            tileMm=chosen.inspectTile,
            divider=chosen.inspectDivider,
            position=chosen.inspectReveal / 100,
            isAbsolute=chosen.inspectAbsolute,
            isLinked=chosen.inspectLinked,
        )
        if self._comparison is not None and self._comparison.deformation != deformation:
            self._comparison.close()
            self._comparison = None
        self._comparison = comparison = self._comparison or Comparison.Comparison(deformation)
        isNewLayout = self._layout.show(chosen.inspectArrangement)
        reason = self._compare(comparison, options)
        if isNewLayout:
            ViewStates.turnPanes(deformation.fixed)
            # New views have no size before, and would be fitted to that of their node.
            slicer.app.processEvents(qt.QEventLoop.ExcludeUserInputEvents)
            slicer.util.resetSliceViews()
        self._follow(options.mode, not reason)
        return reason

    def _compare(self, comparison: Comparison.Comparison, options: Comparison.ComparisonOptions) -> str:
        before, self._options = self._options, options
        # What a slider changes must be quick, and a cursor that flickers meanwhile is none that waits.
        isQuick = before is not None and replace(options, opacity=before.opacity, position=before.position) == before
        try:
            with slicer.util.tryWithErrorDisplay(show=False, waitCursor=not isQuick):
                comparison.show(options)
        except ValueError as reason:
            comparison.close()
            return str(reason)
        return ""

    def _follow(self, mode: Mode, isShown: bool) -> None:
        """Observe the time or the cursor, where the mode needs that."""
        self._cursor.follow(isShown and mode is Mode.REVEAL and self.chosen.inspectFollow)
        isAlternating = isShown and mode in Comparison.ALTERNATING
        if not isAlternating:
            self._ticker.stop()
        elif not self._ticker.isRunning:
            self._time = time.monotonic()
            self._ticker.start(self.onTick)

    def _close(self) -> None:
        self._ticker.stop()
        self._cursor.follow(False)
        if self._comparison is not None:
            self._comparison.close()
        self._comparison = self._options = None
        self._layout.close()


def _explanation(mode: Mode, isAbsolute: bool) -> str:
    if mode is Mode.FUSION:
        return _("Fixed is green, moving is magenta; where both are equally bright it is gray.")
    if mode is not Mode.DIFFERENCE:
        return ""
    matching = _("Equal is what the windows of the two volumes show equally bright.")
    if isAbsolute:
        return matching
    return _("Orange: the moving volume is brighter than the fixed one. Blue: it is darker.") + " " + matching
