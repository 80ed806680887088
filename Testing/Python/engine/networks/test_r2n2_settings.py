"""R2N2's presets, and what its settings promise of a sequence: compactness, level sizes, ranges of the numbers."""

import math
from dataclasses import asdict

import pytest
import torch

from DeepAttentionRegEngine.deform.gaussians import Gaussians, numbers_each
from DeepAttentionRegEngine.deform.warp import jacobian_determinant
from DeepAttentionRegEngine.networks import build
from DeepAttentionRegEngine.networks.bspline import Bspline, BsplineSettings
from DeepAttentionRegEngine.networks.r2n2 import PRESETS, R2n2
from engine_cases import count_weights
from r2n2_cases import image_pair, make_network, states

pytestmark = pytest.mark.torch


def first_step(nd: int, **arguments: object) -> Gaussians:
    """Return what a network of wild weights proposes first."""
    network = make_network(nd, awake=30.0, gaussians=8, **arguments)
    return states(network, image_pair((24,) * nd), 1, attend=True)[0].evidence.gaussians


class TestPresets:
    @pytest.mark.parametrize("preset", PRESETS)
    def test_plain_arguments_make_them(self, preset: str) -> None:
        plain = {name: [*v] if isinstance(v, tuple) else v for name, v in asdict(PRESETS[preset]).items()}
        assert build("r2n2", plain).settings == PRESETS[preset]

    def test_number_of_weights_of_the_light_volume_network(self) -> None:
        assert count_weights(R2n2(PRESETS["lite3d"])) == 2_164_492


class TestSequence:
    @pytest.mark.parametrize(("nd", "gaussians", "numbers"), [(2, 1, 175), (3, 1, 300), (3, 4, 1200)])
    def test_is_far_smaller_than_the_splines(self, nd: int, gaussians: int, numbers: int) -> None:
        found = states(make_network(nd, gaussians=gaussians), image_pair((16,) * nd), 25, attend=True)
        steps = [state.evidence.gaussians for state in found]
        assert sum(step.center.shape[1] for step in steps) * numbers_each(nd) == numbers
        spline = Bspline(BsplineSettings(nd=nd)).control_values((256, 256) if nd == 2 else (192, 192, 208))
        assert numbers < 0.06 * spline

    @pytest.mark.parametrize(("reduction", "first"), [(1, (24, 25, 27)), (2, (12, 13, 14))])
    def test_levels_of_an_odd_volume_round_up(self, reduction: int, first: tuple[int, ...]) -> None:
        (state,) = states(make_network(3, reduction=reduction), image_pair((47, 49, 53)), 1, attend=True)
        sizes = [tuple(found.values.shape[2:]) for found in state.evidence.maps]
        assert sizes == [first, *(tuple(math.ceil(n / 2**level) for n in first) for level in (1, 2))]
        assert state.displacement.shape == (1, 3, 47, 49, 53)

    def test_composition_keeps_from_the_folds_of_the_sum(self) -> None:
        least = [
            float(
                jacobian_determinant(
                    states(make_network(2, awake=3.0, mode=mode), image_pair((64, 64)), 1)[-1].displacement
                ).min()
            )
            for mode in ("sum", "compose")
        ]
        assert least[0] < 0 < least[1]


class TestRanges:
    @pytest.mark.parametrize("nd", [2, 3])
    def test_published_numbers_keep_to_theirs(self, nd: int) -> None:
        step = first_step(nd)
        assert 0 < float(step.sigma.min()) <= float(step.sigma.max()) <= 0.25 + 1e-3
        assert float(step.vector.abs().max()) <= 1
        torch.testing.assert_close(step.rotation @ step.rotation.mT, torch.eye(nd).expand_as(step.rotation))

    def test_volumes_turn_by_120_degrees_at_most(self) -> None:
        cosine = (first_step(3).rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
        assert float(cosine.min()) >= math.cos(2 * math.pi / 3) - 1e-5

    @pytest.mark.parametrize("nd", [2, 3])
    def test_joint_slopes_add_up_to_kappa_at_most(self, nd: int) -> None:
        step = first_step(nd, mode="joint", kappa=0.7)
        slopes = step.vector.norm(dim=-1) / step.sigma.amin(-1) * math.exp(-0.5)
        assert float(slopes.sum()) <= 0.7 + 1e-5

    def test_composed_gaussians_are_wider_than_voxels(self) -> None:
        found = first_step(2, mode="compose")
        assert float(found.sigma.min()) * 12 >= 2 - 1e-4  # half of 24 voxels
