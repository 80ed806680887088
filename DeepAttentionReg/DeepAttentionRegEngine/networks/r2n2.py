"""Recurrent registration neural network: adds one local Gaussian deformation after another, with memory.

Source: Sandkuehler et al., NeurIPS 2019 (Recurrent Registration Neural Networks), in 2D; the authors' code settles what
the paper leaves open. 3D, several Gaussians per step, fold-free composition, and what `forces`, `flows`, `local` and
`spread` do are this project's.

Coordinates are isotropic in 2D and 3D (gaussians.py): 1 is half the longest extent. The published network scales each
axis to [-1, 1] and samples 0 outside the image; here the edge value continues (warp.py), and `losses.inside_image`
takes the points sampled outside out of the loss.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..deform.gaussians import (
    MODES,
    Gaussians,
    grid_coordinates,
    half_extent,
    limited,
    render,
    rotation_2d,
    rotation_3d,
)
from ..deform.warp import compose, sample_points, shrink, warp
from .base import AttentionMap, Evidence, ImagePair, Recursion, RegistrationNetwork
from .blocks import CONVOLUTIONS, SMALLEST_HALF, single_precision, use_channels_last
from .forces import demons_force, lucas_kanade
from .recurrent import ACTIVATIONS, NORMALIZATIONS, Gr2u, Layer, initialised

LEVELS = 3
CLAMP = 2.0  # standard deviations of an image's intensity
SMALLEST_SIGMA = {2: 1e-5, 3: 1e-3}
SMALLEST_COMPOSED = 2.0  # voxels; what folds nowhere may still fold between the voxels that sample it
INNER = 0.4  # reach of the first places of Gaussians; what moves is rarely at the border
LARGEST_TURN = 2 * math.pi / 3  # an ellipsoid turned further equals one turned less about another axis


@dataclass(frozen=True)
class R2n2Settings:
    """Network arguments of an R2N2 method file; the defaults are the published figure.

    Attributes:
        nd: Spatial axes, 2 or 3.
        widths: Channels of the three levels, at 1/2, 1/4 and 1/8, and of the maps that the parameters are read from.
        blocks: Residual blocks per level.
        coordinates: Give the coordinates to the network beside the images.
        activation: "tanh" or "leaky_relu".
        norm: "none", "instance" or "group".
        last_down: The last convolution has kernel 3 and stride 2, else kernel 1.
        hidden: Width of the layer ahead of the parameters.
        gaussians: Gaussians per step.
        mode: How they make a field, see gaussians.py: "sum" as published, "compose" or "joint" without folds.
        kappa: The Jacobian determinant of each composed step stays above 1 - kappa ("compose") or positive ("joint").
        sigma_max: Range of the standard deviations above the smallest.
        noise: Standard deviation of the factors on the recurrent weights in training.
        memory: False forgets the state after each step.
        temperature: Of the softmax that places the Gaussians, at the start.
        learn_temperature: Train it, one number per level.
        reduction: The images are averaged over this many voxels per axis first; fields keep full resolution.
        forces: Give the demons force between the images to the network beside them.
        flows: Windows in voxels of the optical flows (`forces.lucas_kanade`) that it gets beside them, too.
        local: Read the shape and vector of a Gaussian from the features of all levels where it lies, too.
        spread: Standard deviation of a prior that keeps each Gaussian near a place of its own, which is learned; 0 is
            none.

    Raises:
        ValueError: For an unknown activation, norm or mode, or a kappa outside (0, 1).
    """

    nd: int = 2
    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: int = 3
    coordinates: bool = True
    activation: str = "tanh"
    norm: str = "none"
    last_down: bool = False
    hidden: int = 512
    gaussians: int = 1
    mode: str = "sum"
    kappa: float = 0.9
    sigma_max: float = 0.25
    noise: float = math.sqrt(2)
    memory: bool = True
    temperature: float = 1.0
    learn_temperature: bool = False
    reduction: int = 1
    forces: bool = False
    flows: tuple[int, ...] = ()
    local: bool = False
    spread: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (("activation", (*ACTIVATIONS,)), ("norm", NORMALIZATIONS), ("mode", MODES)):
            if getattr(self, name) not in known:
                msg = f"{name} {getattr(self, name)!r} is unknown; known: {', '.join(known)}"
                raise ValueError(msg)
        if not 0 < self.kappa < 1:
            msg = f"kappa {self.kappa} must be between 0 and 1"
            raise ValueError(msg)


PRESETS = {
    "paper": R2n2Settings(),
    "code": R2n2Settings(
        widths=(32, 64, 128, 256),
        blocks=6,
        coordinates=False,
        activation="leaky_relu",
        norm="instance",
        last_down=True,
        hidden=1024,
    ),
    "lite3d": R2n2Settings(
        nd=3,
        widths=(16, 32, 64, 128),
        blocks=2,
        activation="leaky_relu",
        norm="group",
        gaussians=4,
        mode="compose",
        noise=0.5,
        reduction=2,
    ),
}


class PositionHead(nn.Module):
    """Where the Gaussians of a step belong according to one level, and how sure that is (eqs. 14, 15 and 17).

    Args:
        nd: Spatial axes.
        channels: Of the features.
        settings: Network arguments.
    """

    def __init__(self, nd: int, channels: int, settings: R2n2Settings) -> None:
        super().__init__()
        self.left, self.right = (CONVOLUTIONS[nd](channels, settings.gaussians, 1) for _ in range(2))
        for branch in (self.left, self.right):
            nn.init.xavier_normal_(branch.weight)
            nn.init.zeros_(branch.bias)
        self.spread = settings.spread
        if settings.spread:
            self.anchors = nn.Parameter(_regular(settings.gaussians, nd))
        self.log_temperature: Tensor | nn.Parameter
        log = torch.tensor(math.log(settings.temperature))
        if settings.learn_temperature:
            self.log_temperature = nn.Parameter(log)
        else:
            self.register_buffer("log_temperature", log, persistent=False)

    def forward(self, x: Tensor, coordinates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return positions, weights and the softmax maps.

        Args:
            x: `(B, channels, *spatial)`.
            coordinates: `(1, nd, *spatial)`.

        Returns:
            `(B, G, nd)`, `(B, G)` in [0, 2] and `(B, G, *spatial)`, each map of sum 1.
        """
        temperature, prior = self.log_temperature.exp(), self._prior(coordinates)
        left, right = ((branch(x).flatten(2) / temperature + prior).softmax(-1) for branch in (self.left, self.right))
        position = left @ coordinates[0].flatten(1).T
        return position, 2 - (left - right).abs().sum(-1), left.view(*left.shape[:2], *x.shape[2:])

    def _prior(self, coordinates: Tensor) -> Tensor | float:
        """Return the logarithm of the prior, `(G, voxels)`."""
        if not self.spread:
            return 0.0
        return -0.5 * torch.cdist(self.anchors, coordinates[0].flatten(1).T).square() / self.spread**2


def _regular(count: int, nd: int) -> Tensor:
    """Return places on a regular grid over the middle of the image, `(count, nd)`."""
    axis = torch.linspace(-INNER, INNER, math.ceil(round(count ** (1 / nd), 6)))
    return torch.cartesian_prod(*[axis] * nd)[:count]


class ParameterHead(nn.Module):
    """Shape and vector of the Gaussians of a step, before their limits: gated pooling and two linear layers.

    The last layer starts at 0, so that an untrained network moves nothing. With `local` the same layers serve all
    Gaussians, and see what lies at each of them: then every Gaussian of every pair teaches them.
    """

    def __init__(self, settings: R2n2Settings) -> None:
        super().__init__()
        nd, channels, half = settings.nd, settings.widths[-1], settings.widths[-1] // 2
        turns = nd * (nd - 1) // 2
        self.parts, self.count = (nd, nd, turns), settings.gaussians
        self.activation = ACTIVATIONS[settings.activation]
        self.split = initialised(CONVOLUTIONS[nd](channels, 2 * half, 3, padding=1), settings.activation)
        self.content = initialised(CONVOLUTIONS[nd](half, half, 3, padding=1), settings.activation)
        self.local = settings.local
        inputs = half + sum(settings.widths[:LEVELS]) + nd if self.local else half
        outputs = sum(self.parts) if self.local else settings.gaussians * sum(self.parts)
        self.hidden = initialised(nn.Linear(inputs, settings.hidden), settings.activation)
        self.numbers = nn.Linear(settings.hidden, outputs)
        nn.init.zeros_(self.numbers.weight)
        nn.init.zeros_(self.numbers.bias)

    def forward(self, x: Tensor, center: Tensor, levels: Sequence[Tensor], full: Sequence[int]) -> list[Tensor]:
        """Return what sigma, vector and turn are made of, `(B, G, nd)`, `(B, G, nd)` and `(B, G, 1 or 3)`.

        Args:
            x: `(B, widths[-1], *spatial)`, from which all Gaussians are read.
            center: `(B, G, nd)`, their positions.
            levels: Features of the levels, for `local`.
            full: Size of the grid that sets the unit of the coordinates.
        """
        content, gate = self.split(x).chunk(2, 1)
        content = self.activation(self.content(self.activation(content)))
        pooled = (content.flatten(2) * gate.flatten(2).softmax(-1)).sum(-1)
        if self.local:
            there = [_at(features, center, full) for features in levels]
            pooled = torch.cat([pooled.unsqueeze(1).expand(-1, self.count, -1), *there, center], -1)
        numbers = self.numbers(self.activation(self.hidden(pooled)))
        return list(numbers.view(len(x), self.count, -1).split(self.parts, -1))


def _at(features: Tensor, center: Tensor, full: Sequence[int]) -> Tensor:
    """Return features `(B, C, *spatial)` at positions `(B, G, nd)`, as `(B, G, C)`."""
    size, whole = (torch.tensor(list(n), device=center.device) for n in (features.shape[2:], full))
    voxels = (center * half_extent(full) / whole + 0.5) * size - 0.5
    return sample_points(features, voxels)


@dataclass(frozen=True)
class _State:
    """All of a step that the next one needs or the caller wants to see."""

    displacement: Tensor
    increment: Tensor
    warped: Tensor
    memory: list[Tensor | None]
    gaussians: Gaussians | None = None
    maps: tuple[Tensor, ...] = ()


class R2n2(RegistrationNetwork):
    """Predicts one step of Gaussians from the fixed image, the moving image warped so far, and what it remembers."""

    minimum_size = 16

    def __init__(self, settings: R2n2Settings) -> None:
        super().__init__()
        self.settings = settings
        nd, widths, style = settings.nd, settings.widths, (settings.activation, settings.norm)
        inputs = 2 + nd * (settings.coordinates + settings.forces + len(settings.flows))
        self.down = nn.ModuleList([Layer(nd, (inputs, widths[0]), 7, 2, style)])
        self.down.extend(Layer(nd, (widths[n], widths[n + 1]), 3, 2, style) for n in range(LEVELS - 1))
        last = (3, 2) if settings.last_down else (1, 1)
        self.last = Layer(nd, (widths[-2], widths[-1]), *last, style)
        self.units = nn.ModuleList(Gr2u(nd, c, settings.blocks, style, settings.noise) for c in widths[:LEVELS])
        self.places = nn.ModuleList(PositionHead(nd, c, settings) for c in widths[:LEVELS])
        self.parameter_head = ParameterHead(settings)
        use_channels_last(self, nd)

    def recurse(self, pair: ImagePair, recursions: int, *, attend: bool = False) -> Iterator[Recursion]:
        """Yield the state after each step, memory carried along; arguments as `RegistrationNetwork.recurse`.

        `f_t = f_{t-1} + l_t` in mode "sum", else `f_t = l_t + f_{t-1} o (id + l_t)`, f_0 = 0, on the grid of the
        images; `gaussians.render` gives the composed field without interpolation. The evidence of a step holds its
        Gaussians and where each level would place them.
        """
        fixed, moving = pair.fixed, pair.moving
        self.require_size(fixed)
        zero = fixed.new_zeros(fixed.shape[0], fixed.ndim - 2, *fixed.shape[2:])
        state = _State(zero, zero, moving, [None] * LEVELS)
        seen, moments = _standardized(fixed, *_statistics(fixed)), _statistics(moving)
        for _ in range(recursions):
            if self.checkpointed and torch.is_grad_enabled():
                # Only tensors, not those within a pair, tell the device on which the noise must be drawn again.
                state = checkpoint(self._advance, seen, moving, *moments, state, use_reentrant=False)
            else:
                state = self._advance(seen, moving, *moments, state)
            evidence = None
            if attend:
                maps = [
                    AttentionMap(f"position, level {level}", "fixed", values.mean(1, keepdim=True))
                    for level, values in enumerate(state.maps, 1)
                ]
                evidence = Evidence(maps, gaussians=state.gaussians)
            yield Recursion(state.displacement, state.increment, state.warped, evidence)

    def _advance(self, fixed: Tensor, moving: Tensor, mean: Tensor, deviation: Tensor, state: _State) -> _State:
        """Return the next state; `fixed` is standardised, `moving` has the mean and deviation given."""
        images = torch.cat([fixed, _standardized(state.warped, mean, deviation)], 1)
        gaussians, memory, maps = self(images, state.memory)
        increment = render([gaussians], self.settings.mode, fixed.shape[2:])
        if self.settings.mode == "sum":
            displacement = state.displacement + increment
        else:
            displacement = compose(state.displacement, increment)
        kept = memory if self.settings.memory else [None] * LEVELS
        return _State(displacement, increment, warp(moving, displacement), kept, gaussians, maps)

    def forward(
        self, images: Tensor, memory: list[Tensor | None]
    ) -> tuple[Gaussians, list[Tensor | None], tuple[Tensor, ...]]:
        """Predict one step.

        Args:
            images: `(B, 2, *spatial)`, fixed and warped moving image of mean 0 and deviation 1, within [-2, 2].
            memory: The state of each level; None at the first step.

        Returns:
            The Gaussians, the new states and the softmax maps of the positions of each level.
        """
        full = tuple(images.shape[2:])
        fixed, warped = images.split(1, 1)
        seen = [images, *lucas_kanade(fixed, warped, self.settings.flows)]
        if self.settings.forces:
            seen.append(demons_force(fixed, warped))
        x = shrink(torch.cat(seen, 1), [-(-n // self.settings.reduction) for n in full])
        if self.settings.coordinates:
            coordinates = grid_coordinates(x.shape[2:], full, images)
            x = torch.cat([x, coordinates.expand(len(x), *coordinates.shape[1:])], 1)
        states: list[Tensor | None] = []
        found, levels = [], []
        for down, unit, place, state in zip(self.down, self.units, self.places, memory, strict=True):
            with self._precision_for(x):
                x, kept = unit(down(x), state)
            states.append(kept)
            levels.append(x.float())
            found.append(place(levels[-1], grid_coordinates(x.shape[2:], full, images)))
        positions, weights, maps = zip(*found, strict=True)
        weight = torch.stack(weights).unsqueeze(-1)
        center = (weight * torch.stack(positions)).sum(0) / (weight.sum(0) + 1e-6)
        numbers = self.parameter_head(self.last(levels[-1]), center, levels, full)
        return self._gaussians(center, numbers, full), states, maps

    def _precision_for(self, x: Tensor) -> AbstractContextManager[None]:
        if min(x.shape[2:]) >= 2 * SMALLEST_HALF:  # halved by the convolution that comes first
            return self.precision(x.device)
        return single_precision(x.device)

    def _gaussians(self, center: Tensor, numbers: list[Tensor], full: tuple[int, ...]) -> Gaussians:
        """Return a step whose numbers keep to their limits (eq. 18 in 2D)."""
        settings, nd = self.settings, self.settings.nd
        width, vector, turn = numbers
        least = SMALLEST_SIGMA[nd] if settings.mode == "sum" else SMALLEST_COMPOSED / half_extent(full)
        sigma = least + settings.sigma_max * width.sigmoid()
        if nd == 2:
            rotation = rotation_2d(math.pi * turn[..., 0].sigmoid())
        else:
            length = turn.norm(dim=-1, keepdim=True).clamp_min(1e-6)
            rotation = rotation_3d(LARGEST_TURN * length.tanh() / length * turn)
        vector = vector.tanh()
        if settings.mode == "sum":
            return Gaussians(center, sigma, rotation, vector)
        # |diag(1 / sigma) rotation^T vector| <= kappa sqrt(e): the least determinant is at least 1 - kappa.
        turned = (rotation @ (sigma * vector).unsqueeze(-1)).squeeze(-1)
        step = Gaussians(center, sigma, rotation, settings.kappa * math.sqrt(math.e / nd) * turned)
        return limited(step, "joint", settings.kappa) if settings.mode == "joint" else step


def _statistics(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each image, `(B, 1, ...)`."""
    axes = tuple(range(1, image.ndim))
    return image.mean(axes, keepdim=True), image.std(axes, keepdim=True).clamp_min(1e-6)


def _standardized(image: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    return ((image - mean) / deviation).clamp(-CLAMP, CLAMP)
