"""Random changes of training cases: one map of space for image, labels, mask and landmarks, changes of intensity."""

from typing import Any

import monai.transforms
import numpy as np
import torch
from torch import Tensor

from DeepAttentionRegEngine.deform.warp import identity_grid, sample

from ..configs.schema import Augmentation, ConfigError
from .painting import Chance

MAPS = ("image", "labels", "mask")
WAVE = 12.0  # voxels between the control points of elastic changes


class Augmenter:
    """Changes cases at random, all randomness from one generator."""

    def __init__(self, settings: Augmentation, rng: np.random.Generator) -> None:
        self.settings, self.rng = settings, rng
        self.transforms = [_transform(name, arguments) for name, arguments in settings.intensity.items()]

    def __call__(self, case: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a case under a random map of space and random changes of its intensities.

        Args:
            case: Channels `(C, *spatial)` by name, of which `MAPS` and "points" `(nd, N)` are moved.

        Raises:
            ConfigError: If landmarks were to be moved elastically.
        """
        moved = dict(case)
        if self.settings.strength or self.settings.shift or self.settings.elastic:
            moved |= self._moved(case)
        image = moved["image"]
        if self.settings.gamma:
            image = image.clamp(0, 1) ** float(np.exp(self.rng.normal(0, self.settings.gamma)))
        for transform in self.transforms:
            transform.set_random_state(seed=int(self.rng.integers(2**31)))
            image = torch.as_tensor(transform(image)).float().clamp(0, 1)
        return {**moved, "image": image}

    def _moved(self, case: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the maps and points under `x -> A (x - c) + c + t + u(x)`, from new to old voxels."""
        spatial = case["image"].shape[1:]
        nd = len(spatial)
        matrix = torch.from_numpy(np.eye(nd) + self.rng.normal(0, self.settings.strength, (nd, nd))).float()
        center = torch.tensor([(n - 1) / 2 for n in spatial])[:, None]
        offset = center + torch.from_numpy(self.rng.normal(0, self.settings.shift, (nd, 1))).float()
        grid = identity_grid(spatial, case["image"])
        coordinates = (matrix @ (grid.flatten(2) - center) + offset).view_as(grid)
        if self.settings.elastic:
            if "points" in case:
                msg = "augmentation: elastic changes cannot move landmarks"
                raise ConfigError(msg)
            coordinates += self.settings.elastic * Chance(self.rng).smooth(nd, spatial, WAVE)
        present = [name for name in MAPS if name in case]
        maps = sample(torch.cat([case[name] for name in present])[None], coordinates)[0]
        moved = dict(zip(present, maps.split([len(case[name]) for name in present]), strict=True))
        if "points" in case:
            moved["points"] = torch.linalg.solve(matrix, case["points"] - offset) + center
        return moved

    def flipped(self, *cases: dict[str, Tensor]) -> tuple[dict[str, Tensor], ...]:
        """Return a case, or those of a pair, all or none of them flipped along each configured axis."""
        for axis in self.settings.flip:
            if self.rng.random() < 0.5:
                cases = tuple(_flip(case, axis) for case in cases)
        return cases


def cut(batch: dict[str, Tensor], most: int, rng: np.random.Generator) -> dict[str, Tensor]:
    """Cut up to `most` voxels off either end of each axis, so that a network sees fields of view of many sizes.

    Args:
        batch: Maps `(B, C, *spatial)` and points `(B, nd, N)` of names that end in those of `MAPS` and in "points".
        most: Voxels.
        rng: Source of the amounts.

    Raises:
        ConfigError: If that may leave nothing.
    """
    spatial = next(value.shape[2:] for name, value in batch.items() if name.endswith("image"))
    if 2 * most >= min(spatial):
        msg = f"augmentation: a cut of {most} voxels at either end may leave nothing of images of {tuple(spatial)}"
        raise ConfigError(msg)
    ends = rng.integers(0, most + 1, (2, len(spatial)))
    spans = [slice(int(low), n - int(high)) for low, high, n in zip(*ends, spatial, strict=True)]
    kept: tuple[Any, ...] = (..., *spans)
    result = {name: value[kept] if name.endswith(MAPS) else value for name, value in batch.items()}
    offset = torch.from_numpy(ends[0]).float()[:, None]
    return result | {name: value - offset for name, value in batch.items() if name.endswith("points")}


def _flip(case: dict[str, Tensor], axis: int) -> dict[str, Tensor]:
    flipped = {name: value.flip(axis + 1) if name in MAPS else value for name, value in case.items()}
    if "points" in case:
        points = case["points"].clone()
        points[axis] = case["image"].shape[axis + 1] - 1 - points[axis]
        flipped["points"] = points
    return flipped


def _transform(name: str, arguments: dict[str, Any]) -> Any:
    found = getattr(monai.transforms, name, None)
    if not (isinstance(found, type) and issubclass(found, monai.transforms.RandomizableTransform)):
        msg = f"augmentation: {name!r} is no random transform of MONAI"
        raise ConfigError(msg)
    try:
        return found(**arguments)
    except TypeError as error:
        msg = f"augmentation: {name}: {error}"
        raise ConfigError(msg) from error
