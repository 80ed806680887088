"""Loss terms of registration by name; what they compute is the engine's.

A term of `SIMILARITIES` is taken after every recursion (weights by gamma), one of `INCREMENTS` is the mean over the
recursions, one of `FIELDS` looks at the last displacement alone. All are to be minimised.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from DeepAttentionRegEngine.deform import losses, overlap_losses
from DeepAttentionRegEngine.deform.warp import resize_displacement, shrink, warp

from ..data.cases import with_background


@dataclass(frozen=True)
class View:
    """What a term may look at after one recursion, all `(B, C, *spatial)`; labels may lie on a coarser grid.

    Attributes:
        fixed: Image the similarity is taken with.
        warped: The moving image warped by the displacement.
        fixed_labels: Channels without background; None if there are none.
        moving_labels: Not warped.
        displacement: So far, voxels.
        increment: Of this recursion.
        same: `(B,)`, pairs of an image with itself.
        fixed_points: `(B, nd, N)` voxels.
        moving_points: Same shape.
        spacing: `(nd,)` mm per voxel.
        encode: From label channels with background to codes.
        truth: `(B, nd, *spatial)`, the displacement to be found.
        known: `(B,)`, 1 where `truth` is one.
    """

    fixed: Tensor
    warped: Tensor
    fixed_labels: Tensor | None
    moving_labels: Tensor | None
    displacement: Tensor
    increment: Tensor
    same: Tensor
    fixed_points: Tensor | None = None
    moving_points: Tensor | None = None
    spacing: Tensor | None = None
    encode: Callable[[Tensor], Tensor] | None = None
    truth: Tensor | None = None
    known: Tensor | None = None

    def label_pair(self, *, background: bool) -> tuple[Tensor, Tensor]:
        """Return warped and fixed label channels.

        Raises:
            ValueError: If the cases have no labels.
        """
        if self.fixed_labels is None or self.moving_labels is None:
            msg = "a loss of labels needs cases with labels"
            raise ValueError(msg)
        displacement = resize_displacement(self.displacement, self.fixed_labels.shape[2:])
        warped = warp(self.moving_labels, displacement)
        if not background:
            return warped, self.fixed_labels
        return with_background(warped), with_background(self.fixed_labels)


Term = Callable[..., Tensor]


def _soft_dice(view: View) -> Tensor:
    return 1 - losses.soft_dice(*view.label_pair(background=False))


def _logit_cross_entropy(view: View) -> Tensor:
    return overlap_losses.logit_cross_entropy(*view.label_pair(background=True))


def _code_distance(view: View) -> Tensor:
    if view.encode is None:
        msg = 'the loss code_distance needs parts: {"autoencoder": ...}'
        raise ValueError(msg)
    return overlap_losses.code_distance(view.encode, *view.label_pair(background=True))


def _masked_mse(view: View) -> Tensor:
    return losses.mean_squared(view.warped, view.fixed, losses.inside_image(view.displacement))


def _stillness(view: View) -> Tensor:
    squared = view.increment.square().sum(1).flatten(1).mean(1)
    return (squared * view.same).mean()


def _known_displacement(view: View) -> Tensor:
    if view.truth is None or view.known is None:
        msg = "the loss known_displacement needs pairs that are drawn (synthesis)"
        raise ValueError(msg)
    size = [max(1, n // 4) for n in view.truth.shape[2:]]
    error = shrink(view.displacement - view.truth, size).square().sum(1).add(1.0).sqrt() - 1
    return (error.flatten(1).mean(1) * view.known).mean()


def _landmark_distance(view: View) -> Tensor:
    if view.fixed_points is None or view.moving_points is None or view.spacing is None:
        msg = "a loss of landmarks needs cases with landmarks"
        raise ValueError(msg)
    fixed, moving = view.fixed_points.transpose(1, 2), view.moving_points.transpose(1, 2)
    return losses.landmark_distance(view.displacement, fixed, moving, view.spacing)


SIMILARITIES: dict[str, Term] = {
    "global_ncc": lambda view: 1 - losses.global_ncc(view.warped, view.fixed),
    "local_ncc": lambda view, **options: 1 - losses.local_ncc(view.warped, view.fixed, **options),
    "ssim": lambda view, **options: 1 - losses.ssim(view.warped, view.fixed, **options),
    "mse": lambda view: losses.mean_squared(view.warped, view.fixed),
    "masked_mse": _masked_mse,
    "soft_dice": _soft_dice,
    "logit_cross_entropy": _logit_cross_entropy,
    "code_distance": _code_distance,
}
INCREMENTS: dict[str, Term] = {
    "step_diffusion": lambda view: losses.diffusion(view.increment),
    "stillness": _stillness,
}
FIELDS: dict[str, Term] = {
    "total_variation": lambda view: losses.total_variation(view.displacement),
    "isotropic_tv": lambda view: losses.isotropic_total_variation(view.displacement),
    "diffusion": lambda view: losses.diffusion(view.displacement),
    "fold_penalty": lambda view, **options: losses.fold_penalty(view.displacement, **options),
    "landmark_distance": _landmark_distance,
    "known_displacement": _known_displacement,
}
# Of the task itself, as they need more than one state or image.
OTHERS = ("deep_supervision", "inverse_consistency")


@dataclass(frozen=True)
class Sight:
    """What a recursion saw: images `(B, 1, *spatial)` and, if there are any, label channels without background."""

    fixed: Tensor
    moving: Tensor
    fixed_labels: Tensor | None
    moving_labels: Tensor | None


def deep_supervision(sight: Sight, fields: dict[int, Tensor], *, window: int, decay: float) -> Tensor:
    """Return the weighted mean over scales of what local correlation and, with labels, soft Dice lack.

    Args:
        sight: What the recursion saw.
        fields: `(B, nd, *size)` by scale, in voxels of their own grids, which cover the whole image.
        window: Of the correlation, voxels of each scale.
        decay: Weight of a scale relative to the next finer one.

    Source: Mok and Chung 2020 (LapIRN) weigh the scales of a pyramid so.
    """
    total, weights = sight.fixed.new_zeros(()), 0.0
    for rank, field in enumerate(sorted(fields.values(), key=lambda f: -f[0, 0].numel())):
        size = field.shape[2:]
        term = 1 - losses.local_ncc(warp(shrink(sight.moving, size), field), shrink(sight.fixed, size), window)
        if sight.fixed_labels is not None and sight.moving_labels is not None:
            warped_labels = warp(shrink(sight.moving_labels, size), field)
            term = term + 1 - losses.soft_dice(warped_labels, shrink(sight.fixed_labels, size))
        total, weights = total + decay**rank * term, weights + decay**rank
    return total / weights


def inverse_error(forward: Tensor, backward: Tensor) -> Tensor:
    """Return the mean squared length in voxels of `forward` followed by `backward`, `(B, nd, *spatial)` each."""
    return (backward + warp(forward, backward)).square().sum(1).mean()
