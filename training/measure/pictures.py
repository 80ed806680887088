"""Draw the worst, the median and the best validation pair of a trained network, for its model card.

    python -m training pictures agf_jsrt --checkpoint runs/agf_jsrt/checkpoint.pt

Only outlines of labels and the deformed grid are drawn, no image, so that the pictures may be published whatever the
terms of the images are. A row per data set; of a volume, the slice that shows most of the fixed labels.
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..configs.reading import name_of, read_config
from ..configs.schema import Config, ConfigError
from ..data.batches import PAIR_SEED, PairSampler, case_channels
from ..data.cases import ImageCase
from ..data.loaders import load
from ..objectives.registration import Registration
from ..paths import ROOT
from .rows import Measured, by_subset, fields_of
from .scoring import dice, warped_map

CARDS = ROOT / "Resources" / "ModelCards"
PICKED = {"worst": 0.0, "median": 0.5, "best": 1.0}  # quantile of the Dice
PAIRS = 300
COLORS = 32
GRID_STEP = 12  # pixels of the case between the lines
# Okabe and Ito's colours, which the colour-blind can tell apart.
FIXED, MOVING, WARPED, GRID = "#0072B2", "#999999", "#D55E00", "#bbbbbb"


def scored(part: Measured, recursions: int) -> list[tuple[float, tuple[int, int]]]:
    """Return Dice and indices (fixed, moving) of the evaluated pairs of one data set, up to `PAIRS`, worst first."""
    config = part.task.config
    pairs = PairSampler(part.seen, config.data.pairing).sampled(min(PAIRS, config.evaluation.pairs or PAIRS), PAIR_SEED)
    found = []
    for start in range(0, len(pairs), config.evaluation.batch):
        chunk = pairs[start : start + config.evaluation.batch]
        for pair, field in zip(chunk, predicted(part, chunk, recursions), strict=True):
            fixed, moving = (part.whole.cases[index] for index in pair)
            found.append(
                (dice(moved(moving, field, config.data.labels), fixed.label_map.numpy(), config.data.labels), pair)
            )
    return sorted(found)


@torch.no_grad()
def predicted(part: Measured, pairs: list[tuple[int, int]], recursions: int) -> Tensor:
    """Return displacements `(B, nd, *spatial)` in voxels of the cases' own grid."""
    return dict(fields_of(part, pairs))[f"K={recursions}"]


def moved(case: ImageCase, field: Tensor, labels: int) -> np.ndarray:
    """Return the label map of a moving case after a displacement `(nd, *spatial)` in voxels."""
    return warped_map(case_channels(case, labels)["labels"][None], field[None])[0].numpy()


def draw(axes: Axes, part: Measured, pair: tuple[int, int], field: Tensor) -> None:
    """Draw one pair."""
    count = part.task.config.data.labels
    fixed, moving = (part.whole.cases[index] for index in pair)
    maps = [moving.label_map.numpy(), fixed.label_map.numpy(), moved(moving, field, count)]
    before, now = (dice(labels, maps[1], count) for labels in (maps[0], maps[2]))
    if len(field) == 3:
        place = int((maps[1] > 0).sum((1, 2)).argmax())
        maps, field = [labels[place] for labels in maps], field[1:, place]
    rows, columns = np.mgrid[: field.shape[1], : field.shape[2]]
    down, right = rows + field[0].numpy(), columns + field[1].numpy()
    axes.plot(right[::GRID_STEP].T, down[::GRID_STEP].T, color=GRID, linewidth=0.4)
    axes.plot(right[:, ::GRID_STEP], down[:, ::GRID_STEP], color=GRID, linewidth=0.4)
    for label in range(1, count + 1):
        for labels, color in zip(maps, (MOVING, FIXED, WARPED), strict=True):
            if (labels == label).any():
                axes.contour(labels == label, [0.5], colors=color, linewidths=0.9)
    axes.set_title(f"Dice {before:.3f} to {now:.3f}", fontsize=8)
    axes.set(xlim=(0, field.shape[2]), ylim=(field.shape[1], 0), aspect="equal", xticks=[], yticks=[])


def picture(config: Config, checkpoint: dict[str, Any], recursions: int) -> Figure:
    """Return the figure of a configuration, with the averaged weights of the checkpoint of its run."""
    task = Registration(config).eval()
    task.network.load_state_dict(checkpoint["average"])
    seen, whole = (load(config.data, "validation", whole=whole) for whole in (False, True))
    parts = dict(by_subset(Measured(task, seen, whole, torch.device("cpu"))))
    figure, table = plt.subplots(len(parts), len(PICKED), figsize=(7.2, 2.6 * len(parts)), squeeze=False)
    for row, (subset, part) in zip(table, parts.items(), strict=True):
        ranked = scored(part, recursions)
        for axes, (name, quantile) in zip(row, PICKED.items(), strict=True):
            _, pair = ranked[round(quantile * (len(ranked) - 1))]
            draw(axes, part, pair, predicted(part, [pair], recursions)[0])
            axes.set_ylabel(f"{subset}, {name}", fontsize=8)
    figure.tight_layout()
    return figure


def add_options(parser: argparse.ArgumentParser) -> None:
    """Tell a parser what the command takes."""
    parser.add_argument("config", help="name of an experiment that has a release, or a JSON file")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--recursions", type=int, default=1, help="one of those that the configuration evaluates")
    parser.add_argument("--output", type=Path, default=CARDS, help="folder")


def command(arguments: argparse.Namespace) -> None:
    """Draw the picture of the model card.

    Raises:
        ConfigError: If the configuration has no release.
    """
    mpl.use("Agg")
    config = read_config(arguments.config)
    if config.release is None:
        msg = f"{name_of(arguments.config)} has no release, so it has no model card"
        raise ConfigError(msg)
    checkpoint = torch.load(arguments.checkpoint, map_location="cpu", weights_only=True)
    path = arguments.output / f"{config.release.id}.png"
    picture(config, checkpoint, arguments.recursions).savefig(path, dpi=110)
    Image.open(path).quantize(COLORS).save(path, optimize=True)  # a third of the size
