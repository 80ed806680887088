"""One run of the engine as a child process: start, follow, cancel, clean up."""

import collections
import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import contract, errors
from DeepAttentionRegEngine.protocol.errors import is_out_of_memory
from DeepAttentionRegEngine.protocol.privacy import discreet_logger, without_folders

from . import Folders
from .Callbacks import Callbacks
from .Engine import Engine
from .Ticker import Ticker

logger = discreet_logger(__name__)

CANCEL_FILE, FINISH_FILE = "cancel", "finish"
POLL_INTERVAL_MS = 100
CANCEL_GRACE_S = 10.0
KILL_WAIT_S = 5.0
# A process that ended may leave its output open in a child of its own, which is not waited for longer than this.
DRAIN_S = 2.0
LOG_LINES = 200


class EngineJob:
    """A job folder and the engine process that works in it.

    The process runs in the folder and is given file names without path, so that no library in it, whatever its
    handling of non-ASCII paths on Windows, ever sees where the folder lies.
    """

    def __init__(self, callbacks: Callbacks | None = None, engine: Engine | None = None) -> None:
        """Make the folder.

        :param callbacks: whom to tell.
        :param engine: what runs it; None takes Slicer's own Python.
        :raises RuntimeError: in a sentence, if it cannot be made.
        """
        self._callbacks = callbacks or Callbacks()
        self._command = (engine or Engine()).command
        self._owned = Folders.makeFolder()
        weakref.finalize(self, self._owned.close)
        self.folder = self._owned.path
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._log: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
        self._verdict: contract.Result | contract.Failure | None = None
        self._ticker = Ticker(POLL_INTERVAL_MS)
        self._killAt: float | None = None
        self._drainUntil: float | None = None
        self._outputEnded = False
        self._polling = False
        self._closed = False

    @property
    def isRunning(self) -> bool:
        """Whether the job was started and its end has not been reported yet."""
        return self._process is not None and not self._closed

    @property
    def isClosed(self) -> bool:
        """Whether the end was reported, or `close` called."""
        return self._closed

    @property
    def log(self) -> str:
        """Last lines that the engine wrote besides its events."""
        return "\n".join(self._log)

    def start(self, job: contract.Job) -> None:
        """Start the engine and return at once.

        :param job: what to do; files by their name in `folder`. Cancel file, finish file and parent are filled in.
        :raises RuntimeError: in a sentence, if the interpreter cannot be started; the job is then closed.
        """
        job = replace(job, cancel_file=CANCEL_FILE, finish_file=FINISH_FILE, parent_pid=os.getpid())
        try:
            (self.folder / "job.json").write_text(contract.dump_job(job), encoding="utf-8")
        except OSError as error:
            self.close()
            raise Folders.unwritable(error) from error
        try:
            self._process = subprocess.Popen(
                [*self._command, "run", "job.json"],
                cwd=self.folder,
                env=_environment(self.folder),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                **_processOptions(),
            )
        except OSError as error:
            self.close()
            message = _("The engine could not be started with {program}: {reason}")
            raise RuntimeError(message.format(program=self._command[0], reason=error)) from error
        threading.Thread(target=_readLines, args=(self._process.stdout, self._lines), daemon=True).start()
        if Folders.application() is not None:
            self._ticker.start(self.poll)

    def poll(self) -> None:
        """Pass on what the engine said since the last call; called by a timer where Qt is there."""
        process = self._process
        # A callback may run the event loop, and with it the timer.
        if process is None or self._closed or self._polling:
            return
        self._polling = True
        try:
            self._drain(process)
            if self._killAt is not None and time.monotonic() > self._killAt:
                _killTree(process)
            if self.isRunning and self._hasEnded(process):
                self._report(self._judge(process.returncode))
        finally:
            self._polling = False

    def cancel(self) -> None:
        """Ask the engine to stop, and have `poll` kill it if it does not within `CANCEL_GRACE_S` seconds.

        An engine that cannot be asked, because the folder is full or gone, is killed by the next `poll`.
        """
        if not self.isRunning or self._killAt is not None:
            return
        self._killAt = time.monotonic()
        with contextlib.suppress(OSError):
            (self.folder / CANCEL_FILE).touch()
            self._killAt += CANCEL_GRACE_S

    def finish(self) -> None:
        """Ask the engine to end with the best that it has.

        :raises RuntimeError: in a sentence, if it cannot be asked; it then goes on.
        """
        if not self.isRunning:
            return
        try:
            (self.folder / FINISH_FILE).touch()
        except OSError as error:
            message = _("The engine could not be asked to end early ({reason}). Let it go on, or cancel it.")
            raise RuntimeError(message.format(reason=error.strerror or error)) from error

    def wait(self) -> None:
        """Return when the job has ended and its callbacks were called, keeping the application responsive meanwhile."""
        application = Folders.application()
        try:
            while self.isRunning:
                self.poll()
                if application is not None:
                    application.processEvents()
                time.sleep(POLL_INTERVAL_MS / 2000)
        except BaseException:  # Ctrl+C, or a callback that raised
            self.close()
            raise

    def close(self) -> None:
        """Kill the engine if it runs and remove the folder; no callback is called any more, nor kept."""
        if self._closed:
            return
        self._closed = True
        self._ticker.stop()
        self._callbacks = Callbacks()
        if self._process is not None and self._process.poll() is None:
            _killTree(self._process)
            with contextlib.suppress(subprocess.TimeoutExpired):  # Windows cannot remove a folder in use
                self._process.wait(KILL_WAIT_S)
        self._owned.close()

    def _drain(self, process: subprocess.Popen[str]) -> None:
        """Handle the lines that the reader thread has collected."""
        while self.isRunning:
            try:
                line = self._lines.get_nowait()
            except queue.Empty:
                return
            if line is None:
                self._outputEnded = True
                return
            self._handle(line, process)

    def _handle(self, line: str, process: subprocess.Popen[str]) -> None:
        try:
            event = contract.parse_event(line)
        except errors.EngineError as error:
            self._verdict = contract.Failure(error.code, error.message, error.hint)
            _killTree(process)
            return
        if event is None:
            self._log.append(without_folders(line.rstrip()))
        elif isinstance(event, contract.Progress):
            self._callbacks.onProgress(replace(event, file=event.file and str(self.folder / event.file)))
        elif self._verdict is None:
            self._verdict = event

    def _hasEnded(self, process: subprocess.Popen[str]) -> bool:
        if process.poll() is None:
            # A process that hangs in a driver survives even being killed; nobody should wait for it.
            return self._killAt is not None and time.monotonic() > self._killAt + KILL_WAIT_S
        if self._drainUntil is None:
            self._drainUntil = time.monotonic() + DRAIN_S
        return self._outputEnded or time.monotonic() > self._drainUntil

    def _judge(self, code: int | None) -> contract.Result | contract.Failure:
        """Return how the job ended.

        :param code: how the process did; None if it survives being killed.
        """
        if self._killAt is not None:
            return contract.Failure(errors.CANCELLED, _("The registration was canceled."))
        if isinstance(self._verdict, contract.Failure) or (self._verdict is not None and code == 0):
            return self._verdict
        logger.error("The engine ended with exit code %s. Its last lines:\n%s", code, self.log)
        message = _("The engine stopped before it was done (exit code {code}).").format(code=code)
        if any(is_out_of_memory(RuntimeError(line)) for line in self._log):
            hint = _("There was not enough memory for it; close other programs, and try again.")
            return contract.Failure(errors.OUT_OF_MEMORY, message, hint)
        if code in (-signal.SIGTERM, -9, 137):  # SIGKILL, which Windows does not define
            hint = _("Another program or the system, perhaps for lack of memory, stopped it.")
            return contract.Failure(errors.OUT_OF_MEMORY, message, hint)
        hint = _("Last line of its log: {line}").format(line=self._log[-1]) if self._log else ""
        return contract.Failure(errors.INTERNAL, message, hint)

    def _report(self, verdict: contract.Result | contract.Failure) -> None:
        """Call the last callback; the folder is there until it returns."""
        try:
            if isinstance(verdict, contract.Result):
                outputs = {name: str(self.folder / file) for name, file in verdict.outputs.items()}
                self._callbacks.onFinished(replace(verdict, outputs=outputs))
            else:
                self._callbacks.onFailed(verdict)
        finally:
            self.close()


def _readLines(output: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    """Collect the output of a process until it ends; runs in a thread of its own."""
    with output:
        for line in output:
            lines.put(line)
    lines.put(None)


def _environment(folder: Path) -> dict[str, str]:
    """Return the environment of the engine: the one Slicer was started in, which PythonSlicer expects, or this one.

    :param folder: of the job; what the engine puts into temporary files goes with it.
    """
    environment = dict(os.environ) if Folders.application() is None else dict(slicer.util.startupEnvironment())
    # Threads that spin while they wait make the engine several times slower as soon as another program uses a core.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return {**environment, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))}


def _processOptions() -> dict[str, Any]:
    """Return what lets the whole process tree be ended, and on Windows keeps its console window hidden."""
    if sys.platform != "win32":
        return {"start_new_session": True}
    info = subprocess.STARTUPINFO()
    info.dwFlags = subprocess.STARTF_USESHOWWINDOW
    info.wShowWindow = subprocess.SW_HIDE
    return {"startupinfo": info}


def _killTree(process: subprocess.Popen[str]) -> None:
    """End a process and its children; PythonSlicer is only a launcher of the interpreter proper."""
    with contextlib.suppress(OSError):  # it has ended already, which macOS calls a lack of permission
        if sys.platform == "win32":
            command = ["taskkill", "/T", "/F", "/PID", str(process.pid)]
            subprocess.run(command, capture_output=True, check=False, **_processOptions())
        else:
            os.killpg(process.pid, signal.SIGKILL)
