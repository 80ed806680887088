"""Displacement fields in physical units: sampling, composition, Jacobian. numpy only.

A field is a float32 array `(k, j, i, 3)` of LPS mm (x, y, z) on the grid of a `Geometry`; it maps the point x to
x + u(x). Between grid nodes it is interpolated linearly; outside the grid the edge value continues.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ..protocol import errors
from ..protocol.reporting import Pause, no_pause
from .geometry import Geometry
from .intensity import blocks

CHUNK_POINTS = 2**16  # temporaries of sampling that stay in the processor's cache: 3 to 5 times faster than 1 million
CHUNK_VOXELS = 2**20  # bounds the temporaries of differences
FLOOR = 1e-6  # below it a Jacobian determinant has no logarithm worth showing


def sample_field(displacement: np.ndarray, geometry: Geometry, points_lps: np.ndarray) -> np.ndarray:
    """Return the displacement at points.

    Args:
        displacement: `(k, j, i, 3)` LPS mm (or any number of trailing components).
        geometry: Its grid.
        points_lps: `(N, 3)` LPS mm.

    Returns:
        `(N, 3)` LPS mm, float64.

    Raises:
        EngineError: If field and grid differ in size.
    """
    geometry.require_shape(displacement.shape[:3], "displacement field")
    points_lps = np.asarray(points_lps, dtype=float).reshape(-1, 3)
    result = np.empty((len(points_lps), displacement.shape[-1]))
    values = np.ascontiguousarray(displacement)
    for start in range(0, len(points_lps), CHUNK_POINTS):
        chunk = slice(start, start + CHUNK_POINTS)
        result[chunk] = _interpolate(values, geometry.lps_to_index(points_lps[chunk]))
    return result


def _interpolate(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Interpolate contiguous `(k, j, i, C)` linearly at voxel indices `(N, 3)` (i, j, k), clamped to the grid."""
    size = np.array(values.shape[2::-1])
    strides = np.array([1, size[0], size[0] * size[1]])
    index = np.clip(index, 0, size - 1)
    low = np.minimum(index.astype(np.intp), np.maximum(size - 2, 0))
    share = (index - low).T
    first = low @ strides
    flat = values.reshape(-1, values.shape[-1])
    result = np.zeros((len(index), values.shape[-1]))
    for corner in itertools.product(*((0, 1) if n > 1 else (0,) for n in size)):
        weight = math.prod(share[axis] if upper else 1 - share[axis] for axis, upper in enumerate(corner))
        result += np.asarray(weight)[:, None] * flat[first + strides @ corner]
    return result


def transform_points(displacement: np.ndarray, geometry: Geometry, points_lps: np.ndarray) -> np.ndarray:
    """Return x + u(x) for points `(N, 3)` LPS mm: where a fixed point lies in the moving volume.

    Examples:
        >>> grid = Geometry((4, 4, 4), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
        >>> shift = np.broadcast_to(np.float32([1.0, 0.0, -0.5]), (4, 4, 4, 3))
        >>> transform_points(shift, grid, np.array([[3.0, 2.0, 1.0]])).tolist()
        [[4.0, 2.0, 0.5]]
    """
    return np.asarray(points_lps, dtype=float).reshape(-1, 3) + sample_field(displacement, geometry, points_lps)


def grid_slabs(geometry: Geometry) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield slabs along k and the LPS positions `(N, 3)` of their voxels, in array order."""
    for slab in blocks(geometry.shape, CHUNK_POINTS):
        yield slab, _positions(geometry, slab)


def _positions(geometry: Geometry, slab: slice) -> np.ndarray:
    """Return the LPS positions `(N, 3)` of the voxels of a slab along k, in array order."""
    size_i, size_j, _ = geometry.size
    k, j, i = np.meshgrid(np.arange(slab.start, slab.stop), np.arange(size_j), np.arange(size_i), indexing="ij")
    return geometry.index_to_lps(np.stack([i.ravel(), j.ravel(), k.ravel()], 1))


def compose(
    outer: np.ndarray,
    outer_geometry: Geometry,
    inner: np.ndarray,
    inner_geometry: Geometry,
    pause: Pause = no_pause,
) -> np.ndarray:
    """Return the field of x -> outer(inner(x)) on the inner field's grid: `ui(x) + uo(x + ui(x))`.

    Args:
        outer: Field applied second, `(k, j, i, 3)` LPS mm.
        outer_geometry: Its grid.
        inner: Field applied first.
        inner_geometry: Its grid.
        pause: Called before every slab.

    Returns:
        float32 `(k, j, i, 3)` LPS mm on the inner grid.
    """
    result = np.empty(inner.shape, np.float32)
    for slab, motion in composed_slabs(outer, outer_geometry, inner, inner_geometry, inner_geometry, pause):
        result[slab] = motion
    return result


def composed_slabs(
    outer: np.ndarray,
    outer_geometry: Geometry,
    inner: np.ndarray,
    inner_geometry: Geometry,
    grid: Geometry,
    pause: Pause = no_pause,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield slabs along k of a grid and what `compose`, whose arguments these are, makes of two fields there."""
    for slab, points in grid_slabs(grid):
        pause()
        motion = on_slab(inner, inner_geometry, grid, slab)
        rest = sample_field(outer, outer_geometry, points + motion.reshape(-1, 3))
        yield slab, motion + rest.reshape(motion.shape)


def resize(displacement: np.ndarray, geometry: Geometry, new_geometry: Geometry, pause: Pause = no_pause) -> np.ndarray:
    """Return the field on another grid; the vectors stay in mm. float32 `(k, j, i, 3)`. Pauses before every slab."""
    result = np.empty((*new_geometry.shape, displacement.shape[-1]), np.float32)
    for slab in blocks(new_geometry.shape, CHUNK_POINTS):
        pause()
        result[slab] = on_slab(displacement, geometry, new_geometry, slab)
    return result


def on_slab(displacement: np.ndarray, geometry: Geometry, grid: Geometry, slab: slice) -> np.ndarray:
    """Return the field at the voxels of a slab of another grid, interpolated linearly.

    Args:
        displacement: `(k, j, i, 3)` LPS mm (or any number of trailing components).
        geometry: Its grid.
        grid: The other grid.
        slab: Of its voxels along k.

    Returns:
        float32 `(k, j, i, 3)`, the field itself where both grids are the same.

    Raises:
        EngineError: If field and grid differ in size.
    """
    geometry.require_shape(displacement.shape[:3], "displacement field")
    if geometry.matches(grid):
        return displacement[slab].astype(np.float32, copy=False)
    matrix = geometry.lps_to_ijk @ grid.ijk_to_lps
    axes = _parallel_axes(matrix[:3, :3], grid)
    if axes is None:
        found = sample_field(displacement, geometry, _positions(grid, slab))
        return found.astype(np.float32).reshape(slab.stop - slab.start, *grid.shape[1:], -1)
    ranges = [np.arange(grid.size[0]), np.arange(grid.size[1]), np.arange(slab.start, slab.stop)]
    values = displacement
    # The axis along the slices comes first, for it leaves least.
    for axis in sorted(range(3), key=lambda own: -axes[own]):
        index = matrix[axis, axes[axis]] * ranges[axes[axis]] + matrix[axis, 3]
        values = _interpolate_axis(values, index, 2 - axis)
    order = [2 - axes.index(axis) for axis in (2, 1, 0)]
    return np.ascontiguousarray(values.transpose(*order, 3), np.float32)


def _parallel_axes(matrix: np.ndarray, grid: Geometry) -> list[int] | None:
    """Return along which axis of a grid each axis of a field runs, None if they are oblique to each other.

    Args:
        matrix: 3x3, from voxels of the grid to nodes of the field.
        grid: The grid, over all of which an axis strays by less than a thousandth of a node.
    """
    reach = np.abs(matrix) * grid.size
    axes = reach.argmax(axis=1).tolist()
    strays = reach.sum(axis=1) - reach.max(axis=1)
    return axes if sorted(axes) == [0, 1, 2] and (strays < 1e-3).all() else None


def _interpolate_axis(values: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    """Interpolate an array linearly at places along one of its axes, clamped to it."""
    index = np.clip(index, 0, values.shape[axis] - 1)
    low = np.minimum(index.astype(np.intp), max(values.shape[axis] - 2, 0))
    lower = values.take(low, axis)
    if values.shape[axis] == 1:
        return lower
    share = (index - low).astype(np.float32).reshape([-1 if own == axis else 1 for own in range(4)])
    return lower + share * (values.take(low + 1, axis) - lower)


def jacobian_determinant(
    displacement: np.ndarray, geometry: Geometry, pause: Pause = no_pause, grid: Geometry | None = None
) -> np.ndarray:
    """Return det(I + du/dx) at every node, direction cosines honoured.

    Above 1 the fixed tissue element maps to a larger moving element, so moving tissue is shrunk into the fixed image;
    at or below 0 the field folds. Central differences, one-sided at the border; along the axis of a single slice
    nothing changes.

    Args:
        displacement: `(k, j, i, 3)` LPS mm.
        geometry: Its grid.
        pause: Called before every slab.
        grid: On whose voxels the field is sampled; None for its own.

    Returns:
        float32 `(k, j, i)`.

    Raises:
        EngineError: If field and grid differ in size.

    Examples:
        >>> grid = Geometry((4, 4, 4), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
        >>> x = np.arange(4) * 2.0
        >>> stretched = np.zeros((4, 4, 4, 3))
        >>> stretched[..., 0] = 0.5 * x
        >>> float(jacobian_determinant(stretched, grid).mean())
        1.5
    """
    grid = grid or geometry
    result = np.empty(grid.shape, np.float32)
    for slab, _part, determinant in jacobian_slabs(displacement, geometry, grid, pause):
        result[slab] = determinant
    return result


def jacobian_slabs(
    displacement: np.ndarray, geometry: Geometry, grid: Geometry, pause: Pause = no_pause
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield slabs along k of a grid, the field there, and what `jacobian_determinant` makes of it.

    Args:
        displacement: `(k, j, i, 3)` LPS mm.
        geometry: Its grid.
        grid: The grid of the map.
        pause: Called before every slab.
    """
    matrix = grid.ijk_to_lps[:3, :3]
    for slab in blocks(grid.shape, CHUNK_VOXELS):
        pause()
        # One slice of overlap on each side, so that slabs have the central differences of the whole.
        low, high = max(0, slab.start - 1), min(grid.shape[0], slab.stop + 1)
        part = on_slab(displacement, geometry, grid, slice(low, high))
        inner = slice(slab.start - low, slab.stop - low)
        yield slab, part[inner], _jacobian(part, matrix)[inner]


def _jacobian(displacement: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return det(I + du/dx), float32 `(k, j, i)`, of a field `(k, j, i, 3)` on a grid with M = dx/d(index).

    That is det(M + du/d(index)) / det(M), which spares the chain rule per voxel.
    """
    vectors = np.ascontiguousarray(np.moveaxis(displacement, -1, 0), np.float32)
    columns = matrix.T.astype(np.float32)
    changed = [_difference(vectors, 3 - axis) for axis in range(3)]
    for change, column in zip(changed, columns, strict=True):
        change += column.reshape(3, 1, 1, 1)
    return _determinant(*changed) / _determinant(*columns)


def _determinant(i: np.ndarray, j: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Return the determinants `(...)` of matrices whose columns are given, `(3, ...)` each."""
    result = i[0] * (j[1] * k[2] - j[2] * k[1])
    result += i[1] * (j[2] * k[0] - j[0] * k[2])
    result += i[2] * (j[0] * k[1] - j[1] * k[0])
    return result


def _difference(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the change per voxel along an array axis; 0 across a single slice."""
    if values.shape[axis] == 1:
        return np.zeros_like(values)
    return np.gradient(values, axis=axis)


def log_jacobian(jacobian: np.ndarray) -> np.ndarray:
    """Return the natural logarithm of a determinant map; folded voxels get the logarithm of 1e-6."""
    return np.log(np.maximum(jacobian, FLOOR)).astype(np.float32)


def magnitude(displacement: np.ndarray) -> np.ndarray:
    """Return the length of the displacement in mm, float32 `(k, j, i)`."""
    return np.sqrt(np.einsum("...c,...c->...", displacement, displacement)).astype(np.float32)


@dataclass(frozen=True)
class JacobianSummary:
    """Statistics of a Jacobian determinant map.

    Attributes:
        minimum: Smallest determinant.
        maximum: Largest.
        mean: Mean.
        sd: Standard deviation.
        folds: Voxels at or below 0.
        fold_percent: The same in percent of the voxels.
        sd_log_jacobian: Standard deviation of the logarithm over the voxels that do not fold.
        sd_log_jacobian_l2r: The Learn2Reg definition, of log(clip(determinant + 3, 1e-9, 1e9)); about a quarter of the
            former.
    """

    minimum: float
    maximum: float
    mean: float
    sd: float
    folds: int
    fold_percent: float
    sd_log_jacobian: float
    sd_log_jacobian_l2r: float


def summarize_jacobian(jacobian: np.ndarray, mask: np.ndarray | None = None) -> JacobianSummary:
    """Return the statistics of a determinant map `(k, j, i)`, within a mask if given.

    Raises:
        EngineError: If the mask is empty.
    """
    values = jacobian.ravel() if mask is None else jacobian[mask > 0]
    if not values.size:
        raise errors.EngineError(
            errors.MASK_OUTSIDE, "The mask selects no voxel of the Jacobian map.", "Choose a mask that is not empty."
        )
    return summarize_slabs(values[start : start + CHUNK_VOXELS] for start in range(0, values.size, CHUNK_VOXELS))


def summarize_slabs(slabs: Iterable[np.ndarray]) -> JacobianSummary:
    """Return the statistics of a determinant map that comes in slabs, which are not kept."""
    plain, logarithm, shifted, folds = Moments(), Moments(), Moments(), 0
    for slab in slabs:
        values = slab.ravel().astype(np.float64)
        plain.add(values)
        logarithm.add(np.log(values[values > 0]))
        shifted.add(np.log(np.clip(values + 3, 1e-9, 1e9)))
        folds += int((values <= 0).sum())
    return JacobianSummary(
        minimum=plain.minimum,
        maximum=plain.maximum,
        mean=plain.mean,
        sd=plain.sd,
        folds=folds,
        fold_percent=100 * folds / plain.count,
        sd_log_jacobian=logarithm.sd,
        sd_log_jacobian_l2r=shifted.sd,
    )


@dataclass
class Moments:
    """Statistics of values that come part by part.

    Source: Chan, Golub and LeVeque 1979, for the sum of squares of two parts together.
    """

    count: int = 0
    mean: float = math.nan
    squares: float = 0.0  # sum of squared distances from the mean
    minimum: float = math.inf
    maximum: float = -math.inf

    def add(self, values: np.ndarray) -> None:
        """Take in some values."""
        if not values.size:
            return
        count, mean = values.size, float(values.mean(dtype=float))
        change = mean - self.mean if self.count else 0.0
        total = self.count + count
        self.squares += float(values.var(dtype=float)) * count + change**2 * self.count * count / total
        self.mean = self.mean + change * count / total if self.count else mean
        self.count = total
        self.minimum, self.maximum = min(self.minimum, float(values.min())), max(self.maximum, float(values.max()))

    @property
    def sd(self) -> float:
        """Standard deviation; NaN of nothing."""
        return math.sqrt(self.squares / self.count) if self.count else math.nan
