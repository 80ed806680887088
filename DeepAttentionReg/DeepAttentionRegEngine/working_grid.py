"""The isotropic grid on which a pair is registered.

Matrices are 4x4 and act on column vectors.
"""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np

from .estimate import MARGIN
from .geometry import Geometry, index_map
from .intensity import PERCENTILES


@dataclass(frozen=True)
class GridLimits:
    """How volumes become images on the working grid.

    Attributes:
        minimum_size: Shortest allowed axis in voxels; the grid grows beyond the field of view if need be.
        maximum_voxels: Voxels at most; the spacing grows if need be.
        percentiles: Of each volume that become 0 and 1.
    """

    minimum_size: int = 32
    maximum_voxels: int = 4_100_000
    percentiles: tuple[float, float] = PERCENTILES


def canonical_axes(geometry: Geometry) -> tuple[list[int], list[int]]:
    """Return which axis of a volume becomes i, j, k of its working grid, and the sign of each.

    A volume's axes are ordered and flipped to lie closest to L, P, S, so a network always sees the same orientation;
    a single slice does the same with its two in-plane axes and keeps the slice axis last.
    """
    columns = np.asarray(geometry.direction).reshape(3, 3)
    order = list(max(itertools.permutations(range(3)), key=lambda p: sum(abs(columns[w, a]) for w, a in enumerate(p))))
    signs = [1 if columns[world, axis] >= 0 else -1 for world, axis in enumerate(order)]
    if geometry.is_flat:
        world = order.index(geometry.size.index(1))
        order.append(order.pop(world))
        signs.append(signs.pop(world))
    return order, signs


def plan_grid(volume: Geometry, limits: GridLimits) -> Geometry:
    """Return the isotropic working grid over a volume's field of view, with as many voxels as it has, within limits.

    Args:
        volume: Grid of the volume.
        limits: Size policy of the method.
    """
    order, signs = canonical_axes(volume)
    direction = np.asarray(volume.direction).reshape(3, 3)[:, order] * signs
    extent = np.array([volume.size[axis] * volume.spacing[axis] for axis in order])
    used = 2 if volume.is_flat else 3
    spacing = math.prod(volume.spacing[axis] for axis in order[:used]) ** (1 / used)
    spacing *= max(1.0, (math.prod(extent[:used]) / spacing**used / limits.maximum_voxels) ** (1 / used))
    # 1e-6: a volume that is isotropic already keeps its size despite rounding.
    size = [max(limits.minimum_size, math.ceil(length / spacing - 1e-6)) for length in extent[:used]]
    spacings = [spacing] * used
    if volume.is_flat:
        size.append(1)
        spacings.append(float(extent[2]))
    half = (np.array(size) - 1) / 2 * spacings
    origin = np.asarray(volume.center_lps) - direction @ half
    return Geometry.from_arrays(size, spacings, origin, direction)


def plan_pair_grid(fixed: Geometry, moving: Geometry, alignment: np.ndarray, limits: GridLimits) -> Geometry:
    """Return the working grid of a pair: the fixed field of view, and what the moving volume shows just beyond it.

    Anatomy that lies beyond the edge in the moving volume can then be pulled in.

    Args:
        fixed: Grid of the fixed volume.
        moving: Grid of the moving volume.
        alignment: Linear map of fixed to moving points, 4x4 LPS.
        limits: Size policy of the method; of the voxels, too, with the margin.
    """
    plain = plan_grid(fixed, limits)
    grown = _grown(plain, moving, alignment)
    if math.prod(grown.size) <= max(limits.maximum_voxels, math.prod(plain.size)):
        return grown
    share = math.prod(plain.size) / math.prod(grown.size)
    plain = plan_grid(fixed, replace(limits, maximum_voxels=int(limits.maximum_voxels * share)))
    return _grown(plain, moving, alignment)


def _grown(grid: Geometry, moving: Geometry, alignment: np.ndarray) -> Geometry:
    """Return a grid grown by whole voxels towards the moving volume's faces, by `MARGIN` at most."""
    size = np.array(grid.size)
    faces = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in moving.size))))
    to_grid = index_map(moving, grid, np.linalg.inv(alignment))
    index = faces @ to_grid[:3, :3].T + to_grid[:3, 3]
    most = np.where(size > 1, np.round(MARGIN * size), 0)
    # 1e-3: volumes of one field of view get no margin despite rounding.
    below = np.clip(np.ceil(-0.5 - index.min(0) - 1e-3), 0, most)
    above = np.clip(np.ceil(index.max(0) - size + 0.5 - 1e-3), 0, most)
    return grid.padded(below.astype(int).tolist(), above.astype(int).tolist())


def spatial_shape(geometry: Geometry) -> tuple[int, ...]:
    """Return the tensor's spatial size of a working grid: `(k, j, i)`, or `(j, i)` for a single slice along k."""
    return geometry.shape[1:] if geometry.is_flat else geometry.shape
