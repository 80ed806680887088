"""Measure what constraints do to the error of landmarks that play no part, on phantoms whose deformation is known.

    python Testing/Tools/constraints/phantoms.py --phantoms 4

Of the landmarks of each phantom a random half may guide, and the other half measures. Some moving volumes were
put out of reach along their longest side ("far": 95 mm), and no alignment looks for it. In another phantom of each
seed organs slide along a chest wall at rest. Prints a table of means, and in brackets that of landmarks in the lungs.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "DeepAttentionReg"))

from DeepAttentionRegEngine import Settings, register
from DeepAttentionRegEngine.phantom import thorax
from DeepAttentionRegEngine.volume.geometry import Geometry

FIRST_SEED = 500  # of phantoms on which nothing was chosen
VOXELS, SIZE_MM = (96, 80, 96), (3.5, 3.0, 3.5)
FAR_MM = 95.0
WRONG, WRONG_MM = 3, (20.0, 60.0)  # of 30 landmarks, off by so many mm in any direction
LUNGS = (2, 3)
SPINE, BONES, TUMOR, ORGANS = "6", "6;7", "8", "2;3;4;5;8"
HELD = {"rigid": SPINE, "volume_keeping": TUMOR}
SLIDING: dict[str, dict[str, Any]] = {
    "sliding, no constraint": {},
    "sliding, organs may": {"sliding": ORGANS},
    "sliding, bones rigid, tumor keeps its volume": {"rigid": BONES, "volume_keeping": TUMOR},
    "sliding, all of these": {"rigid": BONES, "volume_keeping": TUMOR, "sliding": ORGANS},
}
Case = tuple[str, dict[str, Any]]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--phantoms", type=int, default=4, help="number of phantoms (default: %(default)s)")
    add("--voxels", type=int, nargs=3, default=VOXELS, help="size of the phantoms (default: %(default)s)")
    add("--refinement-steps", type=int, default=40, help="as of a registration (default: %(default)s)")
    return parser.parse_args(arguments)


class PhantomTrial:
    """A phantom, which of its landmarks guide, and which measure."""

    def __init__(self, seed: int, options: argparse.Namespace, *, sliding: bool = False) -> None:
        """Make the phantom of a seed."""
        size = tuple(options.voxels)
        spacing = tuple(step * usual / wanted for step, usual, wanted in zip(SIZE_MM, VOXELS, size, strict=True))
        settings = thorax.PhantomSettings(seed=seed, sliding=sliding)
        self.pair = thorax.make_phantom(thorax.default_geometry(size, spacing), settings=settings)
        self.rng = np.random.default_rng(seed)
        self.settings = Settings(method="none", refinement_steps=options.refinement_steps, device="cpu")
        order = self.rng.permutation(len(self.pair.fixed_points_lps))
        self.guides, self.judges = np.array_split(order, 2)
        i, j, k = self.pair.fixed_geometry.lps_to_index(self.pair.fixed_points_lps[self.judges]).round().astype(int).T
        self.in_lungs = np.isin(self.pair.fixed_labels[k, j, i], LUNGS)

    def cases(self) -> Iterator[Case]:
        """Yield what is tried, and how."""
        yield "no constraint", {}
        yield "half of the landmarks guide", {"guides": self.guides}
        yield "30 landmarks guide", {"guides": self.guides[:30]}
        yield "30 landmarks guide, 3 of them wrong", {"guides": self.guides[:30], "wrong": WRONG}
        yield "40 mm away, no constraint", {"away_mm": 40.0}
        yield "40 mm away, wide search", {"away_mm": 40.0, "wide_search": True}
        yield "40 mm away, RMAn", {"away_mm": 40.0, "method": "rman"}
        yield "far, no constraint", {"away_mm": FAR_MM}
        yield "far, RMAn", {"away_mm": FAR_MM, "method": "rman"}
        yield "far, ten landmarks guide", {"away_mm": FAR_MM, "guides": self.guides[:10]}
        yield "spine rigid, tumor keeps its volume", HELD
        yield "organs slide", {"sliding": ORGANS}
        yield "rigid, volume kept and sliding together", {**HELD, "sliding": ORGANS}

    def run(self, *, guides: Any = (), wrong: int = 0, away_mm: float = 0.0, **options: Any) -> dict[str, float]:
        """Return what one case comes to: mean error in mm, folds, and what was held."""
        pair, away = self.pair, np.array([0.0, 0.0, away_mm])
        there = Geometry.from_arrays(
            pair.moving_geometry.size,
            pair.moving_geometry.spacing,
            np.add(pair.moving_geometry.origin, away),
            pair.moving_geometry.direction,
        )
        given: dict[str, Any] = {
            "fixed_labels": (pair.fixed_labels, pair.fixed_geometry),
            "moving_labels": (pair.moving_labels, there),
        }
        settings = replace(self.settings, **options, alignment="none" if away_mm else self.settings.alignment)
        if len(guides):
            partners = pair.moving_points_lps[guides] + away
            partners[:wrong] += self._errors(wrong)
            given |= {"fixed_points": pair.fixed_points_lps[guides], "moving_points": partners}
            settings = replace(settings, guided=True)
        found = register((pair.fixed, pair.fixed_geometry), (pair.moving, there), settings, **given)
        judges = pair.fixed_points_lps[self.judges]
        missed = judges + found.deformation.at(judges) - pair.moving_points_lps[self.judges] - away
        guide, held = found.search.guide, found.measures.get("held_segments", [])
        named = {number for one in (guide.contradictions or ()) for number in one.numbers} if guide else set()
        return {
            "error": float(np.linalg.norm(missed, axis=1).mean()),
            "lungs": float(np.linalg.norm(missed[self.in_lungs], axis=1).mean()),
            "folds": float(found.measures["jacobian"]["folds"]),
            "wrong": float(len(named & set(range(1, wrong + 1)))),
            "right": float(len(named - set(range(1, wrong + 1)))),
            "bent": max((one["bent_mm"] for one in held if one["rigid"]), default=np.nan),
            "volume": max((100 * abs(one["volume_change"]) for one in held if not one["rigid"]), default=np.nan),
        }

    def _errors(self, count: int) -> np.ndarray:
        """Return vectors `(N, 3)` of random directions and lengths."""
        vectors = self.rng.normal(size=(count, 3))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) * self.rng.uniform(*WRONG_MM, (count, 1))


def table(rows: dict[str, list[dict[str, float]]]) -> Iterator[str]:
    """Yield the lines of a table of cases."""
    found = "others off by, mm (in the lungs) | folds | wrong ones named | right ones named | spine bent, mm | tumor, %"
    yield f"| constraint | {found} |"
    yield "|---|---|---|---|---|---|---|"
    for name, results in rows.items():
        means = {key: float(np.mean([one[key] for one in results])) for key in results[0]}
        texts = {key: "" if np.isnan(value) else f"{value:.3g}" for key, value in means.items()}
        off = f"{means['error']:.2f} ({means['lungs']:.2f})"
        yield f"| {name} | {off} | {' | '.join(list(texts.values())[2:])} |"


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    options = parse(arguments)
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(FIRST_SEED, FIRST_SEED + options.phantoms):
        steady, sliding = PhantomTrial(seed, options), PhantomTrial(seed, options, sliding=True)
        for trial, cases in ((steady, steady.cases()), (sliding, SLIDING.items())):
            for name, case in cases:
                rows.setdefault(name, []).append(trial.run(**case))
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
