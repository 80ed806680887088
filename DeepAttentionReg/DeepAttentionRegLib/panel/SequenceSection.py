"""The section of the panel that registers a time series."""

import functools
from types import SimpleNamespace
from typing import Any

from slicer.i18n import tr as _

from ..tasks import Sequences
from . import Arguments, Parts, Progress
from .RunSection import RunSection

MAXIMUM_FRAMES = 1000


class SequenceSection(Parts.Section):
    """Registers the chosen sequence."""

    def __init__(self, ui: SimpleNamespace, run: RunSection, logic: Any) -> None:
        """Connect the widgets.

        :param ui: as `Section`.
        :param run: starts the registration and shows how far it is.
        :param logic: the `DeepAttentionRegLogic`.
        """
        super().__init__(ui, run.tell)
        self._run, self._logic = run, logic
        ui.sequenceButton.connect("clicked(bool)", self.onRegister)

    def update(self, otherProblem: str) -> None:
        """Offer the frames of the chosen sequence, and say whether it can be registered.

        :param otherProblem: why nothing can be registered at all; empty if it can.
        """
        arguments = Arguments.ofSequence(self.chosen)
        sequence, slider, button = self.chosen.sequence, self._ui.referenceFrameSlider, self._ui.sequenceButton
        frames = sequence.GetNumberOfDataNodes() if sequence is not None else 0
        maximum = frames or MAXIMUM_FRAMES
        if self.chosen.referenceFrame > maximum:
            self.chosen.referenceFrame = 1
        slider.maximum = maximum
        problems = Sequences.checkSequence(sequence, self.chosen.referenceFrame - 1, arguments["settings"])
        problem = next(iter(problems), otherProblem)
        button.enabled = not problem
        button.toolTip = problem or _("Register the sequence frame by frame. The result is a sequence of transforms.")

    def onRegister(self) -> None:
        """Start the registration."""
        arguments = Arguments.ofSequence(self.chosen)
        begin = functools.partial(self._logic.registerSequence, **arguments)
        self._run.start(begin, onProgress=self._onProgress, onFinished=self._onFinished)

    def _onProgress(self, progress: Sequences.FrameProgress) -> None:
        self._run.show(progress.progress, progress.frame - 1, progress.of, progress.text)

    def _onFinished(self, outcome: Sequences.SequenceOutcome) -> None:
        self._tell(Progress.sequenceSummaryOf(outcome))
