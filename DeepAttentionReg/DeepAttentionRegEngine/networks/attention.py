"""Mutual attention between the feature maps of two images."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..deform.warp import identity_grid
from .base import CrossAttention, Evidence
from .blocks import CONVOLUTIONS, InstanceNorm

WAVELENGTHS = (2.0, 1.0, 0.5)  # of the reference extent


def position_code(spatial: tuple[int, ...], stride: int, extent: float, like: Tensor) -> Tensor:
    """Return sines and cosines of the position relative to the grid's centre.

    Args:
        spatial: Size of the feature map.
        stride: Working-grid voxels per feature voxel.
        extent: Reference length in working-grid voxels; wavelengths are 2, 1 and 1/2 of it. Positions are lengths, not
            fractions of the image, so a crop of the same anatomy keeps the same code scale.
        like: Gives device and dtype.

    Returns:
        `(1, 6 * nd, *spatial)`.
    """
    grid = identity_grid(spatial, like)
    center = torch.tensor([(n - 1) / 2 for n in spatial], device=like.device, dtype=like.dtype)
    position = (grid - center.view(1, -1, *[1] * len(spatial))) * stride
    phases = [2 * math.pi * position / (wavelength * extent) for wavelength in WAVELENGTHS]
    return torch.cat([wave for phase in phases for wave in (phase.sin(), phase.cos())], 1)


class MutualAttention(nn.Module):
    """Cross-attention in both directions at once with the same weights.

    `B' = B + g Wo softmax(Q_B K_A^T / sqrt(d)) V_A` and the mirror for A, both from the un-updated inputs.
    Source: the idea of mutual non-local links (D-net, Zheng et al. 2021) with scaled dot-product attention; the paper's
    own formula is not public.
    """

    def __init__(
        self,
        nd: int,
        channels: int,
        *,
        level: int,
        heads: int = 1,
        tied: bool = False,
        extent: float = 64.0,
        position: bool = True,
    ) -> None:
        super().__init__()
        self.level, self.heads, self.extent = level, heads, extent
        dimension = max(16, channels // 2)
        layer = CONVOLUTIONS[nd]
        self.norm = InstanceNorm(channels)
        self.query = layer(channels, dimension, 1)
        self.key = self.query if tied else layer(channels, dimension, 1)
        self.value = layer(channels, dimension, 1)
        self.output = layer(dimension, channels, 1)
        self.position = layer(6 * nd, channels, 1, bias=False) if position else None
        self.gain = nn.Parameter(torch.tensor(0.1))

    def forward(self, a: Tensor, b: Tensor, evidence: Evidence | None = None) -> tuple[Tensor, Tensor]:
        """Exchange context between two feature maps and return both updated.

        Args:
            a: `(B, C, *spatial)`, of the warped moving image, pooled `level` times.
            b: The same of the fixed image.
            evidence: Add to it what `b` looked at in `a`; needs B = 1.
        """
        (query_a, key_a), (query_b, key_b) = self._asked(a), self._asked(b)
        if evidence is not None:
            size, stride = tuple(b.shape[2:]), float(2**self.level)
            evidence.attention.append(
                CrossAttention(f"level {self.level}", query_b[0], key_a[0], size, size, stride, stride)
            )
        return a + self.gain * self._read(query_a, key_b, b), b + self.gain * self._read(query_b, key_a, a)

    def weights(self, asking: Tensor, asked: Tensor) -> Tensor:
        """Return the attention rows `(B, heads, n, n)`: what each voxel of `asking` looks at in `asked`."""
        query, key = self._asked(asking)[0], self._asked(asked)[1]
        return torch.softmax(query @ key.transpose(2, 3) / math.sqrt(query.shape[-1]), -1)

    def _asked(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries and keys, `(B, heads, n, d)` each."""
        coded = self.norm(features)
        if self.position is not None:
            code = position_code(tuple(features.shape[2:]), 2**self.level, self.extent, features)
            coded = coded + self.position(code)
        return self._tokens(self.query(coded)), self._tokens(self.key(coded))

    def _tokens(self, maps: Tensor) -> Tensor:
        # Contiguous tokens let PyTorch choose a kernel that never holds the n x n matrix.
        return maps.flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3).contiguous()

    def _read(self, query: Tensor, key: Tensor, features: Tensor) -> Tensor:
        read = F.scaled_dot_product_attention(query, key, self._tokens(self.value(features)))
        return self.output(read.transpose(2, 3).flatten(1, 2).unflatten(2, features.shape[2:]))
