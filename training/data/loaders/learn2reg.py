"""Data sets with a `*_dataset.json` or `dataset.json` as the Learn2Reg challenges give them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from DeepAttentionRegEngine.volume.intensity import PERCENTILES, normalize

from ..cases import CaseSet, ImageCase, centered, relabelled
from .folders import read_oriented


@dataclass(frozen=True)
class ReadingOptions:
    """How files are read; the arguments of `load_learn2reg`."""

    crop: list[int] | None
    values: list[list[int]] | None
    window: list[float] | None
    percentiles: tuple[float, float]


def load_learn2reg(
    folder: Path,
    names: list[str] | None,
    *,
    description: str = "dataset.json",
    part: str = "training",
    crop: list[int] | None = None,
    values: list[list[int]] | None = None,
    window: list[float] | None = None,
    percentiles: tuple[float, float] = PERCENTILES,
) -> CaseSet:
    """Read the cases of one list of the description, and the pairs that it names.

    Entries are either images (`{"image": ..., "label": ..., "mask": ...}`) or pairs (`{"fixed": ..., "moving": ...}`).
    A label map that an entry does not name is looked for in `labelsTr` (or `labelsTs`), landmarks as `*.csv` of voxels
    in `keypointsTr` or `landmarksTr`.

    Args:
        folder: Holds the description.
        names: Keep only the images of these file names; None for all.
        description: File.
        part: List in it: "training", "registration_val", ...
        crop: Cut or pad to this size around the centre, array axis order.
        values: Values of the label maps that make label 1, 2, ...; None for a mask of anything but 0.
        window: Lowest and highest intensity, such as Hounsfield units, which become 0 and 1; None for percentiles.
        percentiles: Of each image, which become 0 and 1.
    """
    told = json.loads((folder / description).read_text(encoding="utf-8"))
    paths, pairs = _entries(told[part])
    if names is not None:
        paths = {path: labels for path, labels in paths.items() if Path(path).name in names}
        pairs = [pair for pair in pairs if set(pair) <= set(paths)]
    cases = [
        _case(folder, path, labels, ReadingOptions(crop, values, window, percentiles)) for path, labels in paths.items()
    ]
    place = {path: index for index, path in enumerate(paths)}
    return CaseSet(cases, [(place[fixed], place[moving]) for fixed, moving in pairs] or None)


def _entries(listed: list[Any]) -> tuple[dict[str, str | None], list[tuple[str, str]]]:
    """Return the label file by image file, and pairs of image files."""
    paths: dict[str, str | None] = {}
    pairs = []
    for entry in listed:
        if isinstance(entry, dict) and "fixed" in entry:
            pairs.append((entry["fixed"], entry["moving"]))
            paths |= {entry[role]: paths.get(entry[role]) for role in ("fixed", "moving")}
        elif isinstance(entry, dict):
            paths[entry["image"]] = entry.get("label")
        else:
            paths[entry] = None
    return paths, pairs


def _beside(folder: Path, image: str, kinds: tuple[str, ...], suffix: str = ".nii.gz") -> Path | None:
    """Return the file of another kind that belongs to an image, such as labelsTr/x.nii.gz to imagesTr/x.nii.gz."""
    path = folder / image
    for kind in kinds:
        name = path.name.removesuffix(".nii.gz") + suffix
        found = path.parent.with_name(path.parent.name.replace("images", kind)) / name
        if kind != path.parent.name and found.exists():
            return found
    return None


def _case(folder: Path, image: str, labels: str | None, reading: ReadingOptions) -> ImageCase:
    crop, values = reading.crop, reading.values
    array, spacing = read_oriented(folder / image)
    label_path = folder / labels if labels else _beside(folder, image, ("labels",))
    label_map = None
    if label_path is not None:
        stored = read_oriented(label_path)[0]
        label_map = (stored != 0).astype(np.uint8) if values is None else relabelled(stored, values)
    points_path = _beside(folder, image, ("landmarks", "keypoints"), ".csv")
    points = None if points_path is None else read_points(points_path, folder / image)
    if crop is not None:
        if points is not None:
            points -= np.array([int((old - new) / 2) for old, new in zip(array.shape, crop, strict=True)], np.float32)
        array = centered(array, tuple(crop))
        label_map = None if label_map is None else centered(label_map, tuple(crop))
    return ImageCase(
        name=Path(image).name,
        image=torch.from_numpy(windowed(array, reading, image))[None],
        labels=None if label_map is None else torch.from_numpy(label_map),
        spacing=spacing,
        subset=folder.name,
        group=Path(image).name.removesuffix(".nii.gz").rpartition("_")[0],
        points=None if points is None else torch.from_numpy(points),
    )


def windowed(array: np.ndarray, reading: ReadingOptions, name: str) -> np.ndarray:
    """Scale intensities to [0, 1]."""
    if reading.window is None:
        return normalize(array, name, reading.percentiles)
    low, high = reading.window
    return np.clip((array.astype(np.float32) - low) / (high - low), 0, 1)


def read_points(path: Path, image: Path) -> np.ndarray:
    """Read landmarks, voxels x, y, z of the stored image, as `(N, 3)` voxels of `read_oriented`, array axis order."""
    stored = sitk.ReadImage(str(image))
    oriented = sitk.DICOMOrient(stored, "LPS")
    rows = np.loadtxt(path, delimiter=",", dtype=float, ndmin=2)
    places = [stored.TransformContinuousIndexToPhysicalPoint(row[:3].tolist()) for row in rows]
    found = [oriented.TransformPhysicalPointToContinuousIndex(place) for place in places]
    return np.array(found, np.float32)[:, ::-1].copy()
