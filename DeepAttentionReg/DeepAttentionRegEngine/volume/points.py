"""Landmarks from and to files."""

import csv
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..protocol import errors
from ..protocol.errors import shown
from ..protocol.files import MISSHAPEN, parse_json, read_content, unfit, write_file
from .geometry import flip_lps_ras
from .units import millimetres

CURVES = {"Curve": "curve", "ClosedCurve": "closed curve"}
DESCRIPTIONS = ("description", "desc")
TOLERANCE = re.compile(r"([0-9]+(?:\.[0-9]+)?) *mm")
SCHEMA = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"


@dataclass(frozen=True)
class Markups:
    """Points of one image.

    Attributes:
        points: `(N, 3)` LPS mm; of a curve those that it runs through.
        kind: "points", "curve" or "closed curve".
        tolerances: `(N,)` mm by which each may be missed, NaN where nothing is told of it; None: of none.
    """

    points: np.ndarray
    kind: str = "points"
    tolerances: np.ndarray | None = None


def read_points(path: str | Path) -> np.ndarray:
    """Return the points `(N, 3)` LPS mm of a file, and raise, as `read_markups`."""
    return read_markups(path).points


def read_markups(path: str | Path) -> Markups:
    """Read landmarks: Slicer markups (mrk.json, fcsv, exported csv) or a table of x, y, z in LPS mm (csv, txt).

    A description tells by how many mm its point may be missed, such as "2 mm". Only mrk.json tells curves.

    Raises:
        EngineError: If the file is missing, unreadable or without points, or a point is not placed.
    """
    try:
        text = read_content(path).decode("utf-8-sig")
        found, placed = (_from_json if str(path).lower().endswith(".json") else _from_table)(text)
    except MISSHAPEN as error:
        raise errors.EngineError(
            errors.INPUT_UNREADABLE,
            f"The file {shown(path)} holds no readable landmarks ({shown(error)}).",
            "Save them as mrk.json in Slicer, or as csv with the columns x, y, z in LPS mm.",
        ) from error
    if not len(found.points) or not placed or not np.isfinite(found.points).all():
        raise unfit(path, "holds no landmark, or one that is not placed", "Place all points and save again.")
    return found


def _tolerances(descriptions: Iterable[object]) -> np.ndarray:
    """Return the number of mm that each of some descriptions tells, NaN for none."""
    found = [TOLERANCE.search(str(text)) for text in descriptions]
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


def _from_json(text: str) -> tuple[Markups, bool]:
    """Return what a mrk.json file holds, and whether all points are placed."""
    markup = parse_json(text)["markups"][0]
    controls = markup["controlPoints"]
    if not all(control.get("positionStatus", "defined") == "defined" for control in controls):
        return Markups(np.zeros((0, 3))), False
    points = np.array([control["position"] for control in controls], dtype=float).reshape(-1, 3)
    unit = markup.get("coordinateUnits", "mm")
    unit = unit if isinstance(unit, str) else unit[0]  # a code with its standard and its meaning
    factor = millimetres(unit)
    if factor is None:
        msg = f'their unit is "{unit}"'
        raise ValueError(msg)
    points *= factor
    is_ras = str(markup.get("coordinateSystem", "LPS")) in ("RAS", "0")
    kind = CURVES.get(str(markup.get("type")), "points")
    told = _tolerances(control.get("description", "") for control in controls)
    return Markups(flip_lps_ras(points) if is_ras else points, kind, told), True


def _from_table(text: str) -> tuple[Markups, bool]:
    """Return what a fcsv, csv or txt file holds, and whether all points are placed."""
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
    column = next((header.index(name) for name in DESCRIPTIONS if name in header), None)
    told = None if column is None else _tolerances(row[column] if column < len(row) else "" for row in rows)
    return Markups(flip_lps_ras(array) if is_ras else array, tolerances=told), placed


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
