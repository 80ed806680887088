"""Make what the engine says of its own errors: registrations whose error is known, what is learned of them, how well
that holds.

    python -m training calibrate --date 2026-11-30

Keeps the registrations in runs/calibration, and makes those alone that are missing, hours of them at first. Writes
calibration.json among the resources of the extension, which names the weights for which it stands, and
results/calibration.md.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from DeepAttentionRegEngine.evidence.error_model import FILE, Layers, load_calibration
from DeepAttentionRegEngine.evidence.expected_error import distance, signs
from DeepAttentionRegEngine.protocol.registry import load_weights

from ..paths import RESOURCES, RESULTS, RUNS
from . import boundaries, fitting, tables, verdicts
from .collect import collect, read
from .fitting import Judgement, KnownRun, rounded

AXES = (3, 2)
LEAST_RUNS = 15  # that teach, by weights for which it then stands
DIGITS = 4  # of margins
USUAL = 0.99  # share of the runs that taught, which are usual
ROOM = 1.5  # times as far from what is known is usual, too


@dataclass(frozen=True, eq=False)
class Learned:
    """What was learned of images with so many axes, and the runs by which it is measured."""

    percentiles: fitting.Dense
    margin: float
    verdict: fitting.Dense
    limits: dict[str, float]
    usual: Layers
    limit: float
    weights: tuple[str, ...]

    def described(self, counts: verdicts.Counts) -> dict[str, Any]:
        """Return it as the engine reads it."""
        return {
            "percentiles": {"layers": asdict(self.percentiles.exported()), "margin": self.margin},
            "unusual": asdict(self.usual),
            "limit": self.limit,
            "verdicts": {"layers": asdict(self.verdict.exported()), **self.limits, "measured": counts.sentence},
            "digests": {name: digest(name) for name in self.weights},
        }


def digest(weights: str) -> str:
    """Return the SHA-256 of listed weights; empty for refinement alone and for methods that have none."""
    listed = load_weights()
    return listed[weights].sha256 if weights in listed else ""


def signs_of(runs: Sequence[KnownRun], logs: Sequence[np.ndarray]) -> np.ndarray:
    """Return the signs `(R, S)` of runs."""
    found = []
    for run, log in zip(runs, logs, strict=True):
        means, flip = (torch.from_numpy(run.data[name]) for name in ("means", "mirrored"))
        bare = torch.from_numpy(np.ascontiguousarray(log.T, np.float32))
        found.append(signs(bare, means, flip, float(run.data["extent"])).numpy())
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
    return distance(usual, means).numpy()


def learn(taught: list[KnownRun]) -> tuple[Learned, list[Judgement]]:
    """Return what is learned of runs, and what was said of them by fits that saw none of their family."""
    logs = fitting.without_family(taught)
    failed = np.array([run.failed for run in taught])
    told = signs_of(taught, logs)
    chances = verdicts.without_family(told, failed, fitting.families_of(taught))
    limits = verdicts.thresholds(chances, failed)
    margin = margin_of(taught, logs, chances < limits["failed"])
    usual = usual_of(taught)
    far = distances(usual, taught)
    limit = ROOM * float(np.quantile(far, USUAL))
    networks = fitting.fitted(taught), verdicts.fit(told, failed)
    counts = Counter(run.weights for run in taught)
    weights = tuple(sorted(name for name, count in counts.items() if count >= LEAST_RUNS))
    learned = Learned(networks[0], margin, networks[1], limits, usual, limit, weights)
    return learned, _judgements(taught, _widened(logs, margin), chances, far > limit)


def judge(learned: Learned, runs: list[KnownRun]) -> list[Judgement]:
    """Return what is said of runs that taught nothing."""
    bare = [fitting.predicted(learned.percentiles, run) for run in runs]
    chances = verdicts.chances(learned.verdict, signs_of(runs, bare))
    return _judgements(runs, _widened(bare, learned.margin), chances, distances(learned.usual, runs) > learned.limit)


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
        learned, own = learn(read(folder, axes, "taught"))
        other = judge(learned, read(folder, axes, "held-out"))
        counts = counted(learned.limits, other)
        found[str(axes)] = learned.described(counts)
        sections = {"families that taught nothing": other, "families that taught": own}
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
