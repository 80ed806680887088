"""Instance optimisation: improve the displacement of one pair by gradient descent, coarse to fine."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import relu

from .losses import diffusion, fold_penalty, local_ncc, mean_squared
from .mind import mind_ssc
from .warp import compose, integrate_velocity, resize_displacement, shrink, warp

FOLD_WEIGHT = 10.0
FOLD_MARGIN = 0.1
VELOCITY_STEPS = 5
SMALLEST_LEVEL = 8  # voxels; coarser than this an axis holds no structure

OnStep = Callable[[int, int, float], bool]
Masks = tuple[Tensor, Tensor]  # of structures on the fixed and on the moving image


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
        structures: Weight of the squared difference of masks on the whole grid, in units of the fixed mask's variance.
    """

    steps: int = 60
    similarity: str = "ncc"
    smoothness: float = 1.0
    anchor: float = 0.0
    velocity: bool = False
    learning_rate: float = 0.1
    window: int = 5
    levels: tuple[int, ...] = (4, 2, 1)
    structures: float = 0.0


def usual_settings(axes: int, similarity: str) -> RefineSettings:
    """Return the settings for pairs of which nothing is known, volumes (3 axes) or single slices (2 axes)."""
    usual = RefineSettings(similarity=similarity)
    if axes == 2 and similarity == "ncc":
        # A square holds fewer voxels than a cube, and a heart in a slice moves further than a smoothness of 1 lets it.
        return replace(usual, window=9, smoothness=0.4)
    return usual


@dataclass(frozen=True)
class Pair:
    """What is compared at one level: images or features `(1, C, *spatial)` and weights `(1, 1, *spatial)` or None.

    `masks` are those of the structures on either image, `(1, S, *spatial)`.
    """

    fixed: Tensor
    moving: Tensor
    weight: Tensor | None
    masks: Masks | None = None

    @cached_property
    def contrast(self) -> Tensor:
        """Variance of the fixed image, in units of which squared differences count."""
        return self.fixed.var().clamp_min(1e-8)

    def at(self, spatial: tuple[int, ...]) -> "Pair":
        """Return the pair resampled to another size, area-averaged against aliasing."""
        weight = None if self.weight is None else shrink(self.weight, spatial)
        masks = None if self.masks is None else (shrink(self.masks[0], spatial), shrink(self.masks[1], spatial))
        return Pair(shrink(self.fixed, spatial), shrink(self.moving, spatial), weight, masks)


def level_size(spatial: tuple[int, ...], factor: int) -> tuple[int, ...]:
    """Return the grid size of a level."""
    return tuple(min(n, max(SMALLEST_LEVEL, round(n / factor))) for n in spatial)


def dissimilarity(pair: Pair, displacement: Tensor, settings: RefineSettings) -> Tensor:
    """Return what refinement minimises besides regularity, 0 for a perfect match."""
    warped = warp(pair.moving, displacement)
    if settings.similarity == "ncc":
        value = 1 - local_ncc(warped, pair.fixed, settings.window, pair.weight)
    else:
        value = mean_squared(warped, pair.fixed, pair.weight) / pair.contrast
    if pair.masks is None:
        return value
    # Everywhere: a user's masks limit the weight to themselves, where their outlines would hardly count.
    fixed, moving = pair.masks
    apart = mean_squared(warp(moving, displacement), fixed) / fixed.var().clamp_min(1e-8)
    return value + settings.structures * apart


@dataclass(frozen=True)
class Objective:
    """What one level minimises: dissimilarity beyond a perfect match, roughness, distance from the prior, folds.

    Attributes:
        pair: The images at this level.
        prior: `(1, nd, *spatial)` in voxels; None: no motion.
        settings: The weights of the terms.
    """

    pair: Pair
    prior: Tensor | None
    settings: RefineSettings

    @cached_property
    def perfect(self) -> Tensor:
        """Dissimilarity of the image of more contrast with itself; below it correlation only amplifies noise."""
        pair, settings = self.pair, self.settings
        still = pair.fixed.new_zeros(1, pair.fixed.ndim - 2, *pair.fixed.shape[2:])
        with torch.no_grad():
            return torch.stack(
                [dissimilarity(Pair(image, image, pair.weight), still, settings) for image in (pair.fixed, pair.moving)]
            ).min()

    def __call__(self, displacement: Tensor) -> Tensor:
        """Return the loss of a displacement `(1, nd, *spatial)` in voxels."""
        settings = self.settings
        added = displacement if self.prior is None else displacement - self.prior
        return (
            relu(dissimilarity(self.pair, displacement, settings) - self.perfect)
            + settings.smoothness * diffusion(added)
            + settings.anchor * added.square().sum(1).mean()
            + FOLD_WEIGHT * fold_penalty(displacement, FOLD_MARGIN)
        )


def refine(
    fixed: Tensor,
    moving: Tensor,
    initial: Tensor,
    settings: RefineSettings,
    *,
    weight: Tensor | None = None,
    masks: Masks | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Refine a displacement on one pair of images.

    Args:
        fixed: `(1, 1, *spatial)` in [0, 1].
        moving: Same grid.
        initial: `(1, nd, *spatial)` in voxels, from a network or zero.
        settings: How to refine.
        weight: `(1, 1, *spatial)` non-negative; where the similarity counts. None: everywhere.
        masks: Of structures on the fixed and the moving image, `(1, S, *spatial)` in [0, 1], whose overlap counts as
            much as `settings.structures` says.
        on_step: Called after every iteration with (done, of, loss); returns whether that is enough, may raise.

    Returns:
        `(1, nd, *spatial)` in voxels.
    """
    if settings.steps == 0:
        return initial
    full = tuple(fixed.shape[2:])
    whole = Pair(fixed, moving, weight, masks if settings.structures else None)
    if settings.similarity == "mind":
        whole = replace(whole, fixed=mind_ssc(fixed), moving=mind_ssc(moving))
    displacement = initial
    total = settings.steps * len(settings.levels)
    enough = False
    for index, factor in enumerate(settings.levels):
        if enough:
            break
        size = level_size(full, factor)
        prior = resize_displacement(initial, size) if settings.anchor else None
        objective = Objective(whole.at(size), prior, settings)

        def report(step: int, loss: float, index: int = index) -> bool:
            return on_step is not None and on_step(index * settings.steps + step, total, loss)

        change, enough = _descend(objective, resize_displacement(displacement, size), report)
        # Only the change is enlarged: the fine detail of the initial field survives the coarse levels.
        displacement = _changed(displacement, resize_displacement(change, full), settings)
    with torch.no_grad():  # what helped at a coarse level may have done harm at the last
        return min((initial, displacement), key=lambda field: float(objective(resize_displacement(field, size))))


def _descend(objective: Objective, start: Tensor, report: Callable[[int, float], bool]) -> tuple[Tensor, bool]:
    """Return the change of `start` with the lowest loss met, none if no step made it lower; and if that is enough."""
    # The unknown lives on half the grid: linear enlarging smooths it and the optimiser has an eighth of the values.
    settings, size = objective.settings, tuple(start.shape[2:])
    unknown = torch.zeros(1, start.shape[1], *level_size(size, 2), device=start.device, requires_grad=True)
    optimizer = torch.optim.Adam([unknown], lr=settings.learning_rate)
    best, lowest, enough = unknown.detach().clone(), math.inf, False
    for step in range(settings.steps + 1):
        with torch.set_grad_enabled(step < settings.steps):
            loss = objective(_changed(start, _change(unknown, size, settings), settings))
        value = float(loss.detach())
        if value < lowest:
            best, lowest = unknown.detach().clone(), value
        if step == settings.steps or enough:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        enough = report(step + 1, value)
    with torch.no_grad():
        return _change(best, size, settings), enough


def _change(unknown: Tensor, size: tuple[int, ...], settings: RefineSettings) -> Tensor:
    """Return the displacement that the unknown stands for, on the grid of the level."""
    return resize_displacement(integrate_velocity(unknown, VELOCITY_STEPS) if settings.velocity else unknown, size)


def _changed(start: Tensor, change: Tensor, settings: RefineSettings) -> Tensor:
    return compose(start, change) if settings.velocity else start + change
