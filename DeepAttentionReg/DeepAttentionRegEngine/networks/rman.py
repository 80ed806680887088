"""RMAn-style recursive mutual attention network: the sub-network applied at every recursion.

Source: Zheng et al., MIUA 2022 (arXiv 2206.01863). The paper's abstract and figures settle the structure (Siamese
encoder of four residual down-sampling blocks, two mutual attention modules, residual up-sampling); widths, attention
formula and decoder are this project's choice, hence "RMAn-style".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..deform.warp import integrate_velocity
from .attention import MutualAttention
from .base import Evidence, ImagePair, Recursion, StepNetwork
from .blocks import (
    ResidualBlock,
    clamp_displacement,
    enlarge,
    flow_head,
    fold,
    pool,
    single_precision,
    use_channels_last,
)
from .forces import Described, Flows, Guide, Guides, described, flows

WIDTHS = {
    "tiny": (4, 8, 8, 16),
    "small": (8, 16, 16, 32),
    "slim": (16, 16, 32, 64),
    "base": (16, 32, 32, 64),
    "large": (16, 32, 64, 128),
}
LEVELS = 4
DECODERS = ("fused", "siamese")


@dataclass(frozen=True)
class RmanSettings:
    """Network arguments of an RMAn method file.

    Attributes:
        nd: Spatial axes, 2 or 3.
        widths: Name in `WIDTHS`.
        attention: False leaves mutual attention out.
        attention_levels: After which of the four residual down-sampling blocks attention acts.
        heads: Attention heads.
        tied: Queries and keys are one projection, so that both directions of attention read one similarity matrix.
        extent: Reference length of the position code in working-grid voxels.
        siamese: False encodes both images as two channels of one; without attention, this is RCn, the recursive
            cascade with shared weights.
        decoder: "fused" decodes both images' features together, "siamese" each by the same weights, to join before the
            last convolution.
        flow_level: 0 predicts the field at full resolution, 1 at half resolution (then enlarged by two).
        folded: The first block works at half resolution too, on images folded by two (`blocks.fold`), which saves a
            third of the time. Needs a field at half resolution, which sees the first block's features pooled anyway.
        guides: Level and window of the optical flows between MIND descriptors of the images that the field starts from
            (`forces.Guide`): where to go, whatever their contrasts.
        correlated: Windows, in voxels of half resolution, of further such flows between the images themselves, locally
            normalised: where to go if both are of one contrast, in more detail. How well they correlate there is told
            to what weighs the flows. Needs a field at half resolution.
        velocity_steps: Squarings of a stationary velocity per recursion; 0 predicts the displacement directly.

    Raises:
        ValueError: For an unknown decoder, for attention or a Siamese decoder without a Siamese encoder, or for folded
            images with a field at full resolution.
    """

    nd: int = 3
    widths: str = "small"
    attention: bool = True
    attention_levels: tuple[int, ...] = (3, 4)
    heads: int = 1
    tied: bool = False
    extent: float = 64.0
    siamese: bool = True
    decoder: str = "fused"
    flow_level: int = 0
    folded: bool = False
    guides: Guides = ()
    correlated: tuple[int, ...] = ()
    velocity_steps: int = 0

    def __post_init__(self) -> None:
        if self.folded and self.flow_level == 0:
            msg = "folded images need a field at half resolution, flow_level 1"
            raise ValueError(msg)
        if self.decoder not in DECODERS:
            msg = f"decoder {self.decoder!r} is unknown; known: {', '.join(DECODERS)}"
            raise ValueError(msg)
        if self.guided and self.decoder == "siamese":
            msg = "guides need a fused decoder"
            raise ValueError(msg)
        if self.correlated and self.flow_level != 1:
            msg = "correlated windows need a field at half resolution, flow_level 1"
            raise ValueError(msg)
        if not self.siamese and (self.attention or self.decoder == "siamese"):
            msg = "attention and a Siamese decoder need a Siamese encoder"
            raise ValueError(msg)

    @property
    def guided(self) -> int:
        """How many optical flows the field starts from."""
        return len(self.guides) + len(self.correlated)


class Rman(StepNetwork):
    """The sub-network of one recursion and, by `recurse`, its recursive application."""

    minimum_size = 32  # below this the 1/16 map has a single voxel and cannot be normalised

    def __init__(self, settings: RmanSettings) -> None:
        super().__init__()
        self.settings = settings
        nd, widths = settings.nd, WIDTHS[settings.widths]
        side_by_side = 2 if settings.siamese and settings.decoder == "fused" else 1
        attention_levels = settings.attention_levels if settings.attention else ()
        images = 1 if settings.siamese else 2
        inputs = (images * 2**nd if settings.folded else images, *widths[:-1])
        self.down = nn.ModuleList(ResidualBlock(nd, c_in, c_out) for c_in, c_out in zip(inputs, widths, strict=True))
        self.mutual = nn.ModuleDict()
        for level in attention_levels:
            self.mutual[str(level)] = MutualAttention(
                nd, widths[level - 1], level=level, heads=settings.heads, tied=settings.tied, extent=settings.extent
            )
        channels = widths[-1]
        self.fuse = ResidualBlock(nd, side_by_side * channels, channels)
        self.up = nn.ModuleList()
        for level in range(LEVELS - 1, settings.flow_level - 1, -1):
            self.up.append(ResidualBlock(nd, channels + side_by_side * widths[level], widths[level]))
            channels = widths[level]
        self.guide = None
        if settings.guided:
            self.guide = Guide(nd, channels, settings.guided, correlated=bool(settings.correlated))
        channels *= 2 if settings.decoder == "siamese" else 1
        self.flow = flow_head(nd, channels, guided=bool(settings.guided))
        use_channels_last(self, nd)

    def recurse(self, pair: ImagePair, recursions: int, *, attend: bool = False) -> Iterator[Recursion]:
        """Yield the state after each recursion, as `StepNetwork.recurse`.

        The first block, the costliest, sees the fixed image once. Deeper ones see both images as a batch, which PyTorch
        computes faster than one after the other.
        """
        if not self.settings.siamese:
            yield from super().recurse(pair, recursions, attend=attend)
            return
        self.require_size(pair.fixed)
        with self.precision(pair.fixed.device):
            known = _Known(self, self.first(pair.fixed), self.described(pair.fixed))
        yield from known.recurse(pair, recursions, attend=attend)

    def forward(self, warped: Tensor, fixed: Tensor, evidence: Evidence | None = None) -> Tensor:
        """Predict one recursion's displacement, as `StepNetwork.forward`."""
        images = [warped, fixed] if self.settings.siamese else [torch.cat([warped, fixed], 1)]
        flow = self.flows(warped, self.described(fixed))
        return self.predict([self.first(image) for image in images], flow, fixed.shape[2:], evidence)

    def first(self, image: Tensor) -> Tensor:
        """Return the features of the first block."""
        return self.down[0](fold(image) if self.settings.folded else image)

    def described(self, image: Tensor) -> Described:
        """Return what the optical flows are computed of."""
        return described(image, self.settings.guides, self.settings.correlated)

    def flows(self, warped: Tensor, fixed: Described) -> Flows:
        """Return the optical flows; no gradient flows through them.

        Args:
            warped: `(B, 1, *spatial)`, moving image warped by the displacement so far.
            fixed: Of the fixed image.
        """
        return flows(fixed, self.described(warped), self.settings.guides, self.settings.correlated)

    def encode(self, branches: list[Tensor], evidence: Evidence | None = None) -> list[tuple[Tensor, ...]]:
        """Return the features of the four blocks and those at 1/16, fine to coarse, a tuple over the branches each.

        Args:
            branches: Output of the first block for the warped moving and the fixed image, or for both as one.
            evidence: Add to it what was attended to.
        """
        features = [tuple(branches)]
        for level in range(1, LEVELS + 1):
            inputs = list(features[-1]) if level == 1 and self.settings.folded else [pool(x) for x in features[-1]]
            if str(level) in self.mutual:
                inputs = self.mutual[str(level)](*inputs, evidence)
            if level < LEVELS:
                inputs = self.down[level](torch.cat(inputs)).chunk(len(branches))
            features.append(tuple(inputs))
        return features

    def predict(
        self,
        branches: list[Tensor],
        flow: Flows,
        spatial: Sequence[int],
        evidence: Evidence | None = None,
    ) -> Tensor:
        """Return one recursion's displacement on a grid of size `spatial`; see `encode` and `flows`."""
        siamese = self.settings.decoder == "siamese"
        *skips, coarsest = self.encode(branches, evidence)
        sizes = [spatial, *(maps[0].shape[2:] for maps in skips[1:])]
        join = 0 if siamese else 1  # the decoder's streams are a batch, or one stream has the channels of both images
        with single_precision(coarsest[0].device):
            x = self.fuse(torch.cat(coarsest, join).float())
        for level, block in zip(range(LEVELS - 1, self.settings.flow_level - 1, -1), self.up, strict=True):
            x = block(torch.cat([enlarge(x, sizes[level]), torch.cat(skips[level], join)], 1))
        velocity = self.flow(torch.cat(x.chunk(2), 1) if siamese else x).float()
        if self.guide is not None:
            velocity = velocity + self.guide(x, flow)
        found = integrate_velocity(velocity, self.settings.velocity_steps)
        for size in reversed(sizes[: self.settings.flow_level]):
            found = 2 * enlarge(found, size)
        return clamp_displacement(found)


class _Known(StepNetwork):
    """A network that has seen the fixed image: features of the first block, descriptors."""

    def __init__(self, network: Rman, features: Tensor, described: Described) -> None:
        super().__init__()
        self.network, self.features, self.described = network, features, described
        self.half_precision, self.checkpointed = network.half_precision, network.checkpointed

    def forward(self, warped: Tensor, fixed: Tensor, evidence: Evidence | None = None) -> Tensor:
        flow = self.network.flows(warped, self.described)
        return self.network.predict([self.network.first(warped), self.features], flow, fixed.shape[2:], evidence)
