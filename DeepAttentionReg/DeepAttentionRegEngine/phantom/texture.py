"""Random texture and vessels of a reference thorax; positions as in `anatomy`."""

from collections.abc import Callable

import numpy as np

from .anatomy import Array, course, shapes_at

HILA = {"Right lung": (-26.0, 6.0, 22.0), "Left lung": (32.0, 8.0, 26.0)}


def random_field(rng: np.random.Generator, shortest_mm: float, longest_mm: float) -> Callable[[Array], Array]:
    """Return a band-limited random function of q with unit variance, a sum of plane waves."""
    direction = rng.standard_normal((24, 3))
    length = np.exp(rng.uniform(np.log(shortest_mm), np.log(longest_mm), (24, 1)))
    wave = 2.0 * np.pi * direction / (length * np.linalg.norm(direction, axis=1, keepdims=True))
    wave, phase = wave.astype(np.float32), rng.uniform(0.0, 2.0 * np.pi, (24, 1)).astype(np.float32)
    return lambda q: np.sin(wave @ q + phase).sum(axis=0) / float(np.sqrt(12.0))


def grow_tree(rng: np.random.Generator, side: str) -> tuple[Array, Array, Array]:
    """Return starts (M, 3), ends (M, 3) and radii (M,) of the vessel segments of one lung, reference mm."""
    box = rng.uniform(-1.0, 1.0, (6000, 3)) * (130.0, 90.0, 140.0)
    tips = box[shapes_at(np.ascontiguousarray(box.T))[side] < -5.0][:260]
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


def vessel_share(tree: tuple[Array, Array, Array], q: Array, voxel: float, lung: Array) -> Array:
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
        blurred = np.exp(-((course(part, start[n], end[n]) / float(width[n])) ** 2))
        np.maximum(found, float((radius[n] / width[n]) ** 0.8) * blurred, out=found)
    share[inside] = found
    return share
