"""The tool of the panel that scrubs through the steps of a deformation."""

from types import SimpleNamespace
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from ...evidence import Scrubber
from ...evidence.RecursionEvidence import RecursionEvidence
from ...nodes.Present import present
from ...Parameters import DeepAttentionRegParameterNode
from .. import Parts
from ..RunSection import RunSection
from .InspectionTool import InspectionTool


class RecursionsTool(InspectionTool):
    """Lets the user choose a step, which is kept in the scene, and shows it as long as the module is open."""

    def __init__(self, ui: SimpleNamespace, run: RunSection, logic: Any) -> None:
        """Connect the widgets; parameters as `InspectionTool`."""
        super().__init__(ui, run, logic)
        self._observations = slicer.util.VTKObservationMixin()
        self._evidence: RecursionEvidence | None = None
        self._scrubber: Scrubber.Scrubber | None = None
        self._hasGrid = False
        ui.stepSlider.connect("valueChanged(int)", self.onSlider)
        ui.plotStepsButton.connect("clicked(bool)", self.onPlot)

    def follow(self, parameters: DeepAttentionRegParameterNode | None) -> None:
        """Take other choices; None lets go of the scene and lets the views show what they did before."""
        if parameters is None:
            self._take(None)
        super().follow(parameters)

    def update(self, problem: str) -> None:
        """Offer the steps that were kept, and show the present one if that was chosen."""
        ui, evidence = self._ui, None
        try:
            evidence = None if problem else RecursionEvidence(self.deformation().transformNode)
        except ValueError as reason:
            problem = str(reason)
        self._take(evidence)
        self.offer(["stepsCheckBox", "stepSlider", "plotStepsButton"], problem)
        isOn = self.chosen.inspectSteps and evidence is not None
        Parts.setVisible((ui.gridCheckBox,), isOn)
        Parts.setVisible((ui.stepLabel,), evidence is not None)
        if isOn:
            self._show()
        else:
            self._close()

    def onSlider(self, step: int) -> None:
        """Look at another step."""
        if self._evidence is not None and step != self._evidence.step:
            self._evidence.step = step

    def onStep(self, caller: object = None, event: object = None) -> None:
        """Tell of the step that is looked at now, whoever has chosen it."""
        slider, evidence = self._ui.stepSlider, present(self._evidence)
        wasBlocked = slider.blockSignals(True)
        slider.maximum = evidence.count - 1
        slider.value = evidence.step
        slider.blockSignals(wasBlocked)
        Parts.putText(self._ui.stepLabel, Scrubber.describe(evidence, evidence.step))

    def onPlot(self) -> None:
        """Plot the steps."""
        chosen = self.chosen
        chart = self.attempt(
            lambda: Scrubber.plot(self.deformation(), chosen.fixedSegmentation, chosen.movingSegmentation)
        )
        if chart is None:
            return
        plots = slicer.app.moduleManager().module("Plots")
        if plots is not None:
            plots.logic().ShowChartInLayout(chart)
        self._tell(_('Wrote "{name}".').format(name=chart.GetName()))

    def _take(self, evidence: RecursionEvidence | None) -> None:
        """Follow the step of other evidence; None follows nothing."""
        isSame = self._evidence is not None and evidence is not None and self._evidence.steps is evidence.steps
        if not isSame:
            self._observations.removeObservers()
            self._close()
            if evidence is not None:
                self._observations.addObserver(evidence.browser, vtk.vtkCommand.ModifiedEvent, self.onStep)
        self._evidence = evidence
        if evidence is not None:
            self.onStep()

    def _show(self) -> None:
        hasGrid = self.chosen.inspectGrid
        if self._scrubber is None:
            self._scrubber = Scrubber.Scrubber(self.deformation())
            self._scrubber.show(withGrid=hasGrid)
        elif self._hasGrid != hasGrid:
            self._scrubber.showGrid(hasGrid)
        self._hasGrid = hasGrid

    def _close(self) -> None:
        scrubber, self._scrubber = self._scrubber, None
        if scrubber is not None:
            scrubber.close()
