"""Smooths a displacement where it folds, and nowhere else."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .losses import box_sum, mean_within
from .warp import determinant, jacobian_determinant, resize_displacement

ROUNDS = 100
COARSEST = 8  # voxels along an axis
TILE = 16  # nodes along an axis, of which folds are smoothed together
REACH = 2  # voxels around a fold that are smoothed with it


def folds(displacement: Tensor) -> Tensor:
    """Return where a displacement folds, by forward, backward or central differences.

    Args:
        displacement: `(1, nd, *spatial)` in voxels.

    Returns:
        bool `(1, 1, *spatial)`.
    """
    axes = displacement.ndim - 2
    low, high = (jacobian_determinant(displacement, backward=backward) <= 0 for backward in (False, True))
    return central_folds(displacement) | (F.pad(low, [0, 1] * axes) | F.pad(high, [1, 0] * axes))[None]


def central_folds(displacement: Tensor) -> Tensor:
    """Return where a displacement folds by central differences, as users are told; arguments as of `folds`."""
    axes = range(2, displacement.ndim)
    return (determinant([torch.gradient(displacement, dim=axis)[0] for axis in axes]) <= 0)[None]


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
    folded = folds(displacement)
    if not folded.any():
        return displacement, True
    displacement = displacement.clone()
    for _round in range(ROUNDS):
        places = _neighborhoods(folded)
        for place, values in [(place, _mended(displacement, folded, place)) for place in places]:
            displacement[place.grown(0)] = values
        for place in places:
            found = folds(displacement[place.grown(2)])
            folded[place.grown(1)] = found[place.within(2, 1)]
        if not folded.any():
            return displacement, True
    return displacement, False


@dataclass(frozen=True)
class Neighborhood:
    """Some nodes of a grid, from `low` on up to `high`, which is left out, as far as the grid of `size` goes."""

    low: tuple[int, ...]
    high: tuple[int, ...]
    size: tuple[int, ...]

    def grown(self, by: int) -> tuple[slice, ...]:
        """Return the indices, in all channels, of it and what is around it by some nodes."""
        sides = zip(self.low, self.high, self.size, strict=True)
        return (slice(None), slice(None), *[slice(max(0, low - by), min(n, high + by)) for low, high, n in sides])

    def within(self, outer: int, inner: int) -> tuple[slice, ...]:
        """Return the indices of what it is when grown a little, in what it is when grown more."""
        pairs = zip(self.grown(outer)[2:], self.grown(inner)[2:], strict=True)
        return (slice(None), slice(None), *[slice(b.start - a.start, b.stop - a.start) for a, b in pairs])


def _neighborhoods(folded: Tensor) -> list[Neighborhood]:
    """Return parts of a grid that hold all folds and what is smoothed with them: most folds lie close together."""
    places = folded.nonzero()[:, 2:]
    size = tuple(folded.shape[2:])
    tiles, owner = (places // TILE).unique(dim=0, return_inverse=True)
    result = []
    for number in range(len(tiles)):
        own = places[owner == number]
        low, high = (side.tolist() for side in (own.amin(0) - REACH, own.amax(0) + REACH + 1))
        result.append(Neighborhood(tuple(low), tuple(high), size))
    return result


def _mended(displacement: Tensor, folded: Tensor, place: Neighborhood) -> Tensor:
    """Return a part of a displacement, smoothed near folds."""
    wide = displacement[place.grown(1)]
    mean = mean_within(wide, 3)
    near = box_sum(folded[place.grown(REACH)].to(wide), 2 * REACH + 1) > 0
    return torch.where(near[place.within(REACH, 0)], mean[place.within(1, 0)], displacement[place.grown(0)])
