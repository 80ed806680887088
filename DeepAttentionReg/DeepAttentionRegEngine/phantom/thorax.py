"""A breathing thorax with a known displacement: the demo case and the ground truth of the tests.

The anatomy is an analytic function of position q in a reference body (arrays (3, N): x to the left, y to the back, z to
the head, mm, origin at the center of the fixed image), stretched to the field of view of the fixed image. The moving
image (expiration) shows the anatomy at p, the fixed image (inspiration) shows it at p + u(p). So `fixed(x) =
moving(x + u(x))` holds by construction, and u is what a registration has to find: LPS mm on the fixed grid.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from ..volume.geometry import Geometry
from .anatomy import REFERENCE_HALF_MM, Array, course, ellipsoid, labels_of, shapes_at, step
from .motion import breathe, slide
from .texture import HILA, grow_tree, random_field, vessel_share

LANDMARK_LABELS = (2, 3, 4, 5)
LANDMARKS_PER_ORGAN = 24
CHUNK_POINTS = 32768  # bounds the temporaries of large grids to a few tens of MB

# Radius in reference mm, HU, course: aorta, superior vena cava, pulmonary trunk, pulmonary arteries.
GREAT_VESSELS = (
    (12.5, 120.0, ((-12, -24, 6), (-10, -22, 52), (6, -4, 70), (22, 22, 58), (22, 26, -165))),
    (8.5, 100.0, ((-24, -16, 10), (-22, -18, 95))),
    (13.0, 110.0, ((16, -36, 12), (14, -14, 38))),
    (10.0, 110.0, ((-36, 2, 28), (14, -12, 36), (42, 8, 34))),
)


@dataclass(frozen=True)
class PhantomSettings:
    """What varies between phantoms.

    Attributes:
        breathing_amplitude: Peak displacement towards the head as a share of the height of the field of view, 0 to 0.1.
        noise: Standard deviation of the white noise, HU.
        lung_density_change: Added to the lungs of the fixed image, HU (inspired lung is darker).
        seed: Selects texture, lung vessels, landmarks and noise.
        sliding: The chest wall rests, and lungs, heart and belly slide along it; the tumor keeps its shape.
    """

    breathing_amplitude: float = 0.07
    noise: float = 8.0
    lung_density_change: float = -15.0
    seed: int = 0
    sliding: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for an amplitude that could fold the body or for negative noise."""
        if not 0.0 <= self.breathing_amplitude <= 0.1 or not self.noise >= 0.0:
            msg = f"breathing_amplitude ({self.breathing_amplitude}) must be 0 to 0.1, noise ({self.noise}) 0 or more."
            raise ValueError(msg)


@dataclass(frozen=True, eq=False)
class PhantomPair:
    """Two images of one phantom and the truth about them.

    Attributes:
        fixed, moving: float32 (k, j, i) of their own grids, HU.
        fixed_labels, moving_labels: uint8 (k, j, i) of their own grids, values of LABEL_NAMES, 0 outside the body.
        displacement_lps_mm: float32 (k, j, i, 3) on the fixed grid; the moving image is sampled at x + u(x).
        fixed_points_lps, moving_points_lps: Landmarks (N, 3), mm; a moving point is exactly the fixed point x + u(x).
        fixed_geometry, moving_geometry: Grids of the two images.
    """

    fixed: NDArray[np.float32]
    moving: NDArray[np.float32]
    fixed_labels: NDArray[np.uint8]
    moving_labels: NDArray[np.uint8]
    displacement_lps_mm: NDArray[np.float32]
    fixed_points_lps: Array
    moving_points_lps: Array
    fixed_geometry: Geometry
    moving_geometry: Geometry


def default_geometry(
    size: tuple[int, int, int] | None = None, spacing: tuple[float, float, float] | None = None, *, flat: bool = False
) -> Geometry:
    """Return the grid of the demo, centered on the LPS origin: one coronal slice or a slightly oblique axial volume.

    Args:
        size: Voxels along i, j, k. `None` means 96, 80, 96, or 160, 160, 1 when flat.
        spacing: Voxel size in mm along i, j, k. `None` means 3.5, 3.0, 3.5, or 2, 2, 2 when flat.
        flat: True for a coronal slice (i to the left, j to the feet), so that breathing lies in the plane.
    """
    size = size or ((160, 160, 1) if flat else (96, 80, 96))
    spacing = spacing or ((2.0, 2.0, 2.0) if flat else (3.5, 3.0, 3.5))
    direction = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
    if not flat:
        (c, s), (cx, sx) = ((float(np.cos(a)), float(np.sin(a))) for a in np.radians([4.0, -3.0]))
        direction = np.array([[c, -s * cx, s * sx], [s, c * cx, -c * sx], [0.0, sx, cx]])
    x, y, z = (float(v) for v in -direction @ (np.array(spacing) * (np.array(size) - 1.0) / 2.0))
    return Geometry(size=size, spacing=spacing, origin=(x, y, z), direction=tuple(direction.ravel().tolist()))


def make_phantom(
    fixed_geometry: Geometry, moving_geometry: Geometry | None = None, settings: PhantomSettings | None = None
) -> PhantomPair:
    """Render a phantom pair and its truth.

    Args:
        fixed_geometry: Grid of the fixed image; its field of view sets the size of the body. For a single slice the
            displacement is projected into its plane.
        moving_geometry: Grid of the moving image, a slice in the plane of a fixed slice. `None` means the fixed grid.
        settings: `None` means the default settings.

    Returns:
        Images, labels, displacement and landmarks; the same arguments give the same arrays.

    Raises:
        ValueError: When one grid is a single slice and the other is not.
    """
    moving_geometry = moving_geometry or fixed_geometry
    settings = settings or PhantomSettings()
    if fixed_geometry.is_flat != moving_geometry.is_flat:
        msg = f"Sizes {fixed_geometry.size} and {moving_geometry.size} mix a single slice and a volume; use two alike."
        raise ValueError(msg)
    body = _Body(fixed_geometry, moving_geometry, settings)
    moving, moving_labels, _ = body.render(moving_geometry, breathing=False)
    fixed, fixed_labels, displacement = body.render(fixed_geometry, breathing=True)
    rng = np.random.default_rng([settings.seed, 1])
    points = body.draw_landmarks(fixed_geometry, rng)
    for image in (moving, fixed):
        image += settings.noise * rng.standard_normal(image.shape, dtype=np.float32)
    moved = points + body.displacement(points)
    return PhantomPair(
        *(fixed, moving, fixed_labels, moving_labels, displacement, points, moved, fixed_geometry, moving_geometry)
    )


class _Body:
    """The reference body placed in a fixed image: position, stretch, sharpness, texture and breathing."""

    def __init__(self, fixed: Geometry, moving: Geometry, settings: PhantomSettings) -> None:
        self.settings = settings
        self.center = np.asarray(fixed.center_lps, dtype=float)
        self.scale, self.normal = _fit(fixed)
        edges = [s for grid in (fixed, moving) for s, n in zip(grid.spacing, grid.size, strict=True) if n > 1]
        self.voxel = float(max(edges) / self.scale.mean())
        rng = np.random.default_rng([settings.seed, 0])
        # Five voxels per wave at least, so that linear interpolation follows the texture.
        shortest = max(16.0, 5.0 * self.voxel)
        self.fine = random_field(rng, shortest, 2.0 * shortest)
        self.coarse = random_field(rng, 2.0 * shortest, 5.0 * shortest)
        self.trees = {side: grow_tree(rng, side) for side in HILA}

    def to_reference(self, points_lps: Array) -> Array:
        """Map (N, 3) LPS mm to (3, N) reference mm."""
        return np.ascontiguousarray(((points_lps - self.center) / self.scale).T)

    def displacement(self, points_lps: Array) -> Array:
        """Return u at (N, 3) LPS points, (N, 3) LPS mm."""
        move = slide if self.settings.sliding else breathe
        moved = move(self.to_reference(points_lps), self.settings.breathing_amplitude).T * self.scale
        return moved if self.normal is None else moved - (moved @ self.normal)[:, None] * self.normal

    def render(self, geometry: Geometry, *, breathing: bool) -> tuple[Array, NDArray[np.uint8], Array]:
        """Return image, labels and displacement of a grid; at rest, which is the moving image, all zero displaced."""
        count = int(np.prod(geometry.shape))
        image, labels = np.empty(count, np.float32), np.empty(count, np.uint8)
        displacement = np.zeros((count, 3), np.float32)
        for start in range(0, count, CHUNK_POINTS):
            k, j, i = np.unravel_index(np.arange(start, min(start + CHUNK_POINTS, count)), geometry.shape)
            run = slice(start, start + len(i))
            points = geometry.index_to_lps(np.stack([i, j, k], axis=1).astype(float))
            if breathing:
                displacement[run] = self.displacement(points)
            q = self.to_reference(points + displacement[run]).astype(np.float32)
            shapes = shapes_at(q)
            labels[run] = labels_of(shapes)
            hu = np.full(len(i), -1000.0, np.float32)
            for distance, value in self._layers(q, shapes, self.settings.lung_density_change if breathing else 0.0):
                hu += step(0.5 - distance / (2.0 * self.voxel)) * (value - hu)
            image[run] = hu
        return image.reshape(geometry.shape), labels.reshape(geometry.shape), displacement.reshape(*geometry.shape, 3)

    def draw_landmarks(self, geometry: Geometry, rng: np.random.Generator) -> Array:
        """Return (N, 3) LPS points of the fixed image inside the organs, as many in each organ that is visible."""
        drawn = geometry.index_to_lps(rng.uniform(0.0, 1.0, (20000, 3)) * (np.array(geometry.size) - 1.0))
        labels = labels_of(shapes_at(self.to_reference(drawn + self.displacement(drawn))))
        return np.concatenate([drawn[labels == value][:LANDMARKS_PER_ORGAN] for value in LANDMARK_LABELS])

    def _layers(self, q: Array, shapes: dict[str, Array], lung_change: float) -> Iterator[tuple[Array, Array]]:
        """Yield signed distance in mm and HU of each tissue, to be painted over the ones before."""
        x, y, z = q
        fine, coarse = self.fine(q), self.coarse(q)
        skin, cavity, abdomen = shapes["Soft tissue"], shapes["cavity"], shapes["abdomen"]
        yield skin, -95.0 + 14.0 * fine
        yield np.maximum(skin + 11.0, -cavity), -34.0 + 84.0 * step(1.6 * np.abs(coarse + 0.4 * fine)) + 10.0 * fine
        yield cavity, -75.0 + 16.0 * fine
        yield abdomen, 45.0 + 4.0 * fine
        yield abdomen + 5.0, -100.0 + 130.0 * step(0.5 + 1.5 * (fine + 0.5 * coarse))
        stomach = np.maximum(ellipsoid(q, (62.0, -22.0, -92.0), (42.0, 40.0, 34.0), 20.0), abdomen + 4.0)
        yield stomach, 48.0 + 4.0 * fine
        yield stomach + 5.0, 18.0 + 12.0 * fine
        # The patient lies on the back, so the gas of the stomach collects in front.
        yield np.maximum(stomach + 6.0, y + 32.0), np.full_like(fine, -960.0)
        spleen = ellipsoid(q, (98.0, 22.0, -98.0), (28.0, 44.0, 40.0))
        yield np.maximum(spleen, abdomen + 3.0), 95.0 + 10.0 * fine
        yield shapes["Liver"], 60.0 + 12.0 * fine + 6.0 * coarse
        yield shapes["Heart"], 45.0 + 10.0 * fine
        yield ellipsoid(q, (42.0, -30.0, -26.0), (34.0, 26.0, 19.0), -32.0), 105.0 + 12.0 * fine
        yield ellipsoid(q, (-4.0, -34.0, -14.0), (24.0, 30.0, 32.0), -10.0), 95.0 + 12.0 * fine
        yield ellipsoid(q, (16.0, 4.0, 8.0), (32.0, 14.0, 17.0), -10.0), 105.0 + 12.0 * fine
        for radius, value, way in GREAT_VESSELS:
            yield course(q, *way) - radius, value + 10.0 * fine
        bronchi = course(q, (-34, 12, 30), (2, 10, 58), (42, 14, 30)) - 6.5
        airway = np.minimum(course(q, (0, 2, 175), (2, 10, 58)) - 8.5, bronchi)
        yield airway - 2.0, 35.0 + 4.0 * fine
        yield airway, np.full_like(fine, -975.0)
        lung = -815.0 + 0.35 * y + 22.0 * (fine + coarse) + lung_change
        for side, tree in self.trees.items():
            yield shapes[side], lung + vessel_share(tree, q, self.voxel, shapes[side]) * (55.0 - lung)
        yield shapes["Tumor"], 38.0 + 12.0 * fine
        cartilage = step((-55.0 - y) / 15.0) * step((np.abs(x) - 16.0) / 6.0)
        yield shapes["Ribs and sternum"], 480.0 - 330.0 * cartilage
        yield shapes["Ribs and sternum"] + 3.5, 260.0 - 130.0 * cartilage
        for sign in (-1.0, 1.0):
            blade = ellipsoid(q, (98.0 * sign, 56.0, 78.0), (24.0, 6.0, 46.0), 12.0 * sign)
            collar = course(q, (18.0 * sign, -72.0, 106.0), (86.0 * sign, -38.0, 132.0)) - 6.0
            yield np.minimum(blade, collar), 400.0 + 20.0 * fine
        disc = step(1.5 - np.abs((z / 26.0) % 1.0 - 0.5) * 9.0) * step((62.0 - y) / 4.0)
        yield shapes["Spine"], 430.0 - 330.0 * disc
        yield shapes["Spine"] + 4.0, 230.0 + 40.0 * fine - 130.0 * disc
        yield ellipsoid(q, (0.0, 63.0, 0.0), (8.0, 6.0, np.inf)), 25.0 + 4.0 * fine


def _fit(geometry: Geometry) -> tuple[Array, Array | None]:
    """Return mm per reference mm along x, y, z, and the unit normal of a single slice."""
    direction = np.reshape(np.asarray(geometry.direction, dtype=float), (3, 3))
    # Each body axis takes the extent of the image axis that runs along it.
    order = max(permutations(range(3)), key=lambda axes: sum(abs(direction[row, a]) for row, a in enumerate(axes)))
    scale = np.array([geometry.size[a] * geometry.spacing[a] / 2.0 for a in order]) / REFERENCE_HALF_MM
    if not geometry.is_flat:
        return scale, None
    flat = geometry.size.index(1)
    scale[order.index(flat)] = np.delete(scale, order.index(flat)).mean()
    return scale, direction[:, flat]
