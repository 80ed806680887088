"""Find out whether PyTorch is there without importing it; install it through the PyTorch extension, and remove it.

Nothing is installed or removed without consent, and the application is not made to wait where that can be helped.
"""

import enum
import importlib.metadata
import importlib.util
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol.privacy import discreet_logger

logger = discreet_logger(__name__)

MINIMUM_VERSION = (2, 1)
# Version 2.13 has paths that are too long for Windows below the folder of Slicer; pip gives up halfway.
BELOW_ON_WINDOWS = "2.13"
EXTENSION = "PyTorch"
# What comes to Slicer's Python with PyTorch; itself last, for pip may fail to uninstall it.
PACKAGES = ("light-the-torch", "torchvision", "torch")
# Libraries of gigabytes that PyTorch requires on some computers.
GPU_LIBRARIES = ("nvidia-", "cuda-", "triton")
# What half an installation leaves behind, which pip cannot uninstall.
REMAINS = ("torch", "torchgen", "functorch", "torch-*.dist-info", "~orch*")


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
        return Finding(State.OLD, text.format(version=version, requirement=requirement()))
    return Finding(State.READY)


def requirement() -> str:
    """Return which versions of PyTorch are installed on this system."""
    least = ">=" + ".".join(str(part) for part in MINIMUM_VERSION)
    return f"{least},<{BELOW_ON_WINDOWS}" if sys.platform == "win32" else least


def ask(finding: Finding) -> bool:
    """Return whether the user wants PyTorch to be installed.

    :param finding: what `probe` said.
    """
    question = _("Download and install PyTorch now? It takes several hundred MB and some minutes.")
    details = _("Package: torch{requirement}, chosen for this computer by the PyTorch extension.")
    return slicer.util.confirmOkCancelDisplay(
        f"{finding.message}\n\n{question}", detailedText=details.format(requirement=requirement())
    )


def install(finding: Finding, onLog: Callable[[str], None], onDone: Callable[[str], None]) -> None:
    """Install PyTorch; half an installation is removed first, or pip would stumble over it. `ask` before.

    :param finding: what `probe` said.
    :param onLog: called with every line of the installer.
    :param onDone: called once with a sentence on what is still missing; empty after success.
    :raises RuntimeError: in a sentence, if another installation runs.
    """
    _requireNoOther()
    try:
        import PyTorchUtils
    except ModuleNotFoundError:
        onDone(_installExtension())
        return

    def proceed(problem: str) -> None:
        try:
            if problem:
                onDone(problem)
            else:
                _installTorch(PyTorchUtils.PyTorchUtilsLogic, onLog, onDone)
        except Exception as error:  # which nobody would hear of who has waited for pip
            logger.exception("PyTorch could not be installed")
            onDone(_("PyTorch could not be installed. {reason}").format(reason=error))

    if finding.state is State.BROKEN:
        _uninstall(["torchvision", "torch"], onLog, proceed)
    else:
        proceed("")


def askToRemove() -> bool:
    """Return whether the user wants PyTorch to be removed, with what was downloaded along."""
    question = _("Remove PyTorch and what was downloaded with it? Other extensions may use it, too.")
    return slicer.util.confirmOkCancelDisplay(question, detailedText="\n".join(_removable()))


def remove(onLog: Callable[[str], None], onDone: Callable[[str], None]) -> None:
    """Remove PyTorch and what was downloaded with it; `askToRemove` before.

    :param onLog: called with every line of pip.
    :param onDone: called once with a sentence on what went wrong; empty after success.
    :raises RuntimeError: in a sentence, if another installation runs.
    """
    _requireNoOther()
    _uninstall(_removable(), onLog, onDone)


def _requireNoOther() -> None:
    import slicer.packaging

    if slicer.packaging.isPipInstallInProgress():
        raise RuntimeError(_("Slicer is installing another package. Wait until it has, then try again."))


def _installedVersion() -> str | None:
    """Return the version that was installed as a whole; None if there is none."""
    try:
        package = importlib.metadata.distribution("torch")
    except importlib.metadata.PackageNotFoundError:
        return None
    # pip writes the list of files last, and cannot uninstall what has none.
    return package.version if package.read_text("RECORD") is not None else None


def _removable() -> list[str]:
    """Return what is installed of `PACKAGES`, and the libraries that nothing but these requires."""
    needs = {
        _plainName(package.name): {_plainName(text) for text in package.requires or ()}
        for package in importlib.metadata.distributions()
    }
    going = [name for name in PACKAGES if name in needs]
    while True:
        wanted = {name: {user for user, its in needs.items() if name in its} for name in needs if name not in going}
        more = [name for name, users in wanted.items() if users and users <= {*going} and _isGpuLibrary(name)]
        if not more:
            return going
        going = [*more, *going]


def _plainName(requirement: str) -> str:
    """Return the name of a package in the spelling that all others share."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


def _isGpuLibrary(name: str) -> bool:
    return name.startswith(GPU_LIBRARIES)


def _uninstall(packages: list[str], onLog: Callable[[str], None], onDone: Callable[[str], None]) -> None:
    """Uninstall packages, PyTorch among them, even where pip cannot; parameters as `remove`."""
    import slicer.packaging

    def onCompleted(returnCode: int) -> None:
        if probe().state in (State.READY, State.OLD):  # pip has put back what it could not remove
            text = _("PyTorch is in use (pip ended with code {code}). Restart Slicer, then remove it at once.")
            onDone(text.format(code=returnCode))
        else:
            onDone(_removeRemains())

    slicer.packaging.pip_uninstall(packages, blocking=False, logCallback=onLog, completedCallback=onCompleted)


def _removeRemains() -> str:
    """Remove what pip has left of PyTorch and return why that is not possible, if so."""
    folders = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
    try:
        for path in (path for folder in folders for pattern in REMAINS for path in folder.glob(pattern)):
            shutil.rmtree(path)
    except OSError as error:
        text = _("PyTorch could not be removed as a whole ({reason}). Restart Slicer, then repair it at once.")
        return text.format(reason=error.strerror or error)
    return ""


def _installExtension() -> str:
    # The extensions manager asks the user itself and offers the restart.
    if slicer.app.extensionsManagerModel().installExtensionFromServer(EXTENSION):
        return _("Restart Slicer to load the PyTorch extension, then install PyTorch.")
    return _("The PyTorch extension could not be installed. Install it in the Extensions Manager, then try again.")


def _installTorch(utils: Any, onLog: Callable[[str], None], onDone: Callable[[str], None]) -> None:
    arguments = _installerArguments(utils)
    if arguments is None:
        utils().installTorch(askConfirmation=False, torchVersionRequirement=requirement())
        onDone(probe().message)
        return

    def onCompleted(returnCode: int) -> None:
        failed = _("The installer ended with code {code}; the application log has its output.").format(code=returnCode)
        onDone(probe().message if returnCode == 0 else failed)

    slicer.util.executePythonModule(
        "light_the_torch", arguments, blocking=False, logCallback=onLog, completedCallback=onCompleted
    )


def _installerArguments(utils: Any) -> list[str] | None:
    """Prepare the extension's own installer and return its arguments; None if a release has none of this kind.

    The extension's installTorch() blocks the application and imports torch into it, so its two steps are taken one by
    one; they are not public and may change.
    """
    try:
        utils._installLightTheTorch()
        return list(utils._getPipInstallArguments(None, requirement()))
    except (AttributeError, TypeError) as error:
        logger.info("PyTorch is installed by the public function of its extension: %s", error)
        return None
