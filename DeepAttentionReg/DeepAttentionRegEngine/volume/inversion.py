"""The approximate inverse of a displacement field. numpy only."""

from dataclasses import dataclass

import numpy as np

from .fields import grid_slabs, sample_field
from .geometry import Geometry

STEP_RANGE = (0.1, 10.0)  # a step of 1 is the plain fixed-point iteration


@dataclass(frozen=True)
class Inverse:
    """An approximate inverse field and how far it misses.

    Attributes:
        displacement: float32 `(k, j, i, 3)` LPS mm on the grid that was wanted.
        residual_mm_max: Largest `|v(y) + u(y + v(y))|` over the grid nodes y.
        residual_mm_mean: Mean of the same.
        iterations: Iterations that the slowest node took.
    """

    displacement: np.ndarray
    residual_mm_max: float
    residual_mm_mean: float
    iterations: int


def invert(
    displacement: np.ndarray,
    geometry: Geometry,
    iterations: int = 100,
    tolerance_mm: float = 1e-3,
    grid: Geometry | None = None,
) -> Inverse:
    """Invert a field by fixed-point iteration, node by node.

    In folds no inverse exists, and the residual says so. A node whose original lies beyond the grid is solved with the
    field's edge value continued.

    Args:
        displacement: `(k, j, i, 3)` LPS mm.
        geometry: Its grid.
        iterations: Iterations at most.
        tolerance_mm: A node is done when its residual is no larger.
        grid: Where the inverse is wanted; None for the field's own grid.

    Raises:
        EngineError: If field and grid differ in size.

    Source: Chen et al. 2008, "A simple fixed-point approach to invert a deformation field", with the step length of
    Barzilai and Borwein 1988, which also converges where u changes by more than one mm per mm.
    """
    grid = grid or geometry
    inverse = np.empty((*grid.shape, 3), np.float32)
    residual = np.empty(grid.shape, np.float32)
    used = 0
    for slab, points in grid_slabs(grid):
        solution = _Inversion(displacement, geometry, points)
        while solution.used < iterations and solution.iterate(tolerance_mm):
            pass
        inverse[slab] = solution.motion.reshape(inverse[slab].shape)
        residual[slab] = solution.residual.reshape(residual[slab].shape)
        used = max(used, solution.used)
    return Inverse(inverse, float(residual.max()), float(residual.mean(dtype=float)), used)


class _Inversion:
    """Solves `motion + u(points + motion) = 0` for `motion` `(N, 3)`; every point has its own step length."""

    def __init__(self, displacement: np.ndarray, geometry: Geometry, points_lps: np.ndarray) -> None:
        self.displacement, self.geometry, self.points = displacement, geometry, points_lps
        self.motion = -sample_field(displacement, geometry, points_lps)
        self.error = self._miss(self.motion, points_lps)
        self.residual = np.linalg.norm(self.error, axis=1)
        self.step = np.ones(len(points_lps))
        self.used = 0

    def _miss(self, motion: np.ndarray, points_lps: np.ndarray) -> np.ndarray:
        return motion + sample_field(self.displacement, self.geometry, points_lps + motion)

    def iterate(self, tolerance_mm: float) -> bool:
        """Improve the points that still miss by more than the tolerance; return whether there were any."""
        todo = np.flatnonzero(self.residual > tolerance_mm)
        if not todo.size:
            return False
        change = -self.step[todo, None] * self.error[todo]
        motion = self.motion[todo] + change
        error = self._miss(motion, self.points[todo])
        residual = np.linalg.norm(error, axis=1)
        better = residual < self.residual[todo]
        curvature = np.einsum("nc,nc->n", change, error - self.error[todo])
        length = np.einsum("nc,nc->n", change, change)
        ideal = np.divide(length, curvature, out=np.ones_like(length), where=curvature > 0)
        self.step[todo] = np.where(better, np.clip(ideal, *STEP_RANGE), 0.5 * self.step[todo])
        done = todo[better]
        self.motion[done], self.error[done], self.residual[done] = motion[better], error[better], residual[better]
        self.used += 1
        return True
