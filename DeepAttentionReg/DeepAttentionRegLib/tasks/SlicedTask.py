"""Work in this process, cut into slices of time between which the application goes on."""

from collections.abc import Callable, Iterable
from typing import Any

import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import contract, errors
from DeepAttentionRegEngine.protocol.privacy import discreet_logger
from DeepAttentionRegEngine.protocol.reporting import Pause

from ..engine.Callbacks import Callbacks
from ..engine.Engine import Engine
from ..engine.Task import Stopped
from ..engine.Turns import Turns
from .Results import NodeReference

logger = discreet_logger(__name__)

STAGE = "work"


class SlicedTask:
    """Is for those who start it as a `Task`, though no engine takes part; what is short is done when `start` returns.

    The events of the application are handled within the work, so whoever starts it must let nothing else be started.
    """

    def __init__(
        self,
        work: Callable[[Pause], Any],
        nodes: Iterable[slicer.vtkMRMLNode],
        callbacks: Callbacks | None = None,
        *,
        engine: Engine | None = None,
    ) -> None:
        """Prepare; nothing is done before `start`.

        :param work: gets a function to call between pieces of a fraction of a second, and returns the outcome. After
            each call nodes may be gone.
        :param nodes: it ends when one of them is removed.
        :param callbacks: whom to tell; of the progress, that it takes longer than a moment.
        :param engine: not needed.
        """
        self.outcome: Any = None
        self.failure: contract.Failure | None = None
        self._work, self._callbacks = work, callbacks or Callbacks()
        self._nodes = [NodeReference(node) for node in nodes]
        self._stopMessage = ""
        self._turns = Turns()
        self.isRunning = False

    def start(self) -> None:
        """Do the work; returns when it is done."""
        self.isRunning, self._turns = True, Turns()
        try:
            self.outcome = self._work(self._pause)
        except Stopped:
            self._fail(errors.CANCELLED, self._stopMessage)
        except ValueError as reason:  # a sentence for the user
            self._fail(errors.INPUT_INVALID, str(reason))
        except Exception as error:
            logger.exception("Work in slices of time failed")
            self._fail(errors.INTERNAL, str(error))
        else:
            self.isRunning = False
            self._callbacks.onFinished(self.outcome)

    def wait(self) -> Any:
        """Return the outcome.

        :raises RuntimeError: if there is none; says why.
        """
        if self.failure is not None:
            raise RuntimeError(self.failure.message)
        return self.outcome

    def cancel(self) -> None:
        """Stop at the next pause; `onFailed` tells when it has happened."""
        self._stopMessage = self._stopMessage or _("It was canceled.")

    def finish(self) -> None:
        """Go on: there is nothing yet to end with."""

    def close(self) -> None:
        """Stop at the next pause; no callback is called any more."""
        self._callbacks = Callbacks()  # which tell nobody
        self.cancel()

    def _pause(self) -> None:
        if not self._turns.areDue:
            return
        self._callbacks.onProgress(contract.Progress(STAGE))
        self._turns.give()
        if any(node.get() is None for node in self._nodes):
            self._stopMessage = self._stopMessage or _("Something that this takes was removed, so it was stopped.")
        if self._stopMessage:
            raise Stopped

    def _fail(self, code: str, message: str) -> None:
        self.isRunning = False
        self.failure = contract.Failure(code, message)
        self._callbacks.onFailed(self.failure)
