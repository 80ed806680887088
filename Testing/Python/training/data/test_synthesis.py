"""Pairs drawn from label maps, and the reader of the label maps."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.torch

from training_cases import need, write

need("monai", "scipy")

from DeepAttentionRegEngine.deform.losses import soft_dice
from DeepAttentionRegEngine.deform.warp import compose, jacobian_determinant, resize_displacement, warp
from training.configs.reading import read_config
from training.configs.schema import Config, ConfigError, Synthesis, Validation
from training.data.batches import Batches, CaseSource
from training.data.cases import CaseSet, ImageCase
from training.data.loaders.anatomies import load_anatomies
from training.data.painting import Chance
from training.data.starts import coarse_start, left_over
from training.data.synthesis import Anatomy, Synthesiser, anatomies, validation_pairs

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

    def test_without_motions_nothing_moves(self) -> None:
        still = {"motions": {}, "turn": 0.0, "stretch": 0.0, "shift": 0.0}
        fixed, moving = draw("anatomy", **still).pair((32, 36, 40))
        assert not fixed["displacement"].any()
        assert torch.equal(fixed["labels"], moving["labels"])
        assert not torch.equal(fixed["image"], moving["image"])

    def test_real_images_come_from_data_sets_that_have_them(self) -> None:
        only_bare = {"bare": subsets()["bare"]}
        with pytest.raises(ValueError, match="images"):
            Synthesiser(Synthesis((), {"real": 1.0}), only_bare, LABELS, np.random.default_rng(0))

    def test_amplitude_is_the_root_mean_square_as_a_share_of_the_side(self) -> None:
        still = {"turn": 0.0, "stretch": 0.0, "shift": 0.0}
        fixed = draw("shapes", motions={"articulated": 1.0}, amplitude=(0.02, 0.02), **still).pair((40, 40, 40))[0]
        assert float(fixed["displacement"].square().sum(0).mean().sqrt()) == pytest.approx(0.8, rel=1e-3)

    def test_near_views_show_less(self) -> None:
        shown = []
        for zoom in (0.25, 1.0):
            sides = [draw("anatomy", seed, zoom=(zoom, zoom)).pair((32, 32, 32))[1]["labels"] for seed in range(12)]
            shown.append(np.mean([float((side.flatten(1).sum(1) > 0).sum()) for side in sides]))
        assert shown[0] < shown[1]

    def test_unknown_kind_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="dreams"):
            draw("dreams")

    def test_unknown_motion_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="waltz"):
            draw("shapes", motions={"waltz": 1.0})


def mosaic(matrix: np.ndarray, shift: np.ndarray, *, spoiled: bool = False) -> Anatomy:
    """Return boxes of 27 labels about a grid of centres, mapped; every seventh lies elsewhere if spoiled."""
    labels = torch.zeros(60, 60, 60, dtype=torch.uint8)
    places = np.stack(np.meshgrid(*[(14, 28, 42)] * 3, indexing="ij"), -1).reshape(-1, 3)
    for label, place in enumerate(places, start=1):
        x, y, z = np.round(matrix @ place + shift + (6 if spoiled and label % 7 == 0 else 0)).astype(int)
        labels[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2] = label
    case = ImageCase("mosaic", torch.empty(0), labels, subset="mosaic")
    return anatomies(CaseSet([case]))["mosaic"][0]


class TestSubjects:
    def test_are_brought_together_by_the_centers_of_their_structures(self) -> None:
        matrix, shift = np.diag([1.2, 0.9, 1.1]), np.array([-4.0, 3.0, 1.0])
        found, moved = mosaic(np.eye(3), np.zeros(3)).onto(mosaic(matrix, shift, spoiled=True))
        for place in (np.full(3, 14.0), np.full(3, 28.0), np.array([14.0, 42.0, 28.0])):
            np.testing.assert_allclose(found.numpy() @ place + moved.numpy(), matrix @ place + shift, atol=0.7)

    def test_of_few_structures_share_their_middle(self) -> None:
        first, second = subsets()["seen"]
        matrix, shift = first.onto(second)
        assert torch.equal(matrix, torch.eye(3))
        assert not shift.any()

    def test_come_from_sets_that_have_several(self) -> None:
        assert draw("subjects").with_others == ["seen"]


class TestValidation:
    def test_pairs_are_the_same_every_time_and_of_every_kind(self) -> None:
        labels = nested_boxes()
        found = CaseSet([ImageCase(str(n), torch.empty(0), labels, subset="bare") for n in range(2)])
        settings = Synthesis(((32, 32, 40),), {"shapes": 1.0, "anatomy": 0.0, "subjects": 2.0})
        first, again = (list(validation_pairs(settings, found, LABELS, 4, 1)) for _ in range(2))
        assert [kind for kind, *_ in first] == ["shapes", "subjects"] * 2
        for one, other in zip(first, again, strict=True):
            assert torch.equal(one[1][0]["image"], other[1][0]["image"])
            assert torch.equal(one[1][1]["labels"], other[1][1]["labels"])


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

    def test_sets_that_are_not_alike_are_subsets_of_one(self, tmp_path: Path) -> None:
        write_sets(tmp_path)
        found = load_anatomies(tmp_path, None, sets={"organs": {**SETS["organs"], "alike": False}})
        assert [case.subset for case in found.cases] == ["organs/0.nii.gz", "organs/1.nii.gz"]

    def test_phantoms_are_added_as_label_maps(self, tmp_path: Path) -> None:
        write_sets(tmp_path)
        found = load_anatomies(tmp_path, None, sets=SETS, phantoms={"first": 3, "count": 1})
        fixed, moving = found.cases[-2:]
        assert fixed.subset == moving.subset == "phantom"
        assert fixed.image.numel() == 0
        assert not torch.equal(fixed.labels, moving.labels)

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

    def test_validation_without_images_is_drawn_and_told_by_kind(self, config: Config, tmp_path: Path) -> None:
        from training.objectives.registration import Registration

        write_sets(tmp_path)
        kinds = {"anatomy": 1.0, "subjects": 1.0}
        drawn = replace(config, synthesis=replace(config.synthesis, kinds=kinds), validation=Validation(pairs=4))
        torch.manual_seed(0)
        found = load_anatomies(tmp_path, None, sets={"organs": SETS["organs"]})
        score = Registration(drawn).validate(found, torch.device("cpu"))
        assert set(score.details) == set(kinds)
        assert score.value == pytest.approx(np.mean(list(score.details.values())))
        assert 0 < score.value < 1


@SIZES
class TestStarts:
    def test_known_displacement_still_brings_the_labels_together(self, spatial: tuple[int, ...]) -> None:
        before, after = [], []
        for seed in range(4):
            fixed, moving = draw("anatomy", seed, started=1.0, alike=1.0).pair(spatial)
            plain = draw("anatomy", seed, alike=1.0).pair(spatial)[1]
            assert not torch.equal(moving["labels"], plain["labels"])
            displacement = resize_displacement(fixed["displacement"][None], moving["labels"].shape[1:])
            for field, scores in ((0 * displacement, before), (displacement, after)):
                scores.append(float(soft_dice(warp(moving["labels"][None], field), fixed["labels"][None])))
        assert np.mean(after) > 0.9 > np.mean(before)

    def test_coarse_start_goes_towards_the_fixed_image(self, spatial: tuple[int, ...]) -> None:
        image = Chance(np.random.default_rng(0)).smooth(1, spatial, 6.0)
        truth = torch.zeros(1, len(spatial), *spatial)
        truth[:, 0] = 3.0
        found = coarse_start(warp(image, truth), image)
        inside = found[(..., *(slice(8, -8),) * len(spatial))]
        assert 1.5 < float(inside[:, 0].mean()) < 3.5
        assert float(inside[:, 1:].mean().abs()) < 0.5

    def test_what_is_left_over_leads_on_from_the_start(self, spatial: tuple[int, ...]) -> None:
        chance = Chance(np.random.default_rng(1))
        whole, start = (0.8 * chance.smooth(len(spatial), spatial, 16.0) for _ in range(2))
        torch.testing.assert_close(compose(start, left_over(whole, start)), whole, atol=1e-3, rtol=0)
