"""Chest X-rays as Mansilla et al. preprocessed them for AC-RegNet."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from DeepAttentionRegEngine.volume.intensity import PERCENTILES, normalize

from ..cases import CaseSet, ImageCase, relabelled

# Both lungs; the heart, which only JSRT has, is dropped as in He, He, Cao 2022.
LUNGS = {"jsrt": [1, 2], "montgomery": [255], "shenzhen": [255]}
# mm per pixel at 256 pixels, from the authors' code. Shenzhen's is nominal: 1 mm per pixel of the original file.
SPACING_256 = {"jsrt": 358.4 / 256, "montgomery": 428.05 / 256, "shenzhen": 3000 / 256}


def load_chest_xray(
    folder: Path,
    names: list[str] | None,
    *,
    sets: list[str],
    resolution: int = 256,
    percentiles: tuple[float, float] = PERCENTILES,
) -> CaseSet:
    """Read `<set>/images_<resolution>/*.png` and `<set>/masks_<resolution>/*.png`, one label: lungs.

    Args:
        folder: Holds a folder per set.
        names: `<set>/<file>`, of any sets; None for all files.
        sets: Which sets to take: "jsrt", "montgomery", "shenzhen".
        resolution: 64 or 256, pixels along each edge.
        percentiles: Of each image, which become 0 and 1.
    """
    if names is None:
        names = [
            f"{part}/{path.name}"
            for part in sets
            for path in sorted((folder / part / f"images_{resolution}").glob("*"))
        ]
    cases = []
    for name in names:
        part, file = name.split("/")
        if part not in sets:
            continue
        image, labels = (_read(folder / part / f"{kind}_{resolution}" / file) for kind in ("images", "masks"))
        cases.append(
            ImageCase(
                name=name,
                image=torch.from_numpy(normalize(image, name, percentiles))[None],
                labels=torch.from_numpy(relabelled(labels, [LUNGS[part]])),
                spacing=(SPACING_256[part] * 256 / resolution,) * 2,
                subset=part,
                group=part,
            )
        )
    return CaseSet(cases)


def _read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
