"""What a field does at the voxels of a grid, such as that of the fixed volume, slab by slab.

A field is an array (k, j, i, 3) in LPS mm and its own grid, as `Transforms.readGrid` returns it. Between its nodes it
is interpolated linearly, as in the engine, so that figures are the same.
"""

import numpy as np

from DeepAttentionRegEngine.protocol.reporting import Pause, no_pause
from DeepAttentionRegEngine.volume import fields
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegEngine.volume.intensity import blocks

Field = tuple[np.ndarray, Geometry]


def jacobian(field: Field, grid: Geometry, pause: Pause = no_pause) -> np.ndarray:
    """Return the Jacobian determinant (k, j, i): central differences from voxel to voxel.

    :param field: the field.
    :param grid: whose voxels.
    :param pause: called before every slab.
    """
    return fields.jacobian_determinant(*field, pause, grid)


def magnitude(field: Field, grid: Geometry, pause: Pause = no_pause) -> np.ndarray:
    """Return the length of the displacement in mm (k, j, i); parameters as of `jacobian`."""
    lengths = np.empty(grid.shape, np.float32)
    for slab in blocks(grid.shape, fields.CHUNK_VOXELS):
        pause()
        lengths[slab] = fields.magnitude(fields.on_slab(*field, grid, slab))
    return lengths


def inconsistency(forth: Field, back: Field, grid: Geometry, pause: Pause = no_pause) -> np.ndarray:
    """Return how far from where they came two fields lead, one after the other, in mm (k, j, i).

    :param forth: of the fixed points; other parameters as of `jacobian`.
    :param back: of the moving points.
    """
    distances = np.empty(grid.shape, np.float32)
    for slab, rest in fields.composed_slabs(*back, *forth, grid, pause):
        distances[slab] = fields.magnitude(rest)
    return distances
