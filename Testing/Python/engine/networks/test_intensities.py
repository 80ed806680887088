"""Where structures end, by their intensities: analytic images with priors that are blurred or misplaced."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from DeepAttentionRegEngine.deform.losses import box_mean
from DeepAttentionRegEngine.networks.intensities import sharpened

pytestmark = pytest.mark.torch

SPATIAL = {2: (48, 52), 3: (24, 28, 26)}


def ball(spatial: tuple[int, ...], radius: float, shift: float = 0.0) -> Tensor:
    """Return a ball in the middle, `(1, 1, *spatial)`, moved along the first axis."""
    off = [
        axis - (n - 1) / 2
        for axis, n in zip(
            torch.meshgrid(*(torch.arange(float(n)) for n in spatial), indexing="ij"), spatial, strict=True
        )
    ]
    off[0] = off[0] - shift
    return (torch.stack(off).square().sum(0).sqrt() < radius).float()[None, None]


def classes(inside: Tensor, window: int = 7) -> Tensor:
    """Return a vague prior of outside and inside."""
    within = box_mean(inside, window).clamp(0.02, 0.98)
    return torch.cat([1 - within, within], 1)


def dice(found: Tensor, truth: Tensor) -> float:
    inside = found.argmax(1, keepdim=True).float()
    return float(2 * (inside * truth).sum() / (inside.sum() + truth.sum()))


@pytest.mark.parametrize("nd", [2, 3])
class TestSharpened:
    @pytest.mark.parametrize(("inner", "outer"), [(0.8, 0.3), (0.2, 0.6)])
    def test_a_misplaced_prior_follows_the_image(self, nd: int, inner: float, outer: float) -> None:
        spatial = SPATIAL[nd]
        truth = ball(spatial, 8)
        noise = 0.05 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
        image = outer + (inner - outer) * truth + noise
        prior = classes(ball(spatial, 8, shift=2))
        assert dice(prior, truth) < 0.9
        assert dice(sharpened(image, prior), truth) > 0.98

    def test_probabilities_remain(self, nd: int) -> None:
        image = torch.rand(2, 1, *SPATIAL[nd], generator=torch.Generator().manual_seed(0))
        prior = torch.randn(2, 4, *SPATIAL[nd], generator=torch.Generator().manual_seed(1)).softmax(1)
        found = sharpened(image, prior)
        assert bool((found >= 0).all())
        torch.testing.assert_close(found.sum(1), torch.ones(2, *SPATIAL[nd]))
        torch.testing.assert_close(found[1:], sharpened(image[1:], prior[1:]))

    def test_an_image_without_contrast_tells_nothing(self, nd: int) -> None:
        truth = ball(SPATIAL[nd], 8)
        prior = classes(truth, window=3)
        found = sharpened(torch.full_like(truth, 0.5), prior)
        assert dice(found, truth) > 0.94

    def test_what_shows_no_structure_stays(self, nd: int) -> None:
        image = torch.rand(1, 1, *SPATIAL[nd], generator=torch.Generator().manual_seed(0))
        prior = F.pad(torch.full((1, 1, *SPATIAL[nd]), 0.999), [0] * 2 * nd + [0, 1], value=0.001)
        assert torch.equal(sharpened(image, prior), prior)

    def test_a_class_that_is_nowhere_stays_away(self, nd: int) -> None:
        truth = ball(SPATIAL[nd], 8)
        prior = torch.cat([classes(truth) * 0.9999, torch.full_like(truth, 1e-4)], 1)
        assert float(sharpened(0.2 + 0.6 * truth, prior)[:, 2].max()) < 0.05
