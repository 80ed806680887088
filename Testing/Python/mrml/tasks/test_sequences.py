"""A time series in the scene, registered frame by frame by a stand-in for the engine and once by itself."""

import sys
import time
import weakref
from collections.abc import Callable

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import fake_engine
import mrml_scene
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.protocol.settings import Settings
from DeepAttentionRegEngine.volume import fields
from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras
from DeepAttentionRegLib.engine.Callbacks import Callbacks
from DeepAttentionRegLib.engine.Engine import Engine
from DeepAttentionRegLib.nodes import Transforms
from DeepAttentionRegLib.tasks import Sequences
from mrml_cases import ENGINE, TIMEOUT_S, is_let_go

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

TIMES = ["0", "0.5", "1.5", "2"]
REFERENCE = 1


def add_sequence(arrays: list[np.ndarray], geometry: Geometry, name: str = "Cine") -> slicer.vtkMRMLSequenceNode:
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    sequence.SetIndexName("time")
    sequence.SetIndexUnit("s")
    for time_s, array in zip(TIMES, arrays, strict=False):
        volume = mrml_scene.add_volume(array, geometry, name)
        sequence.SetDataNodeAtValue(volume, time_s)
        slicer.mrmlScene.RemoveNode(volume)
    return sequence


@pytest.fixture
def sequence(oblique_geometry) -> slicer.vtkMRMLSequenceNode:
    """Four frames, each brighter than the one before by 100."""
    shade = np.arange(np.prod(oblique_geometry.shape)).reshape(oblique_geometry.shape) % 50
    return add_sequence([(shade + 100 * frame).astype(np.int16) for frame in range(4)], oblique_geometry)


class Recorder:
    """Collects what is called back, and acts when a frame is reached."""

    def __init__(self, act_at: int = 0, act: Callable[[], None] = lambda: None) -> None:
        self.steps: list[Sequences.FrameProgress] = []
        self.outcomes: list[Sequences.SequenceOutcome] = []
        self.failures: list = []
        self._act_at, self._act = act_at, act
        self.callbacks = Callbacks(self._on_progress, self.outcomes.append, self.failures.append)

    def _on_progress(self, step: Sequences.FrameProgress) -> None:
        self.steps.append(step)
        if step.frame == self._act_at:
            self._act()


def prepare(sequence, recorder: Recorder | None = None, **options) -> Sequences.SequenceRegistration:
    callbacks = recorder.callbacks if recorder else None
    return Sequences.SequenceRegistration(
        sequence, REFERENCE, options.pop("settings", None), callbacks,
        engine=ENGINE, **options,
    )  # fmt: skip


def register(sequence, **options) -> Sequences.SequenceOutcome:
    registration = prepare(sequence, **options)
    registration.start()
    return registration.wait()


def frames_of(sequence: slicer.vtkMRMLSequenceNode) -> list[slicer.vtkMRMLNode]:
    return [sequence.GetNthDataNode(index) for index in range(sequence.GetNumberOfDataNodes())]


def shift_of(node: slicer.vtkMRMLTransformNode, point: np.ndarray) -> np.ndarray:
    return np.array(node.GetTransformFromParent().TransformPoint(point)) - point


def found_at(point: np.ndarray, fixed: Geometry) -> np.ndarray:
    """Return where the stand-in's field leads, by linear interpolation, RAS."""
    return flip_lps_ras(fields.sample_field(*fake_engine.found_on(fixed), flip_lps_ras(point)[None])[0])


@pytest.fixture
def point(oblique_geometry) -> np.ndarray:
    """A voxel center, RAS."""
    return flip_lps_ras(oblique_geometry.index_to_lps(np.array([[5.0, 4.0, 3.0]]))[0])


def test_fields_of_several_grids_are_on_the_finest_as_one_image_is(oblique_geometry, point):
    coarse = fake_engine.found_on(oblique_geometry)[1]
    fine = coarse.resized((30, 24, 16))
    found = {frame: (fake_engine.field_on(grid), grid) for frame, grid in ((0, coarse), (2, fine))}
    made = Sequences._makeTransforms(found, 1)
    assert all(Transforms.readGrid(made[frame])[1].matches(fine) for frame in range(3))
    for frame, field in found.items():
        wanted = flip_lps_ras(fields.sample_field(*field, flip_lps_ras(point)[None])[0])
        np.testing.assert_allclose(shift_of(made[frame], point), wanted, atol=0.01)  # by way of the fine nodes
    np.testing.assert_array_equal(shift_of(made[1], point), 0)


@pytest.mark.slow
class TestOutcome:
    def test_index_is_that_of_the_frames(self, sequence):
        transforms = register(sequence).transformSequenceNode
        assert [transforms.GetNthIndexValue(index) for index in range(4)] == TIMES
        assert (transforms.GetIndexName(), transforms.GetIndexUnit()) == ("time", "s")
        assert transforms.GetIndexType() == sequence.GetIndexType()

    def test_frames_move_as_the_engine_found_and_the_reference_stays(self, sequence, point, oblique_geometry):
        shifts = [shift_of(node, point) for node in frames_of(register(sequence).transformSequenceNode)]
        found = found_at(point, oblique_geometry)
        for frame, shift in enumerate(shifts):
            np.testing.assert_allclose(shift, np.zeros(3) if frame == REFERENCE else found, atol=1e-3)

    def test_names_tell_sequence_reference_and_method(self, sequence):
        outcome = register(sequence, withVolumes=True)
        assert outcome.transformSequenceNode.GetName() == "Cine to frame 2 (rman)"
        assert outcome.volumeSequenceNode.GetName() == "Cine to frame 2 (rman) volumes"
        assert outcome.browserNode.GetName() == "Cine to frame 2 (rman) browser"

    def test_volumes_are_made_when_asked_for(self, sequence):
        assert register(sequence).volumeSequenceNode is None
        volumes = frames_of(register(sequence, withVolumes=True).volumeSequenceNode)
        reference = slicer.util.arrayFromVolume(sequence.GetNthDataNode(REFERENCE))
        for frame, volume in enumerate(volumes):
            np.testing.assert_array_equal(slicer.util.arrayFromVolume(volume), reference + (frame != REFERENCE))

    def test_numbers_are_told_by_frame(self, sequence):
        outcome = register(sequence)
        assert outcome.frames == [1, 2, 3, 4]
        assert {frame: result.values["jacobian"]["folds"] for frame, result in outcome.results.items()} == {
            1: 0,
            3: 0,
            4: 0,
        }

    def test_input_stays_as_it_is(self, sequence):
        before = [slicer.util.arrayFromVolume(node).copy() for node in frames_of(sequence)]
        register(sequence)
        for node, array in zip(frames_of(sequence), before, strict=True):
            np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), array)

    def test_saving_and_loading_changes_nothing(self, scene, sequence, point, tmp_path):
        name = register(sequence, withVolumes=True).transformSequenceNode.GetName()
        before = [shift_of(node, point) for node in frames_of(scene.GetFirstNode(name, "vtkMRMLSequenceNode"))]
        mrml_scene.save_and_reload(scene, tmp_path)
        loaded = scene.GetFirstNode(name, "vtkMRMLSequenceNode")
        assert [loaded.GetNthIndexValue(index) for index in range(4)] == TIMES
        np.testing.assert_allclose([shift_of(node, point) for node in frames_of(loaded)], before, atol=1e-4)


class TestEnd:
    @pytest.mark.parametrize("mode", ["work", "fail at bright"])
    def test_leaves_nothing_of_a_registration_in_memory(self, sequence, event_loop, monkeypatch, mode):
        monkeypatch.setenv("FAKE_ENGINE", mode)
        recorder = Recorder()
        registration = prepare(sequence, recorder, withVolumes=True)
        registration.start()
        while registration.isRunning:
            event_loop.processEvents()
            time.sleep(0.02)
        assert recorder.outcomes or recorder.failures
        assert not registration._done.fields
        references = [weakref.ref(item) for item in (registration, registration._job, recorder)]
        del registration, recorder
        event_loop.processEvents()
        assert is_let_go(references)


class TestBrowser:
    def test_original_stands_still_under_the_transform_of_its_frame(self, sequence, point):
        outcome = register(sequence)
        browser = outcome.browserNode
        volume, transform = (browser.GetProxyNode(node) for node in (sequence, outcome.transformSequenceNode))
        for frame in (3, REFERENCE, 0):
            browser.SetSelectedItemNumber(frame)
            assert slicer.util.arrayFromVolume(volume).min() == 100 * frame
            assert volume.GetParentTransformNode() is transform
            assert np.allclose(shift_of(transform, point), 0) == (frame == REFERENCE)

    def test_warped_volumes_play_along(self, sequence):
        outcome = register(sequence, withVolumes=True)
        assert outcome.browserNode.GetSelectedItemNumber() == REFERENCE
        warped = outcome.browserNode.GetProxyNode(outcome.volumeSequenceNode)
        assert slicer.util.arrayFromVolume(warped).min() == 100
        outcome.browserNode.SelectNextItem(1)
        assert slicer.util.arrayFromVolume(warped).min() == 101


class TestProgress:
    def test_tells_the_frame_and_how_many_there_are(self, sequence):
        recorder = Recorder()
        registration = prepare(sequence, recorder)
        registration.start()
        assert registration.isRunning
        registration.wait()
        assert list(dict.fromkeys(step.text for step in recorder.steps)) == [f"Frame {n} of 4" for n in (1, 3, 4)]
        assert len(recorder.outcomes) == 1
        assert not registration.isRunning

    def test_polling_alone_gets_through(self, sequence):
        recorder = Recorder()
        registration = prepare(sequence, recorder)
        registration.start()
        deadline = time.monotonic() + TIMEOUT_S
        while not recorder.outcomes and time.monotonic() < deadline:
            registration.poll()
            time.sleep(0.02)
        assert recorder.outcomes[0].frames == [1, 2, 3, 4]


class TestEndingEarly:
    def test_cancellation_leaves_the_scene_and_tells_how_far_it_was(self, scene, sequence, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "work until cancelled")
        before = mrml_scene.scene_state(scene)
        recorder = Recorder(4, lambda: registration.cancel())
        registration = prepare(sequence, recorder)
        registration.start()
        with pytest.raises(RuntimeError, match=r"canceled. Frames done: 2 of 3. The scene is as it was"):
            registration.wait()
        assert mrml_scene.scene_state(scene) == before
        assert recorder.failures[0].code == errors.CANCELLED
        assert registration.outcome is None

    def test_finishing_keeps_the_frames_done(self, sequence, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "work until finished")
        recorder = Recorder(1, lambda: registration.finish())
        registration = prepare(sequence, recorder)
        registration.start()
        outcome = registration.wait()
        assert recorder.outcomes == [outcome]
        assert outcome.frames == [1, 2]
        assert outcome.transformSequenceNode.GetNumberOfDataNodes() == 2

    def test_failing_frame_is_named(self, scene, sequence, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "fail at bright")
        before = mrml_scene.scene_state(scene)
        with pytest.raises(RuntimeError, match=r"Frame 3: The volumes do not overlap. Frames done: 1 of 3."):
            register(sequence)
        assert mrml_scene.scene_state(scene) == before

    def test_finished_frames_are_kept_if_asked_for(self, sequence, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "fail at bright")
        registration = prepare(sequence, keepPartial=True, withVolumes=True)
        registration.start()
        with pytest.raises(RuntimeError, match="These are in the scene"):
            registration.wait()
        outcome = registration.outcome
        assert outcome.frames == [1, 2]
        assert outcome.transformSequenceNode.GetNumberOfDataNodes() == 2
        assert outcome.browserNode.GetNumberOfItems() == 2

    def test_scene_close_stops_it(self, scene, sequence):
        recorder = Recorder(3, lambda: scene.Clear(False))
        registration = prepare(sequence, recorder, keepPartial=True)
        registration.start()
        with pytest.raises(RuntimeError, match=r"was removed, so the registration was stopped. Frames done: 1 of 3."):
            registration.wait()
        assert not slicer.util.getNodesByClass("vtkMRMLSequenceNode")

    def test_frame_that_vanishes_stops_it(self, sequence):
        recorder = Recorder(1, lambda: sequence.RemoveDataNodeAtValue(TIMES[3]))
        registration = prepare(sequence, recorder)
        registration.start()
        with pytest.raises(RuntimeError, match="one of its frames was removed"):
            registration.wait()

    def test_close_calls_nobody(self, scene, sequence, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "hang")
        recorder = Recorder()
        registration = prepare(sequence, recorder)
        before = mrml_scene.scene_state(scene)
        registration.start()
        registration.close()
        registration.poll()
        assert (recorder.outcomes, recorder.failures, registration.isRunning) == ([], [], False)
        assert mrml_scene.scene_state(scene) == before


class TestRefusals:
    @staticmethod
    def check(sequence, frame: int = 0, **settings) -> str:
        (problem,) = Sequences.checkSequence(sequence, frame, Settings(**{"method": "none", **settings}))
        return problem

    def test_nothing_wrong(self, sequence):
        assert Sequences.checkSequence(sequence, 3, Settings(method="none")) == []

    def test_no_sequence(self):
        assert self.check(None) == "Choose a sequence of volumes."

    def test_sequence_of_something_else(self, sequence):
        transforms = register(sequence).transformSequenceNode
        assert "is no sequence of scalar volumes" in self.check(transforms)

    def test_single_frame(self, oblique_geometry):
        single = add_sequence([np.zeros(oblique_geometry.shape)], oblique_geometry)
        assert "fewer than two frames" in self.check(single)

    @pytest.mark.parametrize("frame", [-1, 4])
    def test_reference_that_is_not_there(self, sequence, frame):
        assert (
            self.check(sequence, frame) == f"Cine has 4 frames; frame {frame + 1}, to register to, is not among them."
        )

    def test_empty_frame(self, sequence):
        sequence.GetNthDataNode(2).SetAndObserveImageData(None)
        assert self.check(sequence).startswith("Frame 3: ")

    def test_method_without_weights(self, sequence):
        assert "no trained weights" in self.check(sequence, method="agf")

    def test_wrong_setting_is_refused_at_the_start(self, scene, sequence):
        before = mrml_scene.scene_state(scene)
        with pytest.raises(ValueError, match="alignment"):
            register(sequence, settings=Settings(alignment="sideways"))
        assert mrml_scene.scene_state(scene) == before


@pytest.mark.torch
@pytest.mark.slow
def test_engine_finds_how_each_frame_was_shifted(oblique_geometry):
    """By the centers of mass of a ball that moves along the axis i, one voxel a frame."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    k, j, i = np.indices((20, 20, 24))
    geometry = Geometry((24, 20, 20), (2.0, 2.0, 2.0), oblique_geometry.origin, oblique_geometry.direction)
    balls = [np.exp(-((i - 8 - frame) ** 2 + (j - 10) ** 2 + (k - 10) ** 2) / 12.0) for frame in range(3)]
    moving = add_sequence([ball.astype(np.float32) for ball in balls], geometry)
    settings = Settings(method="none", alignment="mass", refinement_steps=0, device="cpu")
    registration = Sequences.SequenceRegistration(moving, 0, settings, engine=Engine(sys.executable))
    registration.start()
    transforms = registration.wait().transformSequenceNode
    center = geometry.ijk_to_ras[:3] @ [8.0, 10.0, 10.0, 1.0]
    step = geometry.ijk_to_ras[:3, 0]
    for frame, node in enumerate(frames_of(transforms)):
        np.testing.assert_allclose(shift_of(node, center), frame * step, atol=0.05)
