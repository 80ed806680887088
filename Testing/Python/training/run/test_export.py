"""Weights that the engine loads, and what is told of them."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.torch

from training_cases import NETWORK, chest_config, need, untrained

need("monai", "scipy")

from DeepAttentionRegEngine.networks import build, load_network
from DeepAttentionRegEngine.protocol import registry
from training.configs.reading import read_config
from training.measure import evaluate
from training.paths import RESOURCES
from training.run import export
from training.run.export import as_json


class TestExport:
    @pytest.fixture
    def resources(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A copy of the method files without any weights."""
        resources = tmp_path / "Resources"
        (resources / "Methods").mkdir(parents=True)
        method = json.loads((RESOURCES / "Methods" / "rman.json").read_text())
        method |= {"architecture": "agf", "variants": [], "networks": {"2": NETWORK, "3": {"nd": 3}}}
        (resources / "Methods" / "agf.json").write_text(json.dumps(method))
        monkeypatch.setattr(registry, "resources", lambda: resources)
        return resources

    def arguments(self, folder: Path, resources: Path, **release: Any) -> argparse.Namespace:
        told = {"id": "tiny-weights", "training_data": "Made up", "licence": "CC0-1.0", "method": "agf", **release}
        network = {**NETWORK, "scales": 2}
        config = chest_config(folder, release=told, network=network, evaluation={"pairs": 2})
        torch.save(untrained(config), folder / "checkpoint.pt")
        rows = [{"subset": "jsrt", "setting": "K=1", "pairs": 2, "figures": {"dice": {"mean": 0.9, "sd": 0.1}}}]
        run = {"seed": 0, "hardware": "a computer", "rows": rows}
        evaluate.write(folder / "results" / "tiny.json", read_config(config), run)
        return argparse.Namespace(
            config=config,
            checkpoint=folder / "checkpoint.pt",
            date="2026-11-30",
            figures=False,
            file=None,
            results=folder / "results",
            resources=resources,
        )

    def test_exported_weights_are_loaded_by_the_engine(self, folder: Path, resources: Path) -> None:
        told = {"anatomy": "Lung", "structures": ["left", "right"], "recursions": 1, "spacing_mm": 2.0}
        export.command(self.arguments(folder, resources, extent_mm=[100, 500], refinement={"smoothness": 2.0}, **told))
        method = registry.load_method("agf")
        variant = registry.choose_variant(method, 2, None)
        assert variant.weights == "tiny-weights"
        assert variant.extent_mm == (100, 500)
        assert variant.refinement == {"smoothness": 2.0}
        assert (variant.anatomy, variant.structures) == ("Lung", ("left", "right"))
        assert (variant.recursions, variant.spacing_mm) == (1, 2.0)
        assert variant.network["scales"] == 2
        network = load_network("agf", variant)
        torch.manual_seed(0)
        expected = build("agf", {**NETWORK, "scales": 2}).state_dict()
        for name, value in network.state_dict().items():
            assert torch.equal(value, expected[name].half().to(value.dtype)), name

    def test_figures_and_command_stand_beside_the_weights(self, folder: Path, resources: Path) -> None:
        arguments = self.arguments(folder, resources)
        export.command(arguments)
        entry = registry.load_weights()["tiny-weights"]
        assert entry.validation["mean"] == {"jsrt, K=1": {"dice": 0.9}}
        assert entry.validation["pairs"] == 2
        assert entry.command == "python -m training train tiny"
        assert entry.bytes == (resources / "Models" / entry.file).stat().st_size

    def test_second_export_replaces_the_first(self, folder: Path, resources: Path) -> None:
        arguments = self.arguments(folder, resources)
        export.command(arguments)
        export.command(arguments)
        assert len(registry.load_weights()) == len(registry.load_method("agf").variants) == 1

    def test_recursions_and_their_grids_are_told(self) -> None:
        config = read_config("rman_general")
        assert config.release is not None
        told = export.suited(config, config.release)
        assert (told["recursions"], told["pyramid"]) == (6, [4, 4, 2])

    def test_general_weights_are_the_first_choice(self, folder: Path, resources: Path) -> None:
        for name, general in (("heart", False), ("any", True), ("lung", False), ("any", True)):
            export.command(self.arguments(folder, resources, id=name, general=general))
        assert [variant.weights for variant in registry.load_method("agf").variants] == ["any", "heart", "lung"]

    def test_figures_alone_leave_the_rest(self, folder: Path, resources: Path) -> None:
        arguments = self.arguments(folder, resources)
        export.command(arguments)
        (folder / "results" / "tiny.json").unlink()
        export.command(argparse.Namespace(**{**vars(arguments), "figures": True}))
        entry = registry.load_weights()["tiny-weights"]
        assert entry.validation == {}
        assert entry.licence == "CC0-1.0"

    def test_configuration_without_release_is_refused(self, folder: Path, resources: Path) -> None:
        arguments = self.arguments(folder, resources)
        with pytest.raises(ValueError, match="has no release"):
            export.command(argparse.Namespace(**{**vars(arguments), "config": chest_config(folder)}))

    def test_weights_for_own_use_are_taken_by_their_path(self, folder: Path, resources: Path) -> None:
        arguments = self.arguments(folder, resources, refinement={"smoothness": 2.0})
        export.command(argparse.Namespace(**{**vars(arguments), "file": folder / "mine.pt"}))
        variant = registry.choose_variant(registry.load_method("agf"), 2, str(folder / "mine.pt"))
        assert variant.network["scales"] == 2
        assert variant.refinement == {"smoothness": 2.0}
        assert load_network("agf", variant).settings.scales == 2
        assert not (resources / "Models").exists()

    def test_json_keeps_short_things_on_one_line(self) -> None:
        value = {"a": [1, 2], "b": {"c": ["x" * 70, "y" * 70]}}
        text = as_json(value)
        assert json.loads(text) == value
        assert text.splitlines()[1] == '  "a": [1, 2],'
        assert max(map(len, text.splitlines())) <= 120
