"""Cases and the grids they are brought to."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.torch

from training_cases import need

need("monai", "scipy")

from training.data.batches import case_channels
from training.data.cases import ImageCase, centered, data_folder, one_hot, reduced, relabelled, with_background


class TestCases:
    def test_reduced_case_covers_the_same_field_of_view(self) -> None:
        labels = torch.zeros(8, 8, dtype=torch.uint8)
        labels[2:6, 4:8] = 2
        image = torch.arange(8.0).expand(1, 8, 8)
        case = reduced(ImageCase("a", image, labels, (1.0, 2.0), points=torch.tensor([[1.5, 5.5]])), (4, 4), 2)
        assert torch.allclose(case.image[0, 0], torch.tensor([0.5, 2.5, 4.5, 6.5]))
        assert case.labels.tolist() == [[0, 0, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 0, 0]]
        assert case.spacing == (2.0, 4.0)
        assert case.points.tolist() == [[0.5, 2.5]]

    def test_reduced_case_keeps_where_in_a_voxel_a_boundary_lies(self) -> None:
        labels = torch.zeros(8, 8, dtype=torch.uint8)
        labels[2:6, 3:8] = 2
        case = reduced(ImageCase("a", torch.zeros(1, 8, 8), labels), (4, 4), 2)
        assert case.shares[:, 1].tolist() == [[0, 0, 0, 0], [0, 0.5, 1, 1]]
        assert torch.equal(case_channels(case, 2)["labels"], case.shares)

    def test_one_hot_and_background_sum_to_one(self) -> None:
        channels = one_hot(torch.tensor([[0, 1], [2, 2]], dtype=torch.uint8), 2)
        assert channels.tolist() == [[[0, 1], [0, 0]], [[0, 0], [1, 1]]]
        assert with_background(channels[None]).sum(1).eq(1).all()

    def test_centered_crops_and_pads_alike_on_both_sides(self) -> None:
        assert centered(np.arange(6), (4,)).tolist() == [1, 2, 3, 4]
        assert centered(np.arange(2), (4,)).tolist() == [0, 0, 1, 1]

    def test_relabelled_drops_what_is_not_named(self) -> None:
        assert relabelled(np.array([0, 1, 2, 3]), [[2], [3, 9]]).tolist() == [0, 0, 1, 2]

    def test_missing_data_set_says_what_to_set(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DAR_DATA", str(tmp_path))
        with pytest.raises(FileNotFoundError, match="set DAR_DATA"):
            data_folder("no such data set")
