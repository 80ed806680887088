"""Instance optimisation finds known motion, stays regular, honours masks and can be stopped."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from DeepAttentionRegEngine.deform.pairs import ImagePair, OnStep
from DeepAttentionRegEngine.deform.refine import (
    Objective,
    RefineSettings,
    level_size,
    level_steps,
    refine,
    usual_settings,
)
from DeepAttentionRegEngine.deform.warp import identity_grid, jacobian_determinant, shrink, warp
from engine_cases import smooth_displacement, smooth_noise

pytestmark = pytest.mark.torch

FLAT, VOLUME = (48, 56), (28, 32, 30)
sizes = pytest.mark.parametrize("spatial", [FLAT, VOLUME], ids=["2d", "3d"])
SHORT = RefineSettings(steps=30)


def moved_pair(spatial: tuple[int, ...], peak: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return fixed and moving image and the displacement between them, smooth over 6 voxels."""
    moving, truth = smooth_noise(spatial, seed=1, sigma=2.0), smooth_displacement(spatial, peak=peak, seed=5, sigma=6.0)
    return warp(moving, truth), moving, truth


def ring(radius: float) -> Tensor:
    """Return a slice through a heart of that radius in voxels: bright wall of 6 voxels, darker cavity, body around."""
    distance = (identity_grid((96, 96), torch.zeros(1)) - 47.5).norm(dim=1, keepdim=True)
    return torch.sigmoid(radius - distance) * 0.3 + torch.exp(-(((distance - radius) / 3) ** 2)) * 0.6


def mean_error(displacement: Tensor, truth: Tensor) -> float:
    """Return the mean end-point error in voxels."""
    return float((displacement - truth).norm(dim=1).mean())


def from_zero(
    fixed: Tensor, moving: Tensor, settings: RefineSettings, on_step: OnStep | None = None, **known: Any
) -> Tensor:
    spatial = fixed.shape[2:]
    return refine(ImagePair(fixed, moving, **known), torch.zeros(1, len(spatial), *spatial), settings, on_step)


class TestAccuracy:
    @pytest.mark.slow
    @sizes
    @pytest.mark.parametrize("velocity", [False, True])
    @pytest.mark.parametrize("similarity", ["ncc", "mse"])
    def test_known_motion_is_found(self, spatial: tuple[int, ...], similarity: str, velocity: bool) -> None:
        fixed, moving, truth = moved_pair(spatial)
        found = from_zero(fixed, moving, replace(SHORT, similarity=similarity, velocity=velocity))
        # Measured 0.20 to 0.32 voxel with this smoothness, from 1.28 before.
        assert mean_error(found, truth) < 0.45

    @sizes
    def test_mind_finds_motion_under_inverted_contrast(self, spatial: tuple[int, ...]) -> None:
        fixed, moving, truth = moved_pair(spatial)
        found = from_zero(1 - fixed, moving, replace(SHORT, similarity="mind"))
        # Measured 0.30 and 0.27 voxel.
        assert mean_error(found, truth) < 0.45

    def test_mean_squares_is_misled_by_inverted_contrast(self) -> None:
        fixed, moving, truth = moved_pair(FLAT)
        assert mean_error(from_zero(1 - fixed, moving, replace(SHORT, similarity="mse")), truth) > 1

    def test_correlation_ignores_brightness(self) -> None:
        fixed, moving, truth = moved_pair(FLAT)
        assert mean_error(from_zero(0.5 * fixed + 0.4, moving, SHORT), truth) < 0.45

    def test_start_does_not_decide_where_it_ends(self) -> None:
        fixed, moving, truth = moved_pair(FLAT)
        from_truth, found = refine(ImagePair(fixed, moving), truth, SHORT), from_zero(fixed, moving, SHORT)
        # Both end 0.20 voxel from the truth, where the smoothness pulls them.
        assert mean_error(from_truth, found) < 0.1

    def test_the_usual_settings_of_slices_follow_a_contraction(self) -> None:
        fixed, moving = ring(24.0), ring(14.0)
        found = [
            from_zero(fixed, moving, replace(settings, steps=30))
            for settings in (usual_settings(2, "ncc", 60), RefineSettings(60))
        ]
        slices, volumes = (float((warp(moving, field) - fixed).square().mean()) for field in found)
        assert slices < 0.8 * volumes

    def test_anchor_holds_the_field_near_the_start(self) -> None:
        fixed, moving, truth = moved_pair(FLAT)
        loose, held = (refine(ImagePair(fixed, moving), truth, replace(SHORT, anchor=weight)) for weight in (0.0, 1.0))
        assert mean_error(held, truth) < 0.5 * mean_error(loose, truth)

    def test_fine_detail_of_the_start_survives_the_coarse_levels(self) -> None:
        # A detail of two voxels in a region without structure: nothing pulls at it but the coarse grids' smoothing.
        detail = torch.zeros(1, 2, *FLAT)
        detail[:, 0, 20:22, 20:22] = 0.5
        flat = torch.full((1, 1, *FLAT), 0.5)
        kept = refine(ImagePair(flat, flat), detail, replace(SHORT, steps=1, smoothness=0.0))
        torch.testing.assert_close(kept, detail, atol=1e-3, rtol=0)

    @pytest.mark.slow
    @sizes
    @pytest.mark.parametrize("velocity", [False, True])
    @pytest.mark.parametrize("similarity", ["ncc", "mse", "mind"])
    def test_identical_images_stay_exactly_where_they_are(
        self, spatial: tuple[int, ...], similarity: str, velocity: bool
    ) -> None:
        # Steps of Adam do not shrink with the gradient, and amplified noise raises the local correlation.
        image = smooth_noise(spatial, sigma=2.0)
        assert not from_zero(image, image, replace(SHORT, steps=10, similarity=similarity, velocity=velocity)).any()

    def test_what_harms_at_the_last_level_is_left_out(self) -> None:
        fixed, moving, truth = moved_pair(FLAT)
        # Blurred to a quarter, other stripes than the true ones match; no step of the last level can repair it.
        wrong = replace(SHORT, steps=1, levels=(4, 1), smoothness=0.0, learning_rate=3.0)
        assert refine(ImagePair(fixed, moving), truth, wrong) is truth

    @pytest.mark.parametrize("similarity", ["ncc", "mse"])
    def test_a_step_too_long_is_not_kept(self, similarity: str) -> None:
        fixed, moving, _ = moved_pair(FLAT)
        settings = replace(SHORT, steps=3, similarity=similarity, learning_rate=4.0)
        found = from_zero(fixed, moving, settings)
        objective = Objective(ImagePair(fixed, moving), None, settings)
        assert objective.of(found) <= objective.of(torch.zeros_like(found))

    def test_odd_and_small_sizes_keep_their_size(self) -> None:
        fixed, moving, _ = moved_pair((9, 33, 17), peak=1.0)
        assert from_zero(fixed, moving, replace(SHORT, steps=2)).shape == (1, 3, 9, 33, 17)


@pytest.mark.slow
class TestRegularity:
    @sizes
    @pytest.mark.parametrize("velocity", [False, True])
    def test_real_motion_does_not_fold(self, spatial: tuple[int, ...], velocity: bool) -> None:
        fixed, moving, _ = moved_pair(spatial, peak=5.0)
        found = from_zero(fixed, moving, replace(SHORT, velocity=velocity, smoothness=0.1))
        assert float(jacobian_determinant(found).min()) > 0

    @sizes
    @pytest.mark.parametrize("similarity", ["ncc", "mse"])
    def test_velocity_stays_regular_between_unrelated_images(self, spatial: tuple[int, ...], similarity: str) -> None:
        fixed, moving = (smooth_noise(spatial, seed=seed, sigma=2.0) for seed in (1, 2))
        found = from_zero(fixed, moving, replace(SHORT, steps=40, similarity=similarity, velocity=True))
        assert float(jacobian_determinant(found).min()) > 0

    def test_smoothness_makes_the_field_smoother(self) -> None:
        fixed, moving, _ = moved_pair(FLAT)
        loose, stiff = (from_zero(fixed, moving, replace(SHORT, smoothness=weight)) for weight in (0.1, 10.0))
        assert float(stiff.diff(dim=2).abs().mean()) < 0.5 * float(loose.diff(dim=2).abs().mean())


class TestMask:
    @pytest.mark.parametrize(("old", "new"), [(65, 33), (135, 87), (100, 33), (37, 37), (40, 10)])
    def test_shrinking_keeps_the_place_of_everything(self, old: int, new: int) -> None:
        # A ramp of the coordinate itself, in voxels of the coarse grid; the edge continues, so the ends are left out.
        ramp = ((torch.arange(old) + 0.5) * new / old - 0.5).expand(1, 1, old, old)
        shrunk = shrink(ramp, (new, new))[0, 0, 0]
        torch.testing.assert_close(shrunk[1:-1], torch.arange(1.0, new - 1), atol=1e-4, rtol=0)

    @pytest.mark.parametrize("similarity", ["ncc", "mse"])
    def test_masked_artefact_does_not_pull(self, similarity: str) -> None:
        fixed, moving, truth = moved_pair(FLAT)
        weight = torch.ones_like(fixed)
        weight[..., 28:] = 0
        fixed = fixed * weight + (1 - weight) * smooth_noise(FLAT, seed=9)
        found = from_zero(fixed, moving, replace(SHORT, similarity=similarity), weight=weight)
        # Six voxels from the mask's edge, beyond the reach of windows at the coarser levels.
        assert mean_error(found[..., :22], truth[..., :22]) < 0.45

    def test_empty_mask_leaves_the_start_alone(self) -> None:
        fixed, moving, _ = moved_pair(FLAT)
        assert float(from_zero(fixed, moving, SHORT, weight=torch.zeros_like(fixed)).abs().max()) < 1e-6


@pytest.mark.slow
class TestStructures:
    @staticmethod
    def masks(spatial: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the masks of two structures, fixed and moving, and the displacement between them."""
        *pair, truth = moved_pair(spatial)
        bright_and_dark = (torch.cat([image - 0.6, 0.4 - image], 1) for image in pair)
        fixed, moving = (torch.sigmoid(20 * level) for level in bright_and_dark)
        return fixed, moving, truth

    @sizes
    @pytest.mark.parametrize("similarity", ["ncc", "mse", "mind"])
    def test_lead_where_images_show_nothing(self, spatial: tuple[int, ...], similarity: str) -> None:
        fixed, moving, truth = self.masks(spatial)
        empty, settings = torch.full((1, 1, *spatial), 0.5), replace(SHORT, similarity=similarity)
        unaware = from_zero(empty, empty, settings, structures=(fixed, moving))
        aware = from_zero(empty, empty, replace(settings, structures=1.0), structures=(fixed, moving))
        assert float(unaware.abs().max()) == 0
        assert mean_error(aware, truth) < 0.6 * mean_error(unaware, truth)

    def test_count_outside_the_weight_of_the_images(self) -> None:
        fixed, moving, truth = self.masks(FLAT)
        image, settings = torch.full((1, 1, *FLAT), 0.5), replace(SHORT, structures=1.0)
        within = fixed[:, :1].round() * moving[:, :1].round()  # as a user's masks of one structure would have it
        everywhere, found = (
            from_zero(image, image, settings, structures=(fixed, moving), weight=weight) for weight in (None, within)
        )
        assert mean_error(found, truth) < 1.1 * mean_error(everywhere, truth)

    def test_that_fit_already_do_not_move(self) -> None:
        fixed, _, _ = self.masks(FLAT)
        image = smooth_noise(FLAT, seed=1, sigma=2.0)
        assert (
            float(from_zero(image, image, replace(SHORT, structures=1.0), structures=(fixed, fixed)).abs().max()) == 0
        )


class TestBalance:
    @pytest.mark.slow
    @pytest.mark.parametrize("similarity", ["ncc", "mse"])
    def test_does_not_depend_on_the_size_of_a_mask(self, similarity: str) -> None:
        fixed, moving, _ = moved_pair(FLAT)
        inside = torch.zeros(1, 1, 96, 112)
        inside[:, :, 16:80, 20:92] = 1
        # Beyond the mask there is nothing to compare, so that it leaves out nothing but places.
        images = [torch.nn.functional.pad(image, (28, 28, 24, 24)) for image in (fixed, moving)]
        settings = replace(SHORT, similarity=similarity)
        whole, masked = (from_zero(*images, settings, weight=weight) for weight in (None, inside))
        apart = ((whole - masked) * inside).norm(dim=1).amax(), (whole * inside).norm(dim=1).amax()
        assert float(apart[0]) < 0.2 * float(apart[1])

    def test_does_not_depend_on_how_much_structures_fill(self) -> None:
        """Around twice the grid all terms are a quarter, so that nothing but their sum changes."""
        fixed, moving, _ = moved_pair(FLAT)
        masks = [torch.sigmoid(20 * (image - 0.6)) for image in (fixed, moving)]
        padded = [torch.nn.functional.pad(image, (28, 28, 24, 24)) for image in (fixed, moving, *masks)]
        small = Objective(ImagePair(fixed, moving, structures=(masks[0], masks[1])), None, SHORT)
        large = Objective(ImagePair(*padded[:2], structures=(padded[2], padded[3])), None, SHORT)
        still = [torch.zeros(1, 2, *objective.coarse) for objective in (small, large)]
        assert float(large.apart(still[1])) == pytest.approx(float(small.apart(still[0])) / 4, rel=0.05)


class TestSteps:
    def test_no_steps_return_the_start_itself(self) -> None:
        fixed, moving, truth = moved_pair(FLAT)
        assert refine(ImagePair(fixed, moving), truth, replace(SHORT, steps=0)) is truth

    def test_every_step_is_reported(self) -> None:
        fixed, moving, _ = moved_pair(FLAT)
        reports = []
        from_zero(fixed, moving, replace(SHORT, steps=2), on_step=lambda step, of, loss: reports.append((step, of)))
        # Two at each of two coarse levels, three tenths of that, rounded up, at the finest.
        assert reports == [(n, 5) for n in range(1, 6)]

    @pytest.mark.parametrize(("levels", "expected"), [((4, 2, 1), [40, 40, 12]), ((2,), [40])])
    def test_the_finest_of_several_levels_takes_few(self, levels: tuple[int, ...], expected: list[int]) -> None:
        assert level_steps(RefineSettings(40, levels=levels)) == expected

    def test_loss_falls(self) -> None:
        fixed, moving, _ = moved_pair(FLAT)
        seen: list[float] = []
        from_zero(fixed, moving, replace(SHORT, levels=(1,)), on_step=lambda step, of, loss: seen.append(loss))
        assert seen[-1] < 0.5 * seen[0]

    def test_exception_of_a_report_stops_at_once(self) -> None:
        fixed, moving, _ = moved_pair(FLAT)
        steps = []

        def stop(step: int, of: int, loss: float) -> None:
            steps.append(step)
            raise InterruptedError

        with pytest.raises(InterruptedError):
            from_zero(fixed, moving, SHORT, on_step=stop)
        assert steps == [1]

    def test_same_input_gives_the_same_field(self) -> None:
        fixed, moving, _ = moved_pair(FLAT)
        first, second = (from_zero(fixed, moving, replace(SHORT, steps=5)) for _ in range(2))
        assert torch.equal(first, second)

    def test_inputs_are_left_as_they_were(self) -> None:
        fixed, moving, truth = moved_pair(FLAT)
        copies = [tensor.clone() for tensor in (fixed, moving, truth)]
        refine(ImagePair(fixed, moving), truth, replace(SHORT, steps=2))
        assert all(torch.equal(a, b) for a, b in zip(copies, (fixed, moving, truth), strict=True))


class TestLevels:
    def test_level_sizes_have_a_floor(self) -> None:
        assert level_size((64, 20, 6), 4) == (16, 8, 6)

    def test_shrinking_by_a_whole_factor_averages(self) -> None:
        ramp = identity_grid((8, 12), torch.zeros(1))[:, 1:]
        assert shrink(ramp, (2, 3))[0, 0, 0].tolist() == [1.5, 5.5, 9.5]

    @sizes
    def test_shrinking_keeps_a_constant(self, spatial: tuple[int, ...]) -> None:
        shrunk = shrink(torch.full((1, 1, *spatial), 0.7), tuple(n // 3 for n in spatial))
        torch.testing.assert_close(shrunk, torch.full_like(shrunk, 0.7))

    def test_shrinking_to_the_same_size_returns_the_image(self) -> None:
        image = smooth_noise(FLAT)
        assert torch.equal(shrink(image, FLAT), image)
