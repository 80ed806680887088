"""Local Gaussians and sequences of them: formulae, folds, composition, inverse, any resolution, refinement."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from DeepAttentionRegEngine.deform.gaussian_refine import GaussianRefinement, refine_gaussians
from DeepAttentionRegEngine.deform.gaussians import (
    MODES,
    Gaussians,
    evaluate,
    grid_coordinates,
    least_determinant,
    limited,
    move,
    near,
    numbers_each,
    render,
    rotation_2d,
    rotation_3d,
)
from DeepAttentionRegEngine.deform.losses import mean_squared
from DeepAttentionRegEngine.deform.warp import compose, jacobian_determinant, warp
from DeepAttentionRegEngine.networks.base import ImagePair
from engine_cases import smooth_noise

pytestmark = pytest.mark.torch

FLAT, VOLUME = (40, 56), (20, 28, 24)
sizes = pytest.mark.parametrize("spatial", [FLAT, VOLUME], ids=["2d", "3d"])
composed = pytest.mark.parametrize("mode", ["compose", "joint"])
double = torch.float64


def make_step(nd: int, count: int = 1, *, seed: int = 0, length: float = 0.2, batch: int = 1) -> Gaussians:
    """Return random Gaussians in double precision; each component of a vector is `length` at most."""
    generator = torch.Generator().manual_seed(seed)
    center, sigma, vector = (2 * torch.rand(batch, count, nd, generator=generator, dtype=double) - 1 for _ in range(3))
    turn = torch.randn(batch, count, nd * (nd - 1) // 2, generator=generator, dtype=double)
    rotation = rotation_2d(turn[..., 0]) if nd == 2 else rotation_3d(turn)
    return Gaussians(0.4 * center, 0.2 + 0.08 * sigma, rotation, length * vector)


def make_steps(nd: int, count: int = 2, mode: str = "compose") -> list[Gaussians]:
    return [limited(make_step(nd, count, seed=seed, length=0.3), mode, 0.9) for seed in range(3)]


def points_of(spatial: tuple[int, ...]) -> Tensor:
    return grid_coordinates(spatial, spatial, torch.zeros((), dtype=double))


def single(center: list[float], sigma: list[float], rotation: Tensor, vector: list[float]) -> Gaussians:
    center_, sigma_, vector_ = (torch.tensor([[values]], dtype=double) for values in (center, sigma, vector))
    return Gaussians(center_, sigma_, rotation.expand(1, 1, *rotation.shape[-2:]), vector_)


def determinants(points: Tensor, steps: list[Gaussians], mode: str) -> Tensor:
    """Return the exact Jacobian determinants of a sequence at points `(1, nd, ...)`, `(n,)`."""
    flat = points.flatten(2).requires_grad_()
    moved = move(flat, steps, mode)[0]
    rows = [torch.autograd.grad(row.sum(), flat, retain_graph=True)[0][0] for row in moved]
    return torch.linalg.det(torch.stack(rows).movedim(-1, 0))


class TestCoordinates:
    def test_longest_axis_runs_from_edge_to_edge(self) -> None:
        points = points_of((4, 8))
        assert points[0, 1, 0].tolist() == [-0.875, -0.625, -0.375, -0.125, 0.125, 0.375, 0.625, 0.875]
        assert points[0, 0, :, 0].tolist() == [-0.375, -0.125, 0.125, 0.375]

    def test_coarser_grid_spans_the_same_field_of_view(self) -> None:
        coarse = grid_coordinates((3, 4), (6, 8), torch.zeros((), dtype=double))
        means = torch.nn.functional.avg_pool2d(points_of((6, 8)), 2)
        torch.testing.assert_close(coarse, means)


class TestFormula:
    ANGLES = (0.0, 0.4, 1.3, 2.9)

    @pytest.mark.parametrize("angle", ANGLES)
    def test_exponent_is_that_of_the_paper(self, angle: float) -> None:
        sx, sy = 0.3, 0.12
        a = math.cos(angle) ** 2 / (2 * sx**2) + math.sin(angle) ** 2 / (2 * sy**2)
        b = -math.sin(2 * angle) / (4 * sx**2) + math.sin(2 * angle) / (4 * sy**2)
        c = math.sin(angle) ** 2 / (2 * sx**2) + math.cos(angle) ** 2 / (2 * sy**2)
        step = single([0.1, -0.2], [sy, sx], rotation_2d(torch.tensor(angle, dtype=double)), [0.0, 1.0])
        points = points_of(FLAT)
        dy, dx = points[:, 0] - 0.1, points[:, 1] + 0.2
        expected = torch.exp(-(a * dx**2 + 2 * b * dx * dy + c * dy**2))
        torch.testing.assert_close(evaluate(step, points)[:, 1], expected, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("angle", ANGLES)
    def test_half_a_turn_changes_nothing(self, angle: float) -> None:
        fields = [
            evaluate(single([0.1, 0.2], [0.3, 0.1], rotation_2d(torch.tensor(a, dtype=double)), [1.0, 0.5]), points)
            for a, points in ((angle, points_of(FLAT)), (angle + math.pi, points_of(FLAT)))
        ]
        torch.testing.assert_close(*fields, atol=1e-6, rtol=0)

    @sizes
    def test_turning_a_round_gaussian_changes_nothing(self, spatial: tuple[int, ...]) -> None:
        step = make_step(len(spatial))
        step = replace(step, sigma=torch.full_like(step.sigma, 0.2))
        still = replace(step, rotation=torch.eye(len(spatial), dtype=double).expand_as(step.rotation))
        points = points_of(spatial)
        torch.testing.assert_close(evaluate(step, points), evaluate(still, points), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("nd", [2, 3])
    def test_peak_is_the_vector(self, nd: int) -> None:
        step = make_step(nd)
        torch.testing.assert_close(evaluate(step, step.center.transpose(1, 2)), step.vector.transpose(1, 2))

    @pytest.mark.parametrize("nd", [2, 3])
    def test_value_one_deviation_away_along_each_axis(self, nd: int) -> None:
        step = make_step(nd)
        axes = step.rotation[0, 0] * step.sigma[0, 0]  # columns
        points = step.center[0].T + axes
        expected = math.exp(-0.5) * step.vector[0].T.expand(nd, nd)
        torch.testing.assert_close(evaluate(step, points[None])[0], expected)

    @pytest.mark.parametrize("angle", ANGLES)
    def test_every_slice_of_a_long_gaussian_is_the_flat_one(self, angle: float) -> None:
        flat = single([0.1, -0.3], [0.3, 0.12], rotation_2d(torch.tensor(angle, dtype=double)), [0.2, -0.1])
        turn = rotation_3d(torch.tensor([angle, 0.0, 0.0], dtype=double))
        long = single([0.0, 0.1, -0.3], [1e6, 0.3, 0.12], turn, [0.0, 0.2, -0.1])
        volume = evaluate(long, grid_coordinates((9, *FLAT), (9, *FLAT), flat.center))
        assert not volume[:, 0].any()
        expected = evaluate(flat, points_of(FLAT))[:, :, None].expand_as(volume[:, 1:])
        torch.testing.assert_close(volume[:, 1:], expected, atol=1e-6, rtol=0)

    def test_rotation_vector_turns_about_its_axis(self) -> None:
        axis = torch.tensor([0.48, 0.6, 0.64], dtype=double)
        turn = rotation_3d(1.2 * axis)
        torch.testing.assert_close(turn @ axis, axis)
        torch.testing.assert_close(turn @ turn.T, torch.eye(3, dtype=double))
        assert float(turn.trace()) == pytest.approx(1 + 2 * math.cos(1.2))

    def test_no_rotation_has_a_finite_gradient(self) -> None:
        vector = torch.zeros(3, requires_grad=True)
        turn = rotation_3d(vector)
        turn[0, 1].backward()
        torch.testing.assert_close(turn.detach(), torch.eye(3))
        torch.testing.assert_close(vector.grad, torch.tensor([0.0, 0.0, -1.0]))

    @sizes
    def test_gaussians_of_a_step_add_up(self, spatial: tuple[int, ...]) -> None:
        step, points = make_step(len(spatial), 3), points_of(spatial)
        apart = sum(evaluate(step.select(slice(g, g + 1)), points) for g in range(3))
        torch.testing.assert_close(evaluate(step, points), apart)

    @sizes
    def test_batch_is_its_samples(self, spatial: tuple[int, ...]) -> None:
        step, points = make_step(len(spatial), 2, batch=4), points_of(spatial)
        parts = (step.center, step.sigma, step.rotation, step.vector)
        apart = [evaluate(Gaussians(*(part[b : b + 1] for part in parts)), points) for b in range(4)]
        torch.testing.assert_close(evaluate(step, points), torch.cat(apart))

    @pytest.mark.parametrize(("nd", "count", "numbers"), [(2, 1, 7), (3, 1, 12), (2, 2, 14), (3, 4, 48)])
    def test_numbers_per_step(self, nd: int, count: int, numbers: int) -> None:
        assert make_step(nd, count).center.shape[1] * numbers_each(nd) == numbers

    def test_distant_gaussians_are_recognised(self) -> None:
        turn = torch.eye(2, dtype=double).expand(1, 2, 2, 2)
        centers = torch.tensor([[[0.0, 0.0], [0.0, 0.9]]], dtype=double)
        sigma = torch.full((1, 2, 2), 0.1, dtype=double)
        step = Gaussians(centers, sigma, turn, torch.ones(1, 2, 2, dtype=double))
        assert near(step, 0.1 * points_of((8, 8))).center.tolist() == [[[0.0, 0.0]]]


class TestFolds:
    @pytest.mark.parametrize("nd", [2, 3])
    @pytest.mark.parametrize("kappa", [0.3, 0.9, 1.2])
    def test_least_determinant_is_found_on_a_fine_grid(self, nd: int, kappa: float) -> None:
        step = make_step(nd)
        step = replace(step, vector=step.vector * (kappa / (1 - least_determinant(step))).unsqueeze(-1))
        # The least value lies one deviation from the center, against the vector as the ellipsoid sees it.
        whitened = (step.whitening @ step.vector.unsqueeze(-1))[0, 0, :, 0]
        at = step.center[0, 0] + (step.rotation[0, 0] * step.sigma[0, 0]) @ (whitened / whitened.norm())
        near_it = at.view(1, nd, *[1] * nd) + 0.05 * points_of((41,) * nd if nd == 2 else (21,) * nd)
        determinant = determinants(near_it, [step], "sum")
        assert float(determinant.min()) == pytest.approx(1 - kappa, abs=1e-3)
        assert float(least_determinant(step)) == pytest.approx(1 - kappa, abs=1e-9)

    @composed
    @pytest.mark.parametrize("nd", [2, 3])
    def test_composed_steps_never_fold(self, nd: int, mode: str) -> None:
        steps = [limited(make_step(nd, 3, seed=seed, length=5.0), mode, 0.9) for seed in range(4)]
        assert float(determinants(points_of((65,) * 2 if nd == 2 else (21,) * 3), steps, mode).min()) > 0

    @composed
    @pytest.mark.parametrize("nd", [2, 3])
    def test_step_does_not_fold_on_a_fine_grid(self, nd: int, mode: str) -> None:
        step = limited(make_step(nd, 1, length=5.0), mode, 0.9)
        points = points_of((65,) * nd)
        voxel = 2 / 65
        # Voxels of at most an eighth of the smallest sigma.
        wide = replace(step, sigma=step.sigma * 2, vector=step.vector * 2)
        assert voxel <= float(wide.sigma.min()) / 8
        moved = (move(points, [wide], mode) - points) / voxel
        assert float(jacobian_determinant(moved).min()) > 0

    @pytest.mark.parametrize("nd", [2, 3])
    def test_sum_may_fold(self, nd: int) -> None:
        points = points_of((64,) * nd)
        field = (move(points, [make_step(nd, length=1.0)] * 2, "sum") - points) * 32
        assert float(jacobian_determinant(field).min()) < 0

    def test_short_vectors_are_kept(self) -> None:
        step = make_step(3, 2, length=1e-3)
        for mode in MODES:
            torch.testing.assert_close(limited(step, mode, 0.9).vector, step.vector)

    def test_zero_vector_has_a_finite_gradient(self) -> None:
        vector = torch.zeros(1, 2, 3, dtype=double, requires_grad=True)
        step = replace(make_step(3, 2), vector=vector)
        for mode in MODES:
            limited(step, mode, 0.9).vector.sum().backward()
        assert vector.grad.isfinite().all()


class TestSequence:
    @sizes
    def test_sum_adds_the_fields(self, spatial: tuple[int, ...]) -> None:
        steps = make_steps(len(spatial))
        apart = sum(render([step], "sum", spatial) for step in steps)
        torch.testing.assert_close(render(steps, "sum", spatial), apart)

    @sizes
    @composed
    def test_last_step_acts_first(self, spatial: tuple[int, ...], mode: str) -> None:
        steps, points = make_steps(len(spatial), mode=mode), points_of(spatial)
        inner = move(points, steps[2:], mode)
        torch.testing.assert_close(move(points, steps, mode), move(inner, steps[:2], mode))

    def test_step_of_several_is_composed_or_added(self) -> None:
        step, points = make_step(2, 2), points_of(FLAT)
        one, other = (step.select(slice(g, g + 1)) for g in range(2))
        inner = points + evaluate(other, points)
        torch.testing.assert_close(move(points, [step], "compose"), inner + evaluate(one, inner))
        torch.testing.assert_close(move(points, [step], "joint"), points + evaluate(step, points))

    @sizes
    @composed
    def test_interpolated_composition_comes_close(self, spatial: tuple[int, ...], mode: str) -> None:
        steps = make_steps(len(spatial), mode=mode)
        field = render(steps[:1], mode, spatial)
        for step in steps[1:]:
            field = compose(field, render([step], mode, spatial))
        inner = (..., *[slice(6, -6)] * len(spatial))  # outside the grid, the interpolated field continues its edge
        # Linear interpolation of Gaussians about three voxels wide.
        torch.testing.assert_close(field[inner], render(steps, mode, spatial)[inner], atol=0.15, rtol=0)

    @sizes
    @pytest.mark.parametrize("mode", MODES)
    def test_any_resolution_shows_the_same_field(self, spatial: tuple[int, ...], mode: str) -> None:
        steps = make_steps(len(spatial), mode=mode)
        coarse = render(steps, mode, spatial)
        fine = render(steps, mode, spatial, [3 * n for n in spatial])
        middles = (..., *[slice(1, None, 3)] * len(spatial))
        torch.testing.assert_close(fine[middles], 3 * coarse)

    @sizes
    def test_another_shape_keeps_the_displacement_in_space(self, spatial: tuple[int, ...]) -> None:
        steps = make_steps(len(spatial))
        wide = render(steps, "sum", spatial, (spatial[0], *[3 * n for n in spatial[1:]]))
        middles = (slice(None), slice(None), slice(None), *[slice(1, None, 3)] * (len(spatial) - 1))
        expected = render(steps, "sum", spatial)
        torch.testing.assert_close(wide[middles][:, :1], expected[:, :1])
        torch.testing.assert_close(wide[middles][:, 1:], 3 * expected[:, 1:])

    @sizes
    def test_leaving_distant_gaussians_out_changes_little(self, spatial: tuple[int, ...]) -> None:
        steps, points = make_steps(len(spatial)), 0.2 * points_of(spatial)
        found = move(points, steps, "compose", truncate=True)
        # Six vectors of at most 0.5, each cut where it is below 0.0004 of its peak.
        torch.testing.assert_close(found, move(points, steps, "compose"), atol=6 * 0.5 * 4e-4, rtol=0)


@pytest.mark.slow
class TestRefinement:
    @staticmethod
    def case(nd: int) -> tuple[ImagePair, Gaussians]:
        """Return an image, the same warped by one Gaussian of sigma 0.15 and peak 0.05, and that Gaussian."""
        spatial = (64, 72) if nd == 2 else (36, 40, 32)
        truth = Gaussians(
            torch.tensor([[[0.1, -0.15, 0.05][:nd]]]),
            torch.full((1, 1, nd), 0.15),
            torch.eye(nd).expand(1, 1, nd, nd),
            torch.tensor([[[0.03, 0.04, 0.0][:nd]]]),
        )
        moving = smooth_noise(spatial, seed=3, sigma=2.5)
        return ImagePair(warp(moving, render([truth], "sum", spatial)), moving), truth

    @staticmethod
    def start(nd: int) -> Gaussians:
        sigma = torch.full((1, 1, nd), 0.2)
        return Gaussians(torch.zeros(1, 1, nd), sigma, torch.eye(nd).expand(1, 1, nd, nd), torch.zeros(1, 1, nd))

    @pytest.mark.parametrize("nd", [2, 3])
    @pytest.mark.parametrize("mode", ["sum", "compose"])
    def test_known_gaussian_is_recovered(self, nd: int, mode: str) -> None:
        pair, truth = self.case(nd)
        (found,) = refine_gaussians(pair, [self.start(nd)], 120, GaussianRefinement(mode=mode, smoothness=0.0))
        torch.testing.assert_close(found.center, truth.center, atol=0.02, rtol=0)
        torch.testing.assert_close(found.vector, truth.vector, atol=0.05 * 0.05, rtol=0)

    @pytest.mark.parametrize("similarity", ["mse", "ncc"])
    def test_dissimilarity_falls_in_a_reduced_copy_too(self, similarity: str) -> None:
        pair, _ = self.case(2)
        settings = GaussianRefinement(similarity=similarity, voxels=1200)
        found = refine_gaussians(pair, [self.start(2)] * 2, 60, settings)
        warped = warp(pair.moving, render(found, "sum", pair.fixed.shape[2:]))
        assert float(mean_squared(warped, pair.fixed)) < 0.3 * float(mean_squared(pair.moving, pair.fixed))

    @torch.no_grad()
    def test_no_step_returns_the_sequence(self) -> None:
        pair, truth = self.case(2)
        (found,) = refine_gaussians(pair, [truth], 0, GaussianRefinement())
        torch.testing.assert_close(found.vector, truth.vector)
        assert not found.vector.requires_grad

    def test_composed_steps_stay_within_their_limit(self) -> None:
        pair, truth = self.case(2)
        wild = replace(truth, vector=10 * truth.vector)
        (found,) = refine_gaussians(pair, [wild], 3, GaussianRefinement(mode="compose", kappa=0.5))
        assert float(least_determinant(found)) >= 0.5 - 1e-6

    def test_caller_may_stop(self) -> None:
        def stop(done: int, of: int, loss: float) -> None:
            assert (done, of) == (1, 5)
            raise KeyboardInterrupt

        pair, truth = self.case(2)
        with pytest.raises(KeyboardInterrupt):
            refine_gaussians(pair, [truth], 5, GaussianRefinement(), stop)

    def test_caller_may_have_enough(self) -> None:
        pair, _ = self.case(2)
        done: list[int] = []

        def on_step(step: int, _of: int, _loss: float) -> bool:
            done.append(step)
            return step == 3

        (found,) = refine_gaussians(pair, [self.start(2)], 50, GaussianRefinement(mode="sum"), on_step)
        assert done == [1, 2, 3]
        assert not torch.equal(found.vector, self.start(2).vector)

    @pytest.mark.parametrize("side", ["fixed", "moving"])
    def test_empty_mask_leaves_the_sequence_finite(self, side: str) -> None:
        pair, truth = self.case(2)
        masked = replace(pair, **{f"{side}_mask": torch.zeros_like(pair.fixed)})
        (found,) = refine_gaussians(masked, [truth], 2, GaussianRefinement())
        assert found.vector.isfinite().all()
