"""Inputs that cannot work are refused in a sentence, and unusual ones are registered as what they are."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from DeepAttentionRegEngine.jobs import run
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.protocol.contract import RegisterJob
from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.protocol.settings import Settings
from DeepAttentionRegEngine.registration.alignment import align
from DeepAttentionRegEngine.registration.deformation import StoredDeformation
from DeepAttentionRegEngine.registration.registrar import register
from DeepAttentionRegEngine.volume import images
from engine_cases import blob_source, centered, matrix4, quiet, rotation

pytestmark = pytest.mark.torch


class TestInputs:
    @pytest.mark.parametrize(("twin", "why"), [("fixed", "both read and written"), ("output_transform", "twice")])
    def test_output_never_replaces_an_input_or_another_output(self, shifted: Callable, twin: str, why: str) -> None:
        job = shifted(output_transform=str(Path(shifted().fixed).with_name("t.nrrd")))
        before = Path(job.fixed).read_bytes()
        with pytest.raises(EngineError, match=why):
            run(RegisterJob(**{**vars(job), "output_warped": getattr(job, twin)}), quiet())
        assert Path(job.fixed).read_bytes() == before

    @pytest.mark.parametrize("mode", ["center", "mass"])
    def test_slice_keeps_its_place_across_its_plane_in_a_volume(self, mode: str) -> None:
        volume = blob_source(centered((40, 40, 40), (2.5, 2.5, 2.5)))
        plane = blob_source(centered((60, 56, 1), (1.5, 1.5, 1.5), np.eye(3), (3.0, -2.0, 14.0)))
        matrix = align(plane, volume, mode, np.eye(4), 0, torch.device("cpu"))
        assert abs(matrix[2, 3]) < 1e-9

    def test_landmarks_on_one_side_only_are_refused(self, shifted: Callable, tmp_path: Path) -> None:
        images.write_points(tmp_path / "points.csv", np.zeros((2, 3)))
        with pytest.raises(EngineError, match="2 fixed but 0 moving landmarks"):
            run(shifted(fixed_points=str(tmp_path / "points.csv")), quiet())

    def test_warped_labels_without_labels_are_refused(self, shifted: Callable, tmp_path: Path) -> None:
        with pytest.raises(EngineError, match="no moving labels"):
            run(shifted(output_warped_labels=str(tmp_path / "w.nrrd")), quiet())

    def test_initial_transform_alone_is_the_field(self, shifted: Callable, tmp_path: Path) -> None:
        matrix = matrix4(rotation(5, -8, 10) @ np.diag([1.05, 0.95, 1.0]), (4.0, 3.0, -2.0))
        images.write_linear_transform(tmp_path / "initial.tfm", matrix)
        job = shifted(initial_transform=str(tmp_path / "initial.tfm"), output_transform=str(tmp_path / "t.nrrd"))
        run(job, quiet())
        field, grid = images.read_displacement(tmp_path / "t.nrrd")
        np.testing.assert_allclose(field, StoredDeformation.linear(matrix, grid).on(grid), atol=1e-3)

    def test_slice_is_found_in_a_volume(self, tmp_path: Path) -> None:
        volume = blob_source(centered((40, 40, 40), (2.5, 2.5, 2.5)))
        plane = centered((60, 56, 1), (1.5, 1.5, 1.5), rotation(20, 30, 0), (3.0, -2.0, 4.0))
        images.write_volume(tmp_path / "fixed.nrrd", blob_source(plane).array, plane)
        images.write_volume(tmp_path / "moving.nrrd", volume.array, volume.geometry)
        files = {"fixed": str(tmp_path / "fixed.nrrd"), "moving": str(tmp_path / "moving.nrrd")}
        plain = {"method": "none", "alignment": "none", "refinement_steps": 0}
        job = RegisterJob(**files, **plain, output_warped=str(tmp_path / "w.nrrd"))
        run(job, quiet())
        # The volume at 2.5 mm, interpolated linearly, shows blobs of 7 mm with an error of about 0.02.
        difference = images.read_volume(tmp_path / "w.nrrd").array - blob_source(plane).array
        assert np.abs(difference).max() < 0.05

    def test_volume_cannot_be_moved_by_a_slice(self, tmp_path: Path, shifted: Callable) -> None:
        plane = centered((30, 30, 1), (2.0, 2.0, 2.0))
        images.write_volume(tmp_path / "slice.nrrd", blob_source(plane).array, plane)
        with pytest.raises(EngineError, match="single slice") as caught:
            run(shifted(moving=str(tmp_path / "slice.nrrd")), quiet())
        assert caught.value.code == errors.INPUT_INVALID

    def test_method_without_weights_for_volumes_says_so(self, shifted: Callable) -> None:
        with pytest.raises(EngineError, match="3D") as caught:
            run(shifted(method="agf"), quiet())
        assert caught.value.code == errors.WEIGHTS_MISSING

    def test_mask_on_another_grid_counts_where_it_lies(self, shifted: Callable, tmp_path: Path) -> None:
        grid = centered((20, 20, 20), (2.0, 2.0, 2.0), center=(500.0, 0.0, 0.0))
        images.write_volume(tmp_path / "mask.nrrd", np.ones(grid.shape, np.uint8), grid)
        with pytest.raises(EngineError, match="mask of the fixed image") as caught:
            run(shifted(fixed_mask=str(tmp_path / "mask.nrrd")), quiet())
        assert caught.value.code == errors.MASK_OUTSIDE

    def test_unequal_landmark_lists_are_refused(self, shifted: Callable, tmp_path: Path) -> None:
        points = {}
        for role, count in (("fixed", 3), ("moving", 2)):
            points[f"{role}_points"] = str(tmp_path / f"{role}.csv")
            images.write_points(points[f"{role}_points"], np.zeros((count, 3)))
        with pytest.raises(EngineError, match=r"3 fixed but 2 moving"):
            run(shifted(**points), quiet())

    @pytest.mark.parametrize("device", ["gpu", "cuda:99", "mps"])
    def test_missing_device_is_refused(self, shifted: Callable, device: str) -> None:
        with pytest.raises(EngineError, match=device) as caught:
            run(shifted(device=device), quiet())
        assert caught.value.code == errors.DEVICE_UNAVAILABLE

    def test_unknown_method_is_refused(self, shifted: Callable) -> None:
        with pytest.raises(EngineError) as caught:
            run(shifted(method="elastix"), quiet())
        assert caught.value.code == errors.METHOD_UNKNOWN


class TestSizes:
    @staticmethod
    def scaled(job: RegisterJob, folder: Path, factor: float) -> str:
        """Write the moving image of a job as if its voxels were so many times as large."""
        image = sitk.ReadImage(job.moving)
        image.SetSpacing([factor * spacing for spacing in image.GetSpacing()])
        image.SetOrigin([factor * place for place in image.GetOrigin()])
        sitk.WriteImage(image, folder / "scaled.nrrd")
        return str(folder / "scaled.nrrd")

    @pytest.mark.parametrize("factor", [1000.0, 0.001])
    def test_images_in_different_units_are_refused_with_both_sizes(
        self, shifted: Callable, tmp_path: Path, factor: float
    ) -> None:
        side = f"{64 * factor:.3g}"
        sizes = f"fixed image measures 64 x 64 x 64 mm, the moving one {side} x {side} x {side} mm"
        with pytest.raises(EngineError, match=re.escape(sizes)) as caught:
            run(shifted(moving=self.scaled(shifted(), tmp_path, factor)), quiet())
        assert caught.value.code == errors.INPUT_INVALID

    @pytest.mark.parametrize("factor", [10.0, 6.0])
    def test_tenfold_size_is_told_before_the_run_and_in_the_result(
        self, shifted: Callable, tmp_path: Path, factor: float
    ) -> None:
        told: list[str] = []
        moving = self.scaled(shifted(), tmp_path, factor)
        registered = register(
            shifted().fixed,
            moving,
            Settings(method="none", alignment="none", refinement_steps=0, device="cpu"),
            on_progress=lambda progress: told.append(progress.message),
        )
        (warning,) = registered.warnings
        assert "check that the voxel sizes of both are in mm" in warning
        assert told.index(warning) < told.index("Aligning the volumes.")

    def test_sizes_that_the_initial_transform_brings_together_are_none_to_tell(
        self, shifted: Callable, tmp_path: Path
    ) -> None:
        images.write_linear_transform(tmp_path / "scale.tfm", np.diag([1000.0, 1000.0, 1000.0, 1.0]))
        moving = self.scaled(shifted(), tmp_path, 1000)
        result = run(shifted(moving=moving, initial_transform=str(tmp_path / "scale.tfm")), quiet())
        assert result.warnings == []

    def test_part_of_an_examination_is_registered_without_a_word(self, shifted: Callable, tmp_path: Path) -> None:
        sitk.WriteImage(sitk.ReadImage(shifted().moving)[8:24, 8:24, 8:24], tmp_path / "part.nrrd")
        assert run(shifted(moving=str(tmp_path / "part.nrrd")), quiet()).warnings == []


class TestPictures:
    def test_same_pixels_with_any_print_density_do_not_move(self, tmp_path: Path) -> None:
        pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
        plane = blob_source(centered((60, 56, 1), (1.0, 1.0, 1.0)))
        pixels = np.clip(255 * plane.array[0], 0, 255).astype(np.uint8)
        for density in (72, 96):
            pillow.fromarray(pixels).save(tmp_path / f"{density}.tif", dpi=(density, density))
        files = {"fixed": str(tmp_path / "96.tif"), "moving": str(tmp_path / "72.tif")}
        result = run(RegisterJob(**files, method="none", refinement_steps=10), quiet())
        assert result.values["displacement_mm"]["max"] == 0
        assert [re.sub(r".*[/\\]", "", warning) for warning in result.warnings] == [
            f"{density}.tif holds no physical size, so a pixel counts as 1 mm." for density in (96, 72)
        ]


class TestLabels:
    def test_labels_beyond_32_bits_are_measured_one_by_one(self, shifted: Callable, tmp_path: Path) -> None:
        image = images.read_volume(shifted().fixed)
        labels = np.where(image.array > image.array.mean(), 2**40, 2**40 + 2**32)
        images.write_volume(tmp_path / "labels.nrrd", labels, image.geometry)
        files = dict.fromkeys(("fixed_labels", "moving_labels"), str(tmp_path / "labels.nrrd"))
        result = run(shifted(moving=shifted().fixed, **files), quiet())
        assert result.values["after"]["dice"] == {str(2**40): 1.0, str(2**40 + 2**32): 1.0, "mean": 1.0}

    def test_image_given_in_place_of_labels_is_refused(self, shifted: Callable, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 1000, (32, 32, 32), np.int16)
        images.write_volume(tmp_path / "ct.nrrd", noise, images.read_volume(shifted().fixed).geometry)
        with pytest.raises(EngineError, match="as those of an image do"):
            run(shifted(fixed_mask=str(tmp_path / "ct.nrrd")), quiet())
