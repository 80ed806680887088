"""U-Net of the size of VoxelMorph-2: the baseline without attention, applied recursively like the other networks.

Source: Balakrishnan et al., TMI 2019 (arXiv 1809.05231), in the widths of Recursive Cascaded Networks (Zhao et al.,
ICCV 2019); half-resolution velocity after Dalca et al., MICCAI 2018 (arXiv 1805.04605).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..deform.warp import integrate_velocity, resize_displacement
from .base import Evidence, StepNetwork
from .blocks import SLOPE, clamp_displacement, convolution, flow_head, single_precision, use_channels_last

ENCODER = (16, 32, 32, 32)
DECODER = (32, 32, 32, 32, 32, 16, 16)


@dataclass(frozen=True)
class VoxelmorphSettings:
    """Network arguments of a VoxelMorph method file.

    Attributes:
        nd: Spatial axes, 2 or 3.
        half_resolution: Leave out the last enlargement, predict at half resolution and enlarge the field by two.
        velocity_steps: Squarings of a stationary velocity per recursion; 0 predicts the displacement directly.
    """

    nd: int = 3
    half_resolution: bool = False
    velocity_steps: int = 0


class Voxelmorph(StepNetwork):
    """U-Net over both images as channels: strided convolutions down, nearest-neighbour enlargement up, no norm."""

    def __init__(self, settings: VoxelmorphSettings) -> None:
        super().__init__()
        self.settings = settings
        nd, images = settings.nd, 2
        encoder = zip((images, *ENCODER[:-1]), ENCODER, strict=True)
        self.down = nn.ModuleList(convolution(nd, c_in, c_out, stride=2) for c_in, c_out in encoder)
        # After 1/16, the output of the decoder block before and, where it was enlarged, the skip of the same size.
        skips = (0, ENCODER[2], ENCODER[1], ENCODER[0], 0, 0 if settings.half_resolution else images, 0)
        decoder = zip((ENCODER[3], *DECODER[:-1]), skips, DECODER, strict=True)
        self.up = nn.ModuleList(convolution(nd, before + skip, c_out) for before, skip, c_out in decoder)
        self.flow = flow_head(nd, DECODER[-1])
        use_channels_last(self, nd)

    def forward(self, warped: Tensor, fixed: Tensor, evidence: Evidence | None = None) -> Tensor:
        """Predict one recursion's displacement, as `StepNetwork.forward`."""
        images = torch.cat([warped, fixed], 1)
        skips = [images]
        for block in self.down[:3]:
            skips.append(_active(block, skips[-1]))
        with single_precision(fixed.device):
            x = _active(self.up[0], _active(self.down[3], skips[-1].float()))
        for block, skip in zip(self.up[1:4], reversed(skips[1:]), strict=True):
            x = _active(block, _joined(x, skip))
        x = _active(self.up[4], x)
        if not self.settings.half_resolution:
            x = _joined(x, images)
        for block in self.up[5:]:
            x = _active(block, x)
        flow = integrate_velocity(self.flow(x).float(), self.settings.velocity_steps)
        if self.settings.half_resolution:
            flow = _cropped(resize_displacement(flow, [2 * n for n in flow.shape[2:]]), images)
        return clamp_displacement(flow)


def _active(block: nn.Module, x: Tensor) -> Tensor:
    return F.leaky_relu_(block(x), SLOPE)


def _joined(x: Tensor, skip: Tensor) -> Tensor:
    return torch.cat([_cropped(F.interpolate(x, scale_factor=2.0, mode="nearest"), skip), skip], 1)


def _cropped(x: Tensor, like: Tensor) -> Tensor:
    """Drop the slice that doubling added to an odd axis, whose half was rounded up."""
    return x[(slice(None), slice(None), *(slice(n) for n in like.shape[2:]))]
