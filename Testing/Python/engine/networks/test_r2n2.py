"""R2N2: sizes, start, positions, memory, sequences, gradients, precision, and that it can learn."""

import pytest
import torch
from torch import Tensor

from DeepAttentionRegEngine.deform.gaussians import grid_coordinates, least_determinant, render
from DeepAttentionRegEngine.deform.losses import isotropic_total_variation, mean_squared
from DeepAttentionRegEngine.deform.warp import compose, warp
from DeepAttentionRegEngine.networks.base import ImagePair
from DeepAttentionRegEngine.networks.r2n2 import PRESETS, PositionHead, R2n2, R2n2Settings
from engine_cases import count_weights, smooth_noise
from r2n2_cases import FLAT, VOLUME, exact_determinant, image_pair, make_network, modes, one_gaussian, sizes, states

pytestmark = pytest.mark.torch


class TestSize:
    @pytest.mark.parametrize(("preset", "count"), [("paper", 12_891_915), ("code", 4_753_035)])
    def test_published_number_of_weights(self, preset: str, count: int) -> None:
        assert count_weights(R2n2(PRESETS[preset])) == count

    @pytest.mark.parametrize("side", [255, 256, 257])
    def test_levels_halve_and_round_up(self, side: int) -> None:
        (last,) = states(make_network(2, widths=[2, 2, 2, 4]), image_pair((side, 48)), 1, attend=True)
        expected = [(-(-side // 2**level), 48 // 2**level) for level in (1, 2, 3)]
        assert [found.values.shape[2:] for found in last.evidence.maps] == expected
        assert last.displacement.shape == (1, 2, side, 48)

    @pytest.mark.parametrize("last_down", [False, True])
    @pytest.mark.parametrize("reduction", [1, 2])
    @pytest.mark.parametrize("spatial", [(16, 16), (31, 42), (17, 19, 16), (33, 32, 37)])
    def test_field_has_the_size_of_the_input(self, spatial: tuple[int, ...], reduction: int, last_down: bool) -> None:
        network = make_network(len(spatial), awake=1.0, reduction=reduction, last_down=last_down, norm="instance")
        last = states(network, image_pair(spatial), 2)[-1].displacement
        assert last.shape == (1, len(spatial), *spatial)
        assert torch.isfinite(last).all()

    @sizes
    def test_batch_of_four_gives_what_four_single_pairs_give(self, spatial: tuple[int, ...]) -> None:
        network, pair = make_network(len(spatial), awake=1.0, norm="instance", gaussians=2), image_pair(spatial, 4)
        apart = [
            states(network, ImagePair(pair.fixed[n : n + 1], pair.moving[n : n + 1]), 2)[-1].displacement
            for n in range(4)
        ]
        # Displacements of some voxels, summed in another order.
        torch.testing.assert_close(states(network, pair, 2)[-1].displacement, torch.cat(apart), atol=1e-3, rtol=0)

    def test_short_axis_is_refused(self) -> None:
        image = torch.zeros(1, 1, 15, 40)
        with pytest.raises(ValueError, match=r"15.*16"):
            states(make_network(2), ImagePair(image, image), 1)

    @pytest.mark.parametrize("wrong", [{"mode": "add"}, {"norm": "batch"}, {"activation": "relu"}, {"kappa": 1.0}])
    def test_unknown_settings_are_refused(self, wrong: dict[str, object]) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            R2n2Settings(**wrong)


class TestStart:
    @pytest.mark.slow
    @sizes
    @modes
    @pytest.mark.parametrize("recursions", [1, 25])
    def test_untrained_network_moves_nothing(self, spatial: tuple[int, ...], mode: str, recursions: int) -> None:
        pair = image_pair(spatial)
        last = states(make_network(len(spatial), mode=mode, gaussians=2, widths=[4] * 4), pair, recursions)[-1]
        assert float(last.displacement.abs().max()) == 0
        torch.testing.assert_close(last.warped, pair.moving, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("nd", [2, 3])
    def test_first_gaussians(self, nd: int) -> None:
        (last,) = states(make_network(nd), image_pair(FLAT if nd == 2 else VOLUME), 1, attend=True)
        found = last.evidence.gaussians
        torch.testing.assert_close(found.sigma, torch.full((1, 1, nd), 0.125), atol=2e-3, rtol=0)
        quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])  # the sigmoid of 0 is half of pi
        torch.testing.assert_close(found.rotation[0, 0], quarter if nd == 2 else torch.eye(3), atol=1e-6, rtol=0)


class TestPosition:
    SIZE = (4, 9)

    def head(self, temperature: float = 1.0, *, learn: bool = False) -> PositionHead:
        """Return a head for one Gaussian that reads one channel."""
        head = PositionHead(2, 1, R2n2Settings(temperature=temperature, learn_temperature=learn))
        for branch in (head.left, head.right):
            torch.nn.init.ones_(branch.weight)
        return head

    @torch.no_grad()
    def test_a_single_pixel_is_its_coordinate(self) -> None:
        points = grid_coordinates(self.SIZE, self.SIZE, torch.zeros(1))
        x = torch.zeros(1, 1, *self.SIZE)
        x[0, 0, 1, 7] = 1e4
        position, _, found = self.head()(x, points)
        assert float(found.sum()) == pytest.approx(1)
        torch.testing.assert_close(position[0, 0], points[0, :, 1, 7])
        torch.testing.assert_close(position[0, 0], torch.tensor([-0.5 / 4.5, 3 / 4.5]))

    @torch.no_grad()
    def test_positions_lie_within_the_image(self) -> None:
        points = grid_coordinates(self.SIZE, self.SIZE, torch.zeros(1))
        position, weight, found = self.head()(100 * torch.randn(50, 1, *self.SIZE), points)
        assert float(position[..., 0].abs().max()) <= 4 / 9
        assert float(position[..., 1].abs().max()) <= 1
        assert 0 <= float(weight.min()) <= float(weight.max()) <= 2
        torch.testing.assert_close(found.sum((2, 3)), torch.ones(50, 1))

    @torch.no_grad()
    def test_branches_that_agree_have_weight_2_and_that_disagree_0(self) -> None:
        head, points = self.head(), grid_coordinates(self.SIZE, self.SIZE, torch.zeros(1))
        x = torch.zeros(1, 1, *self.SIZE)
        x[0, 0, 1, 7], x[0, 0, 2, 2] = 1e4, -1e4
        assert float(head(x, points)[1]) == 2
        head.right.weight.data *= -1
        assert float(head(x, points)[1]) == 0

    def test_levels_that_are_equally_sure_are_averaged(self) -> None:
        network = make_network(2)
        for place in network.places:
            place.right.load_state_dict(place.left.state_dict())
        (last,) = states(network, image_pair(FLAT), 1, attend=True)
        at = [
            (found.values * grid_coordinates(found.values.shape[2:], FLAT, found.values)).sum((2, 3))
            for found in last.evidence.maps
        ]
        torch.testing.assert_close(last.evidence.gaussians.center[:, 0], sum(at) / 3, atol=1e-6, rtol=0)

    @torch.no_grad()
    def test_low_temperature_is_sharper(self) -> None:
        points, x = grid_coordinates(self.SIZE, self.SIZE, torch.zeros(1)), torch.randn(1, 1, *self.SIZE)
        warm, cold = (float(self.head(temperature)(x, points)[2].max()) for temperature in (1.0, 0.1))
        assert cold > warm

    @pytest.mark.parametrize("learn", [False, True])
    def test_temperature_is_trained_if_asked_for(self, learn: bool) -> None:
        names = [name for name, weight in self.head(learn=learn).named_parameters() if weight.requires_grad]
        assert ("log_temperature" in names) == learn


class TestSequence:
    @sizes
    @modes
    def test_field_is_that_of_its_gaussians(self, spatial: tuple[int, ...], mode: str) -> None:
        network = make_network(len(spatial), awake=0.3, mode=mode, gaussians=2)
        found = states(network, image_pair(spatial), 3, attend=True)
        last, steps = found[-1].displacement, [state.evidence.gaussians for state in found]
        inside = (..., *(slice(n // 4, -n // 4) for n in spatial))  # what is composed never leaves the grid
        # Composed fields are interpolated: second differences of at most some tenths of a voxel, an eighth of them.
        error = (last - render(steps, mode, spatial))[inside].abs().max()
        assert float(error) < (1e-4 if mode == "sum" else 0.1)
        assert float(last.abs().max()) > 0.5

    @modes
    def test_states_follow_from_increments(self, mode: str) -> None:
        pair = image_pair(FLAT)
        first, second = states(make_network(2, awake=0.3, mode=mode), pair, 2)
        joined = first.displacement + second.increment
        expected = joined if mode == "sum" else compose(first.displacement, second.increment)
        torch.testing.assert_close(second.displacement, expected)
        torch.testing.assert_close(second.warped, warp(pair.moving, second.displacement))

    @sizes
    @pytest.mark.parametrize("mode", ["compose", "joint"])
    def test_composed_fields_do_not_fold(self, spatial: tuple[int, ...], mode: str) -> None:
        network = make_network(len(spatial), awake=10.0, mode=mode, gaussians=2)
        found = states(network, image_pair(spatial), 2, attend=True)
        # The bound 1 - kappa, but for rounding.
        assert min(float(least_determinant(state.evidence.gaussians).min()) for state in found) > 0.1 - 1e-5
        points = 2 * torch.rand(1, len(spatial), 5000, generator=torch.Generator().manual_seed(0)) - 1
        assert float(exact_determinant([state.evidence.gaussians for state in found], mode, points).min()) > 0

    def test_evidence_is_kept_only_if_asked_for(self) -> None:
        assert states(make_network(2), image_pair(FLAT), 1)[0].evidence is None

    def test_evidence_of_several_gaussians(self) -> None:
        (state,) = states(make_network(3, gaussians=3), image_pair(VOLUME), 1, attend=True)
        assert state.evidence.gaussians.vector.shape == (1, 3, 3)
        assert [found.name for found in state.evidence.maps] == [f"position, level {level}" for level in (1, 2, 3)]

    def test_intensities_are_scaled_by_the_image_that_was_given(self) -> None:
        network, pair = make_network(2, awake=0.3), image_pair(FLAT)
        brighter = ImagePair(0.5 * pair.fixed, 2 * pair.moving + 0.3)
        first, second = (states(network, p, 3)[-1].displacement for p in (pair, brighter))
        torch.testing.assert_close(first, second, atol=1e-3, rtol=0)

    def test_a_flat_image_is_no_trouble(self) -> None:
        image = torch.ones(1, 1, *FLAT)
        assert torch.isfinite(states(make_network(2, awake=1.0), ImagePair(image, image), 2)[-1].displacement).all()


class TestMemory:
    @staticmethod
    def memories(network: R2n2) -> list[list[Tensor | None]]:
        """Return what the network remembered ahead of each of three steps."""
        seen: list[list[Tensor | None]] = []
        network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
        states(network, image_pair(FLAT), 3)
        return seen

    def test_state_of_every_level_is_handed_on(self) -> None:
        first, second, third = self.memories(make_network(2))
        assert first == [None] * 3
        assert [state.shape[2:] for state in second] == [(20, 29), (10, 15), (5, 8)]
        assert not any(torch.equal(a, b) for a, b in zip(second, third, strict=True))

    def test_without_memory_each_step_starts_afresh(self) -> None:
        assert self.memories(make_network(2, memory=False)) == [[None] * 3] * 3

    def test_each_pair_starts_afresh(self) -> None:
        network, pair = make_network(2, awake=0.3), image_pair(FLAT)
        again = [states(network, pair, 2)[-1].displacement for _ in range(2)]
        assert torch.equal(*again)

    def test_training_is_stochastic_from_the_second_step(self) -> None:
        network, pair = make_network(2, awake=0.3).train(), image_pair(FLAT)
        (first, second), (same, other) = (states(network, pair, 2) for _ in range(2))
        assert torch.equal(first.displacement, same.displacement)
        assert not torch.equal(second.displacement, other.displacement)


@pytest.mark.slow
class TestLearning:
    def test_a_known_bump_is_learned(self) -> None:
        size = (48, 48)
        moving = smooth_noise(size, seed=1, sigma=2.5)
        truth = one_gaussian((0.2, -0.1), (0.25, 0.2), (0.1, -0.08), 0.4)
        pair = ImagePair(warp(moving, render([truth], "sum", size)), moving)
        network = make_network(2, sigma_max=0.5, temperature=0.3, noise=0.1).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-3, amsgrad=True)
        for _ in range(60):
            optimizer.zero_grad()
            found = list(network.recurse(pair, 3))
            loss = torch.stack([mean_squared(state.warped, pair.fixed) for state in found]).mean()
            (loss + 1e-5 * isotropic_total_variation(found[-1].displacement)).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        last = states(network.eval(), pair, 3)[-1]
        assert float(mean_squared(last.warped, pair.fixed)) < 0.2 * float(mean_squared(moving, pair.fixed))
