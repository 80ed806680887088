"""Image and label pairs for training, held in memory on one centred grid."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from DeepAttentionRegEngine.intensity import normalize
from DeepAttentionRegEngine.warp import identity_grid, sample

ROOT = Path(__file__).resolve().parents[1]
RESOURCES = ROOT / "DeepAttentionReg" / "Resources"


def data_folder(name: str) -> Path:
    """Return the folder of a data set: under `DAR_DATA`, else under `../shared/data`.

    Raises:
        FileNotFoundError: If neither holds it.
    """
    bases = [os.environ.get("DAR_DATA"), ROOT.parent / "shared" / "data"]
    for base in bases:
        if base and (Path(base) / name).is_dir():
            return Path(base) / name
    msg = f"data set {name!r} not found; set DAR_DATA to the folder that holds it (training/README.md)"
    raise FileNotFoundError(msg)


def read_split(path: Path) -> dict[str, list[str]]:
    """Return `{"train": [...], "validation": [...]}`, file names without folder."""
    return json.loads(path.read_text(encoding="ascii"))


def centered(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Crop or edge-pad an array around its centre to `shape`."""
    for axis, target in enumerate(shape):
        excess = array.shape[axis] - target
        if excess > 0:
            array = np.take(array, range(excess // 2, excess // 2 + target), axis)
        elif excess < 0:
            pad = [(0, 0)] * array.ndim
            pad[axis] = (-excess // 2, -excess - -excess // 2)
            array = np.pad(array, pad, mode="edge")
    return np.ascontiguousarray(array)


def read_oriented(path: Path) -> np.ndarray:
    """Read a volume in closest-LPS axis order, as the engine's working grid has it; `(k, j, i)`."""
    return sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS"))


@dataclass(frozen=True)
class Case:
    """One subject: image `(1, k, j, i)` in [0, 1] and one-hot labels `(L, k, j, i)` without background."""

    image: Tensor
    labels: Tensor


def load_cases(folder: Path, names: list[str], shape: tuple[int, ...], labels: list[int]) -> list[Case]:
    """Load images and labels of a folder with `images/` and `labels/` at their stored spacing."""
    cases = []
    for name in names:
        image = centered(normalize(read_oriented(folder / "images" / name), name), shape)
        label = centered(read_oriented(folder / "labels" / name), shape)
        onehot = np.stack([label == value for value in labels]).astype(np.float32)
        cases.append(Case(torch.from_numpy(image)[None], torch.from_numpy(onehot)))
    return cases


def random_affine(nd: int, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Return a near-identity matrix: rotation, scaling and shear of the order of `strength`."""
    return np.eye(nd) + rng.normal(0, strength, (nd, nd))


def augmented(case: Case, rng: np.random.Generator, strength: float, shift: float) -> tuple[Tensor, Tensor]:
    """Return image and labels `(1, C, k, j, i)` under one random affine map and a random gamma.

    Args:
        case: The subject.
        rng: Source of randomness.
        strength: Standard deviation of the matrix entries.
        shift: Standard deviation of the translation in voxels.
    """
    spatial = case.image.shape[1:]
    grid = identity_grid(spatial, case.image)
    center = torch.tensor([(n - 1) / 2 for n in spatial]).view(1, -1, 1, 1, 1)
    matrix = torch.from_numpy(random_affine(len(spatial), rng, strength)).float()
    offset = torch.from_numpy(rng.normal(0, shift, len(spatial))).float().view(1, -1, 1, 1, 1)
    coordinates = torch.einsum("ab,nbkji->nakji", matrix, grid - center) + center + offset
    moved = sample(torch.cat([case.image, case.labels])[None], coordinates)
    gamma = float(np.exp(rng.normal(0, 0.2)))
    return moved[:, :1].clamp(0, 1) ** gamma, moved[:, 1:]


def random_pairs(cases: list[Case], seed: int) -> Iterator[tuple[Case, Case, np.random.Generator]]:
    """Yield ordered pairs of different subjects for ever, with the generator to augment them."""
    rng = np.random.default_rng(seed)
    while True:
        first, second = rng.choice(len(cases), 2, replace=False)
        yield cases[first], cases[second], rng
