"""How a reference thorax moves; positions as in `anatomy`."""

from functools import cache

import numpy as np

from .anatomy import (
    CAVITY_BACK_MM,
    DOME_FROM_MM,
    DOME_MM,
    REFERENCE_HALF_MM,
    TUMOR_CENTER,
    TUMOR_RADII,
    Array,
    step,
    to_cavity,
    to_skin,
    to_spine,
)

AROUND_TUMOR_MM = 20.0  # in which its motion becomes that of the lung
STEPS = 50  # of a fixed point, each of which halves the error at least


def breathe(q: Array, amplitude: float) -> Array:
    """Return the displacement (3, N) in reference mm from inspiration to expiration: up, and the chest wall inwards."""
    x, y, z = q
    depth = -to_skin(q)
    wall = 0.3 * _peak(amplitude) * _free(q) * step(depth / 30.0) * step((z + 160.0) / 90.0) * step((150.0 - z) / 90.0)
    side = np.clip(x / 100.0, -1.0, 1.0)
    inward = -0.5 * wall * side * (1.5 - 0.5 * side * side)
    return np.stack([inward, wall * step((20.0 - y) / 90.0), _upward(q, amplitude) * step(depth / 45.0)])


def slide(q: Array, amplitude: float) -> Array:
    """Return that of a thorax whose wall rests: what it holds slides along it, and the tumor moves as a body."""
    before = _tumor_before(amplitude)
    moved, tumor = _along_the_wall(q, amplitude), np.array(TUMOR_CENTER)[:, None] - before
    near = step((max(TUMOR_RADII) + AROUND_TUMOR_MM - np.linalg.norm(q - before, axis=0)) / AROUND_TUMOR_MM)
    return np.where(to_cavity(q) < 0, moved + near * (tumor - moved), 0.0)


@cache
def _tumor_before(amplitude: float) -> Array:
    """Return the place (3, 1) that the motion along the wall takes to the center of the tumor."""
    center = np.array(TUMOR_CENTER)[:, None]
    before = center
    for _step in range(STEPS):
        before = center - _along_the_wall(before, amplitude)
    return before


def _along_the_wall(q: Array, amplitude: float) -> Array:
    """Return a displacement (3, N) that takes every cross-section of the cavity to another one of its own shape."""
    up = _upward(q, amplitude)
    wider = _width(q[2] + up) / np.maximum(_width(q[2]), 1e-3) - 1.0
    return np.stack([q[0] * wider, (q[1] - CAVITY_BACK_MM) * wider, up])


def _width(z: Array) -> Array:
    """Return the width of the cavity at some heights as a share of its largest."""
    return np.sqrt(np.clip(1.0 - (np.maximum(z - DOME_FROM_MM, 0.0) / DOME_MM) ** 2, 0.0, None))


def _upward(q: Array, amplitude: float) -> Array:
    """Return by how much the diaphragm lifts what is around it, mm."""
    x, y, z = q
    dome = np.where(z > -55.0, step((140.0 - z) / 195.0), step((z + 160.0) / 105.0))
    uneven = (1.0 - 0.25 * step((x + 40.0) / 80.0)) * (1.0 - 0.25 * step((10.0 - y) / 90.0))
    return _peak(amplitude) * dome * _free(q) * uneven


def _free(q: Array) -> Array:
    """Return how much of a motion there is so far from the spine, which rests."""
    return step((to_spine(q) - 3.0) / 35.0)


def _peak(amplitude: float) -> float:
    return 2.0 * float(REFERENCE_HALF_MM[2]) * amplitude
