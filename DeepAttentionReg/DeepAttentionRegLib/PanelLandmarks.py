"""The tool of the panel that measures landmarks before and after a deformation."""

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import slicer
from slicer.i18n import tr as _

from . import Landmarks, Metrics, Record
from .InspectionTool import InspectionTool
from .Parameters import DeepAttentionRegParameterNode


class LandmarksTool(InspectionTool):
    """Makes the arrows and the table, and shows of them what is chosen."""

    def __init__(self, ui: SimpleNamespace, tell: Callable[[str], None], logic: Any) -> None:
        """Connect the widgets; parameters as `InspectionTool`."""
        super().__init__(ui, tell, logic)
        self._shown: tuple[object, ...] | None = None
        self._toolTip = ui.measureLandmarksButton.toolTip
        ui.measureLandmarksButton.connect("clicked(bool)", self.onMeasure)
        ui.landmarksTableButton.connect("clicked(bool)", self.onTable)

    def follow(self, parameters: DeepAttentionRegParameterNode | None) -> None:
        """Take other choices."""
        super().follow(parameters)
        self._shown = None

    def update(self, problem: str) -> None:
        """Say whether landmarks can be measured, and show what is chosen of those that have been."""
        ui, chosen = self._ui, self._parameters
        subject = None if problem else self.subject()
        if subject is not None:
            problem = Landmarks.checkLandmarks(subject, chosen.fixedLandmarks, chosen.movingLandmarks)
        ui.measureLandmarksButton.enabled = not problem
        ui.measureLandmarksButton.toolTip = problem or self._toolTip
        text = "" if subject is None else Landmarks.describe(subject)
        for widget in (ui.landmarksMomentComboBox, ui.landmarksTableButton):
            widget.enabled = bool(text)
        ui.landmarksLabel.text = text
        ui.landmarksLabel.visible = bool(text)
        # What has been shown once may have been changed elsewhere since.
        if text and self._shown != (subject, chosen.inspectLandmarks):
            self._shown = subject, chosen.inspectLandmarks
            Landmarks.show(subject, chosen.inspectLandmarks.value)

    def onMeasure(self) -> None:
        """Measure the landmarks."""
        chosen = self._parameters
        try:
            with slicer.util.tryWithErrorDisplay(show=False, waitCursor=True):
                measurement = Landmarks.measure(self.subject(), chosen.fixedLandmarks, chosen.movingLandmarks)
                nodes = Landmarks.create(measurement)
        except Exception as error:
            logging.exception("The landmarks could not be measured")
            self._tell(str(error))
            return
        self._shown = None
        text = _('Wrote "{table}". {warnings}').format(
            table=nodes.table.GetName(), warnings=" ".join(measurement.warnings)
        )
        self._tell(text.strip())

    def onTable(self) -> None:
        """Show the table."""
        Metrics.showTable(Record.attached(self.subject().transformNode, Landmarks.TABLE_ROLE))
