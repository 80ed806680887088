"""The measurement of interaction goes through every tool it names."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")

pytestmark = pytest.mark.mrml

SCRIPT = Path(__file__).resolve().parents[2] / "Tools" / "bench_interaction.py"


@pytest.mark.slow
def test_every_interaction_is_measured() -> None:
    command = [sys.executable, str(SCRIPT), "--size", "24"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| ([a-z ]+) \| \d+ \| \d+ \| \d+ \| \d+ \|$", done.stdout, re.MULTILINE)
    works = re.findall(r"^\| ([A-Za-z .|]+?) \| [\d.]+ \| \d+ \|$", done.stdout, re.MULTILINE)
    assert works[-3:] == ["folds", "warp", "compare segments"]
    assert rows == ["readout", "map threshold", "fade", "reveal", "scrub", "scrub with grid", "correct by hand"]
