"""The pairs that all methods register: real ones where they are at hand, and phantoms."""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from DeepAttentionRegEngine.phantom.thorax import PhantomSettings, default_geometry, make_phantom
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.geometry import Geometry
from training.measure.transfer_sets import SETS as TRANSFER_SETS
from training.measure.transfer_sets import aligned

Files = dict[str, str]


@dataclass(frozen=True)
class PairSet:
    """Pairs of one kind.

    Attributes:
        alignment: Of the engine's jobs, done once for all methods.
        pairs: Yields files by field of the engine's jobs; takes a folder for files to be made.
    """

    alignment: str
    pairs: partial


def phantoms(folder: Path, size: tuple[int, int, int], edge: float | None) -> Iterator[Files]:
    """Yield phantoms of a thorax, without end, by seed.

    Args:
        folder: For the files.
        size: Voxels along i, j, k; one along k makes single slices.
        edge: Of the voxels in mm; None takes the field of view of the demonstration.
    """
    usual = default_geometry(flat=size[2] == 1)
    spacing = tuple(edge or mm * n / m for mm, n, m in zip(usual.spacing, usual.size, size, strict=True))
    grid, seed = default_geometry(size, spacing, flat=size[2] == 1), 0
    while True:
        yield write_phantom(folder, grid, seed)
        seed += 1


def write_phantom(folder: Path, grid: Geometry, seed: int) -> Files:
    """Write a phantom with labels and landmarks, whose moving image is aligned already."""
    made, files = make_phantom(grid, settings=PhantomSettings(seed=seed)), {}
    for name in ("fixed", "moving", "fixed_labels", "moving_labels"):
        files[name] = str(folder / f"{name}.mha")
        images.write_volume(files[name], getattr(made, name), grid)
    for name in ("fixed_points", "moving_points"):
        files[name] = str(folder / f"{name}.csv")
        np.savetxt(files[name], getattr(made, f"{name}_lps"), delimiter=",")
    return files


def find(name: str) -> PairSet:
    """Return a set by name: one of training's, or "phantom-IxJxK" or "phantom-IxJxK@MM" of voxels of so many mm."""
    if name.startswith("phantom-"):
        size, _, edge = name.removeprefix("phantom-").partition("@")
        i, j, k = (int(n) for n in size.split("x"))
        return PairSet("none", partial(phantoms, size=(i, j, k), edge=float(edge) if edge else None))
    known = TRANSFER_SETS[name]
    return PairSet(known.alignment, partial(known.pairs))


def make(name: str, count: int, folder: Path) -> list[Files]:
    """Write the first pairs of a set, aligned, each to a folder of its own, and return their files with a "hash".

    Raises:
        FileNotFoundError: If its images are not at hand; says what to do.
    """
    found, made = find(name), []
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, pair in enumerate(islice(found.pairs(folder), count)):
        there = folder / str(number)
        there.mkdir()
        files = pair if found.alignment == "none" else aligned(pair, found.alignment, there)
        for key, file in files.items():
            if Path(file).parent == folder:  # the next pair has files of the same names
                files[key] = shutil.move(file, there)
        made.append({**files, "hash": hashlib.sha256(Path(files["moving"]).read_bytes()).hexdigest()})
    return made
