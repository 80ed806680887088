"""The section of the panel that judges a deformation: which one, and the tools to do it with."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import slicer

from ..nodes import Deformation, ErrorBound, Record
from ..Parameters import DeepAttentionRegParameterNode
from . import Parts
from .inspection.AttentionTool import AttentionTool
from .inspection.CorrectionTool import CorrectionTool
from .inspection.InspectionTool import InspectionTool
from .inspection.LandmarksTool import LandmarksTool
from .inspection.MapsTool import MapsTool
from .inspection.ReadoutTool import ReadoutTool
from .inspection.RecursionsTool import RecursionsTool
from .inspection.ReportTool import ReportTool
from .inspection.SegmentsTool import SegmentsTool
from .inspection.UncertaintyTool import UncertaintyTool
from .inspection.ViewsTool import ViewsTool
from .RunSection import RunSection

# Each tool has a form of its own, Resources/UI/<name>.ui; in the order of the panel.
TOOLS: dict[str, type[InspectionTool]] = {
    "Views": ViewsTool,
    "Maps": MapsTool,
    "Readout": ReadoutTool,
    "Segments": SegmentsTool,
    "Landmarks": LandmarksTool,
    "Correction": CorrectionTool,
    "Recursions": RecursionsTool,
    "Attention": AttentionTool,
    "Uncertainty": UncertaintyTool,
    "Report": ReportTool,
}


class InspectionSection(Parts.Section):
    """Makes the tools and gives them what they work on."""

    def __init__(self, ui: SimpleNamespace, run: RunSection, logic: Any, resourcePath: Callable[[str], str]) -> None:
        """Load the forms of the tools; their widgets join the others.

        :param ui: as `Section`.
        :param run: starts what takes long, and tells.
        :param logic: the `DeepAttentionRegLogic`.
        :param resourcePath: returns the path of a file in the module's resources.
        """
        super().__init__(ui, run.tell)
        self._tools: list[InspectionTool] = []
        for name, tool in TOOLS.items():
            form = slicer.util.loadUI(resourcePath(f"UI/{name}.ui"))
            ui.inspectionCollapsibleButton.layout().addWidget(form)
            form.setMRMLScene(slicer.mrmlScene)
            vars(ui).update(vars(slicer.util.childWidgetVariables(form)))
            self._tools.append(tool(ui, run, logic))

    def follow(self, parameters: DeepAttentionRegParameterNode | None) -> None:
        """Take other choices."""
        super().follow(parameters)
        for tool in self._tools:
            tool.follow(parameters)

    def update(self) -> None:
        """Say what is missing, or let the tools show what they can do."""
        chosen, problem = self.chosen, ""
        try:
            Deformation.ofTransform(chosen.inspected, chosen.fixedVolume, chosen.movingVolume)
        except ValueError as reason:
            problem = str(reason)
        Parts.putText(self._ui.inspectedProblemLabel, problem)
        self._ui.inspectedProblemLabel.visible = bool(problem)
        known = {} if problem else Record.recall(chosen.inspected).values
        Parts.putVerdict(self._ui.inspectedVerdictLabel, ErrorBound.verdictOf(known))
        for tool in self._tools:
            tool.update(problem)
