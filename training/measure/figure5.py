"""Plot how accuracy depends on the recursions in training and in use: Figure 5 of the RMAn paper (arXiv 2206.01863).

    python -m training figure5

Reads training/results/{rman,rcn}-k{1,2,3}_hippocampus.json, which `evaluate` writes, and draws
training/results/figure5_hippocampus.png: Dice, ASSD and HD against the recursions in use. Full lines are RMAn, dashed
ones RCn, the cascade without attention; with several seeds a line is their mean.
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ..paths import RESULTS
from .tables import merged_rows

NETWORKS = {"rman": ("RMAn-style", "-"), "rcn": ("RCn", "--")}
TRAINED = {1: "#D55E00", 2: "#0072B2", 3: "#009E73"}  # Okabe and Ito's colours, which the colour-blind can tell apart
PANELS = {"dice": "Dice", "assd_mm": "ASSD, mm", "hd_mm": "HD, mm"}


def curves(results: Path, network: str, trained: int) -> dict[str, list[tuple[int, float]]]:
    """Return (recursions in use, mean) by figure.

    Args:
        results: Folder of the results files.
        network: Of `NETWORKS`.
        trained: Recursions in training.

    Raises:
        FileNotFoundError: If it has not been measured.
    """
    report = json.loads((results / f"{network}-k{trained}_hippocampus.json").read_text(encoding="ascii"))
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in PANELS}
    for row in merged_rows(report):
        if row["setting"] != "identity":
            for name in PANELS:
                found[name].append((int(row["setting"].removeprefix("K=")), row["figures"][name][0]))
    return found


def picture(results: Path) -> Figure:
    """Return the figure."""
    figure, panels = plt.subplots(1, len(PANELS), figsize=(9.5, 3.2))
    for network, (title, style) in NETWORKS.items():
        for trained, color in TRAINED.items():
            label = f"{title}, trained with K={trained}"
            for axes, points in zip(panels, curves(results, network, trained).values(), strict=True):
                axes.plot(*zip(*points, strict=True), style, color=color, marker="o", markersize=3, label=label)
    for axes, title in zip(panels, PANELS.values(), strict=True):
        axes.set(xlabel="recursions in use", title=title)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    return figure


def add_options(parser: argparse.ArgumentParser) -> None:
    """Tell a parser what the command takes."""
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results files")


def command(arguments: argparse.Namespace) -> None:
    """Draw the figure into the folder of the results."""
    mpl.use("Agg")
    picture(arguments.results).savefig(arguments.results / "figure5_hippocampus.png", dpi=110)
