"""Weights are stored in 8 bits where that costs next to nothing; both files are measured alike and told of."""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.torch

from training_cases import NETWORK, chest_config, need, untrained, write_slices

need("ants", "monai", "scipy")

from DeepAttentionRegEngine.networks import load_network
from DeepAttentionRegEngine.networks.packing import is_packed
from DeepAttentionRegEngine.protocol import registry
from training.configs.reading import read_config
from training.configs.schema import Config, ConfigError
from training.measure import compress
from training.measure.compress import Dice, Pairs
from training.measure.transfer_sets import SETS
from training.paths import RESOURCES
from training.run import export

ALL = Pairs(None, None)
DATE = "2026-11-29"


@pytest.fixture
def resources(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return resources with one method and no weights yet, below the folder of the chest X-rays."""
    resources = folder / "Resources"
    (resources / "Methods").mkdir(parents=True)
    method = json.loads((RESOURCES / "Methods" / "rman.json").read_text(encoding="ascii"))
    method["recursions"] |= {"default": 2}
    method |= {"architecture": "agf", "variants": [], "networks": {"2": NETWORK, "3": {"nd": 3}}}
    (resources / "Methods" / "agf.json").write_text(json.dumps(method), encoding="ascii")
    monkeypatch.setattr(registry, "resources", lambda: resources)
    return resources


def exported(resources: Path, general: bool = False, **changes: object) -> Config:
    """List untrained weights in 16 bits and return their configuration."""
    release = {"id": "tiny", "training_data": "Made up", "licence": "CC0-1.0", "method": "agf", "general": general}
    path, checkpoint = chest_config(resources.parent, release=release, **changes), resources / "checkpoint.pt"
    torch.save(untrained(path), checkpoint)
    given = {"config": path, "checkpoint": checkpoint, "date": DATE, "figures": False, "file": None}
    export.command(argparse.Namespace(**given, results=resources / "results", resources=resources))
    return read_config(path)


def entry(resources: Path) -> dict:
    return json.loads((resources / "weights.json").read_text(encoding="ascii"))["weights"][0]


@pytest.fixture
def measure_as(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    """Return the function that sets what two data sets of three pairs would lose."""

    def set_losses(*losses: float) -> None:
        found = [Dice(f"set {n}", 3, {16: 0.8, 8: 0.8 - loss}) for n, loss in enumerate(losses)]
        monkeypatch.setattr(compress, "measured", lambda *_: iter(found))

    return set_losses


class TestStoring:
    def test_file_as_good_is_replaced(self, resources: Path, measure_as: Callable) -> None:
        config = exported(resources)
        before = (resources / "Models" / "tiny.pt").read_bytes()
        measure_as(0.0009, -0.002)
        compress.compress(config, ALL, DATE, resources)
        after, told = (resources / "Models" / "tiny.pt").read_bytes(), entry(resources)
        assert (told["bytes"], told["sha256"]) == (len(after), hashlib.sha256(after).hexdigest())
        assert told["storage"] == {
            "bits": 8,
            "original": {"bytes": len(before), "sha256": hashlib.sha256(before).hexdigest()},
            "date": DATE,
            "pairs": 6,
            "dice": {
                "set 0, K=2": {"pairs": 3, "bits_16": 0.8, "bits_8": 0.7991},
                "set 1, K=2": {"pairs": 3, "bits_16": 0.8, "bits_8": 0.802},
            },
        }

    def test_engine_loads_it(self, resources: Path, measure_as: Callable) -> None:
        config = exported(resources)
        measure_as(0.0)
        compress.compress(config, ALL, DATE, resources)
        assert is_packed(torch.load(resources / "Models" / "tiny.pt", weights_only=True))
        variant = registry.choose_variant(registry.load_method("agf"), 2, None)
        assert not load_network("agf", variant).training
        assert registry.load_weights()["tiny"].storage["bits"] == 8

    def test_file_that_loses_on_one_data_set_stays_in_16_bits(self, resources: Path, measure_as: Callable) -> None:
        config = exported(resources)
        before = (resources / "Models" / "tiny.pt").read_bytes()
        measure_as(0.0, 0.0011)
        compress.compress(config, ALL, DATE, resources)
        assert (resources / "Models" / "tiny.pt").read_bytes() == before
        assert entry(resources)["storage"]["bits"] == 16
        assert entry(resources)["storage"]["dice"]["set 1, K=2"]["bits_8"] == 0.7989

    def test_packed_file_is_not_packed_again(self, resources: Path, measure_as: Callable) -> None:
        config = exported(resources)
        measure_as(0.0)
        compress.compress(config, ALL, DATE, resources)
        with pytest.raises(ConfigError, match=r"tiny\.pt is in 8 bits already"):
            compress.compress(config, ALL, DATE, resources)

    def test_next_export_is_in_16_bits_again(self, resources: Path, measure_as: Callable) -> None:
        config = exported(resources)
        measure_as(0.0)
        compress.compress(config, ALL, DATE, resources)
        exported(resources)
        assert entry(resources)["storage"] == {}


class TestMeasured:
    @staticmethod
    def by_bits(config: Config, resources: Path, pairs: Pairs = ALL) -> list[Dice]:
        folder = resources / "files"
        folder.mkdir()
        files = compress.both_files(config, resources / "Models" / "tiny.pt", folder)
        return list(compress.measured(config, files, pairs))

    def test_networks_are_measured_as_in_their_protocol(self, resources: Path) -> None:
        config = exported(resources)
        (found,) = self.by_bits(config, resources)
        assert (found.subset, found.pairs) == ("jsrt", 2)
        # Untrained networks move next to nothing, so 8 bits change next to nothing.
        assert found.mean[8] == pytest.approx(found.mean[16], abs=0.02)

    def test_whole_jobs_are_measured_as_users_run_them(self, resources: Path) -> None:
        data = write_slices(resources.parent, 3)
        config = exported(resources, data=data, evaluation={"protocol": "job", "pairs": 3})
        (found,) = self.by_bits(config, resources, Pairs(2, None))
        assert (found.subset, found.pairs) == ("slices", 2)
        assert set(found.mean) == {16, 8}

    def test_general_weights_are_measured_on_the_sets_that_fit(
        self, resources: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []

        def rows(found: object, table: dict, limit: int | None) -> Iterator[dict]:
            asked.append((found.title, limit))
            return [{"setting": bits, "pairs": 1, "figures": {"dice": {"mean": 0.5}}} for bits in table]

        monkeypatch.setattr(compress, "set_rows", rows)
        config = exported(resources, general=True)
        found = self.by_bits(config, resources, Pairs(1, ["heart", "phantom-slices", "brain"]))
        assert asked == [(SETS["heart"].title, 1), (SETS["phantom-slices"].title, 1)]
        assert [dice.mean for dice in found] == [{16: 0.5, 8: 0.5}] * 2


class TestTable:
    def test_tells_size_figures_and_the_sum(self) -> None:
        stored = {"bits": 8, "original": {"bytes": 2_000_000}}
        stored["dice"] = {"set, K=2": {"pairs": 3, "bits_16": 0.8, "bits_8": 0.7995}}
        entries = [{"id": "a", "bytes": 1_000_000, "storage": stored}, {"id": "b", "bytes": 500_000}]
        lines = compress.table(entries).splitlines()
        assert "| `a` | 2.00 | 1.00 | set, K=2 | 3 | 0.8000 | 0.7995 | -0.00050 |" in lines
        assert lines[-1] == "All 2 files: 2.5 MB in 16 bits, 1.5 MB as shipped."

    def test_document_of_the_project_is_up_to_date(self) -> None:
        listed = json.loads((registry.resources() / "weights.json").read_text(encoding="ascii"))["weights"]
        assert compress.TABLE.read_text(encoding="ascii") == compress.table(listed)

    def test_every_file_of_the_project_is_measured_and_none_loses_more_than_allowed(self) -> None:
        for weights in registry.load_weights().values():
            told = weights.storage
            losses = [dice["bits_16"] - dice["bits_8"] for dice in told["dice"].values()]
            assert told["bits"] == (8 if max(losses) <= compress.LARGEST_LOSS else 16)
