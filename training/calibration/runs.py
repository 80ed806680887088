"""Registers pairs whose motion is known, and keeps for a sample of voxels the clues and the true error."""

from dataclasses import dataclass

import numpy as np

from DeepAttentionRegEngine.deform.tensors import to_array
from DeepAttentionRegEngine.evidence.clues import Clues, gather
from DeepAttentionRegEngine.evidence.expected_error import LIMIT
from DeepAttentionRegEngine.evidence.mirrored import mirrored
from DeepAttentionRegEngine.protocol.contract import METHOD_NONE
from DeepAttentionRegEngine.protocol.settings import Settings
from DeepAttentionRegEngine.registration.preprocess import Source, on_grid
from DeepAttentionRegEngine.registration.registered import Registered
from DeepAttentionRegEngine.registration.registrar import Registrar

from ..data import motions
from .pairs import DRAWN, FAULTS, HELD_OUT, KnownPair, Recipe, draw

SAMPLED = 3000  # voxels of each run
FAULTY = 0.5  # share of runs with which something is wrong
METHODS = {METHOD_NONE: 0.5, "rman": 0.3, "adregnet": 0.2}
QUALITIES = ("fast", "balanced", "balanced", "best")
FEW_STEPS = 2


@dataclass(frozen=True)
class Plan:
    """A pair and how it is registered."""

    recipe: Recipe
    method: str
    quality: str

    @property
    def settings(self) -> Settings:
        """How it is registered; no alignment puts right what was put wrong."""
        steps = FEW_STEPS if self.recipe.fault == "too few steps" else None
        method = METHOD_NONE if self.recipe.fault == "too few steps" else self.method
        return Settings(method=method, quality=self.quality, alignment="none", refinement_steps=steps, device="cpu")


def plan(seed: int, nd: int, *, held_out: bool) -> Plan:
    """Return what a seed stands for, of a family that is held out or teaches."""
    rng = np.random.default_rng([seed, nd, 77])
    family = str(rng.choice(HELD_OUT if held_out else DRAWN))
    fault = str(rng.choice(list(FAULTS))) if rng.random() < FAULTY else "none"
    method = str(rng.choice(list(METHODS), p=list(METHODS.values())))
    recipe = Recipe(family, str(rng.choice(motions.KINDS)), fault, nd, seed)
    return Plan(recipe, method, str(rng.choice(QUALITIES)))


def measure(one: Plan) -> dict[str, np.ndarray]:
    """Register, and return what is known of a sample of voxels.

    Returns:
        "values" `(N, C)` and "means" `(M,)` of the clues, "mirrored" `(2,)`, the signs of whether images fit better so,
        "error" `(N,)` in voxels of the clues, NaN where nothing corresponds, "extent", the longest side of the field of
        view in such voxels, and "off", the share of what is seen that is off by more than the limit, NaN if nothing
        corresponds.
    """
    pair = draw(one.recipe)
    sides = (pair.fixed, pair.geometry), (pair.moving, pair.moving_geometry)
    registered = Registrar(one.settings).register(*sides)
    clues = gather(registered.search.pair, registered.search.displacement)
    extent = max(pair.geometry.extent_mm) / clues.voxel_mm
    error = true_error(pair, registered, clues).ravel()
    seen = to_array(clues.seen).ravel()
    known = seen & np.isfinite(error)
    places = np.flatnonzero(known if known.any() else seen)
    chosen = np.random.default_rng(one.recipe.seed).permutation(places)[:SAMPLED]
    return {
        "values": to_array(clues.values.flatten(1).T)[chosen].astype(np.float32),
        "means": to_array(clues.means),
        "mirrored": to_array(mirrored(registered.search.pair).signs),
        "error": error[chosen].astype(np.float32),
        "extent": np.array(extent, np.float32),
        "off": np.array(np.mean(error[known] > LIMIT * extent) if known.any() else np.nan, np.float32),
    }


def true_error(pair: KnownPair, registered: Registered, clues: Clues) -> np.ndarray:
    """Return the true error `(*spatial)` on the grid of the clues, in its voxels; NaN where nothing corresponds."""
    if pair.truth is None:
        return np.full(clues.seen.shape, np.nan)
    error = np.linalg.norm(registered.displacement_lps_mm - pair.truth, axis=-1).astype(np.float32)
    if pair.lost is not None:
        error[pair.lost] = np.nan
    return on_grid(Source(error, pair.geometry), clues.geometry).reshape(clues.seen.shape) / clues.voxel_mm
