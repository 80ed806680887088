"""Breathing thorax phantoms of the engine, drawn with seeds: pairs with labels and landmarks that need no download."""

from pathlib import Path

import numpy as np
import torch

from DeepAttentionRegEngine.phantom.thorax import PhantomSettings, default_geometry, make_phantom
from DeepAttentionRegEngine.volume.intensity import PERCENTILES, normalize

from ..cases import CaseSet, ImageCase

SIZE, SPACING = (48, 40, 48), (7.0, 6.0, 7.0)  # along i, j, k: the demo's field of view at half its resolution
SHALLOWEST, DEEPEST = 0.03, 0.1  # amplitude of the breathing, as `PhantomSettings` counts it


def load_phantoms(
    _folder: Path | None,
    _names: list[str] | None,
    *,
    first: int,
    count: int,
    finer: int = 1,
    percentiles: tuple[float, float] = PERCENTILES,
) -> CaseSet:
    """Make phantoms, each a group of its inspiration and its expiration.

    Args:
        first: Seed of the first phantom; the next ones follow. Training and validation must not overlap.
        count: Number of phantoms.
        finer: How many times smaller voxels are.
        percentiles: Of each image, which become 0 and 1.
    """
    i, j, k = (n * finer for n in SIZE)
    x, y, z = (mm / finer for mm in SPACING)
    grid = default_geometry((i, j, k), (x, y, z))
    cases = []
    for seed in range(first, first + count):
        amplitude = float(np.random.default_rng(seed).uniform(SHALLOWEST, DEEPEST))
        made = make_phantom(grid, settings=PhantomSettings(breathing_amplitude=amplitude, seed=seed))
        for state in ("fixed", "moving"):
            name = f"phantom {seed}, {state}"
            points = grid.lps_to_index(getattr(made, f"{state}_points_lps"))
            cases.append(
                ImageCase(
                    name=name,
                    image=torch.from_numpy(normalize(getattr(made, state), name, percentiles))[None],
                    labels=torch.from_numpy(getattr(made, f"{state}_labels")),
                    spacing=(z, y, x),
                    subset="phantom",
                    group=str(seed),
                    points=torch.from_numpy(points[:, ::-1].copy()).float(),
                )
            )
    return CaseSet(cases)
