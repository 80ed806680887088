"""R2N2 in training: gradients through all steps, checkpoints, precision, devices."""

import copy

import pytest
import torch
from torch import Tensor

from DeepAttentionRegEngine.deform.gaussians import render
from DeepAttentionRegEngine.deform.losses import mean_squared
from DeepAttentionRegEngine.deform.warp import warp
from DeepAttentionRegEngine.networks.base import ImagePair
from DeepAttentionRegEngine.networks.r2n2 import R2n2
from engine_cases import smooth_noise
from r2n2_cases import FLAT, image_pair, make_network, modes, one_gaussian, sizes, states

pytestmark = pytest.mark.torch

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def gradients(network: R2n2, pair: ImagePair, recursions: int) -> dict[str, Tensor]:
    """Return the gradient of every weight for the difference after the last step; the noise is the same each time."""
    network.zero_grad()
    torch.manual_seed(5)
    *_, last = network.recurse(pair, recursions)
    mean_squared(last.warped, pair.fixed).backward()
    return {name: weight.grad.clone() for name, weight in network.named_parameters()}


class TestGradient:
    def test_at_the_start_only_the_last_layer_learns(self) -> None:
        found = gradients(make_network(2).train(), image_pair(FLAT), 2)
        learning = {name for name, gradient in found.items() if float(gradient.abs().max()) > 0}
        assert learning == {"parameter_head.numbers.weight", "parameter_head.numbers.bias"}

    @pytest.mark.slow
    @sizes
    @modes
    @pytest.mark.parametrize("norm", ["none", "group"])
    def test_every_weight_learns_from_the_second_iteration_on(
        self, spatial: tuple[int, ...], mode: str, norm: str
    ) -> None:
        network, pair = (
            make_network(len(spatial), mode=mode, norm=norm, learn_temperature=True).train(),
            image_pair(spatial),
        )
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        gradients(network, pair, 2)
        optimizer.step()
        found = gradients(network, pair, 2)
        idle = (".left.bias", ".right.bias")  # a softmax ignores what all voxels share
        still = [name for name, g in found.items() if not name.endswith(idle) and float(g.abs().max()) == 0]
        assert not still
        assert all(bool(torch.isfinite(gradient).all()) for gradient in found.values())

    @modes
    def test_loss_after_25_steps_reaches_the_first(self, mode: str) -> None:
        network, pair, first = make_network(2, awake=0.01, mode=mode).train(), image_pair(FLAT), []

        def watch(_: object, inputs: tuple[Tensor, object]) -> None:
            if not first:
                first.append(inputs[0].requires_grad_())

        network.register_forward_pre_hook(watch)
        found = gradients(network, pair, 25)
        assert torch.isfinite(first[0].grad).all()
        assert float(first[0].grad.abs().max()) > 0
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        assert torch.isfinite(norm)
        clipped = torch.stack([weight.grad.norm() for weight in network.parameters()]).norm()
        assert float(clipped) <= 1 + 1e-5
        assert len(found) == len(list(network.parameters()))

    @sizes
    def test_checkpoints_leave_gradients_as_they_are(self, spatial: tuple[int, ...]) -> None:
        network, pair = make_network(len(spatial), awake=0.1, mode="compose").train(), image_pair(spatial)
        whole = gradients(network, pair, 3)
        network.checkpointed = True
        for name, gradient in gradients(network, pair, 3).items():
            torch.testing.assert_close(gradient, whole[name], atol=1e-5, rtol=0)


@pytest.mark.slow
class TestLearning:
    def test_equal_images_stay_while_a_known_bump_is_learned(self) -> None:
        size = (48, 48)
        moving = smooth_noise(size, seed=1, sigma=2.5)
        truth = one_gaussian((0.2, -0.1), (0.25, 0.2), (0.1, -0.08), 0.4)
        fixed = warp(moving, render([truth], "sum", size))
        pairs = ImagePair(torch.cat([fixed, moving]), torch.cat([moving, moving]))
        network = make_network(2, sigma_max=0.5, temperature=0.3, noise=0.1).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-3, amsgrad=True)
        for _ in range(60):
            optimizer.zero_grad()
            torch.stack(
                [mean_squared(state.warped, pairs.fixed) for state in network.recurse(pairs, 3)]
            ).mean().backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        last = states(network.eval(), pairs, 3)[-1]
        assert float(mean_squared(last.warped[:1], fixed)) < 0.2 * float(mean_squared(moving, fixed))
        left = last.displacement[1:].norm(dim=1)
        assert float(left.mean()) < 0.1
        assert float(left.max()) < 0.5


class TestPrecision:
    @sizes
    @modes
    def test_half_precision_is_within_a_twentieth_of_a_voxel(self, spatial: tuple[int, ...], mode: str) -> None:
        network, pair = make_network(len(spatial), awake=0.05, mode=mode), image_pair(spatial)
        single = states(network, pair, 3)[-1].displacement
        network.half_precision = True
        half = states(network, pair, 3)[-1].displacement
        assert half.dtype == torch.float32
        assert float(single.abs().max()) > 0.2
        assert float((single - half).abs().max()) < 0.05

    @pytest.mark.parametrize("spatial", [(16, 16), (32, 33), (16, 17, 16)])
    def test_half_precision_of_small_images_is_finite(self, spatial: tuple[int, ...]) -> None:
        network = make_network(len(spatial), awake=0.1, reduction=2, last_down=True, norm="instance")
        network.half_precision = True
        assert torch.isfinite(states(network, image_pair(spatial), 4)[-1].displacement).all()


class TestGpu:
    @needs_gpu
    @sizes
    @modes
    def test_gpu_gives_what_the_cpu_gives(self, spatial: tuple[int, ...], mode: str) -> None:
        network, pair = make_network(len(spatial), awake=0.1, mode=mode), image_pair(spatial)
        here = states(network, pair, 3)[-1].displacement
        there = states(copy.deepcopy(network).cuda(), ImagePair(pair.fixed.cuda(), pair.moving.cuda()), 3)[-1]
        torch.testing.assert_close(there.displacement.cpu(), here, atol=1e-3, rtol=0)

    @needs_gpu
    def test_checkpoints_draw_the_same_noise_again(self) -> None:
        network, pair = make_network(2, awake=0.1).train().cuda(), image_pair(FLAT)
        pair = ImagePair(pair.fixed.cuda(), pair.moving.cuda())
        whole = gradients(network, pair, 3)
        network.checkpointed = True
        for name, gradient in gradients(network, pair, 3).items():
            torch.testing.assert_close(gradient, whole[name], atol=1e-5, rtol=0)
