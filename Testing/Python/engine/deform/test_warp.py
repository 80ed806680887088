"""Sampling, composition, resizing and integration follow one convention, which the analytic cases here fix."""

import pytest
import torch
from torch import Tensor

from DeepAttentionRegEngine.deform import warp as w
from engine_cases import smooth_displacement, smooth_noise

pytestmark = pytest.mark.torch

SIZES = [(9, 14), (7, 10, 13)]
STRONG = [(40, 44), (28, 30, 32)]  # room for motion of 8 voxels that is smooth over 4
sizes = pytest.mark.parametrize("spatial", SIZES, ids=["2d", "3d"])


def noise(spatial: tuple[int, ...], channels: int = 1) -> Tensor:
    return torch.rand(1, channels, *spatial, generator=torch.Generator().manual_seed(1))


def affine_displacement(matrix: Tensor, offset: Tensor, spatial: tuple[int, ...]) -> Tensor:
    """Return the displacement `(1, nd, *spatial)`, float64, of x -> matrix x + offset about the centre of the grid."""
    grid = w.identity_grid(spatial, matrix)
    center = torch.tensor([(n - 1) / 2 for n in spatial], dtype=matrix.dtype).view(1, -1, *[1] * len(spatial))
    around = grid - center
    mapped = torch.einsum("ab,nb...->na...", matrix, around) + offset.view(1, -1, *[1] * len(spatial))
    return mapped - around


def interior(values: Tensor, margin: int) -> Tensor:
    """Return the values without a margin along every spatial axis."""
    return values[(slice(None), slice(None), *[slice(margin, -margin)] * (values.ndim - 2))]


class TestEvenGradient:
    @staticmethod
    def gradient(image: Tensor, displacement: Tensor, weight: Tensor) -> Tensor:
        unknown = displacement.clone().requires_grad_()
        (w.warp_evenly(image, unknown) * weight).sum().backward()
        assert unknown.grad is not None
        return unknown.grad

    @sizes
    def test_values_are_those_of_warp(self, spatial: tuple[int, ...]) -> None:
        image, displacement = noise(spatial, 2), smooth_displacement(spatial, peak=2.0)
        assert torch.equal(w.warp_evenly(image, displacement), w.warp(image, displacement))

    @sizes
    def test_at_voxels_it_is_the_mean_of_both_sides(self, spatial: tuple[int, ...]) -> None:
        image, still = noise(spatial).double(), torch.zeros(1, len(spatial), *spatial, dtype=torch.float64)
        found = self.gradient(image, still, torch.ones_like(image))
        for axis in range(len(spatial)):
            central = (image.narrow(2 + axis, 2, spatial[axis] - 2) - image.narrow(2 + axis, 0, spatial[axis] - 2)) / 2
            inner = found[:, axis : axis + 1].narrow(2 + axis, 1, spatial[axis] - 2)
            torch.testing.assert_close(inner, central)

    @sizes
    def test_half_way_between_voxels_it_is_their_difference(self, spatial: tuple[int, ...]) -> None:
        image, half = noise(spatial).double(), torch.zeros(1, len(spatial), *spatial, dtype=torch.float64)
        half[:, -1] = 0.5
        found = self.gradient(image, half, torch.ones_like(image))
        torch.testing.assert_close(found[:, -1:, ..., :-1], image.diff(dim=-1))

    @sizes
    def test_channels_add_up(self, spatial: tuple[int, ...]) -> None:
        image, displacement = noise(spatial, 3), smooth_displacement(spatial, peak=2.0)
        weight = torch.rand(image.shape, generator=torch.Generator().manual_seed(2))
        parts = zip(image.split(1, 1), weight.split(1, 1), strict=True)
        expected = sum(self.gradient(part, displacement, share) for part, share in parts)
        torch.testing.assert_close(self.gradient(image, displacement, weight), expected)


class TestWarp:
    @sizes
    def test_zero_field_reproduces_the_image(self, spatial: tuple[int, ...]) -> None:
        image = noise(spatial)
        result = w.warp(image, torch.zeros(1, len(spatial), *spatial))
        # Single precision: coordinates in [-1, 1] carry 6e-8, times half of 14 voxels, times a contrast of 1.
        torch.testing.assert_close(result, image, atol=1e-6, rtol=0)

    @sizes
    @pytest.mark.parametrize("axis", [0, 1, -1])
    def test_one_voxel_along_an_axis_reads_the_next_voxel_of_that_axis(
        self, spatial: tuple[int, ...], axis: int
    ) -> None:
        image = noise(spatial)
        axis %= len(spatial)
        displacement = torch.zeros(1, len(spatial), *spatial)
        displacement[:, axis] = 1
        result = w.warp(image, displacement).narrow(2 + axis, 0, spatial[axis] - 1)
        torch.testing.assert_close(result, image.narrow(2 + axis, 1, spatial[axis] - 1), atol=2e-6, rtol=0)

    @sizes
    def test_half_a_voxel_averages_two_neighbours(self, spatial: tuple[int, ...]) -> None:
        image = noise(spatial).double()
        displacement = torch.zeros(1, len(spatial), *spatial, dtype=torch.float64)
        displacement[:, -1] = 0.5
        expected = (image[..., 1:] + image[..., :-1]) / 2
        torch.testing.assert_close(w.warp(image, displacement)[..., :-1], expected)

    @sizes
    def test_outside_the_grid_the_edge_continues(self, spatial: tuple[int, ...]) -> None:
        image = noise(spatial)
        displacement = torch.zeros(1, len(spatial), *spatial)
        displacement[:, -1] = 100
        expected = image[..., -1:].expand_as(image)
        torch.testing.assert_close(w.warp(image, displacement), expected, atol=1e-6, rtol=0)

    def test_nearest_makes_no_new_values(self) -> None:
        labels = torch.randint(0, 5, (1, 1, 8, 9), generator=torch.Generator().manual_seed(0)).float() * 7
        result = w.warp(labels, smooth_displacement((8, 9), peak=2.0), nearest=True)
        assert set(result.unique().tolist()) <= set(labels.unique().tolist())

    def test_every_batch_entry_uses_its_own_displacement(self) -> None:
        images, displacements = noise((8, 9)).repeat(2, 1, 1, 1), torch.zeros(2, 2, 8, 9)
        displacements[1, 0] = 1
        result = w.warp(images, displacements)
        torch.testing.assert_close(result[1, :, :-1], images[1, :, 1:], atol=2e-6, rtol=0)

    def test_every_channel_is_moved_alike(self) -> None:
        image = noise((8, 9), channels=3)
        displacement = smooth_displacement((8, 9), peak=1.5)
        result = w.warp(image, displacement)
        torch.testing.assert_close(result[:, 2:], w.warp(image[:, 2:], displacement))


class TestCompose:
    def test_constant_shifts_add_up_in_the_interior(self) -> None:
        first, second = torch.full((1, 2, 12, 15), 1.25), torch.full((1, 2, 12, 15), -0.5)
        total = interior(w.compose(first, second), 2)
        torch.testing.assert_close(total, torch.full_like(total, 0.75), atol=1e-5, rtol=0)

    @staticmethod
    def affine_pair() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(3)
        a, b = (torch.eye(3, dtype=torch.float64) + 0.1 * torch.randn(3, 3, generator=generator) for _ in range(2))
        offset_a, offset_b = torch.tensor([[0.5, -0.3, 0.2], [-0.4, 0.1, 0.6]], dtype=torch.float64)
        return a, offset_a, b, offset_b

    def expected_and_parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the displacement of the product of two affine maps, and those of outer and inner."""
        a, offset_a, b, offset_b = self.affine_pair()
        spatial = (17, 19, 15)
        outer, inner = affine_displacement(a, offset_a, spatial), affine_displacement(b, offset_b, spatial)
        return affine_displacement(a @ b, a @ offset_b + offset_a, spatial), outer, inner

    def test_affine_maps_compose_to_their_product(self) -> None:
        expected, outer, inner = self.expected_and_parts()
        # The interior, where the inner map does not leave the grid; a linear field is interpolated exactly.
        torch.testing.assert_close(interior(w.compose(outer, inner), 4), interior(expected, 4), atol=1e-9, rtol=0)

    def test_adding_affine_maps_is_no_composition(self) -> None:
        expected, outer, inner = self.expected_and_parts()
        assert (interior(outer + inner, 4) - interior(expected, 4)).abs().max() > 0.1

    def test_composition_in_the_other_order_differs(self) -> None:
        expected, outer, inner = self.expected_and_parts()
        assert (interior(w.compose(inner, outer), 4) - interior(expected, 4)).abs().max() > 0.1

    def test_warping_once_by_the_composition_equals_warping_twice(self) -> None:
        spatial = (16, 18, 20)
        ramp = (w.identity_grid(spatial, torch.zeros(1)) * torch.tensor([0.02, -0.01, 0.03]).view(1, 3, 1, 1, 1)).sum(
            1, keepdim=True
        )
        first, second = (smooth_displacement(spatial, peak=1.5, seed=seed) for seed in (0, 1))
        once, twice = w.warp(ramp, w.compose(first, second)), w.warp(w.warp(ramp, first), second)
        # A linear image commutes with linear interpolation; what is left is single precision.
        torch.testing.assert_close(interior(once, 4), interior(twice, 4), atol=1e-4, rtol=0)

    def test_composing_with_nothing_changes_nothing(self) -> None:
        displacement = smooth_displacement((12, 10), peak=2.0)
        torch.testing.assert_close(
            w.compose(displacement, torch.zeros_like(displacement)), displacement, atol=1e-5, rtol=0
        )


class TestResize:
    def test_doubling_a_size_doubles_a_displacement(self) -> None:
        result = w.resize_displacement(torch.full((1, 3, 4, 5, 6), 1.5), (8, 10, 12))
        torch.testing.assert_close(result, torch.full((1, 3, 8, 10, 12), 3.0))

    def test_every_axis_is_scaled_by_its_own_factor(self) -> None:
        result = w.resize_displacement(torch.ones(1, 2, 4, 6), (12, 9))
        assert result[0, :, 0, 0].tolist() == [3.0, 1.5]

    def test_field_of_view_is_kept(self) -> None:
        # Voxel centres of a grid of half the size lie between those of the full one (half-pixel geometry).
        ramp = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 8, 8)
        half = w.resize(ramp, (4, 4))
        torch.testing.assert_close(half[0, 0, 0], torch.tensor([0.5, 2.5, 4.5, 6.5]))

    def test_resized_displacement_moves_an_image_alike(self) -> None:
        coarse = smooth_displacement((16, 20), peak=1.0, sigma=5.0)
        image = smooth_noise((32, 40), sigma=4.0)
        fine = w.warp(image, w.resize_displacement(coarse, (32, 40)))
        reference = w.warp(w.resize(image, (16, 20)), coarse)
        # Two interpolations of an image blurred by 4 voxels, whose contrast is 1.
        torch.testing.assert_close(
            w.resize(fine, (16, 20))[..., 2:-2, 2:-2], reference[..., 2:-2, 2:-2], atol=0.02, rtol=0
        )

    def test_same_size_returns_the_same_values(self) -> None:
        displacement = smooth_displacement((6, 7), peak=1.0)
        assert torch.equal(w.resize_displacement(displacement, (6, 7)), displacement)


class TestIntegration:
    def test_no_squaring_returns_the_velocity(self) -> None:
        velocity = smooth_displacement((9, 8), peak=2.0)
        assert torch.equal(w.integrate_velocity(velocity, 0), velocity)

    def test_constant_velocity_gives_the_same_shift(self) -> None:
        velocity = torch.full((1, 2, 20, 20), 2.0)
        torch.testing.assert_close(w.integrate_velocity(velocity, 7), velocity, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("spatial", STRONG, ids=["2d", "3d"])
    def test_strong_velocity_does_not_fold(self, spatial: tuple[int, ...]) -> None:
        velocity = smooth_displacement(spatial, peak=8.0)
        assert w.jacobian_determinant(w.integrate_velocity(velocity, 7)).min() > 0

    @pytest.mark.parametrize("spatial", STRONG, ids=["2d", "3d"])
    def test_the_same_values_as_a_displacement_do_fold(self, spatial: tuple[int, ...]) -> None:
        displacement = smooth_displacement(spatial, peak=8.0)
        assert w.jacobian_determinant(displacement).min() < 0

    def test_opposite_velocity_is_the_inverse(self) -> None:
        velocity = smooth_displacement((40, 48), peak=3.0, sigma=6.0)
        there, back = w.integrate_velocity(velocity, 7), w.integrate_velocity(-velocity, 7)
        # Linear interpolation of a field that is smooth over 6 voxels, away from the clamped border.
        assert interior(w.compose(there, back), 6).abs().max() < 0.05


class TestJacobian:
    @sizes
    def test_zero_field_has_unit_determinant_everywhere(self, spatial: tuple[int, ...]) -> None:
        determinant = w.jacobian_determinant(torch.zeros(1, len(spatial), *spatial))
        assert torch.equal(determinant, torch.ones(1, *[n - 1 for n in spatial]))

    def test_reflection_folds_everywhere(self) -> None:
        reflection = -2 * w.identity_grid((7, 8, 9), torch.zeros(1))
        assert (w.jacobian_determinant(reflection) == -1).all()

    @pytest.mark.parametrize("nd", [2, 3])
    def test_linear_field_has_the_determinant_of_its_matrix(self, nd: int) -> None:
        matrix = torch.eye(nd, dtype=torch.float64)
        matrix += 0.2 * torch.randn(nd, nd, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        displacement = affine_displacement(matrix, torch.zeros(nd, dtype=torch.float64), (7, 9, 8)[:nd])
        determinant = w.jacobian_determinant(displacement)
        torch.testing.assert_close(determinant, torch.full_like(determinant, float(torch.linalg.det(matrix))))

    @sizes
    def test_moving_everything_alike_changes_no_determinant(self, spatial: tuple[int, ...]) -> None:
        folded = 3 * torch.randn(1, len(spatial), *spatial, generator=torch.Generator().manual_seed(2))
        determinant = w.jacobian_determinant(folded)
        assert determinant.min() < 0
        # A displacement of 16 voxels leaves 21 of the 24 bits.
        torch.testing.assert_close(w.jacobian_determinant(folded + 16), determinant, atol=1e-3, rtol=1e-4)

    def test_checkerboard_fold_is_seen(self) -> None:
        zigzag = torch.zeros(1, 2, 8, 8)
        zigzag[:, 0, ::2] = 2.0
        assert w.jacobian_determinant(zigzag).min() < 0
