"""Pairs drawn from label maps, and the reader of the label maps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.torch

from training_cases import need, write

need("monai", "scipy")

from DeepAttentionRegEngine.deform.losses import soft_dice
from DeepAttentionRegEngine.deform.warp import jacobian_determinant, resize_displacement, warp
from training.configs.reading import read_config
from training.configs.schema import Config, ConfigError, Synthesis
from training.data.batches import Batches, CaseSource
from training.data.cases import CaseSet, ImageCase
from training.data.loaders.anatomies import load_anatomies
from training.data.synthesis import Anatomy, Synthesiser, anatomies

SIZES = pytest.mark.parametrize("spatial", [(48, 56), (32, 40, 36)], ids=["2d", "3d"])
LABELS = 6


def nested_boxes(size: tuple[int, int, int] = (40, 44, 36)) -> torch.Tensor:
    """Return a label map of boxes within boxes, the outermost 1."""
    labels = torch.zeros(size, dtype=torch.uint8)
    for label, margin in enumerate((4, 8, 12), start=1):
        labels[(slice(margin, -margin),) * 3] = label
    return labels


def subsets() -> dict[str, list[Anatomy]]:
    """Return two subjects with images, and one data set without."""
    labels = nested_boxes()
    image = labels / 3
    seen = [ImageCase(str(n), image[None] ** (n + 1), labels, subset="seen") for n in range(2)]
    return anatomies(CaseSet([*seen, ImageCase("bare", torch.empty(0), labels, subset="bare")]))


def draw(kind: str, seed: int = 0, **settings: object) -> Synthesiser:
    return Synthesiser(Synthesis((), {kind: 1.0}, **settings), subsets(), LABELS, np.random.default_rng(seed))


@SIZES
@pytest.mark.parametrize("kind", ["shapes", "anatomy", "subjects", "real"])
class TestPair:
    def test_images_are_normalised_and_labels_are_shares_at_half_resolution(
        self, kind: str, spatial: tuple[int, ...]
    ) -> None:
        for seed in range(4):
            for side in draw(kind, seed).pair(spatial):
                assert side["image"].shape == (1, *spatial)
                assert side["labels"].shape == (LABELS, *(n // 2 for n in spatial))
                for values in side.values():
                    assert torch.isfinite(values).all()
                assert 0 <= float(side["image"].min()) <= float(side["image"].max()) < 1.00001
                assert 0 <= float(side["labels"].min()) <= float(side["labels"].max()) <= 1
                assert float(side["labels"].sum(0).max()) <= 1

    def test_same_chance_gives_the_same_pair(self, kind: str, spatial: tuple[int, ...]) -> None:
        first, second, other = (draw(kind, seed).pair(spatial)[0]["image"] for seed in (1, 1, 2))
        assert torch.equal(first, second)
        assert not torch.equal(first, other)

    def test_known_displacement_brings_the_labels_together(self, kind: str, spatial: tuple[int, ...]) -> None:
        before, after = [], []
        for seed in range(6):
            fixed, moving = draw(kind, seed).pair(spatial)
            assert float(fixed["known"]) == (kind in ("shapes", "anatomy"))
            displacement = resize_displacement(fixed["displacement"][None], moving["labels"].shape[1:])
            for field, scores in ((0 * displacement, before), (displacement, after)):
                scores.append(float(soft_dice(warp(moving["labels"][None], field), fixed["labels"][None])))
        if kind in ("shapes", "anatomy"):
            assert np.mean(after) > 0.9 > np.mean(before)
        else:
            assert after == before


class TestSettings:
    @SIZES
    def test_displacement_does_not_fold(self, spatial: tuple[int, ...]) -> None:
        for seed in range(5):
            fixed = draw("shapes", seed).pair(spatial)[0]
            assert float(fixed["displacement"].abs().max()) > 0.5
            assert float(jacobian_determinant(fixed["displacement"][None]).min()) > 0

    def test_without_strength_nothing_moves(self) -> None:
        still = {"strength": 0.0, "turn": 0.0, "stretch": 0.0, "shift": 0.0}
        fixed, moving = draw("anatomy", **still).pair((32, 36, 40))
        assert not fixed["displacement"].any()
        assert torch.equal(fixed["labels"], moving["labels"])
        assert not torch.equal(fixed["image"], moving["image"])

    def test_real_images_come_from_data_sets_that_have_them(self) -> None:
        only_bare = {"bare": subsets()["bare"]}
        with pytest.raises(ValueError, match="images"):
            Synthesiser(Synthesis((), {"real": 1.0}), only_bare, LABELS, np.random.default_rng(0))

    def test_unknown_kind_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="dreams"):
            draw("dreams")


def write_sets(data: Path) -> list[str]:
    """Write two subjects with images (values 5 and 9) and two label maps alone; return the names of all."""
    names = []
    for number in range(2):
        labels = (nested_boxes((20, 24, 28)).numpy() > 0).astype(np.uint8) * 5
        labels[6:12, 6:12, 6:12] = 9
        write(data / "brains" / "labels" / f"{number}.nii.gz", labels, (1.0, 1.0, 2.0))
        write(data / "brains" / "images" / f"{number}.nii.gz", labels.astype(np.float32) + number, (1.0, 1.0, 2.0))
        write(data / "organs" / f"{number}.nii.gz", nested_boxes().numpy(), (2.0, 2.0, 2.0))
        names += [f"brains/{number}.nii.gz", f"organs/{number}.nii.gz"]
    return names


SETS = {"brains": {}, "organs": {"images": None, "labels": ".", "step": 2}}


class TestLoader:
    def test_labels_are_numbered_and_reduced(self, tmp_path: Path) -> None:
        write_sets(tmp_path)
        found = load_anatomies(tmp_path, None, sets=SETS)
        assert [case.subset for case in found.cases] == ["brains", "brains", "organs", "organs"]
        brain, organ = found.cases[0], found.cases[2]
        assert brain.labels.unique().tolist() == [0, 1, 2]
        assert brain.image.shape == (1, *brain.labels.shape)
        assert organ.image.numel() == 0
        assert tuple(organ.labels.shape) == (20, 22, 18)
        assert organ.spacing == (4.0, 4.0, 4.0)

    def test_split_chooses_the_files(self, tmp_path: Path) -> None:
        write_sets(tmp_path)
        found = load_anatomies(tmp_path, ["brains/1.nii.gz"], sets={"brains": {}})
        assert [case.name for case in found.cases] == ["brains/1.nii.gz"]

    def test_crop_keeps_the_labels_in_the_middle(self, tmp_path: Path) -> None:
        labels = np.zeros((20, 24, 28), np.uint8)
        labels[2:9, 10:21, 3:8] = 1
        write(tmp_path / "off" / "labels" / "0.nii.gz", labels, (1.0, 1.0, 1.0))
        case = load_anatomies(tmp_path, None, sets={"off": {"images": None}}, crop=[15, 15, 15]).cases[0]
        assert tuple(case.labels.shape) == (15, 15, 15)
        assert case.labels.nonzero().float().mean(0).tolist() == pytest.approx([7, 7, 7], abs=1)

    def test_plane_leaves_a_slice(self, tmp_path: Path) -> None:
        write_sets(tmp_path)
        case = load_anatomies(tmp_path, None, sets={"brains": {}}, plane=0).cases[0]
        assert case.labels.ndim == 2
        assert case.image.shape == (1, *case.labels.shape)
        assert len(case.spacing) == 2

    def test_unknown_key_of_a_set_is_refused(self, tmp_path: Path) -> None:
        write_sets(tmp_path)
        with pytest.raises(ConfigError, match="picture"):
            load_anatomies(tmp_path, None, sets={"brains": {"picture": "."}})

    def test_set_without_a_file_is_named(self, tmp_path: Path) -> None:
        write_sets(tmp_path)
        with pytest.raises(FileNotFoundError, match="organs"):
            load_anatomies(tmp_path, ["brains/1.nii.gz"], sets=SETS)


class TestBatches:
    @pytest.fixture
    def config(self, tmp_path: Path) -> Config:
        content = {
            "title": "Drawn",
            "group": "Tests",
            "task": "registration",
            "architecture": "rman",
            "data": {"loader": "anatomies", "folder": ".", "labels": LABELS},
            "network": {"nd": 3, "widths": "tiny"},
            "losses": {"soft_dice": 1.0, "known_displacement": 0.5},
            "synthesis": {"shapes": [[32, 32, 40], [40, 32, 32]], "kinds": {"anatomy": 1.0, "real": 1.0}},
            "identity_share": 0.5,
            "run": {"steps": 2, "batch": 2},
        }
        (tmp_path / "drawn.json").write_text(json.dumps(content))
        return read_config(tmp_path / "drawn.json")

    def test_every_step_has_a_grid_and_its_own_pairs(self, config: Config, tmp_path: Path) -> None:
        write_sets(tmp_path)
        batches = Batches(CaseSource(config, load_anatomies(tmp_path, None, sets=SETS)))
        drawn = [batches[step] for step in range(8)]
        assert {tuple(batch["fixed_image"].shape[2:]) for batch in drawn} == {(32, 32, 40), (40, 32, 32)}
        assert torch.equal(drawn[3]["moving_image"], batches[3]["moving_image"])
        same = torch.cat([batch["same"] for batch in drawn])
        assert 0 < int(same.sum()) < len(same)
        for batch in drawn:
            equal = (batch["fixed_image"] == batch["moving_image"]).flatten(1).all(1)
            assert torch.equal(equal, batch["same"])
            assert not batch["fixed_displacement"][batch["same"]].any()
            assert batch["fixed_known"][batch["same"]].all()

    def test_a_step_of_training_is_finite(self, config: Config, tmp_path: Path) -> None:
        from training.objectives.registration import Registration

        write_sets(tmp_path)
        torch.manual_seed(0)
        task = Registration(config)
        batch = Batches(CaseSource(config, load_anatomies(tmp_path, None, sets=SETS)))[1]
        terms = task(batch, 1)
        assert set(terms) == {"loss", "soft_dice", "known_displacement"}
        terms["loss"].backward()
        assert all(torch.isfinite(w.grad).all() for w in task.parameters() if w.grad is not None)
