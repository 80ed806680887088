"""Landmark files as Slicer writes them, and plain tables."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.volume import images, points

LPS = np.array([[-1.0, -2.0, 3.0], [4.5, -5.25, 6.0]])


def read(tmp_path: Path, name: str, text: str) -> np.ndarray:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return points.read_points(tmp_path / name)


def markups(**changes: Any) -> str:
    controls = [{"label": "a", "position": position, "positionStatus": "defined"} for position in LPS.tolist()]
    return json.dumps({"markups": [{"type": "Fiducial", "controlPoints": controls, **changes}]})


FCSV = (
    "# Markups fiducial file version = 5.12\n# CoordinateSystem = {frame}\n"
    "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    '1,{a},0,0,0,1,1,1,0,"b, c",,,2,0\n2,{b},0,0,0,1,1,1,0,d,,,{status},0\n\n'
)


class TestMarkups:
    def test_json_is_lps_unless_it_says_ras(self, tmp_path: Path) -> None:
        np.testing.assert_array_equal(read(tmp_path, "a.mrk.json", markups()), LPS)
        np.testing.assert_array_equal(read(tmp_path, "b.mrk.json", markups(coordinateSystem="LPS")), LPS)
        flipped = read(tmp_path, "c.mrk.json", markups(coordinateSystem="RAS"))
        np.testing.assert_array_equal(flipped, LPS * (-1, -1, 1))

    @pytest.mark.parametrize(
        ("unit", "factor"),
        [("mm", 1), ("um", 1e-3), ("m", 1e3), ("cm", 10), (["mm", "UCUM", "millimeter"], 1), (["um", "UCUM"], 1e-3)],
    )
    def test_json_unit_counts(self, tmp_path: Path, unit: str | list[str], factor: float) -> None:
        found = read(tmp_path, "a.mrk.json", markups(coordinateUnits=unit))
        np.testing.assert_allclose(found, LPS * factor, rtol=1e-12)

    def test_json_in_an_unknown_unit_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(errors.EngineError, match='their unit is "voxel"'):
            read(tmp_path, "a.mrk.json", markups(coordinateUnits="voxel"))

    def test_json_point_that_is_not_placed_is_refused(self, tmp_path: Path) -> None:
        unplaced = [{"position": "", "positionStatus": "undefined"}]
        with pytest.raises(errors.EngineError, match="not placed"):
            read(tmp_path, "a.mrk.json", markups(controlPoints=unplaced))

    @pytest.mark.parametrize("frame", ["LPS", "1", "RAS", "0"])
    def test_fcsv_follows_its_frame(self, tmp_path: Path, frame: str) -> None:
        stored = LPS * ((-1, -1, 1) if frame in ("RAS", "0") else 1)
        a, b = (",".join(str(number) for number in point) for point in stored.tolist())
        text = FCSV.format(frame=frame, a=a, b=b, status=2)
        np.testing.assert_array_equal(read(tmp_path, "a.fcsv", text), LPS)

    def test_fcsv_point_that_is_not_placed_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(errors.EngineError, match="not placed"):
            read(tmp_path, "a.fcsv", FCSV.format(frame="LPS", a="1,2,3", b="0,0,0", status=0))

    def test_csv_exported_by_slicer(self, tmp_path: Path) -> None:
        head = '"label","{}","{}","{}","defined","selected","visible","locked","description"\n'
        rows = '"a",-1,-2,3,1,1,1,0,""\n"b, c",4.5,-5.25,6,1,1,1,0,""\n'
        np.testing.assert_array_equal(read(tmp_path, "a.csv", head.format(*"lps") + rows), LPS)
        ras = read(tmp_path, "b.csv", head.format(*"ras") + rows)
        np.testing.assert_array_equal(ras, LPS * (-1, -1, 1))

    def test_csv_point_that_is_not_placed_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(errors.EngineError, match="not placed"):
            read(tmp_path, "a.csv", "label,l,p,s,defined\na,1,2,3,1\nb,0,0,0,0\n")


class TestTables:
    @pytest.mark.parametrize(
        "text",
        [
            "x,y,z\n-1,-2,3\n4.5,-5.25,6\n",
            "X;Y;Z\n-1;-2;3\n4.5;-5.25;6\n",
            "name\tx\ty\tz\na\t-1\t-2\t3\nb\t4.5\t-5.25\t6\n",
            "z,y,x\n3,-2,-1\n6,-5.25,4.5\n",
            "-1,-2,3\n4.5,-5.25,6",
            "-1 -2  3\n4.5 -5.25 6.0\n\n",
            "\ufeffx,y,z\r\n-1,-2,3\r\n4.5,-5.25,6\r\n",
            "# landmarks\n-1, -2, 3\n4.5, -5.25, 6\n",
        ],
    )
    def test_common_forms(self, tmp_path: Path, text: str) -> None:
        np.testing.assert_array_equal(read(tmp_path, "a.csv", text), LPS)

    def test_what_was_written_returns_exactly(self, tmp_path: Path) -> None:
        drawn = np.random.default_rng(0).normal(scale=100, size=(20, 3))
        images.write_points(tmp_path / "a.csv", drawn)
        np.testing.assert_array_equal(images.read_points(tmp_path / "a.csv"), drawn)

    @pytest.mark.mrml
    def test_slicer_imports_what_was_written(self, tmp_path: Path) -> None:
        slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")
        points.write_points(tmp_path / "a.csv", LPS)
        scene = slicer.vtkMRMLScene()
        scene.AddNewNodeByClass("vtkMRMLSelectionNode")
        logic = slicer.vtkSlicerMarkupsLogic()
        logic.SetMRMLScene(scene)
        node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
        assert logic.ImportControlPointsFromCSV(node, str(tmp_path / "a.csv"))
        ras = [node.GetNthControlPointPosition(index) for index in range(node.GetNumberOfControlPoints())]
        np.testing.assert_array_equal(ras, LPS * (-1, -1, 1))


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("a.csv", "1,2,3,4\n5,6,7,8\n"),
            ("a.csv", "x,y,z\n1,2\n"),
            ("a.csv", "a,b,c\n1,2,3\n"),
            ("a.csv", "1,2,3\n4,five,6\n"),
            ("a.mrk.json", "{"),
            ("a.mrk.json", "[]"),
            ("a.mrk.json", '{"markups": []}'),
            ("a.mrk.json", '{"markups": [{"controlPoints": [{"position": [1, 2]}]}]}'),
        ],
    )
    def test_unclear_content_is_unreadable(self, tmp_path: Path, name: str, text: str) -> None:
        with pytest.raises(errors.EngineError) as caught:
            read(tmp_path, name, text)
        assert caught.value.code == errors.INPUT_UNREADABLE
        assert caught.value.hint

    @pytest.mark.parametrize(
        ("name", "text"), [("a.csv", ""), ("a.csv", "x,y,z\n"), ("a.csv", "1,2,nan\n"), ("a.mrk.json", None)]
    )
    def test_no_or_endless_points_are_refused(self, tmp_path: Path, name: str, text: str | None) -> None:
        with pytest.raises(errors.EngineError) as caught:
            read(tmp_path, name, markups(controlPoints=[]) if text is None else text)
        assert caught.value.code == errors.INPUT_INVALID

    def test_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(errors.EngineError, match=r"nowhere\.csv does not exist"):
            points.read_points(tmp_path / "nowhere.csv")

    def test_binary_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_bytes(bytes(range(256)))
        with pytest.raises(errors.EngineError, match="no readable landmarks"):
            points.read_points(tmp_path / "a.csv")


class TestTolerances:
    def test_descriptions_tell_them(self, tmp_path: Path) -> None:
        path = tmp_path / "points.csv"
        images.write_points(path, np.arange(9.0).reshape(3, 3), ["2 mm", "apex, tolerance 0.5mm", ""])
        np.testing.assert_array_equal(images.read_markups(path).tolerances, [2.0, 0.5, np.nan])
        np.testing.assert_array_equal(images.read_points(path), np.arange(9.0).reshape(3, 3))

    def test_markups_tell_them(self, tmp_path: Path) -> None:
        controls = [{"position": [1, 2, 3], "description": "3 mm"}, {"position": [4, 5, 6]}]
        path = tmp_path / "points.mrk.json"
        path.write_text(json.dumps({"markups": [{"controlPoints": controls}]}))
        np.testing.assert_array_equal(images.read_markups(path).tolerances, [3.0, np.nan])

    def test_tables_without_descriptions_tell_none(self, tmp_path: Path) -> None:
        path = tmp_path / "points.csv"
        images.write_points(path, np.arange(9.0).reshape(3, 3))
        assert images.read_markups(path).tolerances is None
