"""What a transform remembers of its registration."""

from datetime import datetime

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import fake_engine
import mrml_cases
import mrml_scene
from DeepAttentionRegLib.nodes import Deformation, Record
from DeepAttentionRegLib.tasks import Registration

pytestmark = pytest.mark.mrml

AWKWARD = "CT; \"a:b\" <c> 'd' & %20 \u00e4\n"


@pytest.fixture
def outcome(inputs):
    mrml_cases.put_under(inputs.movingVolume, mrml_cases.RIGID)
    return mrml_cases.register(inputs, recursions=2, seed=7)


class TestRegistration:
    def test_settings_are_remembered_without_files(self, outcome):
        settings = Record.recall(outcome.transformNode).settings
        assert (settings["method"], settings["recursions"], settings["seed"]) == ("rman", 2, 7)
        assert not [name for name in settings if "output" in name]

    def test_what_the_engine_said_is_remembered(self, outcome):
        record = Record.recall(outcome.transformNode)
        assert record.values == fake_engine.VALUES
        assert record.warnings == ["A warning."]

    def test_method_is_remembered_as_people_read_of_it(self, outcome):
        method = Record.recall(outcome.transformNode).method
        assert method["title"] == "RMAn-style recursive mutual attention network"
        assert "MIUA 2022" in method["citation"]

    def test_inputs_are_remembered_by_name(self, outcome):
        assert Record.recall(outcome.transformNode).inputs == {"fixedVolume": "CT1", "movingVolume": "CT2"}

    def test_place_of_the_moving_volume_is_remembered(self, outcome, inputs):
        inputs.movingVolume.SetAndObserveTransformNodeID(outcome.transformNode.GetID())
        place = Record.movingToWorld(outcome.transformNode, inputs.movingVolume)
        np.testing.assert_allclose(place, mrml_cases.RIGID)

    def test_start_leads_from_the_world_below_the_parent_of_the_moving_volume(self, outcome):
        start = Record.startOf(Deformation.ofTransform(outcome.transformNode))
        np.testing.assert_allclose(start @ mrml_cases.RIGID, np.eye(4), atol=1e-9)

    def test_time_has_a_zone(self, outcome):
        made = datetime.fromisoformat(Record.recall(outcome.transformNode).made)
        assert made.tzinfo is not None

    def test_table_is_attached(self, outcome):
        assert Record.attachments(outcome.transformNode)["Metrics"] is outcome.tableNode

    def test_everything_survives_saving(self, scene, outcome, tmp_path):
        record, name = Record.recall(outcome.transformNode), outcome.transformNode.GetName()
        mrml_scene.save_and_reload(scene, tmp_path)
        transform = scene.GetFirstNodeByName(name)
        assert Record.recall(transform) == record
        assert Record.attached(transform, "Metrics").GetTable().GetNumberOfRows() > 0

    def test_new_result_in_the_same_node_replaces_all(self, inputs, outcome):
        transform = outcome.transformNode
        Record.attach(transform, "Segments", outcome.tableNode)
        mrml_cases.register(inputs, seed=8, outputs=Registration.OutputNodes(transformNode=transform))
        assert Record.recall(transform).settings["seed"] == 8
        assert "Segments" not in Record.attachments(transform)


@pytest.mark.usefixtures("scene")
class TestAnyTransform:
    def transform(self):
        return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "T")

    def test_any_text_survives_saving(self, scene, tmp_path):
        record = Record.Record(inputs={"fixedVolume": AWKWARD}, values={"one": [1.5e-7, None, True]})
        Record.remember(self.transform(), record)
        mrml_scene.save_and_reload(scene, tmp_path)
        assert Record.recall(scene.GetFirstNodeByName("T")) == record

    def test_folders_that_a_scene_names_are_not_believed(self):
        node = self.transform()
        node.SetAttribute(Record.ATTRIBUTE, '{"settings": {"weights": "/srv/others/own.pt"}}')
        assert Record.recall(node).settings == {"weights": "own.pt"}

    def test_folders_of_files_are_not_remembered(self):
        node = self.transform()
        settings = {"method": "/srv/ann/own/mine.json", "weights": r"C:\Users\Ann Smith\own.pt", "seed": 7}
        values, warnings = {"weights": "/srv/ann/own.pt"}, ["The file /srv/ann/ct.nrrd is doubtful."]
        Record.remember(node, Record.Record(settings=settings, values=values, warnings=warnings))
        assert Record.recall(node) == Record.Record(
            settings={"method": "mine.json", "weights": "own.pt", "seed": 7},
            values={"weights": "own.pt"},
            warnings=["The file ct.nrrd is doubtful."],
        )

    def test_transform_of_others_remembers_nothing(self):
        assert Record.recall(self.transform()) == Record.Record()

    @pytest.mark.parametrize(
        "text",
        [
            *("{", "[1]", '{"color": 1}', '{"made": 1}', "[" * 100_000, '{"values": [1]}', '{"start": [1, 2]}'),
            f'{{"place": [{", ".join(["1e400"] * 16)}]}}',
        ],
        ids=lambda text: text[:20],
    )
    def test_damaged_memory_is_none(self, text):
        node = self.transform()
        node.SetAttribute(Record.ATTRIBUTE, text)
        assert Record.recall(node) == Record.Record()

    def test_start_of_others_is_where_the_moving_volume_lies(self, inputs):
        mrml_cases.put_under(inputs.movingVolume, mrml_cases.RIGID)
        deformation = Deformation.Deformation(self.transform(), inputs.fixedVolume, inputs.movingVolume)
        np.testing.assert_allclose(Record.startOf(deformation) @ mrml_cases.RIGID, np.eye(4), atol=1e-9)

    def test_removed_node_is_attached_no_longer(self):
        transform, table = self.transform(), slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "Table")
        Record.attach(transform, "Segments", table)
        slicer.mrmlScene.RemoveNode(table)
        assert Record.attachments(transform) == {}
