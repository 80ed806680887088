"""The discrete search for large motions: how far it reaches, in any contrast, and that it does no harm."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch import Tensor

from DeepAttentionRegEngine import Settings, register
from DeepAttentionRegEngine.deform.folds import folds
from DeepAttentionRegEngine.deform.reach import search_widely
from DeepAttentionRegEngine.deform.warp import identity_grid, sample
from DeepAttentionRegEngine.phantom.thorax import default_geometry, make_phantom
from engine_cases import matrix4, moved_grid, smooth_displacement, smooth_noise

pytestmark = pytest.mark.torch

SIZES = ((90, 84), (48, 44, 40))
sizes = pytest.mark.parametrize("spatial", SIZES, ids=["2d", "3d"])


def pair(spatial: tuple[int, ...], share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return images between which everything moves by a share of the image along its first axis, and bends a little."""
    wide = smooth_noise(tuple(2 * n for n in spatial), sigma=3.0)
    margin = torch.tensor([n / 2 for n in spatial]).view(1, -1, *[1] * len(spatial))
    grid = identity_grid(spatial, torch.zeros(1))
    truth = smooth_displacement(spatial, peak=1.5, sigma=8.0)
    truth[:, 0] += share * spatial[0]
    return sample(wide, grid + margin + truth), sample(wide, grid + margin), truth


def common(truth: Tensor) -> Tensor:
    """Return where `(1, *spatial)` the moving image shows what the fixed one does."""
    there = identity_grid(truth.shape[2:], truth)[:, 0] + truth[:, 0]
    return (there < truth.shape[2] - 6) & (there > 6)


def missed(found: Tensor, truth: Tensor) -> float:
    """Return the mean error in voxels there."""
    return float((found - truth).square().sum(1).sqrt()[common(truth)].mean())


class TestReach:
    @sizes
    @pytest.mark.parametrize("inverted", [False, True])
    def test_a_fifth_of_the_image_is_found_in_any_contrast(self, spatial: tuple[int, ...], inverted: bool) -> None:
        fixed, moving, truth = pair(spatial, 0.2)
        still = torch.zeros_like(truth)
        found = search_widely(1 - fixed if inverted else fixed, moving, still)
        assert missed(still, truth) > 7
        assert missed(found, truth) < 1.2
        assert not folds(found)[0][common(truth)].any()

    def test_goes_on_from_where_it_starts(self) -> None:
        fixed, moving, truth = pair(SIZES[0], 0.4)
        start = torch.zeros_like(truth)
        start[:, 0] = 0.2 * SIZES[0][0]
        assert missed(search_widely(fixed, moving, start), truth) < 1.2

    @sizes
    def test_equal_images_stay_where_they_are(self, spatial: tuple[int, ...]) -> None:
        image, still = smooth_noise(spatial, sigma=2.0), torch.zeros(1, len(spatial), *spatial)
        assert search_widely(image, image, still) is still

    def test_flat_images_stay_where_they_are(self) -> None:
        image, still = torch.full((1, 1, 40, 40), 0.5), torch.zeros(1, 2, 40, 40)
        assert search_widely(image, image, still) is still

    def test_memory_is_laid_out_as_everything_after_expects(self) -> None:
        fixed, moving, truth = pair(SIZES[1], 0.1)
        assert search_widely(fixed, moving, torch.zeros_like(truth)).is_contiguous()


class TestRegistration:
    def test_what_was_out_of_reach_is_found(self) -> None:
        geometry = default_geometry((48, 40, 48), (7.0, 6.0, 7.0))
        made, away = make_phantom(geometry), np.array([0.0, 0.0, 40.0])
        there = moved_grid(made.moving_geometry, matrix4(np.eye(3), (0.0, 0.0, 40.0)))
        points, partners = made.fixed_points_lps, made.moving_points_lps + away
        errors = []
        for wide in (False, True):
            settings = Settings(method="none", alignment="none", refinement_steps=10, device="cpu", wide_search=wide)
            found = register((made.fixed, geometry), (made.moving, there), settings)
            errors.append(np.linalg.norm(points + found.deformation.at(points) - partners, axis=1).mean())
        assert found.measures["wide_search"] == "used"
        assert errors[1] < 0.4 * errors[0]
