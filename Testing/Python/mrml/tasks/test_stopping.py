"""A registration that is stopped, fails or loses its nodes leaves the scene as it was."""

import os
import signal

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_scene
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegLib.nodes import Metrics, Transforms
from DeepAttentionRegLib.tasks.Registration import OutputNodes
from mrml_cases import Recorder, outputs_of, poll_until, prepare, register, with_segmentations

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]


class TestFinishing:
    def test_best_so_far_is_the_result(self, scene, inputs, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "work until finished")
        recorder = Recorder("refine", lambda: registration.finish())
        registration = prepare(inputs, recorder)
        registration.start()
        outcome = registration.wait()
        assert recorder.outcomes == [outcome]
        assert outcome.transformNode.GetScene() is scene


class TestCancellation:
    """At whatever stage it is stopped, the scene is as it was."""

    @pytest.mark.parametrize("stage", ["export", "load", "refine", "import"])
    def test_scene_is_as_it_was_after_a_stop_at(self, scene, inputs, monkeypatch, stage):
        monkeypatch.setenv("FAKE_ENGINE", "work until cancelled" if stage == "refine" else "work")
        recorder = Recorder(stage, lambda: registration.cancel())
        registration = prepare(with_segmentations(inputs), recorder)
        before = mrml_scene.scene_state(scene)
        registration.start()
        with pytest.raises(RuntimeError, match="canceled"):
            registration.wait()
        assert mrml_scene.scene_state(scene) == before
        assert [failure.code for failure in recorder.failures] == [errors.CANCELLED]
        assert not recorder.outcomes
        assert not registration.isRunning

    def test_stop_before_the_start_starts_nothing(self, scene, inputs):
        recorder = Recorder()
        registration = prepare(inputs, recorder)
        before = mrml_scene.scene_state(scene)
        registration.cancel()
        registration.start()
        assert [failure.code for failure in recorder.failures] == [errors.CANCELLED]
        assert not recorder.pids
        assert mrml_scene.scene_state(scene) == before

    @pytest.mark.parametrize("stage", ["export", "load", "import"])
    def test_closing_is_silent(self, scene, inputs, stage):
        recorder = Recorder(stage, lambda: registration.close())
        registration = prepare(inputs, recorder)
        before = mrml_scene.scene_state(scene)
        registration.start()
        with pytest.raises(RuntimeError, match="closed"):
            registration.wait()
        assert not recorder.outcomes
        assert not recorder.failures
        assert mrml_scene.scene_state(scene) == before


class TestVanishedNodes:
    @pytest.mark.parametrize("side", ["fixedVolume", "movingVolume"])
    def test_removed_volume_stops_the_registration(self, scene, inputs, monkeypatch, side):
        monkeypatch.setenv("FAKE_ENGINE", "work until cancelled")
        recorder = Recorder()
        registration = prepare(inputs, recorder)
        registration.start()
        poll_until(registration, lambda: recorder.pids)
        scene.RemoveNode(getattr(inputs, side))
        before = mrml_scene.scene_state(scene)
        poll_until(registration, lambda: recorder.failures)
        assert recorder.failures[0].code == errors.CANCELLED
        assert "was removed" in recorder.failures[0].message
        assert mrml_scene.scene_state(scene) == before

    def test_new_node_with_the_id_of_a_closed_one_is_not_taken_for_it(self, scene, inputs, oblique_geometry):
        recorder = Recorder()
        registration = prepare(inputs, recorder)
        registration.start()
        poll_until(registration, lambda: recorder.pids)
        ids = inputs.fixedVolume.GetID(), inputs.movingVolume.GetID()
        scene.Clear(False)
        array = np.zeros(oblique_geometry.shape, np.float32)
        nodes = [mrml_scene.add_volume(array, oblique_geometry, name) for name in ("New 1", "New 2")]
        assert tuple(node.GetID() for node in nodes) == ids
        before = mrml_scene.scene_state(scene)
        poll_until(registration, lambda: recorder.failures)
        assert mrml_scene.scene_state(scene) == before

    def test_removed_output_is_replaced(self, scene, inputs):
        table = scene.AddNewNodeByClass("vtkMRMLTableNode", "Table")
        registration = prepare(inputs, outputs=OutputNodes(tableNode=table))
        registration.start()
        scene.RemoveNode(table)
        assert registration.wait().tableNode.GetScene() is scene


@pytest.mark.slow
class TestFailure:
    @pytest.mark.parametrize(
        ("mode", "sentence"),
        [
            ("fail", "do not overlap. Align them first."),
            ("crash", "stopped before it was done"),
            ("crash after result", "stopped before it was done"),
            ("write corrupt volume", "could not be loaded"),
            ("speak another version", "contract version 99"),
        ],
    )
    def test_scene_is_as_it_was_after(self, scene, inputs, monkeypatch, mode, sentence):
        monkeypatch.setenv("FAKE_ENGINE", mode)
        registration = prepare(with_segmentations(inputs))
        before = mrml_scene.scene_state(scene)
        registration.start()
        with pytest.raises(RuntimeError, match=sentence):
            registration.wait()
        assert mrml_scene.scene_state(scene) == before

    def test_killed_engine_leaves_no_half_node(self, scene, inputs, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "hang")
        recorder = Recorder()
        registration = prepare(inputs, recorder)
        before = mrml_scene.scene_state(scene)
        registration.start()
        poll_until(registration, lambda: recorder.pids)
        os.kill(recorder.pids[0], signal.SIGKILL)
        poll_until(registration, lambda: recorder.failures)
        assert mrml_scene.scene_state(scene) == before

    def test_failure_half_way_into_the_scene_is_undone(self, scene, inputs, monkeypatch):
        fail_half_way(prepare(with_segmentations(inputs)), scene, monkeypatch)

    def test_failure_half_way_gives_existing_outputs_their_content_back(self, scene, inputs, monkeypatch):
        given = with_segmentations(inputs)
        outputs = outputs_of(register(given))
        displacement, geometry = Transforms.readGrid(outputs.transformNode)
        outputs.transformNode.SetAndObserveTransformFromParent(Transforms.makeGridTransform(2 * displacement, geometry))
        slicer.util.arrayFromVolume(outputs.warpedVolumeNode)[:] = 7
        slicer.util.arrayFromVolume(outputs.jacobianVolumeNode)[:] = 8
        outputs.warpedSegmentationNode.GetSegmentation().RemoveAllSegments()
        fail_half_way(prepare(given, outputs=outputs), scene, monkeypatch)
        np.testing.assert_allclose(Transforms.readGrid(outputs.transformNode)[0], 2 * displacement, atol=1e-6)
        assert (slicer.util.arrayFromVolume(outputs.warpedVolumeNode) == 7).all()
        assert (slicer.util.arrayFromVolume(outputs.jacobianVolumeNode) == 8).all()
        assert outputs.warpedSegmentationNode.GetSegmentation().GetNumberOfSegments() == 0


def fail_half_way(registration, scene, monkeypatch) -> None:
    """Run out of memory once nodes are in the scene, and expect it as it was."""

    def run_out_of_memory(*_arguments) -> None:
        raise MemoryError

    before = mrml_scene.scene_state(scene)
    monkeypatch.setattr(Metrics, "createTable", run_out_of_memory)
    registration.start()
    with pytest.raises(RuntimeError, match="scene is as it was"):
        registration.wait()
    assert mrml_scene.scene_state(scene) == before
