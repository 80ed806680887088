"""The small version of the paper's Figure 5 runs; whether it shows the same takes minutes, results/ keeps it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.torch


def test_every_network_is_trained_and_applied() -> None:
    script = ROOT / "training" / "figure5_synthetic.py"
    done = subprocess.run(
        [sys.executable, str(script), "--steps", "1", "--batches", "1"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "DeepAttentionReg")},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[2:]]
    assert [row[:2] for row in rows] == [[name, str(k)] for name in ("RMAn", "RCn") for k in (1, 2, 3)]
    assert all(0 < float(figure) < 10 for row in rows for figure in row[2:])
