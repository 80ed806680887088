"""Free-form deformation by B-splines: nothing is learnt, the control values of each pair are optimised.

Sources: Rueckert et al. 1999 (free-form deformation); Sandkuehler et al. 2018 (AirLab: control grid, kernel, masked
squared difference, isotropic total variation). In the comparison with R2N2 (Sandkuehler et al. 2019) the spacings of
three levels are 57, 21 and 7 pixels.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..deform.descent import descend
from ..deform.losses import isotropic_total_variation
from ..deform.pairs import masked_distance
from ..deform.refine import level_size
from ..deform.warp import resize_displacement, warp
from .base import Evidence, ImagePair, Recursion, RegistrationNetwork


@dataclass(frozen=True)
class BsplineSettings:
    """How to optimise.

    What has one value per level goes from coarse to fine; its last value belongs to the full resolution. With more
    levels than values the first one is repeated, with fewer levels the first ones are left out.

    Attributes:
        nd: Spatial axes, 2 or 3.
        spacing: Distance of control points, in voxels of each level.
        order: Of the spline, 3 for cubic.
        similarity: "mse" (squared difference, in units of the fixed image's variance) or "ncc" (local correlation).
        regularity: Weight of the total variation.
        iterations: Adam steps at each level.
        learning_rate: Adam step in voxels of the level.
        window: Edge of the correlation window in voxels.
    """

    nd: int = 3
    spacing: tuple[int, ...] = (7, 7, 7)
    order: int = 3
    similarity: str = "mse"
    regularity: float = 0.02
    iterations: tuple[int, ...] = (100, 100, 50)
    learning_rate: float = 0.2
    window: int = 7


def control_size(spatial: tuple[int, ...], spacing: int) -> tuple[int, ...]:
    """Return the control points along each axis of a grid: as many as fit, and one ring outside."""
    return tuple(math.ceil(n / spacing) + 2 for n in spatial)


def basis(n: int, spacing: int, order: int) -> Tensor:
    """Return the weight of every control point in every voxel of an axis.

    The rows are the shifted kernels of a transposed convolution, cropped to the image with the control points centered
    on it. The kernel is the `order`-fold convolution of a box with itself. Voxels near the edge that a control point
    beyond the ring would reach share its weight among those there are.

    Args:
        n: Voxels along the axis.
        spacing: Voxels between control points.
        order: Of the spline.

    Returns:
        `(controls, n)`, non-negative; every column sums to 1.
    """
    (controls,) = control_size((n,), spacing)
    box = torch.ones(1, 1, spacing, dtype=torch.float64)
    kernel = box
    for _ in range(order):
        kernel = F.conv1d(kernel, box / spacing, padding=spacing - 1)
    shifted = F.conv_transpose1d(torch.eye(controls, dtype=torch.float64)[:, None], kernel, stride=spacing)[:, 0]
    inner = spacing * (controls - 3) + 1  # voxels from the first to the last control point inside the image
    twice = kernel.shape[2] - 1 + 2 * spacing - (n - inner)  # where the image begins, in half voxels
    first, second = twice // 2, (twice + 1) // 2  # half way between two voxels it is the mean of both
    cropped = shifted[:, first : first + n] + shifted[:, second : second + n]
    return (cropped / cropped.sum(0)).float()


def spline(values: Tensor, bases: list[Tensor]) -> Tensor:
    """Return the field of control values, one transposed convolution per axis.

    Args:
        values: `(B, C, *control_size)`.
        bases: `basis` of each axis.

    Returns:
        `(B, C, *spatial)`.
    """
    for matrix in bases:  # each product takes the first spatial axis away and appends it as the last, enlarged
        values = torch.tensordot(values, matrix, ([2], [0]))
    return values


class Bspline(RegistrationNetwork):
    """B-spline registration; a recursion is one resolution level, each twice as fine as the one before.

    It has no weights and one pair at a time. `half_precision` and `checkpointed` have no effect.
    """

    minimum_size: ClassVar[int] = 16

    def __init__(self, settings: BsplineSettings) -> None:
        super().__init__()
        if settings.similarity not in ("mse", "ncc"):
            msg = f"similarity {settings.similarity!r} is unknown; known: mse, ncc"
            raise ValueError(msg)
        self.settings = settings

    def control_values(self, spatial: tuple[int, ...]) -> int:
        """Return how many numbers describe the finest level's deformation of an image of this size."""
        return len(spatial) * math.prod(control_size(spatial, self.settings.spacing[-1]))

    def recurse(self, pair: ImagePair, recursions: int, *, attend: bool = False) -> Iterator[Recursion]:
        """Yield the state after each level; the last one has the full resolution.

        Each level adds a spline to the enlarged displacement of the level before.

        Args:
            pair: The images, B = 1; masks restrict where they are compared.
            recursions: Number of levels.
            attend: Nothing is attended to.

        Raises:
            ValueError: If an axis is shorter than `minimum_size`, or for more than one pair.
        """
        self.require_size(pair.fixed)
        if pair.fixed.shape[0] != 1:
            msg = f"B-splines register one pair at a time, not {pair.fixed.shape[0]}"
            raise ValueError(msg)
        full = tuple(pair.fixed.shape[2:])
        iterations = [_at(self.settings.iterations, recursions - level) for level in range(recursions)]
        displacement = whole = pair.fixed.new_zeros(1, len(full), *full)
        for level, steps in enumerate(iterations):
            before, done = whole, sum(iterations[:level])

            def report(step: int, loss: float, done: int = done) -> bool:
                return self.on_step is not None and self.on_step(done + step, sum(iterations), loss)

            size = level_size(full, 2 ** (recursions - 1 - level))
            start = resize_displacement(displacement, size)
            spacing = _at(self.settings.spacing, recursions - level)
            displacement = start + self._descend(pair.at(size), start, spacing, steps, report)
            whole = resize_displacement(displacement, full)
            yield Recursion(whole, whole - before, warp(pair.moving, whole), Evidence() if attend else None)

    def _descend(
        self, pair: ImagePair, start: Tensor, spacing: int, steps: int, report: Callable[[int, float], bool]
    ) -> Tensor:
        """Return the spline with the lowest loss met when it is added to `start`; 0 if no step made it lower."""
        settings, size = self.settings, tuple(start.shape[2:])
        bases = [basis(n, spacing, settings.order).to(start.device) for n in size]
        values = start.new_zeros(1, start.shape[1], *control_size(size, spacing)).requires_grad_()

        def loss_of(unknowns: Sequence[Tensor]) -> Tensor:
            displacement = start + spline(unknowns[0], bases)
            loss = masked_distance(pair, displacement, settings.similarity, settings.window)
            return loss + settings.regularity * isotropic_total_variation(displacement)

        optimizer = torch.optim.Adam([values], lr=settings.learning_rate, amsgrad=True)
        (best,), _ = descend([values], loss_of, optimizer, steps, report)
        return spline(best, bases)


def _at(values: tuple[int, ...], remaining: int) -> int:
    """Return the value of the level after which, itself included, this many remain."""
    return values[max(0, len(values) - remaining)]
