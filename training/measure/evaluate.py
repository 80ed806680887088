"""Measure a trained network on validation cases; nothing is trained or tuned here.

    python -m training evaluate agf_jsrt --checkpoint runs/agf_jsrt/checkpoint.pt --date 2026-11-30

Writes training/results/<config>.json, where every seed has its place; `results` makes the tables. Configurations
whose protocol is "job" measure the shipped weights where no checkpoint is named; methods that learn nothing need none.
"""

import argparse
import json
import platform
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from DeepAttentionRegEngine.jobs import versions

from ..configs.reading import name_of, read_config
from ..configs.schema import Config, ConfigError
from ..data.cases import CaseSet
from ..data.loaders import load
from ..objectives.making import make_task
from ..objectives.multiclass import MulticlassSegmentation
from ..objectives.registration import Registration
from ..objectives.tasks import Segmentation
from ..paths import RESULTS
from ..run.export import write_own
from .rows import Measured, Row, autoencoder_rows, multiclass_rows, registration_rows, segmentation_rows
from .whole_jobs import job_rows, shipped_weights


def measure(config: Config, checkpoint: dict[str, Any] | None, device: torch.device) -> list[Row]:
    """Return the rows of figures of a configuration.

    Args:
        config: The experiment.
        checkpoint: Of its run, whose averaged weights are measured; None for the shipped weights by whole jobs, or for
            a method that learns nothing.
        device: Where the network runs.

    Raises:
        ConfigError: If the network needs weights.
    """
    seen = load(config.data, "validation")
    if config.evaluation.protocol == "job":
        return whole_jobs(config, checkpoint, seen)
    whole = load(config.data, "validation", whole=True)
    task = make_task(config, None)
    if checkpoint is not None:
        task.network.load_state_dict(checkpoint["average"])
    elif any(True for _ in task.network.parameters()):
        msg = "its network needs --checkpoint"
        raise ConfigError(msg)
    task = task.to(device).eval()
    if isinstance(task, Registration):
        return registration_rows(Measured(task, seen, whole, device))
    if isinstance(task, MulticlassSegmentation):
        return multiclass_rows(task, seen, device)
    if isinstance(task, Segmentation):
        return segmentation_rows(task, seen, whole, device)
    return autoencoder_rows(task, seen, device)


def whole_jobs(config: Config, checkpoint: dict[str, Any] | None, seen: CaseSet) -> list[Row]:
    """Return the rows of whole jobs with the weights of a checkpoint, or with the shipped ones for None.

    Raises:
        ConfigError: If there are neither.
    """
    if checkpoint is None:
        return job_rows(config, seen, shipped_weights(config, "a --checkpoint"))
    with TemporaryDirectory() as folder:
        file = Path(folder) / "weights.pt"
        write_own(config, checkpoint, file)
        return job_rows(config, seen, str(file))


def hardware(device: torch.device) -> str:
    """Return what the figures were measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def write(path: Path, config: Config, run: dict[str, Any]) -> None:
    """Add the run of one seed to a results file, in place of an earlier run of that seed."""
    report = json.loads(path.read_text(encoding="ascii")) if path.exists() else {}
    runs = {**report.get("runs", {}), str(run["seed"]): run}
    report = {
        "config": path.stem,
        "title": config.title,
        "group": config.group,
        "split": config.data.split,
        "runs": dict(sorted(runs.items())),
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="ascii")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Tell a parser what the command takes."""
    parser.add_argument("config", help="name of an experiment, or a JSON file")
    parser.add_argument("--checkpoint", type=Path, help="of the run")
    parser.add_argument("--date", required=True, help="of the measurement, such as 2026-11-21")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results files")


def command(arguments: argparse.Namespace) -> None:
    """Measure a run and write what was found."""
    config, device = read_config(arguments.config), torch.device(arguments.device)
    checkpoint = None
    if arguments.checkpoint is not None:
        checkpoint = torch.load(arguments.checkpoint, map_location="cpu", weights_only=True)
    run = {
        "seed": config.seed if checkpoint is None else checkpoint["config"]["seed"],
        "steps": config.run.steps if checkpoint is None else checkpoint["step"],
        "hardware": hardware(device),
        "date": arguments.date,
        "versions": versions(),
        "rows": measure(config, checkpoint, device),
    }
    write(arguments.results / f"{name_of(arguments.config)}.json", config, run)
