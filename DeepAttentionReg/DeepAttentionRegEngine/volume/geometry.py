"""Where a voxel lies: size, spacing, origin and direction of a volume."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..protocol import errors

ORTHONORMAL_TOLERANCE = 1e-3
SHEARED_HINT = "Resample it, for example with Slicer's module Resample Scalar/Vector/DWI Volume."


def flip_lps_ras(vectors: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Turn LPS points or vectors `(..., 3)` into RAS or back; large ones straight to where they belong (`out`)."""
    return np.multiply(vectors, np.array([-1.0, -1.0, 1.0], dtype=vectors.dtype), out=out, casting="same_kind")


@dataclass(frozen=True)
class Geometry:
    """The grid of a volume, in the LPS frame of DICOM and ITK.

    Attributes:
        size: Voxels along i, j, k.
        spacing: Voxel size in mm along i, j, k.
        origin: Position of the centre of voxel (0, 0, 0), LPS mm.
        direction: 9 numbers, row by row; the columns are the unit vectors of i, j, k in LPS.

    Raises:
        EngineError: If a number is not finite, a size or spacing not positive, or the axes are not orthonormal.

    Examples:
        >>> grid = Geometry((4, 3, 2), (1.0, 2.0, 5.0), (-10.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
        >>> grid.shape
        (2, 3, 4)
        >>> grid.index_to_lps(np.array([[3, 0, 1]])).tolist()
        [[-7.0, 0.0, 5.0]]
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, float, float, float, float, float, float, float, float]

    def __post_init__(self) -> None:
        # Plain numbers, so that a geometry made of numpy scalars or lists compares, hashes and dumps like any other.
        for name, kind in (("size", int), ("spacing", float), ("origin", float), ("direction", float)):
            object.__setattr__(self, name, _plain(name, getattr(self, name), kind))
        numbers = (*self.spacing, *self.origin, *self.direction)
        if len(self.size) != 3 or len(numbers) != 15 or not all(math.isfinite(number) for number in numbers):
            raise _invalid(f"The volume geometry is incomplete or not finite ({self.size}, {numbers}).")
        if min(self.size) < 1 or min(self.spacing) <= 0:
            raise _invalid(f"The volume has size {self.size} and spacing {self.spacing} mm; all must be positive.")
        axes = np.reshape(self.direction, (3, 3))
        if np.abs(axes.T @ axes - np.eye(3)).max() > ORTHONORMAL_TOLERANCE:
            message = "The axes of the volume are sheared: they are not at right angles to each other."
            raise errors.EngineError(errors.INPUT_INVALID, message, SHEARED_HINT)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Size in array axis order (k, j, i)."""
        return self.size[2], self.size[1], self.size[0]

    @property
    def is_flat(self) -> bool:
        """Whether the volume is a single slice."""
        return self.size.count(1) == 1

    @property
    def normal_lps(self) -> np.ndarray:
        """Unit vector `(3,)` across a single slice."""
        return np.reshape(self.direction, (3, 3))[:, self.size.index(1)]

    @property
    def ijk_to_lps(self) -> np.ndarray:
        """4x4 matrix of voxel indices (i, j, k) to LPS mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(self.direction, (3, 3)) * self.spacing
        matrix[:3, 3] = self.origin
        return matrix

    @property
    def ijk_to_ras(self) -> np.ndarray:
        """4x4 matrix of voxel indices (i, j, k) to RAS mm."""
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ self.ijk_to_lps

    @property
    def lps_to_ijk(self) -> np.ndarray:
        """4x4 matrix of LPS mm to continuous voxel indices."""
        return np.linalg.inv(self.ijk_to_lps)

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in cubic mm."""
        return math.prod(self.spacing)

    @property
    def voxel_area(self) -> float:
        """Area of a voxel within the plane of a single slice, square mm."""
        return self.voxel_volume / self.spacing[self.size.index(1)]

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Size of the field of view in mm along i, j, k."""
        i, j, k = (n * spacing for n, spacing in zip(self.size, self.spacing, strict=True))
        return i, j, k

    @property
    def center_lps(self) -> np.ndarray:
        """Centre of the field of view, `(3,)` LPS mm."""
        return self.index_to_lps((np.array(self.size) - 1)[None] / 2)[0]

    def index_to_lps(self, points: np.ndarray) -> np.ndarray:
        """Map continuous voxel indices `(N, 3)` (i, j, k) to LPS mm `(N, 3)`."""
        matrix = self.ijk_to_lps
        return np.asarray(points, dtype=float) @ matrix[:3, :3].T + matrix[:3, 3]

    def lps_to_index(self, points: np.ndarray) -> np.ndarray:
        """Map LPS mm `(N, 3)` to continuous voxel indices `(N, 3)` (i, j, k)."""
        matrix = self.lps_to_ijk
        return np.asarray(points, dtype=float) @ matrix[:3, :3].T + matrix[:3, 3]

    def matches(self, other: "Geometry", tolerance_mm: float = 1e-6) -> bool:
        """Return whether another grid has the same voxels at the same places."""
        return self.size == other.size and np.allclose(self.ijk_to_lps, other.ijk_to_lps, rtol=0, atol=tolerance_mm)

    def require_shape(self, shape: tuple[int, ...], name: str) -> None:
        """Check that an array `(k, j, i)` belongs to this grid.

        Args:
            shape: The array's shape, without a component axis.
            name: How to call the array in the error, such as "displacement field".

        Raises:
            EngineError: If the sizes differ.
        """
        if tuple(shape) != self.shape:
            raise errors.EngineError(
                errors.INPUT_INVALID,
                f"The {name} has {_times(shape)} voxels (k, j, i), but its grid has {_times(self.shape)}.",
                "Use a volume and a grid that belong together.",
            )

    @classmethod
    def from_ijk_to_lps(cls, matrix: np.ndarray, size: tuple[int, int, int]) -> "Geometry":
        """Build from a 4x4 matrix of voxel indices to LPS mm.

        Raises:
            EngineError: If the matrix shears.
        """
        matrix = np.asarray(matrix, dtype=float)
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        if not (spacing > 0).all():
            raise _invalid("The volume's axes include one of length zero.")
        direction = matrix[:3, :3] / spacing
        return cls.from_arrays(size, spacing, matrix[:3, 3], direction)

    @classmethod
    def from_arrays(cls, size: Any, spacing: Any, origin: Any, direction: Any) -> "Geometry":
        """Build from sequences or arrays; `direction` is 3x3 or its 9 numbers row by row."""
        row_major: Any = np.ravel(direction)
        return cls(size, spacing, origin, row_major)

    @classmethod
    def from_ijk_to_ras(cls, matrix: np.ndarray, size: tuple[int, int, int]) -> "Geometry":
        """Build from a 4x4 matrix of voxel indices to RAS mm."""
        return cls.from_ijk_to_lps(np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(matrix, dtype=float), size)

    def resized(self, size: tuple[int, int, int]) -> "Geometry":
        """Return a grid of another size (i, j, k) over the same field of view."""
        factor = np.array(self.size) / np.array(size)
        spacing = np.array(self.spacing) * factor
        matrix = self.ijk_to_lps
        origin = matrix[:3, 3] + matrix[:3, :3] @ ((factor - 1) / 2)
        return Geometry.from_arrays(size, spacing, origin, self.direction)

    def cropped(self, low: np.ndarray, high: np.ndarray) -> "Geometry":
        """Return the grid of the voxels from one index (i, j, k) on up to another one, which is left out."""
        return Geometry.from_arrays(high - low, self.spacing, self.index_to_lps(low[None])[0], self.direction)

    def coarsened(self, voxels: int) -> "Geometry":
        """Return a grid of at most so many voxels, but two per axis, whose corner voxels are those of this one."""
        axes = sum(n > 1 for n in self.size)
        factor = (math.prod(self.size) / voxels) ** (1 / max(axes, 1))
        if factor <= 1:
            return self
        size = [n if n == 1 else max(2, int(n / factor)) for n in self.size]
        spacing = [s * (n - 1) / max(m - 1, 1) or s for s, n, m in zip(self.spacing, self.size, size, strict=True)]
        return Geometry.from_arrays(size, spacing, self.origin, self.direction)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, for JSON."""
        return {name: list(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Geometry":
        """Read what `to_dict` wrote.

        Raises:
            EngineError: If a field is missing, unknown or wrong.
        """
        if set(data) != {"size", "spacing", "origin", "direction"}:
            raise _invalid(f"A geometry needs size, spacing, origin and direction, not {sorted(data)}.")
        return cls(**data)


def place_text(point_lps: Sequence[float]) -> str:
    """Return a point (LPS mm) in whole mm, with the letters of the sides of the patient that it is on.

    Examples:
        >>> place_text((-12.2, -3.0, 40.4))
        'R 12, A 3, S 40'
    """
    letters = (("R", "L"), ("A", "P"), ("I", "S"))
    return ", ".join(f"{pair[value > 0]} {abs(value):.0f}" for pair, value in zip(letters, point_lps, strict=True))


def index_map(target: Geometry, source: Geometry, target_to_source: np.ndarray) -> np.ndarray:
    """Return the 4x4 map of target voxel indices to source voxel indices, both (i, j, k)."""
    return source.lps_to_ijk @ target_to_source @ target.ijk_to_lps


def _plain(name: str, values: Sequence[float], kind: type[int] | type[float]) -> tuple[int | float, ...]:
    try:
        numbers = tuple(kind(value) for value in values)
        exact = all(number == value or value != value for number, value in zip(numbers, values, strict=True))
    except (TypeError, ValueError, OverflowError):
        exact = False
    if not exact:
        raise _invalid(f"The {name} of the volume is {values!r}, but must be a list of {kind.__name__} numbers.")
    return numbers


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)


def _invalid(message: str) -> errors.EngineError:
    return errors.EngineError(errors.INPUT_INVALID, message, "Check the volume's geometry in the Volumes module.")
