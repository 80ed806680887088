"""AC-RegNet, the baseline of AGF: sizes, start, gradients, arithmetic, and that it can learn."""

import re

import pytest
import torch
from torch import Tensor

from DeepAttentionRegEngine.deform.losses import global_ncc, mean_squared, total_variation
from DeepAttentionRegEngine.deform.overlap_losses import logit_cross_entropy
from DeepAttentionRegEngine.deform.warp import compose, warp
from DeepAttentionRegEngine.networks import build
from DeepAttentionRegEngine.networks.acregnet import Acregnet, AcregnetSettings
from DeepAttentionRegEngine.networks.base import ImagePair
from engine_cases import count_weights, ellipses, smooth_noise

pytestmark = pytest.mark.torch

FLAT, VOLUME = (33, 50), (20, 17, 26)
sizes = pytest.mark.parametrize("spatial", [FLAT, VOLUME], ids=["2d", "3d"])
norms = pytest.mark.parametrize("norm", ["batch", "instance"])


def make_network(nd: int, *, flow: float = 1.0, **arguments: object) -> Acregnet:
    """Return an untrained network in evaluation mode; `flow` scales what it predicts at the start."""
    torch.manual_seed(0)
    network = Acregnet(AcregnetSettings(**{"nd": nd, "widths": "tiny", **arguments})).eval()
    network.flow.weight.data *= flow
    return network


def image_pair(spatial: tuple[int, ...]) -> ImagePair:
    return ImagePair(smooth_noise(spatial, seed=1, sigma=2.5), smooth_noise(spatial, seed=2, sigma=2.5))


@torch.no_grad()
def displacement_of(network: Acregnet, pair: ImagePair, recursions: int = 1) -> Tensor:
    *_, last = network.recurse(pair, recursions)
    return last.displacement


class TestSize:
    @norms
    @pytest.mark.parametrize(("nd", "count"), [(2, 489_170), (3, 1_463_043)])
    def test_number_of_weights(self, nd: int, count: int, norm: str) -> None:
        # The published network has 0.489 million; a change means that published weight files no longer fit.
        assert count_weights(build("acregnet", {"nd": nd, "norm": norm})) == count

    @norms
    @pytest.mark.parametrize("spatial", [(16, 16), (17, 45), (16, 16, 16), (19, 24, 33)])
    def test_field_has_the_size_of_the_image(self, spatial: tuple[int, ...], norm: str) -> None:
        network = make_network(len(spatial), flow=1000.0, norm=norm).train()
        field = displacement_of(network, image_pair(spatial))
        assert field.shape == (1, len(spatial), *spatial)
        assert bool(torch.isfinite(field).all())

    def test_short_axis_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"15.*16"):
            displacement_of(make_network(2), image_pair((15, 40)))

    @sizes
    @norms
    def test_batch_of_two_gives_what_two_single_pairs_give(self, spatial: tuple[int, ...], norm: str) -> None:
        network, pair = make_network(len(spatial), flow=1000.0, norm=norm), image_pair(spatial)
        both = ImagePair(torch.cat([pair.fixed, pair.moving]), torch.cat([pair.moving, pair.fixed]))
        apart = [displacement_of(network, p) for p in (pair, ImagePair(pair.moving, pair.fixed))]
        # Displacements of about a voxel, summed in another order.
        torch.testing.assert_close(displacement_of(network, both), torch.cat(apart), atol=1e-3, rtol=0)

    def test_channels_follow_the_array_axes(self) -> None:
        network, pair = make_network(3, flow=0.0), image_pair((16, 24, 32))
        network.flow.bias.data = torch.tensor([1.0, 2.0, 3.0])
        *_, last = network.recurse(pair, 1)
        # 1e-4: an image of contrast 1, coordinates in single precision over 32 voxels.
        expected = pair.moving[..., 1:, 2:, 3:]
        torch.testing.assert_close(last.warped.detach()[..., :-1, :-2, :-3], expected, atol=1e-4, rtol=0)


class TestStart:
    @sizes
    def test_untrained_network_moves_nothing(self, spatial: tuple[int, ...]) -> None:
        network = make_network(len(spatial), widths="default")
        assert float(displacement_of(network, image_pair(spatial), 3).abs().max()) < 1e-2

    def test_equal_seeds_give_equal_fields(self) -> None:
        first, second = (displacement_of(make_network(2, flow=1000.0), image_pair(FLAT)) for _ in range(2))
        assert torch.equal(first, second)

    def test_activations_are_left_out_in_training_only(self) -> None:
        network, pair = make_network(2, flow=1000.0, norm="instance"), image_pair(FLAT)
        assert torch.equal(displacement_of(network, pair), displacement_of(network, pair))
        network.train()
        assert not torch.equal(displacement_of(network, pair), displacement_of(network, pair))

    def test_two_recursions_are_two_passes_by_hand(self) -> None:
        network, pair = make_network(2, flow=1000.0), image_pair(FLAT)
        with torch.no_grad():
            first = network(pair.moving, pair.fixed)
            expected = compose(first, network(warp(pair.moving, first), pair.fixed))
        torch.testing.assert_close(displacement_of(network, pair, 2), expected)


class TestGradient:
    # A bias ahead of a normalisation has no effect.
    IDLE = re.compile(r"(down\.\d\.(0\.0|1)|up\.\d\.0|merge\.\d\.\d\.0)\.bias")

    @staticmethod
    def gradients(network: Acregnet, pair: ImagePair) -> dict[str, Tensor]:
        *_, last = network.recurse(pair, 2)
        mean_squared(last.warped, pair.fixed).backward()
        return {name: weight.grad for name, weight in network.named_parameters()}

    def test_every_weight_that_matters_learns(self) -> None:
        gradients = self.gradients(make_network(2, flow=1000.0, dropout=0.0).train(), image_pair(FLAT))
        learning = {n: g for n, g in gradients.items() if not self.IDLE.fullmatch(n)}
        assert not [name for name, gradient in learning.items() if not torch.isfinite(gradient).all()]
        assert not [name for name, gradient in learning.items() if float(gradient.abs().max()) == 0]

    @sizes
    def test_recomputing_gives_the_same_gradients(self, spatial: tuple[int, ...]) -> None:
        found = []
        for checkpointed in (False, True):
            network = make_network(len(spatial), flow=1000.0).train()
            network.checkpointed = checkpointed
            torch.manual_seed(1)  # of the activations left out
            found.append(self.gradients(network, image_pair(spatial)))
        for name, gradient in found[0].items():
            torch.testing.assert_close(found[1][name], gradient, atol=1e-5, rtol=1e-5)


class TestPrecision:
    @sizes
    def test_bfloat16_moves_voxels_hardly_differently(self, spatial: tuple[int, ...]) -> None:
        network = make_network(len(spatial), flow=2000.0, widths="default", norm="instance")
        pair = image_pair(tuple(2 * n for n in spatial))
        exact = displacement_of(network, pair, 2)
        network.half_precision = True
        rounded = displacement_of(network, pair, 2)
        assert float(exact.abs().max()) > 1
        assert rounded.dtype == torch.float32
        # The engine's rule: less than a twentieth of a voxel.
        assert float((rounded - exact).abs().max()) < 0.05

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    @sizes
    def test_graphics_card_gives_the_same_field(self, spatial: tuple[int, ...]) -> None:
        network, pair = make_network(len(spatial), flow=1000.0), image_pair(spatial)
        expected = displacement_of(network, pair, 2)
        found = displacement_of(network.cuda(), ImagePair(pair.fixed.cuda(), pair.moving.cuda()), 2)
        torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=0)


@pytest.mark.slow
class TestLearning:
    def test_one_pair_is_learned(self) -> None:
        labels = ellipses((48, 56), 2, seed=4)
        fixed, moving = labels[:1], labels[1:]
        pair = ImagePair(0.2 + 0.6 * fixed[:, 1:], 0.2 + 0.6 * moving[:, 1:])
        network = make_network(2, dropout=0.0).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
        for _ in range(150):
            optimizer.zero_grad()
            *_, last = network.recurse(pair, 1)
            entropy = logit_cross_entropy(warp(moving, last.displacement), fixed)
            loss = entropy + 0.82 * total_variation(last.displacement) - global_ncc(last.warped, pair.fixed)
            loss.backward()
            optimizer.step()
        moved, truth = warp(moving, last.displacement.detach())[:, 1] > 0.5, fixed[:, 1] > 0.5
        assert float(2 * (moved & truth).sum() / (moved.sum() + truth.sum())) > 0.97
