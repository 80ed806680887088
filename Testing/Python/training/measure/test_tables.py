"""The tables of results."""

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch

from training_cases import chest_config, need

need("monai", "scipy")

from training.configs.reading import read_config
from training.measure import evaluate, tables
from training.paths import RESULTS, TRAINING


class TestTables:
    def run(self, dice: float, seed: int) -> dict[str, Any]:
        figures = {"dice": {"mean": dice, "sd": 0.01}, "hd_px": {"mean": None, "sd": None, "missing": 3}}
        row = {"subset": "jsrt", "setting": "K=1", "pairs": 3, "figures": figures}
        return {"seed": seed, "hardware": "a computer", "rows": [row]}

    def test_seeds_are_merged_with_their_range(self, folder: Path) -> None:
        config = read_config(chest_config(folder))
        for seed, value in ((0, 0.9), (1, 0.8), (1, 0.92)):  # the second run of a seed replaces the first
            evaluate.write(folder / "results" / "tiny.json", config, self.run(value, seed))
        report = json.loads((folder / "results" / "tiny.json").read_text())
        known = {"Tests": {"rows": [{"subset": "jsrt", "method": "SyN", "dice": "0.895", "source": "a paper"}]}}
        lines = tables.to_markdown([report], known).splitlines()
        assert "| jsrt | Tiny AGF | K=1 | 3 | 2 | 0.910 +- 0.010 [0.900 to 0.920] | a computer |" in lines
        assert "| jsrt | SyN | published |  |  | 0.895 | a paper |" in lines

    def test_document_of_the_project_is_up_to_date(self) -> None:
        paths = sorted(RESULTS.glob("*.json"))
        reports = [json.loads(path.read_text(encoding="ascii")) for path in paths]
        published = json.loads(tables.PUBLISHED.read_text(encoding="ascii"))
        assert (TRAINING / "RESULTS.md").read_text(encoding="ascii") == tables.to_markdown(reports, published)
