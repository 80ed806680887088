"""Self-attention of displacement fields (DFSA): how much of a coarser field a finer scale takes over."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import CONVOLUTIONS

CHANNELS = 16
SLOPE = 0.1
FEW_ROWS = 20480  # rows, of all channels together, up to which PyTorch convolves an ungrouped map slowly on the CPU
GROUPED = {4: F.conv2d, 5: F.conv3d}  # by axes of a tensor
EXTENT = 8.0  # an eighth of the grid counts as a displacement of 1, at every scale


class FieldAttention(nn.Module):
    """A weight in (0, 1) for every component of a displacement at every voxel, from that component alone.

    One branch per axis, none shared. All weights are 1/2 at the start.

    Source: He, He, Cao 2022 (AGF), eq. 6; the layers are this project's choice.
    """

    def __init__(self, nd: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(self._branch(nd) for _ in range(nd))

    @staticmethod
    def _branch(nd: int) -> nn.Sequential:
        layer = CONVOLUTIONS[nd]
        last = layer(CHANNELS, 1, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return nn.Sequential(
            layer(1, CHANNELS, 3, padding=1),
            nn.LeakyReLU(SLOPE, inplace=True),
            layer(CHANNELS, CHANNELS, 3, padding=1),
            nn.LeakyReLU(SLOPE, inplace=True),
            last,
        )

    def forward(self, displacement: Tensor) -> Tensor:
        """Return the weights of a displacement; both `(B, nd, *spatial)`, the displacement in voxels."""
        size = torch.tensor(displacement.shape[2:], device=displacement.device, dtype=displacement.dtype)
        scaled = displacement * (EXTENT / size).view(1, -1, *[1] * (displacement.ndim - 2))
        if CHANNELS * displacement[0, 0, ..., 0].numel() <= FEW_ROWS:
            return self._together(scaled).sigmoid()
        components = scaled.split(1, dim=1)
        return torch.cat([branch(part) for branch, part in zip(self.branches, components, strict=True)], 1).sigmoid()

    def _together(self, x: Tensor) -> Tensor:
        """Return what the branches make of components `(B, nd, *spatial)`, by one grouped convolution a layer."""
        for layers in zip(*self.branches, strict=True):
            if isinstance(layers[0], nn.LeakyReLU):
                x = layers[0](x)
                continue
            weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
            x = GROUPED[x.ndim](x, weight, bias, padding=1, groups=len(layers))
        return x
