"""A discrete search for large motions: every shift of blocks of descriptors within a quarter of the image is tried.

What is most alike is chosen block by block, under a coupling to the neighbours that grows step by step; then once more
closer to that, on a finer grid. Neither contrast nor a good start is needed.

Source: Heinrich et al. 2014 and Siebert et al. 2021 (coupled convex optimisation of a cost volume, ConvexAdam), on
MIND-SSC; grids, shifts and couplings are this project's choice.
"""

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .folds import unfolded
from .losses import mean_squared, mean_within
from .mind import mind_ssc
from .warp import resize, resize_displacement, shrink, warp

COUPLINGS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)  # mean squared descriptors that a squared voxel apart is worth
LEAST_BLOCKS = 4  # along an axis
MOSTLY = 0.99  # of a block, inside the image
BEYOND = 0.1  # of the way from the least to the mean cost of a block, the cost of a move from beyond the image


@dataclass(frozen=True)
class SearchLevel:
    """A grid, and the shifts that are tried on it.

    Attributes:
        edge: Voxels of the longest side.
        shifts: Tried to either side along each axis.
        step: Voxels from one to the next.
        block: Voxels along each axis that move alike.
    """

    edge: int
    shifts: int
    step: int
    block: int


LEVELS = (SearchLevel(48, 6, 2, 3), SearchLevel(96, 3, 1, 4))


@torch.no_grad()
def search_widely(fixed: Tensor, moving: Tensor, start: Tensor) -> Tensor:
    """Return a displacement `(1, nd, *spatial)` in voxels, `start` itself if nothing better is found.

    Args:
        fixed: `(1, 1, *spatial)` in [0, 1].
        moving: Same shape.
        start: `(1, nd, *spatial)` in voxels, to which motion is added.
    """
    spatial, found = fixed.shape[2:], start
    for level in LEVELS:
        blocks = [max(LEAST_BLOCKS, round(n * level.edge / max(spatial) / level.block)) for n in spatial]
        size = [level.block * count for count in blocks]
        features, image = mind_ssc(shrink(fixed, size)), shrink(moving, size)
        change = _most_alike(features, image, resize_displacement(found, size), level)
        change = resize_displacement(change, spatial)
        found = unfolded(change + warp(found, change))
    apart = [mean_squared(mind_ssc(warp(image, resize_displacement(one, size))), features) for one in (start, found)]
    return found if apart[1] < apart[0] else start


def _most_alike(fixed: Tensor, moving: Tensor, start: Tensor, level: SearchLevel) -> Tensor:
    """Return what to add before a displacement, `(1, nd, *size)` in voxels.

    Args:
        fixed: Descriptors `(1, C, *size)`.
        moving: The image `(1, 1, *size)`.
        start: `(1, nd, *size)` in voxels.
        level: What is tried.
    """
    axes, far = fixed.ndim - 2, level.shifts * level.step
    around = F.pad(mind_ssc(warp(moving, start)), [far] * 2 * axes, mode="replicate")
    inside = F.pad(torch.ones_like(moving), [far] * 2 * axes)
    pool = F.avg_pool2d if axes == 2 else F.avg_pool3d
    moves = list(itertools.product(range(-far, far + 1, level.step), repeat=axes))
    costs, known = [], []
    for move in moves:
        places = [slice(far + by, far + by + n) for by, n in zip(move, fixed.shape[2:], strict=True)]
        there = (slice(None), slice(None), *places)
        apart = (around[there] - fixed).square_().mean(1, keepdim=True)
        costs.append(pool(apart * inside[there], level.block)[0, 0])
        known.append(pool(inside[there], level.block)[0, 0])
    shares, found = torch.stack(known), torch.stack(costs)
    least = found.where(shares > MOSTLY, torch.inf).amin(0)
    usual = found.sum(0) / shares.sum(0)
    # What would come from beyond the image is worse than what fits and better than what does not: neighbours decide.
    found += least.minimum(usual).lerp(usual, BEYOND) * (1 - shares)
    chosen = _coupled(found, torch.tensor(moves, device=fixed.device, dtype=fixed.dtype))
    return resize(chosen, fixed.shape[2:])


def _coupled(costs: Tensor, moves: Tensor) -> Tensor:
    """Return a smooth choice `(1, nd, *blocks)` of moves `(K, nd)`, of which each block has costs `(K, *blocks)`."""
    blocks, flat, lengths = costs.shape[1:], costs.flatten(1), moves.square().sum(1, keepdim=True)
    chosen = moves[flat.argmin(0)]
    for coupling in COUPLINGS:
        around = _smoothed(chosen, blocks).flatten(2)[0]
        # Of |move - around|^2 what is the same for all moves is left out.
        total = torch.addmm(flat + coupling * lengths, moves, around, alpha=-2 * coupling)
        chosen = moves[total.argmin(0)]
    return _smoothed(chosen, blocks)


def _smoothed(chosen: Tensor, blocks: torch.Size) -> Tensor:
    """Return moves `(N, nd)` of blocks as means over their neighbours, `(1, nd, *blocks)`."""
    field = chosen.T.reshape(1, -1, *blocks).contiguous()
    return mean_within(field, 3)
