"""AGF: gradients, arithmetic, and that it can learn."""

import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from agf_cases import FLAT, VOLUME, image_pair, loss_terms, make_agf, states
from DeepAttentionRegEngine.deform.losses import mean_squared
from DeepAttentionRegEngine.deform.warp import warp
from DeepAttentionRegEngine.networks.agf import Agf
from DeepAttentionRegEngine.networks.autoencoder import Autoencoder
from DeepAttentionRegEngine.networks.base import ImagePair
from engine_cases import ellipses

pytestmark = pytest.mark.torch

sizes = pytest.mark.parametrize("spatial", [FLAT, VOLUME], ids=["2d", "3d"])


@pytest.mark.slow
class TestGradient:
    # A bias ahead of a normalisation has no effect.
    IDLE = re.compile(r"(down|merge)\.\d\.\d\.0\.bias")

    @staticmethod
    def gradients(network: Agf, pair: ImagePair, recursions: int = 1) -> dict[str, Tensor]:
        network.zero_grad()
        *_, last = network.recurse(pair, recursions)
        mean_squared(last.warped, pair.fixed).backward()
        return {name: weight.grad for name, weight in network.named_parameters() if weight.requires_grad}

    @pytest.mark.parametrize("fusion", ["add", "compose"])
    def test_every_weight_learns_by_the_second_step(self, fusion: str) -> None:
        network, pair = make_agf(2, fusion=fusion, velocity_steps=2).train(), image_pair(FLAT)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        self.gradients(network, pair)
        optimizer.step()
        gradients = self.gradients(network, pair)
        learning = {name: gradient for name, gradient in gradients.items() if not self.IDLE.fullmatch(name)}
        assert not [name for name, gradient in learning.items() if not torch.isfinite(gradient).all()]
        assert not [name for name, gradient in learning.items() if float(gradient.abs().max()) == 0]

    @sizes
    def test_recomputing_gives_the_same_gradients(self, spatial: tuple[int, ...]) -> None:
        pair, found = image_pair(spatial), []
        for checkpointed in (False, True):
            network = make_agf(len(spatial), flow=1000.0).train()
            network.checkpointed = checkpointed
            found.append(self.gradients(network, pair, 2))
        for name, gradient in found[0].items():
            torch.testing.assert_close(found[1][name], gradient, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
class TestPrecision:
    @sizes
    @pytest.mark.parametrize("fusion", ["add", "compose"])
    def test_bfloat16_moves_voxels_hardly_differently(self, spatial: tuple[int, ...], fusion: str) -> None:
        network = make_agf(len(spatial), flow=1000.0, widths="default", fusion=fusion)
        pair = image_pair(tuple(2 * n for n in spatial), sigma=2.5)
        exact = states(network, pair, 2)[-1].displacement
        network.half_precision = True
        rounded = states(network, pair, 2)[-1].displacement
        assert float(exact.abs().max()) > 1
        assert rounded.dtype == torch.float32
        # The engine's rule: less than a twentieth of a voxel.
        assert float((rounded - exact).abs().max()) < 0.05

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    @sizes
    def test_graphics_card_gives_the_same_field(self, spatial: tuple[int, ...]) -> None:
        network, pair = make_agf(len(spatial), flow=1000.0), image_pair(spatial)
        expected = states(network, pair, 2)[-1].displacement
        found = states(network.cuda(), ImagePair(pair.fixed.cuda(), pair.moving.cuda()), 2)[-1].displacement
        torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=0)


@pytest.mark.slow
class TestLearning:
    @staticmethod
    def steps(network: Agf, pair: ImagePair, labels: Tensor, count: int) -> Iterator[Tensor]:
        """Yield the displacement of each training step with the published loss."""
        torch.manual_seed(0)
        shape = Autoencoder(2, 2, 32).eval().requires_grad_(False)
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
        seen = network.masked(pair)
        for _ in range(count):
            optimizer.zero_grad()
            *_, last = network.recurse(pair, 1)
            ncc, similarity, entropy, code, variation = loss_terms(
                seen, last.displacement, labels[1:], labels[:1], shape
            )
            (entropy + 0.1 * code + 3.5 * variation - ncc - similarity).backward()
            optimizer.step()
            yield last.displacement.detach()

    @pytest.mark.parametrize("arguments", [{}, {"fusion": "compose", "velocity_steps": 5}], ids=["agf", "diffeo"])
    def test_one_pair_is_learned(self, arguments: dict[str, object]) -> None:
        labels = ellipses((48, 56), 2, seed=4)
        pair = ImagePair(0.2 + 0.6 * labels[:1, 1:], 0.2 + 0.6 * labels[1:, 1:])
        network = make_agf(2, **arguments).train()
        *_, displacement = self.steps(network, pair, labels, 120)
        moved, truth = warp(labels[1:, 1:], displacement) > 0.5, labels[:1, 1:] > 0.5
        assert float(2 * (moved & truth).sum() / (moved.sum() + truth.sum())) > 0.97
