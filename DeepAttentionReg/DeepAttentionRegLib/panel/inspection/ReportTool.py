"""The tool of the panel that writes a report on a deformation."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol.reporting import Pause

from ...report import Content, Report
from .. import Parts
from ..RunSection import RunSection
from .InspectionTool import InspectionTool

VIEWS = ("Red", "Yellow", "Green")


class ReportTool(InspectionTool):
    """Asks for a file, writes it and opens it."""

    def __init__(self, ui: SimpleNamespace, run: RunSection, logic: Any) -> None:
        """Connect the widgets; parameters as `InspectionTool`."""
        super().__init__(ui, run, logic)
        self._written: Path | None = None
        ui.writeReportButton.connect("clicked(bool)", self.onWrite)
        ui.openReportButton.connect("clicked(bool)", self.onOpen)

    def update(self, problem: str) -> None:
        """Say whether a report can be written."""
        self.offer(["writeReportButton"], problem or Content.check(self.deformation()))
        isThere = self._written is not None and self._written.is_file()
        self.offer(["openReportButton"], "" if isThere else _("Write a report first."))

    def onWrite(self) -> None:
        """Write a report where the user wants it."""
        chosen = self.chosen
        suggestion = re.sub(r'[<>:"/\\|?*]+', "_", chosen.inspected.GetName()) + Report.SUFFIXES[0]
        path = Parts.chooseNewFile(_("Write report"), suggestion, _("Web pages (*.html)"))
        if not path:
            return
        if not path.lower().endswith(Report.SUFFIXES):
            path += Report.SUFFIXES[0]
        point = crossing() if chosen.inspectReportViews else None
        pdf = chosen.inspectReportPdf

        def write(pause: Pause) -> list[Path]:
            return Report.write(self.deformation(), path, pdf=pdf, pointRas=point, pause=pause)

        self.work(write, self._onWritten)

    def _onWritten(self, written: list[Path]) -> None:
        self._written = written[0]
        names = ", ".join(part.name for part in written)
        self._tell(_("Wrote {names} to {folder}.").format(names=names, folder=written[0].parent))

    def onOpen(self) -> None:
        """Show the report written last."""
        import qt

        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self._written)))


def crossing() -> np.ndarray | None:
    """Return the point (3,), RAS mm, where the three slice views cross; None if they do not."""
    nodes = slicer.util.getNodesByClass("vtkMRMLSliceNode")
    planes = [slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS()) for node in nodes if node.GetLayoutName() in VIEWS]
    normals = np.array([plane[:3, 2] for plane in planes])
    if normals.shape != (3, 3) or abs(np.linalg.det(normals)) < 1e-3:
        return None
    return np.linalg.solve(normals, [plane[:3, 2] @ plane[:3, 3] for plane in planes])
