"""Convolutional GRU with residual blocks: the gated recurrent registration unit (GR2U) of R2N2.

Source: Sandkuehler et al., NeurIPS 2019 (Recurrent Registration Neural Networks), eqs. 10 to 13 and figure 2.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import CONVOLUTIONS

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "leaky_relu": F.leaky_relu}
NORMALIZATIONS = ("none", "instance", "group")
GROUPS = 8
FUNCTIONS: dict[int, Any] = {2: F.conv2d, 3: F.conv3d}


class Normalization(nn.Module):
    """Normalises each channel ("instance", nothing learned) or each of eight groups of channels ("group"), or nothing.

    A map of a single voxel, which has no contrast to normalise, is kept.
    """

    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "group":
            self.weight = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, channels, *spatial)` to the same shape."""
        if self.kind == "none" or x[0, 0].numel() == 1:
            return x
        if self.kind == "group":
            return F.group_norm(x, math.gcd(GROUPS, x.shape[1]), self.weight, self.bias)
        if x.shape[0] == 1:  # the same figures, but the channels-last layout, fast on the CPU, stays
            return F.batch_norm(x, None, None, training=True)
        return F.instance_norm(x)


class Layer(nn.Module):
    """Convolution, normalisation and activation; odd kernels keep the size n, or make it ceil(n / stride)."""

    def __init__(self, nd: int, channels: tuple[int, int], kernel: int, stride: int, style: tuple[str, str]) -> None:
        super().__init__()
        activation, norm = style
        self.convolution = initialised(CONVOLUTIONS[nd](*channels, kernel, stride, kernel // 2), activation)
        self.norm = Normalization(norm, channels[1])
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, channels[0], *spatial)` to `(B, channels[1], *smaller)`."""
        return self.activation(self.norm(self.convolution(x)))


def initialised(layer: Any, activation: str) -> Any:
    """Set a layer's weights as its activation asks for, its bias to 0, and return it."""
    if activation == "leaky_relu":
        nn.init.kaiming_normal_(layer.weight, a=0.01)
    else:
        nn.init.xavier_normal_(layer.weight, nn.init.calculate_gain("tanh"))
    nn.init.zeros_(layer.bias)
    return layer


class StyledResidualBlock(nn.Module):
    """`act(x + norm(conv(act(norm(conv(x))))))`."""

    def __init__(self, nd: int, channels: int, style: tuple[str, str]) -> None:
        super().__init__()
        activation, norm = style
        self.first = Layer(nd, (channels, channels), 3, 1, style)
        self.second = initialised(CONVOLUTIONS[nd](channels, channels, 3, padding=1), activation)
        self.norm = Normalization(norm, channels)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, channels, *spatial)` to the same shape."""
        return self.activation(x + self.norm(self.second(self.first(x))))


class ConvGru(nn.Module):
    """Gated recurrent unit whose products are convolutions of kernel 3.

    `r = sigmoid(W_r x + U_r h)`, `z = sigmoid(W_z x + U_z h)`, `c = tanh(W x + U (r h))`, `h' = (1 - z) c + z h`,
    W with bias; without a state the terms of h are left out.

    Args:
        nd: Spatial axes.
        channels: Of input and state.
        noise: Standard deviation of the factors N(1, noise) on each weight of U in training, drawn at every step.
    """

    def __init__(self, nd: int, channels: int, noise: float) -> None:
        super().__init__()
        self.noise = noise
        self.function = FUNCTIONS[nd]
        self.inputs = CONVOLUTIONS[nd](channels, 3 * channels, 3, padding=1)
        self.gates = CONVOLUTIONS[nd](channels, 2 * channels, 3, padding=1, bias=False)
        self.candidate = CONVOLUTIONS[nd](channels, channels, 3, padding=1, bias=False)
        for layer in (self.inputs, self.gates, self.candidate):
            for kernel in layer.weight.data.split(channels):
                nn.init.xavier_normal_(kernel)
        self.inputs.bias.data = torch.tensor([0.0, 0.0, 1.0]).repeat_interleave(channels)

    def forward(self, x: Tensor, state: Tensor | None) -> Tensor:
        """Return the new state.

        Args:
            x: `(B, channels, *spatial)`.
            state: Same shape, single precision; None at the first step.
        """
        reset, update, candidate = self.inputs(x).chunk(3, 1)
        if state is None:
            return ((1 - update.sigmoid()) * candidate.tanh()).float()
        more_reset, more_update = self._recurrent(self.gates, state).chunk(2, 1)
        kept = (reset + more_reset).sigmoid() * state
        # The state is mixed in single precision, or the errors of many steps would add up.
        new = (candidate + self._recurrent(self.candidate, kept)).tanh().float()
        share = (update + more_update).sigmoid().float()
        return (1 - share) * new + share * state

    def _recurrent(self, layer: nn.Module, x: Tensor) -> Tensor:
        weight: Any = layer.weight
        if self.training and self.noise:
            weight = weight * (1 + self.noise * torch.randn_like(weight))
        return self.function(x, weight, padding=1)


class Gr2u(nn.Module):
    """Residual blocks and a convolutional GRU, whose state and input join: `act(h + x)`."""

    def __init__(self, nd: int, channels: int, blocks: int, style: tuple[str, str], noise: float) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(StyledResidualBlock(nd, channels, style) for _ in range(blocks)))
        self.gru = ConvGru(nd, channels, noise)
        self.activation = ACTIVATIONS[style[0]]

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the features `(B, channels, *spatial)` and the new state."""
        x = self.blocks(x)
        state = self.gru(x, state)
        return self.activation(state + x), state
