"""Whether bounds hold on real images of two people: how far boundaries of manual labels end up from each other.

The distance of a place on the boundary of a fixed label to that of the warped label is a lower bound of the true error
there: it does not see what is off along the boundary.
"""

from collections.abc import Iterator
from itertools import permutations

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import binary_erosion, distance_transform_edt

from DeepAttentionRegEngine import Registrar, Settings
from DeepAttentionRegEngine.evidence.expected_error import expected_error
from DeepAttentionRegEngine.volume.fields import resize
from DeepAttentionRegEngine.volume.images import read_volume

from ..data.cases import data_folder
from ..measure.whole_jobs import stored_files
from .tables import rank_correlation

LEAST = 300  # voxels of a label
AROUND = 12  # voxels in which the warped label is looked for


def table(pairs: int) -> str:
    """Return what holds on some ordered pairs of brains, each first in turn."""
    folder = data_folder("brain_validation")
    names = sorted(path.name for path in (folder / "images").iterdir())
    ordered = sorted(
        permutations(names, 2), key=lambda pair: (names.index(pair[1]) - names.index(pair[0])) % len(names)
    )
    lines = [
        "## Label boundaries of two people",
        "",
        "T1 brains with manual labels that played no part (`brain_validation`), aligned affinely, refinement alone.",
        "Places on the boundaries of fixed labels: share whose distance to the boundary of the warped label lies",
        "within the 95 % bound, and the rank correlation of both. The distance is a lower bound of the error.",
        "",
        "| pair | verdict | places | within the bound | rank correlation | median bound, mm | median distance, mm |",
        "|---|---|---|---|---|---|---|",
        *(_row(stored_files(folder, pair), pair) for pair in ordered[:pairs]),
        "",
    ]
    return "\n".join(lines)


def _row(files: dict[str, str], pair: tuple[str, str]) -> str:
    settings = Settings(method="none", alignment="affine", device="cpu")
    registered = Registrar(settings).register(files["fixed"], files["moving"])
    found = expected_error(registered)
    name = " from ".join(file.removesuffix(".nii.gz") for file in pair)
    if found.within_mm is None or found.geometry is None:
        return f"| {name} | {found.told.get('verdict', 'not known')} | | | | | |"
    bound = resize(found.within_mm[..., None], found.geometry, registered.geometry)[..., 0]
    fixed, moving = (read_volume(files[f"{side}_labels"]) for side in ("fixed", "moving"))
    warped = registered.warp((moving.array, moving.geometry), nearest=True)
    there = sitk.GetArrayFromImage(warped)
    spacing = registered.geometry.spacing[::-1]
    parts = list(_distances(fixed.array, there, bound, spacing))
    distance, within = (np.concatenate(side) for side in zip(*parts, strict=True))
    return (
        f"| {name} | {found.told['verdict']} | {len(distance)} | {100 * np.mean(distance <= within):.1f} % | "
        f"{rank_correlation(within, distance):.2f} | {np.median(within):.2f} | {np.median(distance):.2f} |"
    )


def _distances(
    fixed: np.ndarray, warped: np.ndarray, bound: np.ndarray, spacing: tuple[float, ...]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield distances and bounds at the boundary of every label that both have."""
    for label in np.unique(fixed[fixed > 0]):
        here = fixed == label
        if here.sum() < LEAST or (warped == label).sum() < LEAST:
            continue
        ends = [(np.flatnonzero(here.any(other))[[0, -1]]) for other in ((1, 2), (0, 2), (0, 1))]
        box = tuple(slice(max(0, low - AROUND), high + AROUND + 1) for low, high in ends)
        goal = warped[box] == label
        if not goal.any():
            continue
        away = distance_transform_edt(~_edge(goal), sampling=spacing)
        edge = _edge(here[box])
        yield away[edge], bound[box][edge]


def _edge(mask: np.ndarray) -> np.ndarray:
    return mask & ~binary_erosion(mask)
