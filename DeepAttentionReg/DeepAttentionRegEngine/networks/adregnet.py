"""AD-RegNet-style network: Siamese U-Net, cross-attention and regional attention, field composed from coarse to fine.

Source: Iqbal, Siddiqui, Ul Haq, Razzak, arXiv 2602.07088. Its abstract settles the parts (3D U-Net, bidirectional
cross-attention at several scales, regional adaptive attention, multi-resolution synthesis of the field); widths,
operators and the order of steps are this project's choice, hence "AD-RegNet-style".
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..deform.warp import compose, identity_grid, integrate_velocity, resize, resize_displacement, sample, warp
from .base import AttentionMap, Evidence, StepNetwork
from .blocks import CONVOLUTIONS, InstanceNorm, clamp_displacement, flow_head, fold, single_precision
from .cross_attention import GlobalAttention, NeighbourhoodAttention, at_least_single
from .forces import Described, Flows, Guide, Guides, described, flows
from .regional import SLOPE, RegionalAttention

WIDTHS = {
    "tiny": (4, 8, 8, 16, 16),
    "slim": (16, 16, 32, 64, 64),
    "light": (16, 32, 48, 64, 64),
    "default": (16, 32, 64, 96, 128),
}
COARSEST = 4  # stride 16
# Finer levels have too many voxels to look at all of them. From here on, where an error counts 8 or 16 voxels, all is
# in single precision; on the CPU (torch 2.13) bfloat16 convolutions of a dozen voxels even return NaN at random.
GLOBAL_FROM = 3


@dataclass(frozen=True)
class AdregnetSettings:
    """Network arguments of an AD-RegNet-style method file.

    Attributes:
        nd: Spatial axes, 2 or 3.
        widths: Name in `WIDTHS`: channels at levels 0 to 4.
        cross_attention: False leaves out cross-attention and its motion tokens.
        regional_attention: False leaves out regional gains and relevance.
        levels: Coarsest level that adds to the field, 1 to 4; coarser ones only give features.
        flow_level: Finest level, which the field comes from: 1 for half resolution (then enlarged by two), 0 for full.
        folded: The first block works at half resolution too, on images folded by two (`blocks.fold`). Needs a field at
            half resolution.
        guides: Level and window of the optical flows between MIND descriptors of the images, the moving one warped by
            the field so far, that the level's field starts from (`forces.Guide`), whatever their contrasts.
        correlated: Windows of further such flows, at level 1, between the images themselves, as RMAn has them.
        velocity_steps: Squarings of each level's stationary velocity; 0 predicts displacements directly.
        neighbourhood_levels: Levels below 3 with neighbourhood attention.
        neighbourhood_radius: Its reach in voxels of the level.
        regions: Soft regions of the regional attention.
    """

    nd: int = 3
    widths: str = "default"
    cross_attention: bool = True
    regional_attention: bool = True
    levels: int = 4
    flow_level: int = 1
    folded: bool = False
    guides: Guides = ()
    correlated: tuple[int, ...] = ()
    velocity_steps: int = 0
    neighbourhood_levels: tuple[int, ...] = (2,)
    neighbourhood_radius: int = 1
    regions: int = 8

    def __post_init__(self) -> None:
        """Raise ValueError for a level that there is not, or for folded images with a field at full resolution."""
        if not 1 <= self.levels <= COARSEST or self.flow_level not in (0, 1):
            msg = f"levels ({self.levels}) must be 1 to {COARSEST}, flow_level ({self.flow_level}) 0 or 1"
            raise ValueError(msg)
        if self.folded and self.flow_level == 0:
            msg = "folded images need a field at half resolution, flow_level 1"
            raise ValueError(msg)
        if not {level for level, _ in self.guides} <= set(range(self.flow_level, self.levels + 1)):
            msg = f"levels of guides {self.guides} must lie in {self.flow_level} to {self.levels}"
            raise ValueError(msg)
        if self.correlated and self.flow_level != 1:
            msg = "correlated windows need a field at half resolution, flow_level 1"
            raise ValueError(msg)
        if not set(self.neighbourhood_levels) <= set(range(self.flow_level, GLOBAL_FROM)):
            msg = f"neighbourhood_levels {self.neighbourhood_levels} must lie in {self.flow_level} to {GLOBAL_FROM - 1}"
            raise ValueError(msg)


@dataclass(frozen=True)
class LevelState:
    """What one level hands to the next finer one.

    Attributes:
        features: `(B, C, *spatial)`.
        displacement: `(B, nd, *spatial)` in voxels of the level, all coarser levels included; None above `levels`.
        relevance: `(B, 1, *spatial)`; None without regional attention.
    """

    features: Tensor
    displacement: Tensor | None
    relevance: Tensor | None

    def enlarged(self, spatial: Sequence[int]) -> "LevelState":
        """Return the state on the grid of a finer level."""
        displacement, relevance = self.displacement, self.relevance
        return LevelState(
            resize(self.features, spatial),
            None if displacement is None else resize_displacement(displacement, spatial),
            None if relevance is None else resize(relevance, spatial),
        )


@dataclass(frozen=True)
class Pyramid:
    """What one recursion predicts at all levels.

    The maps of level l have `ceil(spatial / 2^l)` voxels and cover the whole image: an image resized to their size lies
    on their grid.

    Attributes:
        displacement: psi, `(B, nd, *spatial)` in voxels, single precision.
        displacements: By level, coarsest first: the field so far, `(B, nd, *size)` in voxels of the level's grid.
        relevances: By level: `(B, 1, *size)` in (0, 1); empty without regional attention.
    """

    displacement: Tensor
    displacements: dict[int, Tensor]
    relevances: dict[int, Tensor]


def _single_precision(device: torch.device, *, when: bool) -> AbstractContextManager[None]:
    """Return a context that computes in single precision when told so, and as around it otherwise."""
    return single_precision(device) if when else nullcontext()


class Block(nn.Module):
    """Two convolutions of kernel 3, each with instance normalisation and leaky rectification."""

    def __init__(self, nd: int, channels_in: int, channels_out: int, stride: int = 1, *, image: bool = False) -> None:
        """Build the block; `image` tells that its input is an image, which is not rounded.

        Its mean is large beside its detail; what would be rounded there is most of what is rounded at all.
        """
        super().__init__()
        self.image = image
        layer = CONVOLUTIONS[nd]
        self.first = layer(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.second = layer(channels_out, channels_out, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(InstanceNorm(channels_out) for _ in range(2))
        for convolution in (self.first, self.second):
            nn.init.kaiming_normal_(convolution.weight, a=SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, channels_in, *spatial)` to `(B, channels_out, *spatial / stride)`."""
        with _single_precision(x.device, when=self.image):
            x = self.first(x)
        x = F.leaky_relu(self.norms[0](x), SLOPE, inplace=True)
        return F.leaky_relu(self.norms[1](self.second(x)), SLOPE, inplace=True)


class Level(nn.Module):
    """One step of the synthesis: align with the field so far, compare, predict what remains, compose."""

    def __init__(self, settings: AdregnetSettings, level: int) -> None:
        super().__init__()
        self.level, self.velocity_steps = level, settings.velocity_steps
        nd, widths = settings.nd, WIDTHS[settings.widths]
        width, coarsest = widths[level], level == COARSEST
        self.exchange = self._exchange(settings, width) if settings.cross_attention else None
        self.regional = None
        if settings.regional_attention:
            self.regional = RegionalAttention(nd, width, regions=settings.regions, coarser=not coarsest)
        channels = 2 * width + (0 if coarsest else widths[level + 1]) + (nd if level < settings.levels else 0)
        if self.exchange is not None:
            channels += self.exchange.motion_channels
        self.block = Block(nd, channels, width)
        self.guides = tuple((at, window) for at, window in settings.guides if at == level)
        self.correlated = settings.correlated if level == settings.flow_level else ()
        count = len(self.guides) + len(self.correlated)
        self.guide = Guide(nd, width, count, correlated=bool(self.correlated)) if count else None
        guided = bool(settings.guides or settings.correlated)
        self.flow = flow_head(nd, width, guided=guided) if level <= settings.levels else None

    def _exchange(self, settings: AdregnetSettings, width: int) -> GlobalAttention | NeighbourhoodAttention | None:
        if self.level >= GLOBAL_FROM:
            return GlobalAttention(settings.nd, width)
        if self.level in settings.neighbourhood_levels:
            return NeighbourhoodAttention(settings.nd, width, radius=settings.neighbourhood_radius)
        return None

    def forward(
        self,
        moving: Tensor,
        fixed: Tensor,
        coarser: LevelState | None,
        described: tuple[Described, Described],
        evidence: Evidence | None,
    ) -> LevelState:
        """Return the state of this level.

        Args:
            moving: `(B, C, *spatial)`, features of the moving image.
            fixed: Same shape.
            coarser: State of the next coarser level; None at the coarsest.
            described: What flows are computed of, of the moving and the fixed image.
            evidence: Add to it which places the fixed image looked at.
        """
        above = None if coarser is None else coarser.enlarged(fixed.shape[2:])
        field = None if above is None else above.displacement
        a = moving if field is None else warp(moving.to(field.dtype), field).to(moving.dtype)
        b, relevance = fixed, None
        inputs = [x for x in (field, None if above is None else above.features) if x is not None]
        if self.exchange is not None:
            if evidence is not None and isinstance(self.exchange, GlobalAttention):
                name = f"level {self.level}"
                evidence.attention.append(self.exchange.observed(a, b, name, 2**self.level))
            a, b, motion = self.exchange(a, b)
            inputs.append(motion)
        if self.regional is not None:
            b, a, relevance = self.regional(b, a, None if above is None else above.relevance)
        features = self.block(torch.cat([x.to(b.dtype) for x in (b, a, *inputs)], 1))
        flow = None if self.guide is None else self._flows(*described, field)
        return LevelState(features, self._synthesise(features, flow, field, relevance), relevance)

    @torch.no_grad()
    def _flows(self, moving: Described, fixed: Described, field: Tensor | None) -> Flows:
        """Return the optical flows between what is known of the images, the moving one warped by the field so far."""
        structure = {at: moving.structure[at] for at, _ in self.guides}
        normal, known = (moving.normal, fixed.normal) if self.correlated else (None, None)
        if field is not None:
            structure = {at: warp(values, field.to(values.dtype)) for at, values in structure.items()}
            normal = None if normal is None else warp(normal, resize_displacement(field.float(), normal.shape[2:]))
        return flows(Described(fixed.structure, known), Described(structure, normal), self.guides, self.correlated)

    def _synthesise(
        self, features: Tensor, flow: Flows | None, field: Tensor | None, relevance: Tensor | None
    ) -> Tensor | None:
        """Return the field so far composed with this level's."""
        if self.flow is None:
            return None
        with single_precision(features.device):
            velocity = self.flow(at_least_single(features))
            if self.guide is not None and flow is not None:
                velocity = velocity + self.guide(at_least_single(features), flow)
        velocity = velocity if relevance is None else relevance * velocity
        step = integrate_velocity(velocity, self.velocity_steps)
        return step if field is None else compose(field, step)


class Adregnet(StepNetwork):
    """The network of one recursion and, by `recurse`, its recursive application."""

    minimum_size = 32  # below this the 1/16 map has a single voxel and cannot be normalised

    def __init__(self, settings: AdregnetSettings) -> None:
        super().__init__()
        self.settings = settings
        widths = WIDTHS[settings.widths]
        inputs = (2**settings.nd if settings.folded else 1, *widths[:-1])
        strides = (1, 1 if settings.folded else 2, 2, 2, 2)
        self.encoder = nn.ModuleList(
            Block(settings.nd, *sizes, image=level == 0)
            for level, sizes in enumerate(zip(inputs, widths, strides, strict=True))
        )
        self.decoder = nn.ModuleDict(
            {str(level): Level(settings, level) for level in range(COARSEST, settings.flow_level - 1, -1)}
        )

    def forward(self, warped: Tensor, fixed: Tensor, evidence: Evidence | None = None) -> Tensor:
        """Predict one recursion's displacement, as `StepNetwork.forward`."""
        return self.pyramid(warped, fixed, evidence).displacement

    def pyramid(self, warped: Tensor, fixed: Tensor, evidence: Evidence | None = None) -> Pyramid:
        """Predict one recursion's displacement together with the field and relevance of every level.

        Call it within `precision`, as `recurse` calls `forward`.

        Args:
            warped: `(B, 1, *spatial)`, moving image warped by the displacement so far.
            fixed: Same shape.
            evidence: Add to it what was attended to.
        """
        spatial = fixed.shape[2:]
        moving_features, fixed_features = self._encode(warped), self._encode(fixed)
        guides, correlated = self.settings.guides, self.settings.correlated
        known = described(_padded(warped), guides, correlated), described(_padded(fixed), guides, correlated)
        states: dict[int, LevelState] = {}
        for level in range(COARSEST, self.settings.flow_level - 1, -1):
            step, features = self.decoder[str(level)], (moving_features[level], fixed_features[level])
            with _single_precision(fixed.device, when=level >= GLOBAL_FROM):
                states[level] = step(*features, states.get(level + 1), known, evidence)
        fields = {level: state.displacement for level, state in states.items() if state.displacement is not None}
        relevances = {
            level: _cropped(state.relevance, 2**level, spatial)
            for level, state in states.items()
            if state.relevance is not None
        }
        if evidence is not None:
            evidence.maps += [AttentionMap(f"relevance, level {n}", "fixed", shown) for n, shown in relevances.items()]
        finest = fields[self.settings.flow_level]
        padded = resize_displacement(finest, [n * 2**self.settings.flow_level for n in finest.shape[2:]])
        whole = F.pad(padded, [-side for side in _excess(spatial)])
        cropped = {level: _cropped(field, 2**level, spatial, vectors=True) for level, field in fields.items()}
        return Pyramid(clamp_displacement(whole), cropped, relevances)

    def _encode(self, image: Tensor) -> dict[int, Tensor]:
        """Return the features by level of an image, repeated at the ends to a multiple of the coarsest stride.

        Levels finer than the field are left out. One image at a time: both at once take more memory, no less time.
        """
        x, features = _padded(image), {}
        x = fold(x) if self.settings.folded else x
        for level, stage in enumerate(self.encoder):
            with _single_precision(image.device, when=level >= GLOBAL_FROM):
                x = stage(at_least_single(x) if level >= GLOBAL_FROM else x)
            if level >= self.settings.flow_level:
                features[level] = x
        return features


def _excess(spatial: Sequence[int]) -> list[int]:
    """Return what `F.pad` has to add at the ends for a multiple of the coarsest stride."""
    return [side for n in reversed(spatial) for side in (0, -n % 2**COARSEST)]


def _padded(image: Tensor) -> Tensor:
    """Repeat the ends of an image to a multiple of the coarsest stride."""
    return F.pad(image, _excess(image.shape[2:]), mode="replicate")


def _cropped(maps: Tensor, stride: int, spatial: Sequence[int], *, vectors: bool = False) -> Tensor:
    """Resample a level's maps, which cover the padded image, to `ceil(spatial / stride)` voxels over the image itself.

    Args:
        maps: `(B, C, *size)`.
        stride: Voxels of the image per voxel of the maps.
        spatial: Size of the image.
        vectors: The maps are displacements in voxels of their grid, to be in voxels of the new one.
    """
    sizes = [math.ceil(n / stride) for n in spatial]
    if [stride * n for n in maps.shape[2:]] == list(spatial):
        return maps
    ratio = torch.tensor([n / (stride * size) for n, size in zip(spatial, sizes, strict=True)])
    ratio = ratio.to(maps).view(1, -1, *[1] * len(sizes))
    cropped = sample(maps, (identity_grid(sizes, maps) + 0.5) * ratio - 0.5)
    return cropped / ratio if vectors else cropped
