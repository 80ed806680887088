"""Working pairs over any volume, and displacements on them that bend little or much."""

import numpy as np
import torch
from torch import Tensor

from DeepAttentionRegEngine.protocol.grid import GridPolicy
from DeepAttentionRegEngine.registration.preprocess import WorkingPair
from DeepAttentionRegEngine.registration.working_grid import plan_grid, spatial_shape
from DeepAttentionRegEngine.volume.geometry import Geometry
from engine_cases import matrix4, rotation

ALIGNMENT = matrix4(rotation(4, -7, 5) @ np.diag([1.02, 0.97, 1.05]), (6.0, -9.0, 4.0))
EVERYWHERE = 500


def working_pair(fixed: Geometry, voxels: int = 500, alignment: np.ndarray = ALIGNMENT) -> WorkingPair:
    """Return an empty pair on a working grid of so many voxels over a volume."""
    grid = plan_grid(fixed, GridPolicy(minimum_size=4, maximum_voxels=voxels))
    empty = torch.zeros(1, 1, *spatial_shape(grid))
    return WorkingPair(empty, empty, weight=empty, geometry=grid, alignment=alignment)


def waves(pair: WorkingPair, peak: float, wavelength: float) -> Tensor:
    """Return a displacement `(1, nd, *spatial)`: waves along the axes; peak and wavelength in working voxels."""
    spatial = pair.fixed.shape[2:]
    phases = torch.meshgrid(*(2 * np.pi / wavelength * torch.arange(n) for n in spatial), indexing="ij")
    return torch.stack([peak * torch.sin(phase + 0.7 * axis) for axis, phase in enumerate(phases)])[None].float()


def points_within(volume: Geometry, beyond: float = 0.5) -> np.ndarray:
    """Return points `(N, 3)` LPS mm up to so many voxels beyond the outer centers of a volume, half of them there."""
    drawn = np.random.default_rng(0)
    last = np.array(volume.size) - 1 + beyond
    index = drawn.uniform(-beyond, last, (EVERYWHERE, 3))
    for row in index[::2]:
        axis = drawn.integers(3)
        row[axis] = drawn.choice([-beyond, last[axis]])
    return volume.index_to_lps(index)
