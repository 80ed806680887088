"""The U-Net baseline: size, start, recursion, precision, and that it can learn."""

import pytest
import torch
from torch import Tensor

from DeepAttentionRegEngine.deform.losses import diffusion, mean_squared
from DeepAttentionRegEngine.deform.warp import warp
from DeepAttentionRegEngine.networks import build
from DeepAttentionRegEngine.networks.base import ImagePair, Recursion, RegistrationNetwork
from engine_cases import count_weights, smooth_displacement, smooth_noise

pytestmark = pytest.mark.torch

FLAT, VOLUME = (33, 50), (34, 32, 37)
sizes = pytest.mark.parametrize("spatial", [FLAT, VOLUME], ids=["2d", "3d"])
resolutions = pytest.mark.parametrize("half_resolution", [False, True], ids=["full", "half"])


def make_network(nd: int, *, flow: float = 1.0, **arguments: object) -> RegistrationNetwork:
    """Return an untrained network; `flow` scales what it predicts at the start."""
    torch.manual_seed(0)
    network = build("voxelmorph", {"nd": nd, **arguments}).eval()
    network.flow.weight.data *= flow
    return network


def image_pair(spatial: tuple[int, ...]) -> ImagePair:
    return ImagePair(smooth_noise(spatial, seed=1, sigma=2.5), smooth_noise(spatial, seed=2, sigma=2.5))


@torch.no_grad()
def last_state(network: RegistrationNetwork, pair: ImagePair, recursions: int) -> Recursion:
    *_, last = network.recurse(pair, recursions)
    return last


class TestSize:
    @pytest.mark.parametrize(
        ("nd", "half_resolution", "count"),
        [(3, False, 300_547), (3, True, 299_683), (2, False, 100_242), (2, True, 99_954)],
    )
    def test_number_of_weights(self, nd: int, half_resolution: bool, count: int) -> None:
        # Sum of (inputs 3^nd + 1) outputs over the layers; a change means that weight files no longer fit.
        assert count_weights(make_network(nd, half_resolution=half_resolution)) == count

    @pytest.mark.parametrize("spatial", [(33, 40, 47), (32, 32, 32), (33, 50), (65, 32)])
    @resolutions
    def test_output_has_the_size_of_the_input(self, spatial: tuple[int, ...], half_resolution: bool) -> None:
        network = make_network(len(spatial), half_resolution=half_resolution)
        assert last_state(network, image_pair(spatial), 2).displacement.shape == (1, len(spatial), *spatial)

    def test_short_axis_is_refused(self) -> None:
        image = torch.zeros(1, 1, 31, 40)
        with pytest.raises(ValueError, match=r"31.*32"):
            last_state(make_network(2), ImagePair(image, image), 1)

    @resolutions
    def test_flow_channels_follow_the_array_axes(self, half_resolution: bool) -> None:
        network = make_network(3, flow=0.0, half_resolution=half_resolution)
        network.flow.bias.data = torch.tensor([1.0, 2.0, 3.0]) / (2 if half_resolution else 1)
        pair = image_pair((35, 40, 47))
        warped = last_state(network, pair, 1).warped
        # 1e-4: an image of contrast 1, coordinates in single precision over 47 voxels.
        torch.testing.assert_close(warped[..., :-1, :-2, :-3], pair.moving[..., 1:, 2:, 3:], atol=1e-4, rtol=0)


class TestRecursion:
    @sizes
    @resolutions
    def test_untrained_network_moves_nothing(self, spatial: tuple[int, ...], half_resolution: bool) -> None:
        network = make_network(len(spatial), half_resolution=half_resolution, velocity_steps=5)
        assert float(last_state(network, image_pair(spatial), 3).displacement.abs().max()) < 1e-2

    def test_two_recursions_are_two_passes_by_hand(self) -> None:
        network, pair = make_network(2, flow=1000.0), image_pair(FLAT)
        with torch.no_grad():
            first = network(pair.moving, pair.fixed)
            second = network(warp(pair.moving, first), pair.fixed)
        total = second + warp(first, second)
        torch.testing.assert_close(last_state(network, pair, 2).displacement, total, atol=1e-6, rtol=0)

    @sizes
    def test_batch_of_two_gives_what_two_single_pairs_give(self, spatial: tuple[int, ...]) -> None:
        network, pair = make_network(len(spatial), flow=1000.0), image_pair(spatial)
        there, back = (pair.fixed, pair.moving), (pair.moving, pair.fixed)
        both = last_state(network, ImagePair(torch.cat(there), torch.cat(back)), 2).displacement
        apart = [last_state(network, ImagePair(*images), 2).displacement for images in (there, back)]
        torch.testing.assert_close(both, torch.cat(apart), atol=1e-4, rtol=0)


class TestGradient:
    @staticmethod
    def gradients(*, checkpointed: bool = False) -> dict[str, Tensor]:
        network, pair = make_network(2, flow=1000.0, half_resolution=True, velocity_steps=3), image_pair(FLAT)
        network.checkpointed = checkpointed
        *_, last = network.recurse(pair, 2)
        mean_squared(last.warped, pair.fixed).backward()
        return {name: weight.grad for name, weight in network.named_parameters()}

    def test_every_weight_learns(self) -> None:
        gradients = self.gradients()
        assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
        assert not [name for name, gradient in gradients.items() if float(gradient.abs().max()) == 0]

    def test_recomputed_recursions_give_the_same_gradients(self) -> None:
        torch.testing.assert_close(self.gradients(checkpointed=True), self.gradients(), atol=1e-5, rtol=1e-5)


class TestPrecision:
    @sizes
    def test_bfloat16_moves_voxels_hardly_differently(self, spatial: tuple[int, ...]) -> None:
        network, pair = make_network(len(spatial), flow=1000.0), image_pair(spatial)
        exact = last_state(network, pair, 3).displacement
        network.half_precision = True
        rounded = last_state(network, pair, 3).displacement
        assert rounded.dtype == torch.float32
        # The tolerance of all networks: less than a twentieth of a voxel.
        assert float((rounded - exact).abs().max()) < 0.05

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_gpu_moves_voxels_as_the_cpu_does(self) -> None:
        network, pair = make_network(3, flow=1000.0), image_pair(VOLUME)
        expected = last_state(network, pair, 3).displacement
        there = ImagePair(pair.fixed.cuda(), pair.moving.cuda())
        torch.testing.assert_close(last_state(network.cuda(), there, 3).displacement.cpu(), expected, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_one_pair_is_learned() -> None:
    moving = smooth_noise((48, 64), seed=1, sigma=2.5)
    fixed = warp(moving, smooth_displacement((48, 64), peak=3.0, sigma=8.0))
    network = make_network(2, half_resolution=True, velocity_steps=5).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        *_, last = network.recurse(ImagePair(fixed, moving), 2)
        loss = 100 * mean_squared(last.warped, fixed) + 0.02 * diffusion(last.displacement)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert float(mean_squared(last.warped, fixed)) < 0.1 * float(mean_squared(moving, fixed))
