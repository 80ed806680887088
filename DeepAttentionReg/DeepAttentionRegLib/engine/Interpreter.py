"""Which Python runs the engine, and on which devices: ask the engine, check another Python, remember the choice.

The choice belongs to the computer, so it is kept in the settings of the application and not in the scene.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import contract, errors

from .Callbacks import Callbacks
from .Engine import Engine
from .EngineJob import EngineJob

SETTING = "DeepAttentionReg/pythonExecutable"
# Importing PyTorch the first time takes a minute on a slow disk; a program that is no Python may wait for ever.
TIMEOUT_S = 120.0
BYTES_PER_GB = 1e9


@dataclass(frozen=True)
class Device:
    """Where the engine can compute.

    :param name: what a job takes: "auto", "cpu" or "cuda:n".
    :param label: text for people.
    """

    name: str
    label: str


@dataclass(frozen=True)
class Environment:
    """What the engine sees in a Python.

    :param problem: a sentence on why it cannot run there; empty if it can.
    :param summary: a sentence on the versions and the graphics cards; empty if it cannot run.
    :param devices: where it can compute, the automatic choice first; empty if it cannot run.
    :param speeds: of the devices by name, for `Methods.estimateText`.
    :param isPassing: whether the problem may be gone at another time, as that of too little memory, with nothing to
        mend.
    """

    problem: str
    summary: str = ""
    devices: tuple[Device, ...] = ()
    speeds: dict[str, float] | None = None
    isPassing: bool = False


def savedInterpreter() -> str | None:
    """Return the Python that the user has chosen for the engine; None for Slicer's own."""
    application = getattr(slicer, "app", None)
    return (application and application.userSettings().value(SETTING)) or None


def saveInterpreter(pythonExecutable: str | None) -> None:
    """Remember the Python of the engine on this computer.

    :param pythonExecutable: path of an interpreter; None takes Slicer's own again.
    """
    settings = slicer.app.userSettings()
    if pythonExecutable is None:
        settings.remove(SETTING)
    else:
        settings.setValue(SETTING, pythonExecutable)


def checkPath(pythonExecutable: str) -> str:
    """Return why a file is no Python interpreter, as a sentence, without running it; empty if it may be one.

    :param pythonExecutable: path of a file.
    """
    path = Path(pythonExecutable)
    if path.is_dir():
        return _("{path} is a folder; choose the Python program in it.").format(path=path)
    if not path.is_file():
        return _("There is no file {path}; choose a Python program.").format(path=path)
    if "python" not in path.stem.lower():
        return _("{path} is no Python program; its name would contain python.").format(path=path)
    return ""


def checkDevice(name: str, environment: Environment) -> str:
    """Return why a device cannot be used, as a sentence; empty if it can.

    :param name: as in `contract.RegisterJob`; a scene may name one of another computer.
    :param environment: of this computer; if the engine cannot run there, nothing is known of its devices.
    """
    wanted = "cuda:0" if name == "cuda" else name
    if not environment.devices or any(device.name == wanted for device in environment.devices):
        return ""
    return _("This computer has no device {name}; choose automatic or CPU.").format(name=name)


class Check:
    """Asks the engine in a Python what it sees, without blocking; `start` it, then `wait` or let the answer come."""

    def __init__(self, onDone: Callable[[Environment], None], engine: Engine | None = None) -> None:
        """Prepare; nothing is done before `start`.

        :param onDone: called once in the main thread with the answer, unless `close` comes first.
        :param engine: what runs it; None takes Slicer's own Python.
        """
        self._onDone = onDone
        self._engine = engine or Engine()
        self._job: EngineJob | None = None
        self._timer: threading.Timer | None = None

    @property
    def isRunning(self) -> bool:
        """Whether it was started and has not answered yet."""
        return self._job is not None and self._job.isRunning

    def start(self) -> None:
        """Start the interpreter and return; what is wrong with its path is answered at once."""
        problem = checkPath(self._engine.python) if self._engine.python is not None else ""
        if problem:
            self._onDone(Environment(problem))
            return
        callbacks = Callbacks(onFinished=self._onResult, onFailed=self._onFailure)
        try:
            self._job = EngineJob(callbacks, self._engine)
            self._job.start(contract.ProbeJob())
        except RuntimeError as error:
            self._onDone(Environment(str(error)))
            return
        self._timer = threading.Timer(TIMEOUT_S, self._job.cancel)
        self._timer.daemon = True
        self._timer.start()

    def poll(self) -> None:
        """Pass on the answer; only needed where no Qt event loop does it."""
        if self._job is not None:
            self._job.poll()

    def wait(self) -> None:
        """Return when the answer was passed on, keeping the application responsive meanwhile."""
        if self._job is not None:
            self._job.wait()

    def close(self) -> None:
        """Give up; nobody is called any more."""
        self._stopTimer()
        if self._job is not None:
            self._job.close()

    def _stopTimer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _onResult(self, result: contract.Result) -> None:
        self._stopTimer()
        self._onDone(readEnvironment(result.values))

    def _onFailure(self, failure: contract.Failure) -> None:
        self._stopTimer()
        python = self._engine.python or _("Slicer's Python")
        if failure.code == errors.CANCELLED:
            text = _("{python} did not answer within {seconds:.0f} s.")
            problem = text.format(python=python, seconds=TIMEOUT_S)
        elif failure.code == errors.INTERNAL:
            text = _("{python} cannot run the engine, which needs Python 3.10 or later with PyTorch. {reason}")
            problem = text.format(python=python, reason=failure.hint or failure.message)
        else:
            problem = f"{python}: {failure.message} {failure.hint}".strip()
        self._onDone(Environment(problem, isPassing=failure.code == errors.OUT_OF_MEMORY))


def readEnvironment(values: dict[str, Any]) -> Environment:
    """Return what the engine's answer to a `contract.ProbeJob` says.

    :param values: `values` of its result.
    """
    cards = values.get("devices", [])
    versions = values.get("versions", {})
    text = _("PyTorch {torch} in Python {python}, {cards}.")
    summary = text.format(
        torch=versions.get("torch", "?"),
        python=versions.get("python", "?"),
        cards=", ".join(str(card["name"]) for card in cards) or _("no CUDA graphics card"),
    )
    first = cards[0]["name"] if cards else _("CPU")
    devices = (
        Device("auto", _("Automatic ({device})").format(device=first)),
        Device("cpu", _("CPU")),
        *(Device(str(card["id"]), _cardLabel(card)) for card in cards),
    )
    return Environment("", summary, devices, values.get("speed", {}))


def _cardLabel(card: dict[str, Any]) -> str:
    if card.get("free") is None:
        return f"{card['name']} ({card['id']})"
    text = _("{name} ({id}, {free:.1f} of {total:.1f} GB free)")
    sizes = {name: card[name] / BYTES_PER_GB for name in ("free", "total")}
    return text.format(name=card["name"], id=card["id"], **sizes)
