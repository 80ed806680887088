"""Write training/RESULTS.md from the files of training/results: a table per group of experiments.

    python -m training results

Every figure is the mean over pairs and, after +-, the standard deviation over pairs; with several seeds the mean over
seeds, their range in brackets. Published figures come from published.json, beside this file.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from ..paths import RESULTS, TRAINING

PUBLISHED = Path(__file__).with_name("published.json")

# Title and digits of each figure, in the order of the columns.
COLUMNS = {
    "dice": ("Dice", 3),
    "dice_deep": ("Dice, deep structures", 3),
    "found_percent": ("found where there is none %", 3),
    "hd_px": ("HD px", 2),
    "assd_px": ("ASSD px", 3),
    "hd_mm": ("HD mm", 2),
    "hd95_mm": ("HD95 mm", 2),
    "assd_mm": ("ASSD mm", 3),
    "tre_mm": ("TRE mm", 2),
    "folded_px": ("folded voxels", 1),
    "folded_percent": ("folded %", 4),
    "sd_log_jacobian": ("SD log J", 3),
    "sd_log_jacobian_floored": ("SD log J, floored", 3),
    "ssim": ("SSIM", 3),
    "mse": ("MSE", 5),
    "worse": ("pairs made worse", 0),
    "seconds": ("s a pair", 3),
    "numbers": ("numbers", 0),
}
INTRODUCTION = """# Results

Written by `python -m training results` from the files of `results/`. Mean +- standard deviation over pairs of
validation cases, which took no part in training; with several seeds their mean and, in brackets, their range. HD and
ASSD are the largest and the mean distance of boundaries (mean of both directions, as MedPy has it; of whole jobs, all
boundary voxels pooled); folded voxels have a Jacobian determinant of 0 or less by central differences; SD log J is the
spread of its logarithm over the others, "floored" over all, counting what is below 0.001 as 0.001; "numbers" is how
many describe a deformation (of all Gaussians, of the finest spline, else of the field on the network's grid); "pairs
made worse" have a lower Dice than after the alignment alone. Published figures are of the papers' own test cases."""
Row = dict[str, Any]


def merged_rows(report: dict[str, Any]) -> list[Row]:
    """Return the rows of a results file, those of its seeds as one.

    Each has "method", "subset", "setting", "seeds", "n" (pairs or cases), "hardware" and, by figure, "figures": mean
    over seeds, mean standard deviation over pairs, smallest and largest mean of a seed.
    """
    collected: dict[tuple[str, str], list[tuple[Row, str]]] = {}
    for run in report["runs"].values():
        for row in run["rows"]:
            collected.setdefault((row["subset"], row["setting"]), []).append((row, run["hardware"]))
    rows = []
    for (subset, setting), found in collected.items():
        figures = {}
        for name in COLUMNS:
            told = [row["figures"][name] for row, _ in found if row["figures"].get(name, {}).get("mean") is not None]
            if told:
                means = [figure["mean"] for figure in told]
                spread = float(np.mean([figure["sd"] for figure in told]))
                figures[name] = (float(np.mean(means)), spread, min(means), max(means))
        first = found[0][0]
        rows.append(
            {
                "method": first.get("method", report["title"]),
                "subset": subset,
                "setting": setting,
                "seeds": len(found),
                "n": first.get("pairs", first.get("cases")),
                "hardware": ", ".join(sorted({hardware for _, hardware in found})),
                "figures": figures,
            }
        )
    return rows


def cell(figure: tuple[float, float, float, float] | None, digits: int, seeds: int) -> str:
    """Return the text of one figure."""
    if figure is None:
        return ""
    mean, spread, low, high = (f"{value:.{digits}f}" for value in figure)
    text = f"{mean} +- {spread}" if figure[1] else mean
    return f"{text} [{low} to {high}]" if seeds > 1 else text


def table(rows: list[Row], published: list[Row]) -> list[str]:
    """Return the lines of one table: our rows by data set, then what was published.

    Args:
        rows: As of `merged_rows`.
        published: Entries of published.json: "method", "subset", "source" and figures as text.
    """
    names = [name for name in COLUMNS if any(name in row["figures"] for row in rows)]
    names += [name for name in COLUMNS if name not in names and any(name in entry for entry in published)]
    titles = ["data", "method", "setting", "n", "seeds", *(COLUMNS[name][0] for name in names), "hardware or source"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for subset in dict.fromkeys(row["subset"] for row in rows):
        shown = set()
        for row in (row for row in rows if row["subset"] == subset):
            key = "identity" if row["setting"] == "identity" else (row["method"], row["setting"])
            if key in shown:
                continue  # doing nothing is the same for every method
            shown.add(key)
            figures = [cell(row["figures"].get(name), COLUMNS[name][1], row["seeds"]) for name in names]
            method = "none" if key == "identity" else row["method"]
            head = [subset, method, row["setting"], str(row["n"]), str(row["seeds"])]
            lines.append("| " + " | ".join([*head, *figures, row["hardware"]]) + " |")
        for entry in (entry for entry in published if entry["subset"] == subset):
            figures = [entry.get(name, "") for name in names]
            head = [subset, entry["method"], "published", entry.get("n", ""), ""]
            lines.append("| " + " | ".join([*head, *figures, entry["source"]]) + " |")
    return lines


def to_markdown(reports: list[dict[str, Any]], published: dict[str, dict[str, Any]]) -> str:
    """Return the whole document."""
    lines = [INTRODUCTION]
    for group in sorted({report["group"] for report in reports}):
        rows = [row for report in reports if report["group"] == group for row in merged_rows(report)]
        known = published.get(group, {})
        lines += ["", f"## {group}", "", *([known["note"], ""] if "note" in known else [])]
        lines += table(rows, known.get("rows", []))
    return "\n".join(lines) + "\n"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Tell a parser what the command takes."""
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results files")
    parser.add_argument("--output", type=Path, default=TRAINING / "RESULTS.md")


def command(arguments: argparse.Namespace) -> None:
    """Write the document."""
    reports = [json.loads(path.read_text(encoding="ascii")) for path in sorted(arguments.results.glob("*.json"))]
    published = json.loads(PUBLISHED.read_text(encoding="ascii"))
    arguments.output.write_text(to_markdown(reports, published), encoding="ascii")
