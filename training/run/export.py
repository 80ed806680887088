"""Turn a training checkpoint into a weight file of the extension, listed in weights.json and in its method's file.

    python -m training export agf_jsrt --checkpoint runs/agf_jsrt/checkpoint.pt --date 2026-11-30

The averaged weights are stored in half precision. Figures come from training/results/<config>.json if `evaluate` has
measured the run; where it measures the shipped file itself, run --figures afterwards, which writes them alone. Those of
general weights come from `transfer` in the same way. With --file it writes that file alone, for one's own use.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from ..configs.reading import name_of, read_config, to_dict
from ..configs.schema import Config, ConfigError, Release
from ..data.batches import PAIR_SEED
from ..paths import RESOURCES, RESULTS

MAXIMUM_BYTES = 16_000_000
SHIPPED_FIGURES = ("dice", "hd_px", "hd95_mm", "tre_mm", "folded_px", "folded_percent")


def write_weights(checkpoint: dict[str, Any], target: Path) -> None:
    """Write the averaged network of a checkpoint as a half-precision state dict.

    Raises:
        ValueError: If the file is larger than shipped weights may be.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    state = checkpoint["average"]
    torch.save({name: value.half() if value.is_floating_point() else value for name, value in state.items()}, target)
    if target.stat().st_size > MAXIMUM_BYTES:
        msg = f"{target.name} has {target.stat().st_size} bytes, may have {MAXIMUM_BYTES}"
        raise ValueError(msg)


def write_own(config: Config, checkpoint: dict[str, Any], target: Path) -> None:
    """Write a weight file that jobs take by its path, and beside it what its method's file does not tell."""
    write_weights(checkpoint, target)
    told: dict[str, Any] = {"network": to_dict(config)["network"]}
    if config.release is not None:
        told |= suited(config, config.release)
    _write(target.with_suffix(".json"), told)


def suited(config: Config, release: Release) -> dict[str, Any]:
    """Return what a release tells of the images that it is for, as a variant has it."""
    drawn = config.data.options["structures"] if config.drawing is not None else ()
    named = {"anatomy": release.anatomy, "structures": list(release.structures or drawn)}
    numbers = {
        "recursions": release.recursions,
        "pyramid": list(release.pyramid),
        "spacing_mm": release.spacing_mm,
    }
    told = {name: value for name, value in {**named, **numbers}.items() if value}
    extent = None if release.extent_mm is None else list(release.extent_mm)
    return {**told, "extent_mm": extent, "refinement": release.refinement}


def validation(results: Path, seed: int) -> dict[str, Any]:
    """Return what a results file says of the run of a seed; nothing if it was not measured."""
    if not results.exists():
        return {}
    report = json.loads(results.read_text(encoding="ascii"))
    if str(seed) not in report["runs"]:
        return {}
    rows = report["runs"][str(seed)]["rows"]
    mean = {
        f"{row['subset']}, {row['setting']}": {
            name: row["figures"][name]["mean"] for name in SHIPPED_FIGURES if name in row["figures"]
        }
        for row in rows
    }
    return {"split": report["split"], "pairs": sum_of_pairs(rows), "pair_seed": PAIR_SEED, "mean": mean}


def sum_of_pairs(rows: list[dict[str, Any]]) -> int:
    """Return how many pairs were measured over all data sets."""
    return sum({row["subset"]: row["pairs"] for row in rows}.values())


def list_weights(resources: Path, entry: dict[str, Any]) -> None:
    """Add an entry to weights.json, in place of one with the same id; what it leaves out is kept."""
    path = resources / "weights.json"
    listed = json.loads(path.read_text(encoding="ascii"))["weights"] if path.exists() else []
    before: dict[str, Any] = next((other for other in listed if other["id"] == entry["id"]), {})
    kept = [other for other in listed if other["id"] != entry["id"]]
    _write(path, {"weights": sorted([*kept, {**before, **entry}], key=lambda item: item["id"])})


def list_variant(resources: Path, config: Config, release: Release) -> None:
    """Add the variant of a release to its method's file, in place of one of the same weights; general ones first.

    Arguments of the network are told where they differ from the method's own.

    Raises:
        ValueError: If the method normalises images otherwise than training did.
    """
    path = resources / "Methods" / f"{release.method}.json"
    method = json.loads(path.read_text(encoding="ascii"))
    if tuple(method["normalization"]) != config.data.normalization:
        msg = f"{path.name} normalises by {method['normalization']}, training did by {list(config.data.normalization)}"
        raise ValueError(msg)
    network = to_dict(config)["network"]
    common = method["networks"][str(network["nd"])]
    variant: dict[str, Any] = {"weights": release.id, "dimensions": network["nd"]}
    differing = {name: value for name, value in network.items() if common.get(name) != value}
    if differing:
        variant["network"] = differing
    variant |= suited(config, release)
    variants = method["variants"]
    place = next((n for n, other in enumerate(variants) if other["weights"] == release.id), None)
    if place is None:
        variants.insert(0 if release.general else len(variants), variant)
    else:
        variants[place] = variant
    _write(path, method)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(as_json(content) + "\n", encoding="ascii")


def as_json(value: Any, indent: str = "", width: int = 120) -> str:
    """Return JSON with lists and objects on one line where they fit."""
    line = json.dumps(value)
    if not isinstance(value, (dict, list)) or not value or (len(indent) + len(line) <= width and indent):
        return line
    inner = indent + "  "
    if isinstance(value, list):
        lines = [inner + as_json(item, inner, width) for item in value]
        return "[\n" + ",\n".join(lines) + f"\n{indent}]"
    lines = [f"{inner}{json.dumps(key)}: {as_json(item, inner, width)}" for key, item in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def command(arguments: argparse.Namespace) -> None:
    """Write what the command line asks for.

    Raises:
        ConfigError: If the date or the release is missing.
    """
    if arguments.date is None and arguments.file is None:
        msg = "give the --date of the training, or a --file"
        raise ConfigError(msg)
    config, name = read_config(arguments.config), name_of(arguments.config)
    release, resources = config.release, arguments.resources
    checkpoint = torch.load(arguments.checkpoint, map_location="cpu", weights_only=True)
    if arguments.file is not None:
        write_own(config, checkpoint, arguments.file)
        return
    if release is None:
        msg = f"{name} has no release; write its weights with --file"
        raise ConfigError(msg)
    measured = name + ("_transfer" if config.by_transfer else "")
    figures = validation(arguments.results / f"{measured}.json", checkpoint["config"]["seed"])
    if arguments.figures:
        list_weights(resources, {"id": release.id, "validation": figures})
        return
    target = resources / "Models" / f"{release.id}.pt"
    write_weights(checkpoint, target)
    content = target.read_bytes()
    list_weights(
        resources,
        {
            "id": release.id,
            "file": target.name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "training_data": release.training_data,
            "licence": release.licence,
            "command": f"python -m training train {name}",
            "date": arguments.date,
            "validation": figures,
            "storage": {},
        },
    )
    list_variant(resources, config, release)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Tell a parser what the command takes."""
    add = parser.add_argument
    add("config", help="name of an experiment, or a JSON file")
    add("--checkpoint", type=Path, required=True)
    add("--date", help="of the training, such as 2026-11-30")
    add("--file", type=Path, help="write this weight file (.pt) alone, for jobs to take by its path")
    add("--figures", action="store_true", help="write the figures of listed weights alone")
    add("--results", type=Path, default=RESULTS, help="folder of the results files")
    add("--resources", type=Path, default=RESOURCES, help="folder that gets the weights")
