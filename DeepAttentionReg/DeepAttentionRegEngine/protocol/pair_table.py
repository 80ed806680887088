"""Reads a table of pairs to register: a CSV file with a header, or a JSON list of objects. Standard library only.

Columns: "fixed" and "moving", if wanted "name" (of the pair's folder), and any field of `contract.RegisterJob`. CSV is
UTF-8 with comma, semicolon or tab. An empty cell says nothing. Inputs are found relative to the table.
"""

import csv
import dataclasses
import io
import os
import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .contract import RegisterJob
from .errors import shown
from .files import parse_json, read_content, unfit

INPUTS = (
    "fixed",
    "moving",
    "initial_transform",
    *(f"{side}_{kind}" for side in ("fixed", "moving") for kind in ("mask", "labels", "points")),
)
TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Pair:
    """One row of a table: the name of its folder, and fields of `RegisterJob` with inputs as absolute paths."""

    name: str
    fields: dict[str, Any]


def read_pairs(path: str | Path) -> list[Pair]:
    """Read a table.

    Raises:
        EngineError: If the file is missing or no such table, a column is unknown or missing, or two names are equal.
    """
    path = Path(path)
    rows = _read_json(path) if path.suffix.lower() == ".json" else _read_csv(path)
    if not rows:
        raise unfit(path, "names no pair", "Add a row for each.")
    known = {item.name: item for item in dataclasses.fields(RegisterJob)}
    hints = typing.get_type_hints(RegisterJob)
    allowed = {"name", *known} - {"cancel_file", "finish_file", "parent_pid"}
    columns = {str(column) for row in rows for column in row}
    unknown = sorted(columns - allowed)
    if unknown:
        raise unfit(path, f"has the unknown column {shown(repr(unknown[0]))}", f"Known: {', '.join(sorted(allowed))}.")
    for column in ("fixed", "moving"):
        if column not in columns:
            raise unfit(path, f"has no column {column!r}", "Add it; the first line must name the columns.")
    folder = Path(os.path.abspath(path)).parent
    pairs: list[Pair] = []
    for row in rows:
        fields = {column: _parsed(value, hints[column]) for column, value in row.items() if column != "name"}
        for column in INPUTS:
            if isinstance(fields.get(column), str):
                fields[column] = str(folder / fields[column])
        pairs.append(Pair(_name(row, pairs, path), fields))
    return pairs


def _read_csv(path: Path) -> list[dict[str, Any]]:
    try:
        text = read_content(path).decode("utf-8-sig")
        header = text.partition("\n")[0]
        reader = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=header.count))
        lines = [[cell.strip() for cell in line] for line in reader]
    except UnicodeDecodeError as error:
        raise unfit(path, "is not in UTF-8", "Save it as CSV UTF-8.") from error
    except csv.Error as error:
        raise unfit(path, f"is no table ({error})", "Check its quotation marks, and save it as CSV UTF-8.") from error
    lines = [line for line in lines if any(line)]
    columns = lines[0] if lines else []
    twice = next((column for column in columns if column and columns.count(column) > 1), None)
    if twice is not None:
        raise unfit(path, f"has the column {shown(repr(twice))} twice", "Remove one.")
    long = next((number for number, line in enumerate(lines, 1) if any(line[len(columns) :])), None)
    if long is not None:
        raise unfit(path, f"has more cells than columns in line {long}", "Check its commas and quotation marks.")
    return [{column: cell for column, cell in zip(columns, line, strict=False) if cell} for line in lines[1:]]


def _read_json(path: Path) -> list[dict[str, Any]]:
    try:
        rows = parse_json(read_content(path))
    except ValueError as error:
        raise unfit(path, f"is not valid JSON ({error})", "Correct it.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise unfit(path, "is not a list of objects", "Write one object with fixed and moving for each pair.")
    return [{column: value for column, value in row.items() if value is not None} for row in rows]


def _parsed(value: Any, hint: Any) -> Any:
    """Return what the text of a cell means for a field; what makes no sense stays, to be refused with its pair."""
    if not isinstance(value, str):
        return value
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if bool in kinds:
        return TRUTH.get(value.lower(), value)
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(value)
            except ValueError:
                return value
    return value


def _name(row: dict[str, Any], others: list[Pair], path: Path) -> str:
    """Return the name of a pair's folder, free of what file systems cannot take."""
    taken = {pair.name.lower() for pair in others}
    if "name" in row:
        name = _safe(str(row["name"]))
        if name.lower() in taken:
            raise unfit(path, f"names two pairs {shown(repr(name))}", "Give each its own name.")
        return name
    stems = [
        re.sub(r"\.gz$", "", Path(str(row.get(side, "nothing"))).name).rpartition(".") for side in ("moving", "fixed")
    ]
    name = _safe(" to ".join(stem[0] or stem[2] for stem in stems))
    numbered = (name if number == 1 else f"{name} {number}" for number in range(1, len(others) + 2))
    return next(item for item in numbered if item.lower() not in taken)


def _safe(name: str) -> str:
    return re.sub(r"[^\w .+-]", "_", name).strip(" .") or "pair"
