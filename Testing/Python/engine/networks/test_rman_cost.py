"""What cheaper recursions of the recursive mutual attention network cost in accuracy, and what they save in memory."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from DeepAttentionRegEngine.deform.losses import mean_squared
from DeepAttentionRegEngine.networks.base import ImagePair
from DeepAttentionRegEngine.networks.rman import Rman, RmanSettings
from engine_cases import smooth_noise

pytestmark = pytest.mark.torch

FLAT, VOLUME = (48, 64), (34, 32, 37)


def make_network(nd: int, **arguments: object) -> Rman:
    """Return an untrained network that predicts about a voxel."""
    torch.manual_seed(0)
    network = Rman(RmanSettings(**{"nd": nd, "widths": "tiny", **arguments})).eval()
    network.flow.weight.data *= 1000
    return network


def image_pair(spatial: tuple[int, ...], sigma: float = 2.5) -> ImagePair:
    return ImagePair(smooth_noise(spatial, seed=1, sigma=sigma), smooth_noise(spatial, seed=2, sigma=sigma))


def last_displacement(network: Rman, pair: ImagePair, recursions: int = 3) -> Tensor:
    with torch.no_grad():
        *_, last = network.recurse(pair, recursions)
    return last.displacement


@pytest.mark.slow
class TestPrecision:
    @pytest.mark.parametrize("spatial", [FLAT, VOLUME], ids=["2d", "3d"])
    @pytest.mark.parametrize("arguments", [{}, {"flow_level": 1, "velocity_steps": 5}, {"decoder": "siamese"}])
    def test_bfloat16_moves_voxels_hardly_differently(
        self, spatial: tuple[int, ...], arguments: dict[str, object]
    ) -> None:
        network, pair = make_network(len(spatial), **arguments), image_pair(spatial)
        exact = last_displacement(network, pair)
        network.half_precision = True
        rounded = last_displacement(network, pair)
        assert float(exact.abs().max()) > 0.5
        # The network's specification: less than a twentieth of a voxel.
        assert float((rounded - exact).abs().max()) < 0.05

    def test_displacements_stay_in_single_precision(self) -> None:
        network = make_network(2)
        network.half_precision = True
        assert last_displacement(network, image_pair(FLAT)).dtype == torch.float32

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_gpu_moves_voxels_as_the_cpu_does(self) -> None:
        network, pair = make_network(3), image_pair(VOLUME)
        there = ImagePair(pair.fixed.cuda(), pair.moving.cuda())
        expected = last_displacement(network, pair)
        # Convolutions summed in another order; the specification's tolerance.
        torch.testing.assert_close(last_displacement(network.cuda(), there).cpu(), expected, atol=1e-3, rtol=0)


def kept_bytes(work: Callable[[], Tensor], network: Rman) -> int:
    """Return how many bytes of activations autograd keeps for the backward pass, each storage counted once."""
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    kept: dict[int, Tensor] = {}  # the tensors too, lest an address be given out again

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            kept[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = work()
    del result
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


class TestMemory:
    @staticmethod
    def kept(recursions: int, *, checkpointed: bool) -> int:
        network, pair = make_network(2, widths="small"), image_pair(FLAT)
        network.checkpointed = checkpointed

        def work() -> Tensor:
            *_, last = network.recurse(pair, recursions)
            return mean_squared(last.warped, pair.fixed)

        return kept_bytes(work, network)

    def test_each_recursion_keeps_as_much_as_the_one_before(self) -> None:
        first, second, third, fourth = (self.kept(k, checkpointed=False) for k in (1, 2, 3, 4))
        assert fourth - third == third - second > 0.5 * first

    def test_recomputed_recursions_keep_next_to_nothing(self) -> None:
        whole, recomputed = (
            self.kept(4, checkpointed=checkpointed) - self.kept(1, checkpointed=checkpointed)
            for checkpointed in (False, True)
        )
        # What is left are displacements and warped images, of two channels and one instead of the hundreds.
        assert recomputed < 0.1 * whole

    @pytest.mark.parametrize("arguments", [{}, {"attention": False, "siamese": False}, {"decoder": "siamese"}])
    def test_recomputed_recursions_give_the_same_gradients(self, arguments: dict[str, object]) -> None:
        gradients = []
        for checkpointed in (False, True):
            network, pair = make_network(2, **arguments), image_pair(FLAT)
            network.checkpointed = checkpointed
            *_, last = network.recurse(pair, 3)
            mean_squared(last.warped, pair.fixed).backward()
            gradients.append([weight.grad for weight in network.parameters()])
        torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)
