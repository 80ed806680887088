"""Volumes are resampled part by part, and the result is that of the whole."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from DeepAttentionRegEngine.registration import resampling
from DeepAttentionRegEngine.registration.resampling import Interpolated, mapped_indices, nearest_voxels, resample
from engine_cases import CPU, matrix4, rotation

pytestmark = pytest.mark.torch

SHAPE = (40, 36, 32)
TARGET = (20, 18, 16)
CENTER = (np.array(SHAPE[::-1]) - 1) / 2
# Maps of target to source voxels: twice as coarse, that along other axes and mirrored, beyond an edge, oblique.
HALF = np.diag([2.0, 2.0, 2.0])
MATRICES = {
    "aligned": matrix4(HALF, (0.5, 0.5, 0.5)),
    "permuted": matrix4(HALF[[2, 0, 1]] * [1, -1, 1], (0.5, 33.0, 0.5)),
    "beyond": matrix4(HALF, (0.5, 30.0, -25.0)),
    "away": matrix4(HALF, (0.0, 0.0, 200.0)),
    "oblique": matrix4(rotation(40, 35, 50) @ HALF, CENTER - rotation(40, 35, 50) @ HALF @ [7.5, 8.5, 9.5]),
}
every_map = pytest.mark.parametrize("name", MATRICES)


class Watched:
    """An array that notes how many voxels of it are asked for."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.taken = array, array.shape, []

    def __getitem__(self, part: Any) -> np.ndarray:
        self.taken.append(self.array[part].size)
        return self.array[part]


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).random(SHAPE, np.float32)


class TestParts:
    @every_map
    @pytest.mark.parametrize("nearest", [True, False])
    def test_parts_make_the_whole(
        self, image: np.ndarray, name: str, nearest: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        matrix = MATRICES[name] @ matrix4(np.eye(3), (0.1, 0.1, 0.1))  # no place is half way between two voxels
        whole, inside = resample(image, matrix, TARGET, CPU, nearest=nearest)
        monkeypatch.setattr(resampling, "PART_VOXELS", 4000)
        values, seen = resample(image, matrix, TARGET, CPU, nearest=nearest)
        # Places in single precision, relative to the part, on noise of contrast 1.
        torch.testing.assert_close(values, whole, atol=1e-5, rtol=0)
        assert torch.equal(seen, inside)

    @pytest.mark.parametrize("name", ["aligned", "permuted"])
    def test_large_volume_is_never_taken_as_a_whole(
        self, image: np.ndarray, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(resampling, "PART_VOXELS", 4000)
        watched = Watched(image)
        resample(watched, MATRICES[name], TARGET, CPU)
        assert max(watched.taken) < 0.5 * image.size

    @every_map
    def test_no_voxel_is_smoothed_many_times(
        self, image: np.ndarray, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(resampling, "PART_VOXELS", 1000)
        watched = Watched(image)
        resample(watched, MATRICES[name], TARGET, CPU)
        assert sum(watched.taken) <= resampling.MOST_OVERLAP * image.size

    def test_what_lies_beyond_the_target_is_not_taken(self, image: np.ndarray) -> None:
        watched = Watched(image)
        resample(watched, matrix4(np.eye(3), (10.0, 10.0, 10.0)), (4, 4, 4), CPU)
        assert sum(watched.taken) <= 8**3

    def test_smoothing_is_that_of_a_gaussian(self) -> None:
        point = np.zeros((1, 1, 41), np.float32)
        point[..., 20] = 1
        values, _ = resample(point, np.diag([3.0, 1, 1, 1]) @ matrix4(np.eye(3), (2 / 3, 0, 0)), (1, 1, 13), CPU)
        places = np.arange(13) * 3 + 2 - 20
        weights = np.exp(-0.5 * (np.arange(-4, 5) / np.sqrt(2)) ** 2)
        expected = np.where(abs(places) <= 4, np.exp(-0.5 * (places / np.sqrt(2)) ** 2) / weights.sum(), 0)
        np.testing.assert_allclose(values[0, 0].numpy(), expected, atol=1e-6)


class TestIndices:
    def test_indices_of_a_slab_are_mapped(self) -> None:
        matrix = MATRICES["oblique"]
        found = mapped_indices(matrix, (4, 3, 2), slice(1, 3), torch.empty(0, dtype=torch.float64))
        assert found.shape == (3, 2, 3, 2)
        np.testing.assert_allclose(found[:, 1, 2, 1].numpy(), (matrix @ [1, 2, 2, 1])[:3], atol=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_matrix_is_applied_to_points(self, dtype: torch.dtype) -> None:
        points = torch.rand(3, 5, 2, dtype=dtype)
        expected = MATRICES["oblique"][:3, :3] @ points.reshape(3, -1).numpy() + MATRICES["oblique"][:3, 3:]
        found = resampling.apply_matrix(MATRICES["oblique"], points)
        np.testing.assert_allclose(found.reshape(3, -1).numpy(), expected, atol=1e-5)


class TestPlaces:
    PLACES = torch.tensor([[[[0.0, 1.0, 1.5, -3.0, float("nan"), float("inf"), 31.4]]]]).expand(3, 1, 1, 7)

    def test_image_has_its_minimum_outside_and_where_there_is_no_place(self, image: np.ndarray) -> None:
        image[1:3, 1:3, 1:3] = 0.5
        image[31:33, 31:33, 31] = np.nan
        image[20, 20, 20] = -1
        found = Interpolated(image).at(self.PLACES.double())
        assert found.dtype == image.dtype
        np.testing.assert_allclose(found.ravel(), [image[0, 0, 0], 0.5, 0.5, -1, -1, -1, -1], atol=1e-6)

    def test_image_without_any_number_is_zero(self) -> None:
        found = Interpolated(np.full(SHAPE, np.nan, np.float32)).at(self.PLACES.double())
        assert not found.any()

    @pytest.mark.parametrize("order", ["C", "F"])
    def test_nearest_voxel_is_zero_outside_and_where_there_is_no_place(self, order: Any) -> None:
        labels = np.asarray(np.arange(1, 1 + np.prod(SHAPE)).reshape(SHAPE), order=order)
        found = nearest_voxels(labels, self.PLACES)
        expected = [labels[0, 0, 0], labels[1, 1, 1], labels[2, 2, 2], 0, 0, 0, labels[31, 31, 31]]
        assert found.ravel().tolist() == expected
