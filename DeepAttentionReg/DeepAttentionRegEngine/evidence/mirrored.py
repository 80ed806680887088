"""Whether the images would fit better if the moving one was mirrored, as a wrong orientation in a file does.

A deformation makes what is mirrored look alike, too, where anatomy is nearly symmetric, so that similarity alone does
not tell. Both ways are registered in the same few coarse steps and compared. Where images do correspond, mirroring
loses much; where nothing corresponds, nothing.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..deform.losses import LocalNcc
from ..deform.pairs import ImagePair
from ..deform.refine import RefineSettings, refine
from ..deform.warp import identity_grid, sample, shrink, warp
from ..registration.preprocess import WorkingPair
from .clues import small_size

MOST_VOXELS = {2: 64**2, 3: 24**3}  # of the grid, by the number of its axes
# Volumes are kept stiff: what may bend freely in three directions looks alike either way.
SETTINGS = {
    2: RefineSettings(steps=8, smoothness=1.0, learning_rate=0.2, levels=(4, 2)),
    3: RefineSettings(steps=10, smoothness=10.0, levels=(2,)),
}
SIDES = ("left to right", "front to back", "head to foot")  # along the axes of LPS


@dataclass(frozen=True)
class Mirrored:
    """How well images fit after a few coarse steps.

    Attributes:
        similarity: Local correlation, -1 to 1.
        gain: By how much it rises, at most, when the moving image is mirrored first.
        sides: Along which axis of the patient that is.
    """

    similarity: float
    gain: float
    sides: str

    @property
    def signs(self) -> Tensor:
        """What speaks for a failure `(2,)`."""
        return torch.tensor([self.similarity, self.gain])


def mirrored(pair: WorkingPair) -> Mirrored:
    """Return how well a pair fits as it is, and mirrored along the axis where that fits best."""
    size = small_size(tuple(pair.fixed.shape[2:]), MOST_VOXELS)
    fixed, moving = (shrink(image, size) for image in (pair.fixed, pair.moving))
    similarity = _reached(fixed, moving)
    others = [_reached(fixed, _mirrored(moving, axis)) for axis in range(len(size))]
    best = max(others)
    return Mirrored(similarity, best - similarity, _sides(pair, others.index(best)))


def _reached(fixed: Tensor, moving: Tensor) -> float:
    """Return the similarity that a coarse registration reaches."""
    still, settings = fixed.new_zeros(1, fixed.ndim - 2, *fixed.shape[2:]), SETTINGS[fixed.ndim - 2]
    found = refine(ImagePair(fixed, moving), still, settings)
    with torch.no_grad():
        return float(LocalNcc(fixed, settings.window)(warp(moving, found)))


def _mirrored(image: Tensor, axis: int) -> Tensor:
    """Return an image `(1, 1, *spatial)` mirrored about the middle of its brightness along an axis."""
    bright = (image[0, 0] - image.amin()).movedim(axis, 0).flatten(1).sum(1) + 1e-6
    places = torch.arange(len(bright)).to(bright)
    grid = identity_grid(image.shape[2:], image)
    grid[:, axis] = 2 * (bright * places).sum() / bright.sum() - grid[:, axis]
    return sample(image, grid)


def _sides(pair: WorkingPair, axis: int) -> str:
    """Return the sides of the patient that an axis of the arrays leads along."""
    directions = np.reshape(pair.geometry.direction, (3, 3))
    return SIDES[int(np.abs(directions[:, pair.fixed.ndim - 3 - axis]).argmax())]
