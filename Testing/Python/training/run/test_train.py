"""Runs of a few steps: a resumed run equals one that never stopped, parts and starts are taken over."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.torch

from training_cases import ACREGNET, EDGE, body_config, chest_config, need, same_tensors

need("lightning_fabric", "monai", "scipy", "tensorboard", "tqdm")

from training.configs.reading import read_config
from training.configs.schema import ConfigError, Optimizer
from training.data.batches import Batches, CaseSource
from training.data.loaders import load
from training.objectives.registration import Registration
from training.run.loop import average_into, learning_rate
from training.run.train import run


def trained(config: Path, output: Path, stop: int | None = None) -> dict[str, Any]:
    """Train on the CPU and return the checkpoint."""
    arguments = argparse.Namespace(output=output, stop=stop, accelerator="cpu", devices=1, nodes=1)
    run(read_config(config), arguments)
    return torch.load(output / "checkpoint.pt", weights_only=True)


@pytest.mark.slow
class TestResume:
    def test_four_steps_equal_two_and_two(self, folder: Path) -> None:
        # Dropout, random recursions and augmentation: everything that chance decides.
        changes = {
            **ACREGNET,
            "recursions": {"maximum": 2, "schedule": "random", "gamma": 0.5},
            "augmentation": {"strength": 0.05, "shift": 1.0, "intensity": {"RandGaussianNoise": {"prob": 0.5}}},
            "optimizer": {"schedule": "cosine", "warmup": 2, "clip": 1.0},
        }
        config = chest_config(folder, **changes)
        whole = trained(config, folder / "whole")
        trained(config, folder / "parts", stop=2)
        parts = trained(config, folder / "parts")
        assert whole["step"] == parts["step"] == 4
        assert same_tensors(whole, parts)

    def test_drawn_images_go_on_where_they_stopped(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DAR_DATA", str(tmp_path))
        config = body_config(tmp_path)
        whole = trained(config, tmp_path / "whole")
        trained(config, tmp_path / "parts", stop=2)
        assert same_tensors(whole, trained(config, tmp_path / "parts"))

    def test_run_of_another_seed_is_not_continued(self, folder: Path) -> None:
        trained(chest_config(folder), folder / "run", stop=1)
        with pytest.raises(ValueError, match="another seed or network"):
            trained(chest_config(folder, seed=1), folder / "run")

    def test_curves_and_best_weights_are_written(self, folder: Path) -> None:
        trained(chest_config(folder), folder / "run")
        assert list((folder / "run").glob("events.out.tfevents.*"))
        assert (folder / "run" / "best.pt").exists()


@pytest.mark.slow
class TestParts:
    @pytest.fixture
    def runs(self, folder: Path) -> Path:
        """Runs of a segmenter and an auto-encoder, two steps each."""
        losses = {"cross_entropy": 1.0, "contour": 1.75}
        segmenter = {"nd": 2, "width": 2, "norm": "batch"}
        autoencoder = {"nd": 2, "channels": 2, "size": EDGE, "code": 4}
        for name, task, network in (
            ("segmenter", "segmentation", segmenter),
            ("autoencoder", "autoencoder", autoencoder),
        ):
            path = chest_config(folder, name=name, task=task, network=network, losses=losses, architecture=None)
            trained(path, folder / "runs" / name, stop=2)
        return folder / "runs"

    def test_agf_takes_them_over_and_leaves_them_as_they_are(self, folder: Path, runs: Path) -> None:
        losses = {"global_ncc": 1.0, "code_distance": 0.1}
        parts = {"segmenter": "segmenter", "autoencoder": "autoencoder"}
        result = trained(chest_config(folder, losses=losses, parts=parts), runs / "agf")
        given = torch.load(runs / "segmenter" / "checkpoint.pt", weights_only=True)["average"]
        kept = {n.removeprefix("segmenter."): v for n, v in result["network"].items() if n.startswith("segmenter.")}
        assert same_tensors(given, kept)

    def test_a_wider_segmenter_takes_the_place_of_that_of_the_start(self, folder: Path, runs: Path) -> None:
        parts = {"segmenter": "segmenter"}
        first = trained(chest_config(folder, name="first", parts=parts), runs / "first")
        wide = {"nd": 2, "width": 3, "norm": "batch"}
        losses = {"cross_entropy": 1.0}
        path = chest_config(folder, name="wide", task="segmentation", network=wide, losses=losses, architecture=None)
        given = trained(path, runs / "wide", stop=2)["average"]
        config = read_config(chest_config(folder, parts={"segmenter": "wide"}, start="first"))
        network = replace(config, network={**config.network, "segmenter_width": 3})
        result = Registration(network, runs).network
        assert same_tensors(given, result.segmenter.state_dict())
        assert torch.equal(result.flows["1"].weight, first["average"]["flows.1.weight"])

    def test_statistics_of_the_autoencoder_stay(self, folder: Path, runs: Path) -> None:
        losses = {"global_ncc": 1.0, "code_distance": 0.1}
        config = read_config(chest_config(folder, losses=losses, parts={"autoencoder": "autoencoder"}))
        task = Registration(config, runs).train()
        before = {name: value.clone() for name, value in task.autoencoder.state_dict().items()}
        task(Batches(CaseSource(config, load(config.data, "train")))[0], 1)["loss"].backward()
        assert same_tensors(before, task.autoencoder.state_dict())
        assert not any(weight.requires_grad for weight in task.autoencoder.parameters())

    def test_code_distance_without_autoencoder_says_what_is_missing(self, folder: Path) -> None:
        config = read_config(chest_config(folder, losses={"code_distance": 1.0}))
        with pytest.raises(ValueError, match="needs parts"):
            Registration(config)(Batches(CaseSource(config, load(config.data, "train")))[0], 1)


class TestStart:
    def test_weights_of_another_run_are_where_a_run_starts(self, folder: Path) -> None:
        first = trained(chest_config(folder, name="first", **ACREGNET), folder / "runs" / "first")
        config = read_config(chest_config(folder, start="first", **ACREGNET))
        assert same_tensors(first["average"], Registration(config, folder / "runs").network.state_dict())

    def test_missing_run_is_named(self, folder: Path) -> None:
        config = read_config(chest_config(folder, start="first"))
        with pytest.raises(ConfigError, match="first"):
            Registration(config, folder / "runs")


class TestSchedule:
    def test_plateau_does_not_hang_on_the_end_before_it_falls(self) -> None:
        settings = Optimizer(learning_rate=1.0, schedule="plateau")
        assert learning_rate(settings, 700, 1000) == learning_rate(settings, 700, 2000) == 1.0
        assert learning_rate(settings, 900, 1000) == pytest.approx(0.5)

    @pytest.mark.parametrize(
        ("schedule", "last"), [("constant", 1.0), ("cosine", 0.0), ("poly", 0.0), ("plateau", 0.0)]
    )
    def test_rate_rises_then_ends(self, schedule: str, last: float) -> None:
        settings = Optimizer(learning_rate=1.0, schedule=schedule, warmup=10)
        assert learning_rate(settings, 4, 1000) == pytest.approx(0.5, abs=0.01)
        assert learning_rate(settings, 1000, 1000) == pytest.approx(last, abs=1e-6)

    def test_average_moves_statistics_and_copies_counters(self) -> None:
        average, network = torch.nn.BatchNorm2d(1), torch.nn.BatchNorm2d(1)
        network.running_mean.fill_(1.0)
        network.num_batches_tracked.fill_(5)
        average_into(average, network, 0.9)
        assert average.running_mean.item() == pytest.approx(0.1)
        assert average.num_batches_tracked == 5
