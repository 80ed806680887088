"""Tables of the demo: what the engine measured, before and after."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo_case import DemoCase

HEADER = ("Measure", "Before", "Linear", "After", "Unit")
DECIMALS = 3


@dataclass(frozen=True)
class Row:
    """One measure of the images as they were, linearly aligned, and deformed; None where it does not apply."""

    measure: str
    before: float | None
    linear: float | None
    after: float | None
    unit: str = ""

    def cells(self) -> tuple[str, ...]:
        """Return the row as text."""
        numbers = (self.before, self.linear, self.after)
        return (self.measure, *(_text(number) for number in numbers), self.unit)


def _text(number: float | None) -> str:
    if number is None:
        return ""
    return str(number) if isinstance(number, int) else f"{number:.{DECIMALS}f}"


def make_rows(case: DemoCase, values: dict[str, Any]) -> list[Row]:
    """Return the rows of the metrics table.

    Args:
        case: For the names of the labels.
        values: `Result.values` of the engine.
    """
    rows = []
    if "tre_mm" in values["after"]:
        rows += [_scored(values, f"TRE, {name}", ("tre_mm", name), "mm") for name in ("mean", "max")]
    for measure, key, unit in (("Dice", "dice", ""), ("HD95", "hd95_mm", "mm"), ("ASSD", "assd_mm", "mm")):
        labels = [label for label in values["after"].get(key, {}) if label != "mean"]
        if labels:
            rows.append(_scored(values, f"{measure}, mean", (key, "mean"), unit))
        if key == "dice":
            rows += [_scored(values, f"Dice, {case.label(label)}", (key, label), unit) for label in labels]
    similarity = values.get("similarity", [])
    rows += [
        Row(f"Local correlation after recursion {number}", None, None, value)
        for number, value in enumerate(similarity[1:], start=1)
    ]
    if "refined_similarity" in values:
        rows.append(Row("Local correlation after refinement", None, None, values["refined_similarity"]))
    return rows + _regularity(values)


def _scored(values: dict[str, Any], measure: str, keys: tuple[str, str], unit: str) -> Row:
    group, name = keys
    numbers = [values[stage].get(group, {}).get(name) for stage in ("before", "aligned", "after")]
    return Row(measure, *numbers, unit)


def _regularity(values: dict[str, Any]) -> list[Row]:
    jacobian, size = values["jacobian"], values["displacement_mm"]
    return [
        Row("Folded voxels", None, None, jacobian["folds"], "voxels"),
        Row("Folded voxels, share", None, None, jacobian["fold_percent"], "%"),
        Row("Jacobian determinant, minimum", None, None, jacobian["minimum"]),
        Row("Jacobian determinant, maximum", None, None, jacobian["maximum"]),
        Row("SD of log Jacobian", None, None, jacobian["sd_log_jacobian"]),
        Row("Displacement, mean", None, None, size["mean"], "mm"),
        Row("Displacement, max", None, None, size["max"], "mm"),
        Row("Time of the engine", None, None, sum(values["seconds"].values()), "s"),
    ]


def write_tables(folder: Path, case: DemoCase, values: dict[str, Any]) -> None:
    """Write `metrics.csv` and `metrics.md`."""
    rows = [row.cells() for row in make_rows(case, values)]
    with (folder / "metrics.csv").open("w", newline="", encoding="ascii", errors="backslashreplace") as stream:
        csv.writer(stream).writerows([HEADER, *rows])
    how = f"Method {values['method']}, {values.get('weights') or 'no weights'}, on {values['device']}."
    lines = [f"# {case.title}", "", how, "", *(_line(cells) for cells in (HEADER, ("---",) * len(HEADER), *rows)), ""]
    (folder / "metrics.md").write_text("\n".join(lines), encoding="utf-8")


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def make_caption(case: DemoCase, values: dict[str, Any]) -> str:
    """Return the result in one line."""
    parts = []
    for name, group, unit in (("TRE", "tre_mm", " mm"), ("Dice", "dice", "")):
        ends = [values[stage].get(group, {}).get("mean") for stage in ("before", "after")]
        if None not in ends:
            parts.append(f"mean {name} {ends[0]:.2f} to {ends[1]:.2f}{unit}")
    folds = values["jacobian"]["folds"]
    parts.append(f"{folds} folded voxels" if folds else "no folds")
    return f"{case.title}: {', '.join(parts)}"


def summarize(case: DemoCase, values: dict[str, Any]) -> str:
    """Return the table for a terminal."""
    table = [HEADER, *(row.cells() for row in make_rows(case, values))]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(HEADER))]
    lines = [
        "  ".join(
            text.ljust(width) if n in (0, 4) else text.rjust(width)
            for n, (text, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in table
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
