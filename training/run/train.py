"""Train one network from a configuration file.

    python -m training train agf_jsrt

Continues from the checkpoint of the output folder, exactly as if it had not stopped. `export` turns the checkpoint into
a weight file. Several GPUs: add --accelerator cuda --devices 4 (and --nodes 2 on each node, started by torchrun).
"""

import argparse
import logging
from pathlib import Path

import torch
from lightning_fabric import Fabric

from ..configs.reading import name_of, read_config
from ..configs.schema import Config
from ..data.loaders import load
from ..objectives.making import make_task
from ..paths import RUNS
from .loop import Trainer


def make_fabric(config: Config, arguments: argparse.Namespace) -> Fabric:
    """Return devices, precision and processes; registration networks take care of their own precision."""
    mixed = config.run.precision == "bf16" and config.task != "registration"
    return Fabric(
        accelerator=arguments.accelerator,
        devices=arguments.devices,
        num_nodes=arguments.nodes,
        precision="bf16-mixed" if mixed else "32-true",
    )


def run(config: Config, arguments: argparse.Namespace) -> None:
    """Train a configuration as the command line says."""
    fabric = make_fabric(config, arguments)
    fabric.launch()
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(config.seed)
    runs = arguments.output.resolve().parent
    task, average = make_task(config, runs), make_task(config, None)
    if config.task == "registration" and fabric.device.type == "cuda":
        # The engine's half precision is float16 there, whose gradients would vanish.
        task.network.half_precision = average.network.half_precision = False
    trainer = Trainer(fabric, task, average, arguments.output)
    trainer.fit(load(config.data, "train"), load(config.data, "validation"), arguments.stop)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Tell a parser what the command takes."""
    add = parser.add_argument
    add("config", help="name of an experiment (`python -m training configs` lists them), or a JSON file")
    add("--output", type=Path, help="folder of the run, beside which its trained parts lie (default: runs/NAME)")
    add("--seed", type=int, help="instead of the configuration's")
    add("--stop", type=int, help="stop after this step, to be continued later")
    add("--accelerator", default="auto", help="cpu, cuda or auto")
    add("--devices", type=int, default=1, help="number of devices on each machine")
    add("--nodes", type=int, default=1, help="number of machines")


def command(arguments: argparse.Namespace) -> None:
    """Train what the command line names."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    changes = {} if arguments.seed is None else {"seed": arguments.seed}
    config = read_config(arguments.config, **changes)
    if config.note:
        logging.info(config.note)
    arguments.output = arguments.output or RUNS / name_of(arguments.config)
    run(config, arguments)
