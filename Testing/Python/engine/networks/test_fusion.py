"""Self-attention of displacement fields: bounds, start, axes and scale."""

import pytest
import torch
from torch import Tensor

from DeepAttentionRegEngine.deform.warp import resize_displacement
from DeepAttentionRegEngine.networks import fusion
from DeepAttentionRegEngine.networks.fusion import FieldAttention
from engine_cases import count_weights, smooth_displacement

pytestmark = pytest.mark.torch

FLAT, VOLUME = (20, 27), (12, 15, 17)
sizes = pytest.mark.parametrize("spatial", [FLAT, VOLUME], ids=["2d", "3d"])


def make_attention(nd: int, strength: float = 1.0) -> FieldAttention:
    """Return a module whose last convolutions are random instead of zero."""
    torch.manual_seed(0)
    module = FieldAttention(nd)
    for branch in module.branches:
        torch.nn.init.normal_(branch[-1].weight, std=strength)
    return module


@torch.no_grad()
def weights_of(module: FieldAttention, displacement: Tensor) -> Tensor:
    return module(displacement)


class TestFieldAttention:
    @pytest.mark.parametrize(("nd", "count"), [(2, 5_250), (3, 23_427)])
    def test_number_of_weights(self, nd: int, count: int) -> None:
        # Counted once; a change means that published weight files no longer fit.
        assert count_weights(FieldAttention(nd)) == count

    @sizes
    def test_takes_over_one_half_at_the_start(self, spatial: tuple[int, ...]) -> None:
        weights = weights_of(FieldAttention(len(spatial)), smooth_displacement(spatial, peak=4.0))
        assert torch.equal(weights, torch.full_like(weights, 0.5))

    @sizes
    def test_weights_lie_between_zero_and_one(self, spatial: tuple[int, ...]) -> None:
        weights = weights_of(make_attention(len(spatial)), smooth_displacement(spatial, peak=4.0))
        assert 0 < float(weights.min()) < 0.4
        assert 0.6 < float(weights.max()) < 1

    @sizes
    def test_swapped_axes_with_swapped_branches_swap_the_weights(self, spatial: tuple[int, ...]) -> None:
        module, displacement = make_attention(len(spatial)), smooth_displacement((14,) * len(spatial), peak=4.0)
        expected = weights_of(module, displacement).flip(1)
        module.branches = torch.nn.ModuleList(reversed(module.branches))
        torch.testing.assert_close(weights_of(module, displacement.flip(1)), expected)

    @sizes
    def test_no_axis_looks_at_another(self, spatial: tuple[int, ...]) -> None:
        module, displacement = make_attention(len(spatial)), smooth_displacement(spatial, peak=4.0)
        changed = displacement.clone()
        changed[:, 0] *= -1
        before, after = weights_of(module, displacement), weights_of(module, changed)
        assert torch.equal(before[:, 1:], after[:, 1:])
        assert not torch.equal(before[:, 0], after[:, 0])

    def test_displacement_counts_relative_to_the_grid(self) -> None:
        module, displacement = make_attention(2), torch.zeros(1, 2, 20, 30)
        displacement[:, 0], displacement[:, 1] = 3.0, -1.5
        larger = resize_displacement(displacement, (60, 90))
        # Away from the border, which zeros surround, weights of a constant field are constant.
        small, large = (weights_of(module, field)[:, :, 10, 15] for field in (displacement, larger))
        torch.testing.assert_close(small, large)

    @sizes
    def test_small_and_large_maps_are_weighted_alike(
        self, spatial: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module, displacement = make_attention(len(spatial)), smooth_displacement(spatial, peak=4.0)
        together = weights_of(module, displacement)
        monkeypatch.setattr(fusion, "FEW_ROWS", 0)
        torch.testing.assert_close(weights_of(module, displacement), together)

    def test_every_weight_learns(self) -> None:
        module = make_attention(2)
        (module(smooth_displacement(FLAT, peak=4.0)) ** 2).mean().backward()
        assert not [name for name, weight in module.named_parameters() if float(weight.grad.abs().max()) == 0]
