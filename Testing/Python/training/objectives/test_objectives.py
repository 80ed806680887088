"""What a step computes: every loss has a gradient, structures are told apart."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.torch

from training_cases import ACREGNET, EDGE, NETWORK, chest_config, need, write_slices

need("monai", "scipy")

from training.configs.reading import read_config
from training.configs.schema import Config, ConfigError
from training.data.batches import Batches, CaseSource
from training.data.cases import one_hot
from training.data.loaders import load
from training.measure.rows import segmentation_rows
from training.objectives.making import make_task
from training.objectives.registration import PREDICTORS, Registration, recorded_fields
from training.objectives.tasks import Segmentation
from training.objectives.terms import FIELDS, INCREMENTS, OTHERS, SIMILARITIES

OPTIONS: dict[str, dict[str, Any]] = {"deep_supervision": {"window": 3, "decay": 0.5}, "fold_penalty": {"margin": 0.1}}


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
        batch = Batches(CaseSource(config, load(config.data, "train")))[0]
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
        batch = Batches(CaseSource(config, cases))[0]
        assert batch["fixed_mask"].shape[1] == 2
        assert task(batch, 1)["loss"].isfinite()

    def test_another_number_than_that_of_the_labels_is_refused(self, config: Config) -> None:
        with pytest.raises(ConfigError, match="must be 1 or the 2"):
            Segmentation(replace(config, network={**config.network, "structures": 3}))


@pytest.mark.slow
class TestLosses:
    @pytest.mark.parametrize("name", sorted({*SIMILARITIES, *INCREMENTS, *FIELDS, *OTHERS} - {"code_distance"}))
    def test_each_is_finite_and_has_a_gradient(self, folder: Path, name: str) -> None:
        losses = {name: {"weight": 1.0, **OPTIONS.get(name, {})}}
        config = read_config(chest_config(folder, losses=losses, identity_share=0.5))
        task = make_task(config, None)
        for weight in task.network.flows.parameters():
            weight.data.normal_(0, 0.1)
        batch = Batches(CaseSource(config, load(config.data, "train")))[1]
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
        source = CaseSource(config, load(config.data, "train"))
        torch.manual_seed(0)
        terms = {name: value.item() for name, value in make_task(config, None)(Batches(source)[0], 1).items()}
        torch.manual_seed(0)
        twice = make_task(doubled, None)(Batches(source)[0], 1)
        assert twice["global_ncc"].item() == pytest.approx(2 * terms["global_ncc"])
        assert terms.pop("loss") == pytest.approx(sum(terms.values()))

    def test_labels_are_needed_where_they_are_compared(self, folder: Path) -> None:
        config = read_config(chest_config(folder, losses={"soft_dice": 1.0}))
        batch = Batches(CaseSource(config, load(config.data, "train")))[0]
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
        batch = Batches(CaseSource(config, load(config.data, "train")))[0]
        values = []
        for _ in range(30):
            optimizer.zero_grad()
            loss = task(batch, 1)["loss"]
            loss.backward()
            optimizer.step()
            values.append(float(loss.detach()))
        assert values[-1] < 0.8 * values[0]
