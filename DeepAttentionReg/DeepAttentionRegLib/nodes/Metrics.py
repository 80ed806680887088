"""The engine's numbers as a table: one row a measure, before and after."""

import math
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

STATES = ("before", "aligned", "after")
# Name in the engine's values, then unit; the names in the table are in `_measureName`.
OVERLAPS = {"dice": "", "hd95_mm": "mm", "assd_mm": "mm"}
LANDMARK_STATISTICS = ("mean", "max")
FIELD_MEASURES = (
    ("displacement_mm", "mean", "mm"),
    ("displacement_mm", "max", "mm"),
    ("jacobian", "minimum", ""),
    ("jacobian", "maximum", ""),
    ("jacobian", "sd_log_jacobian", ""),
    ("jacobian", "folds", "voxels"),
    ("jacobian", "fold_percent", "%"),
)
# Of segments that were to keep their shape or volume: unit, and how much of it one is.
HELD_MEASURES = {"turned_deg": ("degrees", 1), "moved_mm": ("mm", 1), "bent_mm": ("mm", 1), "volume_change": ("%", 100)}


def makeTable(values: dict[str, Any], labelNames: dict[str, str]) -> vtk.vtkTable:
    """Return the table of a registration, outside of any scene.

    Columns: Measure, Structure, Before (the volumes as they were), Aligned (after the linear alignment alone), After,
    Unit. A number that does not apply is NaN.

    :param values: `values` of the engine's result.
    :param labelNames: name of the structure by label value, as text, where the values tell no names.
    """
    rows: list[tuple[str, str, list[float], str]] = []
    for measure, unit in OVERLAPS.items():
        byState = [values.get(state, {}).get(measure, {}) for state in STATES]
        found = dict.fromkeys(label for scores in byState for label in scores)
        for label in sorted(found, key=lambda label: label != "mean"):
            structure = _("Mean") if label == "mean" else labelNames.get(label, label)
            rows.append((measure, structure, [_number(scores.get(label)) for scores in byState], unit))
    for statistic in LANDMARK_STATISTICS:
        errorsMm = [values.get(state, {}).get("tre_mm", {}).get(statistic) for state in STATES]
        if any(error is not None for error in errorsMm):
            rows.append((f"tre_mm {statistic}", _("Landmarks"), [_number(error) for error in errorsMm], "mm"))
    for held in values.get("held_segments", []):
        for name, (unit, factor) in HELD_MEASURES.items():
            if name in held:
                title = labelNames.get(held["name"], held["name"])
                rows.append((f"held {name}", title, [math.nan, math.nan, factor * held[name]], unit))
    for group, name, unit in FIELD_MEASURES:
        if name in values.get(group, {}):
            rows.append((f"{group} {name}", "", [math.nan, math.nan, _number(values[group][name])], unit))
    return _fromRows(rows)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _measureName(measure: str) -> str:
    return {
        "dice": _("Dice overlap"),
        "hd95_mm": _("Surface distance, 95th percentile"),
        "assd_mm": _("Surface distance, mean"),
        "tre_mm mean": _("Landmark error, mean"),
        "tre_mm max": _("Landmark error, maximum"),
        "held turned_deg": _("Held segment, turned by"),
        "held moved_mm": _("Held segment, moved by"),
        "held bent_mm": _("Held segment, bent by at most"),
        "held volume_change": _("Held segment, change of volume"),
        "displacement_mm mean": _("Displacement, mean"),
        "displacement_mm max": _("Displacement, maximum"),
        "jacobian minimum": _("Jacobian determinant, minimum"),
        "jacobian maximum": _("Jacobian determinant, maximum"),
        "jacobian sd_log_jacobian": _("Jacobian determinant, deviation of the logarithm"),
        "jacobian folds": _("Folded voxels"),
        "jacobian fold_percent": _("Folded voxels, share"),
    }[measure]


def _fromRows(rows: list[tuple[str, str, list[float], str]]) -> vtk.vtkTable:
    states = {_("Before"): 0, _("Aligned"): 1, _("After"): 2}
    columns: dict[str, list[str] | list[float]] = {
        _("Measure"): [_measureName(row[0]) for row in rows],
        _("Structure"): [row[1] for row in rows],
        **{name: [row[2][index] for row in rows] for name, index in states.items()},
        _("Unit"): [row[3] for row in rows],
    }
    return tableOf(columns)


def tableOf(columns: dict[str, list[str] | list[float]]) -> vtk.vtkTable:
    """Return a table of columns of texts or numbers by their names, outside of any scene."""
    table = vtk.vtkTable()
    for name, cells in columns.items():
        column = vtk.vtkStringArray() if any(isinstance(cell, str) for cell in cells) else vtk.vtkDoubleArray()
        column.SetName(name)
        for cell in cells:
            column.InsertNextValue(cell)
        table.AddColumn(column)
    return table


def createTable(table: vtk.vtkTable, name: str, node: slicer.vtkMRMLTableNode | None = None) -> slicer.vtkMRMLTableNode:
    """Put a table from `makeTable` into a node.

    :param table: what to show.
    :param name: name of a new node.
    :param node: existing node to write into; None adds one.
    """
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", name)
    node.SetAndObserveTable(table)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)
    return node


def rowsOf(node: slicer.vtkMRMLTableNode) -> list[dict[str, Any]]:
    """Return the rows of a table, each by the names of its columns, whose cells are texts or numbers."""
    table = node.GetTable()
    columns = [table.GetColumn(index) for index in range(table.GetNumberOfColumns())]
    return [{column.GetName(): column.GetValue(row) for column in columns} for row in range(table.GetNumberOfRows())]


def numberText(value: float, *, signed: bool = False) -> str:
    """Return a number for people, to three digits; a dash for what could not be measured.

    :param value: the number.
    :param signed: with a sign also if it is positive.
    """
    if math.isnan(value):
        return "-"
    size = abs(value)
    decimals = 0 if value == int(value) else 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    rounded = round(value, decimals) + 0.0  # not "-0"
    return f"{rounded:+.{decimals}f}" if signed else f"{rounded:.{decimals}f}"


def showTable(node: slicer.vtkMRMLTableNode) -> None:
    """Show a table in the layout, beside the slice views."""
    # First the layout, which makes the view that the table goes to.
    layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    if layout is not None:
        layout.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpTableView)
    logic = slicer.app.applicationLogic()
    logic.GetSelectionNode().SetActiveTableID(node.GetID())
    logic.PropagateTableSelection()
