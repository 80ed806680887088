"""Measure weights on anatomies that they were not trained on, beside refinement alone and ANTs SyN.

    python -m training transfer rman_general --date 2026-11-30

Writes training/results/<config>_transfer.json; `results` makes the tables. All methods start at the same linear
alignment: the moving image is resampled through it once, and nothing linear follows. Shipped weights are measured, or
those of `--weights`; the network of the configuration says whether on volumes or on single slices.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from DeepAttentionRegEngine.jobs import versions
from DeepAttentionRegEngine.protocol.contract import METHOD_NONE, MetricsJob, RegisterJob, build
from DeepAttentionRegEngine.protocol.registry import load_method

from ..configs.reading import name_of, read_config
from ..configs.schema import Config, ConfigError
from ..paths import RESULTS
from .evaluate import hardware, write
from .rows import Row
from .scoring import Figures, summarized
from .syn import import_ants, syn
from .transfer_sets import SETS, TestSet, aligned
from .whole_jobs import Files, method_of, regularity_figures, run_job, score_figures, settings, shipped_weights

ALIGNED, SYN, SYN_DEFAULT = "aligned", "ANTs SyN", "ANTs SyN (defaults)"
SYNS = (SYN, SYN_DEFAULT)
INSTEAD = "a file with --weights"
Register = Callable[[Files, str], object]
Parts = Mapping[str, Callable[[int], bool]]
NO_PARTS: Parts = {}


def methods(config: Config, weights: str | None, similarity: str) -> dict[str, Register]:
    """Return what registers a pair and writes its displacement, by setting.

    Args:
        config: Names the method.
        weights: File of weights; None for the shipped ones.
        similarity: What refinement and SyN maximise.

    Raises:
        ConfigError: If there are neither.
    """
    weights = weights or shipped_weights(config, INSTEAD)
    method = method_of(config)
    known = load_method(method)
    variant = next((one for one in known.variants if one.weights == weights), None)
    usual = replace(config.evaluation, recursions=(known.usual_recursions(variant),))
    table: dict[str, Register] = {
        name: partial(_by_job, options={**options, "similarity": similarity})
        for name, options in settings(method, weights, usual).items()
    }
    for name, compared in ((SYN, similarity), (SYN_DEFAULT, None)):
        table[name] = partial(_by_syn, similarity=compared)
    return table


def chosen(table: dict[str, Register], names: list[str] | None) -> dict[str, Register]:
    """Return the settings of these names, all for None.

    Raises:
        ConfigError: If one is unknown.
    """
    if unknown := set(names or ()) - set(table):
        msg = f"there are no settings {', '.join(sorted(unknown))}; there are {', '.join(table)}"
        raise ConfigError(msg)
    return {name: register for name, register in table.items() if names is None or name in names}


def _by_job(pair: Files, output: str, options: dict[str, Any]) -> None:
    given = {"alignment": "none", "device": "cpu", "output_transform": output, **options}
    run_job(build(RegisterJob, {"fixed": pair["fixed"], "moving": pair["moving"], **given}))


def _by_syn(pair: Files, output: str, similarity: str | None) -> None:
    syn(pair["fixed"], pair["moving"], output, similarity)


def set_rows(found: TestSet, table: dict[str, Register], limit: int | None, keep: Path | None = None) -> list[Row]:
    """Return the rows of a test set: the alignment alone, then every setting.

    Args:
        found: The test set.
        table: Of `methods`.
        limit: Pairs at most; None for all.
        keep: Folder in which the figures of SyN are kept and found again; None keeps none.

    Raises:
        FileNotFoundError: If its data are not there.
    """
    figures: dict[str, list[Figures]] = {}
    with TemporaryDirectory() as name:
        for number, pair in enumerate(islice(found.pairs(Path(name)), limit)):
            start = aligned(pair, found.alignment, Path(name))
            kept = None if keep is None else keep / f"{found.title}, {number}"
            told = dict(pair_figures(start, table, f"{name}/transform.mha", found.parts, kept))
            for setting, scored in told.items():
                figures.setdefault(setting, []).append(scored)
            print(found.title, *(f"{setting} {scored['dice']:.3f}" for setting, scored in told.items()), sep=", ")
    return [_row(found.title, setting, scored, figures[ALIGNED]) for setting, scored in figures.items()]


def pair_figures(
    pair: Files, table: dict[str, Register], output: str, parts: Parts = NO_PARTS, keep: Path | None = None
) -> Iterator[tuple[str, Figures]]:
    """Yield the figures of a pair by setting, those of the alignment first, each scored by the same job.

    Args:
        pair: Files of aligned images.
        table: Of `methods`.
        output: File for the displacement of each.
        parts: As in `TestSet`.
        keep: Folder of what SyN, which takes longest and which no weights change, reached on this pair.
    """
    reference = {name: file for name, file in pair.items() if name not in ("fixed", "moving")}
    for number, (setting, register) in enumerate(table.items()):
        measure = partial(_measured, partial(register, pair, output), {"transform": output, **reference}, parts)
        told = measure() if keep is None or setting not in SYNS else _kept(keep / f"{setting}.json", measure)
        if number == 0:
            yield ALIGNED, told["before"]
        yield setting, told["after"]


def _kept(file: Path, measure: Callable[[], dict[str, Figures]]) -> dict[str, Figures]:
    """Return the figures in a file, which are measured and written if it is missing."""
    if file.exists():
        return json.loads(file.read_text(encoding="ascii"))
    told = measure()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(told), encoding="ascii")
    return told


def _measured(register: Callable[[], object], scoring: dict[str, str], parts: Parts) -> dict[str, Figures]:
    """Return the figures before and after a registration; scoring takes no part in its seconds."""
    started = time.perf_counter()
    register()
    seconds = time.perf_counter() - started
    values = run_job(build(MetricsJob, scoring))
    after = {**_scored(values["after"], parts), **regularity_figures(values), "seconds": seconds}
    return {"before": _scored(values["before"], parts), "after": after}


def _scored(scores: dict[str, Any], parts: Parts) -> Figures:
    """Return the means over all labels, and that of the Dice over parts of them."""
    found = score_figures(scores)
    for name, within in parts.items():
        chosen = [value for label, value in scores["dice"].items() if label != "mean" and within(int(label))]
        found[name] = float(np.mean(chosen))
    return found


def _row(subset: str, setting: str, scored: list[Figures], before: list[Figures]) -> Row:
    summary = summarized(scored)
    if setting != ALIGNED:
        worse = sum(after["dice"] < first["dice"] for after, first in zip(scored, before, strict=True))
        summary["worse"] = {"mean": worse, "sd": 0}
    row = {"subset": subset, "setting": setting, "pairs": len(scored), "figures": summary}
    # What no weights take part in is told once, however many are compared.
    without = {ALIGNED: METHOD_NONE, "refinement only": METHOD_NONE, SYN: "ANTs", SYN_DEFAULT: "ANTs"}
    return {**row, "method": without[setting]} if setting in without else row


def kept_rows(path: Path, seed: int, measured: list[Row], settings: list[str] | None) -> list[Row]:
    """Return what a results file says of other test sets and, where only some were measured, of other settings.

    Raises:
        ConfigError: If those settings were measured on other pairs.
    """
    if not path.exists():
        return []
    run = json.loads(path.read_text(encoding="ascii"))["runs"].get(str(seed), {"rows": []})
    subset, pairs = measured[0]["subset"], measured[0]["pairs"]
    replaced = None if settings is None else {row["setting"] for row in measured}
    kept = [row for row in run["rows"] if row["subset"] != subset or (replaced and row["setting"] not in replaced)]
    if any(row["subset"] == subset and row["pairs"] != pairs for row in kept):
        msg = f"{path.name} has other settings of {subset} on another number of pairs; measure all, or set --pairs"
        raise ConfigError(msg)
    return kept


def measure(arguments: argparse.Namespace) -> None:
    """Measure set by set, and write after each, for all of them take hours.

    Raises:
        ConfigError: If the configuration or its network does not fit, or no data are there.
    """
    import_ants()
    config = read_config(arguments.config)
    weights = None if arguments.weights is None else str(arguments.weights)
    path = arguments.results / f"{name_of(arguments.config)}_transfer.json"
    fitting = {name: found for name, found in SETS.items() if found.nd == config.network["nd"]}
    if unfit := set(arguments.sets or fitting) - set(fitting):
        msg = f"its network does not fit the sets {', '.join(sorted(unfit))}; those that do: {', '.join(fitting)}"
        raise ConfigError(msg)
    measured = 0
    for found in (fitting[name] for name in arguments.sets or fitting):
        try:
            table = chosen(methods(config, weights, found.similarity), arguments.settings)
            rows = set_rows(found, table, arguments.pairs, arguments.keep)
        except FileNotFoundError as error:
            print(f"{found.title} is left out: {error}")
            continue
        run = {
            "seed": config.seed,
            "weights": shipped_weights(config, INSTEAD) if weights is None else Path(weights).name,
            "hardware": hardware(torch.device("cpu")),
            "date": arguments.date,
            "versions": {**versions(), "antspyx": version("antspyx")},
            "rows": kept_rows(path, config.seed, rows, arguments.settings) + rows,
        }
        write(path, replace(config, group=f"{config.group}, beside ANTs SyN"), run)
        measured += 1
    if not measured:
        msg = "none of the test sets is there; set DAR_DATA to the folder that holds them (training/README.md)"
        raise ConfigError(msg)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Tell a parser what the command takes."""
    add = parser.add_argument
    add("config", help="name of an experiment, or a JSON file")
    add("--date", required=True, help="of the measurement, such as 2026-11-21")
    add("--weights", type=Path, help="weight file (.pt) to measure instead of the shipped weights")
    add("--sets", nargs="+", choices=SETS, help="measure these; the file keeps its rows of others")
    add("--settings", nargs="+", help='measure these, such as "K=3" refined; the file keeps its others')
    add("--pairs", type=int, help="largest number of pairs of a set")
    add(
        "--keep",
        type=Path,
        help="folder for the figures of SyN, pair by pair, so that no pair is registered twice by it",
    )
    add("--results", type=Path, default=RESULTS, help="folder of the results files")


def command(arguments: argparse.Namespace) -> None:
    """Measure what the command line names, on as many threads as PyTorch takes."""
    # ANTs reads it when it is first used; by default it would take all cores.
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(torch.get_num_threads())
    measure(arguments)
