"""Medians, ratios and tables of what was measured."""

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from comparison.methods import title

MIB = 2**20
HEADS = ("Method", "CPU (s)", "Time (s)", "Memory (MiB)", "Dice", "Landmarks (mm)", "Folds")
MULTIPLES = ("x CPU", "x time", "x memory")

Numbers = dict[str, Any]
Rows = dict[str, Numbers]


def summarize(found: dict[str, list[Numbers]]) -> Rows:
    """Return the medians over the pairs of what each method took and reached; NaN for what was not measured."""
    names = ("cpu_seconds", "seconds", "bytes", "dice", "tre_mm", "folds")
    return {
        method: {**{name: median(row.get(name, math.nan) for row in rows) for name in names}, "pairs": len(rows)}
        for method, rows in found.items()
        if rows
    }


def aligned(found: dict[str, list[Numbers]]) -> Numbers:
    """Return the medians of the alignment alone, which is the same for all methods."""
    rows = max(found.values(), key=len)
    return {name: median(row["aligned"].get(name, math.nan) for row in rows) for name in ("dice", "tre_mm")}


def ratio(mine: float, other: float | None) -> str:
    """Return how many times another number a number is, as people read it."""
    if not other:
        return "-"
    return f"{mine / other:.2g}" if mine < 10 * other else f"{mine / other:.0f}"


def shown(value: float, digits: int) -> str:
    """Return a number, or a dash for one that was not measured."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; all columns but the first are numbers."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def comparison(rows: Rows, before: Numbers, reference: str) -> str:
    """Return the table of a set of pairs.

    Args:
        rows: From `summarize`.
        before: From `aligned`.
        reference: Method whose multiples are told.
    """
    lines = [["Alignment alone", "-", "-", "-", shown(before["dice"], 3), shown(before["tre_mm"], 2), *["-"] * 4]]
    peer = rows.get(reference, {})
    for name, row in rows.items():
        figures = [f"{row['cpu_seconds']:.1f}", f"{row['seconds']:.1f}", f"{row['bytes'] / MIB:.0f}"]
        figures += [shown(row["dice"], 3), shown(row["tre_mm"], 2), f"{row['folds']:.0f}"]
        multiples = [ratio(row[part], peer.get(part)) for part in ("cpu_seconds", "seconds", "bytes")]
        lines.append([title(name), *figures, *multiples])
    return markdown((*HEADS, *MULTIPLES), lines)


def front(rows: Rows, figure: str = "dice") -> list[str]:
    """Return the methods that no other one beats in time and accuracy both, the quickest first."""
    better = min if figure == "tre_mm" else max
    best, found = None, []
    for name in sorted(rows, key=lambda name: rows[name]["seconds"]):
        value = rows[name][figure]
        if best is None or (value != best and better(value, best) == value):
            found.append(name)
            best = value
    return found


def error_percent(estimated: float, measured: float) -> float:
    """Return by how many percent an estimate is above what was measured."""
    return 100 * (estimated / measured - 1)


def checks(rows: Sequence[Numbers]) -> str:
    """Return the table of estimates beside what was measured."""
    heads = ["Weights", "Quality", "Volume", "Estimated (s)", "Measured (s)", "Error (%)", "Memory error (%)"]
    lines = []
    for row in rows:
        name = row["name"] + (" (field left out)" if row["left_out"] else "")
        cells = [name, row["quality"], row["size"], f"{row['estimated']:.1f}", f"{row['measured']:.1f}"]
        lines.append([*cells, f"{row['error']:+.0f}", f"{row['memory_error']:+.0f}"])
    return markdown(heads, lines)
