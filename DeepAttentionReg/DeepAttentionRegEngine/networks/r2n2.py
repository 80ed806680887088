"""R2N2: a recurrent network that builds a deformation as a sequence of local Gaussian ones.

Source: Sandkuehler et al. 2019 (arXiv:1906.09988) and the authors' code (presets "paper" and "code" of the
specification); 3D, several Gaussians per step and composition are this project's extension. Coordinates are those of
gaussians.py instead of one range per axis, so that nothing depends on the shape of the image.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..gaussians import Gaussians, coordinates, evaluate_step, half_extent, normalized, rotation_2d, rotation_3d
from ..warp import compose, identity_grid, shrink, warp
from .base import Evidence, ImagePair, Recursion, RegistrationNetwork
from .blocks import CONVOLUTIONS
from .recurrent import ParameterHead, PositionHead, RecurrentUnit, activate, initialize, normalization

LEVELS = 3
ANGLES = {2: 1, 3: 3}
CLIP = 2.0  # standard deviations of intensity
SMALLEST_SIGMA = 1e-3
KAPPA = 0.9  # share of the vector at which a bump would begin to fold
States = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class R2n2Settings:
    """Network arguments of an R2N2 method file.

    Attributes:
        nd: Spatial axes, 2 or 3.
        widths: Channels at 1/2, 1/4 and 1/8 of the network's resolution, and of the parameter head.
        blocks: Residual blocks per level.
        hidden: Width of the parameter head's hidden layer.
        activation: "tanh" or "leaky_relu".
        norm: "none", "instance" or "group".
        coordinate_channels: The network also sees where each voxel lies.
        strided_end: The last convolution halves the resolution once more.
        stem: Edge of the first convolution.
        gaussians: Bumps per step.
        mode: "sum" adds steps as published; "compose" composes bumps that cannot fold on their own.
        sigma: Largest standard deviation, in half extents of the image.
        temperature: Of the spatial softmax.
        learn_temperature: Train it.
        memory: False forgets the state after every step.
        noise: Standard deviation of the multiplicative noise on recurrent kernels in training.
        reduction: The network sees the images reduced by this factor.
    """

    nd: int = 2
    widths: tuple[int, ...] = (32, 64, 128, 256)
    blocks: int = 6
    hidden: int = 1024
    activation: str = "leaky_relu"
    norm: str = "instance"
    coordinate_channels: bool = False
    strided_end: bool = True
    stem: int = 7
    gaussians: int = 1
    mode: str = "sum"
    sigma: float = 0.25
    temperature: float = 1.0
    learn_temperature: bool = False
    memory: bool = True
    noise: float = 0.5
    reduction: int = 1


class R2n2(RegistrationNetwork):
    """Each recursion proposes the Gaussians of one step from the images and its memory of earlier steps."""

    minimum_size = 32  # below this the coarsest level has a single voxel and cannot be normalised

    def __init__(self, settings: R2n2Settings) -> None:
        super().__init__()
        self.settings = settings
        nd, widths, activation, norm = settings.nd, settings.widths, settings.activation, settings.norm
        channels = 2 + nd * settings.coordinate_channels
        self.down, self.units, self.positions = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for width, size in zip(widths[:LEVELS], (settings.stem, 3, 3), strict=True):
            layer = initialize(CONVOLUTIONS[nd](channels, width, size, stride=2, padding=size // 2), activation)
            self.down.append(nn.Sequential(layer, normalization(norm, nd, width)))
            self.units.append(RecurrentUnit(nd, width, settings.blocks, activation, norm, settings.noise))
            self.positions.append(
                PositionHead(nd, width, settings.gaussians, settings.temperature, settings.learn_temperature)
            )
            channels = width
        if settings.strided_end:
            layer = CONVOLUTIONS[nd](channels, widths[LEVELS], 3, stride=2, padding=1)
            self.end = nn.Sequential(initialize(layer, activation), normalization(norm, nd, widths[LEVELS]))
        else:
            self.end = nn.Sequential(initialize(CONVOLUTIONS[nd](channels, widths[LEVELS], 1), activation))
        numbers = settings.gaussians * (2 * nd + ANGLES[nd])
        self.head = ParameterHead(nd, widths[LEVELS], settings.hidden, numbers, activation)

    def recurse(self, pair: ImagePair, recursions: int, *, attend: bool = False) -> Iterator[Recursion]:
        """Yield the state after each step; the moving image is always warped from the original."""
        self.require_size(pair.fixed)
        spatial = tuple(pair.fixed.shape[2:])
        points, mode = coordinates(spatial, pair.fixed), self.settings.mode
        fixed = self._seen(pair.fixed)
        states: States = (None,) * LEVELS
        displacement = pair.fixed.new_zeros(pair.fixed.shape[0], len(spatial), *spatial)
        warped = pair.moving
        for _ in range(recursions):
            gaussians, states = self._propose(self._seen(warped), fixed, states)
            increment = evaluate_step(gaussians, points, mode) * half_extent(spatial)
            displacement = displacement + increment if mode == "sum" else compose(displacement, increment)
            warped = warp(pair.moving, displacement)
            yield Recursion(displacement, increment, warped, Evidence(gaussians=gaussians) if attend else None)

    def _seen(self, image: Tensor) -> Tensor:
        """Return an image as the network sees it."""
        return standardized(shrink(image, [-(-n // self.settings.reduction) for n in image.shape[2:]]))

    def _propose(self, warped: Tensor, fixed: Tensor, states: States) -> tuple[Gaussians, States]:
        if not self.settings.memory:
            states = (None,) * LEVELS
        if self.checkpointed and torch.is_grad_enabled():
            return checkpoint(self.propose, warped, fixed, states, use_reentrant=False)
        return self.propose(warped, fixed, states)

    def propose(self, warped: Tensor, fixed: Tensor, states: States) -> tuple[Gaussians, States]:
        """Propose the Gaussians of one step.

        Args:
            warped: `(B, 1, *spatial)`, moving image warped by the displacement so far, standardised.
            fixed: Same shape, standardised.
            states: Memory of each level, None at the start.

        Returns:
            The Gaussians and the next states.
        """
        spatial = tuple(fixed.shape[2:])
        own = [coordinates(spatial, fixed).expand(len(fixed), -1, *spatial)] * self.settings.coordinate_channels
        x, following, found = torch.cat([*own, fixed, warped], 1), [], []
        with self.precision(fixed.device):
            for level, (down, unit, position) in enumerate(zip(self.down, self.units, self.positions, strict=True), 1):
                x, state = unit(activate(down(x), self.settings.activation), states[level - 1])
                following.append(state)
                # A strided convolution of odd kernel is centered on every second voxel, the first included.
                index = 2**level * identity_grid(x.shape[2:], fixed)
                found.append(position(x, normalized(index, spatial)))
        with torch.autocast(fixed.device.type, enabled=False):
            # On the CPU (torch 2.13) bfloat16 convolutions of maps of a dozen voxels return NaN at random.
            numbers = self.head(activate(self.end(x.float()), self.settings.activation))
        return self._gaussians(mean_position(found), numbers), tuple(following)

    def _gaussians(self, center: Tensor, numbers: Tensor) -> Gaussians:
        """Turn the head's numbers `(B, G * (2 nd + angles))` into Gaussians at centers `(B, G, nd)`."""
        settings, nd = self.settings, self.settings.nd
        spread, pull, turn = numbers.unflatten(1, (settings.gaussians, -1)).split([nd, nd, ANGLES[nd]], -1)
        sigma = settings.sigma * spread.sigmoid() + SMALLEST_SIGMA
        rotation = rotation_2d(math.pi * turn[..., 0].sigmoid()) if nd == 2 else rotation_3d(turn)
        vector = pull.tanh()
        if settings.mode == "compose":
            # Below sqrt(e) standard deviations no bump folds; see gaussians.smallest_determinant.
            limit = KAPPA * math.sqrt(math.e / nd)
            vector = limit * torch.einsum("bgij,bgj->bgi", rotation, sigma * vector)
        return Gaussians(center, sigma, rotation, vector)


def mean_position(found: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the mean of positions `(B, G, nd)` by their weights `(B, G)`."""
    total = torch.stack([weight for _, weight in found]).sum(0) + 1e-6
    return torch.stack([weight[..., None] * position for position, weight in found]).sum(0) / total[..., None]


def standardized(image: Tensor) -> Tensor:
    """Return each image of a batch with mean 0 and standard deviation 1, clipped at two deviations."""
    axes = tuple(range(1, image.ndim))
    mean, deviation = image.mean(axes, keepdim=True), image.std(axes, keepdim=True)
    return ((image - mean) / deviation.clamp_min(1e-6)).clamp(-CLIP, CLIP)
