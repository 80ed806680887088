"""Small synthetic data sets and configurations that the tests of training/ share."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

EDGE = 32
ACREGNET = {"architecture": "acregnet", "network": {"nd": 2, "widths": "tiny", "norm": "batch"}}
NETWORK = {"nd": 2, "widths": "tiny", "norm": "batch", "segmenter_width": 2}


def need(*packages: str) -> None:
    """Skip the tests of the calling file where a package of the extra "train" is missing."""
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed (extra 'train')")


def lungs(rng: np.random.Generator, edge: int = EDGE) -> tuple[np.ndarray, np.ndarray]:
    """Return a random image of two dark ellipses in uint8, and their labels 1 and 2."""
    y, x = np.indices((edge, edge)) / edge
    labels = np.zeros((edge, edge), np.uint8)
    for label, center in ((1, 0.3), (2, 0.7)):
        cy, cx = rng.normal((0.5, center), 0.03)
        ry, rx = rng.normal((0.3, 0.14), 0.02)
        labels[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = label
    image = 170 - 90 * (labels > 0) + 30 * np.sin(9 * x) * np.cos(7 * y) + rng.normal(0, 3, labels.shape)
    return image.clip(0, 255).astype(np.uint8), labels


def write(path: Path, array: np.ndarray, spacing: tuple[float, ...] | None = None) -> None:
    """Write an array as an image file, its folder too; three numbers along the last axis are a colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array, isVector=array.shape[-1] == 3)
    if spacing is not None:
        image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))


def write_chest(data: Path, count: int = 6) -> None:
    """Write chest X-rays in the layout of AC-RegNet, files 0.png, 1.png, ... of JSRT and Montgomery."""
    rng = np.random.default_rng(0)
    for part in ("jsrt", "montgomery"):
        for number in range(count):
            image, labels = lungs(rng)
            labels = np.where(labels == 0, 3, labels) if part == "jsrt" else (labels > 0) * np.uint8(255)
            write(data / "chest_xray" / part / "images_64" / f"{number}.png", image)
            write(data / "chest_xray" / part / "masks_64" / f"{number}.png", labels.astype(np.uint8))


def write_slices(folder: Path, count: int) -> dict[str, Any]:
    """Write single slices with labels 1 and 2 in folders, and their split; return the configuration's "data"."""
    rng = np.random.default_rng(0)
    names = [f"{number}.nii.gz" for number in range(count)]
    for name in names:
        for part, array in zip(("images", "labels"), lungs(rng), strict=True):
            write(folder / "slices" / part / name, array[None])
    (folder / "slices.json").write_text(json.dumps({"train": names, "validation": names}))
    return {"loader": "folders", "folder": "slices", "split": str(folder / "slices.json"), "labels": 2}


def write_bodies(data: Path) -> dict[str, Any]:
    """Write label maps of bodies with a left and a right organ, of rocks without, and one body's image.

    Values of the body are 3 (left organ), 7 (right), 9 (skin); LPS, so that the left is at the end of the last axis.

    Returns:
        A configuration's "data".
    """
    labels = np.zeros((24, 20, 22), np.int16)
    labels[2:22, 2:18, 1:21] = 9
    labels[6:18, 6:14, 12:19] = 3
    labels[6:18, 6:14, 4:9] = 7
    for number in range(2):
        write(data / "bodies" / f"{number}.nii.gz", np.roll(labels, number, 0), (2.0, 2.0, 2.0))
    write(data / "rocks" / "0.nrrd", np.where(labels > 7, 0, labels), (2.0, 2.0, 2.0))
    write(data / "seen" / "labels" / "0.nii.gz", labels.repeat(2, 0), (2.0, 2.0, 1.0))
    write(data / "seen" / "images" / "0.nii.gz", labels.repeat(2, 0).astype(np.float32), (2.0, 2.0, 1.0))
    sets: dict[str, Any] = {"bodies": {}, "rocks": {"shown": False}}
    return {
        "loader": "structures",
        "folder": ".",
        "labels": 2,
        "options": {"structures": {"left organ": [3], "right organ": [7]}, "outside": {"skin": [9]}, "sets": sets},
        "validation_options": {"sets": {**sets, "seen": {"images": "images", "labels": "labels"}}},
    }


def body_config(folder: Path, **drawing: Any) -> Path:
    """Write bodies and the configuration of a tiny segmenter of their organs; return the latter's path.

    Args:
        folder: Where to, also of the data.
        drawing: Keys of the drawing.
    """
    return chest_config(
        folder,
        data=write_bodies(folder),
        task="multiclass",
        network={"nd": 3, "widths": [4, 4, 4, 4, 4], "norm": "instance", "structures": 2, "exclusive": True},
        losses={"cross_entropy": 1.0, "soft_dice": 1.0},
        architecture=None,
        drawing={"shapes": [[24, 20, 22]], "validation": 2, **drawing},
    )


def chest_config(folder: Path, **changes: Any) -> Path:
    """Write a split of four and two cases, and the configuration of a tiny AGF on it; return the latter's path.

    Args:
        folder: Where to.
        changes: Top-level keys.
    """
    split = {"train": [f"jsrt/{n}.png" for n in range(4)], "validation": [f"jsrt/{n}.png" for n in (4, 5)]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "split.json").write_text(json.dumps(split))
    config: dict[str, Any] = {
        "title": "Tiny AGF",
        "group": "Tests",
        "task": "registration",
        "data": {
            "loader": "chest_xray",
            "folder": "chest_xray",
            "split": str(folder / "split.json"),
            "labels": 1,
            "pairing": "group",
            "options": {"sets": ["jsrt"], "resolution": 64},
        },
        "architecture": "agf",
        "network": NETWORK,
        "losses": {"global_ncc": 1.0, "logit_cross_entropy": 1.0, "total_variation": 1.0},
        "run": {"steps": 4, "batch": 2, "validate_every": 2, "log_every": 1, "save_every": 1},
        "validation": {"pairs": 2, "batch": 2},
    }
    path = folder / f"{changes.pop('name', 'tiny')}.json"
    path.write_text(json.dumps({**config, **changes}))
    return path


def untrained(config: Path, seed: int = 0) -> dict[str, Any]:
    """Return what a run of a configuration would have written before its first step."""
    from training.configs.reading import read_config
    from training.objectives.making import make_task

    torch.manual_seed(seed)
    task = make_task(read_config(config), None)
    settings = json.loads(config.read_text())
    return {"config": {"seed": seed, "network": settings["network"]}, "average": task.network.state_dict(), "step": 1}


def same_tensors(first: Any, second: Any) -> bool:
    """Tell whether two nested structures hold bit-equal tensors and equal values."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_tensors(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same_tensors, first, second))
    return bool(first == second)
