"""The tool of the panel that estimates how uncertain a deformation is."""

import functools
from types import SimpleNamespace
from typing import Any

import slicer
from slicer.i18n import tr as _

from ...evidence import Uncertainty
from .. import Arguments, Progress
from ..RunSection import RunSection
from .InspectionTool import InspectionTool


class UncertaintyTool(InspectionTool):
    """Starts the estimate; its map is shown with the other maps."""

    def __init__(self, ui: SimpleNamespace, run: RunSection, logic: Any) -> None:
        """Connect the widgets; parameters as `InspectionTool`."""
        super().__init__(ui, run, logic)
        ui.uncertaintyButton.connect("clicked(bool)", lambda: self.onEstimate())

    def update(self, problem: str) -> None:
        """Say whether the uncertainty can be estimated."""
        self.offer(["uncertaintyButton"], problem)

    def onEstimate(self) -> None:
        """Start the estimate for the chosen deformation."""
        try:
            deformation = self.deformation()
        except ValueError as reason:
            self._tell(str(reason))
            return
        chosen = self.chosen
        settings = Arguments.usable(chosen)
        make = functools.partial(Uncertainty.UncertaintyEstimate, deformation, chosen.samples, settings)
        stages = Progress.stagesOf(chosen, withUncertainty=True)
        self._run.start(self._logic.run, make, stages=stages, onProgress=self._run.show, onFinished=self._onFinished)

    def _onFinished(self, node: slicer.vtkMRMLScalarVolumeNode) -> None:
        mean, high = Uncertainty.summaryOf(node)
        text = _('Created "{name}": mean {mean:.2f} mm, 95 % of the voxels below {high:.2f} mm.')
        self._tell(text.format(name=node.GetName(), mean=mean, high=high))
        button = self._ui.uncertaintyMapButton
        if self._parameters is not None and not button.checked:
            self._ui.mapsGroupBox.collapsed = False  # what is folded cannot be clicked
            button.click()
