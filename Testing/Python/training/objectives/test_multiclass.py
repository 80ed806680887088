"""The multiclass task: losses, figures of each structure, refusals."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

pytestmark = pytest.mark.torch

from training_cases import body_config, need

need("monai", "scipy")

from training.configs.reading import read_config
from training.configs.schema import Config, ConfigError
from training.data.batches import Batches, CaseSource
from training.data.drawing import drawn_cases
from training.data.loaders import load
from training.measure.rows import multiclass_rows
from training.objectives.making import make_task
from training.objectives.multiclass import MulticlassSegmentation, label_dice, overlap

CPU = torch.device("cpu")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("DAR_DATA", str(tmp_path))
    return read_config(body_config(tmp_path))


def certain(labels: torch.Tensor) -> torch.Tensor:
    """Return scores `(1, 2, *spatial)` that are sure of labels `(*spatial)`."""
    return 40 * F.one_hot(labels.long(), 3).movedim(-1, 0)[None, 1:].float() - 20


class TestLoss:
    def test_right_labels_cost_little_and_wrong_ones_much(self, config: Config) -> None:
        task = make_task(config, None)
        batch = Batches(CaseSource(config, load(config.data, "train")))[1]
        batch = {name: value[:1] for name, value in batch.items()}
        assert batch["labels"].any()
        costs = []
        for answer in (batch["labels"][0], (batch["labels"][0] + 1) % 3):
            task.network.scores = lambda _image, answer=answer: certain(answer)
            costs.append(task(batch, 1))
        assert float(costs[0]["loss"]) < 0.01
        assert float(costs[1]["soft_dice"]) > 0.5
        assert float(costs[1]["cross_entropy"]) > 5

    def test_structure_that_is_absent_must_not_be_found(self) -> None:
        target = torch.zeros(1, 4, 4, dtype=torch.long)
        nothing = F.one_hot(target, 3).movedim(-1, 1).float()
        assert float(overlap(nothing, target)) == 1
        assert float(overlap(torch.full((1, 3, 4, 4), 1 / 3), target)) == pytest.approx(1 / (16 / 3 + 1))

    def test_gradients_reach_every_weight(self, config: Config) -> None:
        task = make_task(config, None).train()
        task(Batches(CaseSource(config, load(config.data, "train")))[1], 1)["loss"].backward()
        assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in task.parameters())


class TestFigures:
    def test_dice_of_each_label_that_there_is(self) -> None:
        target = torch.tensor([1, 1, 0, 2])
        dice = label_dice(torch.tensor([1, 0, 0, 3]), target, 3)
        assert dice[:2].tolist() == [pytest.approx(2 / 3), 0]
        assert dice[2].isnan()

    @pytest.mark.parametrize("right", [True, False])
    def test_score_is_of_drawn_images_and_details_of_all(self, config: Config, right: bool) -> None:
        task, found = make_task(config, None), load(config.data, "validation")
        labels = [case.label_map for case in drawn_cases(config, found)]
        answers = iter([certain(label if right else (label + 1) % 3) for label in labels] * 2)
        task.network.scores = lambda _image: next(answers)
        score = task.validate(found, CPU)
        rows = {row["subset"]: row["figures"] for row in multiclass_rows(task, found, CPU)}
        assert score.value == score.details["drawn"] == pytest.approx(float(right))
        assert score.details["seen/left organ"] == score.details["seen"] == float(right)
        assert score.details["absent"] == float(not right)
        assert rows["seen"]["dice right organ"]["mean"] == rows["drawn"]["dice"]["mean"] == float(right)
        assert rows["absent"]["found_percent"]["mean"] == 100 * (not right)


class TestRefusals:
    @pytest.mark.parametrize("change", [{"exclusive": False}, {"structures": 3}])
    def test_network_must_tell_the_structures_apart(self, config: Config, change: dict[str, object]) -> None:
        with pytest.raises(ConfigError, match="must be exclusive, with the 2 structures"):
            MulticlassSegmentation(replace(config, network={**config.network, **change}))

    def test_every_structure_needs_a_name(self, config: Config) -> None:
        options = {**config.data.options, "structures": {"organ": [3]}}
        with pytest.raises(ConfigError, match="1 structures have a name, not 2"):
            MulticlassSegmentation(replace(config, data=replace(config.data, options=options)))
