"""What tests of grids share."""

import numpy as np

from DeepAttentionRegEngine.volume.geometry import Geometry


def corners_lps(geometry: Geometry) -> np.ndarray:
    """Return the centres of the eight corner voxels, `(8, 3)` LPS mm."""
    corners = np.array([[i, j, k] for k in (0, 1) for j in (0, 1) for i in (0, 1)])
    return geometry.index_to_lps(corners * (np.array(geometry.size) - 1))
