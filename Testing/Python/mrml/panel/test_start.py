"""What Slicer's start has to wait for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")

pytestmark = pytest.mark.mrml

ROOT = Path(__file__).resolve().parents[4]
SEARCH = (ROOT / "DeepAttentionReg", ROOT / "Testing" / "Python" / "support")
# The modules of the packages that are needed at the start, all of them light.
LIGHT = {
    *("nodes", "nodes.Present", "nodes.SampleCases", "engine", "engine.Folders"),
    *("views", *(f"views.{name}" for name in ("SavedViews", "Layers", "Layouts", "Links", "ComparisonModes"))),
    *("protocol", "protocol.owned_folders", "protocol.privacy", "protocol.watchdog"),
}
# Loads the module, lets Slicer have started, and prints the modules that this has loaded and the files it has read.
START = """
import sys, types, unittest.mock, slicer_stand_ins
slicer_stand_ins.install()
import slicer
calls, read = [], []
slicer.app = types.SimpleNamespace(connect=lambda _signal, call: calls.append(call), temporaryPath={folder!r})
slicer.mrmlScene = unittest.mock.MagicMock()
sys.modules["SampleData"] = unittest.mock.MagicMock()
sys.addaudithook(lambda event, given: read.append(str(given[0])) if event == "open" else None)
import DeepAttentionReg
DeepAttentionReg.DeepAttentionReg(types.SimpleNamespace(path=DeepAttentionReg.__file__))
for call in calls:
    call()
print("|".join(sys.modules), "|".join(read), sep="\\n")
"""


def test_start_loads_next_to_nothing_and_reads_no_resource(tmp_path):
    code = START.format(folder=str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, SEARCH))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded, read = (line.split("|") for line in done.stdout.splitlines()[-2:])
    ours = {name for name in loaded if name.startswith(("DeepAttentionRegLib.", "DeepAttentionRegEngine."))}
    assert {name.partition(".")[2] for name in ours} == LIGHT
    assert "SimpleITK" not in loaded
    assert not [path for path in read if Path(path).parent.name in ("Methods", "Resources", "UI")]
