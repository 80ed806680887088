"""Local Gaussian deformations, the building blocks of R2N2: values, sequences, folds.

Coordinates are those of `grid_coordinates`: 0 at the centre of a grid, 1 half its longest extent away, the same length
along every axis, so that a turned Gaussian stays one on any grid. Components are in array axis order (warp.py). The
published network scales each axis of an image to [-1, 1]; on the square images of the paper both are the same.

A sequence of steps is read in one of three modes:

- "sum": the displacements of all Gaussians add up, `f_t = f_{t-1} + l_t` (Sandkuehler et al., NeurIPS 2019, eq. 8).
- "compose": every Gaussian is a map of its own, `(id + f_t) = (id + f_{t-1}) o (id + l_t)`, those of one step one after
  another, too; no map folds as long as `least_determinant` of each Gaussian is positive.
- "joint": steps are composed, the Gaussians of one step add up.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import relu

MODES = ("sum", "compose", "joint")
REACH = 4.0  # standard deviations, beyond which a Gaussian is below 0.0004 of its peak
STEEPEST = math.exp(-0.5)  # largest slope of exp(-r^2 / 2)


@dataclass(frozen=True)
class Gaussians:
    """The G Gaussians of one step: `l(x) = sum of vector * exp(-|diag(1 / sigma) rotation^T (x - center)|^2 / 2)`.

    Attributes:
        center: `(B, G, nd)`.
        sigma: `(B, G, nd)`, standard deviations along the turned axes.
        rotation: `(B, G, nd, nd)`, the turned axes in its columns.
        vector: `(B, G, nd)`, displacement at the center.
    """

    center: Tensor
    sigma: Tensor
    rotation: Tensor
    vector: Tensor

    @property
    def whitening(self) -> Tensor:
        """`(B, G, nd, nd)`, maps offsets from the center to standard deviations."""
        return self.rotation.transpose(-1, -2) / self.sigma.unsqueeze(-1)

    @property
    def covariance(self) -> Tensor:
        """`(B, G, nd, nd)`, the inverse of the matrix P of the paper's a, b, c."""
        axes = self.rotation * self.sigma.unsqueeze(-2)
        return axes @ axes.transpose(-1, -2)

    def select(self, chosen: Tensor | slice) -> "Gaussians":
        """Return some of the Gaussians of the step, the same of every sample."""
        return Gaussians(*(value[:, chosen] for value in (self.center, self.sigma, self.rotation, self.vector)))


def numbers_each(nd: int) -> int:
    """Return how many numbers one Gaussian is."""
    return 3 * nd + nd * (nd - 1) // 2


def rotation_2d(angle: Tensor) -> Tensor:
    """Return the matrices `(..., 2, 2)` of angles `(...)` in radians."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)


def rotation_3d(vector: Tensor) -> Tensor:
    """Return the matrices `(..., 3, 3)` of rotation vectors `(..., 3)`, axis times angle in radians (Rodrigues)."""
    angle = vector.norm(dim=-1)[..., None, None]
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    rows = ([zero, -z, y], [z, zero, -x], [-y, x, zero])
    cross = torch.stack([torch.stack(row, -1) for row in rows], -2)
    # sin(t) / t and (1 - cos t) / t^2, finite and smooth at 0.
    once, twice = torch.sinc(angle / math.pi), 0.5 * torch.sinc(angle / (2 * math.pi)) ** 2
    return torch.eye(3, device=vector.device, dtype=vector.dtype) + once * cross + twice * (cross @ cross)


def half_extent(spatial: Sequence[int]) -> float:
    """Return the unit of the coordinates of a grid in its voxels."""
    return max(spatial) / 2


def grid_coordinates(spatial: Sequence[int], full: Sequence[int], like: Tensor) -> Tensor:
    """Return the coordinates of the voxels of a grid.

    Args:
        spatial: Its size.
        full: Size of the grid over the same field of view that sets the unit.
        like: Tensor whose device and dtype are used.

    Returns:
        `(1, nd, *spatial)`.
    """
    axes = [
        ((torch.arange(m, device=like.device, dtype=like.dtype) + 0.5) / m - 0.5) * (n / half_extent(full))
        for m, n in zip(spatial, full, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def evaluate(gaussians: Gaussians, points: Tensor) -> Tensor:
    """Return the summed displacement of one step's Gaussians.

    Args:
        gaussians: The step.
        points: `(B, nd, ...)` or `(1, nd, ...)`.

    Returns:
        `(B, nd, ...)` in the unit of the coordinates.
    """
    batch, count, nd = gaussians.center.shape
    whitening = gaussians.whitening
    center = (whitening @ gaussians.center.unsqueeze(-1)).view(batch, count * nd, 1)
    away = whitening.reshape(batch, count * nd, nd) @ points.flatten(2) - center
    bump = torch.exp(-0.5 * away.view(batch, count, nd, -1).square().sum(2))
    return (gaussians.vector.transpose(1, 2) @ bump).view(batch, nd, *points.shape[2:])


def near(gaussians: Gaussians, points: Tensor) -> Gaussians:
    """Return the Gaussians whose box of four standard deviations meets the box around some points; B = 1."""
    flat = points.flatten(2)
    low, high = flat.amin(2).unsqueeze(1), flat.amax(2).unsqueeze(1)
    outside = relu(low - gaussians.center) + relu(gaussians.center - high)
    spread = gaussians.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    return gaussians.select((outside <= REACH * spread).all(-1)[0])


def _maps(steps: Sequence[Gaussians], mode: str) -> list[Gaussians]:
    """Return the maps of a composed sequence, the last of which is applied first, each a sum of Gaussians."""
    if mode == "joint":
        return list(steps)
    return [step.select(slice(g, g + 1)) for step in steps for g in range(step.center.shape[1])]


def move(points: Tensor, steps: Sequence[Gaussians], mode: str, *, truncate: bool = False) -> Tensor:
    """Return where a sequence moves points, exactly: without interpolation of a field.

    Args:
        points: `(B, nd, ...)` or `(1, nd, ...)`.
        steps: The sequence, first step first.
        mode: One of `MODES`.
        truncate: Leave Gaussians out from four standard deviations on, if they reach none of the points; B = 1.
    """
    moved = points
    for group in steps if mode == "sum" else reversed(_maps(steps, mode)):
        start = points if mode == "sum" else moved
        reached = near(group, start) if truncate else group
        if reached.center.shape[1]:
            moved = moved + evaluate(reached, start)
    return moved


def render(steps: Sequence[Gaussians], mode: str, full: Sequence[int], spatial: Sequence[int] | None = None) -> Tensor:
    """Return the displacement field of a sequence.

    Args:
        steps: The sequence.
        mode: One of `MODES`.
        full: Size of the grid that sets the unit of the coordinates.
        spatial: Size of the grid to render on, over the same field of view; None: `full`.

    Returns:
        `(B, nd, *spatial)` in voxels of that grid.
    """
    spatial = full if spatial is None else spatial
    points = grid_coordinates(spatial, full, steps[0].center)
    voxels = [half_extent(full) * m / n for m, n in zip(spatial, full, strict=True)]
    scale = torch.tensor(voxels, device=points.device, dtype=points.dtype).view(1, -1, *[1] * len(voxels))
    # One step without composition is the field itself; the difference of points would lose digits.
    if mode != "compose" and len(steps) == 1:
        return evaluate(steps[0], points) * scale
    return (move(points, steps, mode) - points) * scale


def least_determinant(gaussians: Gaussians) -> Tensor:
    """Return the smallest Jacobian determinant of `id + l` of each Gaussian alone, `(B, G)`.

    `det(I + v grad(g)^T) = 1 + v . grad(g)` has the minimum `1 - sqrt(v^T P v / e)`; if positive, nothing folds.
    """
    return 1 - (gaussians.whitening @ gaussians.vector.unsqueeze(-1)).squeeze(-1).norm(dim=-1) * STEEPEST


def limited(gaussians: Gaussians, mode: str, kappa: float) -> Gaussians:
    """Shorten the vectors so that a step cannot fold.

    "compose": `least_determinant` of each Gaussian is at least `1 - kappa`. "joint": the slopes of all Gaussians add
    up to `kappa` at most, which bounds the norm of the Jacobian of the step. "sum": nothing is bounded.

    Args:
        gaussians: The step.
        mode: One of `MODES`.
        kappa: Below 1.
    """
    if mode == "sum":
        return gaussians
    if mode == "compose":
        slope = (1 - least_determinant(gaussians)).unsqueeze(-1)
    else:
        steepest = gaussians.vector.norm(dim=-1) / gaussians.sigma.amin(-1) * STEEPEST
        slope = steepest.sum(1)[:, None, None]
    vector = gaussians.vector * (kappa / slope.clamp_min(kappa))
    return Gaussians(gaussians.center, gaussians.sigma, gaussians.rotation, vector)
