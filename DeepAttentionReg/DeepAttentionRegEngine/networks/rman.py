"""RMAn-style recursive mutual attention network: the sub-network applied at every recursion.

Source: Zheng et al., MIUA 2022 (arXiv 2206.01863). The paper's abstract and figures settle the structure (Siamese
encoder of four residual down-sampling blocks, two mutual attention modules, residual up-sampling); widths, attention
formula and decoder are this project's choice, hence "RMAn-style".
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..warp import integrate_velocity, resize, resize_displacement
from .attention import MutualAttention
from .base import Evidence, StepNetwork
from .blocks import ResidualBlock, clamp_displacement, flow_head, pool

WIDTHS = {
    "tiny": (4, 8, 8, 16),
    "small": (8, 16, 16, 32),
    "base": (16, 32, 32, 64),
    "large": (16, 32, 64, 128),
}
LEVELS = 4


@dataclass(frozen=True)
class RmanSettings:
    """Network arguments of an RMAn method file.

    Attributes:
        nd: Spatial axes, 2 or 3.
        widths: Name in `WIDTHS`.
        attention: False gives the shared-weight recursive cascade, the ablation without mutual attention.
        attention_levels: After which of the four residual down-sampling blocks attention acts.
        heads: Attention heads.
        extent: Reference length of the position code in working-grid voxels.
        flow_level: 0 predicts the field at full resolution, 1 at half resolution (then enlarged by two).
        velocity_steps: Squarings of a stationary velocity per recursion; 0 predicts the displacement directly.
    """

    nd: int = 3
    widths: str = "small"
    attention: bool = True
    attention_levels: tuple[int, ...] = (3, 4)
    heads: int = 1
    extent: float = 64.0
    flow_level: int = 0
    velocity_steps: int = 0


class Rman(StepNetwork):
    """The sub-network of one recursion and, by `recurse`, its recursive application."""

    minimum_size = 32  # below this the 1/16 map has a single voxel and cannot be normalised

    def __init__(self, settings: RmanSettings) -> None:
        super().__init__()
        self.settings = settings
        nd, widths = settings.nd, WIDTHS[settings.widths]
        self.down = nn.ModuleList(
            ResidualBlock(nd, c_in, c_out) for c_in, c_out in zip((1, *widths[:-1]), widths, strict=True)
        )
        self.mutual = nn.ModuleDict()
        if settings.attention:
            for level in settings.attention_levels:
                self.mutual[str(level)] = MutualAttention(
                    nd, widths[level - 1], heads=settings.heads, stride=2**level, extent=settings.extent
                )
        self.fuse = ResidualBlock(nd, 2 * widths[3], widths[3])
        self.up = nn.ModuleList()
        channels = widths[3]
        for level in range(LEVELS - 1, settings.flow_level - 1, -1):
            self.up.append(ResidualBlock(nd, channels + 2 * widths[level], widths[level]))
            channels = widths[level]
        self.flow = flow_head(nd, channels)

    def forward(self, warped: Tensor, fixed: Tensor, evidence: Evidence | None = None) -> Tensor:
        """Predict one recursion's displacement, as `StepNetwork.forward`."""
        skips_a, skips_b, a, b = self.encode(warped, fixed)
        with torch.autocast(fixed.device.type, enabled=False):
            # On the CPU (torch 2.13) bfloat16 convolutions of maps of a dozen voxels return NaN at random.
            x = self.fuse(torch.cat([a, b], 1).float())
        for block, skip_a, skip_b in zip(self.up, reversed(skips_a), reversed(skips_b), strict=False):
            x = block(torch.cat([resize(x, skip_a.shape[2:]), skip_a, skip_b], 1))
        velocity = self.flow(x).to(fixed.dtype)  # integrated in single precision even under autocast
        flow = integrate_velocity(velocity, self.settings.velocity_steps)
        return clamp_displacement(resize_displacement(flow, fixed.shape[2:]))

    def encode(self, warped: Tensor, fixed: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Return the skips (before pooling) of both branches, fine to coarse, and their 1/16 features."""
        both = torch.cat([warped, fixed])
        skips_a, skips_b = [], []
        for level, block in enumerate(self.down, start=1):
            both = block(both)
            skip_a, skip_b = both.chunk(2)
            skips_a.append(skip_a)
            skips_b.append(skip_b)
            both = pool(both)
            if str(level) in self.mutual:
                both = torch.cat(self.mutual[str(level)](*both.chunk(2)))
        a, b = both.chunk(2)
        return skips_a, skips_b, a, b
