"""Smooths a displacement where it folds, and nowhere else."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .losses import box_sum
from .warp import determinant, jacobian_determinant, resize_displacement

ROUNDS = 100
COARSEST = 8  # voxels along an axis
REACH = 2  # voxels around a fold that are smoothed with it


def folds(displacement: Tensor) -> Tensor:
    """Return where a displacement folds, by forward, backward or central differences.

    Args:
        displacement: `(1, nd, *spatial)` in voxels.

    Returns:
        bool `(1, 1, *spatial)`.
    """
    axes = range(2, displacement.ndim)
    central = determinant([torch.gradient(displacement, dim=axis)[0] for axis in axes]) <= 0
    low, high = (jacobian_determinant(displacement, backward=backward) <= 0 for backward in (False, True))
    return (central | F.pad(low, [0, 1] * len(axes)) | F.pad(high, [1, 0] * len(axes)))[None]


@torch.no_grad()
def unfolded(displacement: Tensor) -> Tensor:
    """Return a displacement `(1, nd, *spatial)` smoothed around its folds until none is left; itself if none is.

    Wide ones, which smoothing from voxel to voxel would take too long for, are smoothed on a coarser grid.
    """
    found, is_clean = _smoothed(displacement)
    half = [n // 2 for n in displacement.shape[2:]]
    if is_clean or min(half) < COARSEST:
        return found
    coarse = resize_displacement(found, half)
    return _smoothed(found + resize_displacement(unfolded(coarse) - coarse, found.shape[2:]))[0]


def _smoothed(displacement: Tensor) -> tuple[Tensor, bool]:
    """Return a displacement smoothed around its folds, and whether none is left."""
    for _round in range(ROUNDS):
        folded = folds(displacement)
        if not folded.any():
            return displacement, True
        around = _around(folded)
        part = displacement[around]
        near = box_sum(folded[around].to(part), 2 * REACH + 1) > 0
        mean = box_sum(part, 3) / box_sum(torch.ones_like(part[:, :1]), 3)
        displacement = displacement.clone()
        displacement[around] = torch.where(near, mean, part)
    return displacement, not folds(displacement).any()


def _around(folded: Tensor) -> tuple[slice, ...]:
    """Return the smallest part of a grid that holds all that is smoothed, and what that is smoothed with."""
    places = folded.nonzero()
    low, high = places.amin(0) - REACH - 1, places.amax(0) + REACH + 2
    return (slice(None), slice(None), *[slice(max(0, int(a)), int(b)) for a, b in zip(low[2:], high[2:], strict=True)])
