"""Label maps of structures that have names, to draw images of, and real images with labels of the same structures."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from DeepAttentionRegEngine.volume.intensity import PERCENTILES, normalize

from ..cases import CaseSet, ImageCase, centered, reduced
from .anatomies import label_maps, options_of
from .folders import read_oriented

SET_KEYS = {"images": None, "labels": ".", "step": 1, "shown": True, "mirrored": False}


def load_structures(
    folder: Path,
    names: list[str] | None,
    *,
    structures: Mapping[str, Sequence[int]],
    sets: Mapping[str, Mapping[str, Any]],
    outside: Mapping[str, Sequence[int]] | None = None,
    spacing: float = 2.0,
    percentiles: tuple[float, float] = PERCENTILES,
    crop: Sequence[int] | None = None,
) -> CaseSet:
    """Read label maps, and images of the same name where a set has them.

    Args:
        folder: Holds the folders of the sets.
        names: `<set>/<file>`, those of other sets are left out; None for all files of the sets.
        structures: Values of the label maps by name; the first becomes label 1.
        sets: By folder: "images" and "labels", the folders in it (images null: there are none), "step", by which its
            label maps are reduced, whether any of the structures is "shown", whatever values its label maps have, and
            whether they are stored "mirrored", left and right exchanged against what their headers say.
        outside: Values of what is no structure, but has a name; they follow the structures.
        spacing: mm per voxel to which images and their labels are brought; label maps alone keep theirs.
        percentiles: Of each image, which become 0 and 1.
        crop: Size to which images and their labels are cropped or padded about their middle; None leaves them.

    Returns:
        Cases of subset `<set>`. All other values of a label map are numbered behind those with names, in their order. A
        case without an image has an empty one, and its label map is cut to what is not background.
    """
    groups = [*structures.values(), *(outside or {}).values()]
    cases: list[ImageCase] = []
    for name, given in sets.items():
        options = options_of(name, given, SET_KEYS)
        for path in label_maps(folder / name / options["labels"], name, names):
            stored, mm = read_oriented(path)
            stored = stored[..., ::-1] if options["mirrored"] else stored
            labels = numbered(stored.astype(np.int32), groups, shown=options["shown"])
            case = ImageCase(f"{name}/{path.name}", torch.empty(0), torch.from_numpy(labels), mm, name)
            if options["images"] is None:
                cases.append(_cut(case, options["step"]))
            else:
                image = read_oriented(folder / name / options["images"] / path.name)[0]
                shown = torch.from_numpy(normalize(image, path.name, percentiles))[None]
                size = tuple(round(n * step / spacing) for n, step in zip(stored.shape, mm, strict=True))
                case = reduced(replace(case, image=shown), size, len(structures))
                cases.append(_centered(case, crop))
    return CaseSet(cases)


def numbered(stored: np.ndarray, groups: Sequence[Sequence[int]], *, shown: bool) -> np.ndarray:
    """Return a label map with the values of `groups[n]` as n + 1 and all others, in their order, behind them.

    Args:
        stored: Whole numbers, 0 background.
        groups: Values.
        shown: Values of groups count as such; else all are others.
    """
    values = np.flatnonzero(np.bincount(stored.ravel()))
    table = np.zeros(values.max() + 1, np.uint8)
    for number, group in enumerate(groups if shown else (), start=1):
        table[[value for value in group if value < len(table)]] = number
    others = [value for value in values if value > 0 and table[value] == 0]
    table[others] = np.arange(len(others)) + len(groups) + 1
    return table[stored]


def _centered(case: ImageCase, crop: Sequence[int] | None) -> ImageCase:
    if crop is None:
        return replace(case, shares=None)
    image, labels = (centered(array.numpy(), tuple(crop)) for array in (case.image[0], case.label_map))
    return replace(case, image=torch.from_numpy(image)[None], labels=torch.from_numpy(labels), shares=None)


def _cut(case: ImageCase, step: int) -> ImageCase:
    labels = case.label_map[(slice(None, None, step),) * 3]
    spans = []
    for axis in range(3):
        found = labels.amax([other for other in range(3) if other != axis]).nonzero().flatten()
        spans.append(slice(int(found[0]), int(found[-1]) + 1))
    return replace(case, labels=labels[tuple(spans)].clone(), spacing=tuple(mm * step for mm in case.spacing))
