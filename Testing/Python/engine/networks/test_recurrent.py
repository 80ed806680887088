"""The gated recurrent registration unit of R2N2: gates, state, noise, normalisation."""

import pytest
import torch
from torch import Tensor

from DeepAttentionRegEngine.networks.recurrent import ConvGru, Gr2u, Layer, Normalization, StyledResidualBlock

pytestmark = pytest.mark.torch

CHANNELS = 4
STYLE = ("tanh", "none")


def make_unit(nd: int = 2, noise: float = 0.5) -> ConvGru:
    torch.manual_seed(0)
    return ConvGru(nd, CHANNELS, noise).eval()


def features(seed: int, nd: int = 2) -> Tensor:
    return torch.randn(1, CHANNELS, *(7, 5, 6)[:nd], generator=torch.Generator().manual_seed(seed))


def force(unit: ConvGru, gate: int, value: float) -> None:
    """Hold a gate, 0 reset or 1 update, at sigmoid(value)."""
    part = slice(gate * CHANNELS, (gate + 1) * CHANNELS)
    for weight in (unit.inputs.weight, unit.gates.weight):
        weight.data[part] = 0
    unit.inputs.bias.data[part] = value


class TestConvGru:
    @torch.no_grad()
    def test_fresh_start_is_the_candidate_let_through(self) -> None:
        unit, x = make_unit(), features(1)
        _, update, candidate = unit.inputs(x).chunk(3, 1)
        torch.testing.assert_close(unit(x, None), (1 - update.sigmoid()) * candidate.tanh())

    @torch.no_grad()
    def test_fresh_start_is_a_state_of_zeros(self) -> None:
        unit, x = make_unit(), features(1)
        torch.testing.assert_close(unit(x, None), unit(x, torch.zeros_like(x)))

    @pytest.mark.parametrize("nd", [2, 3])
    @torch.no_grad()
    def test_equations_of_the_paper(self, nd: int) -> None:
        unit, x, h = make_unit(nd), features(1, nd), features(2, nd)
        w_r, w_z, w_c = unit.inputs(x).chunk(3, 1)
        u_r, u_z = unit.gates(h).chunk(2, 1)
        z = torch.sigmoid(w_z + u_z)
        c = torch.tanh(w_c + unit.candidate(torch.sigmoid(w_r + u_r) * h))
        torch.testing.assert_close(unit(x, h), (1 - z) * c + z * h)

    @torch.no_grad()
    def test_update_forced_to_1_freezes_the_state(self) -> None:
        unit, state = make_unit(), features(2)
        force(unit, 1, 100.0)
        assert torch.equal(unit(features(1), state), state)

    @torch.no_grad()
    def test_reset_forced_to_0_ignores_the_state(self) -> None:
        unit, x = make_unit(), features(1)
        force(unit, 0, -100.0)
        force(unit, 1, -100.0)  # nothing of the old state is kept either
        torch.testing.assert_close(unit(x, features(2)), unit(x, features(3)))

    def test_only_the_candidate_starts_with_a_bias(self) -> None:
        assert make_unit().inputs.bias.tolist() == [0.0] * (2 * CHANNELS) + [1.0] * CHANNELS

    @torch.no_grad()
    def test_evaluation_is_deterministic(self) -> None:
        unit = make_unit()
        assert torch.equal(unit(features(1), features(2)), unit(features(1), features(2)))

    @torch.no_grad()
    def test_training_draws_noise_at_every_step(self) -> None:
        unit = make_unit().train()
        assert not torch.equal(unit(features(1), features(2)), unit(features(1), features(2)))

    @torch.no_grad()
    def test_noise_spares_the_weights_of_the_input(self) -> None:
        unit = make_unit().train()
        assert torch.equal(unit(features(1), None), unit(features(1), None))

    @torch.no_grad()
    def test_no_noise_is_evaluation(self) -> None:
        unit = make_unit(noise=0.0)
        still = unit(features(1), features(2))
        assert torch.equal(unit.train()(features(1), features(2)), still)

    @torch.no_grad()
    def test_state_stays_in_single_precision(self) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert make_unit()(features(1), features(2)).dtype == torch.float32


class TestBlocks:
    @pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (3, 1), (1, 1)])
    @pytest.mark.parametrize("n", [15, 16, 17])
    def test_strides_round_up(self, kernel: int, stride: int, n: int) -> None:
        layer = Layer(2, (1, CHANNELS), kernel, stride, STYLE)
        assert layer(torch.zeros(1, 1, n, n + 1)).shape[2:] == (-(-n // stride), -(-(n + 1) // stride))

    @torch.no_grad()
    def test_residual_block_adds_its_input_before_the_activation(self) -> None:
        block = StyledResidualBlock(2, CHANNELS, STYLE)
        block.second.weight.data.zero_()
        torch.testing.assert_close(block(features(1)), features(1).tanh())

    @torch.no_grad()
    def test_unit_joins_state_and_features(self) -> None:
        unit = Gr2u(2, CHANNELS, 2, STYLE, 0.0)
        x, state = unit.blocks(features(1)), features(2)
        out, new = unit(features(1), state)
        torch.testing.assert_close(new, unit.gru(x, state))
        torch.testing.assert_close(out, (new + x).tanh())


class TestNormalization:
    @pytest.mark.parametrize("kind", ["instance", "group"])
    def test_batch_of_two_is_two_single_ones(self, kind: str) -> None:
        norm, x = Normalization(kind, CHANNELS), torch.cat([features(1), features(2)])
        torch.testing.assert_close(norm(x), torch.cat([norm(x[:1]), norm(x[1:])]))

    def test_each_channel_has_mean_0_and_deviation_1(self) -> None:
        x = Normalization("instance", CHANNELS)(3 * features(1) + 5)
        # 1e-3: 1e-5 is added to the variance.
        torch.testing.assert_close(x.mean((2, 3)), torch.zeros(1, CHANNELS), atol=1e-3, rtol=0)
        torch.testing.assert_close(x.std((2, 3), correction=0), torch.ones(1, CHANNELS), atol=1e-3, rtol=0)

    @pytest.mark.parametrize("kind", ["none", "instance", "group"])
    def test_a_single_voxel_is_kept(self, kind: str) -> None:
        x = torch.randn(2, CHANNELS, 1, 1)
        assert torch.equal(Normalization(kind, CHANNELS)(x), x)

    def test_groups_divide_any_width(self) -> None:
        assert Normalization("group", 6)(torch.randn(1, 6, 4, 4)).shape == (1, 6, 4, 4)
