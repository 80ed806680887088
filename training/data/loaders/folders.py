"""Folders `images/` and `labels/` of files with the same names: NIfTI, PNG or whatever SimpleITK reads."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from DeepAttentionRegEngine.volume.intensity import PERCENTILES, normalize

from ..cases import CaseSet, ImageCase, centered, relabelled


def read_oriented(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """Read an image in closest-LPS axis order, as the engine's working grid has it.

    Returns:
        The array `(k, j, i)`, or `(j, i)` for a file of a single slice, and the spacing in mm in the same order.
    """
    image = sitk.ReadImage(str(path))
    if image.GetDimension() == 3:
        image = sitk.DICOMOrient(image, "LPS")
    array, spacing = sitk.GetArrayFromImage(image), image.GetSpacing()[::-1]
    if array.ndim == 3 and array.shape[0] == 1:
        return array[0], spacing[1:]
    return array, spacing


def load_folders(
    folder: Path,
    names: list[str] | None,
    *,
    crop: list[int] | None = None,
    values: list[list[int]] | None = None,
    images: str = "images",
    labels: str | None = "labels",
    percentiles: tuple[float, float] = PERCENTILES,
) -> CaseSet:
    """Read images and label maps of the same name at their stored spacing.

    Args:
        folder: Holds the folders of images and of labels.
        names: File names; None for all.
        crop: Cut or pad to this size around the centre, array axis order.
        values: Values of the label maps that make label 1, 2, ...; None for a mask of anything but 0.
        images: Folder of the images.
        labels: Folder of the label maps; None if there are none.
        percentiles: Of each image, which become 0 and 1.
    """
    if names is None:
        names = sorted(path.name for path in (folder / images).iterdir())
    cases = []
    for name in names:
        array, spacing = read_oriented(folder / images / name)
        image, label_map = normalize(array, name, percentiles), None
        if labels is not None:
            stored = read_oriented(folder / labels / name)[0]
            label_map = (stored != 0).astype(np.uint8) if values is None else relabelled(stored, values)
        if crop is not None:
            image = centered(image, tuple(crop))
            label_map = None if label_map is None else centered(label_map, tuple(crop))
        cases.append(
            ImageCase(
                name=name,
                image=torch.from_numpy(image)[None],
                labels=None if label_map is None else torch.from_numpy(label_map),
                spacing=spacing,
                subset=folder.name,
            )
        )
    return CaseSet(cases)
