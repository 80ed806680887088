"""The shipped weights on real images that they were not trained on."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from DeepAttentionRegEngine import Settings, structures
from DeepAttentionRegEngine.jobs import run
from DeepAttentionRegEngine.protocol.contract import RegisterJob
from DeepAttentionRegEngine.protocol.reporting import Reporter
from DeepAttentionRegEngine.volume.images import read_displacement
from DeepAttentionRegEngine.volume.metrics import dice
from DeepAttentionRegEngine.volume.segments import as_segments

ROOT = Path(__file__).resolve().parents[4]
FOLDER = Path(os.environ.get("DAR_DATA") or ROOT.parent / "shared" / "data") / "hippocampus"
PAIRS = 8
START = {"alignment": "center", "device": "cpu", "refinement_steps": 0}
pytestmark = [
    pytest.mark.torch,
    pytest.mark.data,
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="no real images: DAR_DATA names no folder"),
]


@pytest.fixture(scope="module")
def names() -> list[str]:
    """Validation cases, which training never saw."""
    split = ROOT / "training" / "data" / "splits" / "hippocampus.json"
    return json.loads(split.read_text(encoding="ascii"))["validation"]


def register(fixed: str, moving: str, **options: int | str | bool) -> dict:
    """Register two cases by the shipped method, from the start it was trained on, and return the engine's figures."""
    files = {
        f"{side}{kind}": str(FOLDER / folder / name)
        for side, name in (("fixed", fixed), ("moving", moving))
        for kind, folder in (("", "images"), ("_labels", "labels"))
    }
    return run(RegisterJob(**{**files, **START, **options}), Reporter()).values


@pytest.fixture(scope="module", params=[0, 40], ids=["network alone", "refined"])
def figures(request: pytest.FixtureRequest, names: list[str]) -> list[dict]:
    """Figures of a few pairs, without and with refinement."""
    pairs = zip(names[:PAIRS], names[PAIRS : 2 * PAIRS], strict=True)
    return [register(fixed, moving, refinement_steps=request.param) for fixed, moving in pairs]


def mean_dice(figures: list[dict], when: str) -> float:
    return float(np.mean([values[when]["dice"]["mean"] for values in figures]))


def test_dice_of_pairs_not_trained_on_reaches_three_quarters(figures: list[dict]) -> None:
    assert mean_dice(figures, "after") > 0.75 > mean_dice(figures, "aligned") + 0.1


def test_fewer_than_one_voxel_in_a_thousand_folds(figures: list[dict]) -> None:
    assert max(values["jacobian"]["fold_percent"] for values in figures) < 0.1


def test_volume_registered_with_itself_stays(names: list[str]) -> None:
    values = register(names[0], names[0])
    # Less than 0.2 voxel (of 1 mm) on average.
    assert values["displacement_mm"]["mean"] < 0.2
    assert values["after"]["dice"]["mean"] > 0.99


def test_half_precision_moves_nothing_by_a_twentieth_of_a_voxel(names: list[str], tmp_path: Path) -> None:
    fields = []
    for half_precision in (False, True):
        register(names[0], names[4], half_precision=half_precision, output_transform=str(tmp_path / "t.nrrd"))
        fields.append(read_displacement(tmp_path / "t.nrrd")[0])
    assert 0 < np.abs(fields[1] - fields[0]).max() < 0.05  # mm, at voxels of 1 mm


def test_structures_of_a_network_are_those_that_people_have_drawn(names: list[str]) -> None:
    settings = Settings(method="agf-diffeo", weights="agf-hippocampus-mr", device="cpu")
    for name in names[:PAIRS]:
        found = structures(FOLDER / "images" / name, settings)
        drawn = as_segments(FOLDER / "labels" / name)
        assert found.geometry.matches(drawn.geometry)
        assert min(dice(found.layers[0], drawn.layers[0], (1, 2)).values()) > 0.8
