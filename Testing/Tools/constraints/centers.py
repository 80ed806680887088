"""Measure what guiding landmarks do on real images: centers of structures that were outlined by hand.

    python Testing/Tools/constraints/centers.py ../shared/data/brain_validation --pairs 6

The folder holds `images` and `labels` with the same file names. Of the structures that two label maps share, a random
half guides by their centers, and the centers of the other half measure. Prints a table of means.
"""

import argparse
import sys
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
from scipy.ndimage import center_of_mass

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "DeepAttentionReg"))

from DeepAttentionRegEngine import Settings, register
from DeepAttentionRegEngine.volume import images

SETTINGS = Settings(method="none", alignment="affine", device="cpu")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("folder", type=Path, help="holds images and labels")
    add("--pairs", type=int, default=6, help="number of ordered pairs (default: %(default)s)")
    add("--refinement-steps", type=int, default=40, help="as of a registration (default: %(default)s)")
    return parser.parse_args(arguments)


def centers(path: Path) -> dict[int, np.ndarray]:
    """Return the center of every structure of a label map, LPS mm."""
    volume = images.read_volume(path)
    labels = [int(value) for value in np.unique(volume.array) if value]
    places = np.array(center_of_mass(volume.array > 0, volume.array, labels))[:, ::-1]
    return dict(zip(labels, volume.geometry.index_to_lps(places), strict=True))


def errors(folder: Path, pair: tuple[str, str], settings: Settings, seed: int) -> list[float]:
    """Return the mean error in mm of the structures that measure: aligned, registered, and guided by the others."""
    fixed, moving = (images.read_volume(folder / "images" / name) for name in pair)
    there, here = (centers(folder / "labels" / name) for name in reversed(pair))
    shared = np.random.default_rng(seed).permutation(sorted(set(here) & set(there)))
    places = np.array([here[label] for label in shared]), np.array([there[label] for label in shared])
    (guides, partners), (judges, goals) = ([side[part::2] for side in places] for part in (0, 1))
    given = {"fixed_points": guides, "moving_points": partners}
    found = []
    for options, points in (({"refinement_steps": 0}, {}), ({}, {}), ({"guided": True}, given)):
        images_given = ((fixed.array, fixed.geometry), (moving.array, moving.geometry))
        result = register(*images_given, replace(settings, **options), **points)
        missed = judges + result.deformation.at(judges) - goals
        found.append(float(np.linalg.norm(missed, axis=1).mean()))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    options = parse(arguments)
    names = sorted(path.name for path in (options.folder / "images").iterdir())
    pairs = list(permutations(names, 2))
    chosen = pairs[:: max(1, len(pairs) // options.pairs)][: options.pairs]
    settings = replace(SETTINGS, refinement_steps=options.refinement_steps)
    found = np.array([errors(options.folder, pair, settings, seed) for seed, pair in enumerate(chosen)])
    print(f"| {len(chosen)} pairs of {options.folder.name} | others off by, mm | pairs made better |\n|---|---|---|")
    for column, name in enumerate(("aligned", "no constraint", "half of the structures guide")):
        better = "" if column < 2 else str(int((found[:, column] < found[:, 1]).sum()))
        print(f"| {name} | {found[:, column].mean():.2f} | {better} |")


if __name__ == "__main__":
    main()
