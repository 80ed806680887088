"""One job of the engine for nodes of the scene, which is untouched until the engine has succeeded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import contract, errors
from DeepAttentionRegEngine.protocol.privacy import discreet_logger

from .Callbacks import Callbacks
from .Engine import Engine
from .EngineJob import EngineJob
from .Turns import Turns

logger = discreet_logger(__name__)


class Stopped(Exception):
    """The task was canceled, or one of its inputs vanished."""


class Task:
    """Works without blocking; `start` it, then `wait` or let the callbacks come. Subclasses say what is done."""

    def __init__(self, callbacks: Callbacks | None = None, engine: Engine | None = None) -> None:
        """Prepare; nothing is done yet.

        :param callbacks: whom to tell.
        :param engine: what runs it; None takes Slicer's own Python.
        """
        self.outcome: Any = None
        self.failure: contract.Failure | None = None
        self._callbacks = callbacks or Callbacks()
        self._engine = engine
        self._job: EngineJob | None = None
        self._stopMessage = ""
        self._turns = Turns()

    @property
    def _folder(self) -> Path:
        """Folder of the job.

        :raises RuntimeError: if there is none.
        """
        if self._job is None:
            raise RuntimeError(_("Nothing was started."))
        return self._job.folder

    def poll(self) -> None:
        """Pass on news; only needed where no Qt event loop does it."""
        if self._job is not None:
            self._job.poll()

    def cancel(self) -> None:
        """Stop at the next opportunity; `onFailed` tells when it has happened."""
        self._stop(_("The registration was canceled."))

    def close(self) -> None:
        """End the engine at once; no callback is called any more, and nothing is added to the scene."""
        self._takeCallbacks()
        self._stopMessage = self._stopMessage or _("The registration was closed.")
        if self._job is not None:
            self._job.close()

    def _stop(self, message: str) -> None:
        self._stopMessage = self._stopMessage or message
        if self._job is not None:
            self._job.cancel()

    def _raiseFailure(self) -> None:
        """Raise why there is no outcome.

        :raises RuntimeError: says why and what to do.
        """
        failure = self.failure or contract.Failure(errors.CANCELLED, self._stopMessage)
        raise RuntimeError(f"{failure.message} {failure.hint}".strip())

    def problems(self) -> list[str]:
        """Return why it cannot be started, as sentences."""
        raise NotImplementedError

    def _export(self) -> contract.Job:
        """Write the inputs into `_folder` and return the job.

        :raises EngineError: if a setting is out of range.
        """
        raise NotImplementedError

    def _release(self) -> None:
        """Let go of nodes, which may vanish while the engine works."""

    def _goneMessage(self) -> str:
        """Return a sentence if an input has vanished; an empty text if all are there."""
        return ""

    def _load(self, result: contract.Result) -> Any:
        """Make the outcome of the engine's files; what is put into the scene is put there whole or not at all.

        Calls `_requireInputs` between reading the files and changing the scene.
        """
        raise NotImplementedError

    @property
    def isRunning(self) -> bool:
        """Whether it was started and has neither finished nor failed."""
        return self._job is not None and not self._job.isClosed

    def start(self) -> None:
        """Export the nodes, start the engine and return.

        :raises ValueError: if the inputs or settings cannot work; says why.
        :raises RuntimeError: if the inputs cannot be exported or the engine not be started.
        """
        problems = self.problems()
        if problems:
            raise ValueError(" ".join(problems))
        self._job = EngineJob(Callbacks(self._onProgress, self._onResult, self._onFailure), self._engine)
        try:
            job = self._export()
            if self._stopMessage:
                raise Stopped
            self._job.start(job)
        except Stopped:
            self._job.close()
            self._onFailure(contract.Failure(errors.CANCELLED, self._stopMessage))
        except errors.EngineError as error:
            self._job.close()
            raise ValueError(str(error)) from error
        except BaseException:
            self._job.close()
            raise
        finally:
            self._release()

    def finish(self) -> None:
        """End early; `onFinished` gets the best found so far."""
        if self._job is not None:
            self._job.finish()

    def wait(self) -> Any:
        """Return the outcome when it is there, keeping the application responsive meanwhile.

        :raises RuntimeError: if it failed or was canceled; says why and what to do.
        """
        if self._job is not None:
            self._job.wait()
        if self.outcome is None:
            self._raiseFailure()
        return self.outcome

    def _shown(self, progress: contract.Progress) -> Any:
        """Return what the callback is told."""
        return progress

    def _tell(self, stage: str, message: str) -> None:
        """Report progress of this side; the callback may cancel."""
        self._callbacks.onProgress(self._shown(contract.Progress(stage, message=message)))
        if self._stopMessage:
            raise Stopped

    def _requireInputs(self) -> None:
        """Stop if an input has vanished."""
        message = self._goneMessage()
        if message:
            self._stop(message)
            raise Stopped

    def _takeCallbacks(self) -> Callbacks:
        """Return whom to tell of the end; nobody is told anything after that, nor kept alive."""
        callbacks, self._callbacks = self._callbacks, Callbacks()
        return callbacks

    def _onProgress(self, progress: contract.Progress) -> None:
        message = self._goneMessage()
        if message:
            self._stop(message)
        else:
            self._callbacks.onProgress(self._shown(progress))

    def _onFailure(self, failure: contract.Failure) -> None:
        if self._stopMessage:
            failure = replace(failure, message=self._stopMessage)
        self.failure = failure
        self._takeCallbacks().onFailed(failure)

    def _pause(self) -> None:
        """Let the application go on while a large result is loaded; the user may cancel, and inputs vanish."""
        if self._turns.areDue:
            self._turns.give()
            self._requireInputs()
            if self._stopMessage:
                raise Stopped

    def _onResult(self, result: contract.Result) -> None:
        try:
            self._tell("import", _("Loading the result."))
            self._turns = Turns()
            self.outcome = self._load(result)
        except Stopped:
            self._onFailure(contract.Failure(errors.CANCELLED, self._stopMessage))
        except Exception as error:
            logger.exception("The result could not be loaded")
            message = _("The result could not be loaded ({reason}).").format(reason=error)
            self._onFailure(contract.Failure(errors.INTERNAL, message, _("The scene is as it was.")))
        else:
            self._takeCallbacks().onFinished(self.outcome)
