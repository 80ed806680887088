"""The one sampling convention: voxel-index coordinates, half-pixel resizing, edge clamping.

Shapes: images `(B, C, *spatial)`, displacements `(B, nd, *spatial)` with nd 2 or 3. Displacement channel d moves along
spatial axis d (array order k, j, i), in voxels of the grid it lives on; the moving image is sampled at x + u(x).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LINEAR_MODES = {2: "bilinear", 3: "trilinear"}


def identity_grid(spatial: Sequence[int], like: Tensor) -> Tensor:
    """Return the voxel indices of a grid.

    Args:
        spatial: Grid size, array axis order.
        like: Tensor whose device and dtype are used.

    Returns:
        `(1, nd, *spatial)`, channel d holds the index along axis d.
    """
    axes = [torch.arange(n, device=like.device, dtype=like.dtype) for n in spatial]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def sample(image: Tensor, coordinates: Tensor, *, nearest: bool = False) -> Tensor:
    """Sample an image at voxel-index coordinates; outside the grid the edge value continues.

    Args:
        image: `(B, C, *spatial)`.
        coordinates: `(B, nd, *out)` or `(1, nd, *out)`, voxel indices of `image`, channels in axis order.
        nearest: Nearest neighbour (label maps) instead of linear.

    Returns:
        `(B, C, *out)`.
    """
    return _read(image, _normalized(coordinates, image.shape[2:]), "nearest" if nearest else "bilinear")


def sample_points(image: Tensor, points: Tensor) -> Tensor:
    """Return the values `(B, N, C)` of an image `(B, C, *spatial)` at points `(B, N, nd)`, as `sample`."""
    places = points.transpose(1, 2)[(..., *[None] * (points.shape[2] - 1))]
    return sample(image, places).flatten(2).transpose(1, 2)


def _normalized(coordinates: Tensor, spatial: Sequence[int]) -> Tensor:
    """Return voxel indices `(B, nd, *out)` as `grid_sample` wants them: last, in x, y, z order, edges at -1 and +1."""
    size = torch.tensor(spatial, device=coordinates.device, dtype=coordinates.dtype)
    size = size.view(1, -1, *[1] * (coordinates.ndim - 2))
    return ((2 * coordinates + 1) / size - 1).flip(1).movedim(1, -1)


def _read(image: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    grid = grid.expand(image.shape[0], *grid.shape[1:])
    return F.grid_sample(image, grid, mode=mode, padding_mode="border", align_corners=False)


def warp(image: Tensor, displacement: Tensor, *, nearest: bool = False) -> Tensor:
    """Return `image(x + u(x))` on the displacement's grid, which is also the image's grid.

    Args:
        image: `(B, C, *spatial)`.
        displacement: `(B, nd, *spatial)` in voxels.
        nearest: Nearest neighbour (label maps) instead of linear.
    """
    return sample(image, identity_grid(displacement.shape[2:], displacement) + displacement, nearest=nearest)


def sample_evenly(image: Tensor, places: Tensor) -> Tensor:
    """Return `sample(image, places)` with a gradient, to the places alone, that takes both sides of them alike.

    The derivative of linear interpolation jumps where a place meets a voxel, as all places do before anything has
    moved. Rounding then decides which side counts, and descent makes another field of that. The gradient here is the
    difference of the values half a voxel ahead and behind, which changes steadily.

    Args:
        image: `(B, C, *spatial)`.
        places: `(B, nd, *out)`, voxel indices of `image`, channels in axis order.
    """
    return _EvenSample.apply(image, places)


class _EvenSample(torch.autograd.Function):
    """See `sample_evenly`."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, places: Tensor) -> Tensor:
        grid = _normalized(places, image.shape[2:])
        ctx.save_for_backward(image, grid)
        return _read(image, grid)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[None, Tensor]:
        image, grid = ctx.saved_tensors
        # One axis after the other, for images may have many channels.
        slopes = [(_slope(image, grid, axis) * grad[0]).sum(1) for axis in range(image.ndim - 2)]
        return None, torch.stack(slopes, 1)


def _slope(image: Tensor, grid: Tensor, axis: int) -> Tensor:
    """Return by how much an image `(B, C, *spatial)` changes along an axis over the voxel around each place."""
    padding = [0, 0] * (image.ndim - 3 - axis) + [1, 1]
    change = F.pad(image.diff(dim=2 + axis), padding)  # half a voxel lower than its index says; none beyond the edges
    size, places = image.shape[2 + axis], grid.clone()
    places[..., -1 - axis] *= size / (size + 1)  # the field of view is half a voxel longer at either end
    return _read(change, places)


def warp_evenly(image: Tensor, displacement: Tensor) -> Tensor:
    """Return `warp(image, displacement)`, to be descended along: see `sample_evenly`."""
    return sample_evenly(image, identity_grid(displacement.shape[2:], displacement) + displacement)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Return the displacement of `(id + outer) o (id + inner)`: `inner(x) + outer(x + inner(x))`.

    Args:
        outer: `(B, nd, *spatial)` voxels, applied second.
        inner: `(B, nd, *spatial)` voxels, applied first.

    Examples:
        >>> shift = torch.ones(1, 2, 8, 8)
        >>> float(compose(shift, shift).mean())
        2.0
    """
    return inner + warp(outer, inner)


def resize(image: Tensor, spatial: Sequence[int]) -> Tensor:
    """Resample to another grid over the same field of view (half-pixel geometry).

    Args:
        image: `(B, C, *spatial)`; values are kept, so for displacements use `resize_displacement`.
        spatial: Target size, array axis order.
    """
    if tuple(spatial) == tuple(image.shape[2:]):
        return image
    return F.interpolate(image, size=tuple(spatial), mode=LINEAR_MODES[len(spatial)], align_corners=False)


def shrink(image: Tensor, spatial: Sequence[int]) -> Tensor:
    """Resample to a smaller grid over the same field of view: interpolate to a multiple of it, then average."""
    factors = [max(1, round(old / new)) for old, new in zip(image.shape[2:], spatial, strict=True)]
    multiple = resize(image, [n * factor for n, factor in zip(spatial, factors, strict=True)])
    if max(factors) == 1:
        return multiple
    return (F.avg_pool2d if image.ndim == 4 else F.avg_pool3d)(multiple, factors)


def resize_displacement(displacement: Tensor, spatial: Sequence[int]) -> Tensor:
    """Resample a displacement to another grid over the same field of view, in voxels of the new grid."""
    ratio = [new / old for new, old in zip(spatial, displacement.shape[2:], strict=True)]
    factor = torch.tensor(ratio, device=displacement.device, dtype=displacement.dtype)
    return resize(displacement, spatial) * factor.view(1, -1, *[1] * len(ratio))


def integrate_velocity(velocity: Tensor, steps: int) -> Tensor:
    """Return the displacement of the flow of a stationary velocity field (scaling and squaring).

    Args:
        velocity: `(B, nd, *spatial)` voxels per unit time.
        steps: Number of squarings; 0 returns the velocity itself.

    Source: Arsigny et al. 2006.
    """
    displacement = velocity / 2**steps
    for _ in range(steps):
        displacement = compose(displacement, displacement)
    return displacement


def jacobian_determinant(displacement: Tensor, *, backward: bool = False) -> Tensor:
    """Return det(I + du/dx) in voxel units by forward or backward differences, `(B, *spatial - 1)`; differentiable.

    They see a checkerboard fold that central differences miss. The physical determinant with direction cosines, which
    is what users see, is `fields.jacobian_determinant`; both have the same sign.
    """
    axes = range(2, displacement.ndim)
    end = slice(1, None) if backward else slice(0, -1)
    crop = [slice(None), slice(None), *[end] * len(axes)]
    trimmed = []
    for axis in axes:
        keep = crop.copy()
        keep[axis] = slice(None)
        trimmed.append(displacement.diff(dim=axis)[tuple(keep)])
    return determinant(trimmed)


def determinant(gradients: Sequence[Tensor]) -> Tensor:
    """Return det(I + du/dx) `(B, *spatial)` of the derivatives `(B, nd, *spatial)` of u along every axis."""
    j = [
        [gradient[:, row] + (1.0 if row == column else 0.0) for column, gradient in enumerate(gradients)]
        for row in range(len(gradients))
    ]
    if len(gradients) == 2:
        return j[0][0] * j[1][1] - j[0][1] * j[1][0]
    return (
        j[0][0] * (j[1][1] * j[2][2] - j[1][2] * j[2][1])
        - j[0][1] * (j[1][0] * j[2][2] - j[1][2] * j[2][0])
        + j[0][2] * (j[1][0] * j[2][1] - j[1][1] * j[2][0])
    )
