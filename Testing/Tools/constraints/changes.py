"""Measure what of follow-up phantoms is found to have no counterpart, after a registration, against what was changed.

    python Testing/Tools/constraints/changes.py --phantoms 8

Every phantom is registered as it is, and with one change at a time painted into the fixed image: a new lesion in the
lung, a faint one in the liver, the tumor resected, a piece of the liver resected, liver or heart taking up contrast
agent. Prints a table of means over the phantoms.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "DeepAttentionReg"))

from DeepAttentionRegEngine import Settings, changes, register
from DeepAttentionRegEngine.maps.change import SURE
from DeepAttentionRegEngine.phantom import thorax
from DeepAttentionRegEngine.phantom.anatomy import LABEL_NAMES

FIRST_SEED = 700  # of phantoms on which nothing was chosen
VOXELS, SIZE_MM = (96, 80, 96), (3.5, 3.0, 3.5)
LUNG, HEART, LIVER, TUMOR = 2, 4, 5, 8
TISSUE_HU, LUNG_HU, FLUID_HU, FAINT_HU, NOISE_HU = 45.0, -810.0, 5.0, -45.0, 8.0
ENHANCED_HU = {LIVER: 60.0, HEART: 120.0}
EDGE_MM = 3.5  # over which a change fades
Painted = tuple[str, np.ndarray, np.ndarray]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--phantoms", type=int, default=8, help="number of phantoms (default: %(default)s)")
    add("--voxels", type=int, nargs=3, default=VOXELS, help="size of the phantoms (default: %(default)s)")
    add("--refinement-steps", type=int, default=40, help="as of a registration (default: %(default)s)")
    return parser.parse_args(arguments)


class FollowUp:
    """A phantom whose fixed image is changed."""

    def __init__(self, seed: int, options: argparse.Namespace) -> None:
        """Make the phantom of a seed."""
        size = tuple(options.voxels)
        spacing = tuple(step * usual / wanted for step, usual, wanted in zip(SIZE_MM, VOXELS, size, strict=True))
        self.pair = thorax.make_phantom(
            thorax.default_geometry(size, spacing), settings=thorax.PhantomSettings(seed=seed)
        )
        self.rng = np.random.default_rng(seed)
        self.settings = Settings(method="none", refinement_steps=options.refinement_steps, device="cpu")

    def changed(self) -> Iterator[Painted]:
        """Yield the name of a change, the fixed image (k, j, i) with it, and where it is."""
        fixed, labels = self.pair.fixed, self.pair.fixed_labels
        yield "none", fixed, np.zeros(fixed.shape, bool)
        share = self._ball(LUNG, (9.0, 16.0))
        yield "new lesion, lung", self._filled(share, TISSUE_HU), share > 0.5
        share = self._ball(LIVER, (10.0, 18.0))
        yield "new faint lesion, liver", (fixed + FAINT_HU * share).astype(np.float32), share > 0.5
        share = self._faded(self._depth(labels == TUMOR) + EDGE_MM)
        yield "tumor resected", self._filled(share, LUNG_HU), labels == TUMOR
        share = self._ball(LIVER, (20.0, 28.0)) * (labels == LIVER)
        yield "piece of liver resected", self._filled(share, FLUID_HU), share > 0.5
        for label, brighter in ENHANCED_HU.items():
            name = f"{LABEL_NAMES[label].lower()} enhanced"
            yield name, (fixed + brighter * (labels == label)).astype(np.float32), labels == label

    def _depth(self, mask: np.ndarray) -> np.ndarray:
        """Return how deep in a mask every voxel is, mm, negative outside."""
        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        image.SetSpacing(self.pair.fixed_geometry.spacing)
        return sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(image, True, False, True))

    def _ball(self, label: int, radii_mm: tuple[float, float]) -> np.ndarray:
        """Return the share of a ball within an organ, from 0 to 1 in every voxel."""
        depth, geometry = self._depth(self.pair.fixed_labels == label), self.pair.fixed_geometry
        center = self.rng.choice(np.argwhere(depth > min(14.0, 0.8 * float(depth.max()))))
        offsets = (np.indices(depth.shape).T - center).T[::-1] * np.reshape(geometry.spacing, (3, 1, 1, 1))
        return self._faded(self.rng.uniform(*radii_mm) - np.linalg.norm(offsets, axis=0))

    def _faded(self, depth_mm: np.ndarray) -> np.ndarray:
        return np.clip(0.5 + depth_mm / EDGE_MM, 0, 1)

    def _filled(self, share: np.ndarray, value_hu: float) -> np.ndarray:
        filling = value_hu + NOISE_HU * self.rng.standard_normal(share.shape)
        return (self.pair.fixed * (1 - share) + share * filling).astype(np.float32)

    def measure(self, fixed: np.ndarray, mask: np.ndarray) -> dict[str, float]:
        """Return what was changed, found and wrongly found, ml, and how many pieces have nothing of the change."""
        pair = self.pair
        registered = register((fixed, pair.fixed_geometry), (pair.moving, pair.moving_geometry), self.settings)
        found = changes(registered)
        if found.certainty is None:
            raise SystemExit(found.reason)
        sure, ml = found.certainty >= SURE, pair.fixed_geometry.voxel_volume / 1000
        pieces = sitk.GetArrayFromImage(sitk.ConnectedComponent(sitk.GetImageFromArray(sure.astype(np.uint8))))
        return {
            "changed": ml * float(mask.sum()),
            "share": float((sure & mask).sum() / mask.sum()) if mask.any() else np.nan,
            "false": ml * float((sure & ~mask).sum()),
            "missed": float(mask.any() and not (sure & mask).any()),
            "stray": float(len(set(np.unique(pieces)) - {0} - set(np.unique(pieces[mask])))),
        }


def table(rows: dict[str, list[dict[str, float]]]) -> Iterator[str]:
    """Yield the lines of a table of changes."""
    yield "| change | ml | share of it found, % | false, ml | not found at all | pieces found elsewhere |"
    yield "|---|---|---|---|---|---|"
    for name, results in rows.items():
        means = {key: float(np.mean([one[key] for one in results])) for key in ("changed", "share", "false")}
        sums = {key: int(sum(one[key] for one in results)) for key in ("missed", "stray")}
        share = "" if np.isnan(means["share"]) else f"{100 * means['share']:.0f}"
        missed = f"{sums['missed']} of {len(results)}" if share else ""
        yield f"| {name} | {means['changed']:.1f} | {share} | {means['false']:.2f} | {missed} | {sums['stray']} |"


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    options = parse(arguments)
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(FIRST_SEED, FIRST_SEED + options.phantoms):
        follow_up = FollowUp(seed, options)
        for name, fixed, mask in follow_up.changed():
            rows.setdefault(name, []).append(follow_up.measure(fixed, mask))
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
