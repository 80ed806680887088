"""Convolution blocks for 2D and 3D, chosen by the number of spatial axes."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONVOLUTIONS: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
NORMS: dict[int, Any] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
BATCH_NORMS: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
SLOPE = 0.2


def convolution(nd: int, channels_in: int, channels_out: int, dilation: int = 1) -> nn.Module:
    """Return a size-preserving, He-initialised convolution of kernel 3 with bias."""
    layer = CONVOLUTIONS[nd](channels_in, channels_out, 3, padding=dilation, dilation=dilation)
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
    return BATCH_NORMS[nd](channels) if kind == "batch" else NORMS[nd](channels, affine=True)


class ResidualBlock(nn.Module):
    """`act(norm(conv_dil3(act(norm(conv(r))))) + r)` with `r = act(norm(conv(x)))`.

    Source: RAN appendix (Zheng et al.), dilations 1, 1, 3; instance normalisation.
    """

    def __init__(self, nd: int, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.first = convolution(nd, channels_in, channels_out)
        self.second = convolution(nd, channels_out, channels_out)
        self.third = convolution(nd, channels_out, channels_out, dilation=3)
        self.norms = nn.ModuleList(NORMS[nd](channels_out, affine=True) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, channels_in, *spatial)` to `(B, channels_out, *spatial)`."""
        residual = F.leaky_relu(self.norms[0](self.first(x)), SLOPE)
        y = F.leaky_relu(self.norms[1](self.second(residual)), SLOPE)
        return F.leaky_relu(self.norms[2](self.third(y)) + residual, SLOPE)


def pool(x: Tensor) -> Tensor:
    """Halve every spatial axis by averaging; an odd last slice is dropped."""
    return F.avg_pool2d(x, 2) if x.ndim == 4 else F.avg_pool3d(x, 2)


def flow_head(nd: int, channels: int) -> nn.Module:
    """Return the convolution that predicts a displacement, almost zero at the start (RCN's choice, N(0, 1e-5))."""
    layer = CONVOLUTIONS[nd](channels, nd, 3, padding=1)
    nn.init.normal_(layer.weight, std=1e-5)
    layer.bias.data.zero_()
    return layer


def count_weights(module: nn.Module) -> int:
    """Return the number of trainable scalars."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def clamp_displacement(displacement: Tensor, fraction: float = 0.5) -> Tensor:
    """Limit each component to a fraction of the grid's size along its axis (a diverging pass must not run away)."""
    limit = torch.tensor(displacement.shape[2:], device=displacement.device, dtype=displacement.dtype) * fraction
    limit = limit.view(1, -1, *[1] * (displacement.ndim - 2))
    return torch.maximum(torch.minimum(displacement, limit), -limit)
