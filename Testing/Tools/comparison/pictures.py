"""Accuracy against time, and how costs grow, as pictures."""

from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from comparison.growth import Curve
from comparison.methods import OURS, title
from comparison.tables import Rows, front

# Okabe and Ito's colours, which the colour-blind can tell apart: ours, others'.
OUR_COLOR, PEER_COLOR = "#0072B2", "#D55E00"
MARKERS = "osD^vPX*<>ph8"
DOTS_PER_INCH = 110


def _figure_of(rows: Rows) -> tuple[str, str]:
    """Return the number that tells accuracy, and its name: landmarks where there are any, else Dice."""
    has_landmarks = all(row["tre_mm"] == row["tre_mm"] for row in rows.values())
    return ("tre_mm", "landmark error (mm)") if has_landmarks else ("dice", "Dice")


def _scatter(axes: Axes, name: str, rows: Rows, markers: dict[str, str]) -> None:
    figure, label = _figure_of(rows)
    best = front(rows, figure)
    axes.plot(*zip(*((rows[item]["seconds"], rows[item][figure]) for item in best), strict=True), color="0.7", zorder=0)
    for item, row in rows.items():
        color = OUR_COLOR if item in OURS else PEER_COLOR
        axes.plot(row["seconds"], row[figure], markers[item], color=color, markersize=7, label=title(item))
    axes.set(xscale="log", xlabel="time (s)", ylabel=label, title=name)
    if figure == "tre_mm":
        axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)


def accuracy_against_time(sets: dict[str, Rows], path: Path) -> None:
    """Draw a panel for each set of pairs, better upwards; the line joins what nothing beats in both.

    Args:
        sets: Medians by method, by title of the set.
        path: Of the picture.
    """
    names = list(dict.fromkeys(name for rows in sets.values() for name in rows))
    markers = dict(zip(names, MARKERS, strict=False))
    figure, panels = plt.subplots(
        1, len(sets), figsize=(max(7.2, 3.6 * len(sets)), 4.6), squeeze=False, layout="constrained"
    )
    for axes, (name, rows) in zip(panels[0], sets.items(), strict=True):
        _scatter(axes, name, rows, markers)
    handles = {
        text: handle for axes in panels[0] for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    plt.close(figure)


def growth(voxels: dict[str, Curve], recursions: Curve, batch: Curve, path: Path) -> None:
    """Draw seconds against voxels, recursions and pairs."""
    figure, (first, second, third) = plt.subplots(1, 3, figsize=(10.8, 3.8), layout="constrained")
    for index, (name, curve) in enumerate(voxels.items()):
        color = OUR_COLOR if name in OURS else PEER_COLOR
        first.plot(*zip(*curve, strict=True), color=color, marker=MARKERS[index], label=title(name))
    first.set(xscale="log", yscale="log", xlabel="voxels", ylabel="time (s)", title="Voxels of a pair")
    first.legend(fontsize=7, frameon=False)
    for axes, curve, name in ((second, recursions, "Recursions of the network"), (third, batch, "Pairs of a batch")):
        if curve:
            counts, seconds = zip(*curve, strict=True)
            axes.plot(counts, seconds, color=OUR_COLOR, marker="o")
            axes.set_xticks(counts)
        axes.set(xlabel=name.split()[0].lower(), ylabel="time (s)", title=name)
        axes.set_ylim(bottom=0)
    for axes in (first, second, third):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    plt.close(figure)
