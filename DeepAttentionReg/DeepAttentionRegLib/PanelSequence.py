"""The section of the panel that registers a time series."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from slicer.i18n import tr as _

from . import PanelParts, Registration, Sequences

MAXIMUM_FRAMES = 1000


class SequenceSection(PanelParts.Section):
    """Starts the registration of the chosen sequence."""

    def __init__(self, ui: SimpleNamespace, tell: Callable[[str], None], start: Callable[[], None]) -> None:
        """Connect the widgets.

        :param ui: as `Section`.
        :param tell: as `Section`.
        :param start: starts the registration.
        """
        super().__init__(ui, tell)
        ui.sequenceButton.connect("clicked(bool)", lambda: start())

    def update(self, arguments: dict[str, Any], otherProblem: str) -> None:
        """Offer the frames of the chosen sequence, and say whether it can be registered.

        :param arguments: of `DeepAttentionRegLogic.registerSequence`.
        :param otherProblem: why nothing can be registered at all; empty if it can.
        """
        sequence, slider, button = self._parameters.sequence, self._ui.referenceFrameSlider, self._ui.sequenceButton
        frames = sequence.GetNumberOfDataNodes() if sequence is not None else 0
        maximum = frames or MAXIMUM_FRAMES
        if self._parameters.referenceFrame > maximum:
            self._parameters.referenceFrame = 1
        slider.maximum = maximum
        settings = Registration.Settings(method=arguments["method"], weights=arguments["weights"])
        problems = Sequences.checkSequence(sequence, self._parameters.referenceFrame - 1, settings)
        problem = next(iter(problems), otherProblem)
        button.enabled = not problem
        button.toolTip = problem or _("Register the sequence frame by frame. The result is a sequence of transforms.")
