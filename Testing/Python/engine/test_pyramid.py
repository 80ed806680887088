"""Recursions on grids from coarse to fine: what they come to together, and how far they reach."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch import Tensor

from DeepAttentionRegEngine import Settings, register
from DeepAttentionRegEngine.networks.base import AttentionMap, CrossAttention, Evidence, ImagePair, StepNetwork
from DeepAttentionRegEngine.phantom import thorax
from DeepAttentionRegEngine.protocol.grid import pyramid_factors
from DeepAttentionRegEngine.protocol.registry import Variant, load_method
from DeepAttentionRegEngine.registration.pyramid import climb, grid_size
from DeepAttentionRegEngine.volume.geometry import Geometry
from engine_cases import smooth_noise

pytestmark = pytest.mark.torch

SIZES = ((64, 80), (64, 72, 80))
sizes = pytest.mark.parametrize("spatial", SIZES, ids=["2d", "3d"])


class Pusher(StepNetwork):
    """Moves everything by so many voxels of its grid along the first axis, and attends to something."""

    minimum_size = 4

    def __init__(self, *voxels: float) -> None:
        super().__init__()
        self.voxels = list(voxels)

    def forward(self, warped: Tensor, fixed: Tensor, evidence: Evidence | None = None) -> Tensor:
        if evidence is not None:
            evidence.maps.append(AttentionMap("map", "fixed", fixed))
            token = torch.zeros(1, 1, 1)
            evidence.attention.append(CrossAttention("level", token, token, (1, 1), (1, 1), 1.0, 1.0))
        field = warped.new_zeros(1, fixed.ndim - 2, *fixed.shape[2:])
        field[:, 0] = self.voxels.pop(0)
        return field


def pair_of(spatial: tuple[int, ...]) -> ImagePair:
    return ImagePair(smooth_noise(spatial, seed=1, sigma=3.0), smooth_noise(spatial, seed=2, sigma=3.0))


class TestFactors:
    def test_the_last_recursion_is_on_the_own_grid_and_the_coarsest_are_left_out_first(self) -> None:
        found = [pyramid_factors((4, 2), count) for count in (1, 2, 3, 5)]
        assert found == [[1], [2, 1], [4, 2, 1], [4, 2, 1, 1, 1]]
        assert pyramid_factors((), 3) == [1, 1, 1]

    @pytest.mark.parametrize("wrong", [(2, 4), (2, 1), (0,)])
    def test_what_is_no_pyramid_is_refused(self, wrong: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="coarse to fine"):
            Variant(None, 3, {}, None, {}, pyramid=wrong)

    def test_networks_that_see_structures_have_none(self) -> None:
        with pytest.raises(ValueError, match="whole images"):
            Variant(None, 3, {}, None, {}, structures=("Liver",), pyramid=(2,))

    def test_grids_have_no_axis_too_short_and_are_worth_it(self) -> None:
        assert grid_size((128, 96, 64), 2, 32) == (64, 48, 32)
        assert grid_size((128, 96, 20), 4, 32) == (32, 32, 20)
        assert grid_size((36, 40, 33), 4, 32) == (36, 40, 33)


class TestClimb:
    @sizes
    def test_on_its_own_grid_alone_it_is_the_network(self, spatial: tuple[int, ...]) -> None:
        pair = pair_of(spatial)
        states = list(climb(Pusher(1.0, 2.0), pair, [spatial] * 2))
        plain = list(Pusher(1.0, 2.0).recurse(pair, 2))
        for one, other in zip(states, plain, strict=True):
            assert torch.equal(one.displacement, other.displacement)
            assert torch.equal(one.warped, other.warped)

    @sizes
    def test_a_voxel_of_a_coarse_grid_is_several_of_the_own(self, spatial: tuple[int, ...]) -> None:
        pair = pair_of(spatial)
        half, quarter = (tuple(n // factor for n in spatial) for factor in (2, 4))
        states = list(climb(Pusher(1.0, 0.5, 0.5, 1.0), pair, [quarter, half, half, spatial]))
        inner = (0, 0, *[slice(16, -16)] * len(spatial))
        means = [float(state.displacement[inner].mean()) for state in states]
        assert means == pytest.approx([4.0, 5.0, 6.0, 7.0], abs=1e-4)
        for state in states:
            assert state.displacement.shape[2:] == state.increment.shape[2:] == state.warped.shape[2:] == spatial
        shifted = torch.roll(pair.moving, -7, 2)
        assert torch.allclose(states[-1].warped[inner], shifted[inner], atol=1e-4)

    @sizes
    def test_of_coarse_grids_only_maps_are_kept(self, spatial: tuple[int, ...]) -> None:
        half = tuple(n // 2 for n in spatial)
        coarse, fine = climb(Pusher(1.0, 1.0), pair_of(spatial), [half, spatial], attend=True)
        assert (len(coarse.evidence.maps), len(coarse.evidence.attention)) == (1, 0)
        assert (len(fine.evidence.maps), len(fine.evidence.attention)) == (1, 1)


@pytest.mark.parametrize(("method", "usual"), [("rman", 6), ("adregnet", 4)])
def test_general_weights_reach_a_seventh_of_the_field_of_view(method: str, usual: int) -> None:
    pair = thorax.make_phantom(thorax.default_geometry((64, 54, 64), (5.25, 4.44, 5.25)))
    moving, away = pair.moving_geometry, np.array([0.0, 0.0, 48.0])
    there = Geometry.from_arrays(moving.size, moving.spacing, np.add(moving.origin, away), moving.direction)
    settings = Settings(method=method, alignment="none", refinement_steps=0, device="cpu")
    found = register((pair.fixed, pair.fixed_geometry), (pair.moving, there), settings)
    missed = pair.fixed_points_lps + found.deformation.at(pair.fixed_points_lps) - pair.moving_points_lps - away
    assert np.linalg.norm(missed, axis=1).mean() < 6.0
    assert found.measures["recursions"] == usual


def test_general_weights_climb() -> None:
    variants = [one for method in ("rman", "adregnet") for one in load_method(method).variants]
    climbing = {one.weights: one.pyramid for one in variants if one.pyramid}
    assert climbing == {"rman-general": (4, 4, 2), "rman-general-2d": (4, 4, 2), "adregnet-general": (4, 2)}
