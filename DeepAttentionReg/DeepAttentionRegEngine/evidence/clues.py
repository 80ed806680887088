"""What a registration has anyway that says how far it is off: how alike the images are now, how clear they are, where
a small further move would fit better, and how the deformation looks. All lengths are in voxels of one small grid, so
that what is learned of it holds for any size of image.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from ..deform.losses import NCC_EPSILON, LocalNcc, box_mean, box_sum
from ..deform.mind import mind_ssc
from ..deform.warp import determinant, resize, resize_displacement, shrink, warp
from ..registration.preprocess import WorkingPair
from ..volume.geometry import Geometry

MOST_VOXELS = {2: 128**2, 3: 50**3}  # of the grid, by the number of its axes
WINDOWS = (5, 11)  # of the correlation, in voxels
WIDE = 9  # voxels over which every clue is also averaged
ALIKE = 3  # clues, the first ones, that say how alike the images are
SCALES = (1, 2, 4)  # voxels that a step of the searches for a further move has
STIFF = 0.02  # of images of unit variance: what keeps steps short where nothing is clear
SHARPNESS = 0.05  # mean squared descriptors by which a move must fit better to be e times as likely


@dataclass(frozen=True)
class Clues:
    """What speaks for and against a deformation, on a grid over the field of view of the working grid.

    Attributes:
        values: `(C, *spatial)`, finite.
        means: `(M,)`, of the first M of them over what is seen.
        seen: `(*spatial)`: where both images are known and the fixed one shows something.
        geometry: The grid, isotropic.
    """

    values: Tensor
    means: Tensor
    seen: Tensor
    geometry: Geometry

    @property
    def voxel_mm(self) -> float:
        """Edge of a voxel of the grid in mm."""
        return self.geometry.spacing[0]


@torch.no_grad()
def gather(pair: WorkingPair, displacement: Tensor) -> Clues:
    """Return the clues of a deformation.

    Args:
        pair: On the working grid.
        displacement: `(1, nd, *any)` in voxels of a grid over the field of view of the working grid.
    """
    spatial = pair.fixed.shape[2:]
    warped = warp(pair.moving, resize_displacement(displacement, spatial))
    size = small_size(tuple(spatial))
    fixed, warped, weight = (shrink(image, size) for image in (pair.fixed, warped, pair.weight))
    field = resize_displacement(displacement, size)
    own = torch.cat([*_likeness(fixed, warped), *_moves(fixed, warped), *_clarity(fixed, warped), *_shape(field)], 1)
    seen = (weight > 0.5) & (LocalNcc(fixed, WIDE).variance > 2 * NCC_EPSILON)
    share = seen.float()
    around = box_sum(own * share, WIDE) / box_sum(share, WIDE).clamp_min(1)
    count = share.sum().clamp_min(1)
    whole = (own * share).flatten(2).sum(2) / count
    inside = box_mean(weight, WIDE)
    values = torch.cat([own, around, whole.view(1, -1, *[1] * len(size)).expand_as(own), inside], 1)
    return Clues(values[0], whole[0], seen[0, 0], pair.grid_of(field))


def small_size(spatial: tuple[int, ...], most: Mapping[int, int] | None = None) -> tuple[int, ...]:
    """Return the size of a grid over a working grid, that of the clues or one with other limits by axes."""
    factor = max(1.0, (math.prod(spatial) / (most or MOST_VOXELS)[len(spatial)]) ** (1 / len(spatial)))
    return tuple(max(1, round(n / factor)) for n in spatial)


def _likeness(fixed: Tensor, warped: Tensor) -> Iterator[Tensor]:
    """Yield the local correlation over windows, in [-1, 1], and the difference of the images."""
    for window in WINDOWS:
        known = LocalNcc(fixed, window)
        mean, variance = known.statistics(warped)
        shared = box_sum(fixed * warped, window) * known.inside - known.mean * mean
        yield shared / (known.variance * variance).sqrt()
    yield (fixed - warped).abs()


def _moves(fixed: Tensor, warped: Tensor) -> Iterator[Tensor]:
    """Yield, of each scale, where descriptors would fit better, what that gains, and what it costs to move at all."""
    size = tuple(fixed.shape[2:])
    for scale in SCALES:
        coarse = tuple(max(min(n, 4), round(n / scale)) for n in size)
        here, there = (mind_ssc(shrink(image, coarse)) for image in (fixed, warped))
        moves = list(product(range(-2, 3) if scale > 1 else (-1, 0, 1), repeat=len(size)))
        padded = F.pad(there, [2] * 2 * len(size), mode="replicate")
        costs = []
        for move in moves:
            shifted = padded
            for axis, (by, n) in enumerate(zip(move, coarse, strict=True), start=2):
                shifted = shifted.narrow(axis, 2 + by, n)
            costs.append(box_mean((shifted - here).square_().mean(1, keepdim=True), 3))
        found = _weighed(torch.cat(costs, 1), torch.tensor(moves).to(fixed), scale)
        yield from (resize(part, size) for part in found)


def _weighed(cost: Tensor, moves: Tensor, scale: int) -> Iterator[Tensor]:
    """Yield what costs `(1, K, *spatial)` of moves `(K, nd)`, the middle one of which is none, say; in voxels."""
    likely, still = torch.softmax(-cost / SHARPNESS, 1), cost[:, len(moves) // 2, None]
    mean = torch.einsum("bk...,kd->bd...", likely, moves)
    length = mean.square().sum(1, keepdim=True)
    squares = torch.einsum("bk...,k->b...", likely, moves.square().sum(1))[:, None]
    beside = moves.square().sum(1) == 1
    yield scale * length.sqrt()
    yield scale * (squares - length).clamp_min(0).sqrt()
    yield scale * moves[cost.argmin(1)].norm(dim=-1)[:, None]
    yield still.sqrt()
    yield (still - cost.amin(1, keepdim=True)).sqrt()
    yield cost.mean(1, keepdim=True) - still
    yield cost[:, beside].amin(1, keepdim=True) - still


def _clarity(fixed: Tensor, warped: Tensor) -> Iterator[Tensor]:
    """Yield how much there is to see, in all and in the least clear direction, and how long a Lucas-Kanade step is."""
    for image in (fixed, warped):
        yield LocalNcc(image, 5).variance.log()
    flat = [LocalNcc(image, WIDE).normal for image in (fixed, warped)]
    slopes = [_slope(flat[0], axis) for axis in range(2, fixed.ndim)]
    rows = [torch.stack([box_mean(a * b, 5)[0, 0] for b in slopes], -1) for a in slopes]
    tensor = torch.stack(rows, -1)
    pull = torch.stack([box_mean(slope * (flat[0] - flat[1]), 5)[0, 0] for slope in slopes], -1)
    # Graphics cards refuse so many small matrices at once, and the processor takes a tenth of a second.
    values, vectors = (part.to(tensor) for part in torch.linalg.eigh(tensor.cpu()))
    along = (vectors * pull[..., None]).sum(-2) / (values + STIFF)
    yield (values[..., 0].clamp_min(0) + 1e-4).log()[None, None]
    yield (values[..., -1].clamp_min(0) + 1e-4).log()[None, None]
    yield along.norm(dim=-1)[None, None]


def _slope(image: Tensor, axis: int) -> Tensor:
    """Return central differences along an axis, those of the edge repeated."""
    size = image.shape[axis]
    if size < 3:
        return torch.zeros_like(image)
    inner = (image.narrow(axis, 2, size - 2) - image.narrow(axis, 0, size - 2)) / 2
    return torch.cat([inner.narrow(axis, 0, 1), inner, inner.narrow(axis, size - 3, 1)], axis)


def _shape(field: Tensor) -> Iterator[Tensor]:
    """Yield how far the deformation moves, how much it strains, and by how much it changes volume."""
    yield field.norm(dim=1, keepdim=True)
    slopes = [_slope(field, axis) for axis in range(2, field.ndim)]
    yield torch.stack([slope.square().sum(1, keepdim=True) for slope in slopes]).sum(0).sqrt()
    yield determinant(slopes)[:, None].clamp_min(0.05).log()
