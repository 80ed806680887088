"""Label maps of several data sets, some with images, to draw training pairs from."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from DeepAttentionRegEngine.deform.warp import shrink
from DeepAttentionRegEngine.volume.intensity import PERCENTILES, normalize

from ...configs.schema import ConfigError
from ..cases import CaseSet, ImageCase, centered
from .folders import read_oriented
from .phantoms import load_phantoms

SUFFIXES = (".nii.gz", ".nrrd")
SET_KEYS = {"images": "images", "labels": "labels", "step": 1, "alike": True}


def load_anatomies(
    folder: Path,
    names: list[str] | None,
    *,
    sets: Mapping[str, Mapping[str, Any]],
    phantoms: Mapping[str, Any] | None = None,
    crop: list[int] | None = None,
    plane: int | None = None,
    percentiles: tuple[float, float] = PERCENTILES,
) -> CaseSet:
    """Read label maps, and images of the same name where a set has them.

    Args:
        folder: Holds the folders of the sets.
        names: `<set>/<file>`, those of other sets are left out; None for all files of the sets.
        sets: By folder: "images" and "labels", the folders in it (images null: there are none), "step", by which its
            volumes are reduced, and whether all show "alike" anatomy with the same values.
        phantoms: Arguments of `load_phantoms`, whose label maps are added as those of one more set.
        crop: Cut or pad to this size around the centre of the labels, array axis order.
        plane: Keep the slice through the centre of the labels across this axis alone.
        percentiles: Of each image, which become 0 and 1.

    Returns:
        Cases of subset and group `<set>`, of sets that are not alike `<set>/<file>`; labels are numbered in the order
        of their values within each set. A case without an image has an empty one.
    """
    cases: list[ImageCase] = []
    for name, given in sets.items():
        options = options_of(name, given, SET_KEYS)
        chosen = label_maps(folder / name / options["labels"], name, names)
        maps = [read_oriented(path) for path in chosen]
        values = np.unique(np.concatenate([np.unique(labels) for labels, _ in maps]))
        for path, (stored, spacing) in zip(chosen, maps, strict=True):
            step, subset = options["step"], name if options["alike"] else f"{name}/{path.name}"
            labels = np.searchsorted(values, stored).astype(np.uint8)[(slice(None, None, step),) * 3]
            image = np.empty(0, np.float32)
            if options["images"] is not None:
                image = _reduced(read_oriented(folder / name / options["images"] / path.name)[0], labels.shape)
                image = _cut(normalize(image, path.name, percentiles), labels, crop, plane)
            cases.append(
                ImageCase(
                    name=f"{name}/{path.name}",
                    image=torch.from_numpy(image)[None] if image.size else torch.empty(0),
                    labels=torch.from_numpy(np.ascontiguousarray(_cut(labels, labels, crop, plane))),
                    spacing=tuple(mm * step for axis, mm in enumerate(spacing) if axis != plane),
                    subset=subset,
                    group=subset,
                )
            )
    return CaseSet(cases + ([] if phantoms is None else _phantom_cases(phantoms)))


def _phantom_cases(arguments: Mapping[str, Any]) -> list[ImageCase]:
    """Return the label maps of phantoms as those of one more set."""
    made = load_phantoms(None, None, **arguments).cases
    return [replace(case, image=torch.empty(0), group=case.subset, points=None) for case in made]


def options_of(name: str, given: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a set, the usual ones where none is given.

    Raises:
        ConfigError: If one is unknown.
    """
    unknown = set(given) - set(usual)
    if unknown:
        msg = f"sets: {name}: unknown {', '.join(sorted(unknown))} (known: {', '.join(usual)})"
        raise ConfigError(msg)
    return {**usual, **given}


def label_maps(folder: Path, name: str, names: list[str] | None) -> list[Path]:
    """Return the files of a set in a folder, of those that `names` lists as `<set>/<file>`.

    Raises:
        FileNotFoundError: If it lists none of them.
    """
    files = sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES))
    chosen = [path for path in files if names is None or f"{name}/{path.name}" in names]
    if not chosen:
        msg = f"no label map of {name} in {folder} is of this part of the split"
        raise FileNotFoundError(msg)
    return chosen


def _reduced(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    return shrink(torch.from_numpy(image.astype(np.float32))[None, None], size)[0, 0].numpy()


def _cut(array: np.ndarray, labels: np.ndarray, crop: list[int] | None, plane: int | None) -> np.ndarray:
    """Return what is kept of an image, or of the label map itself."""
    center = np.argwhere(labels).mean(0).round().astype(int)
    if plane is not None:
        array = np.take(array, center[plane], plane)
        center = np.delete(center, plane)
    if crop is None:
        return array
    # What lies further from the centre on one side goes first, so that the centre stays in the middle.
    for axis, (middle, length) in enumerate(zip(center, array.shape, strict=True)):
        reach = min(middle, length - 1 - middle)
        array = np.take(array, np.arange(middle - reach, middle + reach + 1), axis)
    return centered(array, tuple(crop))
