"""AC-RegNet: the U-Net that AGF builds on, the baseline without attention and without fusion of scales.

Source: Mansilla, Milone, Ferrante 2020 and its TensorFlow code. The field comes from a plain convolution that is almost
zero at the start; the original normalises it, so that its fields start as noise of a voxel.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..deform.warp import shrink
from .base import Evidence, StepNetwork
from .blocks import clamp_displacement, convolution, flow_head, norm_layer, single_precision

SINGLE_FROM = 3
WIDTHS = {"tiny": (4, 8, 8, 16), "slim": (8, 16, 24, 24), "default": (16, 32, 64, 128)}


def halve(x: Tensor) -> Tensor:
    """Halve every spatial axis by averaging, odd sizes rounded up."""
    return shrink(x, [(n + 1) // 2 for n in x.shape[2:]])


def enlarge(x: Tensor, like: Tensor) -> Tensor:
    """Repeat voxels until a feature map has the spatial size of another."""
    return F.interpolate(x, size=like.shape[2:])


def run_stage(stage: nn.Module, x: Tensor, scale: int) -> Tensor:
    """Apply a stage of scale 1 to 4; the coarse ones, where an error counts 4 or 8 voxels, in single precision."""
    if scale < SINGLE_FROM:
        return stage(x)
    with single_precision(x.device):
        return stage(x.float())


class Unit(nn.Sequential):
    """Convolution of kernel 3, normalisation, exponential linear unit."""

    def __init__(self, nd: int, channels_in: int, channels_out: int, norm: str) -> None:
        super().__init__(
            convolution(nd, channels_in, channels_out), norm_layer(norm, nd, channels_out), nn.ELU(inplace=True)
        )


@dataclass(frozen=True)
class AcregnetSettings:
    """Network arguments of an AC-RegNet method file.

    Attributes:
        nd: Spatial axes, 2 or 3.
        widths: Name in `WIDTHS`: channels at scales 1 to 4.
        norm: "batch" as published or "instance".
        dropout: Share of activations left out ahead of each step of the decoder in training.
    """

    nd: int = 3
    widths: str = "default"
    norm: str = "batch"
    dropout: float = 0.5


class Acregnet(StepNetwork):
    """The network of one recursion; published with one recursion."""

    minimum_size = 16  # below this the 1/8 map has a single voxel and cannot be normalised

    def __init__(self, settings: AcregnetSettings) -> None:
        super().__init__()
        self.settings = settings
        nd, norm, widths = settings.nd, settings.norm, WIDTHS[settings.widths]
        self.down = nn.ModuleList(
            nn.Sequential(Unit(nd, c_in, c_out, norm), convolution(nd, c_out, c_out), norm_layer(norm, nd, c_out))
            for c_in, c_out in zip((2, *widths[:-1]), widths, strict=True)
        )
        self.up, self.merge = nn.ModuleList(), nn.ModuleList()
        for c_in, c_out in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.up.append(nn.Sequential(convolution(nd, c_in, c_out), norm_layer(norm, nd, c_out)))
            self.merge.append(nn.Sequential(Unit(nd, c_out, c_out, norm), Unit(nd, c_out, c_out, norm)))
        self.flow = flow_head(nd, widths[0])

    def forward(self, warped: Tensor, fixed: Tensor, evidence: Evidence | None = None) -> Tensor:
        """Predict one recursion's displacement, as `StepNetwork.forward`."""
        x, skips = torch.cat([warped, fixed], 1), []
        for scale, stage in enumerate(self.down, start=1):
            x = run_stage(stage, x if scale == 1 else halve(F.elu(x)), scale)
            skips.append(x)
        x = F.elu(x)
        for scale, up, merge in zip((3, 2, 1), self.up, self.merge, strict=True):
            skip = skips[scale - 1]
            x = enlarge(F.dropout(x, self.settings.dropout, self.training), skip)
            x = run_stage(merge, F.elu(run_stage(up, x, scale) + skip), scale)
        with single_precision(fixed.device):
            return clamp_displacement(self.flow(x.float()))
