"""The isotropic grid on which a pair is registered."""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from ..volume.geometry import Geometry
from ..volume.intensity import PERCENTILES


@dataclass(frozen=True)
class GridLimits:
    """How volumes become images on the working grid.

    Attributes:
        minimum_size: Shortest allowed axis in voxels; the grid grows beyond the field of view if need be.
        maximum_voxels: Voxels of the field of view at most; the spacing grows if need be.
        percentiles: Of each volume that become 0 and 1.
        margin: Voxels that the grid reaches beyond either end of the field of view.
    """

    minimum_size: int = 32
    maximum_voxels: int = 4_100_000
    percentiles: tuple[float, float] = PERCENTILES
    margin: int = 0


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

    The margin comes on top.

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
    around = 2 * limits.margin
    size = [max(limits.minimum_size, math.ceil(length / spacing - 1e-6) + around) for length in extent[:used]]
    spacings = [spacing] * used
    if volume.is_flat:
        size.append(1)
        spacings.append(float(extent[2]))
    half = (np.array(size) - 1) / 2 * spacings
    origin = np.asarray(volume.center_lps) - direction @ half
    return Geometry.from_arrays(size, spacings, origin, direction)


def spatial_shape(geometry: Geometry) -> tuple[int, ...]:
    """Return the tensor's spatial size of a working grid: `(k, j, i)`, or `(j, i)` for a single slice along k."""
    return geometry.shape[1:] if geometry.is_flat else geometry.shape
