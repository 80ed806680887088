"""Find out whether PyTorch is there without importing it; install it, with consent, through the PyTorch extension."""

import enum
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass

import slicer
from slicer.i18n import tr as _

MINIMUM_VERSION = (2, 1)
REQUIREMENT = ">=" + ".".join(str(part) for part in MINIMUM_VERSION)
EXTENSION = "PyTorch"


class State(enum.Enum):
    """What stands between the user and a registration."""

    READY = "ready"
    MISSING = "missing"
    OLD = "old"
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    """State of PyTorch in this Python.

    :param state: what is the matter.
    :param message: a sentence for the user; empty when ready.
    """

    state: State
    message: str = ""


def probe() -> Finding:
    """Look for PyTorch in the files of this Python; takes milliseconds and imports nothing.

    :return: whether the engine can run, and if not a sentence why.
    """
    importlib.invalidate_caches()
    version = _installedVersion()
    spec = importlib.util.find_spec("torch")
    # A half-removed or half-installed package leaves a folder without __init__.py, or metadata without a folder.
    if (spec is not None and spec.origin is None) or (version is None) != (spec is None):
        return Finding(State.BROKEN, _("PyTorch is only partly installed. Install it again, then restart Slicer."))
    if version is None:
        return Finding(State.MISSING, _("PyTorch, which computes the registration, is not installed yet."))
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < MINIMUM_VERSION:
        text = _("PyTorch {version} is too old; {requirement} is needed.")
        return Finding(State.OLD, text.format(version=version, requirement=REQUIREMENT))
    return Finding(State.READY)


def install(finding: Finding, onLog: Callable[[str], None], onDone: Callable[[str], None]) -> bool:
    """Ask for consent and install PyTorch, without freezing the application where the extension allows it.

    :param finding: what `probe` said.
    :param onLog: called with every line of the installer.
    :param onDone: called once, unless the user declines, with a sentence on what is still missing; empty after success.
    :return: whether the user consented.
    """
    question = _("Download and install PyTorch now? It takes several hundred MB and some minutes.")
    details = _("Package: torch{requirement}, chosen for this computer by the PyTorch extension.")
    if not slicer.util.confirmOkCancelDisplay(
        f"{finding.message}\n\n{question}", detailedText=details.format(requirement=REQUIREMENT)
    ):
        return False
    try:
        import PyTorchUtils
    except ModuleNotFoundError:
        onDone(_installExtension())
    else:
        _installTorch(PyTorchUtils.PyTorchUtilsLogic, onLog, onDone)
    return True


def _installedVersion() -> str | None:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def _installExtension() -> str:
    # The extensions manager asks the user itself and offers the restart.
    if slicer.app.extensionsManagerModel().installExtensionFromServer(EXTENSION):
        return _("Restart Slicer to load the PyTorch extension, then install PyTorch.")
    return _("The PyTorch extension could not be installed. Install it in the Extensions Manager, then try again.")


def _installTorch(utils: type, onLog: Callable[[str], None], onDone: Callable[[str], None]) -> None:
    # installTorch() blocks the application and imports torch into it, so its two steps are run as a process of their
    # own; they are not public, and where a release lacks them installTorch() has to do.
    if not (hasattr(utils, "_installLightTheTorch") and hasattr(utils, "_getPipInstallArguments")):
        utils().installTorch(askConfirmation=False, torchVersionRequirement=REQUIREMENT)
        onDone(probe().message)
        return

    def onCompleted(returnCode: int) -> None:
        failed = _("The installer ended with code {code}; the application log has its output.").format(code=returnCode)
        onDone(probe().message if returnCode == 0 else failed)

    utils._installLightTheTorch()
    arguments = utils._getPipInstallArguments(None, REQUIREMENT)
    slicer.util.executePythonModule(
        "light_the_torch", arguments, blocking=False, logCallback=onLog, completedCallback=onCompleted
    )
