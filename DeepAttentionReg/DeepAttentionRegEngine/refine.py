"""Instance optimisation: improve the displacement of one pair by gradient descent, coarse to fine."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .losses import diffusion, fold_penalty, local_ncc, mean_squared
from .mind import mind_ssc
from .warp import compose, integrate_velocity, resize_displacement, shrink, warp

FOLD_WEIGHT = 10.0
FOLD_MARGIN = 0.1
VELOCITY_STEPS = 5
SMALLEST_LEVEL = 8  # voxels; coarser than this an axis holds no structure

OnStep = Callable[[int, int, float], None]


@dataclass(frozen=True)
class RefineSettings:
    """How to refine.

    Attributes:
        steps: Adam iterations at each level.
        similarity: "ncc" (local correlation), "mse" or "mind" (MIND-SSC, for two modalities).
        smoothness: Weight of the diffusion regularity of what is added to the prior.
        anchor: Weight of the mean squared distance from the prior in voxels; above 0 the initial field is the prior,
            else no motion is.
        velocity: Optimise a stationary velocity field at each level, composed onto the field so far, which folds less.
        learning_rate: Adam step in voxels of the level.
        window: Edge of the correlation window in voxels.
        levels: Down-sampling factors, coarse to fine.
    """

    steps: int = 60
    similarity: str = "ncc"
    smoothness: float = 1.0
    anchor: float = 0.0
    velocity: bool = False
    learning_rate: float = 0.1
    window: int = 5
    levels: tuple[int, ...] = (4, 2, 1)


@dataclass(frozen=True)
class Pair:
    """What is compared at one level: images or features `(1, C, *spatial)` and weights `(1, 1, *spatial)` or None."""

    fixed: Tensor
    moving: Tensor
    weight: Tensor | None

    @cached_property
    def contrast(self) -> Tensor:
        """Variance of the fixed image, in units of which squared differences count."""
        return self.fixed.var().clamp_min(1e-8)

    def at(self, spatial: tuple[int, ...]) -> "Pair":
        """Return the pair resampled to another size, area-averaged against aliasing."""
        weight = None if self.weight is None else shrink(self.weight, spatial)
        return Pair(shrink(self.fixed, spatial), shrink(self.moving, spatial), weight)


def level_size(spatial: tuple[int, ...], factor: int) -> tuple[int, ...]:
    """Return the grid size of a level."""
    return tuple(min(n, max(SMALLEST_LEVEL, round(n / factor))) for n in spatial)


def dissimilarity(pair: Pair, displacement: Tensor, settings: RefineSettings) -> Tensor:
    """Return what refinement minimises besides regularity, 0 for a perfect match."""
    warped = warp(pair.moving, displacement)
    if settings.similarity == "ncc":
        return 1 - local_ncc(warped, pair.fixed, settings.window, pair.weight)
    return mean_squared(warped, pair.fixed, pair.weight) / pair.contrast


def refine(
    fixed: Tensor,
    moving: Tensor,
    initial: Tensor,
    settings: RefineSettings,
    *,
    weight: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Refine a displacement on one pair of images.

    Args:
        fixed: `(1, 1, *spatial)` in [0, 1].
        moving: Same grid.
        initial: `(1, nd, *spatial)` in voxels, from a network or zero.
        settings: How to refine.
        weight: `(1, 1, *spatial)` non-negative; where the similarity counts. None: everywhere.
        on_step: Called after every iteration with (done, of, loss); may raise to stop.

    Returns:
        `(1, nd, *spatial)` in voxels.
    """
    if settings.steps == 0:
        return initial
    full = tuple(fixed.shape[2:])
    whole = Pair(fixed, moving, weight)
    if settings.similarity == "mind":
        whole = Pair(mind_ssc(fixed), mind_ssc(moving), weight)
    displacement = initial
    total = settings.steps * len(settings.levels)
    for index, factor in enumerate(settings.levels):
        size = level_size(full, factor)
        start = resize_displacement(displacement, size)
        prior = resize_displacement(initial, size) if settings.anchor else torch.zeros_like(start)

        def report(step: int, loss: float, index: int = index) -> None:
            if on_step is not None:
                on_step(index * settings.steps + step, total, loss)

        change = _refine_level(whole.at(size), start, prior, settings, report)
        # Only the change is enlarged: the fine detail of the initial field survives the coarse levels.
        displacement = _changed(displacement, resize_displacement(change, full), settings)
    return displacement


def _refine_level(
    pair: Pair, start: Tensor, prior: Tensor, settings: RefineSettings, report: Callable[[int, float], None]
) -> Tensor:
    # The unknown lives on half the grid: linear enlarging smooths it and the optimiser has an eighth of the values.
    size = tuple(start.shape[2:])
    coarse = level_size(size, 2)
    unknown = torch.zeros(1, start.shape[1], *coarse, device=start.device, requires_grad=True)
    optimizer = torch.optim.Adam([unknown], lr=settings.learning_rate)
    for step in range(1, settings.steps + 1):
        optimizer.zero_grad()
        displacement = _changed(start, _change(unknown, size, settings), settings)
        loss = (
            dissimilarity(pair, displacement, settings)
            + settings.smoothness * diffusion(displacement - prior)
            + settings.anchor * (displacement - prior).square().sum(1).mean()
            + FOLD_WEIGHT * fold_penalty(displacement, FOLD_MARGIN)
        )
        loss.backward()
        optimizer.step()
        report(step, float(loss.detach()))
    with torch.no_grad():
        return _change(unknown, size, settings)


def _change(unknown: Tensor, size: tuple[int, ...], settings: RefineSettings) -> Tensor:
    """Return the displacement that the unknown stands for, on the grid of the level."""
    return resize_displacement(integrate_velocity(unknown, VELOCITY_STEPS) if settings.velocity else unknown, size)


def _changed(start: Tensor, change: Tensor, settings: RefineSettings) -> Tensor:
    return compose(start, change) if settings.velocity else start + change
