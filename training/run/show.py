"""List the experiments of the project, or show everything that one sets.

    python -m training configs
    python -m training configs agf-no-attention_jsrt

The second prints a file that `train` takes in place of the name, once edited.
"""

import argparse
import json

from ..configs.reading import names, read_config, to_dict


def add_options(parser: argparse.ArgumentParser) -> None:
    """Tell a parser what the command takes."""
    parser.add_argument("config", nargs="?", help="name of an experiment, or a JSON file; none lists all")


def command(arguments: argparse.Namespace) -> None:
    """Print names and titles, or one experiment."""
    if arguments.config is not None:
        print(json.dumps(to_dict(read_config(arguments.config)), indent=2))
        return
    for name in names():
        config = read_config(name)
        print(f"{name:44}{config.group}: {config.title}{config.note and f' ({config.note})'}")
