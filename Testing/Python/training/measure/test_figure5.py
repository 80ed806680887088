"""The paper's Figure 5: the small version runs, what it shows is kept in results/; the plot shows what was measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch

from training.paths import ROOT
from training_cases import need


@pytest.mark.slow
def test_every_network_is_trained_and_applied() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "training", "figure5-synthetic", "--steps", "1", "--batches", "1"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "DeepAttentionReg")},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[2:]]
    assert [row[:2] for row in rows] == [[name, str(k)] for name in ("RMAn", "RCn") for k in (1, 2, 3)]
    assert all(0 < float(figure) < 10 for row in rows for figure in row[2:])


def test_plot_shows_every_network_at_every_number_of_recursions(tmp_path: Path) -> None:
    need("matplotlib")
    import matplotlib as mpl

    mpl.use("Agg")
    from training.measure.figure5 import PANELS, picture

    for number, network in enumerate(("rman", "rcn")):
        for trained in (1, 2, 3):
            rows = [
                {
                    "subset": "hippocampus",
                    "setting": f"K={used}" if used else "identity",
                    "pairs": 2,
                    "figures": {name: {"mean": used + trained / 10 - number, "sd": 0.0} for name in PANELS},
                }
                for used in range(3)
            ]
            report = {"title": network, "runs": {"0": {"hardware": "a CPU", "rows": rows}}}
            (tmp_path / f"{network}-k{trained}_hippocampus.json").write_text(json.dumps(report))
    lines = picture(tmp_path).axes[0].get_lines()
    assert len(lines) == 6
    assert list(lines[4].get_xdata()) == [1, 2]
    assert list(lines[4].get_ydata()) == pytest.approx([0.2, 1.2])
