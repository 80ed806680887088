"""Cross-attention between the feature maps of two images, both ways at once, and the motion that it implies.

Both modules map `(a, b)`, each `(B, C, *spatial)` of the moving and the fixed image, to the updated pair and a motion
token: the expected displacement from each place of b to its matches in a, in voxels of the map. Both directions share
their weights and read the inputs as they came, so swapped inputs give swapped outputs.

Source: the idea of bidirectional cross-attention of AD-RegNet (Iqbal et al., arXiv 2602.07088), whose operators are
not public; expected offsets as in ModeT (Wang et al. 2023), pooled keys as in PVT (Wang et al. 2021), gains of the
residual branches as in LayerScale (Touvron et al. 2021).
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..deform.warp import identity_grid
from .base import CrossAttention
from .blocks import CONVOLUTIONS

GAIN = 0.1  # of a residual branch at the start
LONGEST_PERIOD = 100.0  # of the position code, in units of its shortest


def sinusoidal_code(positions: Tensor, channels: int) -> Tensor:
    """Return sines and cosines of voxel positions along each axis.

    Args:
        positions: `(1, nd, *spatial)` in voxels.
        channels: Of the code; C // (2 nd) frequencies per axis, zeros in what remains.

    Returns:
        `(1, n, channels)`, n tokens in C order.
    """
    nd = positions.shape[1]
    count = channels // (2 * nd)
    exponent = torch.arange(count, device=positions.device, dtype=positions.dtype) / max(count, 1)
    phase = positions.flatten(2)[:, :, :, None] * LONGEST_PERIOD**-exponent
    code = torch.cat([phase.sin(), phase.cos()], -1).transpose(1, 2).flatten(2)
    return F.pad(code, (0, channels - code.shape[-1]))


def at_least_single(maps: Tensor) -> Tensor:
    """Return maps in single precision, or in double where they are: for what half precision cannot hold."""
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


def _tokens(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)


class GlobalAttention(nn.Module):
    """Every place of one image looks at every place of the other, whose keys are pooled to a bounded number.

    `x' = x + g1 Wo softmax(Q K^T / sqrt(d)) V`, `x'' = x' + g2 FFN(LN x')`; a position code is added to Q and K only.
    The positions of the keys are further value channels: what is read of them, less the query's own position and
    averaged over the heads, is the motion token, nd channels.
    """

    def __init__(self, nd: int, channels: int, *, heads: int = 4, most_keys: int = 2048) -> None:
        super().__init__()
        self.heads, self.most_keys, self.motion_channels = heads, most_keys, nd
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.output = nn.Linear(channels, channels)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels)
        )
        self.gains = nn.Parameter(torch.full((2, channels), GAIN))
        # Equal at the start and of unit gain, so that attention starts as a comparison of features and positions.
        nn.init.orthogonal_(self.query.weight)
        self.key.weight.data.copy_(self.query.weight.data)

    def pooling(self, spatial: tuple[int, ...]) -> int:
        """Return the smallest edge of pooled blocks that leaves at most `most_keys` of them."""
        edge = 1
        while math.prod(math.ceil(n / edge) for n in spatial) > self.most_keys:
            edge += 1
        return edge

    def _pool(self, maps: Tensor) -> Tensor:
        edge = self.pooling(tuple(maps.shape[2:]))
        if edge == 1:
            return maps
        pool = F.avg_pool2d if maps.ndim == 4 else F.avg_pool3d
        return pool(maps, edge, ceil_mode=True)

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _query(self, maps: Tensor, positions: Tensor) -> Tensor:
        return self._split(self.query(self.norm(_tokens(maps)) + sinusoidal_code(positions, maps.shape[1])))

    def _key(self, normed: Tensor, positions: Tensor) -> Tensor:
        return self._split(self.key(normed + sinusoidal_code(positions, normed.shape[-1])))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return both updated maps and the motion token `(B, nd, *spatial)`."""
        asking, asked = torch.cat([b, a]), self._pool(torch.cat([a, b]))
        positions = identity_grid(a.shape[2:], a)
        key_positions = self._pool(positions)
        normed = self.norm(_tokens(asked))
        places = _tokens(key_positions)[:, None].expand(normed.shape[0], self.heads, -1, -1)
        values = torch.cat([self._split(self.value(normed)), places], -1)
        read = _attend(self._query(asking, positions), self._key(normed, key_positions), values)
        read, places = read.split([read.shape[-1] - positions.shape[1], positions.shape[1]], -1)
        tokens = _tokens(asking) + self.gains[0] * self.output(read.transpose(1, 2).flatten(2))
        tokens = tokens + self.gains[1] * self.feed_forward(tokens)
        new_b, new_a = tokens.transpose(1, 2).unflatten(2, a.shape[2:]).chunk(2)
        motion = places[: len(b)].mean(1).transpose(1, 2).unflatten(2, a.shape[2:]) - positions
        return new_a, new_b, motion

    def observed(self, a: Tensor, b: Tensor, name: str, stride: int) -> CrossAttention:
        """Return which places of a (B = 1) the places of b look at.

        Args:
            a: `(1, C, *spatial)` of the warped moving image.
            b: The same of the fixed image.
            name: Of the result.
            stride: Voxels of the network's grid per voxel of the maps.
        """
        positions, asked = identity_grid(a.shape[2:], a), self._pool(a)
        query = self._query(b, positions)
        key = self._key(self.norm(_tokens(asked)), self._pool(positions))
        sizes = tuple(b.shape[2:]), tuple(asked.shape[2:])
        return CrossAttention(name, query[0], key[0], *sizes, stride, stride * self.pooling(sizes[0]))


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return `softmax(query key^T / sqrt(d)) value`, `(B, heads, n, d_value)`.

    Kernels that never store the n x m rows want equal widths in multiples of eight, so zeros fill them up.
    """
    width = math.ceil(value.shape[-1] / 8) * 8
    query_, key_, value_ = (F.pad(x, (0, width - x.shape[-1])) for x in (query, key, value))
    scale = 1 / math.sqrt(query.shape[-1])
    return F.scaled_dot_product_attention(query_, key_, value_, scale=scale)[..., : value.shape[-1]]


class NeighbourhoodAttention(nn.Module):
    """Every place of one image looks at the places of the other within `radius` voxels along each axis.

    `a_o(x) = q(x) . k(x + o) / sqrt(d) + b_o`, `P = softmax_o a`, `x' = x + g Wo sum_o P_o v(x + o)`; offsets that
    leave the map have no part in it. The motion token `sum_o P_o o` has nd channels per head. Neighbours are slices of
    one padded tensor: unfolding keys and values would copy them (2 radius + 1)^nd times.
    """

    def __init__(self, nd: int, channels: int, *, radius: int = 1, heads: int = 2, width: int = 16) -> None:
        super().__init__()
        self.radius, self.heads, self.motion_channels = radius, heads, heads * nd
        layer = CONVOLUTIONS[nd]
        self.query = layer(channels, heads * width, 1, bias=False)
        self.key = layer(channels, heads * width, 1, bias=False)
        self.value = layer(channels, heads * width, 1, bias=False)
        self.output = layer(heads * width, channels, 1)
        self.offsets = list(itertools.product(range(-radius, radius + 1), repeat=nd))
        self.offset_bias = nn.Parameter(torch.zeros(heads, len(self.offsets)))
        self.gain = nn.Parameter(torch.full((channels,), GAIN))
        nn.init.orthogonal_(self.query.weight)
        self.key.weight.data.copy_(self.query.weight.data)  # attention starts as a comparison of features

    def _heads(self, maps: Tensor) -> Tensor:
        return at_least_single(maps).unflatten(1, (self.heads, -1))

    def _padded(self, maps: Tensor, value: float = 0.0) -> Tensor:
        nd = len(self.offsets[0])
        return F.pad(maps, [self.radius] * 2 * nd, value=value)

    def _neighbour(self, padded: Tensor, offset: tuple[int, ...]) -> Tensor:
        """Return the slice of a padded map that holds the neighbour at an offset of each voxel."""
        for axis, o in enumerate(offset, start=padded.ndim - len(offset)):
            padded = padded.narrow(axis, self.radius + o, padded.shape[axis] - 2 * self.radius)
        return padded

    def weights(self, asking: Tensor, asked: Tensor) -> Tensor:
        """Return P `(B, heads, offsets, *spatial)`: which neighbours in `asked` each voxel of `asking` looks at."""
        query, key = self._heads(self.query(asking)), self._padded(self._heads(self.key(asked)))
        query = query / math.sqrt(query.shape[2])
        outside = self._padded(torch.zeros_like(query[:1, :1, 0]), -math.inf)
        bias = self.offset_bias.view(self.heads, -1, *[1] * (asking.ndim - 2))
        logits = [
            (query * self._neighbour(key, offset)).sum(2) + bias[:, index] + self._neighbour(outside, offset)
            for index, offset in enumerate(self.offsets)
        ]
        return torch.softmax(torch.stack(logits, 2), 2)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return both updated maps and the motion token `(B, heads * nd, *spatial)`."""
        asking, asked = torch.cat([b, a]), torch.cat([a, b])
        weights = self.weights(asking, asked)
        value = self._padded(self._heads(self.value(asked)))
        read = torch.zeros_like(self._neighbour(value, self.offsets[0]))
        for index, offset in enumerate(self.offsets):
            read += weights[:, :, index, None] * self._neighbour(value, offset)
        gain = self.gain.view(-1, *[1] * (a.ndim - 2))
        new_b, new_a = (asking + gain * self.output(read.flatten(1, 2))).to(asking.dtype).chunk(2)
        offsets = torch.tensor(self.offsets, device=a.device, dtype=weights.dtype)
        motion = torch.einsum("bhk...,kd->bhd...", weights[: len(b)], offsets).flatten(1, 2)
        return new_a, new_b, motion
