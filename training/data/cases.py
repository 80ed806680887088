"""Cases, their folders and splits, and the grids they are brought to."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from DeepAttentionRegEngine.deform.warp import shrink

from ..paths import ROOT, TRAINING


@dataclass(frozen=True)
class ImageCase:
    """One image, with what is known about it.

    Attributes:
        name: Of the file, for people.
        image: `(1, *spatial)` in [0, 1].
        labels: `(*spatial)`, uint8: 0 background, then 1, 2, ...; None if there are none.
        spacing: mm per voxel along each axis, array axis order.
        subset: Data set it belongs to; results are told per subset.
        group: Patient, slice or the like within which pairs make sense.
        points: Landmarks `(N, nd)` in voxels, array axis order; the same row is the same place in all cases of a group.
        mask: `(structures, *spatial)`, where a network attends; None if not known yet.
        shares: `(L, *spatial)`, the share of each voxel that each label covers; None where `labels` says all.
    """

    name: str
    image: Tensor
    labels: Tensor | None = None
    spacing: tuple[float, ...] = ()
    subset: str = ""
    group: str = ""
    points: Tensor | None = None
    mask: Tensor | None = None
    shares: Tensor | None = None

    @property
    def label_map(self) -> Tensor:
        """The labels of a case that must have some.

        Raises:
            ValueError: If it has none.
        """
        if self.labels is None:
            msg = f"{self.name} has no labels"
            raise ValueError(msg)
        return self.labels


@dataclass(frozen=True)
class CaseSet:
    """Cases of one part of a data set.

    Attributes:
        cases: The cases.
        pairs: Indices (fixed, moving) of the pairs that the data set lists; None if it lists none.
    """

    cases: list[ImageCase]
    pairs: list[tuple[int, int]] | None = None

    @property
    def shown(self) -> bool:
        """Whether all cases have an image."""
        return all(case.image.numel() for case in self.cases)


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


def read_split(name: str) -> dict[str, list[str]]:
    """Return `{"train": [...], "validation": [...]}` of a file below training/data/: names of cases."""
    return json.loads((TRAINING / "data" / name).read_text(encoding="ascii"))


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


def relabelled(labels: np.ndarray, groups: list[list[int]]) -> np.ndarray:
    """Return a label map with the values of `groups[n]` as n + 1 and all others as background."""
    result = np.zeros(labels.shape, np.uint8)
    for index, values in enumerate(groups, start=1):
        result[np.isin(labels, values)] = index
    return result


def one_hot(labels: Tensor, count: int) -> Tensor:
    """Return labels `(..., *spatial)` of whole numbers as channels without background.

    Args:
        labels: `(*spatial)`.
        count: L, the number of labels without background.

    Returns:
        `(L, *spatial)` float.
    """
    values = torch.arange(1, count + 1, dtype=labels.dtype, device=labels.device)
    return (labels[None] == values.view(-1, *[1] * labels.ndim)).float()


def looked_up(labels: Tensor, places: Tensor) -> Tensor:
    """Return the labels `(*size)` at the voxels nearest to places `(3, *spatial)`; beyond, those of the border."""
    index = torch.zeros(places.shape[1:], dtype=torch.long)
    for axis, length in enumerate(labels.shape):
        index = index * length + (places[axis] + 0.5).clamp(0, length - 1).long()
    return labels.flatten()[index]


def with_background(labels: Tensor) -> Tensor:
    """Put the background ahead of label channels `(B, L, *spatial)` of probabilities."""
    return torch.cat([1 - labels.sum(1, keepdim=True), labels], 1)


def reduced(case: ImageCase, shape: tuple[int, ...] | None, label_count: int) -> ImageCase:
    """Return a case on the network's grid over the same field of view.

    A voxel gets the label that most of the voxels it covers have, and the shares of all labels: where a boundary lies
    within a voxel, which the label alone does not tell.

    Args:
        case: The case.
        shape: Grid of the network; None leaves the case as it is.
        label_count: Labels without background.
    """
    old = tuple(case.image.shape[1:])
    if shape is None or shape == old:
        return case
    labels, shares, points = case.labels, None, case.points
    if labels is not None:
        shares = shrink(one_hot(labels, label_count)[None], shape)
        labels, shares = with_background(shares)[0].argmax(0).to(torch.uint8), shares[0]
    ratio = torch.tensor([n / m for n, m in zip(shape, old, strict=True)])
    if points is not None:
        points = (points + 0.5) * ratio - 0.5
    spacing = tuple(float(mm / r) for mm, r in zip(case.spacing, ratio, strict=True)) if case.spacing else ()
    image = shrink(case.image[None], shape)[0]
    return replace(case, image=image, labels=labels, shares=shares, points=points, spacing=spacing)
