"""Folds are found by every difference that users or solvers take, and smoothed away without touching the rest."""

import pytest
import torch

from DeepAttentionRegEngine.deform.folds import REACH, folds, unfolded
from engine_cases import smooth_displacement

pytestmark = pytest.mark.torch

sizes = pytest.mark.parametrize("spatial", [(24, 28), (14, 16, 15)], ids=["2d", "3d"])


def folded(spatial: tuple[int, ...]) -> torch.Tensor:
    """Return a smooth displacement with a voxel in the middle that leaps over its neighbours."""
    field = smooth_displacement(spatial, peak=1.0, seed=3, sigma=5.0)
    field[(0, 0, *[n // 2 for n in spatial])] += 4.0
    return field


@sizes
def test_a_leap_is_a_fold(spatial: tuple[int, ...]) -> None:
    found = folds(folded(spatial))
    assert found.shape == (1, 1, *spatial)
    assert found[(0, 0, *[n // 2 for n in spatial])]
    assert not folds(smooth_displacement(spatial, peak=1.0, seed=3, sigma=5.0)).any()


@sizes
def test_folds_at_either_end_are_found(spatial: tuple[int, ...]) -> None:
    for end, sign in ((0, 1.0), (-1, -1.0)):
        field = torch.zeros(1, len(spatial), *spatial)
        field[:, 0, end] = 2.0 * sign
        assert folds(field)[0, 0, end].all()
        assert not folds(unfolded(field)).any()


@sizes
def test_nothing_folds_afterwards_and_the_rest_stays(spatial: tuple[int, ...]) -> None:
    field = folded(spatial)
    mended = unfolded(field)
    assert not folds(mended).any()
    changed = (mended != field).any(1)[0].nonzero()
    middle = torch.tensor([n // 2 for n in spatial])
    assert 0 < int((changed - middle).abs().max()) <= 2 * REACH + 2


@sizes
def test_what_does_not_fold_is_returned_itself(spatial: tuple[int, ...]) -> None:
    field = smooth_displacement(spatial, peak=1.0, seed=3, sigma=5.0)
    assert unfolded(field) is field


def test_a_field_that_folds_everywhere_is_smoothed_to_none() -> None:
    noise = 3 * torch.randn(1, 2, 20, 20, generator=torch.Generator().manual_seed(0))
    assert not folds(unfolded(noise)).any()


def test_wide_folds_are_smoothed_too() -> None:
    folded = torch.zeros(1, 2, 80, 60)
    folded[:, 0] = torch.linspace(20, -20, 80).mul(3).clamp(-20, 20).view(1, 80, 1)  # 27 rows fold onto each other
    assert folds(folded).any()
    assert not folds(unfolded(folded)).any()


def test_folds_far_apart_are_smoothed_as_each_alone() -> None:
    spatial = (70, 66)
    field = smooth_displacement(spatial, peak=1.0, seed=3, sigma=5.0)
    places = ((16, 15), (17, 49), (50, 48))  # the first two at the seam of parts that are smoothed together
    apart = []
    for row, column in places:
        single = field.clone()
        single[0, 0, row, column] += 4.0
        apart.append(unfolded(single) - field)
    for row, column in places:
        field[0, 0, row, column] += 4.0
    smooth = smooth_displacement(spatial, peak=1.0, seed=3, sigma=5.0)
    assert torch.allclose(unfolded(field), smooth + torch.stack(apart).sum(0), atol=1e-5)
