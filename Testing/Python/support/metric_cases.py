"""Structures that the tests of the metrics share."""

import numpy as np

from DeepAttentionRegEngine.volume.geometry import Geometry

RADIUS_MM = 14.0
SHIFT_MM = np.array([2.0, -3.0, 1.5])


def roomy(geometry: Geometry) -> Geometry:
    """Return a grid of the same kind with room for structures."""
    return Geometry.from_arrays((44, 62, 20), geometry.spacing, geometry.origin, geometry.direction)


def ball(grid: Geometry, shift_mm: np.ndarray, radius_mm: float) -> np.ndarray:
    """Return a ball (k, j, i) around the center of a grid, shifted in LPS."""
    index = np.moveaxis(np.indices(grid.shape), 0, -1)[..., ::-1].reshape(-1, 3)
    distance = np.linalg.norm(grid.index_to_lps(index) - grid.center_lps - shift_mm, axis=1)
    return (distance < radius_mm).reshape(grid.shape)
