"""Whole jobs from files to files: accuracy on phantoms, one field for everybody, nothing left behind by a failure."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from DeepAttentionRegEngine.jobs import run
from DeepAttentionRegEngine.phantom.thorax import PhantomPair, make_phantom
from DeepAttentionRegEngine.protocol import contract
from DeepAttentionRegEngine.protocol.contract import STAGES, RegisterJob
from DeepAttentionRegEngine.protocol.reporting import Reporter
from DeepAttentionRegEngine.volume import fields, images, metrics
from engine_cases import centered, rotation, write_case

pytestmark = pytest.mark.torch

CORONAL = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
AWAY = (40.0, -30.0, 100.0)
GRIDS = {
    "volume": (
        centered((44, 46, 40), (8.0, 5.0, 8.5), rotation(12, -9, 20), AWAY),
        centered((50, 42, 44), (7.0, 5.5, 8.0), rotation(3, 5, -4), AWAY),
    ),
    "slice": (centered((96, 96, 1), (3.5, 3.0, 3.0), CORONAL), centered((90, 100, 1), (3.6, 3.2, 3.0), CORONAL)),
}


class Case:
    """A phantom registered by refinement alone: the job, what it reported, its result and the truth."""

    def __init__(self, pair: PhantomPair, folder: Path) -> None:
        self.pair, self.events = pair, []
        self.job = RegisterJob(
            **write_case(pair, folder),
            method="none",
            device="cpu",
            refinement_steps=30,
            output_transform=str(folder / "transform.nrrd"),
            output_warped=str(folder / "warped.nrrd"),
            output_jacobian=str(folder / "jacobian.nrrd"),
            output_warped_labels=str(folder / "warped_labels.nrrd"),
        )
        self.result = run(self.job, Reporter(self.events.append, lambda: False))
        self.field, self.grid = images.read_displacement(self.job.output_transform)

    def sitk_transform(self, path: str | None = None) -> sitk.Transform:
        """Return the written transform as SimpleITK reads it, by no code of this project."""
        path = path or self.job.output_transform
        if path.endswith((".h5", ".tfm")):
            return sitk.ReadTransform(path)
        return sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))

    def resampled(self, source: str, method: int, background: float) -> np.ndarray:
        moving, fixed = sitk.ReadImage(source), sitk.ReadImage(self.job.fixed)
        return sitk.GetArrayFromImage(sitk.Resample(moving, fixed, self.sitk_transform(), method, background))


@pytest.fixture(scope="module", params=[pytest.param("volume", marks=pytest.mark.slow), "slice"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(make_phantom(*GRIDS[request.param]), tmp_path_factory.mktemp(request.param))


class TestAccuracy:
    def test_landmark_error_falls_below_one_voxel(self, case: Case) -> None:
        # Measured 2.6 mm in the volume (voxels of 5 to 8.5 mm, 13.2 before), 1.1 mm in the slice (3 mm, 14.5 before).
        assert case.result.values["after"]["tre_mm"]["mean"] < min(case.grid.spacing)

    def test_landmark_error_is_what_the_written_field_gives(self, case: Case) -> None:
        pair = case.pair
        error = metrics.target_registration_error(pair.fixed_points_lps, pair.moving_points_lps, case.field, case.grid)
        assert case.result.values["after"]["tre_mm"]["mean"] == pytest.approx(error.mean(), abs=1e-4)

    def test_field_is_near_the_true_one_inside_the_body(self, case: Case) -> None:
        error = np.linalg.norm(case.field - case.pair.displacement_lps_mm, axis=-1)[case.pair.fixed_labels > 0]
        assert error.mean() < min(case.grid.spacing)

    def test_overlap_rises(self, case: Case) -> None:
        values = case.result.values
        # Measured 0.68 to 0.87 in the volume and 0.67 to 0.95 in the slice.
        assert values["after"]["dice"]["mean"] > values["aligned"]["dice"]["mean"] + 0.15

    def test_field_does_not_fold(self, case: Case) -> None:
        assert case.result.values["jacobian"]["folds"] == 0


class TestOneField:
    @pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".mha", ".h5"])
    def test_simpleitk_moves_grid_nodes_alike(self, case: Case, suffix: str, tmp_path: Path) -> None:
        path = str(tmp_path / f"field{suffix}")
        images.write_displacement(path, case.field, case.grid)
        transform = case.sitk_transform(path)
        nodes = case.grid.index_to_lps(np.random.default_rng(0).integers(0, case.grid.size, (200, 3)))
        theirs = np.array([transform.TransformPoint(point) for point in nodes.tolist()])
        np.testing.assert_allclose(fields.transform_points(case.field, case.grid, nodes), theirs, atol=1e-3)

    def test_simpleitk_moves_points_between_nodes_alike(self, case: Case) -> None:
        transform = case.sitk_transform()
        last = np.array(case.grid.size) - 1
        points = case.grid.index_to_lps(np.random.default_rng(1).random((200, 3)) * last)
        theirs = np.array([transform.TransformPoint(point) for point in points.tolist()])
        # Both interpolate linearly.
        np.testing.assert_allclose(fields.transform_points(case.field, case.grid, points), theirs, atol=1e-3)

    def test_simpleitk_warps_the_image_alike(self, case: Case) -> None:
        ours = images.read_volume(case.job.output_warped).array
        theirs = case.resampled(case.job.moving, sitk.sitkLinear, float(case.pair.moving.min()))
        # Values up to 1500 HU, coordinates in single precision (1e-5 voxel); at the very edge either may be outside.
        assert (np.abs(ours - theirs) > 0.1).mean() < 1e-3

    def test_simpleitk_warps_the_labels_alike(self, case: Case) -> None:
        ours = images.read_volume(case.job.output_warped_labels).array
        # A point half way between two voxels may fall to either.
        assert (ours != case.resampled(case.job.moving_labels, sitk.sitkNearestNeighbor, 0)).mean() < 1e-3

    def test_written_jacobian_is_that_of_the_field(self, case: Case) -> None:
        expected = fields.jacobian_determinant(case.field, case.grid)
        np.testing.assert_allclose(images.read_volume(case.job.output_jacobian).array, expected, atol=1e-5)

    def test_outputs_lie_on_the_fixed_grid(self, case: Case) -> None:
        for path in case.result.outputs.values():
            image = sitk.ReadImage(path)
            assert image.GetSize() == case.pair.fixed_geometry.size
            np.testing.assert_allclose(image.GetOrigin(), case.pair.fixed_geometry.origin, atol=1e-6)


class TestReport:
    def test_outputs_are_named_after_their_fields(self, case: Case) -> None:
        assert set(case.result.outputs) == {"transform", "warped", "jacobian", "warped_labels"}

    def test_result_survives_json(self, case: Case) -> None:
        line = contract.dump_event(case.result)
        assert contract.dump_event(contract.parse_event(line)) == line

    def test_stages_come_in_their_order(self, case: Case) -> None:
        order = [STAGES.index(event.stage) for event in case.events]
        assert order == sorted(order)

    def test_refinement_reports_every_step(self, case: Case) -> None:
        steps = [event.step for event in case.events if event.stage == "refine" and event.of]
        # Thirty at each coarse level, nine at the finest.
        assert steps == list(range(1, 70))

    def test_every_stage_is_timed(self, case: Case) -> None:
        assert set(case.result.values["seconds"]) == {"load", "align", "refine", "evaluate", "write"}

    def test_versions_are_told(self, case: Case) -> None:
        assert case.result.values["versions"]["SimpleITK"] == sitk.Version.VersionString()

    def test_same_job_gives_the_same_field(self, case: Case, tmp_path: Path) -> None:
        path = tmp_path / "again.nrrd"
        again = {**vars(case.job), "output_transform": str(path)}
        run(RegisterJob(**again), Reporter())
        np.testing.assert_array_equal(images.read_displacement(path)[0], case.field)
