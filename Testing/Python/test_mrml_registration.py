"""A registration in the scene, its engine played by a stand-in: all of the result, or nothing at all."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")

import fake_engine
import mrml_scene
from DeepAttentionRegEngine import errors, images
from DeepAttentionRegEngine.geometry import flip_lps_ras
from DeepAttentionRegLib import Job, Metrics, Registration, Transforms, Volumes
from DeepAttentionRegLib.Registration import Callbacks, Inputs, Outputs, Settings

pytestmark = pytest.mark.mrml

FAKE_ENGINE = Path(__file__).resolve().with_name("fake_engine.py")
TIMEOUT_S = 20.0
RIGID = np.array([[0.8, -0.6, 0.0, 10.0], [0.6, 0.8, 0.0, -20.0], [0.0, 0.0, 1.0, 5.0], [0.0, 0.0, 0.0, 1.0]])
ROLES = ("transformNode", "warpedVolumeNode", "jacobianVolumeNode", "warpedSegmentationNode", "tableNode")


@pytest.fixture(scope="module")
def application() -> mrml_scene.Application:
    return mrml_scene.boot()


@pytest.fixture(autouse=True)
def scene(application, monkeypatch):
    monkeypatch.setenv("FAKE_ENGINE", "work")
    yield application.scene
    application.scene.Clear(False)


@pytest.fixture
def inputs(scene, oblique_geometry) -> Inputs:
    array = np.arange(np.prod(oblique_geometry.shape), dtype=np.float32).reshape(oblique_geometry.shape)
    return Inputs(*(mrml_scene.add_volume(array, oblique_geometry, name) for name in ("CT1", "CT2")))


def add_segmentation(inputs: Inputs, name: str) -> slicer.vtkMRMLSegmentationNode:
    """Add a segmentation with two boxes, Liver and Heart, on the grid of the fixed volume."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    geometry = Volumes.geometryOf(inputs.fixedVolume, np.eye(4))
    labels = np.zeros(geometry.shape, np.uint8)
    labels[1:4, 2:8, 3:9], labels[5:8, 1:3, 7:13] = 1, 2
    made = Volumes.makeSegmentation(labels, geometry, {})
    for index, segment_name in enumerate(("Liver", "Heart")):
        made.GetNthSegment(index).SetName(segment_name)
    return Volumes.createSegmentation(made, name, inputs.fixedVolume, node)


def with_segmentations(inputs: Inputs) -> Inputs:
    fixed, moving = (add_segmentation(inputs, name) for name in ("Fixed organs", "Moving organs"))
    return Inputs(inputs.fixedVolume, inputs.movingVolume, fixedSegmentation=fixed, movingSegmentation=moving)


class Recorder:
    """Collects what a registration calls back, and acts when a stage is reached."""

    def __init__(self, act_at: str = "", act=lambda: None) -> None:
        self.stages: list[str] = []
        self.pids: list[int] = []
        self.outcomes: list[Registration.Outcome] = []
        self.failures = []
        self._act_at, self._act = act_at, act
        self.callbacks = Callbacks(self._on_progress, self.outcomes.append, self.failures.append)

    def _on_progress(self, progress) -> None:
        self.stages.append(progress.stage)
        if progress.message.isdecimal():
            self.pids.append(int(progress.message))
        if progress.stage == self._act_at:
            self._act()


def prepare(inputs: Inputs, recorder: Recorder | None = None, **options) -> Registration.Registration:
    callbacks = recorder.callbacks if recorder else None
    return Registration.Registration(
        inputs, options.get("settings"), options.get("outputs"), callbacks,
        pythonExecutable=sys.executable, script=FAKE_ENGINE,
    )  # fmt: skip


def register(inputs: Inputs, **options) -> Registration.Outcome:
    registration = prepare(inputs, **options)
    registration.start()
    return registration.wait()


def poll_until(registration: Registration.Registration, condition) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        registration.poll()
        time.sleep(0.02)


class TestOutcome:
    def test_transform_maps_fixed_points_as_the_engine_found(self, inputs, oblique_geometry, grid_points):
        transform = register(inputs).transformNode.GetTransformFromParent()
        points = grid_points(oblique_geometry).reshape(-1, 3)[::7]
        mapped = np.array([transform.TransformPoint(point) for point in flip_lps_ras(points)])
        wanted = points + fake_engine.displacement_at(points)
        assert np.abs(flip_lps_ras(mapped) - wanted).max() < 1e-3

    def test_names_tell_moving_fixed_and_method(self, inputs):
        outcome = register(inputs)
        name = "CT2 to CT1 (rman)"
        assert outcome.transformNode.GetName() == name
        assert outcome.warpedVolumeNode.GetName() == f"{name} volume"
        assert outcome.jacobianVolumeNode.GetName() == f"{name} Jacobian"
        assert outcome.tableNode.GetName() == f"{name} metrics"

    def test_second_registration_gets_names_of_its_own(self, inputs):
        names = [register(inputs).transformNode.GetName() for _run in range(2)]
        assert len(set(names)) == 2

    def test_transform_knows_fixed_and_moving(self, inputs):
        node = register(inputs).transformNode
        assert node.GetNodeReference(node.GetFixedNodeReferenceRole()) is inputs.fixedVolume
        assert node.GetNodeReference(node.GetMovingNodeReferenceRole()) is inputs.movingVolume

    def test_warped_volume_lies_on_the_fixed_grid(self, inputs, oblique_geometry):
        node = register(inputs).warpedVolumeNode
        geometry = Volumes.geometryOf(node, np.eye(4))
        np.testing.assert_allclose(geometry.ijk_to_lps, oblique_geometry.ijk_to_lps, atol=1e-9)
        np.testing.assert_array_equal(
            slicer.util.arrayFromVolume(node), slicer.util.arrayFromVolume(inputs.fixedVolume) + 1
        )

    def test_segments_come_back_with_their_names(self, inputs):
        segmentation = register(with_segmentations(inputs)).warpedSegmentationNode.GetSegmentation()
        names = [segmentation.GetNthSegment(index).GetName() for index in range(2)]
        assert names == ["Liver", "Heart"]

    def test_table_names_the_structures(self, inputs):
        table = register(with_segmentations(inputs)).tableNode.GetTable()
        structures = [table.GetValue(row, 1).ToString() for row in range(table.GetNumberOfRows())]
        assert structures[:3] == ["Mean", "Liver", "Heart"]

    def test_without_segmentation_there_is_none(self, inputs):
        assert register(inputs).warpedSegmentationNode is None

    def test_kept_recursions_become_transforms(self, inputs):
        outcome = register(inputs, settings=Settings(recursions=2, keepRecursions=True))
        assert [node.GetName()[-11:] for node in outcome.recursionNodes] == ["recursion 1", "recursion 2"]

    def test_engine_speaks_through(self, inputs):
        outcome = register(inputs)
        assert outcome.result.warnings == ["A warning."]
        assert outcome.result.values["after"]["tre_mm"]["mean"] == 1.0

    def test_stages_are_told_in_order(self, inputs):
        recorder = Recorder()
        registration = prepare(inputs, recorder)
        registration.start()
        registration.wait()
        assert recorder.stages == ["export", "export", "load", "import"]
        assert len(recorder.outcomes) == 1

    def test_result_survives_the_scene(self, scene, inputs, tmp_path, oblique_geometry, grid_points):
        register(with_segmentations(inputs))
        mrml_scene.save_and_reload(scene, tmp_path)
        points = grid_points(oblique_geometry).reshape(-1, 3)[::7]
        transform = scene.GetFirstNodeByName("CT2 to CT1 (rman)").GetTransformFromParent()
        mapped = np.array([transform.TransformPoint(point) for point in flip_lps_ras(points)])
        assert np.abs(flip_lps_ras(mapped) - points - fake_engine.displacement_at(points)).max() < 1e-3
        segmentation = scene.GetFirstNodeByName("CT2 to CT1 (rman) segmentation").GetSegmentation()
        assert segmentation.GetNthSegment(0).GetName() == "Liver"


class TestExport:
    @pytest.fixture
    def export(self, monkeypatch, tmp_path):
        """The function that returns the job of a registration, its files kept in tmp_path."""

        def build(inputs: Inputs, settings: Settings | None = None):
            jobs = []

            def keep(engine_job, job) -> None:
                jobs.append(job)
                for path in engine_job.folder.iterdir():
                    (tmp_path / path.name).write_bytes(path.read_bytes())

            monkeypatch.setattr(Job.EngineJob, "start", keep)
            registration = prepare(inputs, settings=settings)
            registration.start()
            registration.close()
            return jobs[0]

        return build

    @staticmethod
    def put_under(node) -> None:
        parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Parent")
        parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(RIGID))
        node.SetAndObserveTransformNodeID(parent.GetID())

    def test_files_are_named_without_folder(self, export, inputs):
        job = export(with_segmentations(inputs))
        files = [job.fixed, job.moving, job.fixed_labels, job.moving_labels, job.output_transform, job.output_warped]
        assert [Path(name).name for name in files] == files

    def test_settings_reach_the_job(self, export, inputs):
        job = export(inputs, Settings("none", refinementSteps=7, similarity="mind", velocity=True, keepRecursions=True))
        assert (job.method, job.refinement_steps, job.similarity, job.velocity) == ("none", 7, "mind", True)
        assert (job.keep_recursions, job.output_recursions) == (True, "recursions")

    def test_fixed_parent_is_folded_into_the_fixed_volume(self, export, inputs, oblique_geometry, tmp_path):
        self.put_under(inputs.fixedVolume)
        job = export(inputs)
        geometry = images.read_volume(tmp_path / job.fixed).geometry
        np.testing.assert_allclose(geometry.ijk_to_ras, RIGID @ oblique_geometry.ijk_to_ras, atol=1e-6)
        assert job.initial_transform is None

    def test_moving_parent_becomes_the_initial_transform(self, export, inputs, oblique_geometry, tmp_path):
        self.put_under(inputs.movingVolume)
        job = export(inputs)
        geometry = images.read_volume(tmp_path / job.moving).geometry
        np.testing.assert_allclose(geometry.ijk_to_lps, oblique_geometry.ijk_to_lps, atol=1e-6)
        lps_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
        initial = images.read_linear_transform(tmp_path / job.initial_transform)
        np.testing.assert_allclose(initial, lps_ras @ np.linalg.inv(RIGID) @ lps_ras, atol=1e-9)

    def test_moving_labels_follow_into_the_frame_of_the_moving_volume(self, export, inputs, tmp_path):
        given = with_segmentations(inputs)
        plain = export(given)
        wanted = images.read_labels(tmp_path / plain.moving_labels).array
        for node in (given.movingVolume, given.movingSegmentation):
            self.put_under(node)
        moved = export(given)
        np.testing.assert_array_equal(images.read_labels(tmp_path / moved.moving_labels).array, wanted)

    def test_masks_and_landmarks_are_given(self, export, inputs):
        points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Points")
        slicer.util.updateMarkupsControlPointsFromArray(points, np.zeros((3, 3)))
        mask = add_segmentation(inputs, "Mask")
        job = export(Inputs(inputs.fixedVolume, inputs.movingVolume, mask, mask, None, None, points, points))
        assert (job.fixed_mask, job.moving_mask) == ("fixed_mask.nrrd", "moving_mask.nrrd")
        assert (job.fixed_points, job.moving_points) == ("fixed_points.csv", "moving_points.csv")


class TestCancellation:
    """At whatever stage it is stopped, the scene is as it was."""

    @pytest.mark.parametrize("stage", ["export", "load", "refine", "import"])
    def test_scene_is_as_it_was_after_a_stop_at(self, scene, inputs, monkeypatch, stage):
        monkeypatch.setenv("FAKE_ENGINE", "work until cancelled" if stage == "refine" else "work")
        recorder = Recorder(stage, lambda: registration.cancel())
        registration = prepare(with_segmentations(inputs), recorder)
        before = mrml_scene.scene_state(scene)
        registration.start()
        with pytest.raises(RuntimeError, match="cancelled"):
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
        registration = prepare(inputs, outputs=Outputs(tableNode=table))
        registration.start()
        scene.RemoveNode(table)
        assert registration.wait().tableNode.GetScene() is scene


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
        registration = prepare(with_segmentations(inputs))
        before = mrml_scene.scene_state(scene)
        monkeypatch.setattr(Metrics, "createTable", run_out_of_memory)
        registration.start()
        with pytest.raises(RuntimeError, match="scene is as it was"):
            registration.wait()
        assert mrml_scene.scene_state(scene) == before

    def test_failure_half_way_gives_existing_outputs_their_content_back(self, scene, inputs, monkeypatch):
        given = with_segmentations(inputs)
        outputs = outputs_of(register(given))
        displacement, geometry = Transforms.readGrid(outputs.transformNode)
        outputs.transformNode.SetAndObserveTransformFromParent(Transforms.makeGridTransform(2 * displacement, geometry))
        slicer.util.arrayFromVolume(outputs.warpedVolumeNode)[:] = 7
        slicer.util.arrayFromVolume(outputs.jacobianVolumeNode)[:] = 8
        outputs.warpedSegmentationNode.GetSegmentation().RemoveAllSegments()
        registration = prepare(given, outputs=outputs)
        before = mrml_scene.scene_state(scene)
        monkeypatch.setattr(Metrics, "createTable", run_out_of_memory)
        registration.start()
        with pytest.raises(RuntimeError, match="scene is as it was"):
            registration.wait()
        assert mrml_scene.scene_state(scene) == before
        np.testing.assert_allclose(Transforms.readGrid(outputs.transformNode)[0], 2 * displacement, atol=1e-6)
        assert (slicer.util.arrayFromVolume(outputs.warpedVolumeNode) == 7).all()
        assert (slicer.util.arrayFromVolume(outputs.jacobianVolumeNode) == 8).all()
        assert outputs.warpedSegmentationNode.GetSegmentation().GetNumberOfSegments() == 0


def run_out_of_memory(*_arguments) -> None:
    raise MemoryError


def outputs_of(outcome: Registration.Outcome) -> Outputs:
    return Outputs(**{role: getattr(outcome, role) for role in ROLES})


class TestExistingOutputs:
    def test_are_written_into_and_nothing_is_added(self, scene, inputs):
        given = with_segmentations(inputs)
        outputs = outputs_of(register(given))
        count = scene.GetNumberOfNodes()
        outcome = register(given, outputs=outputs)
        assert outputs_of(outcome) == outputs
        assert scene.GetNumberOfNodes() == count

    def test_lose_their_own_parent_transform(self, scene, inputs):
        outputs = outputs_of(register(inputs))
        parent = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Parent")
        outputs.warpedVolumeNode.SetAndObserveTransformNodeID(parent.GetID())
        outputs.transformNode.SetAndObserveTransformNodeID(parent.GetID())
        outcome = register(inputs, outputs=outputs)
        assert outcome.warpedVolumeNode.GetParentTransformNode() is None
        assert outcome.transformNode.GetParentTransformNode() is None

    def test_keep_their_look(self, inputs):
        outputs = outputs_of(register(inputs))
        outputs.warpedVolumeNode.GetDisplayNode().SetWindowLevel(123.0, 45.0)
        assert register(inputs, outputs=outputs).warpedVolumeNode.GetDisplayNode().GetWindow() == 123.0


class TestRefusal:
    def test_wrong_input_is_a_sentence(self, inputs):
        with pytest.raises(ValueError, match="same volume"):
            prepare(Inputs(inputs.fixedVolume, inputs.fixedVolume)).start()

    def test_wrong_setting_is_a_sentence(self, inputs):
        with pytest.raises(ValueError, match="recursions is 0"):
            prepare(inputs, settings=Settings(recursions=0)).start()

    def test_input_is_not_overwritten(self, inputs):
        with pytest.raises(ValueError, match="CT2 is an input"):
            prepare(inputs, outputs=Outputs(warpedVolumeNode=inputs.movingVolume)).start()

    def test_node_for_linear_transforms_is_refused(self, scene, inputs):
        node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Linear")
        with pytest.raises(ValueError, match="Linear can hold no displacement field"):
            prepare(inputs, outputs=Outputs(transformNode=node)).start()

    def test_engine_that_cannot_start_leaves_the_scene(self, scene, inputs):
        registration = Registration.Registration(inputs, pythonExecutable="no-such-python")
        before = mrml_scene.scene_state(scene)
        with pytest.raises(RuntimeError, match="no-such-python"):
            registration.start()
        assert mrml_scene.scene_state(scene) == before
        assert not registration.isRunning


class TestResponsiveness:
    def test_nothing_waits_for_the_engine(self, inputs, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "hang")
        registration = prepare(inputs)
        started = time.monotonic()
        registration.start()
        for _call in range(10):
            registration.poll()
        registration.cancel()
        registration.poll()
        assert time.monotonic() - started < 1.0  # the engine would take ten minutes
        registration.close()
