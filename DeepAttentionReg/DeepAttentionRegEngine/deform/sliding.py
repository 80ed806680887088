"""Displacements that may jump along the boundary of a segment, but neither open nor overlap there.

One smooth field is looked for inside and one outside, each over the whole grid. The segment blends them, over a layer
of a few voxels: where their difference lies along the boundary, the Jacobian of the blend stays what it is without
(`det(I + J n^T) = 1 + J n`), so that a layer represents a jump without folds. What leads across it is penalised.

Source: two fields coupled along the normal, after Schmidt-Richberg et al. 2012; the layer is this project's choice.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .losses import box_sum
from .warp import shrink

BLURS = 3  # by windows of 3 voxels: nine tenths of the jump then happen within 4.6 voxels
LAYER = 4.6  # voxels
LEAST_SHARE = 0.1  # of smoothness, by which a field goes on where the other one is used


@dataclass(frozen=True)
class Sliding:
    """A segment along whose boundary the displacement may jump.

    Attributes:
        inside: `(1, 1, *spatial)` in [0, 1], 1 inside, steadily down to 0 outside.
    """

    inside: Tensor

    @classmethod
    def of(cls, mask: Tensor) -> "Sliding":
        """Return that of a mask `(1, 1, *spatial)` in [0, 1]."""
        counts = box_sum(torch.ones_like(mask), 3)
        for _blur in range(BLURS):
            mask = box_sum(mask, 3) / counts
        return cls(mask)

    @cached_property
    def _sizes(self) -> dict[tuple[int, ...], Tensor]:
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

    def gap(self, fields: Tensor) -> Tensor:
        """Return the mean square, in voxels, of what two fields differ by across the boundary."""
        share = self.on(tuple(fields.shape[2:]))[0, 0]
        normal = torch.stack(torch.gradient(share))
        across = ((fields[0] - fields[1]) * normal).sum(0)
        return across.square().sum() / normal.square().sum().clamp_min(1e-6)
