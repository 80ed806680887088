"""Pairs, batches and augmentation of training."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.torch

from training_cases import chest_config, same_tensors, write_chest

pytest.importorskip("lightning_fabric", reason="training needs the extra 'train'")
pytest.importorskip("monai", reason="training needs the extra 'train'")

from augmentation import Augmenter, cut
from batches import Batches, Pairing, Source, case_batch, recursions_at
from cases import Case, CaseSet
from config import Augmentation, ConfigError, read_config
from loaders import load


def dots(count: int, groups: int = 1) -> CaseSet:
    """Return cases of increasing brightness, in turn of different groups."""
    return CaseSet([Case(str(n), torch.full((1, 4, 4), n / count), group=str(n % groups)) for n in range(count)])


class TestPairing:
    def test_all_ordered_pairs_of_different_cases(self) -> None:
        assert len(Pairing(dots(5), "any").all()) == 20

    def test_pairs_stay_within_their_group(self) -> None:
        pairs = Pairing(dots(6, groups=2), "group").all()
        assert len(pairs) == 12
        assert all(fixed % 2 == moving % 2 for fixed, moving in pairs)

    def test_reference_is_the_frame_of_middle_brightness(self) -> None:
        assert Pairing(dots(5), "reference").all() == [(2, 0), (2, 1), (2, 3), (2, 4)]

    def test_pairs_that_the_data_set_lists_are_scored(self) -> None:
        assert Pairing(CaseSet(dots(3).cases, [(0, 2)]), "group").all() == [(0, 2)]

    def test_sample_is_the_same_for_a_seed_and_without_repeats(self) -> None:
        pairing = Pairing(dots(5), "any")
        assert pairing.sampled(7, seed=1) == pairing.sampled(7, seed=1)
        assert len(set(pairing.sampled(7, seed=1))) == 7
        assert pairing.sampled(None, seed=1) == pairing.all()

    @pytest.mark.parametrize("self_pairs", [False, True])
    def test_a_case_meets_itself_only_where_allowed(self, self_pairs: bool) -> None:
        pairing = Pairing(dots(3), "any", self_pairs=self_pairs)
        rng = np.random.default_rng(0)
        drawn = [pairing.draw(rng) for _ in range(60)]
        assert any(fixed == moving for fixed, moving in drawn) == self_pairs

    def test_listed_rule_needs_a_list(self) -> None:
        with pytest.raises(ValueError, match="lists no pairs"):
            Pairing(dots(3), "listed")


class TestBatches:
    @pytest.fixture
    def source(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
        monkeypatch.setenv("DAR_DATA", str(tmp_path))
        write_chest(tmp_path)
        augmentation = {"strength": 0.05, "shift": 1.0, "gamma": 0.2, "flip": [1]}
        config = read_config(chest_config(tmp_path, augmentation=augmentation, identity_share=0.5))
        return Source(config, load(config.data, "train"))

    def test_batch_follows_from_seed_rank_and_step(self, source: Source) -> None:
        batches = Batches(source)
        assert same_tensors(batches[3], Batches(source)[3])
        assert not same_tensors(batches[3], batches[2])
        assert not same_tensors(batches[3], Batches(Source(source.config, source.cases, rank=1))[3])

    def test_batches_prepared_ahead_are_the_same(self, source: Source) -> None:
        assert [same_tensors(a, Batches(source)[n]) for n, a in enumerate(Batches(source).after(1), 1)] == [True] * 3

    def test_shapes_and_identity_pairs(self, source: Source) -> None:
        batches = [Batches(source)[step] for step in range(10)]
        assert batches[0]["fixed_image"].shape == (2, 1, 32, 32)
        assert batches[0]["moving_labels"].shape == (2, 1, 32, 32)
        same = torch.cat([batch["same"] for batch in batches])
        assert 0 < same.sum() < len(same)
        for batch in batches:
            for n in range(2):
                assert torch.equal(batch["fixed_image"][n], batch["moving_image"][n]) == bool(batch["same"][n])

    def test_what_some_cases_lack_is_left_out(self) -> None:
        image = torch.zeros(1, 2, 2)
        assert set(case_batch([{"image": image, "labels": image}, {"image": image}])) == {"image"}

    def test_curriculum_begins_with_one_recursion_and_reaches_all(self, tmp_path: Path) -> None:
        rule = {"maximum": 3, "schedule": "curriculum"}
        config = read_config(chest_config(tmp_path, recursions=rule, run={"steps": 300}))
        early, late = ([recursions_at(config, step) for step in steps] for steps in (range(40), range(200, 300)))
        assert set(early) == {1}
        assert set(late) == {1, 2, 3}
        assert late.count(3) > late.count(1)


class TestAugmentation:
    def test_image_labels_and_landmarks_move_together(self) -> None:
        y, x = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
        blob = torch.exp(-((y - 24) ** 2 + (x - 15) ** 2) / 8)[None]
        case = {"image": blob, "labels": (blob > 0.5).float(), "points": torch.tensor([[24.0], [15.0]])}
        augmenter = Augmenter(Augmentation(strength=0.1, shift=2.0), np.random.default_rng(4))
        moved = augmenter(case)
        assert not torch.equal(moved["points"], case["points"])
        for name in ("image", "labels"):
            weights = moved[name][0] / moved[name].sum()
            center = torch.stack([(weights * y).sum(), (weights * x).sum()])
            assert torch.allclose(center, moved["points"][:, 0], atol=0.1)

    def test_elastic_changes_bend_image_and_labels_alike(self) -> None:
        ramp = torch.arange(40.0).expand(1, 40, 40)
        case = {"image": ramp / 40, "labels": (ramp - 10) / 40}
        moved = Augmenter(Augmentation(elastic=2.0), np.random.default_rng(4))(case)
        inside = (slice(None), slice(8, -8), slice(8, -8))
        shift = 40 * (moved["image"] - case["image"])[inside]
        assert torch.allclose(moved["image"][inside], moved["labels"][inside] + 0.25, atol=1e-5)
        assert 0.5 < float(shift.std()) < 3
        assert float(shift.diff(dim=2).abs().max()) < 1

    def test_elastic_changes_refuse_landmarks(self) -> None:
        case = {"image": torch.zeros(1, 8, 8), "points": torch.tensor([[4.0], [3.0]])}
        with pytest.raises(ConfigError, match="landmarks"):
            Augmenter(Augmentation(elastic=1.0), np.random.default_rng(0))(case)

    def test_flip_turns_both_of_a_pair_and_their_landmarks(self) -> None:
        image = torch.zeros(1, 5, 7)
        image[0, 1, 2] = 1
        case = {"image": image, "points": torch.tensor([[1.0], [2.0]])}
        seen = set()
        for seed in range(8):
            first, second = Augmenter(Augmentation(flip=(1,)), np.random.default_rng(seed)).flipped(case, case)
            assert same_tensors(first, second)
            row, column = first["points"][:, 0].long()
            assert first["image"][0, row, column] == 1
            seen.add(int(column))
        assert seen == {2, 4}

    def test_cut_takes_the_same_off_all_images_and_moves_landmarks(self) -> None:
        image = torch.arange(2 * 9 * 7.0).view(2, 1, 9, 7)
        points = torch.tensor([[4.0], [3.0]]).expand(2, 2, 1)
        whole = {
            "fixed_image": image,
            "moving_labels": image,
            "fixed_points": points,
            "same": torch.tensor([True, False]),
        }
        sizes = set()
        for seed in range(9):
            found = cut(whole, 2, np.random.default_rng(seed))
            assert torch.equal(found["fixed_image"], found["moving_labels"])
            assert torch.equal(found["same"], whole["same"])
            row, column = found["fixed_points"][0, :, 0].long().tolist()
            assert found["fixed_image"][0, 0, row, column] == image[0, 0, 4, 3]
            sizes.add(tuple(found["fixed_image"].shape[2:]))
        assert len(sizes) > 3
        assert min(sizes)[0] >= 5
        with pytest.raises(ConfigError, match="may leave nothing"):
            cut(whole, 4, np.random.default_rng(0))

    def test_monai_transforms_are_seeded_and_leave_labels_alone(self) -> None:
        settings = Augmentation(intensity={"RandGaussianNoise": {"prob": 1.0, "std": 0.1}})
        case = {"image": torch.full((1, 8, 8), 0.5), "labels": torch.ones(1, 8, 8)}
        first, second = (Augmenter(settings, np.random.default_rng(0))(case) for _ in range(2))
        assert same_tensors(first, second)
        assert not torch.equal(first["image"], case["image"])
        assert torch.equal(first["labels"], case["labels"])

    @pytest.mark.parametrize("name", ["RandNothing", "Compose"])
    def test_what_is_no_random_transform_is_refused(self, name: str) -> None:
        with pytest.raises(ConfigError, match=f"'{name}' is no random transform of MONAI"):
            Augmenter(Augmentation(intensity={name: {}}), np.random.default_rng(0))

    def test_wrong_argument_of_a_transform_is_named(self) -> None:
        with pytest.raises(ConfigError, match=r"RandGaussianNoise.*loudness"):
            Augmenter(Augmentation(intensity={"RandGaussianNoise": {"loudness": 1}}), np.random.default_rng(0))
