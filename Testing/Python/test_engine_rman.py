"""The recursive mutual attention network: sizes, symmetries, recursion, attention, and that it can learn."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from DeepAttentionRegEngine.losses import diffusion, mean_squared
from DeepAttentionRegEngine.networks import build
from DeepAttentionRegEngine.networks.attention import MutualAttention
from DeepAttentionRegEngine.networks.base import ImagePair, Recursion, StepNetwork
from DeepAttentionRegEngine.networks.blocks import count_weights
from DeepAttentionRegEngine.networks.rman import Rman, RmanSettings
from DeepAttentionRegEngine.warp import compose, identity_grid, jacobian_determinant, warp
from engine_cases import smooth_noise

pytestmark = pytest.mark.torch

FLAT, VOLUME = (33, 50), (34, 32, 37)
sizes = pytest.mark.parametrize("spatial", [FLAT, VOLUME], ids=["2d", "3d"])


def make_step(nd: int, *, flow: float = 1.0, seed: int = 0, **arguments: object) -> Rman:
    """Return an untrained network in evaluation mode; `flow` scales what it predicts at the start."""
    torch.manual_seed(seed)
    network = Rman(RmanSettings(**{"nd": nd, "widths": "tiny", **arguments})).eval()
    network.flow.weight.data *= flow
    return network


def image_pair(spatial: tuple[int, ...], sigma: float = 1.5) -> tuple[Tensor, Tensor]:
    return smooth_noise(spatial, seed=1, sigma=sigma), smooth_noise(spatial, seed=2, sigma=sigma)


class Scripted(StepNetwork):
    """Predicts what a function says."""

    def __init__(self, predict: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.predict = predict

    def forward(self, warped: Tensor, fixed: Tensor, evidence: object = None) -> Tensor:
        return self.predict(warped, fixed)


@torch.no_grad()
def states(network: StepNetwork, fixed: Tensor, moving: Tensor, recursions: int) -> list[Recursion]:
    return list(network.recurse(ImagePair(fixed, moving), recursions))


class TestSize:
    @pytest.mark.parametrize(
        ("nd", "widths", "flow_level", "count"),
        [
            (3, "small", 0, 452_453),
            (3, "base", 0, 1_800_597),
            (3, "base", 1, 1_760_277),
            (3, "large", 0, 6_370_053),
            (2, "small", 0, 154_300),
            (2, "base", 1, 596_180),
        ],
    )
    def test_number_of_weights(self, nd: int, widths: str, flow_level: int, count: int) -> None:
        # Counted once; a change means that published weight files no longer fit.
        assert count_weights(Rman(RmanSettings(nd=nd, widths=widths, flow_level=flow_level))) == count

    def test_attention_can_be_left_out(self) -> None:
        names = [name for name, _ in make_step(3, attention=False).named_parameters()]
        assert not [name for name in names if name.startswith("mutual")]

    def test_unknown_network_is_refused(self) -> None:
        with pytest.raises(ValueError, match="nope"):
            build("nope", {})

    def test_unknown_argument_is_refused(self) -> None:
        with pytest.raises(ValueError, match="depth"):
            build("rman", {"depth": 5})


class TestStart:
    @sizes
    def test_untrained_network_moves_nothing(self, spatial: tuple[int, ...]) -> None:
        fixed, moving = image_pair(spatial)
        last = states(make_step(len(spatial), widths="small"), fixed, moving, 3)[-1]
        assert float(last.displacement.abs().max()) < 1e-2

    @sizes
    def test_untrained_network_keeps_the_moving_image(self, spatial: tuple[int, ...]) -> None:
        # Blurred over 4 voxels, so that motion of a few thousandths of a voxel changes less than the 1e-3 allowed.
        fixed, moving = image_pair(spatial, sigma=4.0)
        last = states(make_step(len(spatial), widths="small"), fixed, moving, 3)[-1]
        torch.testing.assert_close(last.warped, moving, atol=1e-3, rtol=0)


class TestShape:
    @pytest.mark.parametrize("spatial", [(33, 40, 47), (48, 32, 39), (32, 32, 32), (33, 50), (65, 32)])
    @pytest.mark.parametrize("flow_level", [0, 1])
    def test_output_has_the_size_of_the_input(self, spatial: tuple[int, ...], flow_level: int) -> None:
        fixed, moving = image_pair(spatial)
        with torch.no_grad():
            increment = make_step(len(spatial), flow_level=flow_level)(moving, fixed)
        assert increment.shape == (1, len(spatial), *spatial)

    @pytest.mark.slow
    @pytest.mark.parametrize("spatial", [(96, 96, 104), (95, 97, 103)])
    def test_large_volumes_keep_their_size(self, spatial: tuple[int, ...]) -> None:
        image = torch.rand(1, 1, *spatial, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert make_step(3)(image, image).shape == (1, 3, *spatial)

    @sizes
    def test_batch_of_two_gives_what_two_single_pairs_give(self, spatial: tuple[int, ...]) -> None:
        network = make_step(len(spatial), flow=1000.0)
        fixed, moving = image_pair(spatial)
        both = states(network, torch.cat([fixed, moving]), torch.cat([moving, fixed]), 2)[-1].displacement
        apart = [states(network, a, b, 2)[-1].displacement for a, b in ((fixed, moving), (moving, fixed))]
        # Displacements of about a voxel, summed in another order.
        torch.testing.assert_close(both, torch.cat(apart), atol=1e-3, rtol=0)

    @pytest.mark.parametrize("flow_level", [0, 1])
    def test_flow_channels_follow_the_array_axes(self, flow_level: int) -> None:
        network = make_step(3, flow=0.0, flow_level=flow_level)
        network.flow.bias.data = torch.tensor([1.0, 2.0, 3.0]) / 2**flow_level
        fixed, moving = image_pair((34, 40, 48))
        warped = states(network, fixed, moving, 1)[-1].warped
        # 1e-4: an image of contrast 1, coordinates in single precision over 48 voxels.
        torch.testing.assert_close(warped[..., :-1, :-2, :-3], moving[..., 1:, 2:, 3:], atol=1e-4, rtol=0)

    def test_short_axis_is_refused(self) -> None:
        image = torch.zeros(1, 1, 31, 40)
        with pytest.raises(ValueError, match=r"31.*32"):
            states(make_step(2), image, image, 1)

    def test_runaway_prediction_is_held_to_half_the_image(self) -> None:
        network = make_step(2)
        network.flow.bias.data += 1e4
        with torch.no_grad():
            increment = network(*image_pair(FLAT))
        assert [float(channel.max()) for channel in increment[0]] == [FLAT[0] / 2, FLAT[1] / 2]

    @sizes
    @pytest.mark.parametrize(("velocity_steps", "folds"), [(7, False), (0, True)])
    def test_only_integrated_predictions_keep_from_folding(
        self, spatial: tuple[int, ...], velocity_steps: int, folds: bool
    ) -> None:
        network = make_step(len(spatial), flow=4000.0, flow_level=1, velocity_steps=velocity_steps)
        with torch.no_grad():
            increment = network(*image_pair(spatial))
        assert (float(jacobian_determinant(increment).min()) <= 0) == folds


class TestRecursion:
    @sizes
    def test_three_recursions_are_three_passes_by_hand(self, spatial: tuple[int, ...]) -> None:
        network = make_step(len(spatial), flow=1000.0)
        fixed, moving = image_pair(spatial)
        with torch.no_grad():
            first = network(moving, fixed)
            second = network(warp(moving, first), fixed)
            total = second + warp(first, second)
            third = network(warp(moving, total), fixed)
            total = third + warp(total, third)
        torch.testing.assert_close(states(network, fixed, moving, 3)[-1].displacement, total, atol=1e-6, rtol=0)

    def test_every_state_warps_the_original_image_once(self) -> None:
        fixed, moving = image_pair(FLAT)
        for state in states(make_step(2, flow=1000.0), fixed, moving, 3):
            assert torch.equal(state.warped, warp(moving, state.displacement))

    def test_more_recursions_than_in_training_run(self) -> None:
        fixed, moving = image_pair(FLAT)
        assert torch.isfinite(states(make_step(2, flow=1000.0), fixed, moving, 8)[-1].displacement).all()

    def test_caller_may_stop_in_between(self) -> None:
        calls = []

        def network(warped: Tensor, fixed: Tensor) -> Tensor:
            calls.append(warped)
            return torch.zeros(1, 2, *fixed.shape[2:])

        next(Scripted(network).recurse(ImagePair(*image_pair(FLAT)), 5))
        assert len(calls) == 1

    def test_constant_increments_add_up(self) -> None:
        increments = iter([1.5, -0.25])
        fixed, moving = image_pair(FLAT)
        last = states(Scripted(lambda *_: torch.full((1, 2, *FLAT), next(increments))), fixed, moving, 2)[-1]
        torch.testing.assert_close(last.displacement, torch.full((1, 2, *FLAT), 1.25), atol=1e-5, rtol=0)

    @staticmethod
    def linear_increments() -> tuple[Tensor, Tensor, Tensor]:
        """Return two linear displacements about the centre of a 40 x 40 grid, and that of first after second."""
        around = identity_grid((40, 40), torch.zeros(1, dtype=torch.float64)) - 19.5
        a = torch.tensor([[1.1, 0.05], [-0.1, 0.95]], dtype=torch.float64)
        b = torch.tensor([[0.9, -0.1], [0.1, 1.05]], dtype=torch.float64)
        first, second, product = (torch.einsum("ab,nbij->naij", m - torch.eye(2), around) for m in (a, b, a @ b))
        return first, second, product

    def test_later_increment_acts_first(self) -> None:
        first, second, product = self.linear_increments()
        increments = iter([first, second])
        image = torch.zeros(1, 1, 40, 40, dtype=torch.float64)
        last = states(Scripted(lambda *_: next(increments)), image, image, 2)[-1]
        # The interior, where the inner map stays on the grid; linear fields are interpolated exactly.
        torch.testing.assert_close(last.displacement[..., 5:-5, 5:-5], product[..., 5:-5, 5:-5], atol=1e-9, rtol=0)

    def test_adding_linear_increments_would_be_wrong(self) -> None:
        first, second, product = self.linear_increments()
        assert float((first + second - product)[..., 5:-5, 5:-5].abs().max()) > 0.05


class TestGradient:
    @staticmethod
    def gradients(*, detach_first: bool = False) -> dict[str, Tensor]:
        """Return the gradient of every weight for the dissimilarity after the second recursion."""
        network = make_step(2, flow=1000.0).train()
        fixed, moving = image_pair(FLAT)
        first = network(moving, fixed)
        first = first.detach() if detach_first else first
        total = compose(first, network(warp(moving, first), fixed))
        mean_squared(warp(moving, total), fixed).backward()
        return {name: weight.grad for name, weight in network.named_parameters()}

    def test_every_gradient_is_finite(self) -> None:
        assert not [name for name, gradient in self.gradients().items() if not torch.isfinite(gradient).all()]

    def test_every_weight_that_matters_learns(self) -> None:
        # A bias ahead of a normalisation or of the keys (a softmax ignores what all keys share) has no effect.
        idle = ("first.bias", "second.bias", "third.bias", "key.bias")
        gradients = {name: gradient for name, gradient in self.gradients().items() if not name.endswith(idle)}
        assert not [name for name, gradient in gradients.items() if float(gradient.abs().max()) == 0]

    def test_last_dissimilarity_reaches_the_first_pass(self) -> None:
        whole, cut = self.gradients(), self.gradients(detach_first=True)
        assert not torch.allclose(whole["down.0.first.weight"], cut["down.0.first.weight"], rtol=0.01)


def attention_pair(nd: int, channels: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    spatial = (5, 6, 4)[:nd]
    return tuple(torch.randn(2, channels, *spatial, generator=generator) for _ in range(2))


def make_attention(nd: int, **arguments: object) -> MutualAttention:
    torch.manual_seed(0)
    return MutualAttention(nd, 16, **arguments)


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


class TestSiamese:
    @sizes
    def test_equal_images_have_equal_features(self, spatial: tuple[int, ...]) -> None:
        image = smooth_noise(spatial)
        with torch.no_grad():
            skips_a, skips_b, a, b = make_step(len(spatial)).encode(image, image)
        # One batch entry each, so the same sums up to vectorisation.
        assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip([*skips_a, a], [*skips_b, b], strict=True))

    @sizes
    def test_swapped_images_swap_the_features(self, spatial: tuple[int, ...]) -> None:
        network, (fixed, moving) = make_step(len(spatial)), image_pair(spatial)
        with torch.no_grad():
            there, back = network.encode(moving, fixed)[2:], network.encode(fixed, moving)[2:]
        assert all(torch.allclose(x, y, atol=1e-4) for x, y in zip(there, reversed(back), strict=True))


class TestPrecision:
    def test_bfloat16_moves_voxels_hardly_differently(self) -> None:
        network = make_step(3, flow=1000.0, widths="small")
        fixed, moving = image_pair(VOLUME, sigma=2.5)
        exact = states(network, fixed, moving, 3)[-1].displacement
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = states(network, fixed, moving, 3)[-1].displacement
        assert float(exact.abs().max()) > 1
        # The network's specification: less than a twentieth of a voxel.
        assert float((rounded - exact).abs().max()) < 0.05


class TestLearning:
    @staticmethod
    def bump(spatial: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return a displacement `(1, nd, *spatial)`, peak 4, sigma 8 voxels, and a mask of two sigma."""
        grid = identity_grid(spatial, torch.zeros(1))
        center = torch.tensor([(n - 1) / 2 for n in spatial]).view(1, -1, *[1] * len(spatial))
        squared = ((grid - center) ** 2).sum(1, keepdim=True)
        truth = torch.zeros_like(grid)
        truth[:, :1] = 4 * torch.exp(-squared / (2 * 8**2))
        return truth, (squared < 16**2)[:, 0]

    @pytest.mark.slow
    @pytest.mark.parametrize("spatial", [(56, 64), (36, 32, 34)], ids=["2d", "3d"])
    def test_a_known_bump_is_learned(self, spatial: tuple[int, ...]) -> None:
        moving, (truth, inside) = smooth_noise(spatial, seed=1, sigma=2.5), self.bump(spatial)
        fixed = warp(moving, truth)
        network = make_step(len(spatial), widths="small", flow_level=1).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
        for _ in range(25):  # leaves 0.1 voxel and 2 % of the difference; 40 steps leave half of that
            optimizer.zero_grad()
            *_, last = network.recurse(ImagePair(fixed, moving), 1)
            loss = 100 * mean_squared(last.warped, fixed) + 0.05 * diffusion(last.displacement)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        error = (last.displacement - truth).detach().norm(dim=1)[inside]
        assert float(error.mean()) < 0.5
        with torch.no_grad():
            assert float(mean_squared(last.warped, fixed)) < 0.1 * float(mean_squared(moving, fixed))
