"""Free-form deformation by B-splines, optimised on each pair from coarse to fine: what R2N2 was compared with.

Source: Rueckert et al., TMI 1999; splines by transposed convolution as in AirLab (Sandkuehler et al. 2018), the
baseline of Sandkuehler et al., NeurIPS 2019. It has no weights.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses import inside_mask, isotropic_total_variation, local_ncc, mean_squared
from ..warp import resize_displacement, shrink, warp
from .base import ImagePair, Recursion, RegistrationNetwork

SIMILARITIES = ("mse", "ncc")


@dataclass(frozen=True)
class BsplineSettings:
    """Arguments of a B-spline method file; the tuples have one entry per level, coarsest first.

    Attributes:
        nd: Spatial axes, 2 or 3.
        factors: Down-sampling of the images.
        spacings: Voxels of the level between control points.
        iterations: Steps of the optimiser at most.
        order: Of the spline, 1 (linear) or more.
        similarity: "mse", in units of the fixed image's variance, or "ncc" (local correlation).
        window: Edge of the correlation window in voxels.
        smoothness: Weight of the isotropic total variation of the field.
        learning_rate: Step of Adam in voxels of the level.

    Raises:
        ValueError: If the tuples differ in length, or the similarity is unknown.
    """

    nd: int = 3
    factors: tuple[int, ...] = (4, 2, 1)
    spacings: tuple[int, ...] = (7, 7, 7)
    iterations: tuple[int, ...] = (100, 100, 50)
    order: int = 3
    similarity: str = "mse"
    window: int = 7
    smoothness: float = 0.1
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        if not len(self.factors) == len(self.spacings) == len(self.iterations):
            msg = f"factors {self.factors}, spacings {self.spacings} and iterations {self.iterations} differ in length"
            raise ValueError(msg)
        if self.similarity not in SIMILARITIES:
            msg = f"similarity {self.similarity!r} is unknown; known: {', '.join(SIMILARITIES)}"
            raise ValueError(msg)


# What the paper's resolutions 64, 128, 256 and sizes 7, 21, 57 pixels most likely mean, and the example of AirLab.
PRESETS = {
    "paper": BsplineSettings(nd=2, spacings=(57, 21, 7)),
    "airlab": BsplineSettings(nd=2, spacings=(11, 11, 3), iterations=(500, 500, 500)),
}


def control_size(spatial: tuple[int, ...], spacing: int) -> tuple[int, ...]:
    """Return the control points along each axis: one per spacing and a ring outside the image."""
    return tuple(math.ceil(n / spacing) + 2 for n in spatial)


def spline_kernel(spacing: int, order: int) -> Tensor:
    """Return a B-spline sampled at voxels: a box of `spacing` voxels convolved `order` times with itself.

    Its shifts by multiples of the spacing sum to 1.
    """
    box = torch.ones(1, 1, spacing)
    kernel = box
    for _ in range(order):
        kernel = F.conv1d(kernel, box, padding=spacing - 1) / spacing
    return kernel[0, 0]


def spline_matrix(size: int, spacing: int, order: int) -> Tensor:
    """Return the transposed convolution along one axis as a matrix `(size, control points)`, cropped about its middle.

    A dense product with the few control points is faster than a transposed convolution with a long kernel.
    """
    points = control_size((size,), spacing)[0]
    kernel = spline_kernel(spacing, order)
    full = F.conv_transpose1d(torch.eye(points)[:, None], kernel[None, None], stride=spacing)[:, 0]
    start = (full.shape[1] - size) // 2
    return full[:, start : start + size].T.contiguous()


def spline_field(control: Tensor, matrices: list[Tensor]) -> Tensor:
    """Return the displacement of control values, axis by axis.

    Args:
        control: `(B, nd, *control points)`.
        matrices: `spline_matrix` of each axis.

    Returns:
        `(B, nd, *spatial)`.
    """
    for axis, matrix in enumerate(matrices, start=2):
        control = torch.tensordot(control, matrix, dims=([axis], [1])).movedim(-1, axis)
    return control


class Bspline(RegistrationNetwork):
    """Adds one spline per level to the field of the level before; a recursion is a level."""

    minimum_size = 16

    def __init__(self, settings: BsplineSettings) -> None:
        super().__init__()
        self.settings = settings

    def control_values(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """Return how many numbers the spline of each level has on images of a size, coarsest first."""
        settings = self.settings
        return tuple(
            settings.nd * math.prod(control_size(level_size(spatial, factor), spacing))
            for factor, spacing in zip(settings.factors, settings.spacings, strict=True)
        )

    def recurse(self, pair: ImagePair, recursions: int, *, attend: bool = False) -> Iterator[Recursion]:
        """Yield the field after each level, coarsest first; of more recursions than levels, the rest is left out.

        Every pair of a batch is optimised on its own. Gradients do not flow into the result.
        """
        self.require_size(pair.fixed)
        streams = [self._levels(_item(pair, index), recursions) for index in range(len(pair.fixed))]
        before = pair.fixed.new_zeros(len(pair.fixed), self.settings.nd, *pair.fixed.shape[2:])
        for fields in zip(*streams, strict=True):
            displacement = torch.cat(fields)
            yield Recursion(displacement, displacement - before, warp(pair.moving, displacement))
            before = displacement

    def _levels(self, pair: ImagePair, recursions: int) -> Iterator[Tensor]:
        """Yield the displacement of one pair, `(1, nd, *spatial)`, after each level."""
        full = tuple(pair.fixed.shape[2:])
        displacement = pair.fixed.new_zeros(1, len(full), *full)
        for level in range(min(recursions, len(self.settings.factors))):
            size = level_size(full, self.settings.factors[level])
            start = resize_displacement(displacement, size)
            displacement = self._descend(_at(pair, size), start, level)
            yield resize_displacement(displacement, full)

    @torch.enable_grad()  # type: ignore[untyped-decorator]
    def _descend(self, pair: ImagePair, start: Tensor, level: int) -> Tensor:
        """Return the displacement with the lowest loss met, `start` or with a spline added to it."""
        settings, size = self.settings, tuple(start.shape[2:])
        spacing, iterations = settings.spacings[level], settings.iterations[level]
        matrices = [spline_matrix(n, spacing, settings.order).to(start) for n in size]
        control = start.new_zeros(1, settings.nd, *control_size(size, spacing)).requires_grad_()
        optimizer = torch.optim.Adam([control], lr=settings.learning_rate, amsgrad=True)
        best, lowest = start, math.inf
        done = sum(settings.iterations[:level])
        for step in range(iterations + 1):
            displacement = start + spline_field(control, matrices)
            loss = self.loss(pair, displacement)
            value = float(loss.detach())
            if value < lowest:
                best, lowest = displacement.detach(), value
            if step < iterations:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                self._report(done + step + 1, value)
        return best

    def _report(self, done: int, loss: float) -> None:
        if self.on_step is not None:
            self.on_step(done, sum(self.settings.iterations), loss)

    def loss(self, pair: ImagePair, displacement: Tensor) -> Tensor:
        """Return what a level minimises; only voxels inside the masks and sampled inside the image count.

        Args:
            pair: The images of the level.
            displacement: `(1, nd, *spatial)` in its voxels.
        """
        settings = self.settings
        warped = warp(pair.moving, displacement)
        weight = inside_mask(displacement)
        if pair.fixed_mask is not None:
            weight = weight * pair.fixed_mask
        if pair.moving_mask is not None:
            weight = weight * warp(pair.moving_mask, displacement.detach())
        if settings.similarity == "ncc":
            distance = 1 - local_ncc(warped, pair.fixed, settings.window, weight)
        else:
            distance = mean_squared(warped, pair.fixed, weight) / pair.fixed.var().clamp_min(1e-8)
        return distance + settings.smoothness * isotropic_total_variation(displacement)


def level_size(spatial: tuple[int, ...], factor: int) -> tuple[int, ...]:
    """Return the size of a level."""
    return tuple(max(2, round(n / factor)) for n in spatial)


def _item(pair: ImagePair, index: int) -> ImagePair:
    return _mapped(pair, lambda image: image[index : index + 1])


def _at(pair: ImagePair, size: tuple[int, ...]) -> ImagePair:
    return _mapped(pair, lambda image: shrink(image, size))


def _mapped(pair: ImagePair, change: Callable[[Tensor], Tensor]) -> ImagePair:
    images = (pair.fixed, pair.moving, pair.fixed_mask, pair.moving_mask)
    return ImagePair(*(None if image is None else change(image) for image in images))
