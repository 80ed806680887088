"""Looking for PyTorch and installing it, on pretended installations and dialogs."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")

import slicer_stand_ins

slicer_stand_ins.install()

from DeepAttentionRegLib.engine import Install

pytestmark = pytest.mark.mrml


class TestProbe:
    @pytest.fixture
    def torch(self, monkeypatch):
        """Return a function that pretends a version in the metadata and a folder, of whose package this is the file."""

        def pretend(version: str | None, *, folder: bool, file: str | None = "torch/__init__.py") -> None:
            monkeypatch.setattr(Install, "_installedVersion", lambda: version)
            spec = SimpleNamespace(origin=file) if folder else None
            monkeypatch.setattr(Install.importlib.util, "find_spec", lambda _name: spec)

        return pretend

    def test_finds_a_sufficient_version(self, torch):
        torch("2.1.0+cpu", folder=True)
        assert Install.probe() == Install.Finding(Install.State.READY)

    def test_finds_nothing(self, torch):
        torch(None, folder=False)
        assert Install.probe().state is Install.State.MISSING

    def test_compares_versions_as_numbers(self, torch):
        torch("2.10.0", folder=True)
        assert Install.probe().state is Install.State.READY

    def test_names_a_version_that_is_too_old(self, torch):
        torch("1.13.1", folder=True)
        assert "1.13.1" in Install.probe().message

    @pytest.mark.parametrize(
        ("version", "folder", "file"),
        [(None, True, "torch/__init__.py"), ("2.2.2", False, None), ("2.2.2", True, None)],
        ids=["no metadata", "no folder", "empty folder"],
    )
    def test_finds_half_an_installation(self, torch, version, folder, file):
        torch(version, folder=folder, file=file)
        assert Install.probe().state is Install.State.BROKEN


@pytest.mark.parametrize(("record", "version"), [("torch/__init__.py,,", "2.13.0"), (None, None)])
def test_version_counts_once_all_files_were_installed(monkeypatch, tmp_path, record, version):
    described = tmp_path / "torch-2.13.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Name: torch\nVersion: 2.13.0\n", encoding="ascii")
    if record is not None:
        (described / "RECORD").write_text(record, encoding="ascii")
    package = Install.importlib.metadata.Distribution.at(described)
    monkeypatch.setattr(Install.importlib.metadata, "distribution", lambda _name: package)
    assert Install._installedVersion() == version


class Pip:
    """What slicer.packaging and slicer.util start: each call waits to be completed."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []
        self.is_busy = False
        self._complete = None

    def isPipInstallInProgress(self) -> bool:
        return self.is_busy

    def pip_uninstall(self, packages, *, blocking, logCallback, completedCallback) -> None:
        assert not blocking
        self.calls.append(("uninstall", packages))
        self._complete = completedCallback

    def executePythonModule(self, module, arguments, *, blocking, logCallback, completedCallback) -> None:
        assert not blocking
        self.calls.append((module, arguments))
        self._complete = completedCallback

    def complete(self, code: int = 0) -> None:
        self._complete(code)


class Utils:
    """The logic of the PyTorch extension."""

    installed: ClassVar[list[str]] = []

    @staticmethod
    def _installLightTheTorch() -> None:
        """Install nothing."""

    @staticmethod
    def _getPipInstallArguments(_backend: None, requirement: str) -> list[str]:
        return ["install", f"torch{requirement}"]

    def installTorch(self, *, askConfirmation: bool, torchVersionRequirement: str) -> None:
        assert not askConfirmation
        self.installed.append(torchVersionRequirement)


@pytest.fixture
def pip(monkeypatch):
    pip = Pip()
    monkeypatch.setitem(sys.modules, "slicer.packaging", pip)
    monkeypatch.setattr(slicer, "packaging", pip, raising=False)
    monkeypatch.setattr(slicer.util, "executePythonModule", pip.executePythonModule, raising=False)
    return pip


@pytest.fixture
def extension(monkeypatch):
    """The PyTorch extension, whose logic a test may change."""
    extension = SimpleNamespace(PyTorchUtilsLogic=type("Logic", (Utils,), {"installed": []}))
    monkeypatch.setitem(sys.modules, "PyTorchUtils", extension)
    return extension


@pytest.fixture
def dialog(monkeypatch):
    """Return what the user is asked, and answers as its attribute `answer` says."""
    dialog = SimpleNamespace(questions=[], answer=True)

    def ask(text: str, **_options) -> bool:
        dialog.questions.append(text)
        return dialog.answer

    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", ask)
    return dialog


@pytest.fixture
def site(monkeypatch, tmp_path):
    """The folder of installed packages, with half of PyTorch and another package."""
    for name in (
        "torch/lib",
        "torchgen",
        "torch-2.13.0.dist-info/licenses",
        "torchvision",
        "torchmetrics-1.0.dist-info",
    ):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(Install.sysconfig, "get_path", lambda _name: str(tmp_path))
    return tmp_path


def pretend_state(monkeypatch, state: Install.State) -> None:
    """Let PyTorch be found in a state from now on."""
    message = "" if state is Install.State.READY else f"{state}."
    monkeypatch.setattr(Install, "probe", lambda: Install.Finding(state, message))


MISSING = Install.Finding(Install.State.MISSING, "Not there.")
BROKEN = Install.Finding(Install.State.BROKEN, "Half there.")


@pytest.mark.usefixtures("pip", "dialog")
class TestInstall:
    def test_asks_first(self, dialog):
        dialog.answer = False
        assert not Install.ask(MISSING)
        assert dialog.questions[0].startswith("Not there.")

    def test_says_how_to_get_the_extension(self, monkeypatch):
        manager = SimpleNamespace(installExtensionFromServer=lambda _name: False)
        application = SimpleNamespace(extensionsManagerModel=lambda: manager, translate=lambda _context, text: text)
        monkeypatch.setattr(slicer, "app", application, raising=False)
        done = []
        Install.install(MISSING, print, done.append)
        assert "Extensions Manager" in done[0]

    def test_waits_for_another_installation(self, pip):
        pip.is_busy = True
        for change in (lambda: Install.install(MISSING, print, print), lambda: Install.remove(print, print)):
            with pytest.raises(RuntimeError, match="another package"):
                change()
        assert not pip.calls

    @pytest.mark.usefixtures("extension")
    def test_runs_the_installer_as_a_process_of_its_own(self, pip):
        done = []
        Install.install(MISSING, print, done.append)
        assert pip.calls == [("light_the_torch", ["install", f"torch{Install.requirement()}"])]
        pip.complete(1)
        assert "code 1" in done[0]

    @pytest.mark.parametrize(
        ("platform", "versions"), [("win32", ">=2.1,<2.13"), ("linux", ">=2.1"), ("darwin", ">=2.1")]
    )
    def test_takes_versions_that_the_system_can_install(self, monkeypatch, platform, versions):
        monkeypatch.setattr(Install.sys, "platform", platform)
        assert Install.requirement() == versions

    def test_removes_half_an_installation_before_it_repairs(self, pip, extension, site, monkeypatch):
        pretend_state(monkeypatch, Install.State.BROKEN)
        done = []
        Install.install(BROKEN, print, done.append)
        assert pip.calls == [("uninstall", ["torchvision", "torch"])]
        pip.complete(1)  # it finds no list of the files
        assert sorted(path.name for path in site.iterdir()) == ["torchmetrics-1.0.dist-info", "torchvision"]
        assert pip.calls[1][0] == "light_the_torch"
        pretend_state(monkeypatch, Install.State.READY)
        pip.complete()
        assert done == [""]

    def test_files_in_use_are_told_before_anything_is_installed(self, pip, extension, site, monkeypatch):
        def refuse(path: Path) -> None:
            raise PermissionError(13, "Permission denied")

        pretend_state(monkeypatch, Install.State.BROKEN)
        monkeypatch.setattr(Install.shutil, "rmtree", refuse)
        done = []
        Install.install(BROKEN, print, done.append)
        pip.complete()
        assert "Permission denied" in done[0]
        assert "Restart Slicer" in done[0]
        assert len(pip.calls) == 1

    @pytest.mark.parametrize("error", [AttributeError, TypeError])
    def test_uses_the_public_function_where_the_private_ones_are_others(self, pip, extension, monkeypatch, error):
        def refuse(*_arguments: object) -> list[str]:
            raise error

        pretend_state(monkeypatch, Install.State.READY)
        extension.PyTorchUtilsLogic._getPipInstallArguments = refuse
        done = []
        Install.install(MISSING, print, done.append)
        assert extension.PyTorchUtilsLogic.installed == [Install.requirement()]
        assert done == [""]
        assert not pip.calls

    def test_installer_that_cannot_be_prepared_says_why(self, extension, monkeypatch):
        def fail() -> None:
            msg = "No disk space."
            raise RuntimeError(msg)

        extension.PyTorchUtilsLogic._installLightTheTorch = fail
        done = []
        Install.install(MISSING, print, done.append)
        assert done == ["PyTorch could not be installed. No disk space."]


@pytest.mark.usefixtures("dialog")
class TestRemove:
    @pytest.fixture(autouse=True)
    def packages(self, monkeypatch):
        """Installed packages, and what they require."""
        needs = {
            "torch": ["filelock", "nvidia_cublas; platform_system == 'Linux'", "nvidia-cusolver>=12", "triton==3"],
            "torchvision": ["numpy", "torch==2.13", "pillow!=8.3.*,>=5.3"],
            "light-the-torch": ["pip"],
            "nvidia-cusolver": ["nvidia-cublas"],
            "nvidia-cublas": ["nvidia-nvrtc"],
            "nvidia-nvrtc": [],
            "triton": [],
            "other": ["triton>=3"],
            "numpy": None,
            "filelock": [],
        }
        found = [SimpleNamespace(name=name, requires=requires) for name, requires in needs.items()]
        monkeypatch.setattr(Install.importlib.metadata, "distributions", lambda: found)

    def test_takes_along_what_nothing_else_needs(self, pip):
        Install.remove(print, print)
        ((_call, packages),) = pip.calls
        gpu = {"nvidia-cusolver", "nvidia-cublas", "nvidia-nvrtc"}
        assert set(packages) == gpu | {"light-the-torch", "torchvision", "torch"}
        assert packages[-1] == "torch"

    def test_asks_first(self, pip, dialog):
        dialog.answer = False
        assert not Install.askToRemove()
        assert "Other extensions" in dialog.questions[0]

    def test_leaves_what_is_in_use_as_it_is(self, pip, site, monkeypatch):
        pretend_state(monkeypatch, Install.State.READY)
        done = []
        Install.remove(print, done.append)
        pip.complete(1)
        assert "Restart Slicer" in done[0]
        assert (site / "torch").exists()

    def test_ends_with_nothing_left(self, pip, site, monkeypatch):
        pretend_state(monkeypatch, Install.State.MISSING)
        done = []
        Install.remove(print, done.append)
        pip.complete()
        assert done == [""]
