"""Inputs that cannot work are refused in a sentence, and unusual ones are registered as what they are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from DeepAttentionRegEngine.jobs import run
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.protocol.contract import RegisterJob
from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.registration.alignment import align
from DeepAttentionRegEngine.registration.evaluation import linear_field
from DeepAttentionRegEngine.volume import images
from engine_cases import blob_source, centered, matrix4, quiet, rotation

pytestmark = pytest.mark.torch


class TestInputs:
    @pytest.mark.parametrize("twin", ["fixed", "output_transform"])
    def test_output_never_replaces_an_input_or_another_output(self, shifted: Callable, twin: str) -> None:
        job = shifted(output_transform=str(Path(shifted().fixed).with_name("t.nrrd")))
        before = Path(job.fixed).read_bytes()
        with pytest.raises(EngineError, match=f"as {twin}"):
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
        np.testing.assert_allclose(field, linear_field(matrix, grid), atol=1e-3)

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
