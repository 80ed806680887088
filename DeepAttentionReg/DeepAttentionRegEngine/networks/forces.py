"""The demons force: which way, and how far, the moving image wants to go at each voxel."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, avg_pool3d, pad

POOLS = {2: avg_pool2d, 3: avg_pool3d}
NOISE = 1e-3  # of images of deviation 1: smaller contrasts say nothing


def demons_force(fixed: Tensor, warped: Tensor) -> Tensor:
    """Return the displacement in voxels by which linearly varying intensities would agree.

    `(F - W) grad / (|grad|^2 + (F - W)^2)` of the images averaged over three voxels per axis, grad being that of their
    mean; no longer than half a voxel. Source: Thirion 1998, with the symmetric gradient of Vercauteren et al. 2009.

    Args:
        fixed: `(B, 1, *spatial)`, mean 0 and deviation 1.
        warped: Same shape.

    Returns:
        `(B, nd, *spatial)`, components in array axis order.
    """
    fixed, warped = (POOLS[fixed.ndim - 2](image, 3, 1, 1, count_include_pad=False) for image in (fixed, warped))
    difference, slope = fixed - warped, gradient((fixed + warped) / 2)
    return difference * slope / (slope.square().sum(1, keepdim=True) + difference.square() + NOISE)


def gradient(image: Tensor) -> Tensor:
    """Return central differences per voxel of `(B, 1, *spatial)` as `(B, nd, *spatial)`; the edge value continues."""
    nd = image.ndim - 2
    padded = pad(image, [1] * (2 * nd), mode="replicate")
    slopes = []
    for axis in range(2, image.ndim):
        inner = padded
        for other in {*range(2, image.ndim)} - {axis}:
            inner = inner.narrow(other, 1, image.shape[other])
        ahead, behind = (inner.narrow(axis, start, image.shape[axis]) for start in (2, 0))
        slopes.append((ahead - behind) / 2)
    return torch.cat(slopes, 1)
