"""A deformation as it is stored: on the nodes of a grid of its own, which may be coarser than the fixed volume's."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ..volume import fields
from ..volume.geometry import Geometry
from ..volume.intensity import blocks


@dataclass(frozen=True, eq=False)
class StoredDeformation:
    """A displacement field on its own grid; everything is measured and made with what it says.

    Between nodes it is linear, as in ITK and in everything here; beyond them the edge value continues. Slicer
    interpolates cubically what it loads from a file: `bound_mm` says how far that can lie apart.

    Attributes:
        displacement_lps_mm: float32 `(k, j, i, 3)`, alignment included: the moving image is sampled at x + u(x).
        geometry: The grid of the nodes.
    """

    displacement_lps_mm: np.ndarray = field(repr=False)
    geometry: Geometry

    @classmethod
    def linear(cls, matrix: np.ndarray, over: Geometry) -> "StoredDeformation":
        """Return a linear map (4x4, fixed to moving points, LPS mm) on the few nodes around a grid that it takes."""
        size = np.array(over.size)
        around = Geometry.from_arrays(
            (2, 2, 2), (size + 1) * over.spacing, over.index_to_lps(np.full((1, 3), -1.0))[0], over.direction
        )
        points = np.concatenate([points for _slab, points in fields.grid_slabs(around)])
        motion = points @ (matrix[:3, :3] - np.eye(3)).T + matrix[:3, 3]
        return cls(motion.reshape(2, 2, 2, 3).astype(np.float32), around)

    def at(self, points_lps: np.ndarray) -> np.ndarray:
        """Return the displacement `(N, 3)` at points `(N, 3)`, both LPS mm."""
        return fields.sample_field(self.displacement_lps_mm, self.geometry, points_lps)

    def on(self, grid: Geometry) -> np.ndarray:
        """Return the displacement at every voxel of a grid, float32 `(k, j, i, 3)`: large where the grid is."""
        return fields.resize(self.displacement_lps_mm, self.geometry, grid)

    def on_slab(self, grid: Geometry, slab: slice) -> np.ndarray:
        """Return the displacement at the voxels of a slab of a grid along k, float32 `(k, j, i, 3)`."""
        return fields.on_slab(self.displacement_lps_mm, self.geometry, grid, slab)

    def jacobian_slabs(self, grid: Geometry) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield slabs of a grid along k, and the displacement and the Jacobian determinant there."""
        return fields.jacobian_slabs(self.displacement_lps_mm, self.geometry, grid)

    def jacobian(self, grid: Geometry) -> np.ndarray:
        """Return the Jacobian determinant at every voxel of a grid, float32 `(k, j, i)`."""
        return fields.jacobian_determinant(self.displacement_lps_mm, self.geometry, grid=grid)

    @property
    def bound_mm(self) -> float:
        """How far linear and cubic interpolation lie apart between the nodes at most.

        Along one axis they differ by no more than an eighth of the second difference at the nodes, `h^2 |u''| / 8`;
        what the three axes contribute is added. A linear map has none.
        """
        largest, size = 0.0, self.geometry.shape[0]
        for slab in blocks(self.geometry.shape, fields.CHUNK_VOXELS):
            low, high = max(0, slab.start - 1), min(size, slab.stop + 1)
            bent = _bending(self.displacement_lps_mm[low:high])
            largest = max(largest, float(bent[slab.start - low : slab.stop - low].max()))
        return largest / 8


def _bending(displacement: np.ndarray) -> np.ndarray:
    """Return the lengths of the second differences of `(k, j, i, 3)`, summed over the axes; 0 of those at an end."""
    result = np.zeros(displacement.shape[:3], np.float32)
    for axis in range(3):
        if displacement.shape[axis] < 3:
            continue
        second = np.diff(displacement, 2, axis)
        inner = [slice(None)] * 3
        inner[axis] = slice(1, -1)
        result[tuple(inner)] += fields.magnitude(second)
    return result
