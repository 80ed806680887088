"""Similarity and regularity terms against plain implementations and analytic cases."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from DeepAttentionRegEngine.deform import losses
from DeepAttentionRegEngine.deform.mind import mind_ssc
from DeepAttentionRegEngine.deform.warp import identity_grid
from engine_cases import smooth_noise

pytestmark = pytest.mark.torch

SIZES = [(11, 13), (8, 9, 10)]
sizes = pytest.mark.parametrize("spatial", SIZES, ids=["2d", "3d"])


def rough(spatial: tuple[int, ...], seed: int, batch: int = 1) -> Tensor:
    """Return white noise `(B, 1, *spatial)`, float64 in [0, 1]: texture in every window."""
    return torch.rand(batch, 1, *spatial, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_local_ncc(warped: Tensor, fixed: Tensor, window: int, weight: Tensor | None) -> Tensor:
    """Return the weighted mean squared local correlation by whole windows and plain autograd."""
    nd = warped.ndim - 2
    kernel = warped.new_ones(1, 1, *[window] * nd)
    convolve = F.conv2d if nd == 2 else F.conv3d
    count = convolve(torch.ones_like(warped[:1]), kernel, padding=window // 2)

    def mean(image: Tensor) -> Tensor:
        return convolve(image, kernel, padding=window // 2) / count

    covariance = mean(warped * fixed) - mean(warped) * mean(fixed)
    variances = [mean(image * image) - mean(image) ** 2 + losses.NCC_EPSILON for image in (warped, fixed)]
    squared = covariance**2 / (variances[0] * variances[1])
    if weight is None:
        return squared.mean()
    weight = weight.expand_as(squared)
    return (squared * weight).sum() / weight.sum()


def half_mask(spatial: tuple[int, ...]) -> Tensor:
    """Return weights `(1, 1, *spatial)` of 0, 0.5 and 1 in blocks that reach the border."""
    weight = torch.zeros(1, 1, *spatial, dtype=torch.float64)
    weight[..., : spatial[-1] // 2] = 1
    weight[:, :, : spatial[0] // 3] *= 0.5
    return weight


class TestLocalNccValue:
    @sizes
    @pytest.mark.parametrize("window", [3, 5, 7])
    def test_value_is_the_plain_one(self, spatial: tuple[int, ...], window: int) -> None:
        warped, fixed = rough(spatial, 0), rough(spatial, 1)
        expected = plain_local_ncc(warped, fixed, window, None)
        torch.testing.assert_close(losses.local_ncc(warped, fixed, window), expected)

    @sizes
    def test_weighted_value_is_the_plain_one(self, spatial: tuple[int, ...]) -> None:
        warped, fixed, weight = rough(spatial, 0), rough(spatial, 1), half_mask(spatial)
        expected = plain_local_ncc(warped, fixed, 5, weight)
        torch.testing.assert_close(losses.local_ncc(warped, fixed, 5, weight), expected)

    @sizes
    def test_image_correlates_fully_with_itself(self, spatial: tuple[int, ...]) -> None:
        image = rough(spatial, 0)
        # The noise floor 1e-4 in both variances of about 1/12 costs 2 * 12e-4.
        assert 0.995 < float(losses.local_ncc(image, image)) <= 1

    @sizes
    @pytest.mark.parametrize(("gain", "offset"), [(3.0, -0.5), (0.5, 2.0), (-1.0, 1.0)])
    def test_gain_and_offset_do_not_matter(self, spatial: tuple[int, ...], gain: float, offset: float) -> None:
        image = rough(spatial, 0)
        # At gain 0.5 the noise floor weighs four times as much: 4 * 12e-4.
        assert float(losses.local_ncc(gain * image + offset, image)) == pytest.approx(1, abs=0.01)

    @sizes
    def test_unrelated_images_hardly_correlate(self, spatial: tuple[int, ...]) -> None:
        # Squared correlation of n independent samples has the mean 1 / n: windows of 49 and 343, less at the border.
        assert float(losses.local_ncc(rough(spatial, 0), rough(spatial, 1))) < 0.06

    @sizes
    def test_empty_mask_gives_zero(self, spatial: tuple[int, ...]) -> None:
        image = rough(spatial, 0)
        assert float(losses.local_ncc(image, image, 7, torch.zeros_like(image))) == 0

    @sizes
    def test_flat_images_give_zero(self, spatial: tuple[int, ...]) -> None:
        image = torch.full((1, 1, *spatial), 0.7)
        # 1e-4 is the noise floor; a variance of rounding errors of 1e-7 is far below it.
        assert float(losses.local_ncc(image, image)) == pytest.approx(0, abs=1e-4)

    def test_what_lies_a_window_off_the_mask_does_not_matter(self) -> None:
        warped, fixed = rough((9, 30), 0), rough((9, 30), 1)
        weight = torch.zeros_like(warped)
        weight[..., :10] = 1
        changed = warped.clone()
        changed[..., 13:] = 0
        assert torch.equal(losses.local_ncc(changed, fixed, 7, weight), losses.local_ncc(warped, fixed, 7, weight))

    def test_batch_is_the_mean_over_its_pairs(self) -> None:
        warped, fixed = rough((9, 10), 0, batch=2), rough((9, 10), 1, batch=2)
        apart = [losses.local_ncc(warped[n : n + 1], fixed[n : n + 1]) for n in range(2)]
        torch.testing.assert_close(losses.local_ncc(warped, fixed), (apart[0] + apart[1]) / 2)


class TestLocalNccGradient:
    @staticmethod
    def gradients(warped: Tensor, fixed: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the engine's gradient and that of the plain implementation by autograd."""
        result = []
        for similarity in (losses.local_ncc, plain_local_ncc):
            leaf = warped.clone().requires_grad_()
            similarity(leaf, fixed, 5, weight).backward()
            result.append(leaf.grad)
        return result[0], result[1]

    @sizes
    def test_gradient_is_that_of_autograd(self, spatial: tuple[int, ...]) -> None:
        ours, plain = self.gradients(rough(spatial, 0), rough(spatial, 1), None)
        torch.testing.assert_close(ours, plain, atol=1e-12, rtol=1e-9)

    @sizes
    def test_gradient_at_the_border_is_that_of_autograd(self, spatial: tuple[int, ...]) -> None:
        ours, plain = self.gradients(rough(spatial, 0), rough(spatial, 1), None)
        torch.testing.assert_close(ours[..., :2], plain[..., :2], atol=1e-12, rtol=1e-9)

    @sizes
    def test_weighted_gradient_is_that_of_autograd(self, spatial: tuple[int, ...]) -> None:
        ours, plain = self.gradients(rough(spatial, 0), rough(spatial, 1), half_mask(spatial))
        torch.testing.assert_close(ours, plain, atol=1e-12, rtol=1e-9)

    @sizes
    def test_batch_gradient_is_that_of_autograd(self, spatial: tuple[int, ...]) -> None:
        ours, plain = self.gradients(rough(spatial, 0, batch=2), rough(spatial, 1, batch=2), None)
        torch.testing.assert_close(ours, plain, atol=1e-12, rtol=1e-9)

    def test_gradient_is_the_finite_difference(self) -> None:
        warped, fixed = rough((5, 6), 0).requires_grad_(), rough((5, 6), 1)
        assert torch.autograd.gradcheck(lambda image: losses.local_ncc(image, fixed, 3, half_mask((5, 6))), (warped,))

    def test_gradient_scales_with_the_loss(self) -> None:
        warped, fixed = rough((7, 8), 0).requires_grad_(), rough((7, 8), 1)
        (once,) = torch.autograd.grad(losses.local_ncc(warped, fixed), warped)
        (thrice,) = torch.autograd.grad(3 * losses.local_ncc(warped, fixed), warped)
        torch.testing.assert_close(thrice, 3 * once)

    @pytest.mark.parametrize("case", ["empty mask", "flat image"])
    def test_gradient_is_finite_where_nothing_correlates(self, case: str) -> None:
        warped = rough((7, 8), 0) if case == "empty mask" else torch.full((1, 1, 7, 8), 0.3)
        weight = torch.zeros_like(warped) if case == "empty mask" else None
        leaf = warped.clone().requires_grad_()
        losses.local_ncc(leaf, warped, 7, weight).backward()
        assert torch.isfinite(leaf.grad).all()


class TestBoxMean:
    @sizes
    def test_constant_stays_inside_and_fades_at_the_border(self, spatial: tuple[int, ...]) -> None:
        mean = losses.box_mean(torch.ones(1, 1, *spatial, dtype=torch.float64), 3)
        middle, corner = tuple(n // 2 for n in spatial), (0,) * len(spatial)
        assert (float(mean[0, 0][middle]), float(mean[0, 0][corner])) == pytest.approx((1, (2 / 3) ** len(spatial)))


class TestMeanSquared:
    def test_is_the_mean_of_the_squares(self) -> None:
        assert float(losses.mean_squared(torch.full((1, 2, 3, 4), 3.0), torch.ones(1, 2, 3, 4))) == 4

    def test_counts_inside_the_mask_only(self) -> None:
        difference, weight = torch.zeros(1, 2, 2, 4), torch.zeros(1, 1, 2, 4)
        difference[..., 0], weight[..., :2] = 2.0, 1.0
        assert float(losses.mean_squared(difference, torch.zeros_like(difference), weight)) == 2

    def test_empty_mask_gives_zero(self) -> None:
        image = torch.ones(1, 1, 3, 3)
        assert float(losses.mean_squared(image, 0 * image, 0 * image)) == 0


class TestSoftDice:
    def test_equal_labels_overlap_fully(self) -> None:
        labels = torch.zeros(1, 2, 6, 6)
        labels[:, 0, :3], labels[:, 1, 3:] = 1, 1
        assert float(losses.soft_dice(labels, labels)) == pytest.approx(1)

    def test_absent_labels_do_not_count(self) -> None:
        labels = torch.zeros(1, 2, 6, 6)
        labels[:, 0, :3] = 1
        assert float(losses.soft_dice(labels, labels)) == pytest.approx(1)

    def test_half_overlap_is_one_half(self) -> None:
        fixed, warped = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
        fixed[..., :4], warped[..., 2:6] = 1, 1
        assert float(losses.soft_dice(warped, fixed)) == pytest.approx(0.5)

    def test_no_label_at_all_is_finite(self) -> None:
        assert float(losses.soft_dice(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))) == 0


class TestRegularity:
    @sizes
    def test_constant_field_is_smooth(self, spatial: tuple[int, ...]) -> None:
        assert float(losses.diffusion(torch.full((1, len(spatial), *spatial), 2.5))) == 0

    @sizes
    def test_linear_field_costs_the_square_of_its_slope(self, spatial: tuple[int, ...]) -> None:
        # Channel d rises by 0.5 along axis d alone, so each of the nd axes contributes 0.25 / nd.
        field = 0.5 * identity_grid(spatial, torch.zeros(1))
        assert float(losses.diffusion(field)) == pytest.approx(0.25)

    @sizes
    def test_weight_says_where_smoothness_counts(self, spatial: tuple[int, ...]) -> None:
        field = 0.5 * identity_grid(spatial, torch.zeros(1))
        weight = torch.full((1, 1, *spatial), 0.4)
        assert float(losses.diffusion(field, weight)) == pytest.approx(0.1)
        step = torch.zeros_like(field)
        step[..., spatial[-1] // 2 :] = 1
        away = torch.ones_like(weight)
        away[..., spatial[-1] // 2 - 1 : spatial[-1] // 2 + 1] = 0
        assert float(losses.diffusion(step)) > 0
        assert float(losses.diffusion(step, away)) == 0

    @sizes
    def test_zero_field_has_no_fold_penalty(self, spatial: tuple[int, ...]) -> None:
        assert float(losses.fold_penalty(torch.zeros(1, len(spatial), *spatial), 0.1)) == 0

    def test_reflection_costs_one_plus_the_margin(self) -> None:
        reflection = -2 * identity_grid((5, 6, 7), torch.zeros(1))
        assert float(losses.fold_penalty(reflection, 0.1)) == pytest.approx(1.1)

    def test_fold_penalty_pulls_towards_unfolding(self) -> None:
        mirrored = identity_grid((6, 7), torch.zeros(1)) * torch.tensor([-1.5, 0.0]).view(1, 2, 1, 1)
        field = mirrored.requires_grad_()
        (gradient,) = torch.autograd.grad(losses.fold_penalty(field), field)
        with torch.no_grad():
            assert float(losses.fold_penalty(field - gradient)) < float(losses.fold_penalty(field))


class TestGlobalNcc:
    @sizes
    @pytest.mark.parametrize(("gain", "expected"), [(1.0, 1), (0.3, 1), (-1.0, -1)])
    def test_gain_and_offset_do_not_matter(self, spatial: tuple[int, ...], gain: float, expected: int) -> None:
        image = rough(spatial, 0)
        assert float(losses.global_ncc(gain * image + 0.4, image)) == pytest.approx(expected)

    def test_is_the_mean_over_the_batch(self) -> None:
        fixed = rough((8, 9), 0, batch=2)
        warped = torch.cat([fixed[:1], -fixed[1:]])
        assert float(losses.global_ncc(warped, fixed)) == pytest.approx(0, abs=1e-6)

    def test_is_the_correlation_of_all_voxels(self) -> None:
        warped, fixed = rough((8, 9), 0), rough((8, 9), 1)
        expected = torch.corrcoef(torch.stack([warped.flatten(), fixed.flatten()]))[0, 1]
        torch.testing.assert_close(losses.global_ncc(warped, fixed), expected)

    def test_flat_image_gives_zero_and_a_finite_gradient(self) -> None:
        flat = torch.zeros(1, 1, 8, 9, requires_grad=True)
        value = losses.global_ncc(flat, flat.detach())
        value.backward()
        assert float(value.detach()) == 0
        assert torch.isfinite(flat.grad).all()


class TestSsim:
    @staticmethod
    def plain(warped: Tensor, fixed: Tensor, window: int) -> Tensor:
        """Return the mean structural similarity by a whole kernel."""
        nd = warped.ndim - 2
        line = torch.exp(-0.5 * ((torch.arange(window, dtype=torch.float64) - window // 2) / 1.5) ** 2)
        kernel = line / line.sum()
        for _ in range(nd - 1):
            kernel = kernel[..., None] * line / line.sum()
        convolve = F.conv2d if nd == 2 else F.conv3d

        def mean(image: Tensor) -> Tensor:
            return convolve(image, kernel[None, None], padding=window // 2)

        a, b = mean(warped), mean(fixed)
        aa, bb, ab = mean(warped**2) - a**2, mean(fixed**2) - b**2, mean(warped * fixed) - a * b
        return ((2 * a * b + 1e-4) * (2 * ab + 9e-4) / ((a**2 + b**2 + 1e-4) * (aa + bb + 9e-4))).mean()

    @sizes
    def test_image_is_fully_similar_to_itself(self, spatial: tuple[int, ...]) -> None:
        image = rough(spatial, 0)
        assert float(losses.ssim(image, image)) == pytest.approx(1)

    @pytest.mark.parametrize(("spatial", "window"), [((15, 13), 11), ((8, 9, 10), 7)], ids=["2d", "3d"])
    def test_value_is_the_plain_one(self, spatial: tuple[int, ...], window: int) -> None:
        warped, fixed = rough(spatial, 0), rough(spatial, 1)
        torch.testing.assert_close(losses.ssim(warped, fixed), self.plain(warped, fixed, window))

    @sizes
    def test_black_images_are_equal(self, spatial: tuple[int, ...]) -> None:
        image = torch.zeros(1, 1, *spatial)
        assert float(losses.ssim(image, image)) == pytest.approx(1)

    def test_inverted_contrast_is_dissimilar(self) -> None:
        image = rough((20, 22), 0)
        assert float(losses.ssim(1 - image, image)) < 0

    def test_gradient_is_the_finite_difference(self) -> None:
        warped, fixed = rough((5, 6), 0).requires_grad_(), rough((5, 6), 1)
        assert torch.autograd.gradcheck(lambda image: losses.ssim(image, fixed, 3), (warped,))


class TestTotalVariation:
    @sizes
    def test_constant_field_has_none(self, spatial: tuple[int, ...]) -> None:
        assert float(losses.total_variation(torch.full((1, len(spatial), *spatial), 2.5))) == 0

    @pytest.mark.parametrize("spatial", [(11, 13), (24, 50), (8, 9, 10), (20, 12, 16)])
    def test_ramp_of_one_channel_counts_by_its_share_whatever_the_size(self, spatial: tuple[int, ...]) -> None:
        nd = len(spatial)
        field = torch.zeros(1, nd, *spatial)
        field[:, 1] = -0.5 * identity_grid(spatial, field)[:, 0]
        # The other channels and the other axes add nothing to the mean.
        assert float(losses.total_variation(field)) == pytest.approx(0.5 / nd**2)


class TestLandmarkDistance:
    POINTS = torch.tensor([[[6.0, 9.0, 11.0], [4.25, 8.5, 9.75]]])
    SPACING = torch.tensor([3.0, 1.0, 0.5])

    def test_exact_displacement_leaves_nothing(self) -> None:
        linear = torch.tensor([[0.1, 0.02, 0.0], [0.0, -0.05, 0.03], [0.04, 0.0, 0.1]])
        field = torch.einsum("ab,nbijk->naijk", linear, identity_grid((12, 16, 20), linear))
        # 1e-6: a linear field is interpolated exactly, up to rounding.
        moving = self.POINTS + self.POINTS @ linear.T
        assert float(losses.landmark_distance(field, self.POINTS, moving, self.SPACING)) < 1e-6

    @pytest.mark.parametrize(("axis", "mm"), [(0, 6.0), (1, 2.0), (2, 1.0)])
    def test_error_counts_in_mm_along_its_own_axis(self, axis: int, mm: float) -> None:
        field = torch.zeros(1, 3, 12, 16, 20)
        field[:, axis] = 2.0  # voxels
        # Huber's: distance - 1/2 beyond 1 mm.
        found = losses.landmark_distance(field, self.POINTS, self.POINTS, self.SPACING)
        assert float(found) == pytest.approx(mm - 0.5)

    def test_field_is_read_at_the_fixed_point(self) -> None:
        field = torch.zeros(1, 2, 10, 12)
        field[0, 1, 3, 7] = 4.0
        point = torch.tensor([[[3.0, 7.0]]])
        assert float(losses.landmark_distance(field, point, point + torch.tensor([0.0, 4.0]), torch.ones(2))) == 0

    @pytest.mark.parametrize("count", [0, 2])
    def test_gradient_is_finite_where_nothing_is_left(self, count: int) -> None:
        field = torch.zeros(1, 3, 12, 16, 20, requires_grad=True)
        points = self.POINTS[:, :count]
        losses.landmark_distance(field, points, points, self.SPACING).backward()
        assert torch.equal(field.grad, torch.zeros_like(field))


class TestMind:
    @pytest.mark.parametrize(("spatial", "channels"), [((16, 18), 4), ((14, 15, 16), 12)])
    def test_descriptor_compares_all_neighbour_pairs(self, spatial: tuple[int, ...], channels: int) -> None:
        assert mind_ssc(smooth_noise(spatial)).shape == (1, channels, *spatial)

    @pytest.mark.parametrize("spatial", [(16, 18), (14, 15, 16)])
    def test_values_lie_in_zero_to_one(self, spatial: tuple[int, ...]) -> None:
        descriptor = mind_ssc(smooth_noise(spatial))
        assert bool((descriptor >= 0).all())
        assert float(descriptor.max()) == 1

    @pytest.mark.parametrize("spatial", [(16, 18), (14, 15, 16)])
    def test_inverted_contrast_changes_nothing(self, spatial: tuple[int, ...]) -> None:
        image = smooth_noise(spatial).double()
        torch.testing.assert_close(mind_ssc(1 - image), mind_ssc(image))

    def test_gain_and_offset_change_nothing(self) -> None:
        image = smooth_noise((14, 15, 16)).double()
        torch.testing.assert_close(mind_ssc(0.3 * image + 5), mind_ssc(image))

    def test_shifted_image_has_the_shifted_descriptor(self) -> None:
        image = smooth_noise((24, 26)).double()
        moved = mind_ssc(torch.roll(image, 3, dims=3))
        # 6: dilation 2 and patch radius 1 reach three voxels, and the roll brings in three from the other side. The
        # global mean variance that bounds the local one changes a little with the border.
        torch.testing.assert_close(
            moved[..., 7:-4], torch.roll(mind_ssc(image), 3, dims=3)[..., 7:-4], atol=1e-3, rtol=0
        )

    def test_flat_image_is_finite(self) -> None:
        assert torch.isfinite(mind_ssc(torch.full((1, 1, 12, 12), 0.4))).all()

    def test_different_structures_have_different_descriptors(self) -> None:
        first, second = (mind_ssc(smooth_noise((16, 18), seed=seed)) for seed in (0, 1))
        assert float(losses.mean_squared(first, second)) > 0.01
