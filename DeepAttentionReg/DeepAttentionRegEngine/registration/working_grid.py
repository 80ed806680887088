"""The isotropic grid on which a pair is registered."""

import itertools
import math

import numpy as np

from ..protocol.grid import GridPolicy
from ..volume.geometry import Geometry, index_map

ROUNDING = 1e-6  # of a node, by which a grid may end too early


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


def plan_grid(volume: Geometry, policy: GridPolicy) -> Geometry:
    """Return the isotropic working grid over a volume's field of view, with as many voxels as it has, within limits.

    The margin comes on top.

    Args:
        volume: Grid of the volume.
        policy: Size policy of the method.
    """
    order, signs = canonical_axes(volume)
    direction = np.asarray(volume.direction).reshape(3, 3)[:, order] * signs
    lengths, steps = [volume.size[axis] for axis in order], [volume.spacing[axis] for axis in order]
    size = [*policy.working_size(lengths, steps)]
    spacing = [policy.working_spacing(lengths, steps)] * len(size)
    if volume.is_flat:
        size.append(1)
        spacing.append(steps[2])
    half = (np.array(size) - 1) / 2 * spacing
    # Of an even number of planes none would lie in a slab thinner than a voxel, so there the middle falls on one.
    half += np.where((np.array(size) % 2 == 0) & (spacing >= np.multiply(lengths, steps)), np.divide(spacing, 2), 0)
    origin = np.asarray(volume.center_lps) - direction @ half
    return Geometry.from_arrays(size, spacing, origin, direction)


def nodes_over(volume: Geometry, working: Geometry) -> Geometry:
    """Return the nodes of a working grid, in the order of a volume's axes, that cover the volume and a little more.

    They reach half a voxel beyond the outer edges of the outermost voxels, where the working grid ends earlier by nodes
    of its own spacing, so that no interpolation jumps inside the volume; across a single slice, too.

    Args:
        volume: Grid of the volume.
        working: A grid along the same axes, from `plan_grid`.
    """
    matrix = index_map(volume, working, np.eye(4))
    size, steps, first = [], [], []
    for axis, length in enumerate(volume.size):
        along = int(np.abs(matrix[:3, axis]).argmax())
        slope, start = matrix[along, axis], matrix[along, 3]
        # Voxels of the volume that the nodes' indices are; nodes lie at whole numbers of steps from each other.
        step = abs(1 / slope)
        origin = -start / slope
        below = math.ceil((origin + 1) / step - ROUNDING)
        above = math.ceil((length - origin) / step - ROUNDING)
        size.append(below + above + 1)
        steps.append(step)
        first.append(origin - below * step)
    spacing = np.multiply(steps, volume.spacing)
    return Geometry.from_arrays(size, spacing, volume.index_to_lps(np.array([first]))[0], volume.direction)


def spatial_shape(geometry: Geometry) -> tuple[int, ...]:
    """Return the tensor's spatial size of a working grid: `(k, j, i)`, or `(j, i)` for a single slice along k."""
    return geometry.shape[1:] if geometry.is_flat else geometry.shape
