"""Tiny R2N2 networks, image pairs, and Gaussians that several tests share."""

from types import MappingProxyType

import pytest
import torch
from torch import Tensor

from DeepAttentionRegEngine.deform.gaussians import Gaussians, move, rotation_2d
from DeepAttentionRegEngine.networks import build
from DeepAttentionRegEngine.networks.base import ImagePair, Recursion
from DeepAttentionRegEngine.networks.r2n2 import R2n2
from engine_cases import smooth_noise

TINY = MappingProxyType({"widths": [4, 8, 12, 16], "blocks": 1, "hidden": 16, "noise": 0.5})
FLAT, VOLUME = (40, 57), (32, 35, 33)
sizes = pytest.mark.parametrize("spatial", [FLAT, VOLUME], ids=["2d", "3d"])
modes = pytest.mark.parametrize("mode", ["sum", "compose", "joint"])


def make_network(nd: int, *, awake: float = 0.0, **arguments: object) -> R2n2:
    """Return a tiny network in evaluation mode; `awake` is the deviation of the weights that start at 0."""
    torch.manual_seed(0)
    network = build("r2n2", {"nd": nd, **TINY, **arguments}).eval()
    torch.nn.init.normal_(network.parameter_head.numbers.weight, std=awake)
    return network


def image_pair(spatial: tuple[int, ...], batch: int = 1) -> ImagePair:
    fixed, moving = (
        torch.cat([smooth_noise(spatial, seed=first + 2 * n, sigma=2.5) for n in range(batch)]) for first in (1, 2)
    )
    return ImagePair(fixed, moving)


@torch.no_grad()
def states(network: R2n2, pair: ImagePair, recursions: int, *, attend: bool = False) -> list[Recursion]:
    return list(network.recurse(pair, recursions, attend=attend))


def one_gaussian(
    center: tuple[float, ...], sigma: tuple[float, ...], vector: tuple[float, ...], turn: float
) -> Gaussians:
    """Return a step of one flat Gaussian, turned by radians."""
    parts = [torch.tensor(part).view(1, 1, -1) for part in (center, sigma, vector)]
    return Gaussians(parts[0], parts[1], rotation_2d(torch.tensor([[turn]])), parts[2])


def exact_determinant(steps: list[Gaussians], mode: str, points: Tensor) -> Tensor:
    """Return the Jacobian determinant of a sequence's map at points `(1, nd, N)`, `(N,)`, without differences."""
    points = points.clone().requires_grad_()
    moved = move(points, steps, mode)
    rows = [torch.autograd.grad(part.sum(), points, retain_graph=True)[0][0] for part in moved[0]]
    return torch.linalg.det(torch.stack(rows).permute(2, 0, 1))
