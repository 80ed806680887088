"""Displacements that may jump along the boundary of a segment, but neither open nor overlap there.

One smooth field is looked for inside and one outside, each over the whole grid. The segment blends them, over a layer
of a few nodes: where their difference lies along the boundary, the Jacobian of the blend stays what it is without
(`det(I + J n^T) = 1 + J n`), so that a layer represents a jump without folds. What leads across it is penalised, and a
little the length of what leads along it, so that the fields agree where nothing slides. The fields are smooth, the
layer is what their sum gets wrong: they are blended on a grid finer than their own.

Source: two fields coupled along the normal, after Schmidt-Richberg et al. 2012; the layer is this project's choice.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..protocol.grid import FINER, SLIDING_NODES
from .losses import box_sum, mean_within
from .warp import resize, shrink

BLURS = 4  # of the mask, by windows of 3 nodes
WIDTH = 0.5  # of the step of the blurred mask, within which the jump happens
BEGIN = (1 - WIDTH) / 2  # of it, where nothing moves the layer
LAYER = 3  # nodes of that grid, within which more than nine tenths of the jump happen
SHORT = 0.1  # voxels: a jump along the boundary counts by its square up to here, then by its length
BLOCK = 4  # nodes, a few of which the layer takes to move
LEAST_SHARE = 0.02  # of smoothness, by which a field goes on where the other one is used


def both_sides(parts: Tensor) -> Tensor:
    """Return two fields `(2, nd, *any)`, for inside and for outside, from what they share and what they differ by.

    Descent in the latter finds motion that both share as fast as in one field, however strongly they are coupled.
    """
    shared, jump = parts.split(1)
    return torch.cat([shared + jump / 2, shared - jump / 2])


def finer_size(size: tuple[int, ...]) -> tuple[int, ...]:
    """Return the size of the grid on which fields are joined in the end, over a working grid.

    Examples:
        >>> finer_size((100, 80))
        (200, 160)
        >>> finer_size((200, 200, 200))
        (200, 200, 200)
    """
    factor = min(FINER, max(1.0, (SLIDING_NODES / math.prod(size)) ** (1 / len(size))))
    return tuple(int(factor * n) for n in size)


@dataclass(frozen=True)
class Sliding:
    """A segment along whose boundary the displacement may jump.

    Attributes:
        step: `(1, 1, *spatial)` in [0, 1], 1 inside, steadily down to 0 outside, on the grid on which the fields are
            joined in the end.
        begin: The same, at which value the layer begins.
    """

    step: Tensor
    begin: Tensor

    @classmethod
    def of(cls, mask: Tensor) -> "Sliding":
        """Return that of a mask `(1, 1, *spatial)` in [0, 1]."""
        counts = box_sum(torch.ones_like(mask), 3)
        for _blur in range(BLURS):
            mask = box_sum(mask, 3) / counts
        return cls(mask, torch.full_like(mask, BEGIN))

    def beside(self, labels: Tensor) -> "Sliding":
        """Return that whose layer leaves room for what moves as one piece, as far as it can be moved.

        It is moved along its own levels, steadily, so that what slides in it still slides along it.

        Args:
            labels: `(1, 1, *size)`, the number of each piece, from 1, at its nodes, else 0.
        """
        out, into = torch.zeros_like(self.step), torch.zeros_like(self.step)
        for number in range(1, int(labels.max()) + 1):
            piece = labels == number
            if piece.any() and self.inside[piece].mean() < 0.5:
                out = torch.where(piece, self.step, out)
            elif piece.any():
                into = torch.where(piece, 1 - self.step, into)
        moved = [(_spread(side) - BEGIN).clamp(0, BEGIN) for side in (out, into)]
        return Sliding(self.step, self.begin + moved[0] - moved[1])

    @cached_property
    def inside(self) -> Tensor:
        """How much of the field for inside counts, in [0, 1]."""
        return ((self.step - self.begin) / WIDTH).clamp(0, 1)

    @property
    def size(self) -> tuple[int, ...]:
        """Of the grid on which the fields are joined in the end."""
        return tuple(self.step.shape[2:])

    @cached_property
    def _sizes(self) -> dict[tuple[int, ...], Tensor]:
        return {}

    @cached_property
    def _normals(self) -> dict[tuple[int, ...], Tensor]:
        return {}

    def on(self, size: tuple[int, ...]) -> Tensor:
        """Return `inside` on another grid over the same field of view."""
        if size not in self._sizes:
            self._sizes[size] = shrink(self.inside, size)
        return self._sizes[size]

    def joined(self, fields: Tensor) -> Tensor:
        """Return the displacement `(1, nd, *any)` of two `(2, nd, *any)`, the one for inside and that for outside."""
        share = self.on(tuple(fields.shape[2:]))
        return share * fields[:1] + (1 - share) * fields[1:]

    def shares(self, size: tuple[int, ...]) -> Tensor:
        """Return how much of the smoothness of both fields counts where, `(2, 1, *size)`."""
        share = self.on(size)
        return torch.cat([share, 1 - share]).clamp_min(LEAST_SHARE)

    def apart(self, fields: Tensor) -> tuple[Tensor, Tensor]:
        """Return by how much two fields differ at the boundary, in voxels.

        Returns:
            The mean square of what leads across it, which opens or overlaps, and the mean length of what leads along.
        """
        normal, jump = self._normal(tuple(fields.shape[2:])), fields[0] - fields[1]
        weight = normal.square().sum(0)
        squared = (jump * normal).sum(0).square()  # of what leads across, times the weight
        along = (jump.square().sum(0) - squared / weight.clamp_min(1e-6)).clamp_min(0)
        length = (along + SHORT**2).sqrt() - SHORT
        total = weight.sum().clamp_min(1e-6)
        return squared.sum() / total, (weight * length).sum() / total

    def _normal(self, size: tuple[int, ...]) -> Tensor:
        """Return how the boundary faces on a grid, `(nd, *size)`, longest close to it."""
        if size not in self._normals:
            self._normals[size] = torch.stack(torch.gradient(shrink(self.step, size)[0, 0]))
        return self._normals[size]


def _spread(values: Tensor) -> Tensor:
    """Return values that change slowly from node to node and are nowhere below those given."""
    pool = F.max_pool2d if values.ndim == 4 else F.max_pool3d
    blocks = pool(pool(values, BLOCK, ceil_mode=True), 5, stride=1, padding=2)
    return resize(mean_within(blocks, 3), values.shape[2:])
