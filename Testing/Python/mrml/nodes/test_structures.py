"""Structures that a network tells apart as nodes: segmentations, a table, and that they are predicted."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import evidence_cases
import mrml_scene
from DeepAttentionRegLib.evidence import SegmentNodes, Segments
from DeepAttentionRegLib.nodes import Deformation, Metrics, Record, SegmentTable, Structures, Volumes
from DeepAttentionRegLib.report import Content, Report
from mrml_cases import RIGID, prepare, put_under, register

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

WANTED = {"method": "agf-diffeo", "keepStructures": True}
NAMES = list(evidence_cases.STRUCTURE_COLORS)


@pytest.fixture
def outcome(inputs):
    return register(inputs, **WANTED)


@pytest.fixture
def deformation(outcome):
    return Deformation.ofTransform(outcome.transformNode)


def segments_of(node: slicer.vtkMRMLSegmentationNode) -> list[slicer.vtkSegment]:
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegment(index) for index in range(segmentation.GetNumberOfSegments())]


class TestNodes:
    def test_each_side_is_a_segmentation_with_names_and_standard_colors(self, outcome):
        assert list(outcome.structureNodes) == ["fixed", "moving", "warped"]
        for node in outcome.structureNodes.values():
            colors = {item.GetName(): np.array(item.GetColor()) * 255 for item in segments_of(node)}
            assert list(colors) == NAMES
            for name, color in evidence_cases.STRUCTURE_COLORS.items():
                np.testing.assert_allclose(colors[name], color, atol=0.01)

    def test_transform_knows_them(self, outcome):
        attached = Record.attachments(outcome.transformNode)
        for side, node in outcome.structureNodes.items():
            assert attached[f"Structures{side.capitalize()}"] is node
        pair = Structures.pairOf(outcome.transformNode)
        assert pair == (outcome.structureNodes["fixed"], outcome.structureNodes["moving"])

    def test_moving_ones_lie_where_the_moving_volume_does(self, inputs):
        put_under(inputs.movingVolume, RIGID)
        node = register(inputs, **WANTED).structureNodes["moving"]
        assert node.GetParentTransformNode() is inputs.movingVolume.GetParentTransformNode()
        matrix = slicer.util.vtkMatrixFromArray(np.eye(4))
        image = segments_of(node)[0].GetRepresentation(Volumes.BINARY_LABELMAP)
        image.GetImageToWorldMatrix(matrix)
        own = Volumes.ijkToRas(inputs.movingVolume)
        np.testing.assert_allclose(slicer.util.arrayFromVTKMatrix(matrix)[:3, :3], own[:3, :3], atol=1e-9)

    def test_only_the_warped_ones_are_shown(self, outcome):
        shown = {side: node.GetDisplayNode().GetVisibility() for side, node in outcome.structureNodes.items()}
        assert shown == {"fixed": False, "moving": False, "warped": True}

    def test_without_the_wish_there_are_none(self, inputs):
        outcome = register(inputs, method="agf-diffeo")
        assert outcome.structureNodes == {}
        assert SegmentTable.ROLE not in Record.attachments(outcome.transformNode)

    def test_failure_leaves_the_scene_as_it_was(self, scene, inputs, monkeypatch):
        before = mrml_scene.scene_state(scene)
        monkeypatch.setattr(Structures.SegmentTable, "put", lambda *_: 1 / 0)
        with pytest.raises(RuntimeError):
            register(inputs, **WANTED)
        assert mrml_scene.scene_state(scene) == before

    def test_files_are_kept_where_a_folder_is_given(self, inputs, tmp_path):
        outcome = register(inputs, **WANTED, evidenceFolder=tmp_path / "kept")
        assert outcome.result.outputs["structures"] == str(tmp_path / "kept" / "structures" / "structures.json")
        assert (tmp_path / "kept" / "structures" / "warped_structures.seg.nrrd").is_file()

    @pytest.mark.parametrize("method", ["rman", "none"])
    def test_method_without_structures_is_refused(self, inputs, method):
        (problem,) = prepare(inputs, method=method, keepStructures=True).problems()
        assert "tell no structures apart" in problem


class TestTable:
    def test_has_the_numbers_of_the_engine(self, outcome, deformation):
        rows = Metrics.rowsOf(Record.attached(outcome.transformNode, SegmentTable.ROLE))
        assert SegmentNodes.structures(deformation) == [row["Segment"] for row in rows] == NAMES
        assert (rows[0]["Dice before"], rows[0]["Dice after"], rows[0]["HD95 after (mm)"]) == (0.5, 0.8, 2.0)
        assert (rows[0]["Fixed volume (ml)"], rows[0]["Moving volume after (ml)"]) == (2.0, 3.0)
        assert rows[0]["Volume change (%)"] == pytest.approx(-25)
        assert rows[0]["Folded voxels"] == 3
        assert np.isnan(rows[1]["Jacobian mean"])

    def test_volume_before_is_that_in_the_world(self, inputs):
        put_under(inputs.movingVolume, np.diag([2.0, 2.0, 2.0, 1.0]))
        table = Record.attached(register(inputs, **WANTED).transformNode, SegmentTable.ROLE)
        assert Metrics.rowsOf(table)[0]["Moving volume before (ml)"] == pytest.approx(8 * 4.0)


class TestPredicted:
    def test_note_is_told_wherever_they_are(self, outcome, deformation):
        note = Structures.note()
        assert note in Record.attached(outcome.transformNode, SegmentTable.ROLE).GetDescription()
        assert note in SegmentNodes.describe(deformation)
        assert note in SegmentNodes.describe(deformation, NAMES[0])
        content = Content.gather(deformation)
        assert note in [table.note for table in content.tables]

    def test_note_is_the_sentence_of_the_engine(self):
        pytest.importorskip("torch", reason="PyTorch is not installed")
        from DeepAttentionRegEngine.evidence.structures import PREDICTED

        assert Structures.note() == PREDICTED

    def test_comparing_them_tells_it_again(self, deformation):
        comparison = Segments.compare(deformation, *Structures.pairOf(deformation.transformNode))
        assert comparison.isPredicted
        table = SegmentNodes.create(comparison).table
        assert Structures.note() in table.GetDescription()
        assert Structures.arePredicted([table])

    def test_segments_of_the_user_take_their_place_without_it(self, deformation):
        pair = Structures.pairOf(deformation.transformNode)
        for node in pair:
            Structures.mark(node, isPredicted=False)
        table = SegmentNodes.create(Segments.compare(deformation, *pair)).table
        assert table is Record.attached(deformation.transformNode, SegmentTable.ROLE)
        assert not Structures.arePredicted([table])
        assert Structures.note() not in SegmentNodes.describe(deformation)

    def test_they_are_no_overlap_among_the_key_figures_of_a_report(self, deformation):
        dice = next(figure for figure in Content.gather(deformation).keyFigures if "Dice" in figure.measure)
        assert dice.found == "mean 0.900, worst segment 0.900"  # of the segments of the user that the stand-in tells of

    def test_mark_is_saved_with_the_scene(self, scene, outcome, tmp_path):
        name = outcome.transformNode.GetName()
        mrml_scene.save_and_reload(scene, tmp_path)
        assert Structures.arePredicted(Structures.pairOf(scene.GetFirstNodeByName(name)))

    def test_report_has_the_table_with_the_note(self, deformation, tmp_path):
        page = Report.write(deformation, tmp_path / "report.html")[0].read_text(encoding="utf-8")
        assert Structures.note() in page
