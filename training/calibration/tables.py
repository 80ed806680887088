"""The document that says how well bounds and verdicts hold."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

from DeepAttentionRegEngine.evidence.expected_error import FLIPPED, LIMIT, is_likely_off

from . import verdicts
from .fitting import Judgement, KnownRun

INTRODUCTION = """# How well the expected error holds

Written by `python -m training calibrate`, the command of `make calibration`. Pairs of known motion, each with something
wrong in half of the cases, are registered; the error to be expected is compared with the true one in 3000 voxels of
each where the images show something. Verdicts are counted on families that taught nothing, by the final fit. Families
that taught are measured by fits that saw none of the same family; thresholds and margin were chosen on these, so that
their coverage over all is 95 %.
Runs that are said to have failed, or to be unlike all that is known, get no bound ("silent"). Coverage is the share of
voxels whose error lies within the 95 % bound, each run counting alike; rank correlation is Spearman's of predicted
median and true error, over all voxels of a family together, and within a run on average; "median bound" is that of the
bounds, and "median error" that of the errors, in voxels of the grid on which they are told (at most 50 a side in
volumes, 128 in slices).
"""
HEADER = (
    "| | runs | silent | coverage | rank correlation | within a run | median bound | median error |\n"
    "|---|---|---|---|---|---|---|---|"
)
FAULTS_HEADER = (
    "| | failures | suspected | said to have failed | others | suspected | said to have failed |\n"
    "|---|---|---|---|---|---|---|"
)


KEYS: tuple[Callable[[KnownRun], str], ...] = (
    lambda run: run.plan.recipe.family,
    lambda run: f"{run.weights}, {run.plan.quality}",
    lambda run: run.plan.recipe.fault,
)


def section(
    axes: int, parts: Mapping[str, Sequence[Judgement]], limits: Mapping[str, float], counts: verdicts.Counts
) -> str:
    """Return what there is to say of images with so many axes; faults are counted in the first of the parts."""
    lines = [f"## {'Volumes' if axes == 3 else 'Single slices'}", "", counts.sentence]
    lines += [f"{counts.accused} of {counts.sound} that had not failed were said to have.", ""]
    for title, judged in parts.items():
        lines += [f"### Bounds, {title}", "", HEADER]
        for key in KEYS:
            lines += [_row(name, members, limits["failed"]) for name, members in _grouped(judged, key)]
        lines += [_row("all", judged, limits["failed"]), ""]
    first = next(iter(parts.values()))
    lines += [_places(first, limits["failed"]), "", _mirrored(first), ""]
    lines += ["### Failures found in families that taught nothing, by what was wrong", "", FAULTS_HEADER]
    lines += [_faults(name, members, limits) for name, members in _grouped(first, KEYS[-1])]
    return "\n".join([*lines, ""])


def _grouped(judged: Sequence[Judgement], key: Callable[[KnownRun], str]) -> Iterator[tuple[str, list[Judgement]]]:
    for name in sorted({key(one.run) for one in judged}):
        yield name, [one for one in judged if key(one.run) == name]


def _row(name: str, judged: Sequence[Judgement], failed: float) -> str:
    told = [one for one in judged if not one.is_silent(failed)]
    silent = len(judged) - len(told)
    return f"| {name} | {len(judged)} | {silent} | {_figures([one for one in told if one.run.corresponds])} |"


def _figures(judged: Sequence[Judgement]) -> str:
    if not judged:
        return " | | | | "
    errors, logs = (np.concatenate(side) for side in zip(*((x.run.log_error, x.logs) for x in judged), strict=True))
    cover = np.mean([(one.run.log_error <= one.logs[:, 1]).mean() for one in judged])
    inner = np.mean([rank_correlation(one.logs[:, 0], one.run.log_error) for one in judged])
    return (
        f"{100 * cover:.1f} % | {rank_correlation(logs[:, 0], errors):.2f} | {inner:.2f} | "
        f"{np.exp(np.median(logs[:, 1])):.2f} | {np.exp(np.median(errors)):.2f}"
    )


def _places(judged: Sequence[Judgement], failed: float) -> str:
    """Return how well the places of large errors are told from the others, a sentence."""
    sides = [
        (one.run.log_error > np.log(LIMIT * extent), is_likely_off(torch.from_numpy(one.logs.T), extent).numpy())
        for one in judged
        if one.run.corresponds and not one.is_silent(failed)
        for extent in [float(one.run.data["extent"])]
    ]
    off, named = (np.concatenate(side) for side in zip(*sides, strict=True))
    found, right = 100 * named[off].mean(), 100 * off[named].mean()
    return (
        f"Places: of the voxels that are off by more than {100 * LIMIT:.0f} % of the longest side, in runs that get a "
        f"bound, {found:.0f} % lie where such errors are said to be likely; of the voxels there {right:.0f} % are."
    )


def _mirrored(judged: Sequence[Judgement]) -> str:
    """Return how often the moving image is called flipped where it is, and where it is not, a sentence."""
    runs = [one.run for one in judged]
    flipped = [run for run in runs if run.plan.recipe.fault == "flipped"]
    sound = [run for run in runs if not run.failed]
    named, wrongly = (sum(bool(run.data["mirrored"][1] >= FLIPPED) for run in part) for part in (flipped, sound))
    return f"{named} of {len(flipped)} flipped images are called so, and {wrongly} of those of {len(sound)} sound runs."


def _faults(name: str, judged: Sequence[Judgement], limits: Mapping[str, float]) -> str:
    cells: list[object] = [name]
    for failed in (True, False):
        chances = [one.chance for one in judged if one.run.failed == failed]
        said = (sum(chance >= limits[level] for chance in chances) for level in ("suspicious", "failed"))
        cells += [len(chances), *said]
    return f"| {' | '.join(map(str, cells))} |"


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Spearman's correlation of two arrays `(N,)`."""
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks
