"""Two volumes so coarse that many positions of them can be compared in no time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch import device as Device

from ..deform.losses import local_ncc
from ..deform.tensors import to_array, to_tensor
from ..deform.warp import sample, sample_evenly
from ..protocol.grid import GridPolicy, used_axes
from ..volume.geometry import Geometry, index_map
from .preprocess import Source
from .resampling import resample, slab_indices
from .working_grid import plan_grid, spatial_shape

SHORTEST_AXIS = 8
COARSE_VOXELS = {2: 2_500, 3: 8_000}  # by axes, of the smaller volume; the other gets voxels of the same size
MOST_COARSE_VOXELS = 64_000
THINNED_VOXELS = 500_000  # of which the coarse images are made; more would cost seconds and change nothing
WINDOW = 5  # coarse voxels
ENOUGH_OVERLAP = 0.5  # of the smaller volume; what shares less may look alike there by chance
STEPS = 60
FIRST_STEP = 0.5  # coarse voxels; at the border where it is a rotation


@dataclass(frozen=True, eq=False)
class CoarsePair:
    """Two coarse volumes in [0, 1], their masks None where all of them counts.

    Attributes:
        fixed: Fixed volume.
        moving: Moving volume.
        device: Where to compute.
    """

    fixed: Source
    moving: Source
    device: Device

    @classmethod
    def of(cls, fixed: Source, moving: Source, device: Device) -> "CoarsePair":
        """Return two volumes of any size coarsely.

        Raises:
            EngineError: If one is constant or holds no finite value.
        """
        edge = min(_coarse_edge(source.geometry) for source in (fixed, moving))
        return cls(_coarse(fixed, "fixed image", edge, device), _coarse(moving, "moving image", edge, device), device)

    def similarity(self, matrix: np.ndarray) -> float:
        """Return how alike the volumes are under a map of fixed to moving points, 4x4 LPS mm, from 0 to 1.

        It is local correlation where they overlap, less if that is little; squared, so that two modalities of which
        one is bright where the other is dark correlate, too.
        """
        maps = self._index_maps([matrix])
        image, weight = self._moved(maps)
        share = float(weight.sum()) / max(1.0, self._smaller(maps[0]))
        alike = local_ncc(image, self._image(self.fixed.array), WINDOW, weight)
        return float(alike) * min(1.0, share / ENOUGH_OVERLAP)

    def improved(self, starts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return each start after a rigid motion of the fixed points that makes the volumes more alike.

        A slice stays in its plane, for where it lies across that is known.
        """
        grid, maps = self.fixed.geometry, self._index_maps(starts)
        image = self._image(self.fixed.array).expand(len(starts), *[-1] * (1 + len(spatial_shape(grid))))
        unknown = torch.zeros(len(starts), 6, device=self.device, requires_grad=True)
        optimizer = torch.optim.Adam([unknown], lr=FIRST_STEP)
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, STEPS)
        for _step in range(STEPS):
            moving, weight = self._moved(maps @ self._motions(unknown))
            optimizer.zero_grad()
            (-local_ncc(moving, image, WINDOW, weight)).backward()
            optimizer.step()
            decay.step()
        to_lps, to_index = grid.ijk_to_lps, grid.lps_to_ijk
        motions = to_array(self._motions(unknown).detach()).astype(float)
        return [start @ to_lps @ motion @ to_index for start, motion in zip(starts, motions, strict=True)]

    def _motions(self, unknown: Tensor) -> Tensor:
        """Return the rigid motions `(B, 4, 4)` of voxel indices of the fixed grid for `(B, 6)` in voxels."""
        size = torch.tensor(self.fixed.geometry.size, device=self.device, dtype=torch.float32)
        free = torch.tensor([0, 0, 1, 1, 1, 0] if self.fixed.geometry.is_flat else [1] * 6, device=self.device)
        (x, y, z), shift = (unknown[:, :3] * free[:3] / (size.max() / 2)).T, unknown[:, 3:] * free[3:]
        none = torch.zeros_like(x)
        turn = torch.linalg.matrix_exp(torch.stack([none, -z, y, z, none, -x, -y, x, none], 1).view(-1, 3, 3))
        center = (size - 1) / 2
        offset = center + shift - turn @ center
        last = torch.tensor([0.0, 0.0, 0.0, 1.0], device=self.device).expand(len(unknown), 1, 4)
        return torch.cat([torch.cat([turn, offset[..., None]], 2), last], 1)

    def _index_maps(self, matrices: Sequence[np.ndarray]) -> Tensor:
        """Return the maps `(B, 4, 4)` of fixed to moving voxel indices for maps of points in LPS mm."""
        maps = [index_map(self.fixed.geometry, self.moving.geometry, matrix) for matrix in matrices]
        return torch.as_tensor(np.stack(maps), dtype=torch.float32, device=self.device)

    def _moved(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the moving image `(B, 1, *spatial)` seen through index maps, and the weight of its voxels."""
        shape = self.fixed.geometry.shape
        indices = slab_indices(shape, slice(None), self.device).view(3, -1)
        index = (maps[:, :3, :3] @ indices + maps[:, :3, 3:]).view(-1, 3, *shape)
        count, spatial = len(maps), spatial_shape(self.fixed.geometry)
        image = to_tensor(self.moving.array, self.device).expand(count, 1, -1, -1, -1)
        size = torch.tensor(self.moving.geometry.size, device=self.device).view(3, 1, 1, 1)
        weight = ((index >= -0.501) & (index <= size - 0.499)).all(1, keepdim=True).float()
        if self.moving.mask is not None:
            mask = to_tensor(self.moving.mask, self.device).expand(count, 1, -1, -1, -1)
            weight = weight * sample(mask, index.detach().flip(1), nearest=True)
        if self.fixed.mask is not None:
            weight = weight * to_tensor(self.fixed.mask, self.device)
        return sample_evenly(image, index.flip(1)).view(count, 1, *spatial), weight.view(count, 1, *spatial)

    def _smaller(self, to_moving: Tensor) -> float:
        """Return how many voxels of the fixed grid the smaller volume would fill."""
        fixed, moving = (
            float(source.array.size if source.mask is None else source.mask.sum())
            for source in (self.fixed, self.moving)
        )
        if self.fixed.geometry.is_flat:
            return fixed
        return min(fixed, moving / abs(float(torch.linalg.det(to_moving[:3, :3]))))

    def _image(self, array: np.ndarray) -> Tensor:
        return to_tensor(array, self.device).view(1, 1, *spatial_shape(self.fixed.geometry))


def _coarse_edge(grid: Geometry) -> float:
    """Return the edge in mm of a voxel that is coarse for a volume."""
    policy = GridPolicy(SHORTEST_AXIS, COARSE_VOXELS[len(used_axes(grid.size))])
    return policy.working_spacing(grid.size, grid.spacing)


def _coarse(source: Source, name: str, edge: float, device: Device) -> Source:
    """Return a volume in [0, 1] on a coarse isotropic grid.

    Args:
        source: Of any size.
        name: How to call it in an error.
        edge: Of a voxel in mm; large volumes get larger ones.
        device: Where to resample.
    """
    thin, grid = _thinned(source), source.geometry
    wanted = math.prod(grid.size[axis] * grid.spacing[axis] / edge for axis in used_axes(grid.size))
    coarse = plan_grid(grid, GridPolicy(SHORTEST_AXIS, max(1, round(min(wanted, MOST_COARSE_VOXELS)))))
    to_source = index_map(coarse, thin.geometry, np.eye(4))
    values, known = resample(thin.normalized(name), to_source, coarse.shape, device)
    if thin.mask is not None:
        known &= resample(thin.mask, to_source, coarse.shape, device, nearest=True)[0] > 0
    return Source(to_array(values), coarse, None if bool(known.all()) else to_array(known).astype(np.uint8))


def _thinned(source: Source) -> Source:
    """Return every n-th voxel of a large volume along each of its longer axes, as many left out at either end."""
    size = source.geometry.size
    step = max(1, round((math.prod(size) / THINNED_VOXELS) ** (1 / len(used_axes(size)))))
    steps = [step if n >= 4 * SHORTEST_AXIS * step else 1 for n in size]
    starts = [(n - 1) % step // 2 for n, step in zip(size, steps, strict=True)]
    every = tuple(slice(start, None, step) for start, step in zip(starts[::-1], steps[::-1], strict=True))
    array = source.array[every]
    i, j, k = array.shape[::-1]
    thin_to_ijk = np.diag([*steps, 1.0])
    thin_to_ijk[:3, 3] = starts
    grid = Geometry.from_ijk_to_lps(source.geometry.ijk_to_lps @ thin_to_ijk, (i, j, k))
    counted = source.counted
    return Source(array, grid, None if counted is None else (counted[every] > 0).astype(np.uint8))
