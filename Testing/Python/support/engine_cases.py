"""Synthetic images, grids and displacements that the engine's tests share."""

import itertools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from DeepAttentionRegEngine.deform.warp import identity_grid
from DeepAttentionRegEngine.phantom.thorax import PhantomPair
from DeepAttentionRegEngine.protocol.contract import Progress
from DeepAttentionRegEngine.protocol.reporting import Reporter
from DeepAttentionRegEngine.registration.preprocess import Source
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.geometry import Geometry

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
CPU = torch.device("cpu")

# Position and width in mm, brightness: no symmetry, so that a swapped or mirrored axis shows.
BLOBS = (
    ((0.0, 0.0, 0.0), 22.0, 1.0),
    ((26.0, 6.0, -8.0), 9.0, 0.9),
    ((-14.0, 24.0, 10.0), 8.0, -0.6),
    ((6.0, -22.0, 20.0), 10.0, 0.7),
    ((-22.0, -12.0, -18.0), 7.0, 0.8),
)


def quiet(events: list[Progress] | None = None) -> Reporter:
    """Return a reporter that keeps progress in a list, if there is one, and never stops."""
    return Reporter(lambda event: None if events is None else events.append(event), lambda: False)


def rotation(x: float, y: float, z: float) -> np.ndarray:
    """Return the 3x3 rotation by degrees about the x, then the y, then the z axis."""
    (cx, sx), (cy, sy), (cz, sz) = ((np.cos(a), np.sin(a)) for a in np.radians([x, y, z]))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def count_weights(module: torch.nn.Module) -> int:
    """Return the number of trainable scalars."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def matrix4(linear: np.ndarray, offset: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    """Return the 4x4 matrix of a 3x3 matrix and an offset."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, offset
    return matrix


def centered(
    size: tuple[int, int, int],
    spacing: tuple[float, float, float],
    direction: np.ndarray | tuple[float, ...] = AXIAL,
    center: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Geometry:
    """Return a grid whose field of view has its centre at a point."""
    axes = np.reshape(direction, (3, 3))
    origin = np.array(center) - axes @ ((np.array(size) - 1) / 2 * spacing)
    return Geometry.from_arrays(size, spacing, origin, axes)


def restored(geometry: Geometry, order: tuple[int, ...], signs: tuple[int, ...]) -> Geometry:
    """Return the same field of view with its axes stored in another order and sense."""
    direction = np.reshape(geometry.direction, (3, 3))[:, order] * signs
    size = tuple(geometry.size[axis] for axis in order)
    return centered(size, tuple(geometry.spacing[axis] for axis in order), direction, tuple(geometry.center_lps))


def storage_orders() -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return all 48 orders and senses in which the axes of a volume can be stored."""
    return list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def positions(geometry: Geometry) -> np.ndarray:
    """Return the positions `(k, j, i, 3)` LPS mm of all voxels."""
    k, j, i = np.indices(geometry.shape)
    points = geometry.index_to_lps(np.stack([i, j, k], -1).reshape(-1, 3))
    return points.reshape(*geometry.shape, 3)


def blob_image(points_lps: np.ndarray) -> np.ndarray:
    """Return an analytic image, float32 in about [0, 1], at points `(..., 3)` LPS mm; it fades out 60 mm from 0."""
    image = np.zeros(points_lps.shape[:-1])
    for center, width, brightness in BLOBS:
        image += brightness * np.exp(-0.5 * ((points_lps - center) ** 2).sum(-1) / width**2)
    return image.astype(np.float32)


def blob_source(geometry: Geometry, to_object: np.ndarray | None = None) -> Source:
    """Return the analytic image on a grid; `to_object` (4x4) maps its points to the image's own."""
    points = positions(geometry)
    if to_object is not None:
        points = points @ to_object[:3, :3].T + to_object[:3, 3]
    return Source(blob_image(points), geometry)


def smooth_noise(spatial: tuple[int, ...], *, seed: int = 0, sigma: float = 1.5) -> Tensor:
    """Return a random image `(1, 1, *spatial)`, float32 in [0, 1], blurred by `sigma` voxels."""
    return _rescaled(_blurred_noise((1, 1, *spatial), seed, sigma), 0.0, 1.0)


def smooth_displacement(spatial: tuple[int, ...], *, peak: float, seed: int = 0, sigma: float = 4.0) -> Tensor:
    """Return a random displacement `(1, nd, *spatial)`, float32, whose largest component is `peak` voxels."""
    noise = _blurred_noise((1, len(spatial), *spatial), seed, sigma)
    return (noise / noise.abs().max() * peak).float()


def _blurred_noise(shape: tuple[int, ...], seed: int, sigma: float) -> Tensor:
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    radius = int(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    for axis in range(2, noise.ndim):
        lines = noise.movedim(axis, -1)
        flat = torch.nn.functional.conv1d(lines.reshape(-1, 1, lines.shape[-1]), kernel.view(1, 1, -1), padding=radius)
        noise = flat.view(lines.shape).movedim(-1, axis)
    return noise


def _rescaled(image: Tensor, low: float, high: float) -> Tensor:
    share = (image - image.min()) / (image.max() - image.min())
    return (low + (high - low) * share).float()


def ellipses(spatial: tuple[int, ...], count: int = 1, seed: int = 0) -> Tensor:
    """Return background and a random ellipse `(count, 2, *spatial)` within the inner part of the image."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor(spatial).view(1, -1)
    center, radius = (
        (size * (low + 0.2 * torch.rand(count, len(spatial), generator=generator))).view(count, -1, *[1] * len(spatial))
        for low in (0.4, 0.15)
    )
    grid = identity_grid(spatial, torch.zeros(1))
    inside = ((((grid - center) / radius) ** 2).sum(1, keepdim=True) < 1).float()
    return torch.cat([1 - inside, inside], 1)


def stored_otherwise(source: Source, order: tuple[int, int, int], signs: tuple[int, int, int]) -> Source:
    """Return the same volume in space with its axes i, j, k stored in another order and sense."""
    grid = source.geometry
    array = source.array.transpose([2 - axis for axis in reversed(order)])
    array = np.ascontiguousarray(array[tuple(slice(None, None, sign) for sign in reversed(signs))])
    direction = np.reshape(grid.direction, (3, 3))[:, order] * signs
    size, spacing = (tuple(values[axis] for axis in order) for values in (grid.size, grid.spacing))
    return Source(array, centered(size, spacing, direction, tuple(grid.center_lps)))


def moved_grid(geometry: Geometry, matrix: np.ndarray) -> Geometry:
    """Return a grid on which the same voxels show every point x of a volume at matrix x."""
    return Geometry.from_ijk_to_lps(matrix @ geometry.ijk_to_lps, geometry.size)


def write_case(pair: PhantomPair, folder: Path) -> dict[str, str]:
    """Write a phantom pair and everything to score with; return the files by their job fields."""
    grids = {"fixed": pair.fixed_geometry, "moving": pair.moving_geometry}
    files = {}
    for role, geometry in grids.items():
        for kind, array in (("", getattr(pair, role)), ("_labels", getattr(pair, f"{role}_labels"))):
            files[role + kind] = str(folder / f"{role}{kind}.nrrd")
            images.write_volume(files[role + kind], array, geometry)
        files[f"{role}_points"] = str(folder / f"{role}_points.csv")
        images.write_points(files[f"{role}_points"], getattr(pair, f"{role}_points_lps"))
    return files
