"""Shapes of a reference thorax: signed distances in mm at positions q, negative inside.

Positions are arrays (3, N): x to the left, y to the back, z to the head, mm, origin at the center.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

LABEL_NAMES: dict[int, str] = dict(
    enumerate(("Soft tissue", "Right lung", "Left lung", "Heart", "Liver", "Spine", "Ribs and sternum", "Tumor"), 1)
)
REFERENCE_HALF_MM = np.array([168.0, 120.0, 168.0])
CAVITY_MM = (128.0, 80.0)  # half its width and depth
CAVITY_BACK_MM, DOME_FROM_MM, DOME_MM = -8.0, -60.0, 192.0  # where it lies, where its dome begins, and how high that is
TUMOR_CENTER, TUMOR_RADII = (-76.0, 4.0, 2.0), (14.0, 13.0, 12.0)
Array = NDArray[np.floating]


def shapes_at(q: Array) -> dict[str, Array]:
    """Return the signed distances (N,) in mm of all organs at positions q, negative inside."""
    x, _, z = q
    skin, spine, above, cavity = to_skin(q), to_spine(q), to_diaphragm(q), to_cavity(q)
    heart = np.maximum(ellipsoid(q, (27.0, -28.0, -16.0), (62.0, 46.0, 44.0), -32.0), -above)
    core = ellipsoid(q, (4.0, -6.0, 0.0), (23.0 + 12.0 * np.exp(-(((z - 22.0) / 38.0) ** 2)), 82.0, np.inf))
    lungs = np.maximum.reduce([cavity, 1.0 - above, -core, 2.5 - heart, 5.0 - spine])
    edge = (-150.0 + 0.55 * (x + 110.0) - z) / 1.14
    return {
        "Soft tissue": skin,
        "Right lung": np.maximum(lungs, x),
        "Left lung": np.maximum(lungs, -x),
        "Heart": heart,
        "Liver": np.maximum.reduce([cavity + 1.0, above + 2.0, edge, 4.0 - spine, (x - 62.0) / 1.1]),
        "Spine": spine,
        "Ribs and sternum": to_ribs(q, cavity),
        "Tumor": ellipsoid(q, TUMOR_CENTER, TUMOR_RADII),
        "cavity": cavity,
        "abdomen": np.maximum(cavity, above),
    }


def labels_of(shapes: dict[str, Array]) -> NDArray[np.uint8]:
    """Return the label (N,) from the distances of `shapes_at`; later organs win."""
    return np.max([np.uint8(value) * (shapes[name] < 0.0) for value, name in LABEL_NAMES.items()], axis=0)


def step(t: Array) -> Array:
    """Rise smoothly from exactly 0 at t <= 0 to exactly 1 at t >= 1."""
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _shell(q: Array, half_width: Array | float, half_depth: Array | float, center_y: float, rise: float) -> Array:
    """Return the signed distance in mm (inside negative) to a rounded trunk, closed above z = -60 by a dome."""
    a, b = np.abs(q[0]) / half_width, np.abs(q[1] - center_y) / half_depth
    a15, b15 = a * np.sqrt(a), b * np.sqrt(b)
    section = np.maximum((a15 * a + b15 * b) ** 0.4, 1e-3)
    slope = np.hypot(a15 / half_width, b15 / half_depth) / np.sqrt(section)
    t = np.maximum(q[2] - DOME_FROM_MM, 0.0) / rise
    level = np.hypot(section, t)
    return (level - 1.0) * level / np.maximum(np.hypot(slope, t / rise), 2e-3 * level)


def ellipsoid(q: Array, center: tuple[float, ...], radii: tuple[Array | float, ...], tilt: float = 0.0) -> Array:
    """Return the approximate signed distance in mm to an ellipsoid tilted by degrees in the coronal plane."""
    x, y, z = (q[axis] - center[axis] for axis in range(3))
    c, s = float(np.cos(np.radians(tilt))), float(np.sin(np.radians(tilt)))
    parts = [(c * x + s * z) / radii[0], y / radii[1], (c * z - s * x) / radii[2]]
    level = np.sqrt(sum(part * part for part in parts) + 1e-6)
    slope = np.sqrt(sum((part / r) ** 2 for part, r in zip(parts, radii, strict=True)) + (1e-3 / radii[0]) ** 2)
    return level * (level - 1.0) / slope


def course(q: Array, *points: tuple[float, ...] | Array) -> Array:
    """Return the distance in mm to the chain of segments through some points."""
    distances = []
    for start, end in pairwise(np.asarray(point, q.dtype)[:, None] for point in points):
        axis, arm = end - start, q - start
        rest = arm - axis * np.clip(axis.T @ arm / (axis.T @ axis), 0.0, 1.0)
        distances.append(np.sqrt(np.einsum("cn,cn->n", rest, rest)))
    return np.minimum.reduce(distances)


def to_cavity(q: Array) -> Array:
    """Return the signed distance to the wall around lungs, heart and belly."""
    return _shell(q, *CAVITY_MM, CAVITY_BACK_MM, DOME_MM)


def to_skin(q: Array) -> Array:
    """Return the signed distance to the skin: a trunk with raised arms that tapers to the neck."""
    taper = step((q[2] - 62.0) / 120.0)
    return _shell(q, 152.0 - 62.0 * taper - 6.0 * step((-q[2] - 40.0) / 120.0), 105.0 - 12.0 * taper, 0.0, np.inf)


def to_spine(q: Array) -> Array:
    """Return the signed distance to vertebral bodies, discs and processes; everything in it stays at rest."""
    bodies = ellipsoid(q, (0.0, 44.0, 0.0), (18.0, 15.0, np.inf))
    return np.minimum(bodies, ellipsoid(q, (0.0, 70.0, 0.0), (7.0, 20.0, np.inf)))


def to_diaphragm(q: Array) -> Array:
    """Return the signed distance to the diaphragm, positive above: two domes with deep outer recesses."""
    x, y, z = q
    outward, inward = np.maximum(np.abs(x) - 58.0, 0.0) / 70.0, np.maximum(58.0 - np.abs(x), 0.0) / 58.0
    ahead, behind = np.maximum(-25.0 - y, 0.0) / 60.0, np.maximum(y + 25.0, 0.0) / 95.0
    height = -36.0 - 16.0 * step((x + 30.0) / 60.0) - 52.0 * outward**2 - 14.0 * inward**2
    height = height - 24.0 * ahead**2 - 66.0 * behind**2
    return (z - height) / np.sqrt(1.0 + (1.49 * outward + 0.48 * inward) ** 2 + (0.8 * ahead + 1.39 * behind) ** 2)


def to_ribs(q: Array, cavity: Array) -> Array:
    """Return the signed distance to ribs (rings around the cavity that drop to the front) and sternum."""
    x, y, z = q
    turn = (z - 0.45 * y) / 27.0
    number = np.round(turn)
    ring = 5.0 * (np.hypot((cavity - 7.5) / 4.5, (turn - number) * 27.0 / 6.5) - 1.0)
    # Low ribs end further back, which leaves the arch of the belly open; eight pairs are shown.
    ring = np.maximum(ring, np.where(number < 0.0, -95.0 - 25.0 * number - y, -100.0))
    ring = np.maximum(ring, np.where(y < 0.0, 14.0, 20.0) - np.abs(x))
    ring = np.where((number < -4.0) | (number > 3.0), 10.0, ring)
    return np.minimum(ring, ellipsoid(q, (0.0, -94.0, 35.0), (17.0, 5.0, 62.0)))
