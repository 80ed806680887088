"""Direct refinement of the numbers of a sequence of Gaussians on one pair, without a network.

A remedy this project adds to R2N2: the sequence stays as compact as it was predicted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .descent import descend
from .gaussians import Gaussians, limited, render, rotation_2d, rotation_3d
from .losses import isotropic_total_variation
from .pairs import ImagePair, OnStep, masked_distance


@dataclass(frozen=True)
class GaussianRefinement:
    """How to refine.

    Attributes:
        mode: Of the sequence, see gaussians.py.
        kappa: Limit of each step in the modes that compose.
        similarity: "mse", in units of the fixed image's variance, or "ncc" (local correlation).
        window: Edge of the correlation window in voxels.
        smoothness: Weight of the isotropic total variation of the field.
        learning_rate: Adam step in the unit of the coordinates, of the logarithm of sigma and of radians.
        voxels: Pairs are averaged to this size at most; Gaussians have no resolution of their own.
    """

    mode: str = "sum"
    kappa: float = 0.9
    similarity: str = "mse"
    window: int = 7
    smoothness: float = 0.02
    learning_rate: float = 1e-2
    voxels: int = 100_000


def refine_gaussians(
    pair: ImagePair,
    sequence: Sequence[Gaussians],
    steps: int,
    settings: GaussianRefinement,
    on_step: OnStep | None = None,
) -> list[Gaussians]:
    """Return the sequence with the lowest loss met.

    Args:
        pair: The images on the grid whose coordinates the sequence has; masks restrict where they are compared.
        sequence: Gaussians of every step, from a network or of any origin.
        steps: Adam iterations.
        settings: How to refine.
        on_step: Called after every iteration with (done, of, loss); returns whether that is enough, may raise.
    """
    full = tuple(pair.fixed.shape[2:])
    factor = max(1.0, (math.prod(full) / settings.voxels) ** (1 / len(full)))
    size = [max(2, round(n / factor)) for n in full]
    small = pair.at(size)

    def changed(unknowns: Sequence[Tensor]) -> list[Gaussians]:
        parts = (unknowns[4 * index : 4 * index + 4] for index in range(len(sequence)))
        pairs = zip(sequence, parts, strict=True)
        return [limited(_changed(step, part), settings.mode, settings.kappa) for step, part in pairs]

    def loss_of(unknowns: Sequence[Tensor]) -> Tensor:
        displacement = render(changed(unknowns), settings.mode, full, size)
        loss = masked_distance(small, displacement, settings.similarity, settings.window)
        return loss + settings.smoothness * isotropic_total_variation(displacement)

    def report(done: int, loss: float) -> bool:
        return on_step is not None and on_step(done, steps, loss)

    unknowns = [value for step in sequence for value in _unknowns(step)]
    groups = [{"params": [unknown]} for unknown in unknowns]
    best, _ = descend(unknowns, loss_of, torch.optim.Adam(groups, lr=settings.learning_rate), steps, report)
    return changed(best)


def _unknowns(step: Gaussians) -> list[Tensor]:
    """Return changes of center, log sigma, turn and vector, all 0."""
    batch, count, nd = step.center.shape
    sizes = (nd, nd, nd * (nd - 1) // 2, nd)
    return [step.center.new_zeros(batch, count, size).requires_grad_() for size in sizes]


def _changed(step: Gaussians, changes: Sequence[Tensor]) -> Gaussians:
    center, spread, turn, vector = changes
    turned = rotation_2d(turn[..., 0]) if turn.shape[-1] == 1 else rotation_3d(turn)
    return Gaussians(
        step.center.detach() + center,
        step.sigma.detach() * spread.exp(),
        step.rotation.detach() @ turned,
        step.vector.detach() + vector,
    )
