"""Landmarks from and to files."""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..protocol import errors
from ..protocol.errors import shown
from ..protocol.files import MISSHAPEN, parse_json, read_content, unfit, write_file
from .geometry import flip_lps_ras
from .units import millimetres

DESCRIPTIONS = ("description", "desc")
TOLERANCE = re.compile(r"([0-9]+(?:\.[0-9]+)?) *mm")
SCHEMA = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"


def read_points(path: str | Path) -> np.ndarray:
    """Read landmarks: Slicer markups (mrk.json, fcsv, exported csv) or a table of x, y, z in LPS mm (csv, txt).

    Returns:
        `(N, 3)` LPS mm.

    Raises:
        EngineError: If the file is missing, unreadable or without points, or a point is not placed.
    """
    try:
        text = read_content(path).decode("utf-8-sig")
        points, placed = (_markups_points if str(path).lower().endswith(".json") else _table_points)(text)
    except MISSHAPEN as error:
        raise errors.EngineError(
            errors.INPUT_UNREADABLE,
            f"The file {shown(path)} holds no readable landmarks ({shown(error)}).",
            "Save them as mrk.json in Slicer, or as csv with the columns x, y, z in LPS mm.",
        ) from error
    if not len(points) or not placed or not np.isfinite(points).all():
        raise unfit(path, "holds no landmark, or one that is not placed", "Place all points and save again.")
    return points


def kind_of_points(path: str | Path) -> str:
    """Return what a readable file of landmarks holds: "points", "curve" or "closed curve".

    Only mrk.json files of Slicer tell.
    """
    if not str(path).lower().endswith(".json"):
        return "points"
    kind = parse_json(read_content(path).decode("utf-8-sig"))["markups"][0].get("type")
    return {"Curve": "curve", "ClosedCurve": "closed curve"}.get(kind, "points")


def read_tolerances(path: str | Path) -> np.ndarray | None:
    """Return how far in mm each landmark of a readable file may be missed, where its description tells, else NaN.

    A description tells it as a number of mm, such as "2 mm". None if the file has no descriptions.
    """
    text = read_content(path).decode("utf-8-sig")
    if str(path).lower().endswith(".json"):
        texts = [control.get("description", "") for control in parse_json(text)["markups"][0]["controlPoints"]]
    else:
        header, rows = _table(text)
        column = next((name for name in DESCRIPTIONS if name in (header or ())), None)
        if header is None or column is None:
            return None
        place = header.index(column)
        texts = [row[place] if place < len(row) else "" for row in rows]
    found = [TOLERANCE.search(str(text)) for text in texts]
    return np.array([float(match[1]) if match else np.nan for match in found])


def write_curve(path: str | Path, points_lps: np.ndarray, *, closed: bool) -> None:
    """Write a curve through points `(N, 3)` LPS mm as Slicer's Markups module does (mrk.json).

    Raises:
        EngineError: If it cannot be written; an existing file is then untouched.
    """
    controls = [{"position": point, "positionStatus": "defined"} for point in np.asarray(points_lps, float).tolist()]
    kind = "ClosedCurve" if closed else "Curve"
    markup = {"type": kind, "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": controls}
    text = json.dumps({"@schema": SCHEMA, "markups": [markup]})
    write_file(
        path,
        (".json",),
        lambda name: Path(name).write_text(text, encoding="ascii"),
        lambda name: Path(name).read_text(encoding="ascii") == text,
    )


def _markups_points(text: str) -> tuple[np.ndarray, bool]:
    """Return the points `(N, 3)` LPS of a mrk.json file, and whether all are placed."""
    markup = parse_json(text)["markups"][0]
    controls = markup["controlPoints"]
    if not all(control.get("positionStatus", "defined") == "defined" for control in controls):
        return np.zeros((0, 3)), False
    points = np.array([control["position"] for control in controls], dtype=float).reshape(-1, 3)
    unit = markup.get("coordinateUnits", "mm")
    unit = unit if isinstance(unit, str) else unit[0]  # a code with its standard and its meaning
    factor = millimetres(unit)
    if factor is None:
        msg = f'their unit is "{unit}"'
        raise ValueError(msg)
    points *= factor
    is_ras = str(markup.get("coordinateSystem", "LPS")) in ("RAS", "0")
    return flip_lps_ras(points) if is_ras else points, True


def _table_points(text: str) -> tuple[np.ndarray, bool]:
    """Return the points `(N, 3)` LPS of a fcsv, csv or txt file, and whether all are placed."""
    comments = [line.replace(" ", "").lower() for line in text.splitlines() if line.startswith("#")]
    is_fcsv = any(line.startswith("#columns=") for line in comments)
    header, rows = _table(text)
    names = _coordinate_columns(header, rows)
    header = header or list(names)
    points = [[float(row[header.index(name)]) for name in names] for row in rows]
    if is_fcsv:  # Slicer writes the status of a point behind the columns it names; 2 is placed
        placed = all(row[len(header)] == "2" for row in rows if len(row) > len(header))
    else:
        placed = "defined" not in header or all(row[header.index("defined")] == "1" for row in rows)
    is_ras = names == "ras" or "#coordinatesystem=ras" in comments or "#coordinatesystem=0" in comments
    array = np.array(points).reshape(-1, 3)
    return flip_lps_ras(array) if is_ras else array, placed


def _table(text: str) -> tuple[list[str] | None, list[list[str]]]:
    """Return the names of the columns of a fcsv, csv or txt file, None if it tells none, and the cells of its rows."""
    lines = [line for line in text.splitlines() if line.strip()]
    rows = _cells([line for line in lines if not line.startswith("#")])
    told = (line.replace(" ", "").lower() for line in lines if line.startswith("#"))
    header = next((line.split("=")[1].split(",") for line in told if line.startswith("#columns=")), None)
    if header is None and rows and not any(_is_number(cell) for cell in rows[0]):
        header = [cell.strip().lower() for cell in rows.pop(0)]
    return header, rows


def _cells(lines: list[str]) -> list[list[str]]:
    """Split lines at the first of comma, semicolon and tab that occurs, else at spaces."""
    separator = next((mark for mark in ",;\t" if lines and mark in lines[0]), None)
    return [line.split() for line in lines] if separator is None else list(csv.reader(lines, delimiter=separator))


def _coordinate_columns(header: list[str] | None, rows: list[list[str]]) -> str:
    """Return the names of the three columns with coordinates, a letter each."""
    if header is None and all(len(row) == 3 for row in rows):
        return "xyz"
    for names in ("xyz", "lps", "ras"):
        if header is not None and set(names) <= set(header):
            return names
    msg = "its columns must be three, or be named x, y, z or l, p, s or r, a, s"
    raise ValueError(msg)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def write_points(path: str | Path, points_lps: np.ndarray, descriptions: Sequence[str] = ()) -> None:
    """Write landmarks `(N, 3)` LPS mm as a table that Slicer's Markups module imports too.

    Args:
        path: The file (.csv).
        points_lps: Where they are.
        descriptions: What to say of each, without commas; none for nothing.

    Raises:
        EngineError: If it cannot be written; an existing file is then untouched.
    """
    rows = [f"P{number},{x!r},{y!r},{z!r}" for number, (x, y, z) in enumerate(np.asarray(points_lps).tolist(), 1)]
    if any(descriptions):
        rows = [f"{row},{said.replace(',', ' ')}" for row, said in zip(rows, descriptions, strict=True)]
    text = "\n".join(["label,l,p,s" + ",description" * any(descriptions), *rows, ""])
    write_file(
        path,
        (".csv",),
        lambda name: Path(name).write_text(text, encoding="ascii"),
        lambda name: Path(name).read_text(encoding="ascii") == text,
    )
