"""How far a displacement depends on what should not matter: its spread over registrations of slightly changed images.

Each sample changes the brightness and contrast of both images, adds noise, and shifts the moving image by up to two
voxels, which is undone in the displacement found. Where the images leave no doubt all samples agree; where they say
little, as in uniform tissue, the samples keep part of the shift, and the spread shows it. What all samples get wrong
together, it cannot show.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .preprocess import WorkingPair
from .warp import warp

NOISE = 0.02  # standard deviation, of the range of the image
GAMMA = 0.1  # contrast: exponent of the brightness, by which it differs from 1 at most
GAIN = 0.05  # factor of the brightness, by which it differs from 1 at most
SHIFT_VOXELS = 2.0  # along each axis, at most


@dataclass(frozen=True)
class Perturbed:
    """A slightly changed pair.

    Attributes:
        pair: The images.
        shift: `(1, nd, 1, ...)` in voxels of the working grid, in array axis order; to be added to the displacement
            found for this pair.
    """

    pair: WorkingPair
    shift: Tensor


def perturb(pair: WorkingPair, generator: torch.Generator) -> Perturbed:
    """Return a pair with changed brightness, contrast, noise and position.

    Args:
        pair: On the working grid.
        generator: Of the CPU, so that every device gets the same changes.
    """
    axes = pair.fixed.ndim - 2
    shift = SHIFT_VOXELS * (2 * torch.rand(axes, generator=generator) - 1)
    shift = shift.view(1, axes, *[1] * axes).to(pair.fixed)
    motion = shift.expand(1, axes, *pair.fixed.shape[2:])
    moving_mask = None if pair.moving_mask is None else warp(pair.moving_mask, motion)
    changed = replace(
        pair,
        fixed=_recolored(pair.fixed, generator),
        moving=_recolored(warp(pair.moving, motion), generator),
        moving_mask=moving_mask,
    )
    return Perturbed(changed, shift)


def _recolored(image: Tensor, generator: torch.Generator) -> Tensor:
    gamma, gain = (1 + limit * (2 * float(torch.rand(1, generator=generator)) - 1) for limit in (GAMMA, GAIN))
    noise = NOISE * torch.randn(image.shape, generator=generator)
    return gain * image.clamp_min(0) ** gamma + noise.to(image)


class Spread:
    """The standard deviation of displacements that are added one by one, without keeping them.

    Source: Welford 1962, for vectors: the square root of the mean squared distance from the mean vector.
    """

    def __init__(self, displacement_lps_mm: np.ndarray) -> None:
        """Start with a displacement `(k, j, i, 3)`, mm."""
        self.count = 1
        self._mean = displacement_lps_mm.astype(np.float32)
        self._squares = np.zeros(displacement_lps_mm.shape[:3], np.float32)

    def add(self, displacement_lps_mm: np.ndarray) -> None:
        """Add another displacement on the same grid."""
        self.count += 1
        change = displacement_lps_mm - self._mean
        self._mean += change / self.count
        self._squares += np.einsum("...c,...c->...", change, displacement_lps_mm - self._mean)

    def millimetres(self) -> np.ndarray:
        """Return the standard deviation `(k, j, i)`, mm, of what was added; 0 for a single one."""
        return np.sqrt(self._squares / max(self.count - 1, 1))
