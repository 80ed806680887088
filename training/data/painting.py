"""Images of label maps as scanners might show them: random contrast, texture, blur, shading, noise, field of view.

Source: Hoffmann et al. 2022 (SynthMorph); texture, thick slices and cut fields of view are this project's additions.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from DeepAttentionRegEngine.deform.warp import resize, warp
from DeepAttentionRegEngine.volume.intensity import normalize

from ..configs.schema import DrawnImages, Synthesis


class Chance:
    """Random numbers of both libraries, from one seed."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.torch = torch.Generator().manual_seed(int(rng.integers(2**62)))

    def normal(self, *size: int) -> Tensor:
        """Return noise of unit variance."""
        return torch.randn(size, generator=self.torch)

    def smooth(self, channels: int, spatial: Sequence[int], wave: float) -> Tensor:
        """Return smooth noise `(1, channels, *spatial)` of unit variance or less, `wave` voxels from knot to knot."""
        coarse = [max(2, round(n / wave) + 1) for n in spatial]
        return resize(self.normal(1, channels, *coarse), spatial)

    def blobs(self, spatial: Sequence[int]) -> Tensor:
        """Return a label map `(1, 1, *spatial)` of 5 to 16 kinds of random blobs, whole numbers from 0 on."""
        count, wave = int(self.rng.integers(5, 17)), float(self.rng.uniform(6, 20))
        return self.smooth(count, spatial, wave).argmax(1, keepdim=True).float()


class Painter:
    """Makes images of label maps."""

    def __init__(self, settings: Synthesis | DrawnImages, chance: Chance) -> None:
        self.settings, self.chance, self.rng = settings, chance, chance.rng

    def pair(self, fixed: Tensor, moving: Tensor, displacement: Tensor | None, alike: float) -> tuple[Tensor, Tensor]:
        """Return images of both sides, of one contrast or of two.

        Args:
            fixed: Labels `(1, 1, *spatial)`, whole numbers.
            moving: The same of the moving side.
            displacement: `(1, nd, *spatial)` voxels with `fixed(x) = moving(x + u(x))`, which texture follows, too;
                None if there is none.
            alike: Share of pairs of one contrast.
        """
        count = int(max(fixed.max(), moving.max())) + 1
        texture = self.texture(moving)
        other = self.texture(fixed) if displacement is None else warp(texture, displacement)
        moving_means = self.means(count)
        same = self.rng.random() < alike
        fixed_means = moving_means + 0.03 * self.chance.normal(count) if same else self.means(count)
        if not same:
            other = other * float(self.rng.uniform(-1, 1))
        sides = ((fixed, fixed_means, other), (moving, moving_means, texture))
        images = [self._pictured(means[labels.long()] + shade) for labels, means, shade in sides]
        return images[0], images[1]

    def means(self, count: int) -> Tensor:
        """Return a random intensity of each label, most times none of the background."""
        means = torch.rand(count, generator=self.chance.torch)
        if self.rng.random() < 0.6:
            means[0] = 0.0
        return means

    def texture(self, labels: Tensor) -> Tensor:
        """Return what varies within structures, for half of them."""
        spatial = tuple(labels.shape[2:])
        fine = self.chance.smooth(1, spatial, float(self.rng.uniform(2, 6))) * float(
            self.rng.uniform(0, self.settings.texture)
        )
        count = int(labels.max()) + 1
        share = (torch.rand(count, generator=self.chance.torch) < 0.5).float()
        share[0] *= float(self.rng.random() < 0.3)
        return fine * share[labels.long()]

    def _pictured(self, image: Tensor) -> Tensor:
        """Return an image as a scanner might show it, in [0, 1] between the percentiles of the engine."""
        image = self.acquired(image)
        if self.rng.random() < 0.15:
            self._cut(image)
        return self.displayed(image)

    def acquired(self, image: Tensor) -> Tensor:
        """Return an image `(1, 1, *spatial)` with blur, shading and noise, sometimes of thick slices."""
        spatial = tuple(image.shape[2:])
        image = _blurred(image, float(self.rng.uniform(0.2, self.settings.blur)))
        image = image * (float(self.rng.uniform(0, 0.4)) * self.chance.smooth(1, spatial, max(spatial) / 3)).exp()
        if self.rng.random() < 0.25:
            image = self._thick_slices(image)
        return image + float(self.rng.uniform(0, self.settings.noise)) * self.chance.normal(*image.shape)

    def displayed(self, image: Tensor) -> Tensor:
        """Return an image in [0, 1] between the percentiles of the engine, with a random gamma."""
        if not image.std() > 0:  # a label map of nothing, without noise
            return torch.zeros_like(image)
        image = torch.from_numpy(normalize(image.numpy()))
        return image ** math.exp(self.rng.normal(0, 0.25))

    def _thick_slices(self, image: Tensor) -> Tensor:
        axis, factor = int(self.rng.integers(image.ndim - 2)), int(self.rng.integers(2, 5))
        size = list(image.shape[2:])
        size[axis] = max(2, size[axis] // factor)
        return resize(F.interpolate(image, size=size, mode="area"), image.shape[2:])

    def _cut(self, image: Tensor) -> None:
        """Blank the end of one axis, as beyond a field of view."""
        axis = int(self.rng.integers(2, image.ndim))
        lost = int(image.shape[axis] * self.rng.uniform(0, 0.2))
        start = 0 if self.rng.random() < 0.5 else image.shape[axis] - lost
        image.narrow(axis, start, lost).zero_()


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """Return an image smoothed by a Gaussian of `sigma` voxels."""
    radius = max(1, math.ceil(2.5 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    nd = image.ndim - 2
    for axis in range(nd):
        shape, pad = [1] * nd, [0] * (2 * nd)
        shape[axis] = 2 * radius + 1
        pad[2 * (nd - 1 - axis)] = pad[2 * (nd - 1 - axis) + 1] = radius
        padded = F.pad(image, pad, mode="replicate")
        image = (F.conv2d if nd == 2 else F.conv3d)(padded, kernel.view(1, 1, *shape))
    return image
