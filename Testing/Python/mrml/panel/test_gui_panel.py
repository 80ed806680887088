"""The panel without Slicer: what ctest runs inside Slicer, run on the stand-ins, and what opening it loads."""

import ast
import json
import os
import subprocess
import sys
import unittest
from pathlib import Path

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 is not installed", exc_type=ImportError)

import DeepAttentionRegCorrectionTest as correction
import DeepAttentionRegEvidenceTest as evidence
import DeepAttentionRegGuiTest as whole
import DeepAttentionRegMapsTest as maps
import DeepAttentionRegMethodTest as method
import DeepAttentionRegRecursionsTest as recursions
import DeepAttentionRegSectionsTest as sections
import DeepAttentionRegViewsTest as views
from test_rules import LIGHT

pytestmark = pytest.mark.mrml

SUPPORT = Path(__file__).resolve().parents[2] / "support"
SELF_TEST = ast.parse((SUPPORT / "gui_stand_ins" / "self_test.py").read_text(encoding="utf-8"))
PANELS = (
    whole.DeepAttentionRegGuiTest,
    sections.DeepAttentionRegSectionsTest,
    method.DeepAttentionRegMethodTest,
    views.DeepAttentionRegViewsTest,
    maps.DeepAttentionRegMapsTest,
    recursions.DeepAttentionRegRecursionsTest,
    correction.DeepAttentionRegCorrectionTest,
    evidence.DeepAttentionRegEvidenceTest,
)
TIMEOUT_S = 900
OPEN_PANEL = """
import gui_stand_ins
application = gui_stand_ins.install()
application.mainWindow.selectModule("DeepAttentionReg")
application.processEvents()
import os, sys
print("|".join(sys.modules), flush=True)
os._exit(0)  # as __main__.py of the stand-ins does
"""


def run(*command: str, **variables: str) -> subprocess.CompletedProcess:
    """Run Python in a process of its own: the stand-ins change PySide6 and slicer for good."""
    environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(map(str, (SUPPORT, SUPPORT.parent)))}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def names_of_tests() -> list[str]:
    """Return the ids of all tests that run on the stand-ins; those of the stand-ins need them to be imported."""
    names = []
    for panel in PANELS:
        tests = unittest.TestLoader().getTestCaseNames(panel)
        names += [f"{panel.__module__}.{panel.__name__}.{name}" for name in tests]
    for case in ast.walk(SELF_TEST):
        if isinstance(case, ast.ClassDef):
            tests = (item.name for item in case.body if isinstance(item, ast.FunctionDef))
            names += [f"gui_stand_ins.self_test.{case.name}.{name}" for name in tests if name.startswith("test_")]
    return names


NAMES = names_of_tests()


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What went wrong in each selected test, by its id; all run in one process."""
    report = tmp_path_factory.mktemp("gui") / "report.json"
    calls = [item.callspec for item in request.session.items if hasattr(item, "callspec")]
    names = [call.params["name"] for call in calls if call.params.get("name") in NAMES]
    done = run(str(SUPPORT / "gui_stand_ins"), *names, GUI_TEST_REPORT=str(report))
    assert report.exists(), f"The tests ended early (exit code {done.returncode}).\n{done.stdout}\n{done.stderr}"
    return json.loads(report.read_text(encoding="ascii"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_on_stand_ins(name: str, outcomes: dict[str, str]) -> None:
    assert not outcomes[name], outcomes[name]


def test_opening_the_panel_loads_neither_torch_nor_what_computes_with_it() -> None:
    done = run("-c", OPEN_PANEL)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split("|"))
    engine = {name.split(".")[1] for name in loaded if name.startswith("DeepAttentionRegEngine.")}
    assert "DeepAttentionRegLib.Parameters" in loaded
    assert "torch" not in loaded
    assert engine <= LIGHT
