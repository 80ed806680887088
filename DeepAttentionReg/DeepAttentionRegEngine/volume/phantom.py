"""A breathing thorax with a known displacement: the demo case and the ground truth of the tests.

The anatomy is an analytic function of position q in a reference body (arrays (3, N): x to the left, y to the back, z to
the head, mm, origin at the center of the fixed image), stretched to the field of view of the fixed image. The moving
image (expiration) shows the anatomy at p, the fixed image (inspiration) shows it at p + u(p). So `fixed(x) =
moving(x + u(x))` holds by construction, and u is what a registration has to find: LPS mm on the fixed grid.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise, permutations

import numpy as np
from numpy.typing import NDArray

from .geometry import Geometry

LABEL_NAMES: dict[int, str] = dict(
    enumerate(("Soft tissue", "Right lung", "Left lung", "Heart", "Liver", "Spine", "Ribs and sternum", "Tumor"), 1)
)
LANDMARK_LABELS = (2, 3, 4, 5)
LANDMARKS_PER_ORGAN = 24
REFERENCE_HALF_MM = np.array([168.0, 120.0, 168.0])
CHUNK_POINTS = 32768  # bounds the temporaries of large grids to a few tens of MB

# Radius in reference mm, HU, course: aorta, superior vena cava, pulmonary trunk, pulmonary arteries.
GREAT_VESSELS = (
    (12.5, 120.0, ((-12, -24, 6), (-10, -22, 52), (6, -4, 70), (22, 22, 58), (22, 26, -165))),
    (8.5, 100.0, ((-24, -16, 10), (-22, -18, 95))),
    (13.0, 110.0, ((16, -36, 12), (14, -14, 38))),
    (10.0, 110.0, ((-36, 2, 28), (14, -12, 36), (42, 8, 34))),
)
HILA = {"Right lung": (-26.0, 6.0, 22.0), "Left lung": (32.0, 8.0, 26.0)}

Array = NDArray[np.floating]


@dataclass(frozen=True)
class PhantomSettings:
    """What varies between phantoms.

    Attributes:
        breathing_amplitude: Peak displacement towards the head as a share of the height of the field of view, 0 to 0.1.
        noise: Standard deviation of the white noise, HU.
        lung_density_change: Added to the lungs of the fixed image, HU (inspired lung is darker).
        seed: Selects texture, lung vessels, landmarks and noise.
    """

    breathing_amplitude: float = 0.07
    noise: float = 8.0
    lung_density_change: float = -15.0
    seed: int = 0

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
        self.fine = _random_field(rng, shortest, 2.0 * shortest)
        self.coarse = _random_field(rng, 2.0 * shortest, 5.0 * shortest)
        self.trees = {side: _grow_tree(rng, side) for side in HILA}

    def to_reference(self, points_lps: Array) -> Array:
        """Map (N, 3) LPS mm to (3, N) reference mm."""
        return np.ascontiguousarray(((points_lps - self.center) / self.scale).T)

    def displacement(self, points_lps: Array) -> Array:
        """Return u at (N, 3) LPS points, (N, 3) LPS mm."""
        moved = _breathe(self.to_reference(points_lps), self.settings.breathing_amplitude).T * self.scale
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
            shapes = _shapes(q)
            labels[run] = _labels(shapes)
            hu = np.full(len(i), -1000.0, np.float32)
            for distance, value in self._layers(q, shapes, self.settings.lung_density_change if breathing else 0.0):
                hu += _step(0.5 - distance / (2.0 * self.voxel)) * (value - hu)
            image[run] = hu
        return image.reshape(geometry.shape), labels.reshape(geometry.shape), displacement.reshape(*geometry.shape, 3)

    def draw_landmarks(self, geometry: Geometry, rng: np.random.Generator) -> Array:
        """Return (N, 3) LPS points of the fixed image inside the organs, as many in each organ that is visible."""
        drawn = geometry.index_to_lps(rng.uniform(0.0, 1.0, (20000, 3)) * (np.array(geometry.size) - 1.0))
        labels = _labels(_shapes(self.to_reference(drawn + self.displacement(drawn))))
        return np.concatenate([drawn[labels == value][:LANDMARKS_PER_ORGAN] for value in LANDMARK_LABELS])

    def _layers(self, q: Array, shapes: dict[str, Array], lung_change: float) -> Iterator[tuple[Array, Array]]:
        """Yield signed distance in mm and HU of each tissue, to be painted over the ones before."""
        x, y, z = q
        fine, coarse = self.fine(q), self.coarse(q)
        skin, cavity, abdomen = shapes["Soft tissue"], shapes["cavity"], shapes["abdomen"]
        yield skin, -95.0 + 14.0 * fine
        yield np.maximum(skin + 11.0, -cavity), -34.0 + 84.0 * _step(1.6 * np.abs(coarse + 0.4 * fine)) + 10.0 * fine
        yield cavity, -75.0 + 16.0 * fine
        yield abdomen, 45.0 + 4.0 * fine
        yield abdomen + 5.0, -100.0 + 130.0 * _step(0.5 + 1.5 * (fine + 0.5 * coarse))
        stomach = np.maximum(_ellipsoid(q, (62.0, -22.0, -92.0), (42.0, 40.0, 34.0), 20.0), abdomen + 4.0)
        yield stomach, 48.0 + 4.0 * fine
        yield stomach + 5.0, 18.0 + 12.0 * fine
        # The patient lies on the back, so the gas of the stomach collects in front.
        yield np.maximum(stomach + 6.0, y + 32.0), np.full_like(fine, -960.0)
        spleen = _ellipsoid(q, (98.0, 22.0, -98.0), (28.0, 44.0, 40.0))
        yield np.maximum(spleen, abdomen + 3.0), 95.0 + 10.0 * fine
        yield shapes["Liver"], 60.0 + 12.0 * fine + 6.0 * coarse
        yield shapes["Heart"], 45.0 + 10.0 * fine
        yield _ellipsoid(q, (42.0, -30.0, -26.0), (34.0, 26.0, 19.0), -32.0), 105.0 + 12.0 * fine
        yield _ellipsoid(q, (-4.0, -34.0, -14.0), (24.0, 30.0, 32.0), -10.0), 95.0 + 12.0 * fine
        yield _ellipsoid(q, (16.0, 4.0, 8.0), (32.0, 14.0, 17.0), -10.0), 105.0 + 12.0 * fine
        for radius, value, course in GREAT_VESSELS:
            yield _course(q, *course) - radius, value + 10.0 * fine
        bronchi = _course(q, (-34, 12, 30), (2, 10, 58), (42, 14, 30)) - 6.5
        airway = np.minimum(_course(q, (0, 2, 175), (2, 10, 58)) - 8.5, bronchi)
        yield airway - 2.0, 35.0 + 4.0 * fine
        yield airway, np.full_like(fine, -975.0)
        lung = -815.0 + 0.35 * y + 22.0 * (fine + coarse) + lung_change
        for side, tree in self.trees.items():
            yield shapes[side], lung + _vessel_share(tree, q, self.voxel, shapes[side]) * (55.0 - lung)
        yield shapes["Tumor"], 38.0 + 12.0 * fine
        cartilage = _step((-55.0 - y) / 15.0) * _step((np.abs(x) - 16.0) / 6.0)
        yield shapes["Ribs and sternum"], 480.0 - 330.0 * cartilage
        yield shapes["Ribs and sternum"] + 3.5, 260.0 - 130.0 * cartilage
        for sign in (-1.0, 1.0):
            blade = _ellipsoid(q, (98.0 * sign, 56.0, 78.0), (24.0, 6.0, 46.0), 12.0 * sign)
            collar = _course(q, (18.0 * sign, -72.0, 106.0), (86.0 * sign, -38.0, 132.0)) - 6.0
            yield np.minimum(blade, collar), 400.0 + 20.0 * fine
        disc = _step(1.5 - np.abs((z / 26.0) % 1.0 - 0.5) * 9.0) * _step((62.0 - y) / 4.0)
        yield shapes["Spine"], 430.0 - 330.0 * disc
        yield shapes["Spine"] + 4.0, 230.0 + 40.0 * fine - 130.0 * disc
        yield _ellipsoid(q, (0.0, 63.0, 0.0), (8.0, 6.0, np.inf)), 25.0 + 4.0 * fine


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


def _step(t: Array) -> Array:
    """Rise smoothly from exactly 0 at t <= 0 to exactly 1 at t >= 1."""
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _breathe(q: Array, amplitude: float) -> Array:
    """Return the displacement (3, N) in reference mm from inspiration to expiration: up, and the chest wall inwards."""
    x, y, z = q
    peak = 2.0 * float(REFERENCE_HALF_MM[2]) * amplitude
    depth, free = -_skin(q), _step((_spine(q) - 3.0) / 35.0)
    dome = np.where(z > -55.0, _step((140.0 - z) / 195.0), _step((z + 160.0) / 105.0))
    uneven = (1.0 - 0.25 * _step((x + 40.0) / 80.0)) * (1.0 - 0.25 * _step((10.0 - y) / 90.0))
    wall = 0.3 * peak * free * _step(depth / 30.0) * _step((z + 160.0) / 90.0) * _step((150.0 - z) / 90.0)
    side = np.clip(x / 100.0, -1.0, 1.0)
    inward = -0.5 * wall * side * (1.5 - 0.5 * side * side)
    return np.stack([inward, wall * _step((20.0 - y) / 90.0), peak * dome * free * uneven * _step(depth / 45.0)])


def _shell(q: Array, half_width: Array | float, half_depth: Array | float, center_y: float, rise: float) -> Array:
    """Return the signed distance in mm (inside negative) to a rounded trunk, closed above z = -60 by a dome."""
    a, b = np.abs(q[0]) / half_width, np.abs(q[1] - center_y) / half_depth
    a15, b15 = a * np.sqrt(a), b * np.sqrt(b)
    section = np.maximum((a15 * a + b15 * b) ** 0.4, 1e-3)
    slope = np.hypot(a15 / half_width, b15 / half_depth) / np.sqrt(section)
    t = np.maximum(q[2] + 60.0, 0.0) / rise
    level = np.hypot(section, t)
    return (level - 1.0) * level / np.maximum(np.hypot(slope, t / rise), 2e-3 * level)


def _ellipsoid(q: Array, center: tuple[float, ...], radii: tuple[Array | float, ...], tilt: float = 0.0) -> Array:
    """Return the approximate signed distance in mm to an ellipsoid tilted by degrees in the coronal plane."""
    x, y, z = (q[axis] - center[axis] for axis in range(3))
    c, s = float(np.cos(np.radians(tilt))), float(np.sin(np.radians(tilt)))
    parts = [(c * x + s * z) / radii[0], y / radii[1], (c * z - s * x) / radii[2]]
    level = np.sqrt(sum(part * part for part in parts) + 1e-6)
    slope = np.sqrt(sum((part / r) ** 2 for part, r in zip(parts, radii, strict=True)) + (1e-3 / radii[0]) ** 2)
    return level * (level - 1.0) / slope


def _course(q: Array, *points: tuple[float, ...] | Array) -> Array:
    """Return the distance in mm to the chain of segments through some points."""
    distances = []
    for start, end in pairwise(np.asarray(point, q.dtype)[:, None] for point in points):
        axis, arm = end - start, q - start
        rest = arm - axis * np.clip(axis.T @ arm / (axis.T @ axis), 0.0, 1.0)
        distances.append(np.sqrt(np.einsum("cn,cn->n", rest, rest)))
    return np.minimum.reduce(distances)


def _skin(q: Array) -> Array:
    """Return the signed distance to the skin: a trunk with raised arms that tapers to the neck."""
    taper = _step((q[2] - 62.0) / 120.0)
    return _shell(q, 152.0 - 62.0 * taper - 6.0 * _step((-q[2] - 40.0) / 120.0), 105.0 - 12.0 * taper, 0.0, np.inf)


def _spine(q: Array) -> Array:
    """Return the signed distance to vertebral bodies, discs and processes; everything in it stays at rest."""
    bodies = _ellipsoid(q, (0.0, 44.0, 0.0), (18.0, 15.0, np.inf))
    return np.minimum(bodies, _ellipsoid(q, (0.0, 70.0, 0.0), (7.0, 20.0, np.inf)))


def _diaphragm(q: Array) -> Array:
    """Return the signed distance to the diaphragm, positive above: two domes with deep outer recesses."""
    x, y, z = q
    outward, inward = np.maximum(np.abs(x) - 58.0, 0.0) / 70.0, np.maximum(58.0 - np.abs(x), 0.0) / 58.0
    ahead, behind = np.maximum(-25.0 - y, 0.0) / 60.0, np.maximum(y + 25.0, 0.0) / 95.0
    height = -36.0 - 16.0 * _step((x + 30.0) / 60.0) - 52.0 * outward**2 - 14.0 * inward**2
    height = height - 24.0 * ahead**2 - 66.0 * behind**2
    return (z - height) / np.sqrt(1.0 + (1.49 * outward + 0.48 * inward) ** 2 + (0.8 * ahead + 1.39 * behind) ** 2)


def _ribs(q: Array, cavity: Array) -> Array:
    """Return the signed distance to ribs (rings around the cavity that drop to the front) and sternum."""
    x, y, z = q
    turn = (z - 0.45 * y) / 27.0
    number = np.round(turn)
    ring = 5.0 * (np.hypot((cavity - 7.5) / 4.5, (turn - number) * 27.0 / 6.5) - 1.0)
    # Low ribs end further back, which leaves the arch of the belly open; eight pairs are shown.
    ring = np.maximum(ring, np.where(number < 0.0, -95.0 - 25.0 * number - y, -100.0))
    ring = np.maximum(ring, np.where(y < 0.0, 14.0, 20.0) - np.abs(x))
    ring = np.where((number < -4.0) | (number > 3.0), 10.0, ring)
    return np.minimum(ring, _ellipsoid(q, (0.0, -94.0, 35.0), (17.0, 5.0, 62.0)))


def _shapes(q: Array) -> dict[str, Array]:
    """Return the signed distances (N,) in mm of all organs at positions q, negative inside."""
    x, _, z = q
    skin, spine, above, cavity = _skin(q), _spine(q), _diaphragm(q), _shell(q, 128.0, 80.0, -8.0, 192.0)
    heart = np.maximum(_ellipsoid(q, (27.0, -28.0, -16.0), (62.0, 46.0, 44.0), -32.0), -above)
    core = _ellipsoid(q, (4.0, -6.0, 0.0), (23.0 + 12.0 * np.exp(-(((z - 22.0) / 38.0) ** 2)), 82.0, np.inf))
    lungs = np.maximum.reduce([cavity, 1.0 - above, -core, 2.5 - heart, 5.0 - spine])
    edge = (-150.0 + 0.55 * (x + 110.0) - z) / 1.14
    return {
        "Soft tissue": skin,
        "Right lung": np.maximum(lungs, x),
        "Left lung": np.maximum(lungs, -x),
        "Heart": heart,
        "Liver": np.maximum.reduce([cavity + 1.0, above + 2.0, edge, 4.0 - spine, (x - 62.0) / 1.1]),
        "Spine": spine,
        "Ribs and sternum": _ribs(q, cavity),
        "Tumor": _ellipsoid(q, (-76.0, 4.0, 2.0), (14.0, 13.0, 12.0)),
        "cavity": cavity,
        "abdomen": np.maximum(cavity, above),
    }


def _labels(shapes: dict[str, Array]) -> NDArray[np.uint8]:
    """Return the label (N,) from the distances of `_shapes`; later organs win."""
    return np.max([np.uint8(value) * (shapes[name] < 0.0) for value, name in LABEL_NAMES.items()], axis=0)


def _random_field(rng: np.random.Generator, shortest_mm: float, longest_mm: float) -> Callable[[Array], Array]:
    """Return a band-limited random function of q with unit variance, a sum of plane waves."""
    direction = rng.standard_normal((24, 3))
    length = np.exp(rng.uniform(np.log(shortest_mm), np.log(longest_mm), (24, 1)))
    wave = 2.0 * np.pi * direction / (length * np.linalg.norm(direction, axis=1, keepdims=True))
    wave, phase = wave.astype(np.float32), rng.uniform(0.0, 2.0 * np.pi, (24, 1)).astype(np.float32)
    return lambda q: np.sin(wave @ q + phase).sum(axis=0) / float(np.sqrt(12.0))


def _grow_tree(rng: np.random.Generator, side: str) -> tuple[Array, Array, Array]:
    """Return starts (M, 3), ends (M, 3) and radii (M,) of the vessel segments of one lung, reference mm."""
    box = rng.uniform(-1.0, 1.0, (6000, 3)) * (130.0, 90.0, 140.0)
    tips = box[_shapes(np.ascontiguousarray(box.T))[side] < -5.0][:260]
    nodes = np.vstack([HILA[side], tips[np.argsort(np.linalg.norm(tips - HILA[side], axis=1))]])
    parent, path, carried = np.zeros(len(nodes), int), np.zeros(len(nodes)), np.ones(len(nodes))
    for n in range(1, len(nodes)):
        # The way back to the hilum counts half, which grows trunks with side branches and not a star or a chain.
        gap = np.linalg.norm(nodes[:n] - nodes[n], axis=1)
        parent[n] = np.argmin(gap + 0.5 * path[:n])
        path[n] = path[parent[n]] + gap[parent[n]]
    for n in range(len(nodes) - 1, 0, -1):
        carried[parent[n]] += carried[n]
    return nodes[parent[1:]], nodes[1:], 0.9 * carried[1:] ** 0.36


def _vessel_share(tree: tuple[Array, Array, Array], q: Array, voxel: float, lung: Array) -> Array:
    """Return the share of vessel (N,) at q where the distance to the lung is small, blurred to the voxel size in mm."""
    start, end, radius = tree
    share = np.zeros_like(lung)
    inside = lung < voxel
    if not inside.any():
        return share
    part, found = q[:, inside], share[inside]
    width = np.hypot(radius, 0.5 * voxel)
    reach = 2.5 * width[:, None]
    near = (np.minimum(start, end) - reach < part.max(axis=1)) & (np.maximum(start, end) + reach > part.min(axis=1))
    for n in np.flatnonzero(near.all(axis=1)):
        blurred = np.exp(-((_course(part, start[n], end[n]) / float(width[n])) ** 2))
        np.maximum(found, float((radius[n] / width[n]) ** 0.8) * blurred, out=found)
    share[inside] = found
    return share
