"""The map of the error that a registration brings along, where the error is known."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import fake_engine
import mrml_scene
from DeepAttentionRegLib.evidence import Maps
from DeepAttentionRegLib.nodes import Deformation, Metrics, Overlays, Record, Volumes
from DeepAttentionRegLib.nodes.Overlays import Map
from DeepAttentionRegLib.tasks.Registration import OutputNodes
from mrml_cases import outputs_of, prepare, register

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

UNKNOWN = "error not known"


def shown_volumes() -> list[str | None]:
    """Return the ids of the volumes in the slice views."""
    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    return [name for view in views for name in (view.GetBackgroundVolumeID(), view.GetForegroundVolumeID())]


class TestMap:
    def test_lies_on_a_grid_of_its_own(self, inputs, oblique_geometry):
        node = register(inputs).errorVolumeNode
        grid = Volumes.placeOf(node)
        assert not grid.matches(oblique_geometry)
        assert np.prod(grid.size) < np.prod(oblique_geometry.size)
        middle = slicer.util.arrayFromVolume(node)[1, 2, 3]
        assert middle == pytest.approx(fake_engine.bound_at(grid.index_to_lps(np.array([[3.0, 2.0, 1.0]])))[0])

    def test_is_the_one_that_the_transform_remembers(self, inputs):
        outcome = register(inputs)
        assert Maps.of(Deformation.ofTransform(outcome.transformNode), Map.ERROR) is outcome.errorVolumeNode
        assert outcome.errorVolumeNode.GetName() == "CT2 to CT1 (rman) error"

    def test_is_colored_as_distances_are(self, inputs):
        colors = register(inputs).errorVolumeNode.GetDisplayNode().GetColorNode()
        assert colors.GetName() == "Deformation distance"

    def test_takes_no_view(self, application, inputs):
        view = mrml_scene.SliceView(application, "Red", "Axial", (50, 50))
        view.show(inputs.fixedVolume)
        before = shown_volumes()
        register(inputs)
        assert shown_volumes() == before
        assert inputs.fixedVolume.GetID() in before

    def test_is_not_there_where_the_error_is_not_known(self, inputs, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", UNKNOWN)
        outcome = register(inputs)
        assert outcome.errorVolumeNode is None
        assert Maps.of(Deformation.ofTransform(outcome.transformNode), Map.ERROR) is None

    def test_failure_to_show_it_leaves_the_scene_as_it_was(self, scene, inputs, monkeypatch):
        createMap = Overlays.createMap

        def fail(kind, *arguments):
            return 1 / 0 if kind is Map.ERROR else createMap(kind, *arguments)

        before = mrml_scene.scene_state(scene)
        monkeypatch.setattr(Overlays, "createMap", fail)
        with pytest.raises(RuntimeError, match="scene is as it was"):
            register(inputs)
        assert mrml_scene.scene_state(scene) == before


class TestRegisteringAgain:
    def test_chosen_node_is_written_into(self, scene, inputs):
        outputs = outputs_of(register(inputs))
        slicer.util.arrayFromVolume(outputs.errorVolumeNode)[:] = 0
        count = scene.GetNumberOfNodes()
        assert register(inputs, outputs=outputs).errorVolumeNode is outputs.errorVolumeNode
        assert slicer.util.arrayFromVolume(outputs.errorVolumeNode).min() > 0
        assert scene.GetNumberOfNodes() == count

    def test_into_the_same_transform_updates_its_map(self, inputs):
        first = register(inputs)
        again = register(inputs, outputs=OutputNodes(transformNode=first.transformNode))
        assert again.errorVolumeNode is first.errorVolumeNode
        assert Record.attached(again.transformNode, Map.ERROR.value) is first.errorVolumeNode

    def test_map_that_got_another_use_is_left_to_it(self, inputs):
        first = register(inputs)
        outputs = OutputNodes(transformNode=first.transformNode, warpedVolumeNode=first.errorVolumeNode)
        again = register(inputs, outputs=outputs)
        assert again.warpedVolumeNode is first.errorVolumeNode
        assert again.errorVolumeNode is not first.errorVolumeNode

    def test_former_map_is_remembered_no_longer_where_the_error_is_not_known_now(self, inputs, monkeypatch):
        first = register(inputs)
        monkeypatch.setenv("FAKE_ENGINE", UNKNOWN)
        again = register(inputs, outputs=OutputNodes(transformNode=first.transformNode))
        assert again.errorVolumeNode is None
        assert Record.attached(again.transformNode, Map.ERROR.value) is None
        assert first.errorVolumeNode.GetScene() is None

    def test_failure_half_way_gives_it_its_content_back(self, inputs, monkeypatch):
        first = register(inputs)
        slicer.util.arrayFromVolume(first.errorVolumeNode)[:] = 7
        monkeypatch.setattr(Metrics, "createTable", lambda *_arguments: 1 / 0)
        registration = prepare(inputs, outputs=OutputNodes(transformNode=first.transformNode))
        registration.start()
        with pytest.raises(RuntimeError, match="scene is as it was"):
            registration.wait()
        assert (slicer.util.arrayFromVolume(first.errorVolumeNode) == 7).all()
        assert Record.attached(first.transformNode, Map.ERROR.value) is first.errorVolumeNode
