"""Any two volumes onto one working grid, and the field from there into millimetres on any grid.

Matrices are 4x4 and act on column vectors. `alignment` is the linear map of fixed to moving points (LPS mm).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..deform.pairs import ImagePair
from ..deform.tensors import to_array, to_tensor
from ..deform.warp import sample
from ..protocol import errors
from ..protocol.grid import GridPolicy
from ..volume.geometry import Geometry, index_map
from ..volume.intensity import PERCENTILES, Normalized, blocks
from ..volume.no_data import known_voxels
from ..volume.segments import Segments
from .deformation import StoredDeformation
from .resampling import Interpolated, apply_matrix, mapped_indices, nearest_voxels, resample, slab_indices
from .working_grid import plan_grid, spatial_shape

SLAB_VOXELS = 2**19  # whose coordinates stay in the processor's cache: twice as fast as 2 million
MINIMUM_OVERLAP = 0.02
OVERLAP_POINTS = 48  # along each axis


@dataclass(frozen=True, kw_only=True)
class WorkingPair(ImagePair):
    """Two images on the working grid, `(1, 1, *spatial)` in [0, 1]; spatial leaves the axis of a single slice out.

    The moving image and its mask are sampled through the alignment; `weight` is 1 where both images are known and
    inside the masks, else 0. A mask decides on what is known of its image inside the field of view.

    Attributes:
        weight: As in `ImagePair`, always known.
        geometry: The working grid; a flat one has its single slice along k.
        alignment: Linear map of fixed to moving points, 4x4 LPS.
    """

    weight: Tensor
    geometry: Geometry
    alignment: np.ndarray

    def at(self, spatial: Sequence[int]) -> "WorkingPair":
        """Return the pair on a grid of another size over the same field of view, area-averaged against aliasing."""
        return replace(super().at(spatial), geometry=self._sized(spatial))

    def grid_of(self, displacement: Tensor) -> Geometry:
        """Return the grid over the pair's field of view on which a displacement `(1, nd, *any)` lies."""
        return self._sized(displacement.shape[2:])

    def _sized(self, spatial: Sequence[int]) -> Geometry:
        i, j, *k = spatial[::-1]
        return self.geometry.resized((i, j, k[0] if k else 1))

    def for_network(self) -> ImagePair:
        """Return what a network is given; masks are 0 or 1 again after resampling."""
        fixed, moving = (
            None if mask is None else (mask >= 0.5).float() for mask in (self.fixed_mask, self.moving_mask)
        )
        return ImagePair(self.fixed, self.moving, fixed, moving, known=self.known)


def slabs(shape: tuple[int, int, int]) -> Iterator[slice]:
    """Return slices along k that hold about `SLAB_VOXELS` each."""
    return blocks(shape, SLAB_VOXELS)


@dataclass(frozen=True)
class Source:
    """A volume to register: array `(k, j, i)`, grid, and an optional mask on the same grid."""

    array: np.ndarray
    geometry: Geometry
    mask: np.ndarray | None = None

    @cached_property
    def known(self) -> np.ndarray | None:
        """Where the volume was measured; None if everywhere."""
        return known_voxels(self.array)

    @cached_property
    def interpolated(self) -> Interpolated:
        """The volume between its voxels."""
        return Interpolated(self.array)

    @cached_property
    def _normalized(self) -> dict[tuple[float, float], Normalized]:
        return {}

    def normalized(self, name: str = "image", percentiles: tuple[float, float] = PERCENTILES) -> Normalized:
        """Return the volume in [0, 1], made part by part when it is used; arguments and errors of `normalize`."""
        low, high = percentiles
        if (low, high) not in self._normalized:
            self._normalized[low, high] = Normalized.of(self.array, self.known, name, (low, high))
        return self._normalized[low, high]

    @property
    def counted(self) -> np.ndarray | None:
        """Which voxels drive a registration, those above 0: what the mask selects, else what was measured."""
        return self.known if self.mask is None else self.mask


def on_grid(labels: Source, geometry: Geometry) -> np.ndarray:
    """Return a label map `(k, j, i)` on a grid, resampled (nearest, 0 outside) only if it lies on another."""
    matrix = index_map(geometry, labels.geometry, np.eye(4))
    if labels.geometry.size == geometry.size and np.allclose(matrix, np.eye(4), atol=1e-3):
        return labels.array
    result = np.empty(geometry.shape, labels.array.dtype)
    for slab in slabs(geometry.shape):
        result[slab] = nearest_voxels(labels.array, mapped_indices(matrix, geometry.shape, slab, torch.empty(0)))
    return result


def prepare(
    fixed: Source,
    moving: Source,
    alignment: np.ndarray,
    policy: GridPolicy,
    device: torch.device,
    percentiles: tuple[float, float] = PERCENTILES,
) -> WorkingPair:
    """Bring two volumes onto the working grid over the fixed volume.

    Args:
        fixed: Fixed volume.
        moving: Moving volume.
        alignment: Linear map of fixed to moving points.
        policy: Size of the working grid.
        device: Where to work.
        percentiles: Of each volume that become 0 and 1.

    Raises:
        EngineError: If the volumes do not overlap, a mask leaves nothing, or an image is constant or all NaN.
    """
    geometry = plan_grid(fixed.geometry, policy)
    shape, spatial = geometry.shape, spatial_shape(geometry)
    images: list[Tensor] = []
    masks: list[Tensor | None] = []
    known, chosen = (torch.ones(shape, device=device, dtype=torch.bool) for _ in range(2))
    for source, matrix, name in ((fixed, np.eye(4), "fixed image"), (moving, alignment, "moving image")):
        to_source = index_map(geometry, source.geometry, matrix)
        values, inside = resample(source.normalized(name, percentiles), to_source, shape, device)
        images.append(values.view(1, 1, *spatial))
        known &= inside
        if source is moving:
            _require_overlap(fixed, moving, alignment, found=bool(known.any()))
        if source.counted is None:
            masks.append(None)
            continue
        counted = resample(source.counted, to_source, shape, device, nearest=True)[0] > 0
        chosen &= counted
        masks.append(None if source.mask is None else counted.float().view(1, 1, *spatial))
        _require_mask(bool((known & chosen).any()), "fixed image" if source.mask is None else name)
    weight = (known & chosen).float()
    return WorkingPair(
        images[0],
        images[1],
        masks[0],
        masks[1],
        weight=weight.view(1, 1, *spatial),
        geometry=geometry,
        alignment=alignment,
    )


def _share(source: Source, other: Source, matrix: np.ndarray) -> float:
    """Return which share of what was measured of a volume shows what another one shows, too.

    Args:
        source: The volume.
        other: The other one.
        matrix: Linear map of the volume's to the other one's points.
    """
    steps = [np.linspace(0, n - 1, min(n, OVERLAP_POINTS)).round() for n in source.geometry.size]
    index = torch.as_tensor(np.stack(np.meshgrid(*steps, indexing="ij")), dtype=torch.float32)
    seen = apply_matrix(index_map(source.geometry, other.geometry, matrix), index)
    own, others = (np.broadcast_to(True, s.geometry.shape) if s.known is None else s.known for s in (source, other))
    found = nearest_voxels(others, seen)[nearest_voxels(own, index)]
    return float(found.mean()) if found.size else 0.0


def _require_overlap(fixed: Source, moving: Source, alignment: np.ndarray, *, found: bool) -> None:
    """Refuse two volumes of which neither lies in the other one by more than a little, or that have `found` nothing."""
    share = max(_share(fixed, moving, alignment), _share(moving, fixed, np.linalg.inv(alignment)))
    if share < MINIMUM_OVERLAP or not found:
        raise errors.EngineError(
            errors.NO_OVERLAP,
            f"After the initial alignment the volumes share {100 * share:.1f} % of the smaller field of view.",
            "Choose the alignment automatic, or place the moving volume with a linear transform.",
        )


def _require_mask(found: bool, name: str) -> None:
    if not found:
        raise errors.EngineError(
            errors.MASK_OUTSIDE,
            f"The mask of the {name} selects no voxel where both volumes have data.",
            "Check that the mask belongs to this volume and is not empty.",
        )


def displacement_to_lps(displacement: Tensor, geometry: Geometry) -> Tensor:
    """Turn a working-grid displacement in voxels into LPS mm.

    Args:
        displacement: `(1, nd, *spatial)`, channels in array axis order.
        geometry: The working grid.

    Returns:
        `(3, k, j, i)` with channels x, y, z; the slice axis of a single slice gets no motion.
    """
    ijk = displacement[0].flip(0)
    if geometry.is_flat:
        ijk = torch.cat([ijk, torch.zeros_like(ijk[:1])])[:, None]
    matrix = geometry.ijk_to_lps.copy()
    matrix[:3, 3] = 0
    return apply_matrix(matrix, ijk)


def field_on(displacement: Tensor, pair: WorkingPair, grid: Geometry) -> np.ndarray:
    """Return the whole displacement, alignment included, at the nodes of a grid.

    `u(x) = A (x + v(x)) - x`, v the working-grid displacement interpolated linearly, its edge value continued outside,
    and A the alignment.

    Args:
        displacement: `(1, nd, *any)` in voxels of a grid over the field of view of the working grid.
        pair: The working pair it belongs to.
        grid: Any grid, such as that of the fixed volume.

    Returns:
        float32 `(k, j, i, 3)`, LPS mm: the moving volume is sampled at x + u(x).
    """
    own = pair.grid_of(displacement)
    field = displacement_to_lps(displacement, own)[None]
    to_own = index_map(grid, own, np.eye(4))
    # A (x + v) - x = (A - I)(x + v) + v keeps single precision where coordinates are hundreds of millimetres.
    residual = pair.alignment - np.eye(4)
    result = np.empty((*grid.shape, 3), np.float32)
    for slab in slabs(grid.shape):
        index = slab_indices(grid.shape, slab, displacement.device)
        motion = sample(field, apply_matrix(to_own, index).flip(0)[None])[0]
        total = apply_matrix(residual, apply_matrix(grid.ijk_to_lps, index) + motion) + motion
        result[slab] = to_array(total.movedim(0, -1))
    return result


def warp_volume(
    moving: Source, deformation: StoredDeformation, fixed: Geometry, device: torch.device, *, nearest: bool = False
) -> np.ndarray:
    """Resample a volume through a deformation, once, from its original voxels.

    Outside the moving volume the result is 0 for labels and the volume's minimum for images.

    Args:
        moving: Volume to resample, any real type; non-finite voxels count as the minimum.
        deformation: On any grid.
        fixed: The grid to sample on, usually that of the fixed volume.
        device: Where to work.
        nearest: Nearest neighbour, for label maps.

    Returns:
        `(k, j, i)` on that grid, of the moving volume's type.
    """
    to_index = moving.geometry.lps_to_ijk @ fixed.ijk_to_lps
    linear = moving.geometry.lps_to_ijk.copy()
    linear[:3, 3] = 0
    image = None if nearest else moving.interpolated
    # Values of 32 bits need all digits, and contrast multiplies the last ones of a place.
    kind = np.float32 if nearest else np.float64
    result = np.empty(fixed.shape, moving.array.dtype)
    for slab in slabs(fixed.shape):
        motion = to_tensor(deformation.on_slab(fixed, slab), device, kind).movedim(-1, 0)
        index = apply_matrix(linear, motion, onto=mapped_indices(to_index, fixed.shape, slab, motion))
        result[slab] = nearest_voxels(moving.array, index) if image is None else image.at(index)
    return result


def warp_segments(moving: Segments, deformation: StoredDeformation, fixed: Geometry, device: torch.device) -> Segments:
    """Resample every layer of segments by nearest neighbour; arguments as of `warp_volume`."""

    def warped(layer: np.ndarray) -> np.ndarray:
        return warp_volume(Source(layer, moving.geometry), deformation, fixed, device, nearest=True)

    return moving.mapped(warped, fixed)
