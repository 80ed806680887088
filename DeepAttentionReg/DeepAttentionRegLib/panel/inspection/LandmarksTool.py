"""The tool of the panel that measures landmarks before and after a deformation."""

from types import SimpleNamespace
from typing import Any

from slicer.i18n import tr as _

from ...evidence import Landmarks
from .. import Parts
from ..RunSection import RunSection
from .InspectionTool import TableTool


class LandmarksTool(TableTool):
    """Makes the arrows and the table, and shows of them what is chosen."""

    def __init__(self, ui: SimpleNamespace, run: RunSection, logic: Any) -> None:
        """Connect the widgets; parameters as `InspectionTool`."""
        super().__init__(ui, run, logic)
        ui.measureLandmarksButton.connect("clicked(bool)", self.onMeasure)
        ui.landmarksTableButton.connect("clicked(bool)", lambda: self.showTable(Landmarks.TABLE_ROLE))

    def update(self, problem: str) -> None:
        """Say whether landmarks can be measured, and show what is chosen of those that have been."""
        ui, chosen = self._ui, self.chosen
        deformation = None if problem else self.deformation()
        if deformation is not None:
            problem = Landmarks.checkLandmarks(deformation, chosen.fixedLandmarks, chosen.movingLandmarks)
        self.offer(["measureLandmarksButton"], problem)
        text = "" if deformation is None else Landmarks.describe(deformation)
        missing = "" if text else problem or _("Measure the landmarks first.")
        self.offer(["landmarksMomentComboBox", "landmarksTableButton"], missing)
        Parts.putText(ui.landmarksLabel, text)
        ui.landmarksLabel.visible = bool(text)
        if text:
            self.showOnce(Landmarks.show, deformation, chosen.inspectLandmarks.value)

    def onMeasure(self) -> None:
        """Measure the landmarks."""
        chosen = self.chosen
        self.make(
            lambda _pause: Landmarks.create(
                Landmarks.measure(self.deformation(), chosen.fixedLandmarks, chosen.movingLandmarks)
            )
        )
