"""Local Gaussian deformations, the building blocks of R2N2, and their sequence.

Coordinates are isotropic and centered: voxel index x of a grid of size n lies at `(x - (n - 1) / 2) / L` along each
axis, L being half the grid's longest extent in voxels. The longest axis thus runs from -1 to 1 between the outer edges
of its voxels, and a rotation stays one where the field of view is no cube. Centers, standard deviations and vectors are
in these units, components in array axis order.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .warp import identity_grid

MODES = ("sum", "compose")
NUMBERS = {2: 7, 3: 12}  # center, standard deviations, vector, rotation (one angle in 2D)


@dataclass(frozen=True)
class Gaussians:
    """The bumps of one step, `v exp(-|diag(1/sigma) R^T (x - p)|^2 / 2)` each.

    Attributes:
        center: p, `(B, G, nd)`.
        sigma: `(B, G, nd)`, standard deviations along the axes that the columns of the rotation name.
        rotation: R, `(B, G, nd, nd)`.
        vector: v, `(B, G, nd)`, the displacement at the center.

    Source: Sandkuehler et al. 2019, eq. 8 and 9; any number of axes.
    """

    center: Tensor
    sigma: Tensor
    rotation: Tensor
    vector: Tensor

    @property
    def count(self) -> int:
        """Number G of bumps."""
        return self.center.shape[1]

    def bump(self, index: int) -> "Gaussians":
        """Return one bump alone."""
        return Gaussians(*(getattr(self, item.name)[:, index : index + 1] for item in fields(self)))


def half_extent(spatial: Sequence[int]) -> float:
    """Return L, half the longest extent of a grid in voxels."""
    return max(spatial) / 2


def coordinates(spatial: Sequence[int], like: Tensor) -> Tensor:
    """Return the coordinates `(1, nd, *spatial)` of a grid's voxels."""
    return normalized(identity_grid(spatial, like), spatial)


def normalized(index: Tensor, spatial: Sequence[int]) -> Tensor:
    """Turn voxel indices `(B, nd, ...)` on a grid of a given size into coordinates."""
    center = torch.tensor([(n - 1) / 2 for n in spatial], device=index.device, dtype=index.dtype)
    return (index - center.view(1, -1, *[1] * (index.ndim - 2))) / half_extent(spatial)


def rotation_2d(angle: Tensor) -> Tensor:
    """Return rotations `(..., 2, 2)` by angles `(...)`, such that `R^T = [[cos, -sin], [sin, cos]]`."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], -2)


def rotation_3d(code: Tensor) -> Tensor:
    """Return rotations `(..., 3, 3)` about the axis of a code `(..., 3)` by `2 pi / 3 tanh |code|`.

    120 degrees suffice: an ellipsoid looks the same after half a turn about any of its axes.
    """
    length = code.square().sum(-1, keepdim=True).clamp_min(1e-12).sqrt()
    x, y, z = (2 * math.pi / 3 * length.tanh() / length * code).unbind(-1)
    zero = torch.zeros_like(x)
    generator = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    return torch.linalg.matrix_exp(generator)


def evaluate(gaussians: Gaussians, points: Tensor) -> Tensor:
    """Return the sum of the bumps.

    Args:
        gaussians: G bumps.
        points: `(B, nd, ...)` or `(1, nd, ...)` coordinates.

    Returns:
        `(B, nd, ...)` displacements.
    """
    ones = [1] * (points.ndim - 2)
    total = torch.zeros_like(points)
    for index in range(gaussians.count):
        offset = points - gaussians.center[:, index].view(-1, points.shape[1], *ones)
        turned = torch.einsum("bji,bj...->bi...", gaussians.rotation[:, index], offset)
        scaled = turned / gaussians.sigma[:, index].view(-1, points.shape[1], *ones)
        weight = torch.exp(-0.5 * scaled.square().sum(1, keepdim=True))
        total = total + weight * gaussians.vector[:, index].view(-1, points.shape[1], *ones)
    return total


def evaluate_step(gaussians: Gaussians, points: Tensor, mode: str) -> Tensor:
    """Return the displacement of one step, `(B, nd, ...)`.

    Args:
        gaussians: Its bumps.
        points: `(B, nd, ...)` or `(1, nd, ...)` coordinates.
        mode: "sum" adds the bumps; "compose" applies them one after another, the last first.
    """
    if mode == "sum":
        return evaluate(gaussians, points)
    moved = points
    for index in reversed(range(gaussians.count)):
        moved = moved + evaluate(gaussians.bump(index), moved)
    return moved - points


def evaluate_sequence(steps: Sequence[Gaussians], points: Tensor, mode: str) -> Tensor:
    """Return the displacement of a whole sequence at any points, exactly.

    Sum: `f_T = l_1 + ... + l_T`. Compose: `(id + f_T) = (id + f_{T-1}) o (id + l_T)`, so the last step acts first.

    Args:
        steps: Gaussians of each step.
        points: `(B, nd, ...)` or `(1, nd, ...)` coordinates.
        mode: "sum" or "compose".
    """
    if mode == "sum":
        return torch.stack([evaluate(step, points) for step in steps]).sum(0)
    moved = points
    for step in reversed(steps):
        moved = moved + evaluate_step(step, moved, mode)
    return moved - points


def displacement_on(steps: Sequence[Gaussians], spatial: Sequence[int], mode: str) -> Tensor:
    """Return the displacement of a sequence in voxels of a grid over the same field of view, `(B, nd, *spatial)`."""
    points = coordinates(spatial, steps[0].center)
    return evaluate_sequence(steps, points, mode) * half_extent(spatial)


def smallest_determinant(gaussians: Gaussians) -> Tensor:
    """Return the smallest Jacobian determinant anywhere of each bump alone, `(B, G)`.

    `det(I + v grad g^T) = 1 + v . grad g`, whose minimum is `1 - sqrt(v^T P v / e)` with `P = R diag(sigma^-2) R^T`;
    the bump is a diffeomorphism if and only if `v^T P v < e`.
    """
    turned = torch.einsum("bgji,bgj->bgi", gaussians.rotation, gaussians.vector)
    return 1 - ((turned / gaussians.sigma).square().sum(-1) / math.e).sqrt()


def number_count(steps: Sequence[Gaussians]) -> int:
    """Return how many numbers a sequence is made of."""
    return sum(step.count * NUMBERS[step.center.shape[-1]] for step in steps)
