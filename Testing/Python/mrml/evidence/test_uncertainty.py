"""The uncertainty of a deformation as a map in the scene, by a stand-in for the engine and once by itself."""

import sys

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import fake_engine
import mrml_scene
from DeepAttentionRegEngine.phantom import thorax
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.protocol.settings import Settings
from DeepAttentionRegEngine.volume import fields
from DeepAttentionRegLib.engine import Weights
from DeepAttentionRegLib.engine.Engine import Engine
from DeepAttentionRegLib.evidence import Maps, Uncertainty
from DeepAttentionRegLib.nodes import Deformation, Record, SampleCases, Volumes
from DeepAttentionRegLib.nodes.Overlays import Map
from DeepAttentionRegLib.tasks import Registration
from DeepAttentionRegLib.tasks.Request import Request
from mrml_cases import ENGINE, RIGID, Recorder, poll_until, put_under, register

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]


@pytest.fixture
def deformation(inputs) -> Deformation.Deformation:
    return Deformation.ofTransform(register(inputs).transformNode)


def prepare(deformation, **options) -> Uncertainty.UncertaintyEstimate:
    return Uncertainty.UncertaintyEstimate(deformation, engine=ENGINE, **options)


def estimate(deformation, **options) -> slicer.vtkMRMLScalarVolumeNode:
    made = prepare(deformation, **options)
    made.start()
    return made.wait()


class TestMap:
    def test_holds_what_the_engine_found_on_the_fixed_grid(self, deformation, oblique_geometry):
        node = estimate(deformation, samples=4)
        found = fields.magnitude(fields.resize(*fake_engine.found_on(oblique_geometry), oblique_geometry)) / 4
        np.testing.assert_allclose(slicer.util.arrayFromVolume(node), found, atol=1e-3)
        placed = Volumes.geometryOf(node, np.eye(4)).ijk_to_ras
        np.testing.assert_allclose(placed, oblique_geometry.ijk_to_ras, atol=1e-6)

    def test_has_a_legend_in_mm_and_hides_what_is_certain(self, deformation):
        node = estimate(deformation)
        (legend,) = [
            item for item in slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")
            if item.GetPrimaryDisplayNode() is node.GetDisplayNode()
        ]  # fmt: skip
        assert legend.GetTitleText() == "Uncertainty\n(mm)"
        assert node.GetDisplayNode().GetApplyThreshold()

    def test_is_remembered_and_updated(self, deformation):
        node = estimate(deformation)
        assert Maps.of(deformation, Map.UNCERTAINTY) is node
        assert estimate(deformation) is node

    def test_summary_is_mean_and_95th_percentile(self, deformation):
        node = estimate(deformation)
        array = slicer.util.arrayFromVolume(node)
        assert Uncertainty.summaryOf(node) == pytest.approx((array.mean(), np.percentile(array, 95)))


class TestJob:
    @staticmethod
    def job_of(deformation, **options):
        made = prepare(deformation, **options)
        made.start()
        job = (made._job.folder / "job.json").read_text(encoding="utf-8")
        made.close()
        return fake_engine.contract.parse_job(job)

    def test_settings_are_those_the_transform_remembers(self, inputs):
        options = {"method": "none", "refinementSteps": 7, "similarity": "mind", "device": "cpu", "seed": 5}
        deformation = Deformation.ofTransform(register(inputs, **options).transformNode)
        job = self.job_of(deformation, samples=6)
        assert (job.method, job.refinement_steps, job.similarity, job.seed, job.samples) == ("none", 7, "mind", 5, 6)

    def test_settings_of_a_transform_without_memory_are_given(self, deformation):
        deformation.transformNode.SetAttribute(Record.ATTRIBUTE, None)
        job = self.job_of(deformation, settings=Settings(method="none", refinement_steps=9))
        assert (job.method, job.refinement_steps) == ("none", 9)

    @pytest.mark.parametrize("place", ["imported", "given"])
    def test_weights_of_the_user_are_found_by_their_name(self, inputs, tmp_path, monkeypatch, place):
        path = tmp_path / "own.pt"
        path.touch()
        monkeypatch.setattr(Weights, "userFolder", lambda: tmp_path if place == "imported" else tmp_path / "none")
        path.with_suffix(".json").write_text("{}", encoding="ascii")  # damaged weights are there, too
        deformation = Deformation.ofTransform(register(inputs, weights=str(path)).transformNode)
        given = Settings(weights=str(path)) if place == "given" else None
        assert self.job_of(deformation, settings=given).weights == str(path)

    def test_weights_that_are_not_known_are_told(self, inputs, tmp_path):
        deformation = Deformation.ofTransform(register(inputs, weights=str(tmp_path / "own.pt")).transformNode)
        with pytest.raises(ValueError, match=r"weights own\.pt of .* not known here; import them, or"):
            prepare(deformation).start()

    def test_moving_volume_may_be_under_the_deformation(self, deformation):
        deformation.moving.SetAndObserveTransformNodeID(deformation.transformNode.GetID())
        assert self.job_of(deformation).moving == "moving.nrrd"

    def test_start_is_that_of_the_registration(self, inputs):
        put_under(inputs.movingVolume, RIGID)
        deformation = Deformation.ofTransform(register(inputs).transformNode)
        made = prepare(deformation)
        made.start()
        start = fake_engine.images.read_linear_transform(made._job.folder / "initial.tfm")
        made.close()
        flip = np.diag([-1.0, -1.0, 1.0, 1.0])
        np.testing.assert_allclose(flip @ start @ flip, np.linalg.inv(RIGID), atol=1e-6)

    def test_number_of_samples_out_of_range_is_refused(self, deformation):
        with pytest.raises(ValueError, match=r"samples is 1, but must be between 2 and 100"):
            prepare(deformation, samples=1).start()


class TestEnd:
    def test_progress_is_told(self, deformation):
        recorder = Recorder()
        estimate(deformation, callbacks=recorder.callbacks)
        assert recorder.stages[:2] == ["export", "export"]
        assert recorder.stages[-1] == "import"

    def test_cancellation_leaves_the_scene_as_it_was(self, scene, deformation, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "work until cancelled")
        before = mrml_scene.scene_state(scene)
        recorder = Recorder()
        made = prepare(deformation, callbacks=recorder.callbacks)
        made.start()
        poll_until(made, lambda: "refine" in recorder.stages)
        made.cancel()
        with pytest.raises(RuntimeError, match="was canceled"):
            made.wait()
        assert [failure.code for failure in recorder.failures] == [errors.CANCELLED]
        assert mrml_scene.scene_state(scene) == before


@pytest.mark.slow
@pytest.mark.torch
def test_engine_itself_is_less_certain_away_from_structure(scene):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    nodes = SampleCases.addPhantom(thorax.default_geometry((40, 32, 40), (8.4, 7.5, 8.4)))
    settings = Settings(method="none", refinement_steps=8, device="cpu")
    registration = Registration.PairRegistration(Request(nodes, settings), engine=Engine(sys.executable))
    registration.start()
    deformation = Deformation.ofTransform(registration.wait().transformNode)
    made = Uncertainty.UncertaintyEstimate(deformation, 3, settings, engine=Engine(sys.executable))
    made.start()
    spread = slicer.util.arrayFromVolume(made.wait())
    image = slicer.util.arrayFromVolume(deformation.fixed)
    structured = np.abs(np.gradient(image, axis=0)) > 150  # HU a voxel: lung against diaphragm
    empty = np.abs(image + 1000) < 30
    assert spread[structured].mean() < spread[empty].mean()
