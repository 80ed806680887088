"""Convolution blocks for 2D and 3D, chosen by the number of spatial axes."""

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..deform.warp import resize

CONVOLUTIONS: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORMS: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
SLOPE = 0.2
SMALLEST_HALF = 8  # voxels along the shortest axis; below, half precision gains nothing and may be NaN on the CPU


def convolution(nd: int, channels_in: int, channels_out: int, *, dilation: int = 1, stride: int = 1) -> nn.Module:
    """Return a He-initialised convolution of kernel 3 with bias; it keeps the size, or divides it by the stride."""
    layer = CONVOLUTIONS[nd](channels_in, channels_out, 3, stride, padding=dilation, dilation=dilation)
    nn.init.kaiming_normal_(layer.weight, a=SLOPE)
    layer.bias.data.zero_()
    return layer


def norm_layer(kind: str, nd: int, channels: int) -> nn.Module:
    """Return a normalisation with learned gain and offset.

    Raises:
        ValueError: If the kind is neither "batch" nor "instance".
    """
    if kind not in ("batch", "instance"):
        msg = f'norm {kind!r} must be "batch" or "instance"'
        raise ValueError(msg)
    return BATCH_NORMS[nd](channels) if kind == "batch" else InstanceNorm(channels)


class InstanceNorm(nn.Module):
    """Normalises each channel of each sample, with learned gain and offset, in 2D and 3D."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, channels, *spatial)` to the same shape."""
        if x.shape[0] == 1:  # the same figures, but the channels-last layout, fast on the CPU, stays
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True)
        return F.instance_norm(x, weight=self.weight, bias=self.bias)


class ResidualBlock(nn.Module):
    """`act(norm(conv_dil3(act(norm(conv(r))))) + r)` with `r = act(norm(conv(x)))`.

    Source: RAN appendix (Zheng et al.), dilations 1, 1, 3; instance normalisation.
    """

    def __init__(self, nd: int, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.first = convolution(nd, channels_in, channels_out)
        self.second = convolution(nd, channels_out, channels_out)
        self.third = convolution(nd, channels_out, channels_out, dilation=3)
        self.norms = nn.ModuleList(InstanceNorm(channels_out) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, channels_in, *spatial)` to `(B, channels_out, *spatial)`."""
        residual = F.leaky_relu_(self.norms[0](self.first(x)), SLOPE)
        y = F.leaky_relu_(self.norms[1](self.second(residual)), SLOPE)
        return F.leaky_relu_(self.norms[2](self.third(y)).add_(residual), SLOPE)


def pool(x: Tensor) -> Tensor:
    """Halve every spatial axis by averaging; an odd last slice is dropped."""
    half = [n // 2 for n in x.shape[2:]]
    even = x[(slice(None), slice(None), *(slice(2 * n) for n in half))]
    # Linear interpolation half way between two voxels is their mean; `avg_pool3d` is slow in channels-last layout.
    return resize(even, half)


def fold(x: Tensor) -> Tensor:
    """Halve every spatial axis by stacking the 2^nd voxels of each block as channels; an odd last slice is dropped.

    Nothing is lost, and a convolution that follows costs an eighth in 3D of what it costs at full resolution.

    Args:
        x: `(B, C, *spatial)`.

    Returns:
        `(B, 2^nd C, *spatial // 2)`.
    """
    halves = [slice(start, 2 * (n // 2), 2) for n in x.shape[2:] for start in (0, 1)]
    starts = itertools.product(*zip(halves[::2], halves[1::2], strict=True))
    return torch.cat([x[(slice(None), slice(None), *index)] for index in starts], 1)


def enlarge(x: Tensor, spatial: Sequence[int]) -> Tensor:
    """Undo the halving of `pool`: double every axis and repeat the last slice of an odd one, so that nothing shifts.

    Args:
        x: `(B, C, *coarse)`, coarse sizes being those of `spatial` halved and rounded down.
        spatial: Size before pooling.
    """
    doubled = resize(x, [2 * n for n in x.shape[2:]])
    missing = [n - m for n, m in zip(spatial, doubled.shape[2:], strict=True)]
    if not any(missing):
        return doubled
    return F.pad(doubled, [side for n in reversed(missing) for side in (0, n)], mode="replicate")


def use_channels_last(network: nn.Module, nd: int) -> None:
    """Lay the weights out so that convolutions need not reorder their input: about twice as fast on the CPU."""
    layout = torch.channels_last if nd == 2 else torch.channels_last_3d
    for weight in network.parameters():
        if weight.ndim == nd + 2:
            weight.data = weight.data.contiguous(memory_format=layout)


def single_precision(device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which nothing is rounded to half precision.

    For the coarsest maps: on the CPU (torch 2.13) bfloat16 convolutions of a dozen voxels return NaN at random.
    """
    return torch.autocast(device.type, enabled=False)


def flow_head(nd: int, channels: int, *, guided: bool = False) -> nn.Module:
    """Return the convolution that predicts a displacement, almost zero at the start (RCN's choice, N(0, 1e-5)).

    Args:
        nd: Spatial axes.
        channels: Of the features.
        guided: It adds to what guides ask for: weights are larger, so that features learn from the first step.
    """
    layer = CONVOLUTIONS[nd](channels, nd, 3, padding=1)
    nn.init.normal_(layer.weight, std=3e-3 if guided else 1e-5)
    layer.bias.data.zero_()
    return layer


def clamp_displacement(displacement: Tensor, fraction: float = 0.5) -> Tensor:
    """Limit each component to a fraction of the grid's size along its axis (a diverging pass must not run away)."""
    limit = torch.tensor(displacement.shape[2:], device=displacement.device, dtype=displacement.dtype) * fraction
    limit = limit.view(1, -1, *[1] * (displacement.ndim - 2))
    return torch.maximum(torch.minimum(displacement, limit), -limit)
