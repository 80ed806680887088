"""What the pairs show: random shapes, label maps of heads, abdomens and others drawn anew each time, real images."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from DeepAttentionRegEngine.deform.warp import identity_grid, sample, shrink
from DeepAttentionRegEngine.volume.intensity import normalize

from ..data.cases import data_folder
from ..data.loaders.folders import read_oriented
from ..data.motions import orientation
from ..data.painting import Chance

# Families of label maps: the folder and its files; "held out" ones never teach.
LABEL_MAPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "heads": ("brain_labels", tuple(f"{number:02d}.nii.gz" for number in range(1, 13))),
    "abdomens": ("abdomen_labels", tuple(f"{number:04d}.nii.gz" for number in range(1, 11))),
    "atlas": ("atlas_labels", ("abdomen.nrrd", "knee.nrrd")),
    "head and neck": ("atlas_labels", ("head_neck.nrrd",)),
}
REAL: dict[str, str] = {"brain MR": "brain_validation", "mouse MR": "mouse_brain", "hippocampus MR": "hippocampus"}


def labels_of(family: str, spatial: tuple[int, ...], chance: Chance) -> Tensor:
    """Return labels `(1, 1, *spatial)` of a family, seen from a random viewpoint; whole numbers, 0 background."""
    if family == "shapes":
        return chance.blobs(spatial)
    folder, names = LABEL_MAPS[family]
    volume = stored(data_folder(folder) / names[chance.rng.integers(len(names))], labels=True)
    return _seen(volume, orientation(chance.rng), spatial, chance)


def image_of(family: str, spatial: tuple[int, ...], chance: Chance) -> Tensor:
    """Return a real image `(1, 1, *spatial)` in [0, 1] of a family; a slice of it where there are two axes."""
    files = sorted((data_folder(REAL[family]) / "images").iterdir())
    volume = stored(files[chance.rng.integers(len(files))], labels=False)
    factor = max(1, round(max(volume.shape) / max(spatial)))
    reduced = shrink(volume[None, None], [max(1, n // factor) for n in volume.shape])[0, 0]
    return _seen(reduced, np.eye(3)[chance.rng.permutation(3)], spatial, chance)


@lru_cache(maxsize=64)
def stored(path: Path, *, labels: bool) -> Tensor:
    """Return a stored volume, cut to what it shows; labels are numbered in the order of their values."""
    values = np.asarray(read_oriented(path)[0])
    numbered = np.unique(values, return_inverse=True)[1].reshape(values.shape)
    values = numbered if labels else normalize(values, path.name)
    shown = np.argwhere(values > (0 if labels else 0.02))
    low, high = shown.min(0), shown.max(0) + 1
    return torch.from_numpy(values[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].astype(np.float32))


def _seen(volume: Tensor, turn: np.ndarray, spatial: Sequence[int], chance: Chance) -> Tensor:
    """Return a volume `(*size)` on a grid of two or three axes whose field of view holds most of it."""
    nd, nearest = len(spatial), bool((volume == volume.round()).all())
    matrix = torch.from_numpy(turn[:, :nd]).float()
    size = torch.tensor(volume.shape).float()
    along = (matrix.abs().T @ size) / torch.tensor(spatial)
    voxel = float(along.max()) * float(chance.rng.uniform(0.8, 1.15))
    shift = torch.from_numpy(chance.rng.normal(0, 0.05, 3)).float() * size
    grid = identity_grid(tuple(spatial), torch.empty(()))[0]
    off = grid - (torch.tensor(spatial).float() / 2 - 0.5).view(-1, *[1] * nd)
    places = (voxel * matrix @ off.flatten(1)) + (size / 2 + shift)[:, None]
    inside = ((places >= -0.5) & (places <= size[:, None] - 0.5)).all(0).view(1, 1, *spatial)
    found = sample(volume[None, None], places.view(1, 3, 1, 1, -1), nearest=nearest)
    return found.view(1, 1, *spatial) * inside
