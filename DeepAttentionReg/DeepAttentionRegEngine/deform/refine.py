"""Instance optimisation: improve the displacement of one pair by gradient descent, coarse to fine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import relu

from ..protocol.settings import option
from .descent import descend
from .losses import diffusion, fold_penalty, mean_squared
from .mind import mind_ssc
from .pairs import ImagePair, OnStep, image_distance
from .warp import integrate_velocity, resize_displacement, warp_evenly

FOLD_WEIGHT = 10.0
FOLD_MARGIN = 0.1
VELOCITY_STEPS = 5
SMALLEST_LEVEL = 8  # voxels; coarser than this an axis holds no structure


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

    steps: int
    similarity: str = "ncc"
    smoothness: float = option(1.0, at_least=0.0, at_most=1e6)
    anchor: float = option(0.0, at_least=0.0, at_most=1e6)
    velocity: bool = False
    learning_rate: float = option(0.1, at_least=0.0, at_most=100.0)
    window: int = option(5, at_least=1, at_most=99)
    levels: tuple[int, ...] = (4, 2, 1)
    structures: float = option(0.0, at_least=0.0, at_most=1e6)

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 1:
            msg = f"levels are {list(self.levels)}, but must be factors of 1 or more"
            raise ValueError(msg)


def usual_settings(axes: int, similarity: str, steps: int) -> RefineSettings:
    """Return the settings for pairs of which nothing is known, volumes (3 axes) or single slices (2 axes)."""
    usual = RefineSettings(steps, similarity)
    if axes == 2 and similarity == "ncc":
        # A square holds fewer voxels than a cube, and a heart in a slice moves further than a smoothness of 1 lets it.
        return replace(usual, window=9, smoothness=0.4)
    return usual


def level_size(spatial: tuple[int, ...], factor: int) -> tuple[int, ...]:
    """Return the grid size of a level."""
    return tuple(min(n, max(SMALLEST_LEVEL, round(n / factor))) for n in spatial)


def dissimilarity(pair: ImagePair, displacement: Tensor, settings: RefineSettings) -> Tensor:
    """Return what refinement minimises besides regularity, 0 for a perfect match."""
    warped = warp_evenly(pair.moving, displacement)
    value = image_distance(pair, warped, settings.similarity, settings.window, pair.weight)
    if pair.structures is None:
        return value
    # Everywhere: a user's masks limit the weight to themselves, where their outlines would hardly count.
    fixed, moving = pair.structures
    apart = mean_squared(warp_evenly(moving, displacement), fixed) / fixed.var().clamp_min(1e-8)
    return value + settings.structures * apart


@dataclass(frozen=True)
class Objective:
    """What one level minimises: dissimilarity beyond a perfect match, roughness, distance from the prior, folds.

    Attributes:
        pair: The images at this level.
        prior: `(1, nd, *spatial)` in voxels; None: no motion.
        settings: The weights of the terms.
    """

    pair: ImagePair
    prior: Tensor | None
    settings: RefineSettings

    @cached_property
    def perfect(self) -> Tensor:
        """Dissimilarity of the image of more contrast with itself; below it correlation only amplifies noise."""
        pair, settings = self.pair, self.settings
        still = pair.fixed.new_zeros(1, pair.fixed.ndim - 2, *pair.fixed.shape[2:])
        with torch.no_grad():
            return torch.stack(
                [
                    dissimilarity(ImagePair(image, image, weight=pair.weight), still, settings)
                    for image in (pair.fixed, pair.moving)
                ]
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


def refine(pair: ImagePair, initial: Tensor, settings: RefineSettings, on_step: OnStep | None = None) -> Tensor:
    """Refine a displacement on one pair of images.

    Args:
        pair: The images, B = 1. Its weight says where the similarity counts; the overlap of its structures counts as
            much as `settings.structures` says. Its masks are not looked at.
        initial: `(1, nd, *spatial)` in voxels, from a network or zero.
        settings: How to refine.
        on_step: Called after every iteration with (done, of, loss); returns whether that is enough, may raise.

    Returns:
        `(1, nd, *spatial)` in voxels.
    """
    if settings.steps == 0:
        return initial
    full = tuple(pair.fixed.shape[2:])
    whole = ImagePair(
        pair.fixed, pair.moving, weight=pair.weight, structures=pair.structures if settings.structures else None
    )
    if settings.similarity == "mind":
        whole = replace(whole, fixed=mind_ssc(pair.fixed), moving=mind_ssc(pair.moving))
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

        change, enough = _best_change(objective, resize_displacement(displacement, size), report)
        # Only the change is enlarged: the fine detail of the initial field survives the coarse levels.
        displacement = _changed(displacement, resize_displacement(change, full), settings)
    with torch.no_grad():  # what helped at a coarse level may have done harm at the last
        return min((initial, displacement), key=lambda field: float(objective(resize_displacement(field, size))))


def _best_change(objective: Objective, start: Tensor, report: Callable[[int, float], bool]) -> tuple[Tensor, bool]:
    """Return the change of `start` with the lowest loss met, none if no step made it lower; and if that is enough."""
    # The unknown lives on half the grid: linear enlarging smooths it and the optimiser has an eighth of the values.
    settings, size = objective.settings, tuple(start.shape[2:])
    unknown = torch.zeros(1, start.shape[1], *level_size(size, 2), device=start.device, requires_grad=True)

    def loss_of(unknowns: Sequence[Tensor]) -> Tensor:
        return objective(_changed(start, _change(unknowns[0], size, settings), settings))

    optimizer = torch.optim.Adam([unknown], lr=settings.learning_rate)
    (best,), enough = descend([unknown], loss_of, optimizer, settings.steps, report)
    with torch.no_grad():
        return _change(best, size, settings), enough


def _change(unknown: Tensor, size: tuple[int, ...], settings: RefineSettings) -> Tensor:
    """Return the displacement that the unknown stands for, on the grid of the level."""
    return resize_displacement(integrate_velocity(unknown, VELOCITY_STEPS) if settings.velocity else unknown, size)


def _changed(start: Tensor, change: Tensor, settings: RefineSettings) -> Tensor:
    return change + (warp_evenly(start, change) if settings.velocity else start)
