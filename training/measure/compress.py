"""Store listed weights in 8 bits, and measure what that costs against their 16-bit original.

    python -m training compress rman_general --date 2026-11-30
    python -m training compress --table

Both files register the same validation pairs by the network alone, with the method's usual number of recursions:
general weights those of `transfer`, all others those of `evaluate`. The file is replaced, and weights.json told
so, unless the mean Dice of any data set falls by more than 0.001: then it stays in 16 bits, and weights.json tells the
figures all the same. What is listed in 8 bits is measured no more: export it again from its checkpoint. The last
command writes the table of all files to training/results/storage.md.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from DeepAttentionRegEngine.networks.packing import is_packed, pack, unpack
from DeepAttentionRegEngine.protocol.contract import RegisterJob, build
from DeepAttentionRegEngine.protocol.registry import load_method

from ..configs.reading import read_config
from ..configs.schema import Config, ConfigError
from ..data.batches import PAIR_SEED, PairSampler
from ..data.cases import data_folder
from ..data.loaders import load
from ..objectives.registration import Registration
from ..paths import RESOURCES, RESULTS
from ..run.export import list_weights
from .rows import Measured, registration_rows
from .transfer import methods, set_rows
from .transfer_sets import SETS
from .whole_jobs import SAME_START, method_of, run_job, shipped_weights, stored_files

LARGEST_LOSS = 0.001
BITS = (16, 8)
TABLE = RESULTS / "storage.md"
INSTEAD = "an experiment that has one"
INTRODUCTION = """# Weights in 8 bits

Written by `python -m training compress --table` from weights.json. Mean Dice of the network alone over the same
validation pairs, with the 16-bit original and in 8 bits. A file that loses more than 0.001 on any data set stays in 16
bits."""


@dataclass(frozen=True)
class Pairs:
    """Which pairs are registered.

    Attributes:
        largest: Number of a data set at most; None for all.
        sets: Names in `transfer_sets.SETS`, for general and drawn weights; None for all that fit the network.
    """

    largest: int | None
    sets: list[str] | None


@dataclass(frozen=True)
class Dice:
    """Mean Dice of a data set, by bits of the weights."""

    subset: str
    pairs: int
    mean: dict[int, float]


def usual_recursions(config: Config) -> int:
    """Return how many recursions the weights of a configuration are used with."""
    return config.evaluation.refined_recursions or load_method(method_of(config)).recursions.default


def measured(config: Config, files: dict[int, Path], pairs: Pairs) -> Iterator[Dice]:
    """Yield how well weight files register, data set by data set.

    Args:
        config: The experiment that made them.
        files: Weight files by bits.
        pairs: Which pairs.
    """
    if config.by_transfer:
        return _by_transfer(config, files, pairs)
    if config.evaluation.protocol == "job":
        return _by_jobs(config, files, pairs)
    return _by_network(config, files, pairs)


def _by_transfer(config: Config, files: dict[int, Path], pairs: Pairs) -> Iterator[Dice]:
    setting = f"K={usual_recursions(config)}"
    for name, found in SETS.items():
        if found.nd != config.network["nd"] or name not in (pairs.sets or SETS):
            continue
        table = {str(bits): methods(config, str(file), found.similarity)[setting] for bits, file in files.items()}
        rows = {row["setting"]: row for row in set_rows(found, table, pairs.largest)}
        mean = {bits: rows[str(bits)]["figures"]["dice"]["mean"] for bits in files}
        yield Dice(found.title, rows["16"]["pairs"], mean)


def _by_jobs(config: Config, files: dict[int, Path], pairs: Pairs) -> Iterator[Dice]:
    folder, found = data_folder(config.data.folder), load(config.data, "validation")
    count = pairs.largest or config.evaluation.pairs
    drawn = PairSampler(found, config.data.pairing).sampled(count, PAIR_SEED)
    alone = {
        "method": method_of(config),
        "recursions": usual_recursions(config),
        "refinement_steps": 0,
        **SAME_START,
    }
    dice: dict[int, list[float]] = {bits: [] for bits in files}
    for pair in drawn:
        images = stored_files(folder, (found.cases[pair[0]].name, found.cases[pair[1]].name))
        for bits, file in files.items():
            job = build(RegisterJob, {**images, **alone, "weights": str(file)})
            dice[bits].append(run_job(job)["after"]["dice"]["mean"])
    yield Dice(config.data.folder, len(drawn), {bits: sum(found) / len(found) for bits, found in dice.items()})


def _by_network(config: Config, files: dict[int, Path], pairs: Pairs) -> Iterator[Dice]:
    wanted = usual_recursions(config)
    count = pairs.largest or config.evaluation.pairs
    config = replace(config, evaluation=replace(config.evaluation, recursions=(wanted,), pairs=count))
    seen, whole = load(config.data, "validation"), load(config.data, "validation", whole=True)
    found: dict[str, Dice] = {}
    for bits, file in files.items():
        task = Registration(config, None)
        task.network.load_state_dict(unpack(torch.load(file, map_location="cpu", weights_only=True)))
        for row in registration_rows(Measured(task.eval(), seen, whole, torch.device("cpu"))):
            if row["setting"] == f"K={wanted}":
                dice = found.setdefault(row["subset"], Dice(row["subset"], row["pairs"], {}))
                dice.mean[bits] = row["figures"]["dice"]["mean"]
    yield from found.values()


def both_files(config: Config, original: Path, folder: Path) -> dict[int, Path]:
    """Write weights in 16 and in 8 bits to a folder, with what jobs read beside them.

    Raises:
        ConfigError: If they are in 8 bits already.
    """
    state = torch.load(original, map_location="cpu", weights_only=True)
    if is_packed(state):
        msg = f"{original.name} is in 8 bits already; export it again from its checkpoint"
        raise ConfigError(msg)
    files = {bits: folder / f"{bits}.pt" for bits in BITS}
    files[16].write_bytes(original.read_bytes())
    torch.save(pack(state), files[8])
    identifier = shipped_weights(config, INSTEAD)
    variants = {variant.weights: variant for variant in load_method(method_of(config)).variants}
    told = {"network": variants[identifier].network, "extent_mm": variants[identifier].extent_mm}
    for file in files.values():
        file.with_suffix(".json").write_text(json.dumps(told), encoding="ascii")
    return files


def storage(files: dict[int, Path], found: list[Dice], recursions: int, date: str) -> dict[str, Any]:
    """Return what weights.json tells of how weights are stored."""
    losses = [dice.mean[16] - dice.mean[8] for dice in found]
    original = files[16].read_bytes()
    return {
        "bits": 8 if max(losses) <= LARGEST_LOSS else 16,
        "original": {"bytes": len(original), "sha256": hashlib.sha256(original).hexdigest()},
        "date": date,
        "pairs": sum(dice.pairs for dice in found),
        "dice": {
            f"{dice.subset}, K={recursions}": {
                "pairs": dice.pairs,
                **{f"bits_{bits}": round(mean, 5) for bits, mean in dice.mean.items()},
            }
            for dice in found
        },
    }


def compress(config: Config, pairs: Pairs, date: str, resources: Path) -> None:
    """Measure the listed weights of a configuration in 16 and 8 bits, and keep the smaller file if it is as good."""
    target = resources / "Models" / f"{shipped_weights(config, INSTEAD)}.pt"
    with TemporaryDirectory() as name:
        files = both_files(config, target, Path(name))
        found = list(measured(config, files, pairs))
        stored = storage(files, found, usual_recursions(config), date)
        content = files[stored["bits"]].read_bytes()
    target.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    list_weights(resources, {"id": target.stem, "sha256": digest, "bytes": len(content), "storage": stored})
    print(target.stem, json.dumps(stored, indent=1))


def table(listed: list[dict[str, Any]]) -> str:
    """Return the document on all weights of weights.json."""
    lines = [
        INTRODUCTION,
        "",
        "| weights | MB in 16 bits | MB as shipped | data, setting | n | Dice, 16 bits | Dice, 8 bits | change |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in listed:
        stored = entry.get("storage") or {}
        for setting, told in stored.get("dice", {}).items():
            dice = {bits: told[f"bits_{bits}"] for bits in BITS}
            size = f"{stored['original']['bytes'] / 1e6:.2f} | {entry['bytes'] / 1e6:.2f}"
            figures = f"{dice[16]:.4f} | {dice[8]:.4f} | {dice[8] - dice[16]:+.5f}"
            lines.append(f"| `{entry['id']}` | {size} | {setting} | {told['pairs']} | {figures} |")
    before = sum((entry.get("storage") or {}).get("original", entry)["bytes"] for entry in listed)
    after = sum(entry["bytes"] for entry in listed)
    lines += ["", f"All {len(listed)} files: {before / 1e6:.1f} MB in 16 bits, {after / 1e6:.1f} MB as shipped."]
    return "\n".join(lines) + "\n"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Tell a parser what the command takes."""
    add = parser.add_argument
    add("config", nargs="?", help="name of an experiment, or a JSON file")
    add("--date", help="of the measurement, such as 2026-11-21")
    add("--pairs", type=int, help="largest number of pairs of a data set")
    add("--sets", nargs="+", choices=SETS, help="for general and drawn weights: measure on these")
    add("--table", action="store_true", help="write the table alone")
    add("--resources", type=Path, default=RESOURCES, help="folder that holds the weights")


def command(arguments: argparse.Namespace) -> None:
    """Write what the command line asks for.

    Raises:
        ConfigError: If the experiment or the date is missing.
    """
    if arguments.table:
        listed = json.loads((arguments.resources / "weights.json").read_text(encoding="ascii"))["weights"]
        TABLE.write_text(table(listed), encoding="ascii")
        return
    if arguments.config is None or arguments.date is None:
        msg = "name an experiment and give the --date of the measurement, or --table"
        raise ConfigError(msg)
    pairs = Pairs(arguments.pairs, arguments.sets)
    compress(read_config(arguments.config), pairs, arguments.date, arguments.resources)
