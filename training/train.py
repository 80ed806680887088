"""Train one network from a configuration file.

    python training/train.py training/configs/agf_jsrt.json --output runs/agf_jsrt

Continues from the checkpoint of the output folder, exactly as if it had not stopped. `export.py` turns the checkpoint
into a weight file. Several GPUs: add --accelerator cuda --devices 4 (and --nodes 2 on each node, started by torchrun).
"""

import argparse
import logging
import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric

from config import Config, ConfigError, read_config
from loaders import load
from loop import Trainer
from registration import Registration
from tasks import Autoencoding, Segmentation, Task


def make_task(config: Config, runs: Path | None) -> Task:
    """Return the task of a configuration.

    Args:
        config: The experiment.
        runs: Folder of the runs that trained its parts; None leaves the parts untrained.
    """
    if config.task == "registration":
        return Registration(config, runs)
    return Segmentation(config) if config.task == "segmentation" else Autoencoding(config)


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


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("config", type=Path)
    result.add_argument("--output", type=Path, required=True, help="folder of the run; trained parts lie beside it")
    result.add_argument("--seed", type=int, help="instead of the configuration's")
    result.add_argument("--stop", type=int, help="stop after this step, to be continued later")
    result.add_argument("--accelerator", default="auto", help="cpu, cuda or auto")
    result.add_argument("--devices", type=int, default=1, help="number of devices on each machine")
    result.add_argument("--nodes", type=int, default=1, help="number of machines")
    return result


def main() -> None:
    """Command line."""
    arguments = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    changes = {} if arguments.seed is None else {"seed": arguments.seed}
    try:
        run(read_config(arguments.config, **changes), arguments)
    except (ConfigError, FileNotFoundError) as error:
        sys.exit(f"{arguments.config}: {error}")


if __name__ == "__main__":
    main()
