"""Make what the engine says of its own errors: registrations whose error is known, what is learned of them, how well
that holds.

    python -m training calibrate --date 2026-11-30

Keeps the registrations in runs/calibration, and makes those alone that are missing, hours of them at first. Writes
calibration.json among the resources of the extension, which names the weights for which it stands, and
results/calibration.md.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from DeepAttentionRegEngine.evidence.error_model import FILE, Layers, load_calibration
from DeepAttentionRegEngine.evidence.expected_error import signs
from DeepAttentionRegEngine.protocol.contract import METHOD_NONE
from DeepAttentionRegEngine.protocol.registry import listed_weights

from ..paths import RESOURCES, RESULTS, RUNS
from . import boundaries, fitting, tables, verdicts
from .collect import collect, read
from .fitting import Judgement, KnownRun, rounded

AXES = (3, 2)
SPREAD_HIDDEN = (8,)
DIGITS = 4  # of margins
USUAL = 0.99  # share of the runs that taught, which are usual
ROOM = 1.5  # times as far from what is known is usual, too


@dataclass(frozen=True, eq=False)
class Learned:
    """What was learned of images with so many axes, and the runs by which it is measured."""

    cheap: fitting.Dense
    full: fitting.Dense
    verdict: fitting.Dense
    margins: dict[str, float]
    limits: dict[str, float]
    usual: Layers
    limit: float
    weights: tuple[str, ...]

    def described(self, counts: verdicts.Counts) -> dict[str, Any]:
        """Return it as the engine reads it."""
        bounds = {"cheap": self.cheap.exported(), "full": self.full.exported()}
        return {
            **{name: {"layers": asdict(layers), "margin": self.margins[name]} for name, layers in bounds.items()},
            "unusual": asdict(self.usual),
            "limit": self.limit,
            "verdicts": {"layers": asdict(self.verdict.exported()), **self.limits, "measured": counts.sentence},
            "digests": {name: digest(name) for name in self.weights},
        }


def digest(weights: str) -> str:
    """Return the SHA-256 of listed weights; empty for refinement alone."""
    return "" if weights == METHOD_NONE else listed_weights(weights).sha256


def clues_of(run: KnownRun) -> np.ndarray:
    """Return the clues `(N, C)`."""
    return run.data["values"]


def signs_of(runs: Sequence[KnownRun], logs: Sequence[np.ndarray]) -> np.ndarray:
    """Return the signs `(R, S)` of runs."""
    found = []
    for run, log in zip(runs, logs, strict=True):
        means = torch.from_numpy(run.data["means"])
        bare = torch.from_numpy(np.ascontiguousarray(log.T, np.float32))
        found.append(signs(bare, means, float(run.data["extent"])).numpy())
    return np.stack(found)


def margin_of(runs: Sequence[KnownRun], logs: Sequence[np.ndarray], believed: np.ndarray) -> float:
    """Return the margin of bounds, by runs that are believed."""
    here = np.flatnonzero(believed).tolist()
    return round(fitting.margin([runs[index] for index in here], [logs[index] for index in here]), DIGITS)


def usual_of(runs: Sequence[KnownRun]) -> Layers:
    """Return what brings means of clues to unit variance in all directions."""
    means = np.stack([run.data["means"] for run in runs]).astype(float)
    deviations = means.std(0) + 1e-3
    scaled = ((means - means.mean(0)) / deviations).clip(-4, 4)
    values, vectors = np.linalg.eigh(np.cov(scaled.T) + 0.05 * np.eye(means.shape[1]))
    rows = (vectors / np.sqrt(values)).T
    return Layers(rounded(means.mean(0)), rounded(deviations), [rounded(rows)], [[0.0] * len(rows)])


def distances(usual: Layers, runs: Sequence[KnownRun]) -> np.ndarray:
    """Return how far runs are from what is known `(R,)`."""
    means = torch.from_numpy(np.stack([run.data["means"] for run in runs]).T)
    return usual(means).square().mean(0).numpy()


def learn(taught: list[KnownRun], spread: list[KnownRun]) -> tuple[Learned, list[Judgement]]:
    """Return what is learned of runs, and what was said of them by fits that did not see them."""
    logs = fitting.out_of_fold(taught, clues_of)
    failed = np.array([run.failed for run in taught])
    told = signs_of(taught, logs)
    chances = verdicts.out_of_fold(told, failed)
    limits = verdicts.thresholds(chances, failed)
    margin = margin_of(taught, logs, chances < limits["failed"])
    cheap, verdict, usual = fitting.fitted(taught, clues_of), verdicts.fit(told, failed), usual_of(taught)
    far = distances(usual, taught)
    limit = ROOM * float(np.quantile(far, USUAL))

    def with_spread(run: KnownRun) -> np.ndarray:
        return spread_inputs(cheap, margin, run)

    tight = fitting.out_of_fold(spread, with_spread, SPREAD_HIDDEN)
    full = fitting.fitted(spread, with_spread, SPREAD_HIDDEN)
    margins = {"cheap": margin, "full": margin_of(spread, tight, _believed(cheap, verdict, limits, spread))}
    weights = tuple(sorted({run.weights for run in taught}))
    learned = Learned(cheap, full, verdict, margins, limits, usual, limit, weights)
    return learned, _judgements(taught, _widened(logs, margin), chances, far > limit)


def spread_inputs(cheap: fitting.Dense, margin: float, run: KnownRun) -> np.ndarray:
    """Return what the full bound of a run follows from `(N, 4)`."""
    logs = fitting.predicted(cheap, clues_of(run)) + np.array([0.0, margin], np.float32)
    return np.concatenate([logs, run.data["spread"]], 1).astype(np.float32)


def _believed(
    cheap: fitting.Dense, verdict: fitting.Dense, limits: dict[str, float], runs: Sequence[KnownRun]
) -> np.ndarray:
    logs = [fitting.predicted(cheap, clues_of(run)) for run in runs]
    return verdicts.chances(verdict, signs_of(runs, logs)) < limits["failed"]


def judge(learned: Learned, runs: list[KnownRun], *, full: bool = False) -> list[Judgement]:
    """Return what is said of runs that taught nothing, by the clues alone or with the spread."""
    bare = [fitting.predicted(learned.cheap, clues_of(run)) for run in runs]
    chances = verdicts.chances(learned.verdict, signs_of(runs, bare))
    if full:
        inputs = [spread_inputs(learned.cheap, learned.margins["cheap"], run) for run in runs]
        bare = [fitting.predicted(learned.full, values) for values in inputs]
    logs = _widened(bare, learned.margins["full" if full else "cheap"])
    return _judgements(runs, logs, chances, distances(learned.usual, runs) > learned.limit)


def counted(limits: dict[str, float], judged: Sequence[Judgement]) -> verdicts.Counts:
    """Return how often verdicts on runs were right."""
    chances, failed = zip(*((one.chance, one.run.failed) for one in judged), strict=True)
    return verdicts.count(np.array(chances), np.array(failed), limits)


def _widened(logs: Sequence[np.ndarray], margin: float) -> list[np.ndarray]:
    """Return medians and bounds with the margin that makes these hold."""
    return [log + np.array([0.0, margin]) for log in logs]


def _judgements(
    runs: Sequence[KnownRun], logs: Sequence[np.ndarray], chances: np.ndarray, unusual: np.ndarray
) -> list[Judgement]:
    said = zip(runs, logs, chances.tolist(), unusual.tolist(), strict=True)
    return [Judgement(*one) for one in said]


def calibrate(folder: Path, say: Callable[[str], None] = print) -> tuple[dict[str, Any], str]:
    """Return what is learned of the registrations of a folder, and the tables of how well it holds."""
    found: dict[str, Any] = {}
    document = [tables.INTRODUCTION]
    for axes in AXES:
        taught, others = read(folder, axes, "taught"), read(folder, axes, "held-out")
        learned, own = learn(taught, read(folder, axes, "spread"))
        other = judge(learned, others)
        tight = judge(learned, read(folder, axes, "spread-held-out"), full=True)
        loose = judge(learned, [one.run for one in tight])
        counts = counted(learned.limits, own + other)
        found[str(axes)] = learned.described(counts)
        sections = {
            "by clues alone": own + other,
            "with the spread of 4 samples": tight,
            "the same runs without": loose,
        }
        document.append(tables.section(axes, sections, learned.limits, counts))
        say(document[-1])
    return found, "\n".join(document)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Tell a parser what the command takes."""
    add = parser.add_argument
    add("--date", required=True, help="of the measurement, such as 2026-11-30")
    add("--folder", type=Path, default=RUNS / "calibration", help="of the registrations (default: %(default)s)")
    add("--processes", type=int, default=2, help="that register (default: %(default)s)")
    add(
        "--brains",
        type=int,
        default=4,
        help="ordered pairs on which label boundaries are measured (default: %(default)s)",
    )
    add("--resources", type=Path, default=RESOURCES, help="folder that gets calibration.json")
    add("--results", type=Path, default=RESULTS, help="folder that gets calibration.md")


def command(arguments: argparse.Namespace) -> None:
    """Register what is missing, learn, and write."""
    for axes in AXES:
        collect(arguments.folder, axes, arguments.processes)
    found, document = calibrate(arguments.folder)
    made = {"date": arguments.date, "command": f"python -m training calibrate --date {arguments.date}"}
    text = json.dumps({"made": made, **found}, separators=(",", ":"))
    (arguments.resources / FILE).write_text(text + "\n", encoding="ascii")
    if arguments.brains:  # by what was just written
        load_calibration.cache_clear()
        document += "\n" + boundaries.table(arguments.brains)
    (arguments.results / "calibration.md").write_text(document, encoding="ascii")
