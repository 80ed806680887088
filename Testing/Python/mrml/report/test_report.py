"""The report on a deformation: complete, self-contained, well formed, and written as a whole or not at all."""

import base64
import csv
import html
import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import fake_engine
import inspection_cases as cases
import mrml_cases
import mrml_scene
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegLib.evidence import Landmarks, Maps, SegmentNodes, Segments
from DeepAttentionRegLib.nodes import Deformation, Record
from DeepAttentionRegLib.nodes.Overlays import Map
from DeepAttentionRegLib.report import Content as ReportContent
from DeepAttentionRegLib.report import Html as ReportHtml
from DeepAttentionRegLib.report import Report

pytestmark = pytest.mark.mrml

NAME = 'CT <b> & "1"'
PNG = b"\x89PNG\r\n"


@pytest.fixture
def deformation(inputs):
    """What the stand-in of the engine found for two volumes, one of a name that could break a page."""
    inputs.fixedVolume.SetName(NAME)
    outcome = mrml_cases.register(inputs, recursions=2, seed=7)
    return Deformation.ofTransform(outcome.transformNode)


@pytest.fixture
def judged(deformation, inputs):
    """The same, with segments and landmarks compared and a map made."""
    geometry = Maps.compute(deformation, Map.JACOBIAN)[1]
    masks = {"Liver & co": cases.box(geometry, (1, 1, 1), (12, 9, 7))}
    parts = [cases.add_segments(volume, masks) for volume in (deformation.fixed, deformation.moving)]
    SegmentNodes.create(Segments.compare(deformation, *parts))
    points = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", side) for side in "FM"]
    for node in points:
        node.AddControlPoint(*(geometry.center_lps * (-1, -1, 1)), "Apex")
    Landmarks.create(Landmarks.measure(deformation, *points))
    Maps.create(deformation, Map.LOG_JACOBIAN)
    return deformation


@pytest.fixture(scope="module")
def shelf() -> dict[str, Path]:
    """The files of a report by their endings, once it is written: tests that only read share one."""
    return {}


@pytest.fixture
def written(request, shelf, tmp_path_factory) -> dict[str, Path]:
    if not shelf:
        paths = Report.write(request.getfixturevalue("judged"), tmp_path_factory.mktemp("report") / "report.html")
        shelf.update({path.suffix: path for path in paths})
    return shelf


@pytest.fixture
def page(written) -> ET.Element:
    return ET.parse(written[".html"]).getroot()


def text_of(page: ET.Element) -> str:
    return " ".join(" ".join(page.itertext()).split())


def facts_of(page: ET.Element) -> dict[str, str]:
    """Return the rows of two cells."""
    rows = [["".join(cell.itertext()) for cell in row] for row in page.iter("tr")]
    return {row[0]: row[1] for row in rows if len(row) == 2}


class TestPage:
    def test_nothing_is_fetched_from_anywhere(self, written):
        text = written[".html"].read_text(encoding="utf-8")
        assert not re.findall(r"https?:|url\(|@import|<script|<link|<a ", text)

    def test_pictures_are_within(self, page):
        sources = [image.get("src") for image in page.iter("img")]
        assert len(sources) > 5
        for source in sources:
            kind, data = source.split(",")
            assert kind == "data:image/png;base64"
            assert base64.b64decode(data).startswith(PNG)

    def test_every_picture_says_what_it_shows(self, page):
        assert all(image.get("alt") for image in page.iter("img"))

    def test_names_are_shown_as_they_are(self, page):
        assert NAME in text_of(page)
        assert "Liver & co" in text_of(page)

    def test_says_that_it_is_no_medical_device(self, page):
        assert text_of(page).count("Not a medical device.") == 2

    def test_title_names_the_deformation(self, page, judged):
        assert judged.name in page.findtext("head/title")

    def test_warnings_are_told(self, page):
        assert "A warning." in text_of(page)

    def test_method_weights_and_settings_are_told(self, page):
        facts = facts_of(page)
        assert facts["Method"] == "rman"  # of the settings, which come last
        assert facts["Recursions"] == "2"
        assert facts["Seed"] == "7"
        assert "RMAn-style recursive mutual attention network" in text_of(page)

    def test_volumes_are_told_with_their_voxels(self, page):
        assert facts_of(page)["Fixed"] == f"{NAME}: 14 x 11 x 9 voxels of 1.1 x 0.7 x 2.3 mm"
        assert facts_of(page)["Transform"] == "a grid of 15 x 12 x 8 vectors, 1.81 x 1.81 x 1.81 mm apart"

    def test_method_is_cited(self, page):
        assert any("MIUA 2022" in (item.text or "") for item in page.iter("li"))

    def test_headings_stay_with_what_follows_when_printed(self, page):
        headings = {"".join(item.itertext()) for item in page.iter() if item.tag in ("h2", "h3")}
        kept = {"".join(item.itertext()) for head in page.iter("thead") for item in head.iter() if item.tag[0] == "h"}
        pictures = {"".join(item.itertext()) for box in page.iter("div") for item in box.iter("h3")}
        assert headings - kept - pictures == {"Warnings", "Pictures"}  # on the first page, and on top of one

    def test_long_table_is_cut_and_says_so(self, deformation):
        table = ReportContent.Table("Long", ["Name", "Value"], [[str(row), float(row)] for row in range(300)], "")
        (cut,) = [part for part in ReportHtml._table(table) if "first 200 of 300 rows" in part]
        assert cut

    def test_wide_table_is_shared_among_several(self, page):
        widths = [len(table.find("tr")) for table in page.iter("table") if table.get("class") == "data"]
        assert max(widths) <= ReportHtml.WIDEST_TABLE + 2
        rows = [cell.text for cell in page.iter("td")]
        assert rows.count("Liver & co") == 3


class TestSecrets:
    """What could tell of the computer or of the patient's folder, or run something, is in no file of a report."""

    EVIL = "=HYPERLINK(1) <script>alert(1)</script><a href='javascript:alert(1)'>/srv/Smith/ct</a>"

    @pytest.fixture
    def files(self, judged, tmp_path) -> dict[str, str]:
        judged.transformNode.SetName(self.EVIL)
        Record.attached(judged.transformNode, "Segments").SetName("-segments")
        Record.attached(judged.transformNode, "Landmarks").SetDescription(f"See {Path.home() / 'notes.txt'}.")
        record = Record.recall(judged.transformNode)
        record.settings.update(weights="/srv/Smith/own.pt", method=str(Path.home() / "mine.json"))
        record.warnings.append(r"The file C:\Smith\ct.nrrd is doubtful.")
        judged.transformNode.SetAttribute(Record.ATTRIBUTE, json.dumps(asdict(record)))  # as former releases did
        paths = Report.write(judged, tmp_path / "report.html")
        return {path.suffix: path.read_text(encoding="utf-8-sig") for path in paths}

    def test_folders_are_told_nowhere(self, files, tmp_path):
        texts = [html.unescape(text) for text in files.values()]
        assert not [word for word in ("Smith", str(Path.home()), str(tmp_path)) for text in texts if word in text]
        assert "own.pt" in texts[0]
        assert "The file ct.nrrd is doubtful." in texts[0]

    def test_scripts_and_links_are_texts(self, files):
        page = ET.fromstring(files[".html"])
        assert not [part.tag for part in page.iter() if part.tag in ("script", "a", "link", "iframe", "object")]
        assert "<script>alert(1)</script>" in text_of(page)

    def test_no_cell_is_a_formula(self, files):
        rows = list(csv.reader(io.StringIO(files[".csv"])))
        cells = [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@"))]
        assert "'-segments" in {row[0] for row in rows}
        assert all(float(cell) < 0 for cell in cells)
        assert cells


class TestKeyFigures:
    def figures(self, deformation) -> dict[str, str]:
        figures = ReportContent.gather(deformation).keyFigures
        return {figure.measure.split(" (")[0]: figure.found for figure in figures}

    def test_they_are_no_verdict(self, page):
        assert "None of these is a verdict" in text_of(page)

    def test_figures_are_those_of_the_tables(self, judged):
        figures = self.figures(judged)
        (row,) = cases.rows_of(Record.attached(judged.transformNode, "Segments"))
        assert figures["Dice similarity coefficient"].startswith(f"mean {row['Dice after']:.3f}, worst")
        error = cases.rows_of(Record.attached(judged.transformNode, "Landmarks"))[0]["Error after (mm)"]
        assert figures["Target registration error of landmarks"].startswith(f"mean {error:.2f} mm")

    def test_without_tables_they_are_those_of_the_registration(self, deformation):
        figures = self.figures(deformation)
        assert figures["Dice similarity coefficient"] == "mean 0.900, worst segment 0.900"
        assert figures["Target registration error of landmarks"] == "mean 1 mm, at most 2 mm"

    def test_what_was_not_measured_is_said_to_be_so(self, deformation):
        assert self.figures(deformation)["Consistency, forth and back"] == "not measured"

    def test_consistency_is_that_of_the_map(self, deformation):
        Maps.put(deformation, Map.INCONSISTENCY, *(Maps.compute(deformation, Map.MAGNITUDE)))
        assert self.figures(deformation)["Consistency, forth and back"].endswith("mm")


class TestExpectedError:
    def page(self, inputs, monkeypatch, mode: str) -> tuple[str, ReportContent.Content]:
        monkeypatch.setenv("FAKE_ENGINE", mode)
        content = ReportContent.gather(Deformation.ofTransform(mrml_cases.register(inputs).transformNode))
        return text_of(ET.fromstring(ReportHtml.write(content))), content

    def bound(self, content: ReportContent.Content) -> str:
        return next(figure.found for figure in content.keyFigures if figure.measure == "Error, 95 % within")

    def test_verdict_comes_first_with_what_it_is_worth(self, page):
        text = text_of(page)
        verdict = f"Expected error: Nothing suspicious was found. {fake_engine.MEASURED}"
        assert 0 < text.index(verdict) < text.index("A warning.")

    def test_failure_is_seen(self, inputs, monkeypatch):
        text, content = self.page(inputs, monkeypatch, "probably failed")
        assert "Expected error: The registration probably failed" in text
        assert '<p class="failed">' in ReportHtml.write(content)

    def test_bound_is_a_key_figure_and_a_picture(self, page):
        assert facts_of(page)["Error, 95 % within"] == "median 3 mm, 95th percentile 4.50 mm"
        assert [image for image in page.iter("img") if image.get("alt").startswith("Error, 95 % within (mm) (axial")]

    def test_numbers_are_in_the_files(self, written):
        numbers = json.loads(written[".json"].read_text(encoding="ascii"))
        assert numbers["registration"]["values"]["expected_error"] == fake_engine.UNREMARKABLE
        assert numbers["maps"]["Error"]["min"] > 0
        assert [
            row["Error within (mm)"] for name, rows in numbers["tables"].items() if "landmarks" in name for row in rows
        ]
        text = written[".csv"].read_text(encoding="utf-8-sig")
        assert "registration,values.expected_error.mm,median,3.0" in text
        assert 'Liver & co,"Error within, p95 (mm)",' in text

    def test_unknown_error_is_explained(self, inputs, monkeypatch):
        text, content = self.page(inputs, monkeypatch, "error not known")
        assert "Expected error: The errors of this method were not measured." in text
        assert self.bound(content) == "not known"
        assert not [figure for figure in content.figures if figure.title.startswith("Error")]

    def test_record_of_a_former_release_tells_nothing(self, scene, oblique_geometry):
        deformation = cases.add_deformation(oblique_geometry, np.zeros((*oblique_geometry.shape, 3)))
        Record.remember(deformation.transformNode, Record.Record(values={"device": "cpu"}))
        content = ReportContent.gather(deformation)
        assert "Expected error" not in ReportHtml.write(content)
        assert self.bound(content) == "not known"


class TestFigures:
    def titles(self, deformation) -> list[str]:
        return [figure.title.split(" (")[0] for figure in ReportContent.gather(deformation).figures]

    def test_volumes_and_maps_are_always_there(self, deformation):
        assert self.titles(deformation)[:7] == [
            "Fixed volume",
            "Moving volume before",
            "Moving volume after",
            "Both volumes before",
            "Both volumes after",
            "Jacobian",
            "Displacement",
        ]

    def test_what_was_made_to_judge_it_is_there_too(self, judged):
        titles = self.titles(judged)
        assert {"Log Jacobian", "Segments before", "Segments after"} <= set(titles)

    def test_last_one_is_taken_where_the_volume_changes_most(self, deformation):
        array, geometry = Maps.compute(deformation, Map.JACOBIAN)
        k, j, i = np.unravel_index(np.abs(np.log(np.maximum(array, 1e-6))).argmax(), array.shape)
        r, a, s = geometry.index_to_lps(np.array([[i, j, k]]))[0] * (-1, -1, 1)
        last = self.titles(deformation)[-1]
        numbers = [float(text) for text in re.findall(r"-?\d+\.?\d*", last)]
        np.testing.assert_allclose(numbers, (r, a, s), rtol=0.01)


class TestPlaces:
    def test_moving_volume_may_lie_under_the_deformation(self, deformation):
        deformation.moving.SetAndObserveTransformNodeID(deformation.transformNode.GetID())
        assert len(ReportContent.gather(deformation).figures) == 9

    def test_single_slices_have_one_picture_each(self, scene, flat_geometry):
        deformation = cases.add_deformation(flat_geometry, np.zeros((*flat_geometry.shape, 3)))
        sizes = {figure.size for figure in ReportContent.gather(deformation).figures}
        assert len(sizes) == 1
        assert "," not in ReportContent.gather(deformation).figures[0].title

    def test_pictures_may_be_taken_elsewhere(self, scene):
        grid = Geometry.from_arrays((20, 20, 20), (1.0,) * 3, (0.0,) * 3, np.eye(3))
        deformation = cases.add_deformation(grid, np.zeros((*grid.shape, 3)))
        slicer.util.arrayFromVolume(deformation.fixed)[3] = 255
        images = [ReportContent.gather(deformation, np.array([-9.0, -9.0, z])).figures[0].image for z in (3.0, 9.0)]
        assert images[0] != images[1]


class TestMemory:
    def test_report_after_loading_the_scene_says_the_same(self, scene, inputs, tmp_path):
        deformation = Deformation.ofTransform(mrml_cases.register(inputs).transformNode)
        before, name = ReportContent.gather(deformation), deformation.name
        mrml_scene.save_and_reload(scene, tmp_path)
        after = ReportContent.gather(Deformation.ofTransform(scene.GetFirstNodeByName(name)))
        assert (after.facts, after.details, after.warnings) == (before.facts, before.details, before.warnings)
        assert after.numbers["tables"] == before.numbers["tables"]

    def test_transform_of_others_says_that_it_knows_nothing(self, scene, oblique_geometry):
        deformation = cases.add_deformation(oblique_geometry, np.zeros((*oblique_geometry.shape, 3)))
        content = ReportContent.gather(deformation)
        assert content.facts["Method"]["Method"].startswith("Not known")
        assert "Settings" not in content.details

    def test_folds_of_others_are_warned_of(self, scene, oblique_geometry):
        field = np.zeros((*oblique_geometry.shape, 3))
        field[4, 5, 6] = 20.0
        content = ReportContent.gather(cases.add_deformation(oblique_geometry, field))
        assert "folds in" in content.warnings[0]


class TestNumbers:
    def test_json_holds_every_number(self, judged, tmp_path):
        Report.write(judged, tmp_path / "report.html")
        numbers = json.loads((tmp_path / "report.json").read_text(encoding="ascii"))
        assert numbers["registration"] == json.loads(judged.transformNode.GetAttribute(Record.ATTRIBUTE))
        table = Record.attached(judged.transformNode, "Segments")
        assert numbers["tables"][table.GetName()] == cases.rows_of(table)
        assert numbers["jacobian"]["folds"] == 0
        assert "LogJacobian" in numbers["maps"]

    def test_csv_holds_every_number_of_the_tables(self, written, judged):
        with written[".csv"].open(encoding="utf-8-sig", newline="") as stream:
            rows = {tuple(row[:3]): row[3] for row in csv.reader(stream)}
        tables = [Record.attached(judged.transformNode, role) for role in ("Metrics", "Segments", "Landmarks")]
        for table, row in [(node, row) for node in tables for row in cases.rows_of(node)]:
            item = ", ".join(cell for cell in row.values() if isinstance(cell, str) and cell)
            for column, value in [pair for pair in row.items() if not isinstance(pair[1], str)]:
                found = rows[table.GetName(), item, column]
                assert (found == "") if np.isnan(value) else float(found) == value

    def test_csv_holds_the_numbers_of_the_engine(self, written):
        text = written[".csv"].read_text(encoding="utf-8-sig")
        assert "registration,values.after.dice,mean,0.9" in text
        assert "registration,settings,seed,7" in text


class TestWriting:
    def test_files_have_one_name(self, written):
        assert {path.name for path in written.values()} == {"report.html", "report.csv", "report.json"}

    def test_other_ending_is_refused(self, deformation, tmp_path):
        with pytest.raises(ValueError, match=r"must end in one of \.html"):
            Report.write(deformation, tmp_path / "report.doc")

    def test_missing_folder_is_refused(self, deformation, tmp_path):
        with pytest.raises(ValueError, match="nowhere does not exist"):
            Report.write(deformation, tmp_path / "nowhere" / "report.html")

    def test_nothing_is_written_where_one_file_cannot_be(self, deformation, tmp_path):
        (tmp_path / "report.json").mkdir()
        (tmp_path / "report.html").write_text("old", encoding="ascii")
        with pytest.raises(ValueError, match=r"report\.json cannot be written: it is a folder"):
            Report.write(deformation, tmp_path / "report.html")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
        assert (tmp_path / "report.html").read_text(encoding="ascii") == "old"

    def test_without_qt_pdf_is_refused_in_a_sentence(self, deformation, tmp_path):
        with pytest.raises(ValueError, match="cannot write PDF files; print the HTML file in a browser"):
            Report.write(deformation, tmp_path / "report.html", pdf=True)
        assert not list(tmp_path.iterdir())

    def test_scene_stays_as_it_is(self, scene, deformation, tmp_path):
        before = mrml_scene.scene_state(scene)
        Report.write(deformation, tmp_path / "report.html")
        assert mrml_scene.scene_state(scene) == before

    def test_volume_that_is_gone_is_told(self, deformation, tmp_path):
        deformation.fixed.SetAndObserveImageData(None)
        with pytest.raises(ValueError, match="is empty"):
            Report.write(deformation, tmp_path / "report.html")
