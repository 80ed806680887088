"""Instance optimisation: improve the displacement of one pair by gradient descent, coarse to fine."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import relu

from ..protocol.settings import option
from .bodies import Placed
from .descent import descend
from .folds import unfolded
from .losses import LocalNcc, diffusion, fold_penalty, mean_squared
from .mind import mind_ssc
from .pairs import ImagePair, Masks, OnStep, image_distance
from .sliding import both_sides
from .warp import integrate_velocity, resize_displacement, shrink, warp_evenly

FOLD_WEIGHT = 10.0
FOLD_MARGIN = 0.1
LANDMARK_WEIGHT = 0.01  # of their mean squared distance in voxels; what is left is met at the end, close to them alone
GAP_WEIGHT = 1.0  # of the mean square in voxels of what opens or overlaps where segments slide, likewise
JUMP_WEIGHT = 0.0015  # of how many voxels they slide on average; more keeps from sliding what should
VELOCITY_STEPS = 5
LEAST_STIFFNESS = 0.1  # of what nothing steers, in units of that of the rest
FINEST_SHARE = 0.3  # of the iterations
SMALLEST_LEVEL = 8  # voxels; coarser than this an axis holds no structure


@dataclass(frozen=True)
class RefineSettings:
    """How to refine.

    Attributes:
        steps: Adam iterations at each level but the finest of several, which takes three tenths of them.
        similarity: "ncc" (local correlation), "mse" or "mind" (MIND-SSC, for two modalities).
        smoothness: Weight of the diffusion regularity of what is added to the prior.
        anchor: Weight of the mean squared distance from the prior in voxels; above 0 the initial field is the prior,
            else no motion is.
        velocity: Optimise a stationary velocity field at each level, composed onto the field so far, which folds less.
        learning_rate: Adam step in voxels of the level.
        window: Edge of the correlation window in voxels.
        levels: Down-sampling factors, coarse to fine.
        structures: Weight of the squared difference of the masks of structures, summed over these.
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


def level_steps(settings: RefineSettings) -> list[int]:
    """Return the iterations of every level; what coarse levels have found, the finest only has to sharpen."""
    steps = [settings.steps] * len(settings.levels)
    if len(steps) > 1:
        steps[-1] = math.ceil(FINEST_SHARE * settings.steps)
    return steps


@dataclass(frozen=True)
class Objective:
    """What one level minimises: dissimilarity beyond a perfect match, roughness, distance from the prior, folds.

    All terms are means over the whole grid, so that their balance at a voxel depends neither on the size of a mask nor
    on how much of the field of view the anatomy fills.

    Attributes:
        pair: The images at this level.
        prior: `(1, nd, *coarse)` in voxels of half the level's grid; None: no motion.
        settings: The weights of the terms.
        bodies: What moves as one piece each, where it lies now; None: nothing does.
    """

    pair: ImagePair
    prior: Tensor | None
    settings: RefineSettings
    bodies: Placed | None = None

    @property
    def size(self) -> tuple[int, ...]:
        """Size of the level's grid."""
        return tuple(self.pair.fixed.shape[2:])

    @property
    def coarse(self) -> tuple[int, ...]:
        """Size of half the level's grid, on which the unknown lives.

        Linear enlarging smooths it, and the optimiser and all regularity have an eighth of the values.
        """
        return level_size(self.size, 2)

    @cached_property
    def distance(self) -> Callable[[Tensor], Tensor]:
        """How unlike a warped moving image is to the fixed one; what does not change is computed once."""
        pair, settings = self.pair, self.settings
        if settings.similarity == "ncc":
            correlation = LocalNcc(pair.fixed, settings.window, pair.weight)
            return lambda warped: 1 - correlation(warped)
        return lambda warped: image_distance(pair, warped, settings.similarity, settings.window, pair.weight)

    @cached_property
    def perfect(self) -> Tensor:
        """Dissimilarity of the image of more contrast with itself; below it correlation only amplifies noise."""
        still = self.pair.fixed.new_zeros(1, len(self.size), *self.size)
        with torch.no_grad():
            moving = replace(self, pair=replace(self.pair, fixed=self.pair.moving))
            return torch.stack([side.distance(warp_evenly(side.pair.fixed, still)) for side in (self, moving)]).min()

    @cached_property
    def coverage(self) -> float:
        """Mean weight of the similarity on the whole grid."""
        return 1.0 if self.pair.weight is None else float(self.pair.weight.mean())

    @cached_property
    def stiffness(self) -> Tensor | None:
        """By how much smoothness counts where, on half the grid, in each of two fields where segments slide."""
        shares = None if self.pair.sliding is None else self.pair.sliding.shares(self.coarse)
        if self.pair.weight is None:
            return shares
        steered = shrink(self.pair.weight, self.coarse)
        if self.structures is not None:
            steered = steered.maximum(self.structures[0].amax(1, keepdim=True))
        steered = steered.clamp_min(LEAST_STIFFNESS)
        return steered if shares is None else steered * shares

    @cached_property
    def structures(self) -> Masks | None:
        """Masks on half the level's grid, where many of them cost little."""
        found = self.pair.structures
        return found and (shrink(found[0], self.coarse), shrink(found[1], self.coarse))

    def dissimilarity(self, displacement: Tensor) -> Tensor:
        """Return how unlike the images are, 0 for a perfect match or one that is better yet."""
        beyond = self.distance(warp_evenly(self.pair.moving, displacement)) - self.perfect
        return relu(beyond) * self.coverage

    def apart(self, coarse: Tensor) -> Tensor:
        """Return by how much the structures miss each other: over all of them, the mean squared difference of masks."""
        if self.structures is None:
            return coarse.new_zeros(())
        # Everywhere: a user's masks limit the weight to themselves, where their outlines would hardly count.
        fixed, moving = self.structures
        return mean_squared(warp_evenly(moving, coarse), fixed) * fixed.shape[1]

    def missed(self, coarse: Tensor) -> Tensor:
        """Return how far landmarks stay from their partners, mean squared voxels beyond what is tolerated."""
        return coarse.new_zeros(()) if self.pair.landmarks is None else self.pair.landmarks.distance(coarse)

    def joined(self, fields: Tensor) -> Tensor:
        """Return the displacement `(1, nd, *any)` that fields stand for: one, or two where segments slide."""
        if self.pair.sliding is None:
            return fields
        joined = self.pair.sliding.joined(fields)
        return joined if self.bodies is None else self.bodies.kept(joined)

    def joined_finely(self, fields: Tensor) -> Tensor:
        """Return the displacement that fields of any grid stand for; where segments slide, on the finest grid."""
        if self.pair.sliding is None:
            return fields
        fields = resize_displacement(fields, self.pair.sliding.size)
        if self.bodies is not None:
            sides = zip(self.bodies.divided(self.pair.sliding.inside), fields.split(1), strict=True)
            fields = torch.cat([bodies.eased(field) for bodies, field in sides])
        return self.joined(fields)

    def slid(self, fields: Tensor) -> Tensor:
        """Return what it costs that segments slide, and above all that they open or overlap."""
        if self.pair.sliding is None:
            return fields.new_zeros(())
        gap, jump = self.pair.sliding.apart(fields)
        return GAP_WEIGHT * gap + JUMP_WEIGHT * jump

    def __call__(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Return the loss of a displacement.

        Args:
            fine: `(1, nd, *size)` in voxels of the level's grid; where segments slide, the two fields `(2, nd, *size)`.
            coarse: The same on half the grid, in voxels of that.
        """
        settings = self.settings
        displacement, coarsely = self.joined(fine), self.joined(coarse)
        added = coarse if self.prior is None else coarse - self.prior
        scale = [fine / half for fine, half in zip(self.size, self.coarse, strict=True)]
        squares = added.square().mean((0, *range(2, added.ndim)))
        return (
            self.dissimilarity(displacement)
            + settings.structures * self.apart(coarsely)
            + LANDMARK_WEIGHT * self.missed(coarsely)
            + self.slid(coarse)
            + settings.smoothness * len(added) * diffusion(added, self.stiffness)
            + settings.anchor * (squares * squares.new_tensor(scale).square()).sum()
            + FOLD_WEIGHT * fold_penalty(coarsely, FOLD_MARGIN)
        )

    def of(self, fields: Tensor) -> float:
        """Return the loss of a displacement on any grid over the same field of view."""
        with torch.no_grad():
            return float(self(*(resize_displacement(fields, size) for size in (self.size, self.coarse))))


def refine(pair: ImagePair, initial: Tensor, settings: RefineSettings, on_step: OnStep | None = None) -> Tensor:
    """Refine a displacement on one pair of images.

    Args:
        pair: The images, B = 1. Its weight says where the similarity counts; the overlap of its structures counts as
            much as `settings.structures` says, its landmarks are met, and its bodies kept. Its masks are not looked at.
        initial: `(1, nd, *spatial)` in voxels, from a network or zero; it keeps the bodies.
        settings: How to refine.
        on_step: Called after every iteration with (done, of, loss); returns whether that is enough, may raise.

    Returns:
        `(1, nd, *spatial)` in voxels; where segments slide, on the grid on which the two fields are joined.
    """
    if settings.steps == 0:
        return initial
    full = tuple(pair.fixed.shape[2:])
    structures = pair.structures if settings.structures else None
    whole = replace(pair, fixed_mask=None, moving_mask=None, known=None, structures=structures)
    if settings.similarity == "mind":
        whole = replace(whole, fixed=mind_ssc(pair.fixed), moving=mind_ssc(pair.moving))
    start = initial if pair.sliding is None else initial.expand(2, *initial.shape[1:])
    displacement, enough, done = start, False, 0
    steps = level_steps(settings)
    for factor, count in zip(settings.levels, steps, strict=True):
        if enough:
            break
        objective = Objective(whole.at(level_size(full, factor)), None, settings)
        if pair.bodies is not None:
            objective = replace(objective, bodies=pair.bodies.placed(objective.joined(displacement)))
        if settings.anchor:
            objective = replace(objective, prior=resize_displacement(start, objective.coarse))

        def report(step: int, loss: float, done: int = done) -> bool:
            return on_step is not None and on_step(done + step, sum(steps), loss)

        change, enough = _best_change(objective, displacement, count, report)
        displacement, _ = _moved(objective, displacement, resize_displacement(displacement, objective.coarse), change)
        done += count
    # What helped at a coarse level may have done harm at the last.
    if objective.of(start) <= objective.of(displacement):
        return initial
    best = objective.joined_finely(displacement)
    return unfolded(best) if pair.bodies is None else pair.bodies.settled(best)


def _best_change(
    objective: Objective, displacement: Tensor, steps: int, report: Callable[[int, float], bool]
) -> tuple[Tensor, bool]:
    """Return the change with the lowest loss met, on half the level's grid, none if no step made it lower.

    Also returns if that is enough.
    """
    settings = objective.settings
    start, coarse_start = (resize_displacement(displacement, size) for size in (objective.size, objective.coarse))
    unknown = torch.zeros_like(coarse_start, requires_grad=True)

    def loss_of(unknowns: Sequence[Tensor]) -> Tensor:
        return objective(*_moved(objective, start, coarse_start, _flow(unknowns[0], settings)))

    optimizer = torch.optim.Adam([unknown], lr=settings.learning_rate)
    (best,), enough = descend([unknown], loss_of, optimizer, steps, report)
    with torch.no_grad():
        return _flow(best, settings), enough


def _flow(unknown: Tensor, settings: RefineSettings) -> Tensor:
    """Return the displacement that the unknown stands for, on its grid, or two where segments slide."""
    unknown = unknown if len(unknown) == 1 else both_sides(unknown)
    return integrate_velocity(unknown, VELOCITY_STEPS) if settings.velocity else unknown


def _moved(objective: Objective, start: Tensor, coarse_start: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    """Return what becomes of a displacement on its own grid, and on half the level's grid.

    Only the change is enlarged: the fine detail of where it starts survives the coarse levels.

    Args:
        objective: Of the level; its bodies are kept.
        start: `(1, nd, *any)` in voxels of its grid.
        coarse_start: The same on half the level's grid.
        change: What is added, on half the level's grid.
    """
    settings, size = objective.settings, start.shape[2:]
    coarse = _changed(coarse_start, change, settings)
    fine = _changed(start, resize_displacement(change, size), settings)
    if objective.bodies is None or objective.pair.sliding is not None:
        return fine, coarse  # two fields keep bodies where they are joined: neither need do so in the other's place
    kept = objective.bodies.kept(coarse)
    return objective.bodies.kept(fine + resize_displacement(kept - coarse, size)), kept


def _changed(start: Tensor, change: Tensor, settings: RefineSettings) -> Tensor:
    return change + (warp_evenly(start, change) if settings.velocity else start)
