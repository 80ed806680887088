"""A report as one HTML file that needs no other: pictures are in it, and nothing is fetched from anywhere."""

import base64
import html
import math
from collections.abc import Iterable

from slicer.i18n import tr as _

from ..evidence import Pictures
from ..nodes import ErrorBound, Metrics
from .Content import Content, Table
from .Facts import KeyFigure
from .Figures import Figure, Legend

# Pixels of a printed page: what Qt makes of it knows little of style sheets.
PAGE_WIDTH, PAGE_HEIGHT, CAPTION_HEIGHT = 570, 900, 90
WIDEST_TABLE = 8  # columns of numbers
NEW_PAGE = "page-break-before: always;"
SWATCH = "&#160;" * 6
LONGEST_TABLE = 200  # rows
STYLE = """
body { font-family: "Helvetica Neue", Helvetica, Arial, sans-serif; font-size: 15px; line-height: 1.45; color: #1b1f24;
  background: #ffffff; max-width: 62em; margin: 2em auto; padding: 0 1.5em; }
h1 { font-size: 1.6em; margin-bottom: 0; }
h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #c9d1d9; }
h3 { font-size: 1em; margin-bottom: 0.3em; }
table { border-collapse: collapse; margin: 0.5em 0; }
th, td { text-align: left; vertical-align: top; padding: 0.2em 0.8em 0.2em 0; border-bottom: 1px solid #e4e8ec; }
th { font-weight: 600; }
td.number, th.number { text-align: right; }
table.data { font-size: 0.87em; }
td.heading { border: none; padding: 0; }
.wide { overflow-x: auto; }
.quiet { color: #57606a; }
.notice { border-left: 4px solid #d55e00; padding: 0.3em 0.8em; background: #fdf4ec; }
.failed { background: #b3261e; color: #ffffff; font-weight: 600; padding: 0.3em 0.8em; }
.figure { page-break-inside: avoid; }
.figure img.slices { width: 100%; height: auto; }
table.legend td { border: none; vertical-align: middle; padding: 0.2em 0.5em; }
@media print { body { font-size: 11px; max-width: none; margin: 0; } h2 { page-break-after: avoid; } }
""".strip()


def notice() -> str:
    """Return the sentence that every report begins with."""
    return _("Not a medical device. For research; not for diagnosis or treatment decisions.")


def write(content: Content) -> str:
    """Return a report as XHTML, which browsers and Qt show."""
    title = _("Deformation report: {name}").format(name=content.title)
    parts = [
        _tag("h1", title),
        _tag("p", _("Report made {time}").format(time=content.made), "quiet"),
        _tag("p", notice(), "notice"),
        *_verdict(content.verdict),
        *_warnings(content.warnings),
        *_keyFigures(content.keyFigures),
        *_facts(content.facts),
        *_figures(content.figures),
        *(part for number, table in enumerate(content.tables) for part in _table(table, isFirst=number == 0)),
        *_facts(content.details),
        _rows(_tag("h2", _("References")), [[f"<td>{_list(content.citations)}</td>"]], 1),
        _tag("p", notice(), "notice"),
    ]
    head = f'<meta charset="utf-8"/>\n<title>{html.escape(title)}</title>\n<style type="text/css">\n{STYLE}\n</style>'
    body = "\n".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def _tag(name: str, text: str, kind: str = "") -> str:
    """Return an element with a text, which may be anything."""
    attribute = f' class="{kind}"' if kind else ""
    return f"<{name}{attribute}>{html.escape(text)}</{name}>"


def _list(texts: Iterable[str]) -> str:
    return "<ul>" + "".join(_tag("li", text) for text in texts) + "</ul>"


def _rows(heading: str, rows: Iterable[Iterable[str]], columns: int = 2) -> str:
    """Return a table of cells that are elements already, under a heading."""
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f"<table>{_head(heading, columns)}{body}</table>"


def _head(headings: str, columns: int) -> str:
    """Return headings as the head of a table: so they are on the same page as its first row, also where Qt prints."""
    return f'<thead><tr><td class="heading" colspan="{columns}">{headings}</td></tr></thead>'


def _verdict(verdict: ErrorBound.ToldVerdict | None) -> list[str]:
    if verdict is None or not verdict.sentence:
        return []
    text = _("Expected error: {verdict}").format(verdict=verdict.sentence)
    kind = {ErrorBound.FAILED: "failed", ErrorBound.SUSPICIOUS: "notice"}.get(verdict.kind, "")
    return [_tag("p", text, kind), *([_tag("p", verdict.measured, "quiet")] if verdict.measured else [])]


def _warnings(warnings: list[str]) -> list[str]:
    if not warnings:
        return [_tag("h2", _("Warnings")), _tag("p", _("None from the registration."))]
    return [_tag("h2", _("Warnings")), _list(warnings)]


def _keyFigures(figures: list[KeyFigure]) -> list[str]:
    rows = [[_tag("td", figure.measure), _tag("td", figure.found)] for figure in figures]
    note = _(
        "None of these is a verdict: a deformation may have good figures and yet be wrong where nothing was measured."
    )
    return [_rows(_tag("h2", _("Key figures")), rows), _tag("p", note, "quiet")]


def _facts(sections: dict[str, dict[str, str]]) -> list[str]:
    parts = []
    for name, facts in sections.items():
        rows = ([_tag("th", label), _tag("td", text)] for label, text in facts.items())
        parts.append(_rows(_tag("h2", name), rows))
    return parts


def _image(data: bytes, kind: str, title: str, size: tuple[int, int]) -> str:
    source = base64.b64encode(data).decode("ascii")
    attributes = f'alt="{html.escape(title)}" width="{size[0]}" height="{size[1]}"'
    return f'<img class="{kind}" src="data:image/png;base64,{source}" {attributes}/>'


def _figures(figures: list[Figure]) -> list[str]:
    """Return the pictures, in print as many on a page as fit."""
    parts, used = [f'<h2 style="{NEW_PAGE}">{html.escape(_("Pictures"))}</h2>'], 0
    for figure in figures:
        width, height = figure.size
        shown = PAGE_WIDTH, round(height * PAGE_WIDTH / width)
        used += shown[1] + CAPTION_HEIGHT
        isNext = used > PAGE_HEIGHT
        if isNext:
            used = shown[1] + CAPTION_HEIGHT
        heading = f'<h3 style="{NEW_PAGE if isNext else ""}">{html.escape(figure.title)}</h3>'
        picture = _image(figure.image, "slices", figure.title, shown)
        legend = "" if figure.legend is None else _legend(figure.legend)
        parts.append(f'<div class="figure">{heading}<div style="line-height: 100%;">{picture}</div>{legend}</div>')
    return parts


def _legend(legend: Legend) -> str:
    cells = [_tag("td", f"{legend.title}:")]
    if legend.image is not None:
        bar = _image(legend.image, "bar", legend.title, Pictures.LEGEND_SIZE)
        cells += [_tag("td", legend.low), f"<td>{bar}</td>", _tag("td", legend.high)]
    for color, meaning in legend.colors:
        swatch = f'<td style="background-color: {color}; color: {color};">{SWATCH}</td>'
        cells += [swatch, _tag("td", meaning)]
    return f'<table class="legend"><tr>{"".join(cells)}</tr></table>'


def _table(table: Table, *, isFirst: bool = False) -> list[str]:
    isNumber = [not isinstance(cell, str) for cell in table.rows[0]]
    texts = [index for index, number in enumerate(isNumber) if not number]
    numbers = [index for index, number in enumerate(isNumber) if number]
    notes = [table.note] if table.note else []
    if len(table.rows) > LONGEST_TABLE:
        text = _("The first {shown} of {count} rows; the files beside this one hold all.")
        notes.append(text.format(shown=LONGEST_TABLE, count=len(table.rows)))
    # Wide tables would not fit on paper, so their columns are shared among several.
    share = math.ceil(len(numbers) / max(1, math.ceil(len(numbers) / WIDEST_TABLE)))
    parts = [numbers[start : start + share] for start in range(0, len(numbers), share)] if numbers else [[]]
    headings = [(_tag("h2", _("Tables")) if isFirst else "") + _tag("h3", table.title), *[""] * (len(parts) - 1)]
    data = [_columns(heading, table, sorted(texts + part)) for heading, part in zip(headings, parts, strict=True)]
    return [*data, *(_tag("p", note, "quiet") for note in notes)]


def _columns(heading: str, table: Table, indices: list[int]) -> str:
    """Return some columns of a table, under a heading if there is one."""
    kinds = {index: "" if isinstance(table.rows[0][index], str) else "number" for index in indices}
    header = "".join(_tag("th", table.columns[index], kind) for index, kind in kinds.items())
    rows = ["".join(_cell(row[index], kind) for index, kind in kinds.items()) for row in table.rows[:LONGEST_TABLE]]
    body = "".join(f"<tr>{row}</tr>" for row in [header, *rows])
    head = _head(heading, len(indices)) if heading else ""
    return f'<div class="wide"><table class="data">{head}{body}</table></div>'


def _cell(cell: str | float, kind: str) -> str:
    return _tag("td", cell if isinstance(cell, str) else Metrics.numberText(cell), kind)
