"""Mutual attention: its formula, its symmetries, what it looks at, and what it tells of that."""

import pytest
import torch
from torch import Tensor

from DeepAttentionRegEngine.networks.attention import MutualAttention
from DeepAttentionRegEngine.networks.base import CrossAttention, Evidence, ImagePair
from DeepAttentionRegEngine.networks.rman import Rman, RmanSettings
from engine_cases import smooth_noise

pytestmark = pytest.mark.torch


def attention_pair(nd: int, channels: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    spatial = (5, 6, 4)[:nd]
    return tuple(torch.randn(2, channels, *spatial, generator=generator) for _ in range(2))


def make_attention(nd: int, **arguments: object) -> MutualAttention:
    torch.manual_seed(0)
    return MutualAttention(nd, 16, **{"level": 3, **arguments})


def permuted(features: Tensor, order: Tensor) -> Tensor:
    return features.flatten(2)[:, :, order].unflatten(2, features.shape[2:])


class TestAttention:
    @pytest.mark.parametrize("nd", [2, 3])
    @pytest.mark.parametrize("heads", [1, 4])
    def test_rows_sum_to_one(self, nd: int, heads: int) -> None:
        rows = make_attention(nd, heads=heads).weights(*attention_pair(nd)).sum(-1)
        torch.testing.assert_close(rows, torch.ones_like(rows))

    @pytest.mark.parametrize("nd", [2, 3])
    @pytest.mark.parametrize("heads", [1, 4])
    def test_output_is_the_formula(self, nd: int, heads: int) -> None:
        module, (a, b) = make_attention(nd, heads=heads), attention_pair(nd)
        values = module.value(a).flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)
        read = (module.weights(b, a) @ values).transpose(2, 3).flatten(1, 2).unflatten(2, a.shape[2:])
        torch.testing.assert_close(module(a, b)[1], b + 0.1 * module.output(read), atol=1e-5, rtol=0)

    @pytest.mark.parametrize("nd", [2, 3])
    def test_swapped_inputs_swap_the_outputs(self, nd: int) -> None:
        module, (a, b) = make_attention(nd), attention_pair(nd)
        new_a, new_b = module(a, b)
        assert all(torch.equal(x, y) for x, y in zip(module(b, a), (new_b, new_a), strict=True))

    def test_zero_gain_changes_nothing(self) -> None:
        module, (a, b) = make_attention(3), attention_pair(3)
        module.gain.data.zero_()
        assert all(torch.equal(x, y) for x, y in zip(module(a, b), (a, b), strict=True))

    @staticmethod
    def permutation_error(*, position: bool) -> float:
        """Return how far permuting both inputs is from permuting the output."""
        module, (a, b) = make_attention(2, position=position), attention_pair(2)
        order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
        expected = permuted(module(a, b)[1], order)
        return float((module(permuted(a, order), permuted(b, order))[1] - expected).detach().abs().max())

    def test_without_position_code_the_order_of_voxels_does_not_matter(self) -> None:
        assert self.permutation_error(position=False) < 1e-5  # sums in another order

    def test_position_code_makes_the_order_matter(self) -> None:
        assert self.permutation_error(position=True) > 1e-3

    def test_looks_where_the_image_has_moved(self) -> None:
        module = make_attention(2, position=False)
        # Queries and keys are the features themselves, sharpened; every voxel has its own random features.
        for layer in (module.query, module.key):
            layer.weight.data = 10 * torch.eye(16).view(16, 16, 1, 1)
            layer.bias.data.zero_()
        features = torch.randn(1, 16, 6, 7, generator=torch.Generator().manual_seed(2))
        rows = module.weights(torch.roll(features, (2, -1), dims=(2, 3)), features)
        index = torch.arange(42).view(1, 1, 6, 7)
        assert torch.equal(rows.argmax(-1)[0, 0], torch.roll(index, (2, -1), dims=(2, 3)).flatten())

    @pytest.mark.parametrize("nd", [2, 3])
    def test_tied_directions_read_one_similarity_matrix(self, nd: int) -> None:
        module, (a, b) = make_attention(nd, tied=True), attention_pair(nd)
        # Rows of one are columns of the other before softmax, so the logarithms differ by one term a row and a column.
        there, back = module.weights(b, a).log(), module.weights(a, b).log().transpose(2, 3)
        difference = there - back
        centred = difference - difference.mean(2, keepdim=True)
        torch.testing.assert_close(centred, centred.mean(3, keepdim=True).expand_as(centred), atol=1e-4, rtol=0)

    def test_tied_queries_and_keys_are_counted_once(self) -> None:
        counts = [sum(p.numel() for p in make_attention(3, tied=tied).parameters()) for tied in (False, True)]
        assert counts[0] - counts[1] == 16 * 16 + 16


class TestEvidence:
    SPATIAL = (50, 33)

    @pytest.fixture
    def network(self) -> Rman:
        torch.manual_seed(0)
        return Rman(RmanSettings(nd=2, widths="tiny", heads=4)).eval()

    @pytest.fixture
    def attended(self, network: Rman) -> list[CrossAttention]:
        pair = ImagePair(smooth_noise(self.SPATIAL, seed=1), smooth_noise(self.SPATIAL, seed=2))
        with torch.no_grad():
            (state,) = network.recurse(pair, 1, attend=True)
        return state.evidence.attention

    def test_every_module_tells(self, attended: list[CrossAttention]) -> None:
        assert [one.name for one in attended] == ["level 3", "level 4"]

    def test_tokens_are_the_voxels_of_the_pooled_maps(self, attended: list[CrossAttention]) -> None:
        assert [one.query_size for one in attended] == [one.key_size for one in attended] == [(6, 4), (3, 2)]
        assert [one.query.shape for one in attended] == [one.key.shape for one in attended] == [(4, 24, 4), (4, 6, 4)]

    def test_strides_are_those_of_the_pooling(self, attended: list[CrossAttention]) -> None:
        assert [(one.query_stride, one.key_stride) for one in attended] == [(8, 8), (16, 16)]

    def test_rows_are_of_the_fixed_image_over_the_moving_one(self) -> None:
        module, evidence = make_attention(2), Evidence()
        moving, fixed = (features[:1] for features in attention_pair(2))
        module(moving, fixed, evidence)
        (one,) = evidence.attention
        rows = torch.softmax(one.query @ one.key.transpose(1, 2) / one.query.shape[-1] ** 0.5, -1)
        torch.testing.assert_close(rows, module.weights(fixed, moving)[0])

    def test_telling_changes_nothing(self, network: Rman) -> None:
        pair = ImagePair(smooth_noise(self.SPATIAL, seed=1), smooth_noise(self.SPATIAL, seed=2))
        with torch.no_grad():
            fields = [next(network.recurse(pair, 1, attend=attend)).displacement for attend in (False, True)]
        assert torch.equal(*fields)
