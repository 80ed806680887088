"""The Geometry value class against plain matrix algebra and SimpleITK."""

import json
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras
from grid_cases import corners_lps

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
VALID: dict[str, Any] = {
    "size": (4, 5, 6),
    "spacing": (1.0, 2.0, 3.0),
    "origin": (0.0, 0.0, 0.0),
    "direction": IDENTITY,
}
EXACT = {"rtol": 0, "atol": 1e-10}  # double precision on coordinates of some 100 mm


def changed(**values: Any) -> dict[str, Any]:
    return {**VALID, **values}


class TestCoarsened:
    def test_corners_stay_and_voxels_are_no_more_than_allowed(self) -> None:
        grid = Geometry(**changed(size=(40, 50, 60)))
        coarse = grid.coarsened(5000)
        np.testing.assert_allclose(corners_lps(coarse), corners_lps(grid), **EXACT)
        assert 3500 < np.prod(coarse.size) <= 5000

    def test_grid_that_is_small_enough_stays(self, any_geometry: Geometry) -> None:
        assert any_geometry.coarsened(14 * 11 * 9) is any_geometry

    def test_single_slice_stays_one(self, flat_geometry: Geometry) -> None:
        coarse = flat_geometry.coarsened(20)
        assert np.prod(coarse.size) <= 20
        assert coarse.spacing[flat_geometry.size.index(1)] == flat_geometry.spacing[flat_geometry.size.index(1)]


class TestMapping:
    def test_agrees_with_simpleitk(self, oblique_geometry: Geometry) -> None:
        image = sitk.Image(oblique_geometry.size, sitk.sitkUInt8)
        image.SetSpacing(oblique_geometry.spacing)
        image.SetOrigin(oblique_geometry.origin)
        image.SetDirection(oblique_geometry.direction)
        index = (3, 7, 2)
        expected = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(oblique_geometry.index_to_lps(np.array([index]))[0], expected, **EXACT)

    def test_index_of_a_point_is_the_inverse(self, any_geometry: Geometry) -> None:
        index = np.random.default_rng(0).uniform(-3, 20, (50, 3))
        np.testing.assert_allclose(any_geometry.lps_to_index(any_geometry.index_to_lps(index)), index, **EXACT)

    def test_ras_differs_from_lps_in_two_signs(self, oblique_geometry: Geometry) -> None:
        expected = oblique_geometry.ijk_to_lps * np.array([[-1], [-1], [1], [1]])
        np.testing.assert_array_equal(oblique_geometry.ijk_to_ras, expected)

    def test_flip_turns_points_and_keeps_their_type(self) -> None:
        flipped = flip_lps_ras(np.array([[1, 2, 3]], np.float32))
        assert flipped.dtype == np.float32
        np.testing.assert_array_equal(flipped, [[-1, -2, 3]])

    def test_center_is_the_mean_of_the_corners(self, any_geometry: Geometry) -> None:
        np.testing.assert_allclose(corners_lps(any_geometry).mean(0), any_geometry.center_lps, **EXACT)

    def test_corners_are_the_outermost_voxels(self, oblique_geometry: Geometry) -> None:
        corners = oblique_geometry.lps_to_index(corners_lps(oblique_geometry))
        np.testing.assert_allclose(corners.min(0), (0, 0, 0), **EXACT)
        np.testing.assert_allclose(corners.max(0), (13, 10, 8), **EXACT)
        assert len(np.unique(corners.round(6), axis=0)) == 8

    def test_shape_is_the_size_reversed(self, oblique_geometry: Geometry) -> None:
        assert oblique_geometry.shape == (9, 11, 14)

    def test_voxel_volume(self, oblique_geometry: Geometry) -> None:
        assert oblique_geometry.voxel_volume == pytest.approx(1.1 * 0.7 * 2.3)


class TestFlatness:
    def test_single_slice_across_any_axis_is_flat(self, flat_geometry: Geometry) -> None:
        assert flat_geometry.is_flat

    @pytest.mark.parametrize("size", [(4, 5, 6), (4, 1, 1), (1, 1, 1)])
    def test_volumes_lines_and_points_are_not(self, size: tuple[int, int, int]) -> None:
        assert not Geometry(**changed(size=size)).is_flat


class TestConversion:
    def test_matrix_and_size_give_the_geometry_back(self, any_geometry: Geometry) -> None:
        for again in (
            Geometry.from_ijk_to_lps(any_geometry.ijk_to_lps, any_geometry.size),
            Geometry.from_ijk_to_ras(any_geometry.ijk_to_ras, any_geometry.size),
        ):
            assert again.size == any_geometry.size
            np.testing.assert_allclose(again.ijk_to_lps, any_geometry.ijk_to_lps, **EXACT)

    def test_json_round_trip_is_exact(self, any_geometry: Geometry) -> None:
        assert Geometry.from_dict(json.loads(json.dumps(any_geometry.to_dict()))) == any_geometry

    def test_numpy_numbers_become_plain(self) -> None:
        made = Geometry.from_arrays(np.array([4, 5, 6]), np.array([1.0, 2.0, 3.0], np.float32), np.zeros(3), np.eye(3))
        assert made == Geometry(**VALID)
        assert hash(made) == hash(Geometry(**VALID))
        json.dumps(made.to_dict())

    def test_sheared_matrix_is_refused(self) -> None:
        matrix = np.eye(4)
        matrix[0, 1] = 0.1
        with pytest.raises(errors.EngineError, match="sheared"):
            Geometry.from_ijk_to_lps(matrix, (4, 5, 6))

    def test_matrix_without_an_axis_is_refused(self) -> None:
        with pytest.raises(errors.EngineError, match="length zero"):
            Geometry.from_ijk_to_lps(np.diag([1.0, 0.0, 1.0, 1.0]), (4, 5, 6))


class TestValidation:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("size", (4, 5, 0)),
            ("size", (4, 5)),
            ("size", (4, 5, 6.5)),
            ("size", 4),
            ("size", "456"),
            ("spacing", (1.0, -2.0, 3.0)),
            ("spacing", (1.0, 0.0, 3.0)),
            ("spacing", (1.0, float("nan"), 3.0)),
            ("origin", (0.0, float("inf"), 0.0)),
            ("origin", (0.0, None, 0.0)),
            ("direction", (2.0, *IDENTITY[1:])),
            ("direction", (1.0, 0.01, *IDENTITY[2:])),
            ("direction", (0.0,) * 9),
            ("direction", IDENTITY[:8]),
        ],
    )
    def test_bad_number_is_refused(self, field: str, value: Any) -> None:
        with pytest.raises(errors.EngineError) as caught:
            Geometry(**changed(**{field: value}))
        assert caught.value.code == errors.INPUT_INVALID

    def test_rounded_directions_of_a_scanner_are_accepted(self) -> None:
        Geometry(**changed(direction=(0.9998, 0.0175, 0.0, -0.0175, 0.9998, 0.0, 0.0, 0.0, 1.0)))

    @pytest.mark.parametrize("change", [{"frame": "LPS"}, {"size": None}])
    def test_json_with_other_fields_is_refused(self, change: dict[str, Any]) -> None:
        with pytest.raises(errors.EngineError):
            Geometry.from_dict(changed(**change))

    def test_json_with_a_missing_field_is_refused(self) -> None:
        with pytest.raises(errors.EngineError, match="needs size"):
            Geometry.from_dict({"size": [4, 5, 6]})

    def test_array_of_another_size_is_refused_with_both_sizes(self, oblique_geometry: Geometry) -> None:
        oblique_geometry.require_shape((9, 11, 14), "label map")
        with pytest.raises(errors.EngineError, match=r"label map has 9 x 14 x 11 .* 9 x 11 x 14"):
            oblique_geometry.require_shape((9, 14, 11), "label map")


class TestEngineError:
    def test_reads_as_message_and_hint(self) -> None:
        error = errors.EngineError(errors.INPUT_MISSING, "The file a.nrrd does not exist.", "Check its path.")
        assert str(error) == "The file a.nrrd does not exist. Check its path."
        assert (error.code, error.hint) == ("input-missing", "Check its path.")

    def test_without_a_hint_reads_as_the_message(self) -> None:
        assert str(errors.EngineError(errors.CANCELLED, "Cancelled.")) == "Cancelled."
