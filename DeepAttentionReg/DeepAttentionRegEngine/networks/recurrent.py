"""The parts of R2N2: recurrent units, and heads that read a position and other numbers off feature maps.

Source: Sandkuehler et al. 2019, eq. 10 to 17, and the authors' code where figure and text leave something open.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import CONVOLUTIONS, NORMS

SLOPE = 0.01
GROUPS = 8
FUNCTIONS = {2: F.conv2d, 3: F.conv3d}


def activate(x: Tensor, activation: str) -> Tensor:
    """Apply "tanh" or "leaky_relu"."""
    return x.tanh() if activation == "tanh" else F.leaky_relu(x, SLOPE)


def initialize(layer: Any, activation: str) -> Any:
    """Draw a layer's weights for the activation that follows: Xavier for tanh, Kaiming for leaky ReLU; bias 0."""
    if activation == "tanh":
        nn.init.xavier_normal_(layer.weight, nn.init.calculate_gain("tanh"))
    else:
        nn.init.kaiming_normal_(layer.weight, a=SLOPE)
    nn.init.zeros_(layer.bias)
    return layer


def normalization(kind: str, nd: int, channels: int) -> nn.Module:
    """Return a layer for "none", "instance" (nothing learned) or "group" normalisation."""
    if kind == "none":
        return nn.Identity()
    return NORMS[nd](channels) if kind == "instance" else nn.GroupNorm(min(GROUPS, channels), channels)


def spatial_softmax(x: Tensor) -> Tensor:
    """Return `(B, C, n)`, for each channel of `(B, C, *spatial)` weights over its n voxels that sum to 1."""
    return x.flatten(2).float().softmax(-1)


class PlainResidual(nn.Module):
    """`act(x + norm(conv(act(norm(conv(x))))))`."""

    def __init__(self, nd: int, channels: int, activation: str, norm: str) -> None:
        super().__init__()
        self.activation = activation
        self.convolutions = nn.ModuleList(
            initialize(CONVOLUTIONS[nd](channels, channels, 3, padding=1), activation) for _ in range(2)
        )
        self.norms = nn.ModuleList(normalization(norm, nd, channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, channels, *spatial)` to the same shape."""
        y = activate(self.norms[0](self.convolutions[0](x)), self.activation)
        return activate(x + self.norms[1](self.convolutions[1](y)), self.activation)


class ConvGru(nn.Module):
    """Convolutional gated recurrent unit.

    `h_t = (1 - z) c + z h_{t-1}` with reset r, update z and candidate `c = tanh(W x + U (r h_{t-1}) + b)`; the bias of
    the candidate starts at 1. In training the kernels that act on the state carry multiplicative Gaussian noise.
    """

    def __init__(self, nd: int, channels: int, noise: float) -> None:
        super().__init__()
        self.nd, self.noise = nd, noise
        layer = CONVOLUTIONS[nd]
        self.of_input = layer(channels, 3 * channels, 3, padding=1)  # reset, update, candidate
        self.of_state = layer(channels, 2 * channels, 3, padding=1, bias=False)  # reset, update
        self.of_reset = layer(channels, channels, 3, padding=1, bias=False)
        for kernel in (*self.of_input.weight.chunk(3), *self.of_state.weight.chunk(2), self.of_reset.weight):
            nn.init.xavier_normal_(kernel)
        nn.init.zeros_(self.of_input.bias)
        nn.init.ones_(self.of_input.bias[2 * channels :])

    def _recurrent(self, state: Tensor, kernel: Tensor) -> Tensor:
        if self.training and self.noise:
            kernel = kernel * (1 + self.noise * torch.randn_like(kernel))
        return FUNCTIONS[self.nd](state, kernel, padding=1)

    def forward(self, x: Tensor, state: Tensor | None) -> Tensor:
        """Return the next state; None for `state` starts afresh. All `(B, channels, *spatial)`."""
        reset, update, candidate = self.of_input(x).chunk(3, 1)
        if state is None:
            return (1 - update.sigmoid()) * candidate.tanh()
        more_reset, more_update = self._recurrent(state, self.of_state.weight).chunk(2, 1)
        kept = (update + more_update).sigmoid()
        recalled = self._recurrent((reset + more_reset).sigmoid() * state, self.of_reset.weight)
        return (1 - kept) * (candidate + recalled).tanh() + kept * state


class RecurrentUnit(nn.Module):
    """GR2U: residual blocks, a recurrent unit on their result, and a skip around it."""

    def __init__(self, nd: int, channels: int, blocks: int, activation: str, norm: str, noise: float) -> None:
        super().__init__()
        self.activation = activation
        self.residual = nn.Sequential(*(PlainResidual(nd, channels, activation, norm) for _ in range(blocks)))
        self.gru = ConvGru(nd, channels, noise)

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return output and next state, both of the shape of x."""
        x = self.residual(x)
        state = self.gru(x, state)
        return activate(state + x, self.activation), state


class PositionHead(nn.Module):
    """Reads the center of each Gaussian off a feature map, and how much the map is to be trusted."""

    def __init__(self, nd: int, channels: int, gaussians: int, temperature: float, learn_temperature: bool) -> None:
        super().__init__()
        self.left, self.right = (CONVOLUTIONS[nd](channels, gaussians, 1) for _ in range(2))
        for layer in (self.left, self.right):
            nn.init.xavier_normal_(layer.weight)
        logarithm = torch.tensor(float(temperature)).log()
        self.log_temperature = nn.Parameter(logarithm) if learn_temperature else None
        self.temperature = temperature

    def forward(self, x: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return positions and weights.

        Args:
            x: `(B, channels, *spatial)`.
            points: `(1, nd, *spatial)`, where its voxels lie.

        Returns:
            `(B, G, nd)`, and `(B, G)` in [0, 2]: 2 where both branches agree on where to look.
        """
        temperature = self.temperature if self.log_temperature is None else self.log_temperature.exp()
        left, right = (spatial_softmax(layer(x) / temperature) for layer in (self.left, self.right))
        position = torch.einsum("bgn,dn->bgd", left, points[0].flatten(1))
        return position, 2 - (left - right).abs().sum(-1)


class ParameterHead(nn.Module):
    """Reads the other numbers of each Gaussian off the coarsest feature map; all 0 at the start."""

    def __init__(self, nd: int, channels: int, hidden: int, numbers: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        half = channels // 2
        self.split = initialize(CONVOLUTIONS[nd](channels, channels, 3, padding=1), activation)
        self.content = initialize(CONVOLUTIONS[nd](half, half, 3, padding=1), activation)
        self.first = initialize(nn.Linear(half, hidden), activation)
        self.second = nn.Linear(hidden, numbers)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, numbers)` for `(B, channels, *spatial)`."""
        content, gate = self.split(x).chunk(2, 1)
        content = activate(self.content(activate(content, self.activation)), self.activation)
        pooled = (content.flatten(2) * spatial_softmax(gate)).sum(-1)
        return self.second(activate(self.first(pooled), self.activation))
