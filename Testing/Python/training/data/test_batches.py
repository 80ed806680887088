"""Pairs and batches of training."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.torch

from training_cases import chest_config, need, same_tensors

need("monai", "scipy")

from training.configs.reading import read_config
from training.data.batches import Batches, CaseSource, PairSampler, case_batch, recursions_at
from training.data.cases import CaseSet, ImageCase
from training.data.loaders import load


def dots(count: int, groups: int = 1) -> CaseSet:
    """Return cases of increasing brightness, in turn of different groups."""
    return CaseSet([ImageCase(str(n), torch.full((1, 4, 4), n / count), group=str(n % groups)) for n in range(count)])


class TestPairing:
    def test_all_ordered_pairs_of_different_cases(self) -> None:
        assert len(PairSampler(dots(5), "any").all()) == 20

    def test_pairs_stay_within_their_group(self) -> None:
        pairs = PairSampler(dots(6, groups=2), "group").all()
        assert len(pairs) == 12
        assert all(fixed % 2 == moving % 2 for fixed, moving in pairs)

    def test_reference_is_the_frame_of_middle_brightness(self) -> None:
        assert PairSampler(dots(5), "reference").all() == [(2, 0), (2, 1), (2, 3), (2, 4)]

    def test_pairs_that_the_data_set_lists_are_scored(self) -> None:
        assert PairSampler(CaseSet(dots(3).cases, [(0, 2)]), "group").all() == [(0, 2)]

    def test_sample_is_the_same_for_a_seed_and_without_repeats(self) -> None:
        pairing = PairSampler(dots(5), "any")
        assert pairing.sampled(7, seed=1) == pairing.sampled(7, seed=1)
        assert len(set(pairing.sampled(7, seed=1))) == 7
        assert pairing.sampled(None, seed=1) == pairing.all()

    @pytest.mark.parametrize("self_pairs", [False, True])
    def test_a_case_meets_itself_only_where_allowed(self, self_pairs: bool) -> None:
        pairing = PairSampler(dots(3), "any", self_pairs=self_pairs)
        rng = np.random.default_rng(0)
        drawn = [pairing.draw(rng) for _ in range(60)]
        assert any(fixed == moving for fixed, moving in drawn) == self_pairs

    def test_listed_rule_needs_a_list(self) -> None:
        with pytest.raises(ValueError, match="lists no pairs"):
            PairSampler(dots(3), "listed")


class TestBatches:
    @pytest.fixture
    def source(self, folder: Path) -> CaseSource:
        augmentation = {"strength": 0.05, "shift": 1.0, "gamma": 0.2, "flip": [1]}
        config = read_config(chest_config(folder, augmentation=augmentation, identity_share=0.5))
        return CaseSource(config, load(config.data, "train"))

    def test_batch_follows_from_seed_rank_and_step(self, source: CaseSource) -> None:
        batches = Batches(source)
        assert same_tensors(batches[3], Batches(source)[3])
        assert not same_tensors(batches[3], batches[2])
        assert not same_tensors(batches[3], Batches(CaseSource(source.config, source.cases, rank=1))[3])

    def test_batches_prepared_ahead_are_the_same(self, source: CaseSource) -> None:
        assert [same_tensors(a, Batches(source)[n]) for n, a in enumerate(Batches(source).after(1), 1)] == [True] * 3

    def test_shapes_and_identity_pairs(self, source: CaseSource) -> None:
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
