"""The table of a registration."""

import math
from types import SimpleNamespace

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import fake_engine
import mrml_scene
from DeepAttentionRegLib.nodes import Metrics

pytestmark = pytest.mark.mrml


@pytest.fixture(scope="module")
def scene() -> slicer.vtkMRMLScene:
    return mrml_scene.boot().scene


def rows_of(table) -> list[list]:
    cells = [[table.GetValue(row, column) for column in range(6)] for row in range(table.GetNumberOfRows())]
    return [[cell.ToDouble() if cell.IsNumeric() else cell.ToString() for cell in row] for row in cells]


@pytest.fixture
def rows() -> list[list]:
    return rows_of(Metrics.makeTable(fake_engine.VALUES, {"1": "Liver", "2": "Heart"}))


def row_of(rows: list[list], measure: str, structure: str) -> list:
    return next(row for row in rows if row[:2] == [measure, structure])


class TestTable:
    def test_dice_has_a_row_for_each_structure_and_the_mean_first(self, rows):
        assert [row[1] for row in rows if row[0] == "Dice overlap"] == ["Mean", "Liver", "Heart"]

    def test_row_tells_before_aligned_and_after(self, rows):
        assert row_of(rows, "Dice overlap", "Liver")[2:5] == [0.5, 0.6, 0.9]

    def test_value_that_could_not_be_measured_is_nan(self, rows):
        assert all(math.isnan(value) for value in row_of(rows, "Dice overlap", "Heart")[2:5])

    def test_landmark_error_is_in_mm(self, rows):
        assert row_of(rows, "Landmark error, mean", "Landmarks")[2:] == [8.0, 6.0, 1.0, "mm"]

    def test_field_has_values_after_only(self, rows):
        before, aligned, after, unit = row_of(rows, "Displacement, maximum", "")[2:]
        assert math.isnan(before)
        assert math.isnan(aligned)
        assert (after, unit) == (3.0, "mm")

    def test_label_without_name_shows_its_value(self):
        rows = rows_of(Metrics.makeTable(fake_engine.VALUES, {}))
        assert row_of(rows, "Dice overlap", "1")

    def test_registration_without_references_still_has_a_table(self):
        values = {name: fake_engine.VALUES[name] for name in ("jacobian", "displacement_mm")}
        rows = rows_of(Metrics.makeTable({**values, "before": {}, "aligned": {}, "after": {}}, {}))
        assert {row[0] for row in rows} >= {"Folded voxels", "Displacement, mean"}


class TestNode:
    def test_table_survives_the_scene(self, scene, tmp_path):
        Metrics.createTable(Metrics.makeTable(fake_engine.VALUES, {"1": "Liver"}), "Table")
        mrml_scene.save_and_reload(scene, tmp_path)
        table = scene.GetFirstNodeByName("Table").GetTable()
        assert table.GetColumnName(4) == "After"
        assert table.GetValue(1, 4).ToDouble() == 0.9


class TestShow:
    def test_table_is_in_the_view_that_its_layout_makes(self, monkeypatch):
        application = mrml_scene.boot()
        layout = slicer.vtkMRMLLayoutLogic()
        layout.SetMRMLScene(application.scene)
        monkeypatch.setattr(slicer, "app", SimpleNamespace(applicationLogic=lambda: application.logic), raising=False)
        node = Metrics.createTable(Metrics.makeTable(fake_engine.VALUES, {}), "Numbers")
        assert not slicer.util.getNodesByClass("vtkMRMLTableViewNode", application.scene)
        Metrics.showTable(node)
        (view,) = slicer.util.getNodesByClass("vtkMRMLTableViewNode", application.scene)
        assert view.GetTableNode() is node
        layout.SetMRMLScene(None)
