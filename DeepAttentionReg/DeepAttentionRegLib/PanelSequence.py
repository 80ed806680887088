"""The section of the panel that registers a time series."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from slicer.i18n import tr as _

from . import Registration, Sequences
from .Parameters import DeepAttentionRegParameterNode

MAXIMUM_FRAMES = 1000


class SequenceSection:
    """Starts the registration of the chosen sequence."""

    def __init__(self, ui: SimpleNamespace, start: Callable[[], None]) -> None:
        """Connect the widgets.

        :param ui: widgets by name.
        :param start: starts the registration.
        """
        self._ui = ui
        self._parameters: DeepAttentionRegParameterNode | None = None
        ui.sequenceButton.connect("clicked(bool)", lambda: start())

    def follow(self, parameters: DeepAttentionRegParameterNode | None) -> None:
        """Take other choices."""
        self._parameters = parameters

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
