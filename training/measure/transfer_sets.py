"""Test sets for weights that need no images of the anatomy: pairs as files, and how they are brought together."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import TypeVar

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter, zoom

from DeepAttentionRegEngine.phantom.thorax import PhantomSettings, default_geometry, make_phantom
from DeepAttentionRegEngine.protocol.contract import METHOD_NONE, RegisterJob, build
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.geometry import Geometry

from ..configs.reading import read_config
from ..data.batches import PAIR_SEED, PairSampler
from ..data.cases import data_folder, read_split
from ..data.drawing import Drawer, drawing_of, model
from ..data.loaders import load
from ..data.loaders.cine import SUNNYBROOK, load_cine
from .whole_jobs import Files, run_job, stored_files

PHANTOMS = 4
ABDOMENS = 10
DEEP = {"dice_deep": lambda label: label < 1000}  # FreeSurfer numbers the parts of the cortex from there on
T = TypeVar("T")


@dataclass(frozen=True)
class TestSet:
    """Pairs of one kind.

    Attributes:
        title: Data set in the tables of results.
        nd: 3, or 2 for single slices.
        pairs: Yields the pairs in an order whose beginning is a fair sample; takes a folder for files to be made.
        alignment: Of the engine's jobs, done once and given to all methods.
        similarity: Of the engine's jobs: "ncc" for one contrast, "mind" for two.
        parts: Which label values also have a mean Dice of their own, by the name of the figure.
    """

    __test__ = False  # pytest: this is no test

    title: str
    nd: int
    pairs: Callable[[Path], Iterator[Files]]
    alignment: str = "none"
    similarity: str = "ncc"
    parts: Mapping[str, Callable[[int], bool]] = field(default_factory=dict)


def aligned(pair: Files, alignment: str, folder: Path) -> Files:
    """Return a pair with everything of the moving image resampled onto the fixed grid through a linear alignment.

    Args:
        pair: Files by field of the engine's jobs, with label maps.
        alignment: Of the engine's jobs.
        folder: For the new files.
    """
    moved = {"moving": str(folder / "aligned.mha"), "moving_labels": str(folder / "aligned_labels.mha")}
    outputs = {"output_warped": moved["moving"], "output_warped_labels": moved["moving_labels"]}
    how = {"method": METHOD_NONE, "alignment": alignment, "device": "cpu", "refinement_steps": 0}
    to_moving = np.reshape(run_job(build(RegisterJob, {**pair, **how, **outputs}))["alignment"], (4, 4))
    found = {**pair, **moved}
    if "moving_points" in pair:
        points = images.read_points(pair["moving_points"]) - to_moving[:3, 3]
        found["moving_points"] = str(folder / "aligned_points.csv")
        np.savetxt(found["moving_points"], points @ np.linalg.inv(to_moving[:3, :3]).T, delimiter=",")
    return found


def brains(_: Path) -> Iterator[Files]:
    """Yield both directions of the pair of brains."""
    folder = data_folder("brain_pair")
    names = sorted(path.name for path in (folder / "images").iterdir())
    yield from (stored_files(folder, pair) for pair in permutations(names, 2))


def manual_brains(folder: Path, *, contrasts: int = 1) -> Iterator[Files]:
    """Yield all directed pairs of the brains with manual labels; of two contrasts, the moving image is drawn anew."""
    stored = data_folder("brain_validation")
    names = sorted(path.name for path in (stored / "images").iterdir())
    for seed, pair in enumerate(permutations(names, 2)):
        files = stored_files(stored, pair)
        if contrasts == 2:
            image, labels = (images.read_volume(files[name]) for name in ("moving", "moving_labels"))
            drawn = other_contrast(image.array, labels.array, np.random.default_rng(seed))
            files["moving"] = str(folder / "moving.mha")
            images.write_volume(files["moving"], drawn, image.geometry)
        yield files


def mice(_: Path) -> Iterator[Files]:
    """Yield all pairs of the mice that no weights were trained on."""
    names = [name.split("/")[1] for name in read_split("splits/general.json")["validation"] if "mouse_brain/" in name]
    yield from (stored_files(data_folder("mouse_brain"), pair) for pair in _shuffled(permutations(names, 2)))


def hippocampi(_: Path) -> Iterator[Files]:
    """Yield twenty pairs of validation cases."""
    names = read_split("splits/hippocampus.json")["validation"]
    pairs = _shuffled(permutations(names, 2))[:20]
    yield from (stored_files(data_folder("hippocampus"), pair) for pair in pairs)


def hearts(folder: Path) -> Iterator[Files]:
    """Yield forty pairs of end-diastole and end-systole, either of them fixed, with pixels of 1 mm.

    The size of the pixels is lost.
    """
    names = [name for name in read_split("splits/cine.json")["validation"] if name.startswith(SUNNYBROOK)]
    found = load_cine(data_folder(SUNNYBROOK).parent, names, labelled=True)
    for pair in _shuffled(PairSampler(found, "group").all())[:40]:
        arrays: dict[str, np.ndarray] = {}
        for name, case in zip(("fixed", "moving"), (found.cases[index] for index in pair), strict=True):
            arrays |= {name: case.image.numpy(), f"{name}_labels": case.label_map[None].numpy()}
        grid = Geometry.from_arrays(arrays["fixed"].shape[::-1], (1, 1, 1), (0, 0, 0), np.eye(3))
        yield _written(folder, arrays, grid)


def phantoms(folder: Path, *, flat: bool = False, contrasts: int = 1) -> Iterator[Files]:
    """Yield phantoms with landmarks, volumes or single slices, the moving image in a contrast of its own if of two."""
    grid = default_geometry(flat=flat)
    for seed in range(PHANTOMS):
        made = make_phantom(grid, settings=PhantomSettings(seed=seed))
        arrays = {name: getattr(made, name) for name in ("fixed", "moving", "fixed_labels", "moving_labels")}
        if contrasts == 2:
            arrays["moving"] = other_contrast(made.moving, made.moving_labels, np.random.default_rng(seed))
        files = _written(folder, arrays, grid)
        for name in ("fixed_points", "moving_points"):
            files[name] = str(folder / f"{name}.csv")
            np.savetxt(files[name], getattr(made, f"{name}_lps"), delimiter=",")
        yield files


def drawn_abdomens(folder: Path, *, contrasts: int = 1) -> Iterator[Files]:
    """Yield pairs of people that no weights have seen, drawn from label maps at 3 mm, each of a contrast or of two."""
    config = read_config("agf_abdomen")
    found = load(config.data, "validation")
    shown = [one for one in (model(case, config.data.labels) for case in found.cases) if one.shows]
    settings = drawing_of(config)
    grid = Geometry.from_arrays(settings.shapes[0][::-1], (settings.spacing,) * 3, (0, 0, 0), np.eye(3))
    for seed, pair in enumerate(_shuffled(permutations(shown, 2))[:ABDOMENS]):
        drawer = Drawer(config, shown, np.random.default_rng([PAIR_SEED, seed]))
        means = drawer.contrast()
        arrays: dict[str, np.ndarray] = {}
        for name, one in zip(("fixed", "moving"), pair, strict=True):
            drawn = drawer.portrait(one, grid.shape, means if contrasts == 1 else None)
            arrays |= {name: drawn["image"][0].numpy(), f"{name}_labels": drawn["labels"].numpy()}
        yield _written(folder, arrays, grid)


def brain_slices(folder: Path) -> Iterator[Files]:
    """Yield the middle coronal and the middle axial slice of the pair of brains after an affine alignment."""
    for number, pair in enumerate(brains(folder)):
        there = folder / f"volumes{number}"
        there.mkdir()
        volumes = {
            name: sitk.DICOMOrient(sitk.ReadImage(file), "LPS") for name, file in aligned(pair, "affine", there).items()
        }
        for axis in (1, 2):  # across the coronal, across the axial slice
            files = {name: str(folder / f"{name}.mha") for name in volumes}
            for name, volume in volumes.items():
                where = [slice(None)] * 3
                middle = volume.GetSize()[axis] // 2
                where[axis] = slice(middle, middle + 1)
                sitk.WriteImage(volume[tuple(where)], files[name])
            yield files


def other_contrast(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an image as another modality might show it: no function maps the old intensities to the new.

    Every structure gets a brightness of its own, the texture within it is inverted, and noise and a smooth shading are
    added.

    Args:
        image: `(k, j, i)`.
        labels: `(k, j, i)`; 0 is air, which stays dark.
        rng: Source of all that is random.

    Returns:
        float32 `(k, j, i)`, most of it from 0 to 1.
    """
    brightness, texture = np.zeros(image.shape), np.zeros(image.shape)
    for label in np.unique(labels[labels > 0]):
        inside = labels == label
        brightness[inside] = rng.uniform(0.2, 1.0)
        deviation = (image[inside] - image[inside].mean()) / max(image[inside].std(), 1e-6)
        texture[inside] = np.clip(deviation, -3, 3)
    knots = rng.standard_normal([min(4, n) for n in image.shape])
    shading = zoom(knots, [n / m for n, m in zip(image.shape, knots.shape, strict=True)], order=3)
    made = gaussian_filter(brightness, 0.5) - 0.06 * texture
    made = made * np.exp(0.15 * shading) + 0.02 * rng.standard_normal(image.shape)
    return made.astype(np.float32)


def _shuffled(pairs: Iterable[T]) -> list[T]:
    found = list(pairs)
    return [found[index] for index in np.random.default_rng(PAIR_SEED).permutation(len(found))]


def _written(folder: Path, arrays: dict[str, np.ndarray], grid: Geometry) -> Files:
    """Write arrays `(k, j, i)` on one grid to files of their names."""
    files = {name: str(folder / f"{name}.mha") for name in arrays}
    for name, array in arrays.items():
        images.write_volume(files[name], array, grid)
    return files


SETS: dict[str, TestSet] = {
    "brain": TestSet("Brain MR, 45 structures", 3, brains, "affine"),
    "brain-manual": TestSet("Brain MR, manual labels", 3, manual_brains, "affine", parts=DEEP),
    "brain-manual-contrasts": TestSet(
        "Brain MR, manual labels, two contrasts", 3, partial(manual_brains, contrasts=2), "affine", "mind", DEEP
    ),
    "abdomen-drawn": TestSet("Drawn abdomens", 3, drawn_abdomens, "affine"),
    "abdomen-drawn-contrasts": TestSet(
        "Drawn abdomens, two contrasts", 3, partial(drawn_abdomens, contrasts=2), "affine", "mind"
    ),
    "mouse": TestSet("Mouse brain MR, 37 structures", 3, mice, "mass"),
    "hippocampus": TestSet("Hippocampus MR", 3, hippocampi, "center"),
    "phantom": TestSet("Thorax phantom", 3, phantoms),
    "phantom-contrasts": TestSet("Thorax phantom, two contrasts", 3, partial(phantoms, contrasts=2), similarity="mind"),
    "heart": TestSet("Cine MR of the heart (Sunnybrook, pixels as 1 mm)", 2, hearts),
    "phantom-slices": TestSet("Thorax phantom, slices", 2, partial(phantoms, flat=True)),
    "phantom-slices-contrasts": TestSet(
        "Thorax phantom, slices of two contrasts", 2, partial(phantoms, flat=True, contrasts=2), similarity="mind"
    ),
    "brain-slices": TestSet("Brain MR, slices", 2, brain_slices),
}
