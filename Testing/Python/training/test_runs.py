"""Runs of a few steps: every task and loss trains, a resumed run equals one that never stopped."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.torch

from training_cases import EDGE, NETWORK, chest_config, same_tensors, write_chest, write_slices

pytest.importorskip("lightning_fabric", reason="training needs the extra 'train'")
pytest.importorskip("monai", reason="training needs the extra 'train'")

from batches import Batches, Source
from cases import one_hot
from config import Config, ConfigError, Optimizer, read_config
from loaders import load
from loop import average_into, learning_rate
from protocols import segmentation_rows
from registration import PREDICTORS, Registration, recorded_fields
from tasks import Segmentation
from terms import FIELDS, INCREMENTS, OTHERS, SIMILARITIES
from train import make_task, run

ACREGNET = {"architecture": "acregnet", "network": {"nd": 2, "widths": "tiny", "norm": "batch"}}
OPTIONS: dict[str, dict[str, Any]] = {"deep_supervision": {"window": 3, "decay": 0.5}, "fold_penalty": {"margin": 0.1}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with chest X-rays, where DAR_DATA points."""
    monkeypatch.setenv("DAR_DATA", str(tmp_path))
    write_chest(tmp_path)
    return tmp_path


def trained(config: Path, output: Path, stop: int | None = None) -> dict[str, Any]:
    """Train on the CPU and return the checkpoint."""
    arguments = argparse.Namespace(output=output, stop=stop, accelerator="cpu", devices=1, nodes=1)
    run(read_config(config), arguments)
    return torch.load(output / "checkpoint.pt", weights_only=True)


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

    def test_run_of_another_seed_is_not_continued(self, folder: Path) -> None:
        trained(chest_config(folder), folder / "run", stop=1)
        with pytest.raises(ValueError, match="another seed or network"):
            trained(chest_config(folder, seed=1), folder / "run")

    def test_curves_and_best_weights_are_written(self, folder: Path) -> None:
        trained(chest_config(folder), folder / "run")
        assert list((folder / "run").glob("events.out.tfevents.*"))
        assert (folder / "run" / "best.pt").exists()


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
        task(Batches(Source(config, load(config.data, "train")))[0], 1)["loss"].backward()
        assert same_tensors(before, task.autoencoder.state_dict())
        assert not any(weight.requires_grad for weight in task.autoencoder.parameters())

    def test_code_distance_without_autoencoder_says_what_is_missing(self, folder: Path) -> None:
        config = read_config(chest_config(folder, losses={"code_distance": 1.0}))
        with pytest.raises(ValueError, match="needs parts"):
            Registration(config)(Batches(Source(config, load(config.data, "train")))[0], 1)


class TestStructures:
    """A segmenter of two labels apart."""

    @pytest.fixture
    def config(self, folder: Path) -> Config:
        network = {"nd": 2, "width": 2, "norm": "instance", "structures": 2}
        losses = {"cross_entropy": 1.0, "contour": 1.75, "soft_dice": 1.0}
        data = write_slices(folder, 3)
        path = chest_config(folder, data=data, task="segmentation", network=network, losses=losses, architecture=None)
        return read_config(path)

    def test_right_masks_cost_little(self, config: Config) -> None:
        task = Segmentation(config)
        batch = Batches(Source(config, load(config.data, "train")))[0]
        right = 20 * batch["labels"] - 10
        costs = []
        for logits in (right, right.flip(1)):
            task.network.forward = lambda _image, logits=logits: logits
            costs.append(float(task(batch, 1)["loss"]))
        assert costs[0] < 0.01
        assert costs[1] > 1

    def test_validation_and_results_tell_them_apart(self, config: Config) -> None:
        task, found, device = Segmentation(config), load(config.data, "validation"), torch.device("cpu")
        targets = [one_hot(case.labels, 2)[None] for case in found.cases]
        scores = []
        for logits in ([20 * target - 10 for target in targets], [20 * target.flip(1) - 10 for target in targets]):
            answers = iter(logits * 2)
            task.network.forward = lambda _image, answers=answers: next(answers)
            (row,) = segmentation_rows(task, found, found, device)
            scores.append((task.validate(found, device).value, row["figures"]["dice"]["mean"]))
        assert scores[0] == (pytest.approx(1), 1)
        assert max(scores[1]) < 0.1

    def test_registration_gets_a_mask_of_each(self, config: Config) -> None:
        settings = {"nd": 2, "widths": "tiny", "segmenter_width": 2, "structures": 2, "soft_mask": True}
        config = replace(config, task="registration", architecture="agf", network=settings, losses={"ssim": 1.0})
        task = Registration(config)
        cases = task.prepare(load(config.data, "train"))
        batch = Batches(Source(config, cases))[0]
        assert batch["fixed_mask"].shape[1] == 2
        assert task(batch, 1)["loss"].isfinite()

    def test_another_number_than_that_of_the_labels_is_refused(self, config: Config) -> None:
        with pytest.raises(ConfigError, match="must be 1 or the 2"):
            Segmentation(replace(config, network={**config.network, "structures": 3}))


class TestStart:
    def test_weights_of_another_run_are_where_a_run_starts(self, folder: Path) -> None:
        first = trained(chest_config(folder, name="first", **ACREGNET), folder / "runs" / "first")
        config = read_config(chest_config(folder, start="first", **ACREGNET))
        assert same_tensors(first["average"], Registration(config, folder / "runs").network.state_dict())

    def test_missing_run_is_named(self, folder: Path) -> None:
        config = read_config(chest_config(folder, start="first"))
        with pytest.raises(ConfigError, match="first"):
            Registration(config, folder / "runs")


class TestLosses:
    @pytest.mark.parametrize("name", sorted({*SIMILARITIES, *INCREMENTS, *FIELDS, *OTHERS} - {"code_distance"}))
    def test_each_is_finite_and_has_a_gradient(self, folder: Path, name: str) -> None:
        losses = {name: {"weight": 1.0, **OPTIONS.get(name, {})}}
        config = read_config(chest_config(folder, losses=losses, identity_share=0.5))
        task = make_task(config, None)
        for weight in task.network.flows.parameters():
            weight.data.normal_(0, 0.1)
        batch = Batches(Source(config, load(config.data, "train")))[1]
        points = {f"{role}_points": 30 * torch.rand(2, 2, 3) for role in ("fixed", "moving")}
        truth = {"fixed_displacement": torch.ones(2, 2, *batch["fixed_image"].shape[2:]), "fixed_known": torch.ones(2)}
        batch |= {**points, **truth, "fixed_spacing": torch.ones(2, 2)}
        terms = task(batch, 2)
        terms["loss"].backward()
        assert terms["loss"].isfinite()
        assert any(w.grad is not None and w.grad.abs().sum() > 0 for w in task.network.flows.parameters())

    def test_weights_multiply_and_terms_add_up(self, folder: Path) -> None:
        config = read_config(chest_config(folder))
        doubled = read_config(chest_config(folder, losses={"global_ncc": 2.0}))
        source = Source(config, load(config.data, "train"))
        torch.manual_seed(0)
        terms = {name: value.item() for name, value in make_task(config, None)(Batches(source)[0], 1).items()}
        torch.manual_seed(0)
        twice = make_task(doubled, None)(Batches(source)[0], 1)
        assert twice["global_ncc"].item() == pytest.approx(2 * terms["global_ncc"])
        assert terms.pop("loss") == pytest.approx(sum(terms.values()))

    def test_labels_are_needed_where_they_are_compared(self, folder: Path) -> None:
        config = read_config(chest_config(folder, losses={"soft_dice": 1.0}))
        batch = Batches(Source(config, load(config.data, "train")))[0]
        with pytest.raises(ValueError, match="needs cases with labels"):
            make_task(config, None)({name: v for name, v in batch.items() if not name.endswith("labels")}, 1)

    def test_deep_supervision_needs_fields_of_all_scales(self, folder: Path) -> None:
        losses = {"deep_supervision": {"weight": 1.0, "window": 3, "decay": 0.5}}
        with pytest.raises(ConfigError, match="acregnet offers no fields"):
            make_task(read_config(chest_config(folder, losses=losses, **ACREGNET)), None)

    def test_recording_of_fields_leaves_no_trace(self, folder: Path) -> None:
        network = make_task(read_config(chest_config(folder)), None).network
        image = torch.rand(1, 1, EDGE, EDGE)
        with recorded_fields(network) as fields:
            network(image, image)
        assert sorted(fields) == [1, 2, 3, 4]
        assert not set(PREDICTORS) & set(vars(network))

    def test_training_lowers_the_loss(self, folder: Path) -> None:
        losses = {"global_ncc": 1.0, "soft_dice": 1.0, "total_variation": 0.1}
        network = {**NETWORK, "attention": False}
        config = read_config(chest_config(folder, losses=losses, network=network))
        torch.manual_seed(0)
        task = make_task(config, None)
        optimizer = torch.optim.Adam(task.parameters(), lr=3e-3)
        batch = Batches(Source(config, load(config.data, "train")))[0]
        values = []
        for _ in range(30):
            optimizer.zero_grad()
            loss = task(batch, 1)["loss"]
            loss.backward()
            optimizer.step()
            values.append(float(loss.detach()))
        assert values[-1] < 0.8 * values[0]


class TestSchedule:
    @pytest.mark.parametrize(("schedule", "last"), [("constant", 1.0), ("cosine", 0.0), ("poly", 0.0)])
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
