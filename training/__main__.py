"""The commands of training; each module named here says the rest: `python -m training train --help`."""

import argparse
import sys
from importlib import import_module

from .configs.schema import ConfigError

COMMANDS = {
    "configs": ("run.show", "list the experiments, or show everything that one sets"),
    "train": ("run.train", "train one network"),
    "evaluate": ("measure.evaluate", "measure it on validation cases"),
    "export": ("run.export", "turn its checkpoint into a weight file"),
    "compress": ("measure.compress", "store weights in 8 bits, and measure what that costs"),
    "transfer": ("measure.transfer", "measure weights on anatomies they never saw, beside ANTs SyN"),
    "calibrate": ("calibration.calibrate", "learn from registrations of known error what to say of others"),
    "results": ("measure.tables", "write RESULTS.md from the files of results/"),
    "figure5": ("measure.figure5", "plot accuracy against recursions, from the files of results/"),
    "figure5-synthetic": ("measure.figure5_synthetic", "the same in small, on made-up images, in three minutes"),
    "pictures": ("measure.pictures", "draw the worst, the median and the best pair"),
}


def usage() -> argparse.ArgumentParser:
    """Return the parser of the command's name."""
    lines = [f"  {name:20}{text}" for name, (_, text) in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Train, measure and export the networks of DeepAttentionReg (training/README.md).",
        epilog="\n".join(["commands:", *lines, "", "python -m training COMMAND --help says what a command takes."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="...", help="what the command takes")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run a command."""
    given = usage().parse_args(arguments)
    try:
        module = import_module(f".{COMMANDS[given.command][0]}", __package__)
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not installed; run: pip install -e '.[train]'")
    parser = argparse.ArgumentParser(
        prog=f"python -m training {given.command}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_options(parser)
    try:
        module.command(parser.parse_args(given.options))
    except (ConfigError, FileNotFoundError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
