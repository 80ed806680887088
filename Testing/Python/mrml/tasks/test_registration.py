"""A registration in the scene, its engine played by a stand-in and once by itself."""

import dataclasses
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import fake_engine
import mrml_scene
from DeepAttentionRegEngine.phantom.thorax import default_geometry
from DeepAttentionRegEngine.protocol import contract
from DeepAttentionRegEngine.protocol.settings import Settings
from DeepAttentionRegEngine.volume.geometry import flip_lps_ras
from DeepAttentionRegLib.engine.Callbacks import Callbacks
from DeepAttentionRegLib.engine.Engine import Engine
from DeepAttentionRegLib.evidence import Landmarks, Maps, Segments
from DeepAttentionRegLib.nodes import Deformation, Record, SampleCases, Transforms, Volumes, Warping
from DeepAttentionRegLib.nodes.InputNodes import InputNodes
from DeepAttentionRegLib.nodes.Overlays import Map
from DeepAttentionRegLib.tasks import Registration
from DeepAttentionRegLib.tasks.Registration import OutputNodes
from DeepAttentionRegLib.tasks.Request import Request, requestOf
from mrml_cases import RIGID, Recorder, outputs_of, prepare, put_under, register, with_segmentations

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]


class TestOutcome:
    def test_transform_maps_fixed_points_as_the_engine_found(self, inputs, oblique_geometry, grid_points):
        transform = register(inputs).transformNode.GetTransformFromParent()
        points = grid_points(oblique_geometry).reshape(-1, 3)[::7]
        mapped = np.array([transform.TransformPoint(point) for point in flip_lps_ras(points)])
        wanted = points + fake_engine.displacement_at(points)
        assert np.abs(flip_lps_ras(mapped) - wanted).max() < 1e-3

    @pytest.mark.parametrize("grid", ["found", "fixed"])
    def test_transform_lies_on_the_grid_that_was_asked_for(self, inputs, oblique_geometry, grid):
        node = register(inputs, transformGrid=grid).transformNode
        wanted = {"found": fake_engine.found_on(oblique_geometry)[1], "fixed": oblique_geometry}[grid]
        assert Transforms.readGrid(node)[1].matches(wanted)
        assert Record.recall(node).settings["transform_grid"] == grid

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

    # The second was given its true size since it was loaded; PNG keeps its density apart.
    @pytest.mark.parametrize(("name", "spacing"), [("a.jpg", 0.1), ("a.jpg", 0.5), ("a.png", 1.0)])
    def test_print_density_of_a_loaded_picture_is_told(self, inputs, tmp_path, name, spacing):
        pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
        pillow.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5)).save(tmp_path / name, dpi=(254, 254))
        volume = inputs.fixedVolume
        volume.SetSpacing(spacing, spacing, 1)
        storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
        storage.SetFileName(str(tmp_path / name))
        volume.SetAndObserveStorageNodeID(storage.GetID())
        told = [text for text in register(inputs).result.warnings if "CT1 was loaded from a picture" in text]
        assert len(told) == (spacing == 0.1)
        assert all("0.1 mm" in text for text in told)

    def test_without_segmentation_there_is_none(self, inputs):
        assert register(inputs).warpedSegmentationNode is None

    def test_kept_recursions_become_a_sequence(self, inputs):
        outcome = register(inputs, recursions=2, keepRecursions=True)
        assert outcome.stepsNode.GetName() == "CT2 to CT1 (rman) steps"
        assert outcome.stepsNode.GetNumberOfDataNodes() == 3

    def test_shown_recursions_are_told_and_leave_nothing(self, inputs):
        told = []
        registration = prepare(inputs, recursions=2, showRecursions=True)
        registration._callbacks = Callbacks(
            onProgress=lambda progress: progress.file and told.append(Path(progress.file).exists())
        )
        registration.start()
        assert registration.wait().stepsNode is None
        assert told == [True, True]

    def test_kept_attention_keeps_the_recursions_too(self, inputs, tmp_path):
        options = {"keepAttention": True, "evidenceFolder": tmp_path / "kept"}
        outcome = register(inputs, **options)
        assert outcome.stepsNode.GetNumberOfDataNodes() == 4
        assert Path(outcome.result.outputs["recursions"]) == tmp_path / "kept" / "recursions" / "recursions.json"
        kept = {path.name for path in (tmp_path / "kept" / "recursions").iterdir()}
        assert kept >= {*(f"recursion_{index}.nrrd" for index in (1, 2, 3)), "recursions.json"}

    def test_kept_gaussians_outlive_the_job(self, inputs, tmp_path):
        outcome = register(inputs, keepGaussians=True, evidenceFolder=str(tmp_path))
        assert Path(outcome.result.outputs["gaussians"]) == tmp_path / "gaussians.json"
        assert [path.name for path in tmp_path.iterdir()] == ["gaussians.json"]

    def test_sequence_of_gaussians_needs_a_folder(self, inputs):
        with pytest.raises(ValueError, match="Choose a folder"):
            register(inputs, keepGaussians=True)

    def test_kept_evidence_is_not_overwritten(self, inputs, tmp_path):
        (tmp_path / "gaussians.json").write_text("old", encoding="ascii")
        with pytest.raises(ValueError, match="already holds"):
            register(inputs, keepGaussians=True, evidenceFolder=tmp_path)
        assert (tmp_path / "gaussians.json").read_text(encoding="ascii") == "old"

    def test_evidence_that_cannot_be_kept_leaves_the_scene_as_it_was(self, scene, inputs, tmp_path):
        (tmp_path / "file").touch()
        before = mrml_scene.scene_state(scene)
        with pytest.raises(RuntimeError, match="could not be loaded"):
            register(inputs, keepGaussians=True, evidenceFolder=tmp_path / "file")
        assert mrml_scene.scene_state(scene) == before

    def test_settings_are_those_of_the_contract(self):
        request = requestOf({"halfPrecision": True, "keepAttention": True, "keepGaussians": True})
        job = {**asdict(request.settings), **request.kept.outputs(request.settings, 3)}
        assert (job["half_precision"], job["attention"]) == (True, True)
        assert (job["output_recursions"], job["output_gaussians"]) == ("recursions", "gaussians.json")
        assert set(job) <= {field.name for field in dataclasses.fields(contract.RegisterJob)}

    def test_numbers_of_numpy_become_plain(self):
        settings = Settings(recursions=np.int64(2), smoothness=np.float32(0.5), velocity=np.bool_(True))
        job = asdict(settings)
        contract.build(contract.RegisterJob, {**job, "fixed": "a", "moving": "b"})
        assert [type(job[name]) for name in ("recursions", "smoothness", "velocity")] == [int, float, bool]

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

    def test_temporary_folder_with_spaces_and_umlauts_works(self, inputs, monkeypatch, tmp_path):
        folder = tmp_path / "J\u00fcrgen M\u00fcller \u80ba"
        folder.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        assert register(with_segmentations(inputs)).warpedSegmentationNode is not None
        assert not list(folder.iterdir())

    def test_result_survives_the_scene(self, scene, inputs, tmp_path, oblique_geometry, grid_points):
        register(with_segmentations(inputs))
        mrml_scene.save_and_reload(scene, tmp_path)
        points = grid_points(oblique_geometry).reshape(-1, 3)[::7]
        transform = scene.GetFirstNodeByName("CT2 to CT1 (rman)").GetTransformFromParent()
        mapped = np.array([transform.TransformPoint(point) for point in flip_lps_ras(points)])
        assert np.abs(flip_lps_ras(mapped) - points - fake_engine.displacement_at(points)).max() < 1e-3
        segmentation = scene.GetFirstNodeByName("CT2 to CT1 (rman) segmentation").GetSegmentation()
        assert segmentation.GetNthSegment(0).GetName() == "Liver"


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
            prepare(InputNodes(inputs.fixedVolume, inputs.fixedVolume)).start()

    def test_wrong_setting_is_a_sentence(self, inputs):
        with pytest.raises(ValueError, match="recursions is 0"):
            prepare(inputs, recursions=0).start()

    def test_input_is_not_overwritten(self, inputs):
        with pytest.raises(ValueError, match="CT2 is an input"):
            prepare(inputs, outputs=OutputNodes(warpedVolumeNode=inputs.movingVolume)).start()

    def test_one_node_for_two_outputs_is_refused(self, scene, inputs):
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Both")
        with pytest.raises(ValueError, match="Both is chosen for two outputs"):
            prepare(inputs, outputs=OutputNodes(warpedVolumeNode=node, jacobianVolumeNode=node)).start()

    def test_node_for_linear_transforms_is_refused(self, scene, inputs):
        node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Linear")
        with pytest.raises(ValueError, match="Linear can hold no displacement field"):
            prepare(inputs, outputs=OutputNodes(transformNode=node)).start()

    def test_engine_that_cannot_start_leaves_the_scene(self, scene, inputs):
        registration = Registration.PairRegistration(Request(inputs), engine=Engine("no-such-python"))
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


@pytest.mark.slow
@pytest.mark.torch
class TestRealEngine:
    """The engine itself, given nothing to do but to respect the transforms that the volumes are under."""

    NOTHING = Settings(method="none", alignment="none", refinement_steps=0, device="cpu")

    @pytest.fixture(autouse=True)
    def need_torch(self):
        pytest.importorskip("torch", reason="PyTorch is not installed")

    def test_result_replaces_the_parent_of_the_moving_volume(self, inputs, oblique_geometry, grid_points):
        inside = np.linalg.norm(grid_points(oblique_geometry) - oblique_geometry.center_lps, axis=-1) < 5
        for volume in (inputs.fixedVolume, inputs.movingVolume):
            slicer.util.updateVolumeFromArray(volume, inside.astype(np.float32))
        center = flip_lps_ras(oblique_geometry.center_lps)
        matrix = RIGID.copy()
        matrix[:3, 3] = center - RIGID[:3, :3] @ center + (2.0, -1.0, 1.5)
        put_under(inputs.movingVolume, matrix)
        registration = Registration.PairRegistration(Request(inputs, self.NOTHING), engine=Engine(sys.executable))
        registration.start()
        transform = registration.wait().transformNode.GetTransformFromParent()
        points = flip_lps_ras(grid_points(oblique_geometry).reshape(-1, 3))[::7]
        mapped = np.array([transform.TransformPoint(point) for point in points])
        inverse = np.linalg.inv(matrix)
        np.testing.assert_allclose(mapped, points @ inverse[:3, :3].T + inverse[:3, 3], atol=1e-3)

    def test_panel_and_engine_measure_the_same(self, scene):
        """The thorax is registered by some steps of refinement; its transform lies where it was found."""
        nodes = SampleCases.addPhantom(default_geometry((40, 32, 28), (8.0, 8.5, 10.0)))
        settings = Settings(method="none", alignment="none", refinement_steps=10, device="cpu")
        registration = Registration.PairRegistration(Request(nodes, settings), engine=Engine(sys.executable))
        registration.start()
        outcome = registration.wait()
        deformation, values = Deformation.ofTransform(outcome.transformNode), outcome.result.values
        jacobian = slicer.util.arrayFromVolume(outcome.jacobianVolumeNode)
        np.testing.assert_allclose(Maps.compute(deformation, Map.JACOBIAN)[0], jacobian, atol=1e-4)
        magnitude = Maps.compute(deformation, Map.MAGNITUDE)[0]
        assert magnitude.max() == pytest.approx(values["displacement_mm"]["max"], abs=1e-3)
        warped = Warping.warp(deformation.moving, deformation.transformNode).node
        pair = [slicer.util.arrayFromVolume(node).astype(float) for node in (warped, outcome.warpedVolumeNode)]
        assert np.mean(np.abs(np.subtract(*pair)) > 1) < 1e-3  # of rounding, and where the moving volume ends
        compared = Segments.compare(deformation, nodes.fixedSegmentation, nodes.movingSegmentation)
        for structure in compared.structures:
            assert structure.scores["after"].dice == pytest.approx(values["after"]["dice"][structure.name], abs=2e-3)
        measured = Landmarks.measure(deformation, nodes.fixedLandmarks, nodes.movingLandmarks)
        np.testing.assert_allclose(measured.errorsMm["after"], values["after"]["tre_mm"]["points"], atol=1e-3)
