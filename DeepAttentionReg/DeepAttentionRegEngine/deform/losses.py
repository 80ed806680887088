"""Similarity and regularity terms, shared by pairwise refinement and training (one definition each)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .warp import identity_grid, jacobian_determinant, sample_points

NCC_EPSILON = 1e-4  # variance of noise in an image scaled to [0, 1]; keeps flat regions silent


def box_sum(image: Tensor, window: int) -> Tensor:
    """Return the sum over a cubic window with zeros outside, separably, axis by axis.

    Args:
        image: `(B, C, *spatial)`.
        window: Odd edge length in voxels.
    """
    for axis in range(2, image.ndim):
        size, total = image.shape[axis], image.clone()
        for shift in range(1, min(window // 2 + 1, size)):
            total.narrow(axis, shift, size - shift).add_(image.narrow(axis, 0, size - shift))
            total.narrow(axis, 0, size - shift).add_(image.narrow(axis, shift, size - shift))
        image = total
    return image


def box_mean(image: Tensor, window: int) -> Tensor:
    """Return `box_sum` by the number of voxels in the window."""
    return box_sum(image, window) / window ** (image.ndim - 2)


def mean_within(image: Tensor, window: int) -> Tensor:
    """Return `box_sum` by the number of voxels of the window that lie within the image `(B, C, *spatial)`."""
    return box_sum(image, window) / box_sum(torch.ones_like(image[:, :1]), window)


class LocalNcc:
    """Mean squared local normalised cross-correlation with a fixed image, whose part is computed once.

    Args:
        fixed: `(B, 1, *spatial)`.
        window: Odd window edge in voxels.
        weight: Optional non-negative weights, broadcastable to `fixed`; an empty mask gives 0.

    Source: Avants et al. 2008 (squared, windowed CC).
    """

    def __init__(self, fixed: Tensor, window: int = 7, weight: Tensor | None = None) -> None:
        self.fixed, self.window = fixed, window
        self.inside = 1 / box_sum(torch.ones_like(fixed[:1, :1]), window)
        self.mean, self.variance = self.statistics(fixed)
        weight = torch.ones_like(fixed) if weight is None else weight.expand_as(fixed)
        self.share = weight / weight.sum().clamp_min(1)

    def statistics(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the local mean and variance, that of the noise included, of an image."""
        mean, square = (box_sum(torch.cat([image, image * image], 1), self.window) * self.inside).chunk(2, 1)
        return mean, (square - mean * mean).clamp_min_(0).add_(NCC_EPSILON)

    @property
    def normal(self) -> Tensor:
        """The fixed image with mean 0 and deviation 1, that of noise included, within the window about each voxel."""
        return (self.fixed - self.mean) / self.variance.sqrt()

    def __call__(self, warped: Tensor) -> Tensor:
        """Return it for an image `(B, 1, *spatial)`, 1 for one that is equal up to local gain and offset."""
        return _LocalNcc.apply(warped, self)


class _LocalNcc(torch.autograd.Function):
    """Local correlation with its analytic gradient to the warped image.

    Letting autograd record the box filters costs several times the memory and time.
    """

    @staticmethod
    def forward(ctx: Any, warped: Tensor, to: LocalNcc) -> Tensor:
        mean, variance = to.statistics(warped)
        product = box_sum(warped * to.fixed, to.window) * to.inside
        covariance = product.addcmul_(mean, to.mean, value=-1)
        a = covariance / (variance * to.variance)
        b = covariance.mul_(a)  # the squared correlation
        value = (b * to.share).sum()
        if ctx.needs_input_grad[0]:
            share = to.share * to.inside
            a, b = a.mul_(share), b.div_(variance).mul_(share)
            t0, t1, t2 = box_sum(torch.cat([a, b, b * mean - a * to.mean], 1), to.window).chunk(3, 1)
            ctx.save_for_backward(2 * (t0 * to.fixed - t1 * warped + t2))
        return value

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return grad[0] * gradient, None


def local_ncc(warped: Tensor, fixed: Tensor, window: int = 7, weight: Tensor | None = None) -> Tensor:
    """Return `LocalNcc` for one warped image; gradients flow to it only."""
    return LocalNcc(fixed, window, weight)(warped)


def mean_squared(warped: Tensor, fixed: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the (weighted) mean squared difference over all channels and voxels."""
    squared = (warped - fixed) ** 2
    if weight is None:
        return squared.mean()
    weight = weight.expand_as(squared)
    return (squared * weight).sum() / weight.sum().clamp_min(1)


def soft_dice(warped: Tensor, fixed: Tensor) -> Tensor:
    """Return the mean Dice overlap of probability channels, over the channels that `fixed` contains.

    Args:
        warped: `(B, L, *spatial)` label probabilities in [0, 1], background left out.
        fixed: Same shape.

    Source: Milletari et al. 2016 (V-Net), with squared denominator.
    """
    axes = tuple(range(2, fixed.ndim))
    overlap = 2 * (warped * fixed).sum(axes)
    volume = (warped * warped).sum(axes) + (fixed * fixed).sum(axes)
    present = (fixed.sum(axes) > 0).to(fixed.dtype)
    return (present * overlap / volume.clamp_min(1e-5)).sum() / present.sum().clamp_min(1)


def diffusion(displacement: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean squared forward difference of a displacement, summed over the derivative axes.

    Args:
        displacement: `(B, nd, *spatial)`.
        weight: `(B, 1, *spatial)`, by how much it counts where, the mean of both sides of a difference; None: 1.
    """
    total = displacement.new_zeros(())
    for axis in range(2, displacement.ndim):
        squares = displacement.diff(dim=axis).square()
        if weight is not None:
            size = weight.shape[axis] - 1
            squares = squares * (weight.narrow(axis, 0, size) + weight.narrow(axis, 1, size)) / 2
        total = total + squares.mean()
    return total


def fold_penalty(displacement: Tensor, margin: float = 0.0) -> Tensor:
    """Return the mean amount by which the Jacobian determinant falls below `margin`; 0 where nothing folds."""
    return F.relu(margin - jacobian_determinant(displacement)).mean()


def global_ncc(warped: Tensor, fixed: Tensor) -> Tensor:
    """Return the normalised cross-correlation of whole images, in [-1, 1], mean over the batch; 0 for flat images.

    Args:
        warped: `(B, C, *spatial)`.
        fixed: Same shape.
    """
    warped, fixed = (image.flatten(1) - image.flatten(1).mean(1, keepdim=True) for image in (warped, fixed))
    power = warped.square().sum(1) * fixed.square().sum(1)
    return ((warped * fixed).sum(1) / (power + 1e-8).sqrt()).mean()


def ssim(warped: Tensor, fixed: Tensor, window: int | None = None) -> Tensor:
    """Return the mean structural similarity of images in [0, 1], 1 for equal ones.

    Args:
        warped: `(B, C, *spatial)`.
        fixed: Same shape.
        window: Odd edge length in voxels of the Gaussian window, zeros outside the image; None for 11 in 2D, 7 in 3D.

    Source: Wang et al. 2004, sigma 1.5 voxels.
    """
    window = window or (11 if fixed.ndim == 4 else 7)
    products = torch.cat([warped, fixed, warped * warped, fixed * fixed, warped * fixed], 1)
    mean_w, mean_f, ww, ff, wf = _GaussianMean.apply(products, window, 1.5).chunk(5, 1)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_w * mean_f + c1) / (mean_w**2 + mean_f**2 + c1)
    structure = (2 * (wf - mean_w * mean_f) + c2) / (ww - mean_w**2 + ff - mean_f**2 + c2)
    return (luminance * structure).mean()


class _GaussianMean(torch.autograd.Function):
    """Mean under a Gaussian window, axis by axis, zeros outside.

    Added up from shifted copies, which is tens of times faster than convolution of one channel on the CPU. The window
    is symmetric, so the gradient is the same filter.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, window: int, sigma: float) -> Tensor:
        ctx.window, ctx.sigma = window, sigma
        weights = [math.exp(-0.5 * ((n - window // 2) / sigma) ** 2) for n in range(window)]
        for axis in range(2, image.ndim):
            padded = F.pad(image, [0, 0] * (image.ndim - 1 - axis) + [window // 2] * 2)
            image = torch.zeros_like(image)
            for shift, weight in enumerate(weights):
                image.add_(padded.narrow(axis, shift, image.shape[axis]), alpha=weight / sum(weights))
        return image

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        return _GaussianMean.apply(grad[0], ctx.window, ctx.sigma), None, None


def total_variation(displacement: Tensor) -> Tensor:
    """Return the mean absolute forward difference of a displacement, over voxels, channels and derivative axes."""
    axes = range(2, displacement.ndim)
    return torch.stack([displacement.diff(dim=axis).abs().mean() for axis in axes]).mean()


def landmark_distance(displacement: Tensor, fixed_points: Tensor, moving_points: Tensor, spacing: Tensor) -> Tensor:
    """Return the mean Huber distance (quadratic below 1 mm) between moved fixed landmarks and their moving partners.

    Args:
        displacement: `(B, nd, *spatial)` in voxels.
        fixed_points: `(B, N, nd)`, voxel indices in array axis order; `x + u(x)` is to be the moving point.
        moving_points: Same shape.
        spacing: `(nd,)`, mm per voxel along each array axis.

    Returns:
        A scalar in mm; 0 for no landmarks.
    """
    if fixed_points.shape[1] == 0:
        return displacement.sum() * 0
    moved = fixed_points + sample_points(displacement, fixed_points)
    distance = torch.linalg.vector_norm(spacing * (moved - moving_points), dim=-1)
    return F.huber_loss(distance, torch.zeros_like(distance), delta=1.0)


def inside_image(displacement: Tensor) -> Tensor:
    """Return which points are sampled inside the image, as weights for the similarity.

    Args:
        displacement: `(B, nd, *spatial)` in voxels.

    Returns:
        `(B, 1, *spatial)`, 1 where x + u(x) lies within the edges of the outermost voxels, else 0; without gradient.
    """
    spatial = displacement.shape[2:]
    with torch.no_grad():
        positions = identity_grid(spatial, displacement) + displacement
        inside = torch.ones_like(positions[:, :1], dtype=torch.bool)
        for axis, n in enumerate(spatial):
            along = positions[:, axis : axis + 1]
            inside &= (along >= -0.5) & (along <= n - 0.5)
        return inside.to(displacement.dtype)


def isotropic_total_variation(displacement: Tensor) -> Tensor:
    """Return the mean length of the gradient of each component of a displacement `(B, nd, *spatial)` in voxels.

    Of each block of 2 voxels along every axis, with the mean of its parallel edges, squared, so that no side is
    preferred; the sub-gradient at 0 is 0. In voxels per voxel, so that the value is the same at every resolution.

    Source: AirLab (Sandkuehler et al. 2018), isotropic TV regulariser, there of forward differences.
    """
    axes = range(2, displacement.ndim)
    squares = displacement.new_zeros(())
    for axis in axes:
        change = displacement.diff(dim=axis).square()
        for other in axes:
            if other != axis:
                ends = change.shape[other] - 1
                change = (change.narrow(other, 0, ends) + change.narrow(other, 1, ends)) / 2
        squares = squares + change
    moving = squares > 0
    return torch.where(moving, torch.where(moving, squares, 1.0).sqrt(), 0.0).mean()
