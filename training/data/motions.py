"""Motions of many kinds, so that what is learned of them does not hang on one that comes natural to a method."""

import math

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from DeepAttentionRegEngine.deform.warp import compose, identity_grid, integrate_velocity

from .painting import Chance

SQUARINGS = 5
KINDS = ("smooth", "rough", "articulated", "breathing", "growth")


def draw_motion(kind: str, spatial: tuple[int, ...], amplitude: float, chance: Chance) -> Tensor:
    """Return a displacement `(1, nd, *spatial)` in voxels.

    Args:
        kind: "smooth" or "rough" diffeomorphisms; "articulated", bodies that move apart; "breathing", along one axis,
            sliding along a wall at rest; "growth", places that grow or shrink.
        spatial: Size of the grid.
        amplitude: Root mean square of the displacement as a share of the mean side.
        chance: Source of all that is random.
    """
    makers = {
        "smooth": lambda: _flow(spatial, float(chance.rng.uniform(0.25, 0.6)), chance),
        "rough": lambda: _flow(spatial, float(chance.rng.uniform(0.06, 0.15)), chance),
        "articulated": lambda: _articulated(spatial, chance),
        "breathing": lambda: _breathing(spatial, chance),
        "growth": lambda: _growth(spatial, chance),
    }
    motion = makers[kind]()
    size = amplitude * sum(spatial) / len(spatial)
    strength = size / max(float(motion.square().sum(1).mean().sqrt()), 1e-6)
    if kind in ("smooth", "rough"):  # of diffeomorphisms the velocity is scaled, so that they stay ones
        return integrate_velocity(motion * min(strength, _bound(motion)), SQUARINGS)
    return motion * strength


def _bound(velocity: Tensor) -> float:
    """Return the factor at which a velocity would change by more than 0.9 from voxel to voxel: growth by exp(0.9)."""
    steepest = max(float(velocity.diff(dim=axis).abs().max()) for axis in range(2, velocity.ndim))
    return 0.9 / max(steepest, 1e-6)


def _flow(spatial: tuple[int, ...], wave: float, chance: Chance) -> Tensor:
    """Return a velocity whose knots are so far apart, as a share of the mean side."""
    return chance.smooth(len(spatial), spatial, max(3.0, wave * sum(spatial) / len(spatial)))


def _articulated(spatial: tuple[int, ...], chance: Chance) -> Tensor:
    """Return a motion of three to seven bodies, each rigid, with a seam of a few voxels between them."""
    count, nd = int(chance.rng.integers(3, 8)), len(spatial)
    grid = identity_grid(spatial, torch.empty(()))
    centers = torch.from_numpy(chance.rng.uniform(0, spatial, (count, nd))).float()
    off = grid - centers.view(count, nd, *[1] * nd)
    near = torch.softmax(-off.norm(dim=1) / float(chance.rng.uniform(0.5, 2.5)), 0)[:, None]
    moves = []
    for index in range(count):
        turn = rotation(chance.rng.normal(0, 0.12, 3))[-nd:, -nd:] - np.eye(nd)
        moved = torch.einsum("ij,j...->i...", torch.from_numpy(turn).float(), off[index])
        shift = chance.normal(nd) * 0.04 * sum(spatial) / nd
        moves.append(moved + shift.view(nd, *[1] * nd))
    return (near * torch.stack(moves)).sum(0, keepdim=True)


def _breathing(spatial: tuple[int, ...], chance: Chance) -> Tensor:
    """Return a motion along one axis, largest at one end, of what lies within a wall, half of the times with a jump."""
    nd, axis = len(spatial), int(chance.rng.integers(len(spatial)))
    grid = identity_grid(spatial, torch.empty(()))[0]
    place = grid[axis] / (spatial[axis] - 1)
    along = (place if chance.rng.random() < 0.5 else 1 - place) ** float(chance.rng.uniform(0.5, 2.0))
    off = [(grid[a] / (n - 1) - 0.5) / float(chance.rng.uniform(0.3, 0.45)) for a, n in enumerate(spatial) if a != axis]
    depth = 1 - torch.stack(off).square().sum(0).sqrt()
    softness = 0.01 if chance.rng.random() < 0.5 else 0.3
    within = torch.sigmoid(depth / softness)
    result = torch.zeros(1, nd, *spatial)
    result[0, axis] = along * within * (1 + 0.3 * chance.smooth(1, spatial, max(spatial) / 3)[0, 0])
    return result


def _growth(spatial: tuple[int, ...], chance: Chance) -> Tensor:
    """Return a motion by which one to four places grow or shrink."""
    nd = len(spatial)
    grid, result = identity_grid(spatial, torch.empty(())), torch.zeros(1, nd, *spatial)
    for _ in range(int(chance.rng.integers(1, 5))):
        center = torch.from_numpy(chance.rng.uniform(0.2, 0.8, nd) * spatial).float().view(1, nd, *[1] * nd)
        radius = float(chance.rng.uniform(0.1, 0.25)) * sum(spatial) / nd
        off = grid - center
        rate = float(chance.rng.choice([-0.8, 0.45]) * chance.rng.uniform(0.5, 1.0))
        result = compose(result, rate * off * torch.exp(-off.square().sum(1, keepdim=True) / (2 * radius**2)))
    return result


def rotation(angles: np.ndarray) -> np.ndarray:
    """Return the rotation by angles (radians) about the three axes, one after the other."""
    return Rotation.from_euler("XYZ", angles * [1, -1, 1]).as_matrix()


def orientation(rng: np.random.Generator) -> np.ndarray:
    """Return a random orthogonal matrix: axes exchanged, flipped and turned a little."""
    turn = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    return turn @ rotation(rng.normal(0, 0.15, 3))


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Return a number whose logarithm is uniform."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))
