"""Looking for PyTorch and installing it, on pretended installations and dialogs."""

import sys
from types import SimpleNamespace

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


class TestInstall:
    MISSING = Install.Finding(Install.State.MISSING, "Not there.")

    @pytest.fixture
    def dialog(self, monkeypatch):
        """Return what the user is asked, and answers as its attribute `answer` says."""
        dialog = SimpleNamespace(questions=[], answer=True)

        def ask(text: str, **_options) -> bool:
            dialog.questions.append(text)
            return dialog.answer

        monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", ask)
        return dialog

    def test_asks_first_and_does_nothing_when_declined(self, dialog):
        dialog.answer, done = False, []
        assert not Install.install(self.MISSING, print, done.append)
        assert dialog.questions[0].startswith("Not there.")
        assert not done

    def test_says_how_to_get_the_extension(self, dialog, monkeypatch):
        manager = SimpleNamespace(installExtensionFromServer=lambda _name: False)
        application = SimpleNamespace(extensionsManagerModel=lambda: manager, translate=lambda _context, text: text)
        monkeypatch.setattr(slicer, "app", application, raising=False)
        done = []
        Install.install(self.MISSING, print, done.append)
        assert "Extensions Manager" in done[0]

    def test_runs_the_installer_as_a_process_of_its_own(self, dialog, monkeypatch):
        class Utils:
            _installLightTheTorch = staticmethod(lambda: None)
            _getPipInstallArguments = staticmethod(lambda _backend, requirement: ["install", f"torch{requirement}"])

        calls, done = [], []
        monkeypatch.setitem(sys.modules, "PyTorchUtils", SimpleNamespace(PyTorchUtilsLogic=Utils))
        monkeypatch.setattr(slicer.util, "executePythonModule", lambda *a, **k: calls.append((a, k)), raising=False)
        Install.install(self.MISSING, print, done.append)
        ((arguments, options),) = calls
        options["completedCallback"](1)
        assert arguments == ("light_the_torch", ["install", "torch>=2.1"])
        assert "code 1" in done[0]
