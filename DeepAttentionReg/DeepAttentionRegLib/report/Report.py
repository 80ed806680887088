"""Reports on a deformation: HTML to read, CSV and JSON to compute with, PDF where Qt is there to make it.

written = Report.write(Deformation.ofTransform(transformNode), "report.html")
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import errors, files
from DeepAttentionRegEngine.protocol.privacy import csv_text
from DeepAttentionRegEngine.protocol.reporting import Pause, no_pause

from ..engine import Folders
from ..nodes.Deformation import Deformation
from . import Html
from .Content import Content, Table, gather

SUFFIXES = (".html", ".htm")
PDF_DPI = 150


def write(
    deformation: Deformation,
    path: str | Path,
    *,
    pdf: bool = False,
    pointRas: np.ndarray | None = None,
    pause: Pause = no_pause,
) -> list[Path]:
    """Write a report and, beside it under the same name, all its numbers as CSV and JSON: all files or none.

    :param deformation: the deformation.
    :param path: HTML file; existing files are replaced.
    :param pdf: also write a PDF file.
    :param pointRas: (3,) mm, where the slices of the pictures cross; None takes the center of the fixed volume.
    :param pause: called between pictures and what else takes long.
    :return: the files, the HTML file first.
    :raises ValueError: in a sentence, if there can be no report or a file cannot be written; then all are as they were.
    """
    path = Path(path)
    try:
        files.require_writable(path, SUFFIXES)
        content = gather(deformation, pointRas, pause)
        page = Html.write(content)
        contents = {
            path: page.encode(),
            path.with_suffix(".csv"): csvText(content).encode("utf-8-sig"),  # with the mark that Excel wants
            path.with_suffix(".json"): json.dumps(content.numbers, indent=2, allow_nan=False).encode("ascii"),
        }
        if pdf:
            contents[path.with_suffix(".pdf")] = makePdf(page)
        files.write_together(contents)
    except errors.EngineError as error:
        raise ValueError(str(error)) from error
    return list(contents)


def csvText(content: Content) -> str:
    """Return all numbers of a report as a table: where they are found in the JSON file, and their value."""
    rows: list[tuple[Any, ...]] = [("section", "item", "measure", "value")]
    for table in content.tables:
        rows += _cells(table)
    for section in ("jacobian", "displacement_mm", "maps", "registration"):
        rows += [(section, *cells) for cells in _numbers(content.numbers[section])]
    return csv_text(rows)


def _cells(table: Table) -> Iterator[tuple[str, str, str, float | str]]:
    """Yield the numbers of a table, each with the texts of its row; nothing for what could not be measured."""
    for row in table.rows:
        item = ", ".join(cell for cell in row if isinstance(cell, str) and cell)
        cells = [(column, cell) for column, cell in zip(table.columns, row, strict=True) if not isinstance(cell, str)]
        yield from ((table.title, item, column, "" if math.isnan(cell) else cell) for column, cell in cells)


def _numbers(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str, float]]:
    """Yield the numbers within, each with where it is: the way to it and its own name."""
    items = value.items() if isinstance(value, dict) else enumerate(value, start=1) if isinstance(value, list) else ()
    for key, item in items:
        yield from _numbers(item, (*path, str(key)))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield ".".join(path[:-1]), path[-1], value


def makePdf(page: str) -> bytes:
    """Return a page as PDF.

    :param page: HTML, from `Html.write`.
    :raises ValueError: in a sentence, if this application cannot make PDF.
    """
    refusal = _("This application cannot write PDF files; print the HTML file in a browser instead.")
    try:
        import qt
    except ImportError as error:
        raise ValueError(refusal) from error
    writerOf = getattr(qt, "QPdfWriter", None)
    if writerOf is None:
        raise ValueError(refusal)
    try:
        owned = Folders.makeFolder()
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    with owned as folder:
        path = folder.path / "report.pdf"
        writer = writerOf(str(path))
        writer.setPageSize(qt.QPageSize(qt.QPageSize.A4))
        writer.setResolution(PDF_DPI)
        writer.setPageMargins(qt.QMarginsF(0, 0, 0, 0))  # a printed document brings its own
        document = qt.QTextDocument()
        document.setHtml(page)
        document.print(writer) if hasattr(document, "print") else document.print_(writer)
        del writer  # completes the file
        content = path.read_bytes() if path.exists() else b""
    if not content.startswith(b"%PDF"):
        raise ValueError(refusal)
    return content
