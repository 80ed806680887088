"""What a registration hands to the engine."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_scene  # noqa: F401  (provides slicer.i18n)
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegLib.engine.EngineJob import EngineJob
from DeepAttentionRegLib.nodes.InputNodes import InputNodes, checkInputs
from mrml_cases import RIGID, add_segmentation, prepare, put_under, with_segmentations

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]


class TestExport:
    @pytest.fixture
    def export(self, monkeypatch, tmp_path):
        """The function that returns the job of a registration, its files kept in tmp_path."""

        def build(inputs: InputNodes, **options):
            jobs = []

            def keep(engine_job, job) -> None:
                jobs.append(job)
                for path in engine_job.folder.iterdir():
                    (tmp_path / path.name).write_bytes(path.read_bytes())

            monkeypatch.setattr(EngineJob, "start", keep)
            registration = prepare(inputs, **options)
            registration.start()
            registration.close()
            return jobs[0]

        return build

    def test_files_are_named_without_folder(self, export, inputs):
        job = export(with_segmentations(inputs))
        files = [job.fixed, job.moving, job.fixed_labels, job.moving_labels, job.output_transform, job.output_warped]
        assert [Path(name).name for name in files] == files

    def test_settings_reach_the_job(self, export, inputs):
        job = export(inputs, method="none", refinementSteps=7, similarity="mind", velocity=True)
        assert (job.method, job.refinement_steps, job.similarity, job.velocity) == ("none", 7, "mind", True)

    def test_fixed_parent_is_folded_into_the_fixed_volume(self, export, inputs, oblique_geometry, tmp_path):
        put_under(inputs.fixedVolume, RIGID)
        job = export(inputs)
        geometry = images.read_volume(tmp_path / job.fixed).geometry
        np.testing.assert_allclose(geometry.ijk_to_ras, RIGID @ oblique_geometry.ijk_to_ras, atol=1e-6)
        assert job.initial_transform is None

    def test_initial_transform_takes_the_place_of_the_moving_parent(self, export, inputs, oblique_geometry, tmp_path):
        put_under(inputs.movingVolume, RIGID)
        chosen = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Chosen")
        chosen.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(RIGID @ RIGID))
        job = export(replace(inputs, initialTransform=chosen))
        geometry = images.read_volume(tmp_path / job.moving).geometry
        np.testing.assert_allclose(geometry.ijk_to_ras, oblique_geometry.ijk_to_ras, atol=1e-6)
        initial = images.read_linear_transform(tmp_path / job.initial_transform)
        flip = np.diag([-1.0, -1.0, 1.0, 1.0])
        np.testing.assert_allclose(flip @ initial @ flip, np.linalg.inv(RIGID @ RIGID), atol=1e-9)

    def test_shown_recursions_are_asked_for(self, export, inputs):
        job = export(inputs, showRecursions=True)
        assert (job.output_recursions, job.recursion_voxels) == ("recursions", 2**20)

    def test_many_recursions_are_asked_for_on_a_coarser_grid(self, export, inputs):
        job = export(inputs, method="bspline", recursions=62, keepRecursions=True)
        assert job.recursion_voxels == 2**18

    def test_refinement_alone_is_not_asked_for_recursions(self, export, inputs):
        job = export(inputs, method="none", refinementSteps=7, showRecursions=True, keepAttention=True)
        assert (job.output_recursions, job.attention) == (None, False)

    def test_moving_parent_becomes_the_initial_transform(self, export, inputs, oblique_geometry, tmp_path):
        put_under(inputs.movingVolume, RIGID)
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
            put_under(node, RIGID)
        moved = export(given)
        np.testing.assert_array_equal(images.read_labels(tmp_path / moved.moving_labels).array, wanted)

    @pytest.mark.parametrize(("kind", "told"), [("Curve", "curve"), ("ClosedCurve", "closed curve")])
    def test_curves_are_given_as_they_are_drawn(self, export, inputs, tmp_path, kind, told):
        nodes = []
        for count in (5, 7):
            nodes.append(slicer.mrmlScene.AddNewNodeByClass(f"vtkMRMLMarkups{kind}Node", "Vessel"))
            for angle in np.linspace(0, np.pi, count):
                nodes[-1].AddControlPoint(10 * np.cos(angle), 5 * np.sin(angle), 0.0)
        job = export(replace(inputs, fixedLandmarks=nodes[0], movingLandmarks=nodes[1]))
        files = tmp_path / job.fixed_points, tmp_path / job.moving_points
        assert [images.read_markups(path).kind for path in files] == [told, told]
        assert all(len(images.read_points(path)) > 20 for path in files)

    def test_a_curve_needs_one_of_its_kind(self, inputs):
        nodes = [slicer.mrmlScene.AddNewNodeByClass(f"vtkMRMLMarkups{kind}Node") for kind in ("Curve", "Fiducial")]
        for node in nodes:
            node.AddControlPoint(1.0, 2.0, 3.0)
        problems = checkInputs(replace(inputs, fixedLandmarks=nodes[0], movingLandmarks=nodes[1]))
        assert problems == ["Landmarks must be points on both volumes, or the same kind of curve."]

    def test_masks_and_landmarks_are_given(self, export, inputs):
        points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Points")
        slicer.util.updateMarkupsControlPointsFromArray(points, np.zeros((3, 3)))
        mask = add_segmentation(inputs, "Mask")
        job = export(InputNodes(inputs.fixedVolume, inputs.movingVolume, mask, mask, None, None, points, points))
        assert (job.fixed_mask, job.moving_mask) == ("fixed_mask.nrrd", "moving_mask.nrrd")
        assert (job.fixed_points, job.moving_points) == ("fixed_points.csv", "moving_points.csv")
