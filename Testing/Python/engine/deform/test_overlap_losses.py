"""Agreement of label maps: outlines, logit cross-entropy and codes against analytic values."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from DeepAttentionRegEngine.deform.overlap_losses import code_distance, contour, logit_cross_entropy
from DeepAttentionRegEngine.deform.warp import warp

pytestmark = pytest.mark.torch

FLAT, VOLUME = (10, 12), (8, 9, 10)
sizes = pytest.mark.parametrize("spatial", [FLAT, VOLUME], ids=["2d", "3d"])


def label_channels(spatial: tuple[int, ...], count: int, seed: int = 0, batch: int = 1) -> Tensor:
    """Return random labels as channels `(B, count, *spatial)`, float32."""
    labels = torch.randint(count, (batch, *spatial), generator=torch.Generator().manual_seed(seed))
    return F.one_hot(labels, count).movedim(-1, 1).float()


class TestContour:
    @sizes
    def test_equal_maps_have_equal_contours(self, spatial: tuple[int, ...]) -> None:
        labels = label_channels(spatial, 2)
        assert float(contour(labels, labels)) == 0

    @sizes
    def test_an_isolated_voxel_costs_its_own_and_its_neighbours_edges(self, spatial: tuple[int, ...]) -> None:
        nd = len(spatial)
        empty = torch.zeros(1, 1, *spatial)
        single = empty.clone()
        single[(0, 0, *[n // 2 for n in spatial])] = 1
        # The Laplacian is -2 nd at the voxel and 1 at each of its 2 nd neighbours.
        expected = ((2 * nd) ** 2 + 2 * nd) / math.prod(n - 2 for n in spatial)
        assert float(contour(single, empty)) == pytest.approx(expected)

    @sizes
    def test_the_border_of_the_image_is_no_contour(self, spatial: tuple[int, ...]) -> None:
        full = torch.ones(1, 1, *spatial)
        assert float(contour(full, 0 * full)) == 0

    @sizes
    def test_gradient_removes_an_isolated_voxel(self, spatial: tuple[int, ...]) -> None:
        target = torch.zeros(1, 1, *spatial)
        labels = target.clone()
        center = (0, 0, *[n // 2 for n in spatial])
        labels[center] = 0.5
        labels.requires_grad_()
        contour(labels, target).backward()
        assert float(labels.grad[center]) == float(labels.grad.max()) > 0


class TestLogitCrossEntropy:
    @sizes
    @pytest.mark.parametrize(("labels", "cost"), [(2, 0.3133), (3, 0.5514)])
    def test_equal_maps_cost_what_the_number_of_labels_says(
        self, spatial: tuple[int, ...], labels: int, cost: float
    ) -> None:
        channels = label_channels(spatial, labels, batch=2)
        assert float(logit_cross_entropy(channels, channels)) == pytest.approx(cost, abs=5e-5)

    def test_disjoint_maps_cost_one_more(self) -> None:
        labels = label_channels(FLAT, 2)
        assert float(logit_cross_entropy(labels.flip(1), labels)) == pytest.approx(1.3133, abs=5e-5)

    def test_gradient_reaches_the_displacement(self) -> None:
        labels = torch.zeros(1, 2, *FLAT)
        labels[:, 0, :, :5], labels[:, 1, :, 5:] = 1, 1
        displacement = torch.full((1, 2, *FLAT), 0.25, requires_grad=True)
        logit_cross_entropy(warp(labels, displacement), labels).backward()
        assert float(displacement.grad[:, 1].abs().max()) > 0


class TestCodeDistance:
    @staticmethod
    def moments(labels: Tensor) -> Tensor:
        return labels.flatten(2).mean(2)

    def test_equal_maps_have_no_distance(self) -> None:
        labels = label_channels(FLAT, 3)
        assert float(code_distance(self.moments, labels, labels)) == 0

    def test_sums_over_the_code_and_averages_over_the_batch(self) -> None:
        fixed = torch.zeros(2, 2, *FLAT)
        warped = fixed.clone()
        warped[0, 0], warped[0, 1], warped[1, 0] = 1, 2, 3
        assert float(code_distance(self.moments, warped, fixed)) == pytest.approx((1 + 4 + 9) / 2)
