"""Displacement fields in physical units: sampling, composition, inversion, Jacobian. numpy only.

A field is a float32 array `(k, j, i, 3)` of LPS mm (x, y, z) on the grid of a `Geometry`; it maps the point x to
x + u(x). Between grid nodes it is interpolated linearly; outside the grid the edge value continues.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .geometry import Geometry

CHUNK_POINTS = 1_000_000  # bounds the temporaries of sampling
FLOOR = 1e-6  # below it a Jacobian determinant has no logarithm worth showing


def sample_field(displacement: np.ndarray, geometry: Geometry, points_lps: np.ndarray) -> np.ndarray:
    """Return the displacement at points.

    Args:
        displacement: `(k, j, i, 3)` LPS mm (or any number of trailing components).
        geometry: Its grid.
        points_lps: `(N, 3)` LPS mm.

    Returns:
        `(N, 3)` LPS mm, float64.
    """
    points_lps = np.asarray(points_lps, dtype=float).reshape(-1, 3)
    result = np.empty((len(points_lps), displacement.shape[-1]))
    for start in range(0, len(points_lps), CHUNK_POINTS):
        chunk = slice(start, start + CHUNK_POINTS)
        result[chunk] = _interpolate(displacement, geometry.lps_to_index(points_lps[chunk]))
    return result


def _interpolate(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Interpolate `(k, j, i, C)` linearly at voxel indices `(N, 3)` (i, j, k), clamped to the grid."""
    last = np.array(values.shape[2::-1]) - 1
    index = np.clip(index, 0, last)
    low = np.minimum(index.astype(np.intp), np.maximum(last - 1, 0))
    share = index - low
    high = np.minimum(low + 1, last)
    result = np.zeros((len(index), values.shape[-1]))
    for corner in range(8):
        upper = np.array([corner & 1, corner & 2, corner & 4], dtype=bool)
        i, j, k = np.where(upper, high, low).T
        result += np.where(upper, share, 1 - share).prod(1)[:, None] * values[k, j, i]
    return result


def transform_points(displacement: np.ndarray, geometry: Geometry, points_lps: np.ndarray) -> np.ndarray:
    """Return x + u(x) for points `(N, 3)` LPS mm: where a fixed point lies in the moving volume."""
    return np.asarray(points_lps, dtype=float).reshape(-1, 3) + sample_field(displacement, geometry, points_lps)


def grid_slabs(geometry: Geometry) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield slabs along k and the LPS positions `(N, 3)` of their voxels, in array order."""
    size_k, size_j, size_i = geometry.shape
    step = max(1, CHUNK_POINTS // (size_j * size_i))
    for start in range(0, size_k, step):
        stop = min(start + step, size_k)
        k, j, i = np.meshgrid(np.arange(start, stop), np.arange(size_j), np.arange(size_i), indexing="ij")
        yield slice(start, stop), geometry.index_to_lps(np.stack([i.ravel(), j.ravel(), k.ravel()], 1))


def compose(outer: np.ndarray, outer_geometry: Geometry, inner: np.ndarray, inner_geometry: Geometry) -> np.ndarray:
    """Return the field of x -> outer(inner(x)) on the inner field's grid: `ui(x) + uo(x + ui(x))`.

    Args:
        outer: Field applied second, `(k, j, i, 3)` LPS mm.
        outer_geometry: Its grid.
        inner: Field applied first.
        inner_geometry: Its grid.

    Returns:
        float32 `(k, j, i, 3)` LPS mm on the inner grid.
    """
    result = np.empty(inner.shape, np.float32)
    for slab, points in grid_slabs(inner_geometry):
        motion = inner[slab].reshape(-1, 3)
        result[slab] = (motion + sample_field(outer, outer_geometry, points + motion)).reshape(result[slab].shape)
    return result


def resize(displacement: np.ndarray, geometry: Geometry, new_geometry: Geometry) -> np.ndarray:
    """Return the field on another grid; the vectors stay in mm. float32 `(k, j, i, 3)`."""
    result = np.empty((*new_geometry.shape, displacement.shape[-1]), np.float32)
    for slab, points in grid_slabs(new_geometry):
        result[slab] = sample_field(displacement, geometry, points).reshape(result[slab].shape)
    return result


@dataclass(frozen=True)
class Inverse:
    """An approximate inverse field and how far it misses.

    Attributes:
        displacement: `(k, j, i, 3)` LPS mm on the same grid.
        residual_mm_max: Largest `|v(y) + u(y + v(y))|` over the grid nodes whose image lies inside the grid.
        residual_mm_mean: Mean of the same.
        iterations: Iterations used.
    """

    displacement: np.ndarray
    residual_mm_max: float
    residual_mm_mean: float
    iterations: int


def invert(displacement: np.ndarray, geometry: Geometry, iterations: int = 50, tolerance_mm: float = 1e-3) -> Inverse:
    """Invert a field on its own grid by fixed-point iteration.

    `v_{n+1}(y) = -u(y + v_n(y))` converges where u changes less than one mm per mm; in folds no inverse exists and the
    residual says so.

    Args:
        displacement: `(k, j, i, 3)` LPS mm.
        geometry: Its grid.
        iterations: Iterations at most.
        tolerance_mm: Stop when no residual is larger.

    Source: Chen et al. 2008, "A simple fixed-point approach to invert a deformation field".
    """
    inverse = np.zeros_like(displacement, dtype=np.float32)
    done = 0
    while True:
        error = compose(displacement, geometry, inverse, geometry)
        residual = np.linalg.norm(error, axis=-1)[_lands_inside(inverse, geometry)]
        worst = float(residual.max()) if residual.size else math.nan
        if done == iterations or worst <= tolerance_mm:
            mean = float(residual.mean()) if residual.size else math.nan
            return Inverse(inverse, worst, mean, done)
        inverse = inverse - error
        done += 1


def _lands_inside(displacement: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return `(k, j, i)` bool: x + u(x) lies within the grid."""
    inside = np.empty(geometry.shape, bool)
    last = np.array(geometry.size) - 1
    for slab, points in grid_slabs(geometry):
        index = geometry.lps_to_index(points + displacement[slab].reshape(-1, 3))
        within = (index >= -1e-6) & (index <= last + 1e-6)
        # A single slice has no thickness to stay within.
        inside[slab] = (within | (last == 0)).all(1).reshape(inside[slab].shape)
    return inside


def jacobian_determinant(displacement: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return det(I + du/dx) at every node, direction cosines honoured.

    Above 1 the fixed tissue element maps to a larger moving element, so moving tissue is shrunk into the fixed image;
    at or below 0 the field folds. Central differences, one-sided at the border; along the axis of a single slice
    nothing changes.

    Args:
        displacement: `(k, j, i, 3)` LPS mm.
        geometry: Its grid.

    Returns:
        float32 `(k, j, i)`.
    """
    result = np.empty(geometry.shape, np.float32)
    to_index = geometry.lps_to_ijk[:3, :3]
    size_k = geometry.shape[0]
    step = max(1, CHUNK_POINTS // (geometry.shape[1] * geometry.shape[2]))
    for start in range(0, size_k, step):
        stop = min(start + step, size_k)
        # One slice of overlap on each side, so that slabs have the central differences of the whole.
        low, high = max(0, start - 1), min(size_k, stop + 1)
        matrix = _index_gradient(displacement[low:high]) @ to_index
        matrix += np.eye(3)
        result[start:stop] = np.linalg.det(matrix)[start - low : stop - low]
    return result


def _index_gradient(displacement: np.ndarray) -> np.ndarray:
    """Return du/d(i, j, k) `(k, j, i, 3, 3)`, last axis i, j, k."""
    gradient = np.zeros((*displacement.shape, 3))
    for column, axis in enumerate((2, 1, 0)):
        if displacement.shape[axis] > 1:
            gradient[..., column] = np.gradient(displacement.astype(np.float64), axis=axis)
    return gradient


def log_jacobian(jacobian: np.ndarray) -> np.ndarray:
    """Return the natural logarithm of a determinant map; folded voxels get the logarithm of 1e-6."""
    return np.log(np.maximum(jacobian, FLOOR)).astype(np.float32)


def magnitude(displacement: np.ndarray) -> np.ndarray:
    """Return the length of the displacement in mm, float32 `(k, j, i)`."""
    return np.sqrt(np.einsum("...c,...c->...", displacement, displacement)).astype(np.float32)


def fold_fraction(jacobian: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return the share of voxels with a determinant at or below 0, within a mask if given; NaN for an empty mask."""
    values = jacobian if mask is None else jacobian[mask > 0]
    return float((values <= 0).mean()) if values.size else math.nan


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
        ValueError: If the mask is empty.
    """
    values = (jacobian.ravel() if mask is None else jacobian[mask > 0]).astype(np.float64)
    if not values.size:
        msg = "the mask selects no voxel"
        raise ValueError(msg)
    positive = values[values > 0]
    return JacobianSummary(
        minimum=float(values.min()),
        maximum=float(values.max()),
        mean=float(values.mean()),
        sd=float(values.std()),
        folds=int((values <= 0).sum()),
        fold_percent=100 * float((values <= 0).mean()),
        sd_log_jacobian=float(np.log(positive).std()) if positive.size else math.nan,
        sd_log_jacobian_l2r=float(np.log(np.clip(values + 3, 1e-9, 1e9)).std()),
    )
