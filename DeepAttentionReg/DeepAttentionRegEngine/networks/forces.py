"""The demons force: which way, and how far, the moving image wants to go at each voxel; and networks guided by it."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, avg_pool3d, pad

from ..mind import mind_ssc
from ..warp import resize_displacement
from .blocks import CONVOLUTIONS, pool

POOLS = {2: avg_pool2d, 3: avg_pool3d}
NOISE = 1e-3  # of images of deviation 1: smaller contrasts say nothing
GUIDED_DEVIATION = 3e-3  # of the weights of a guided flow head: features learn from the first step
LARGEST_GAIN = 2.0  # of forces that guide, half of it at the start; with more, recursions overshoot
BLUR = 5  # voxels, of the forces that guide
DESCRIPTOR_NOISE = 1e-4  # of a descriptor's channels, which lie in (0, 1]


def demons_force(fixed: Tensor, warped: Tensor) -> Tensor:
    """Return the displacement in voxels by which linearly varying intensities would agree.

    `sum_c (F - W)_c grad_c / sum_c (|grad_c|^2 + (F - W)_c^2)` of the channels averaged over three voxels per axis,
    grad being that of their mean; no longer than half a voxel. Source: Thirion 1998, with the symmetric gradient of
    Vercauteren et al. 2009.

    Args:
        fixed: `(B, C, *spatial)`: an image of mean 0 and deviation 1, or a descriptor.
        warped: Same shape.

    Returns:
        `(B, nd, *spatial)`, components in array axis order.
    """
    channels = fixed.shape[1]
    noise = NOISE if channels == 1 else DESCRIPTOR_NOISE * channels
    fixed, warped = (POOLS[fixed.ndim - 2](image, 3, 1, 1, count_include_pad=False) for image in (fixed, warped))
    difference, slope = fixed - warped, gradient((fixed + warped) / 2)
    power = slope.square().sum((1, 2)) + difference.square().sum(1)
    return (difference[:, :, None] * slope).sum(1) / (power[:, None] + noise)


class Guide(nn.Module):
    """What forces of several scales ask for, each times a gain below 2 that features decide at every voxel; 1 at first.

    Normalised features know neither how far to go nor which way all is displaced; forces do. A network that starts from
    them learns where to trust them and what they miss, which takes far fewer pairs than learning to match.
    """

    def __init__(self, nd: int, channels: int, count: int) -> None:
        """Build the module for features of so many channels and forces of `count` scales."""
        super().__init__()
        self.gain = CONVOLUTIONS[nd](channels, count, 3, padding=1)
        nn.init.zeros_(self.gain.weight)
        nn.init.zeros_(self.gain.bias)

    def forward(self, features: Tensor, forces: Sequence[Tensor]) -> Tensor:
        """Return a velocity `(B, nd, *spatial)` in voxels of the features' grid.

        Args:
            features: `(B, channels, *spatial)`.
            forces: `(B, nd, *size)` in voxels of grids of any size over the same field of view.
        """
        gains = LARGEST_GAIN * self.gain(features).float().sigmoid()
        blur = POOLS[features.ndim - 2]
        total = torch.zeros_like(gains[:, :1])
        for index, force in enumerate(forces):
            smooth = blur(force, BLUR, 1, BLUR // 2, count_include_pad=False)
            total = total + gains[:, index : index + 1] * resize_displacement(smooth, features.shape[2:])
        return total


@torch.no_grad()
def descriptors(image: Tensor, levels: Iterable[int]) -> dict[int, Tensor]:
    """Return the MIND-SSC of an image halved as often as each level says; what they tell does not hang on contrast.

    Args:
        image: `(B, 1, *spatial)`.
        levels: 0 is the image itself.
    """
    wanted, result = sorted(levels), {}
    with torch.autocast(image.device.type, enabled=False):
        for level in range(wanted[-1] + 1):
            image = image if level == 0 else pool(image)
            if level in wanted:
                result[level] = mind_ssc(image, dilation=1)
    return result


def gradient(image: Tensor) -> Tensor:
    """Return central differences per voxel of `(B, C, *spatial)`, `(B, C, nd, *spatial)`; the edge value continues."""
    nd = image.ndim - 2
    padded = pad(image, [1] * (2 * nd), mode="replicate")
    slopes = []
    for axis in range(2, image.ndim):
        inner = padded
        for other in {*range(2, image.ndim)} - {axis}:
            inner = inner.narrow(other, 1, image.shape[other])
        ahead, behind = (inner.narrow(axis, start, image.shape[axis]) for start in (2, 0))
        slopes.append((ahead - behind) / 2)
    return torch.stack(slopes, 2)
