"""What tests of grids share."""

import numpy as np

from DeepAttentionRegEngine.volume.geometry import Geometry


def corners_lps(geometry: Geometry) -> np.ndarray:
    """Return the centres of the eight corner voxels, `(8, 3)` LPS mm."""
    corners = np.array([[i, j, k] for k in (0, 1) for j in (0, 1) for i in (0, 1)])
    return geometry.index_to_lps(corners * (np.array(geometry.size) - 1))


def found_grid(geometry: Geometry) -> Geometry:
    """Return a grid as those on which fields are found: coarser, other axes, a little larger than a volume's grid.

    Across a single slice there are three, along k.
    """
    flat = geometry.size.index(1) if geometry.is_flat else None
    order = [axis for axis in (2, 0, 1) if axis != flat] + ([] if flat is None else [flat])
    direction = np.reshape(geometry.direction, (3, 3))[:, order] * (-1, 1, -1)
    spacing = np.full(3, 1.5 * np.prod(geometry.spacing) ** (1 / 3))
    size = np.ceil(np.array(geometry.extent_mm)[order] / spacing).astype(int) + 3
    if flat is not None:
        size[2], spacing[2] = 3, geometry.spacing[flat]
    origin = geometry.center_lps - direction @ ((size - 1) / 2 * spacing)
    return Geometry.from_arrays(size, spacing, origin, direction)
