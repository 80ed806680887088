"""The tool of the panel that shows what a network attended to."""

from types import SimpleNamespace
from typing import Any

from slicer.i18n import tr as _

from ...evidence import Attention
from ...Parameters import DeepAttentionRegParameterNode
from .. import Parts
from ..RunSection import RunSection
from .InspectionTool import InspectionTool


class AttentionTool(InspectionTool):
    """Shows what is chosen as long as the module is open; writes into its own label as the crosshair moves."""

    def __init__(self, ui: SimpleNamespace, run: RunSection, logic: Any) -> None:
        """Connect the widgets; parameters as `InspectionTool`."""
        super().__init__(ui, run, logic)
        self._view: Attention.AttentionView | None = None
        self._shown: Attention.Choice | None = None
        ui.attentionComboBox.connect("activated(int)", self.onChosen)

    def follow(self, parameters: DeepAttentionRegParameterNode | None) -> None:
        """Take other choices; None lets go of the scene and lets the views show what they did before."""
        if parameters is None:
            self._close()
        super().follow(parameters)

    def update(self, problem: str) -> None:
        """Offer what was kept, and show what is chosen of it."""
        ui, chosen = self._ui, self.chosen
        view: Attention.AttentionView | None = None
        choices: list[Attention.Choice] = []
        try:
            view = None if problem else Attention.AttentionView(self.deformation(), self.onLooked)
            choices = [] if view is None else view.choices()
            if not problem and not choices:
                problem = _("The method of this deformation leaves nothing that shows what it attended to.")
        except ValueError as reason:
            problem = str(reason)
        self.offer(["attentionCheckBox", "attentionComboBox"], problem)
        wanted = [choice for choice in choices if choice.key == chosen.inspectAttended]
        current = next(iter(wanted + choices), None)
        items = [(choice.label(), choice.key) for choice in choices]
        Parts.fillComboBox(ui.attentionComboBox, items, current.key if current else "")
        ui.attentionLabel.visible = chosen.inspectAttention and bool(choices)
        if chosen.inspectAttention and view is not None and current is not None:
            self._show(view, current)
        else:
            self._close()

    def onChosen(self, index: int) -> None:
        """Show something else."""
        self.chosen.inspectAttended = self._ui.attentionComboBox.itemData(index)

    def onLooked(self, looked: Attention.Looked) -> None:
        """Say where the network looked."""
        Parts.putText(self._ui.attentionLabel, looked.sentence())

    def _show(self, view: Attention.AttentionView, choice: Attention.Choice) -> None:
        """Show something, unless it is shown already."""
        isSame = self._view is not None and self._view.evidence.steps is view.evidence.steps
        if isSame and self._shown == choice:
            return
        self._close()
        self._view, self._shown = view, choice
        texts = {
            Attention.LOOK: _("Hold Shift and move the mouse over the fixed volume."),
            Attention.MAP: _("Drawn over the {image} volume.").format(image=choice.image),
            Attention.GAUSSIANS: _("Drawn where slices cut the Gaussians of this step, and in 3D."),
        }
        Parts.putText(self._ui.attentionLabel, texts[choice.kind])
        view.show(choice)

    def _close(self) -> None:
        view, self._view, self._shown = self._view, None, None
        if view is not None:
            view.close()
