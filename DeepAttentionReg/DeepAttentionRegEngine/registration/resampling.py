"""Volumes on other grids, part by part, so that none is held as a whole in another type or smoothed as a whole."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..deform.tensors import to_array, to_tensor
from ..deform.warp import sample
from ..volume.intensity import blocks, in_type

PART_VOXELS = 2**22  # of the source that are smoothed at once
SLAB_VOXELS = 2_000_000  # of the target, bounds the memory of coordinates
MOST_OVERLAP = 2.0  # of the parts of an oblique source; beyond, smoothing it in fewer ones takes less time
SMOOTHED = 1.2  # times more coarsely at least

Box = tuple[slice, ...]


class Voxels(Protocol):
    """An array `(k, j, i)`, or what makes the parts of one that are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its size."""

    def __getitem__(self, part: Any, /) -> np.ndarray:
        """Return a part of it."""


def slab_indices(shape: tuple[int, int, int], slab: slice, device: torch.device) -> Tensor:
    """Return voxel indices `(3, k, j, i)` of a slab, channels in the order i, j, k."""
    k, j, i = (torch.arange(n, device=device, dtype=torch.float32) for n in shape)
    grid = torch.meshgrid(k[slab], j, i, indexing="ij")
    return torch.stack(grid[::-1])


def mapped_indices(matrix: np.ndarray, shape: tuple[int, int, int], slab: slice, like: Tensor) -> Tensor:
    """Return a 4x4 matrix applied to the voxel indices of a slab, `(3, k, j, i)`, device and dtype of a tensor."""
    k, j, i = (torch.arange(n, device=like.device, dtype=like.dtype) for n in shape)
    k = k[slab]
    result = torch.empty(3, len(k), len(j), len(i), device=like.device, dtype=like.dtype)
    for axis, (along_i, along_j, along_k, offset) in enumerate(matrix[:3].tolist()):
        plane = (along_j * j)[None, :, None] + (along_k * k + offset)[:, None, None]
        torch.add((along_i * i)[None, None], plane, out=result[axis])
    return result


def apply_matrix(matrix: np.ndarray, points: Tensor, onto: Tensor | None = None) -> Tensor:
    """Apply a 4x4 matrix to points `(3, ...)`; what comes of it is added to `onto` in place, if that is given."""
    result = torch.zeros_like(points) if onto is None else onto
    for axis, (*weights, offset) in enumerate(matrix[:3].tolist()):
        for part, weight in zip(points, weights, strict=True):
            if weight:
                result[axis].add_(part, alpha=weight)
        if offset:
            result[axis].add_(offset)
    return result


def resample(
    volume: Voxels, matrix: np.ndarray, shape: tuple[int, int, int], device: torch.device, *, nearest: bool = False
) -> tuple[Tensor, Tensor]:
    """Sample a volume on another grid.

    Args:
        volume: Source `(k, j, i)`, of which a few slices at a time are taken.
        matrix: 4x4 map of target to source voxel indices (`index_map`).
        shape: Target `(k, j, i)`.
        device: Where to work.
        nearest: Nearest neighbour, for masks and labels.

    Returns:
        Values `(k, j, i)`, edges continued, and a mask `(k, j, i)` that is True inside the source's field of view.
    """
    steps = np.zeros(3) if nearest else np.linalg.norm(matrix[:3, :3], axis=1)[::-1]
    kernels = [_kernel(step) if n > 1 else [1.0] for step, n in zip(steps, volume.shape, strict=True)]
    margins = np.array([1 + len(kernel) // 2 for kernel in kernels])
    size = torch.tensor(volume.shape[::-1], device=device, dtype=torch.float32).view(3, 1, 1, 1)
    values, inside = [], []
    for slab, box in _parts(matrix, shape, volume.shape, margins):
        image = to_tensor(volume[box], device)[None, None]
        for axis, kernel in enumerate(kernels, start=2):
            image = _smoothed(image, axis, kernel)
        index = mapped_indices(matrix, shape, slab, image)
        inside.append(((index >= -0.501) & (index <= size - 0.499)).all(0))
        start = torch.tensor([side.start for side in box], device=device, dtype=index.dtype).view(3, 1, 1, 1)
        values.append(sample(image, (index.flip(0) - start)[None], nearest=nearest)[0, 0])
    return torch.cat(values), torch.cat(inside)


def _kernel(factor: float) -> list[float]:
    """Return the weights by which to smooth along an axis before it is sampled `factor` times more coarsely."""
    if factor <= SMOOTHED:
        return [1.0]
    sigma = 0.5 * math.sqrt(factor**2 - 1)
    radius = max(1, math.ceil(2.5 * sigma))
    weights = [math.exp(-0.5 * (place / sigma) ** 2) for place in range(-radius, radius + 1)]
    return [weight / sum(weights) for weight in weights]


def _smoothed(image: Tensor, axis: int, kernel: Sequence[float]) -> Tensor:
    """Smooth `(1, 1, k, j, i)` along an axis; edges continue."""
    if len(kernel) == 1:
        return image
    radius, count, padding = len(kernel) // 2, image.shape[axis], [0] * 6
    padding[2 * (4 - axis)] = padding[2 * (4 - axis) + 1] = radius
    padded = F.pad(image, padding, mode="replicate")
    # PyTorch's convolution takes four times as long for a single channel.
    result = kernel[0] * padded.narrow(axis, 0, count)
    for place, weight in enumerate(kernel[1:], start=1):
        result.add_(padded.narrow(axis, place, count), alpha=weight)
    return result


def _parts(
    matrix: np.ndarray, shape: tuple[int, int, int], size: tuple[int, ...], margins: np.ndarray
) -> list[tuple[slice, Box]]:
    """Return slabs of the target along k, and the part of the source that each is made of, with margins (k, j, i)."""
    whole, least = math.prod(size), math.ceil(math.prod(shape) / SLAB_VOXELS)
    count = max(least, math.ceil(whole / PART_VOXELS))
    while True:
        edges = np.linspace(0, shape[0], min(count, shape[0]) + 1).round().astype(int).tolist()
        slabs = [slice(start, stop) for start, stop in itertools.pairwise(edges)]
        boxes = [_reached(matrix, shape, slab, size, margins) for slab in slabs]
        taken = sum(math.prod(side.stop - side.start for side in box) for box in boxes)
        if taken <= MOST_OVERLAP * whole or count <= max(1, least):
            return list(zip(slabs, boxes, strict=True))
        count = max(1, least, count // 2)


def _reached(
    matrix: np.ndarray, shape: tuple[int, int, int], slab: slice, size: tuple[int, ...], margins: np.ndarray
) -> Box:
    """Return the part of a source of some size in which a slab of the target lies, or which its edges continue."""
    ends = (0, shape[2] - 1), (0, shape[1] - 1), (slab.start, slab.stop - 1)
    corners = np.array(list(itertools.product(*ends)))
    return _box(np.array(corners @ matrix[:3, :3].T + matrix[:3, 3])[:, ::-1], size, margins)


def _box(index: np.ndarray, size: tuple[int, ...], margins: np.ndarray) -> Box:
    """Return the part of a source around indices `(N, 3)` (k, j, i), or around where its edges continue to them."""
    low, high = (ends.clip(0, np.array(size) - 1) for ends in (index.min(0), index.max(0)))
    starts = np.maximum(np.floor(low).astype(int) - margins, 0)
    stops = np.minimum(np.ceil(high).astype(int) + margins + 1, size)
    return tuple(slice(start, stop) for start, stop in zip(starts.tolist(), stops.tolist(), strict=True))


class Interpolated:
    """An image of any real type, in double precision where it is asked for: 32 bits need all digits.

    Outside it has its minimum, which non-finite voxels take too.
    """

    def __init__(self, array: np.ndarray) -> None:
        """Look for the minimum of an array `(k, j, i)`."""
        self._array = array
        self._has_gaps = array.dtype.kind == "f"
        least = [self._least(array[block]) for block in blocks(array.shape)]
        self._background = min((value for value in least if math.isfinite(value)), default=0.0)

    def at(self, index: Tensor) -> np.ndarray:
        """Return the values at indices `(3, k, j, i)`, channels in the order i, j, k, in the type of the image."""
        index = index.nan_to_num(nan=-1.0)  # which lies outside
        ends = torch.stack([index.amin((1, 2, 3)), index.amax((1, 2, 3))])
        box = _box(to_array(ends).astype(float)[:, ::-1], self._array.shape, np.ones(3, int))
        part = self._array[box]
        if self._has_gaps:
            part = np.where(np.isfinite(part), part, self._background)
        image = to_tensor(part, index.device, np.float64)[None, None]
        start = torch.tensor([side.start for side in box], device=index.device).view(3, 1, 1, 1)
        values = sample(image, (index.flip(0) - start)[None].to(image.dtype))[0, 0]
        size = torch.tensor(self._array.shape[::-1], device=index.device).view(3, 1, 1, 1)
        values[~((index >= -0.5) & (index <= size - 0.5)).all(0)] = self._background
        return in_type(to_array(values), self._array.dtype)

    def _least(self, part: np.ndarray) -> float:
        return float(np.min(part, where=np.isfinite(part), initial=np.inf) if self._has_gaps else part.min())


def nearest_voxels(array: np.ndarray, index: Tensor) -> np.ndarray:
    """Read the voxel nearest to each index, exactly whatever the type: atlas labels exceed what float32 can hold.

    Args:
        array: `(k, j, i)`.
        index: `(3, ...)`, channels in the order i, j, k.

    Returns:
        `(...)`, 0 outside the array.
    """
    size = torch.tensor(array.shape[::-1], device=index.device).view(3, *[1] * (index.ndim - 1))
    rounded = index.round()
    outside = ~((rounded >= 0) & (rounded < size)).all(0)
    i, j, k = rounded.long()
    place = to_array(((k * array.shape[1] + j) * array.shape[2] + i).masked_fill_(outside, 0))
    found = array.ravel()[place] if array.flags.c_contiguous else array[np.unravel_index(place, array.shape)]
    found[to_array(outside)] = 0
    return found
