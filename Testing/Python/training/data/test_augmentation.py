"""Random changes of training cases."""

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.torch

from training_cases import need, same_tensors

need("monai")

from training.configs.schema import Augmentation, ConfigError
from training.data.augmentation import Augmenter, cut


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
