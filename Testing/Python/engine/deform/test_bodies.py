"""Pieces of a displacement that are rigid or keep their volume: what is kept, what is left alone, and refinement."""

import math

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch import Tensor

from DeepAttentionRegEngine.deform.bodies import Bodies
from DeepAttentionRegEngine.deform.folds import folds
from DeepAttentionRegEngine.deform.pairs import ImagePair
from DeepAttentionRegEngine.deform.refine import refine, usual_settings
from DeepAttentionRegEngine.deform.warp import identity_grid, warp
from engine_cases import smooth_displacement

pytestmark = pytest.mark.torch

SIZES = ((40, 44), (28, 32, 36))
sizes = pytest.mark.parametrize("spatial", SIZES, ids=["2d", "3d"])


def boxes(spatial: tuple[int, ...]) -> Tensor:
    """Return two boxes side by side along the last axis, `(1, 1, *spatial)`, numbered 1 and 2."""
    grid = identity_grid(spatial, torch.zeros(1))[0]
    labels = torch.zeros(spatial)
    for number, share in enumerate((0.3, 0.7), start=1):
        middle = [share * (n - 1) if axis == len(spatial) - 1 else (n - 1) / 2 for axis, n in enumerate(spatial)]
        far = [(grid[axis] - middle[axis]).abs() > (5 if axis == 0 else 4) for axis in range(len(spatial))]
        labels[~torch.stack(far).any(0)] = number
    return labels[None, None]


def bodies(spatial: tuple[int, ...], *, rigid: bool = True, on_fixed: bool = True, plain: bool = False) -> Bodies:
    """Return the two boxes with a skew alignment and voxels that are no cubes, or a plain one and cubes."""
    labels, none, axes = boxes(spatial), torch.zeros(1, 1, *spatial), len(spatial)
    generator = torch.Generator().manual_seed(1)
    skew = torch.eye(axes) + 0.1 * torch.randn(axes, axes, generator=generator)
    edges = 1 + torch.arange(axes) / 4
    linear, edges = (torch.eye(axes), torch.ones(axes)) if plain else (skew, edges)
    return Bodies(labels if on_fixed else none, none if on_fixed else labels, (rigid, rigid), edges, linear)


def linear_maps(held: Bodies, displacement: Tensor) -> list[tuple[Tensor, float]]:
    """Return the linear map in mm of each box, alignment included, and by how much the box differs from it at most."""
    found = []
    grid = identity_grid(displacement.shape[2:], displacement)
    for number in (1, 2):
        inside = (held.fixed if held.fixed.any() else held.moving)[0, 0] == number
        here = grid[0][:, inside].T * held.edges
        there = (here + displacement[0][:, inside].T * held.edges) @ held.linear.T
        here, there = here - here.mean(0), there - there.mean(0)
        fitted = torch.linalg.lstsq(here, there).solution
        found.append((fitted.T, float((here @ fitted - there).abs().max())))
    return found


class TestKept:
    @sizes
    def test_a_rigid_piece_turns_and_shifts_alone(self, spatial: tuple[int, ...]) -> None:
        held, displacement = bodies(spatial), smooth_displacement(spatial, peak=4)
        kept = held.placed(displacement).kept(displacement)
        for fitted, rest in linear_maps(held, kept):
            assert rest < 1e-4
            assert torch.allclose(fitted @ fitted.T, torch.eye(len(spatial)), atol=1e-4)
            assert float(torch.linalg.det(fitted)) > 0
        assert all(rest > 0.1 for _fitted, rest in linear_maps(held, displacement))

    @sizes
    def test_a_volume_keeping_piece_may_change_its_shape(self, spatial: tuple[int, ...]) -> None:
        held, displacement = bodies(spatial, rigid=False), smooth_displacement(spatial, peak=4)
        for fitted, rest in linear_maps(held, held.placed(displacement).kept(displacement)):
            assert rest < 1e-4
            assert float(torch.linalg.det(fitted)) == pytest.approx(1, abs=1e-4)
            assert not torch.allclose(fitted @ fitted.T, torch.eye(len(spatial)), atol=1e-2)

    @sizes
    def test_what_is_kept_already_stays_and_so_does_all_else(self, spatial: tuple[int, ...]) -> None:
        held, displacement = bodies(spatial), smooth_displacement(spatial, peak=4)
        kept = held.placed(displacement).kept(displacement)
        outside = (held.fixed == 0).expand_as(kept)
        assert torch.equal(kept[outside], displacement[outside])
        assert torch.allclose(held.placed(kept).kept(kept), kept, atol=1e-4)

    def test_the_rotation_of_a_rotation_is_itself(self) -> None:
        held = bodies(SIZES[0], plain=True)
        angle = math.radians(50)
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        grid = identity_grid(SIZES[0], torch.zeros(1))
        displacement = torch.einsum("ij,bjkl->bikl", turn, grid) - grid
        assert torch.allclose(held.placed(displacement).kept(displacement), displacement, atol=1e-3)

    def test_gradients_are_those_of_finite_differences(self) -> None:
        spatial = (7, 8)
        labels = torch.zeros(1, 1, *spatial)
        labels[..., 2:5, 2:6] = 1
        held = Bodies(labels, torch.zeros_like(labels), (True,), torch.ones(2).double(), torch.eye(2).double())
        displacement = smooth_displacement(spatial, peak=1.0).double().requires_grad_()
        placed = held.placed(displacement)
        assert torch.autograd.gradcheck(placed.kept, displacement)

    def test_single_nodes_and_what_is_turned_inside_out_stay_finite(self) -> None:
        spatial = (12, 14)
        labels = torch.zeros(1, 1, *spatial)
        labels[..., 3, 3], labels[..., 6:10, 6:10] = 1, 2
        held = Bodies(labels, torch.zeros_like(labels), (True, False), torch.ones(2), torch.eye(2))
        inverted = -2 * identity_grid(spatial, torch.zeros(1)) * torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
        kept = held.placed(inverted).kept(inverted)
        assert torch.isfinite(kept).all()
        assert torch.allclose(kept[..., 6:9, 6:9], kept[..., 7:10, 7:10], atol=1e-3)

    @sizes
    def test_pieces_of_the_moving_image_are_kept_where_it_has_them(self, spatial: tuple[int, ...]) -> None:
        held = bodies(spatial, on_fixed=False, plain=True)
        shift = torch.zeros(1, len(spatial), *spatial)
        shift[:, -1] = 3.0
        wavy = shift + smooth_displacement(spatial, peak=1.5)
        kept = held.settled(wavy)
        seen = warp(held.moving, kept, nearest=True)
        grid = identity_grid(spatial, kept)[0]
        for number in (1, 2):
            inside = seen[0, 0] == number
            assert inside.sum() > 50
            here, there = grid[:, inside].T, (grid + kept[0])[:, inside].T
            here, there = here - here.mean(0), there - there.mean(0)
            fitted = torch.linalg.lstsq(here, there).solution
            assert float((here @ fitted - there).abs().max()) < 1e-3
            assert torch.allclose(fitted @ fitted.T, torch.eye(len(spatial)), atol=1e-3)


class TestSurroundings:
    @sizes
    def test_what_is_around_pieces_follows_them_steadily(self, spatial: tuple[int, ...]) -> None:
        held = bodies(spatial, plain=True)
        field = smooth_displacement(spatial, peak=5.0, sigma=8.0)
        placed = held.placed(field)
        kept, eased = placed.kept(field), placed.eased(field)
        inside = (held.fixed > 0).expand_as(kept)
        assert torch.equal(eased[inside], kept[inside])
        changes = (kept - field, eased - field)
        steepest = [max(float(one.diff(dim=axis).abs().max()) for axis in range(2, one.ndim)) for one in changes]
        assert steepest[1] < 0.75 * steepest[0]

    @sizes
    def test_pieces_are_divided_by_where_most_of_them_lies(self, spatial: tuple[int, ...]) -> None:
        held = bodies(spatial)
        inside = torch.zeros(1, 1, *[2 * n for n in spatial])
        inside[..., : spatial[-1]] = 1
        within, others = held.placed(torch.zeros(1, len(spatial), *spatial)).divided(inside)
        assert torch.equal(within.labels, torch.where(held.fixed == 1, held.fixed, 0))
        assert torch.equal(others.labels, torch.where(held.fixed == 2, held.fixed, 0))


class TestRefinement:
    @staticmethod
    def turned(spatial: tuple[int, ...]) -> tuple[ImagePair, Tensor, Bodies]:
        """Return a pair in which both boxes turn, against each other, the true displacement, and the boxes."""
        held, grid = bodies(spatial, plain=True), identity_grid(spatial, torch.zeros(1))[0]
        total, weights = torch.zeros_like(grid), torch.zeros(spatial)
        for number, degrees in ((1, 7.0), (2, -7.0)):
            inside = held.fixed[0, 0] == number
            middle = grid[:, inside].mean(1).view(-1, *[1] * len(spatial))
            arms, angle = grid - middle, math.radians(degrees)
            turned = arms.clone()
            turned[0] = math.cos(angle) * arms[0] - math.sin(angle) * arms[-1]
            turned[-1] = math.sin(angle) * arms[0] + math.cos(angle) * arms[-1]
            weight = torch.exp(-((arms / 9).square().sum(0) ** 2))
            total, weights = total + weight * (turned - arms), weights + weight
        truth = (total / weights.clamp_min(1))[None]
        inverse = torch.zeros_like(truth)
        for _ in range(40):
            inverse = -warp(truth, inverse)
        waves = torch.stack([torch.sin(grid[axis] / (2.5 + axis)) for axis in range(len(spatial))]).prod(0)
        fixed = 0.4 + 0.15 * waves[None, None] + 0.4 * (held.fixed > 0)
        return ImagePair(fixed, warp(fixed, inverse)), truth, held

    @sizes
    def test_two_bones_turn_against_each_other_and_what_is_between_follows(self, spatial: tuple[int, ...]) -> None:
        pair, truth, held = self.turned(spatial)
        settings = usual_settings(len(spatial), "ncc", 30)
        free, kept = (
            refine(ImagePair(pair.fixed, pair.moving, bodies=one), torch.zeros_like(truth), settings)
            for one in (None, held)
        )
        inside = (held.fixed > 0)[0, 0]
        missed = [(found - truth)[0].square().sum(0).sqrt() for found in (free, kept)]
        assert missed[1][inside].mean() < missed[0][inside].mean()
        assert missed[1].mean() < 1.1 * missed[0].mean()
        assert all(rest < 1e-3 for _fitted, rest in linear_maps(held, kept))
        assert not folds(kept).any()
