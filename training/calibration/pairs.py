"""Pairs of images whose motion is known, and what may go wrong with them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from DeepAttentionRegEngine.deform.tensors import to_array
from DeepAttentionRegEngine.deform.warp import identity_grid, sample, warp
from DeepAttentionRegEngine.phantom.thorax import PhantomSettings, default_geometry, make_phantom
from DeepAttentionRegEngine.registration.preprocess import displacement_to_lps
from DeepAttentionRegEngine.volume.geometry import Geometry

from ..configs.schema import Synthesis
from ..data import motions
from ..data.painting import Chance, Painter
from . import scenes

DRAWN = ("thorax", "shapes", "heads", "abdomens", "atlas")  # families that teach
HELD_OUT = ("head and neck", *scenes.REAL)  # families that never do
AMPLITUDES = (0.004, 0.06)  # root mean square of the motion, as a share of the mean side
FAR = (0.3, 0.7)  # of the field of view, out of reach
PAINT = Synthesis(shapes=(), blur=1.0, noise=0.06)


@dataclass(frozen=True, eq=False)
class KnownPair:
    """Two images on one grid, and the truth.

    Attributes:
        fixed: float32 `(k, j, i)`.
        moving: float32 `(k, j, i)`.
        geometry: Their grid.
        moving_geometry: That of the moving image.
        truth: float32 `(k, j, i, 3)`, LPS mm: the moving image is sampled at x + u(x); None if nothing corresponds.
        lost: `(k, j, i)`, where nothing corresponds; None if nowhere.
    """

    fixed: np.ndarray
    moving: np.ndarray
    geometry: Geometry
    moving_geometry: Geometry
    truth: np.ndarray | None
    lost: np.ndarray | None = None


@dataclass(frozen=True)
class Recipe:
    """What a pair is drawn from.

    Attributes:
        family: Of `DRAWN` or `HELD_OUT`.
        motion: Of `motions.KINDS`; a thorax breathes or slides.
        fault: Of `FAULTS`, or "none".
        nd: Axes, 3 or 2.
        seed: Of all that is random.
    """

    family: str
    motion: str
    fault: str
    nd: int
    seed: int


def draw(recipe: Recipe) -> KnownPair:
    """Return a pair."""
    chance = Chance(np.random.default_rng([recipe.seed, recipe.nd]))
    amplitude = motions.log_uniform(chance.rng, *AMPLITUDES)
    pair = _thorax(recipe, amplitude, chance) if recipe.family == "thorax" else _deformed(recipe, amplitude, chance)
    return FAULTS[recipe.fault](pair, recipe, chance) if recipe.fault != "none" else pair


def _sides(nd: int, chance: Chance) -> tuple[int, ...]:
    """Return a size, array axis order."""
    mean = chance.rng.uniform(44, 96) if nd == 3 else chance.rng.uniform(96, 256)
    return tuple(round(mean * share) for share in chance.rng.uniform(0.85, 1.15, nd))


def _grid(spatial: tuple[int, ...], chance: Chance) -> Geometry:
    """Return a grid of any voxel size; what is learned must not hang on it."""
    i, j, *k = spatial[::-1]
    spacing = (motions.log_uniform(chance.rng, 0.2, 5.0),) * 3
    return Geometry.from_arrays((i, j, k[0] if k else 1), spacing, (0.0, 0.0, 0.0), np.eye(3))


def _thorax(recipe: Recipe, amplitude: float, chance: Chance) -> KnownPair:
    i, j, *k = _sides(recipe.nd, chance)[::-1]
    size = (i, j, k[0] if k else 1)
    grid = default_geometry(size, (330.0 / i, 330.0 / j, 330.0 / (k[0] if k else i)), flat=recipe.nd == 2)
    breath = min(0.1, 2 * amplitude)
    settings = PhantomSettings(breath, float(chance.rng.uniform(4, 25)), seed=recipe.seed, sliding=_slides(recipe))
    made = make_phantom(grid, settings=settings)
    return KnownPair(made.fixed, made.moving, grid, grid, made.displacement_lps_mm)


def _slides(recipe: Recipe) -> bool:
    return recipe.motion in ("breathing", "articulated") and recipe.nd == 3


def _deformed(recipe: Recipe, amplitude: float, chance: Chance) -> KnownPair:
    spatial = _sides(recipe.nd, chance)
    grid = _grid(spatial, chance)
    motion = motions.draw_motion(recipe.motion, spatial, amplitude, chance)
    painter = Painter(PAINT, chance)
    if recipe.family in scenes.REAL:
        moving = scenes.image_of(recipe.family, spatial, chance)
        fixed = painter.displayed(painter.acquired(warp(moving, motion)))
    else:
        labels = scenes.labels_of(recipe.family, spatial, chance)
        fixed, moving = painter.pair(warp(labels, motion, nearest=True), labels, motion, alike=1.0)
    return KnownPair(_volume(fixed), _volume(moving), grid, grid, _truth(motion, grid))


def _volume(image: Tensor) -> np.ndarray:
    """Return `(1, 1, *spatial)` as `(k, j, i)`."""
    array = to_array(image[0, 0])
    return array if array.ndim == 3 else array[None]


def _truth(motion: Tensor, grid: Geometry) -> np.ndarray:
    return to_array(displacement_to_lps(motion, grid).movedim(0, -1))


def _mapped(places: Tensor, matrix: np.ndarray, shift: np.ndarray, spatial: tuple[int, ...]) -> Tensor:
    """Return voxels `(1, nd, *any)` mapped by a matrix about the middle of a grid, and shifted."""
    sides = torch.tensor(spatial) / 2 - 0.5, torch.from_numpy(shift)
    middle, shifted = (side.float().view(1, -1, *[1] * len(spatial)) for side in sides)
    return torch.einsum("ij,bj...->bi...", torch.from_numpy(matrix).float(), places - middle) + middle + shifted


def _moved(pair: KnownPair, recipe: Recipe, matrix: np.ndarray, shift: np.ndarray) -> KnownPair:
    """Return a pair whose moving image went through an affine map of its voxels, and the truth with it."""
    spatial = pair.fixed.shape[3 - recipe.nd :]
    grid = identity_grid(spatial, torch.empty(()))
    image = torch.from_numpy(pair.moving.reshape(1, 1, *spatial).astype(np.float32))
    places = _mapped(grid, matrix, shift, spatial)
    inside = torch.stack([(places[:, d] > -0.5) & (places[:, d] < n - 0.5) for d, n in enumerate(spatial)], 1)
    moving = torch.where(inside.all(1, keepdim=True), sample(image, places), image.min())
    # The new moving image shows at y what the old one shows at M y: what was found at x + u is now at M^-1 (x + u).
    inverse = np.linalg.inv(matrix)
    total = _mapped(grid + _voxels(pair, recipe), inverse, -inverse @ shift, spatial) - grid
    return replace(pair, moving=_volume(moving), truth=_truth(total, pair.geometry))


def _voxels(pair: KnownPair, recipe: Recipe) -> Tensor:
    """Return the truth `(1, nd, *spatial)` in voxels, array axis order."""
    linear = np.linalg.inv(np.array(pair.geometry.ijk_to_lps)[:3, :3])
    voxels = pair.truth @ linear.T
    found = torch.from_numpy(np.moveaxis(voxels[..., ::-1].astype(np.float32), -1, 0).copy())
    return (found[None] if recipe.nd == 3 else found[None, 1:, 0]).contiguous()


def _far(pair: KnownPair, recipe: Recipe, chance: Chance) -> KnownPair:
    """Move the moving image out of reach."""
    spatial = pair.fixed.shape[3 - recipe.nd :]
    way = chance.rng.standard_normal(recipe.nd)
    shift = way / np.linalg.norm(way) * chance.rng.uniform(*FAR) * np.mean(spatial)
    return _moved(pair, recipe, np.eye(recipe.nd), shift)


def _turned(pair: KnownPair, recipe: Recipe, chance: Chance) -> KnownPair:
    """Turn the moving image by 40 to 150 degrees."""
    angle = float(chance.rng.choice([-1, 1]) * np.radians(chance.rng.uniform(40, 150)))
    first, second = chance.rng.permutation(recipe.nd)[:2]
    matrix = np.eye(recipe.nd)
    matrix[[first, first, second, second], [first, second, first, second]] = (
        np.cos(angle),
        -np.sin(angle),
        np.sin(angle),
        np.cos(angle),
    )
    return _moved(pair, recipe, matrix, np.zeros(recipe.nd))


def _flipped(pair: KnownPair, recipe: Recipe, chance: Chance) -> KnownPair:
    """Mirror the moving image along an axis."""
    matrix = np.eye(recipe.nd)
    axis = int(chance.rng.integers(recipe.nd))
    matrix[axis, axis] = -1
    return _moved(pair, recipe, matrix, np.zeros(recipe.nd))


def _stranger(pair: KnownPair, recipe: Recipe, chance: Chance) -> KnownPair:
    """Take the moving image of another body: nothing corresponds."""
    families = [name for name in DRAWN if name != recipe.family]
    other = str(chance.rng.choice(families))
    found = draw(Recipe(other, "smooth", "none", recipe.nd, recipe.seed + 1))
    spacing = float(pair.geometry.spacing[0] * np.mean(pair.geometry.size) / np.mean(found.geometry.size))
    size = found.moving.shape[::-1]
    middle = np.array(pair.geometry.center_lps) - spacing * (np.array(size) - 1) / 2
    grid = Geometry.from_arrays(size, (spacing,) * 3, middle, np.eye(3))
    if recipe.nd == 2 or recipe.family == "thorax":  # planes and directions have to agree
        grid = _like(pair.geometry, size, spacing)
    return replace(pair, moving=found.moving, moving_geometry=grid, truth=None)


def _like(geometry: Geometry, size: tuple[int, ...], spacing: float) -> Geometry:
    """Return a grid of a size about the middle of another one, in its directions."""
    direction = np.reshape(geometry.direction, (3, 3))
    origin = np.array(geometry.center_lps) - direction @ (spacing * (np.array(size) - 1) / 2)
    return Geometry.from_arrays(size, (spacing,) * 3, origin, direction)


def _recolored(pair: KnownPair, recipe: Recipe, chance: Chance) -> KnownPair:
    """Show the moving image as another modality would: tissues of random brightness, by bands of the old one."""
    knots = np.linspace(float(pair.moving.min()), float(pair.moving.max()), int(chance.rng.integers(4, 9)))
    made = np.interp(pair.moving, knots, chance.rng.uniform(0, 1, len(knots)))
    noise = 0.02 * chance.rng.standard_normal(made.shape)
    return replace(pair, moving=(made + noise).astype(np.float32))


def _resected(pair: KnownPair, recipe: Recipe, chance: Chance) -> KnownPair:
    """Fill a ball of the fixed image with other tissue, as after an operation; there nothing corresponds."""
    lost = _ball(pair, recipe, chance, (0.06, 0.18))
    values = np.percentile(pair.fixed, chance.rng.uniform(2, 90))
    noise = 0.02 * (pair.fixed.max() - pair.fixed.min()) * chance.rng.standard_normal(pair.fixed.shape)
    fixed = np.where(lost, values + noise, pair.fixed).astype(np.float32)
    return replace(pair, fixed=fixed, lost=lost)


def _ball(pair: KnownPair, recipe: Recipe, chance: Chance, share: tuple[float, float]) -> np.ndarray:
    """Return a ball `(k, j, i)` with a radius that is a share of the mean side, around a place inside the body."""
    bright = np.argwhere(pair.fixed > np.percentile(pair.fixed, 50))
    center = bright[chance.rng.integers(len(bright))]
    off = np.indices(pair.fixed.shape) - center[:, None, None, None]
    radius = chance.rng.uniform(*share) * np.mean(pair.fixed.shape[3 - recipe.nd :])
    return (off**2).sum(0) <= radius**2


def _cut(pair: KnownPair, recipe: Recipe, chance: Chance) -> KnownPair:
    """Take 25 to 55 % of the moving field of view away."""
    axis = 3 - recipe.nd + int(chance.rng.integers(recipe.nd))
    length = pair.moving.shape[axis]
    lost = int(length * chance.rng.uniform(0.25, 0.55))
    first = lost if chance.rng.random() < 0.5 else 0
    moving = np.take(pair.moving, np.arange(first, first + length - lost), axis)
    low, high = np.zeros(3, int), np.array(pair.moving_geometry.size)
    low[2 - axis], high[2 - axis] = first, first + length - lost
    return replace(pair, moving=moving, moving_geometry=pair.moving_geometry.cropped(low, high))


def _spoiled(pair: KnownPair, recipe: Recipe, chance: Chance) -> KnownPair:
    """Lay a ghost, stripes or heavy noise over the moving image."""
    span, image = float(pair.moving.max() - pair.moving.min()), pair.moving
    axis, kind = 3 - recipe.nd + int(chance.rng.integers(recipe.nd)), int(chance.rng.integers(3))
    if kind == 0:
        made = image + chance.rng.uniform(0.3, 0.8) * np.roll(image, image.shape[axis] // 3, axis)
    elif kind == 1:
        phase = np.indices(image.shape)[axis] * chance.rng.uniform(0.5, 2.0)
        made = image + span * chance.rng.uniform(0.15, 0.5) * np.sin(phase)
    else:
        made = image + span * chance.rng.uniform(0.15, 0.5) * chance.rng.standard_normal(image.shape)
    return replace(pair, moving=made.astype(np.float32))


def _unchanged(pair: KnownPair, recipe: Recipe, chance: Chance) -> KnownPair:
    """Leave the images alone: what goes wrong is how they are registered."""
    return pair


Fault = Callable[[KnownPair, Recipe, Chance], KnownPair]
FAULTS: dict[str, Fault] = {
    "out of reach": _far,
    "turned": _turned,
    "flipped": _flipped,
    "another body": _stranger,
    "other modality": _recolored,
    "resected": _resected,
    "field of view cut": _cut,
    "artefact": _spoiled,
    "too few steps": _unchanged,
}
