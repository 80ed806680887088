"""The part of the panel that runs something: starts it, shows how far it is, lets the user stop it."""

import functools
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import contract
from DeepAttentionRegEngine.protocol.privacy import discreet_logger
from DeepAttentionRegEngine.protocol.reporting import Pause

from ..nodes.ErrorBound import ToldVerdict
from ..tasks.SlicedTask import SlicedTask
from . import Parts, Progress
from .EngineSection import EngineSection

logger = discreet_logger(__name__)


class RunSection(Parts.Section):
    """Starts what the logic can do, whichever part of the panel asks for it; one thing runs at a time."""

    def __init__(self, ui: SimpleNamespace, update: Callable[[], None], logic: Any, engine: EngineSection) -> None:
        """Connect the widgets.

        :param ui: widgets by name.
        :param update: updates the whole panel.
        :param logic: the `DeepAttentionRegLogic`.
        :param engine: says what is missing before anything can run.
        """
        super().__init__(ui, self.tell)
        self._update, self._logic, self._engine = update, logic, engine
        self._message = ""
        self._verdict: ToldVerdict | None = None  # on what the message tells of
        self._problem = self._problemThen = ""  # why no pair can be registered, now and at the last message
        self._stages: list[str] = []
        self._isCanceling = self._isBusy = False
        ui.finishButton.connect("clicked(bool)", self.onFinish)

    def start(
        self, begin: Callable[..., Any], *arguments: Any, stages: list[str] | None = None, **options: Any
    ) -> bool:
        """Start something and return whether that has worked; what is missing is installed first.

        :param begin: function of the logic that takes `wait`, `onFailed` and these arguments and options.
        :param stages: those it goes through; None takes those of a registration.
        """
        self._engine.look()
        if not self._engine.isReady:
            self._engine.install()
            return False
        self._isCanceling = False
        self.clear()
        self._stages = Progress.stagesOf(self.chosen) if stages is None else stages
        self._ui.progressBar.setRange(0, 100)
        self._ui.progressBar.value = 0
        self._ui.finishButton.enabled = True
        try:
            # Exporting the volumes takes a moment during which the application cannot react.
            with slicer.util.tryWithErrorDisplay(show=False, waitCursor=True):
                begin(*arguments, **{"onFailed": self.onFailed, **options}, wait=False)
        except Exception as error:
            logger.exception("The registration could not be started")
            self._message = _("The registration could not be started. {reason}").format(reason=error)
        self._update()
        return self._logic.isRunning

    def work(
        self, work: Callable[[Pause], Any], nodes: Iterable[slicer.vtkMRMLNode], onFinished: Callable[[Any], None]
    ) -> None:
        """Do in this process what may take seconds, while the application goes on and the user can cancel it.

        :param work: as of `SlicedTask`; so are the nodes.
        :param onFinished: gets what it returns.
        """
        self._isCanceling = self._isBusy = False
        calls = {"onProgress": self._showBusy, "onFinished": onFinished, "onFailed": self.onFailed}
        try:
            self._logic.run(functools.partial(SlicedTask, work, list(nodes)), wait=False, **calls)
        except RuntimeError as reason:
            self.tell(str(reason))
        self._engine.look()

    def _showBusy(self, _progress: contract.Progress) -> None:
        """Show once that something is being done; how far it is, nobody knows."""
        if not self._isBusy:
            self._isBusy = True
            self._ui.progressBar.setRange(0, 0)
            self._ui.finishButton.enabled = False
            self.tell(_("Computing..."))

    def cancel(self) -> None:
        """Stop what runs."""
        self._isCanceling = True
        self._logic.cancel()
        self._update()

    def onFinish(self) -> None:
        """End what runs with the best so far."""
        try:
            self._logic.finish()
            self._ui.finishButton.enabled = False
        except RuntimeError as error:
            self.tell(str(error))

    def onFailed(self, failure: contract.Failure) -> None:
        """Tell why nothing came of it."""
        self.tell(f"{failure.message} {failure.hint}".strip())

    def show(self, progress: contract.Progress, part: int = 0, of: int = 1, text: str = "") -> None:
        """Show how far it is, without looking at all else anew: the engine may tell of it many times a second.

        :param progress: of one part.
        :param part: parts that are done.
        :param of: parts in all.
        :param text: which part it is.
        """
        share = Progress.shareOf(progress, self._stages)
        if share is not None:
            self._ui.progressBar.value = round(100 * (part + share) / of)
        self._message = f"{text}. {Progress.stageText(progress)}" if text else Progress.stageText(progress)
        if self._parameters:
            Parts.putText(self._ui.statusLabel, self._message)

    def tell(self, message: str, verdict: ToldVerdict | None = None) -> None:
        """Show a message until the next one, in place of what hinders a registration anyway.

        :param message: what has come of something.
        :param verdict: on the registration that it tells of.
        """
        self._message, self._problemThen, self._verdict = message, self._problem, verdict
        self._update()

    def clear(self) -> None:
        """Forget the last message."""
        self._message, self._verdict = "", None

    def update(self, problem: str) -> None:
        """Show whether something runs, and whether a registration can be started.

        :param problem: why it cannot; empty if it can.
        """
        ui, isRunning = self._ui, self._logic.isRunning
        self._isCanceling = self._isCanceling and isRunning
        self._problem = problem
        isKnown = self._message and problem == self._problemThen
        problem = "" if isRunning else problem
        ui.applyButton.enabled = not (problem or self._isCanceling)
        ui.applyButton.text = Progress.applyText(isRunning, self._isCanceling)
        ui.applyButton.toolTip = problem or Progress.applyToolTip(isRunning)
        ui.finishButton.visible = isRunning
        ui.progressBar.visible = isRunning
        ui.mendWidget.enabled = not isRunning
        Parts.putVerdict(ui.verdictLabel, self._verdict)
        Parts.putText(ui.statusLabel, "\n".join(text for text in ("" if isKnown else problem, self._message) if text))
