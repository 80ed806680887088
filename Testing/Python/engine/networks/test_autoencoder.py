"""The auto-encoder of label maps: sizes, resampling, noise, frozen use, and that it can learn shapes."""

import pytest
import torch
import torch.nn.functional as F

from DeepAttentionRegEngine.deform.overlap_losses import code_distance, contour
from DeepAttentionRegEngine.deform.warp import identity_grid
from DeepAttentionRegEngine.networks.autoencoder import Autoencoder, swap_pairs
from engine_cases import count_weights, ellipses

pytestmark = pytest.mark.torch


def make_autoencoder(nd: int, **arguments: int) -> Autoencoder:
    """Return an untrained network in evaluation mode that normalises by two ellipses."""
    torch.manual_seed(0)
    network = Autoencoder(nd, 2, **{"size": 32, "code": 16, **arguments})
    for module in network.modules():
        if hasattr(module, "momentum"):
            module.momentum = 1.0
    with torch.no_grad():
        network(ellipses((32,) * nd, 2))
    return network.eval()


class TestSize:
    @pytest.mark.parametrize(
        ("arguments", "count"),
        [
            ((2, 2, 64, 32), 40_533),
            ((2, 4, 64, 32), 41_111),
            ((2, 2, 256, 32), 102_933),
            ((3, 2, 64, 64), 173_877),
        ],
    )
    def test_number_of_weights(self, arguments: tuple[int, ...], count: int) -> None:
        # Counted once; a change means that trained auto-encoders no longer fit.
        assert count_weights(Autoencoder(*arguments)) == count

    @pytest.mark.parametrize("spatial", [(32, 32), (19, 47), (64, 96), (32, 32, 32), (20, 33, 41)])
    def test_any_size_gives_a_code_and_a_cube(self, spatial: tuple[int, ...]) -> None:
        network, labels = make_autoencoder(len(spatial)), ellipses(spatial, 2)
        with torch.no_grad():
            assert network.encode(labels).shape == (2, 16)
            assert network(labels).shape == (2, 2, *[32] * len(spatial))

    def test_resampled_probabilities_still_sum_to_one(self) -> None:
        total = make_autoencoder(2).on_cube(ellipses((50, 129))).sum(1)
        torch.testing.assert_close(total, torch.ones_like(total))

    def test_size_that_three_halvings_do_not_divide_is_refused(self) -> None:
        with pytest.raises(ValueError, match="36"):
            Autoencoder(2, 2, 36)


class TestNoise:
    def test_swaps_neighbours_of_all_channels_together(self) -> None:
        labels = ellipses((20, 21), 3)
        noisy = swap_pairs(labels, 1.0)
        assert torch.equal(noisy[..., :20:2], labels[..., 1:20:2])
        assert torch.equal(noisy[..., 1:20:2], labels[..., :20:2])
        assert torch.equal(noisy[..., 20], labels[..., 20])

    def test_swaps_the_stated_share_of_pairs(self) -> None:
        position = identity_grid((100, 200), torch.zeros(1))[:, 1:].repeat(1, 2, 1, 1)
        changed = swap_pairs(position, 0.1, torch.Generator().manual_seed(0)) != position
        # 10000 pairs: four standard deviations are 0.012.
        assert float(changed.float().mean()) == pytest.approx(0.1, abs=0.012)
        assert torch.equal(changed[:, 0], changed[:, 1])

    def test_keeps_the_volume_of_every_label(self) -> None:
        labels = ellipses((16, 16, 16))
        axes = (2, 3, 4)
        assert torch.equal(swap_pairs(labels).sum(axes), labels.sum(axes))

    def test_leaves_its_input_alone(self) -> None:
        labels = ellipses((16, 16))
        kept = labels.clone()
        swap_pairs(labels, 1.0)
        assert torch.equal(labels, kept)


class TestCode:
    @pytest.mark.parametrize("spatial", [(40, 48), (24, 20, 28)], ids=["2d", "3d"])
    def test_equal_labels_have_equal_codes(self, spatial: tuple[int, ...]) -> None:
        network, labels = make_autoencoder(len(spatial)), ellipses(spatial)
        assert float(code_distance(network.encode, labels, labels.clone()).detach()) == 0

    def test_different_labels_have_different_codes(self) -> None:
        network, labels = make_autoencoder(2), ellipses((40, 48), 2)
        assert float(code_distance(network.encode, labels[:1], labels[1:]).detach()) > 0

    def test_frozen_network_gives_gradients_to_the_labels_and_stays_as_it_is(self) -> None:
        network = make_autoencoder(2).requires_grad_(False)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        labels = ellipses((32, 32), 2)
        warped = labels.flip(0).requires_grad_()
        code_distance(network.encode, warped, labels).backward()
        assert float(warped.grad.abs().max()) > 0
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.slow
class TestLearning:
    def test_shapes_are_reconstructed(self) -> None:
        network, labels = make_autoencoder(2, code=32).train(), ellipses((32, 32), 8)
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
        generator = torch.Generator().manual_seed(0)
        for _ in range(130):
            optimizer.zero_grad()
            logits = network(swap_pairs(labels, generator=generator))
            (F.cross_entropy(logits, labels) + 2 * contour(logits.softmax(1), labels)).backward()
            optimizer.step()
        with torch.no_grad():
            found, truth = network.eval()(labels).argmax(1), labels[:, 1]
        assert float(2 * (found * truth).sum() / (found.sum() + truth.sum())) > 0.95
