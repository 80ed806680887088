"""Displacement fields against affine algebra and analytic waves, on oblique, mirrored and single-slice grids."""

from collections.abc import Callable

import numpy as np
import pytest
import SimpleITK as sitk

import grid_cases
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.volume import fields
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegEngine.volume.inversion import invert

Points = Callable[[Geometry], np.ndarray]
Smooth = Callable[..., np.ndarray]
Affine = Callable[[Geometry, np.ndarray], np.ndarray]

SINGLE = 2e-5  # float32 fields of some 10 mm
TURN_AND_SHEAR = np.array([[1.04, 0.06, -0.03, 2.0], [-0.05, 0.93, 0.08, -1.0], [0.02, -0.04, 1.1, 0.5], [0, 0, 0, 1]])
STRETCH = np.array([[0.97, -0.05, 0.04, -1.0], [0.03, 1.05, 0.02, 0.4], [0.06, 0.01, 0.95, 1.5], [0, 0, 0, 1]])


def padded(geometry: Geometry, voxels: int) -> Geometry:
    """Return a grid that is larger on every side."""
    origin = geometry.index_to_lps(np.full((1, 3), -voxels))[0]
    size = [n + 2 * voxels for n in geometry.size]
    return Geometry.from_arrays(size, geometry.spacing, origin, geometry.direction)


def axes(geometry: Geometry) -> np.ndarray:
    return np.reshape(geometry.direction, (3, 3))


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


class TestSampling:
    def test_nodes_give_the_stored_vectors(
        self, any_geometry: Geometry, grid_points: Points, smooth_displacement: Smooth
    ) -> None:
        field = smooth_displacement(any_geometry)
        sampled = fields.sample_field(field, any_geometry, grid_points(any_geometry).reshape(-1, 3))
        np.testing.assert_allclose(sampled, field.reshape(-1, 3), atol=SINGLE)

    def test_affine_field_is_exact_between_nodes(self, oblique_geometry: Geometry, affine_displacement: Affine) -> None:
        index = np.random.default_rng(0).uniform(0, 1, (200, 3)) * (np.array(oblique_geometry.size) - 1)
        points = oblique_geometry.index_to_lps(index)
        field = affine_displacement(oblique_geometry, TURN_AND_SHEAR)
        mapped = fields.transform_points(field, oblique_geometry, points)
        np.testing.assert_allclose(mapped, apply(TURN_AND_SHEAR, points), atol=SINGLE)

    def test_edge_value_continues_outside(self, any_geometry: Geometry, smooth_displacement: Smooth) -> None:
        field = smooth_displacement(any_geometry)
        beyond = any_geometry.index_to_lps(np.array([[-9.0, -9.0, -9.0], [99.0, 99.0, 99.0]]))
        sampled = fields.sample_field(field, any_geometry, beyond)
        np.testing.assert_allclose(sampled, [field[0, 0, 0], field[-1, -1, -1]], atol=SINGLE)

    def test_agrees_with_simpleitk_between_nodes(self, oblique_geometry: Geometry, smooth_displacement: Smooth) -> None:
        field = smooth_displacement(oblique_geometry)
        image = sitk.GetImageFromArray(field.astype(float), isVector=True)
        image.SetSpacing(oblique_geometry.spacing)
        image.SetOrigin(oblique_geometry.origin)
        image.SetDirection(oblique_geometry.direction)
        transform = sitk.DisplacementFieldTransform(image)
        index = np.random.default_rng(0).uniform(0, 1, (50, 3)) * (np.array(oblique_geometry.size) - 1)
        points = oblique_geometry.index_to_lps(index)
        expected = [transform.TransformPoint(point) for point in points.tolist()]
        np.testing.assert_allclose(fields.transform_points(field, oblique_geometry, points), expected, atol=SINGLE)

    def test_more_points_than_a_chunk(
        self, oblique_geometry: Geometry, affine_displacement: Affine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fields, "CHUNK_POINTS", 7)
        field = affine_displacement(oblique_geometry, TURN_AND_SHEAR)
        points = oblique_geometry.index_to_lps(np.random.default_rng(0).uniform(0, 8, (30, 3)))
        mapped = fields.transform_points(field, oblique_geometry, points)
        np.testing.assert_allclose(mapped, apply(TURN_AND_SHEAR, points), atol=SINGLE)

    def test_no_points_give_no_vectors(self, oblique_geometry: Geometry) -> None:
        field = np.zeros((*oblique_geometry.shape, 3), np.float32)
        assert fields.sample_field(field, oblique_geometry, np.zeros((0, 3))).shape == (0, 3)

    def test_field_of_another_grid_is_refused(self, oblique_geometry: Geometry) -> None:
        field = np.zeros((*oblique_geometry.size, 3), np.float32)
        with pytest.raises(errors.EngineError, match="displacement field has 14 x 11 x 9"):
            fields.sample_field(field, oblique_geometry, np.zeros((1, 3)))


class TestCompose:
    def test_two_affine_fields_give_their_product(
        self, oblique_geometry: Geometry, affine_displacement: Affine
    ) -> None:
        outer_geometry = padded(oblique_geometry, 6)
        inner = affine_displacement(oblique_geometry, STRETCH)
        outer = affine_displacement(outer_geometry, TURN_AND_SHEAR)
        composed = fields.compose(outer, outer_geometry, inner, oblique_geometry)
        expected = affine_displacement(oblique_geometry, TURN_AND_SHEAR @ STRETCH)
        np.testing.assert_allclose(composed, expected, atol=SINGLE)
        assert composed.dtype == np.float32

    def test_translations_add_on_every_grid(self, any_geometry: Geometry) -> None:
        first = np.full((*any_geometry.shape, 3), (1.0, -2.0, 0.5), np.float32)
        second = np.full((*any_geometry.shape, 3), (0.25, 4.0, -3.0), np.float32)
        composed = fields.compose(second, any_geometry, first, any_geometry)
        np.testing.assert_allclose(composed, first + second, atol=SINGLE)

    def test_is_the_same_as_moving_points_twice(
        self, any_geometry: Geometry, grid_points: Points, smooth_displacement: Smooth
    ) -> None:
        inner, outer = smooth_displacement(any_geometry), smooth_displacement(any_geometry, wavelength_mm=25.0)
        points = grid_points(any_geometry).reshape(-1, 3)
        once = fields.transform_points(inner, any_geometry, points)
        twice = fields.transform_points(outer, any_geometry, once)
        composed = fields.compose(outer, any_geometry, inner, any_geometry)
        np.testing.assert_allclose(points + composed.reshape(-1, 3), twice, atol=SINGLE)


class TestResize:
    def test_same_grid_changes_nothing(self, any_geometry: Geometry, smooth_displacement: Smooth) -> None:
        field = smooth_displacement(any_geometry)
        np.testing.assert_allclose(fields.resize(field, any_geometry, any_geometry), field, atol=SINGLE)

    def test_affine_field_keeps_its_millimetres_on_a_finer_oblique_grid(
        self, oblique_geometry: Geometry, affine_displacement: Affine
    ) -> None:
        fine = Geometry.from_arrays((17, 13, 15), (0.4, 0.5, 0.6), oblique_geometry.center_lps, np.eye(3))
        coarse = padded(oblique_geometry, 6)
        resized = fields.resize(affine_displacement(coarse, STRETCH), coarse, fine)
        np.testing.assert_allclose(resized, affine_displacement(fine, STRETCH), atol=SINGLE)

    def test_slice_is_taken_out_of_a_volume(
        self, flat_geometry: Geometry, oblique_geometry: Geometry, affine_displacement: Affine
    ) -> None:
        field = affine_displacement(oblique_geometry, STRETCH)
        resized = fields.resize(field, oblique_geometry, flat_geometry)
        np.testing.assert_allclose(resized, affine_displacement(flat_geometry, STRETCH), atol=SINGLE)


class TestInvert:
    def test_affine_field_gives_the_inverse_matrix_inside(
        self, oblique_geometry: Geometry, affine_displacement: Affine
    ) -> None:
        wide = padded(oblique_geometry, 8)
        inverse = invert(affine_displacement(wide, TURN_AND_SHEAR), wide)
        expected = affine_displacement(oblique_geometry, np.linalg.inv(TURN_AND_SHEAR))
        inside = inverse.displacement[8:-8, 8:-8, 8:-8]
        np.testing.assert_allclose(inside, expected, atol=2e-3)  # twice the tolerance of the iteration

    def test_smooth_field_is_undone_within_the_tolerance(
        self, any_geometry: Geometry, smooth_displacement: Smooth
    ) -> None:
        field = smooth_displacement(any_geometry, peak_mm=4.0)
        inverse = invert(field, any_geometry, tolerance_mm=1e-3)
        missed = fields.magnitude(fields.compose(field, any_geometry, inverse.displacement, any_geometry))
        assert inverse.residual_mm_max <= 1e-3
        assert inverse.residual_mm_max == pytest.approx(missed.max(), abs=SINGLE)
        assert inverse.residual_mm_mean == pytest.approx(missed.mean(), abs=SINGLE)
        assert 0 < inverse.iterations < 30

    def test_points_return_from_where_the_inverse_sends_them(
        self, any_geometry: Geometry, grid_points: Points, smooth_displacement: Smooth
    ) -> None:
        field = smooth_displacement(any_geometry)
        inverse = invert(field, any_geometry, tolerance_mm=1e-4).displacement
        points = grid_points(any_geometry).reshape(-1, 3)
        back = fields.transform_points(field, any_geometry, points + inverse.reshape(-1, 3))
        np.testing.assert_allclose(back, points, atol=1e-4 + SINGLE)

    def test_expansion_beyond_doubling_converges(self, oblique_geometry: Geometry, affine_displacement: Affine) -> None:
        center = oblique_geometry.center_lps
        matrix = np.diag([2.8, 2.8, 2.8, 1.0])
        matrix[:3, 3] = center - 2.8 * center
        inverse = invert(affine_displacement(oblique_geometry, matrix), oblique_geometry)
        assert inverse.residual_mm_max <= 1e-3
        expected = affine_displacement(oblique_geometry, np.linalg.inv(matrix))
        np.testing.assert_allclose(inverse.displacement, expected, atol=1e-3)

    def test_fold_leaves_a_residual(self, oblique_geometry: Geometry, affine_displacement: Affine) -> None:
        field = affine_displacement(oblique_geometry, np.eye(4))
        field[4, 5, 7] = 9.0 * axes(oblique_geometry)[:, 0]
        field[4, 5, 8] = -9.0 * axes(oblique_geometry)[:, 0]
        unfinished = invert(field, oblique_geometry, iterations=3)
        assert unfinished.residual_mm_max > 0.1
        assert unfinished.iterations == 3

    def test_slabs_change_nothing(
        self, oblique_geometry: Geometry, smooth_displacement: Smooth, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        field = smooth_displacement(oblique_geometry, peak_mm=4.0)
        whole = invert(field, oblique_geometry)
        monkeypatch.setattr(fields, "CHUNK_POINTS", 200)
        slabs = invert(field, oblique_geometry)
        np.testing.assert_allclose(slabs.displacement, whole.displacement, atol=1e-6)  # sums in another order
        assert slabs.residual_mm_mean == pytest.approx(whole.residual_mm_mean)
        assert slabs.iterations == whole.iterations

    def test_inverse_can_be_had_on_another_grid(self, oblique_geometry: Geometry, affine_displacement: Affine) -> None:
        wide = padded(oblique_geometry, 8)
        inverse = invert(affine_displacement(wide, TURN_AND_SHEAR), wide, grid=oblique_geometry)
        expected = affine_displacement(oblique_geometry, np.linalg.inv(TURN_AND_SHEAR))
        np.testing.assert_allclose(inverse.displacement, expected, atol=2e-3)  # twice the tolerance of the iteration


class TestJacobian:
    def test_affine_field_has_its_determinant(self, any_geometry: Geometry, affine_displacement: Affine) -> None:
        across = np.where(np.array(any_geometry.size) == 1, 1.0, 0.0)
        in_plane = np.eye(3) - axes(any_geometry) @ np.diag(across) @ axes(any_geometry).T
        expected = np.linalg.det(np.eye(3) + (TURN_AND_SHEAR[:3, :3] - np.eye(3)) @ in_plane)
        jacobian = fields.jacobian_determinant(affine_displacement(any_geometry, TURN_AND_SHEAR), any_geometry)
        np.testing.assert_allclose(jacobian, expected, atol=SINGLE)
        assert jacobian.shape == any_geometry.shape
        assert jacobian.dtype == np.float32

    def test_translation_has_unit_jacobian(self, any_geometry: Geometry) -> None:
        field = np.full((*any_geometry.shape, 3), (12.0, -300.0, 7.5), np.float32)
        jacobian = fields.jacobian_determinant(field, any_geometry)
        np.testing.assert_array_equal(jacobian, np.ones_like(jacobian))

    def test_reflection_folds_everywhere(self, any_geometry: Geometry, affine_displacement: Affine) -> None:
        axis = int(np.argmax(any_geometry.size))
        normal = axes(any_geometry)[:, axis]
        mirror = np.eye(4)
        mirror[:3, :3] -= 2 * np.outer(normal, normal)
        jacobian = fields.jacobian_determinant(affine_displacement(any_geometry, mirror), any_geometry)
        np.testing.assert_allclose(jacobian, -1, atol=SINGLE)
        assert fields.summarize_jacobian(jacobian).fold_percent == 100

    def test_shrinking_the_moving_tissue_reads_above_one(
        self, oblique_geometry: Geometry, affine_displacement: Affine
    ) -> None:
        jacobian = fields.jacobian_determinant(
            affine_displacement(oblique_geometry, np.diag([1.1, 1.1, 1.1, 1.0])), oblique_geometry
        )
        np.testing.assert_allclose(jacobian, 1.1**3, atol=SINGLE)

    def test_smooth_field_has_its_analytic_determinant(self, grid_points: Points, oblique_geometry: Geometry) -> None:
        grid = Geometry.from_arrays((40, 44, 36), (0.5, 0.4, 0.6), (5.0, -8.0, 11.0), oblique_geometry.direction)
        x, y, z = np.moveaxis(grid_points(grid), -1, 0)
        rate = 2 * np.pi / 30.0
        field = np.stack([2 * np.sin(rate * y), 1.5 * np.cos(rate * z), np.sin(rate * x)], -1).astype(np.float32)
        off_diagonal = 3 * rate**3 * np.cos(rate * y) * -np.sin(rate * z) * np.cos(rate * x)
        jacobian = fields.jacobian_determinant(field, grid)
        inner = (slice(1, -1),) * 3
        # Central differences are off by (rate * spacing)^2 / 6, here 0.3 % of a gradient of up to 0.4.
        np.testing.assert_allclose(jacobian[inner], (1 + off_diagonal)[inner], atol=2e-3)

    def test_slabs_change_nothing(
        self, any_geometry: Geometry, smooth_displacement: Smooth, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        field = smooth_displacement(any_geometry)
        whole = fields.jacobian_determinant(field, any_geometry)
        monkeypatch.setattr(fields, "CHUNK_VOXELS", 1)
        np.testing.assert_array_equal(fields.jacobian_determinant(field, any_geometry), whole)

    def test_field_of_another_grid_is_refused(self, oblique_geometry: Geometry) -> None:
        with pytest.raises(errors.EngineError, match="displacement field"):
            fields.jacobian_determinant(np.zeros((3, 3, 3, 3), np.float32), oblique_geometry)


class TestAtVoxelsOfAnotherGrid:
    """A field on a coarser grid with other axes, asked for at the voxels of a volume."""

    @pytest.fixture
    def found(self, any_geometry: Geometry) -> Geometry:
        return grid_cases.found_grid(any_geometry)

    def test_field_is_the_one_that_points_have(
        self, any_geometry: Geometry, found: Geometry, smooth_displacement: Smooth, grid_points: Points
    ) -> None:
        field = smooth_displacement(found)
        wanted = fields.sample_field(field, found, grid_points(any_geometry).reshape(-1, 3))
        resized = fields.resize(field, found, any_geometry)
        np.testing.assert_allclose(resized.reshape(-1, 3), wanted, atol=1e-6)

    def test_oblique_field_is_the_one_that_points_have(
        self, oblique_geometry: Geometry, smooth_displacement: Smooth, grid_points: Points
    ) -> None:
        straight = Geometry.from_arrays((9, 8, 7), (3.0, 2.5, 4.0), oblique_geometry.center_lps - 10, np.eye(3))
        field = smooth_displacement(straight)
        wanted = fields.sample_field(field, straight, grid_points(oblique_geometry).reshape(-1, 3))
        resized = fields.resize(field, straight, oblique_geometry)
        np.testing.assert_allclose(resized.reshape(-1, 3), wanted, atol=1e-6)

    def test_beyond_the_field_its_edge_goes_on(self, oblique_geometry: Geometry, smooth_displacement: Smooth) -> None:
        field = smooth_displacement(oblique_geometry)
        resized = fields.resize(field, oblique_geometry, padded(oblique_geometry, 2))
        np.testing.assert_allclose(resized, np.pad(field, [(2, 2)] * 3 + [(0, 0)], "edge"), atol=1e-6)

    def test_jacobian_is_that_of_the_field_at_the_voxels(
        self,
        any_geometry: Geometry,
        found: Geometry,
        smooth_displacement: Smooth,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        field = smooth_displacement(found)
        wanted = fields.jacobian_determinant(fields.resize(field, found, any_geometry), any_geometry)
        monkeypatch.setattr(fields, "CHUNK_VOXELS", 1)
        slabs = [part for _slab, _field, part in fields.jacobian_slabs(field, found, any_geometry)]
        np.testing.assert_allclose(np.concatenate(slabs), wanted, atol=1e-6)


class TestSummaries:
    JACOBIAN = np.array([[[0.5, 1.0, 2.0, -0.25]]], np.float32)

    def test_magnitude_is_the_length(self) -> None:
        lengths = fields.magnitude(np.array([[[[3.0, 4.0, 12.0], [0.0, 0.0, 0.0]]]], np.float32))
        np.testing.assert_allclose(lengths, [[[13.0, 0.0]]])
        assert lengths.dtype == np.float32

    def test_zero_determinant_counts_as_fold(self) -> None:
        assert fields.summarize_jacobian(np.array([0.0, 1.0, -1.0, 2.0])).fold_percent == 50

    def test_logarithm_is_antisymmetric_and_finite_in_folds(self) -> None:
        logarithm = fields.log_jacobian(self.JACOBIAN)
        np.testing.assert_allclose(logarithm, [[[-np.log(2), 0, np.log(2), np.log(1e-6)]]], rtol=1e-6)
        assert logarithm.dtype == np.float32

    def test_summary_by_hand(self) -> None:
        summary = fields.summarize_jacobian(self.JACOBIAN)
        assert (summary.minimum, summary.maximum, summary.mean) == (-0.25, 2.0, 0.8125)
        assert summary.sd == pytest.approx(np.std([0.5, 1.0, 2.0, -0.25]))
        assert (summary.folds, summary.fold_percent) == (1, 25.0)
        assert summary.sd_log_jacobian == pytest.approx(np.std(np.log([0.5, 1.0, 2.0])))
        assert summary.sd_log_jacobian_l2r == pytest.approx(np.std(np.log([3.5, 4.0, 5.0, 2.75])))

    def test_summary_within_a_mask(self) -> None:
        summary = fields.summarize_jacobian(self.JACOBIAN, np.array([[[0, 1, 1, 0]]]))
        assert (summary.minimum, summary.maximum, summary.folds) == (1.0, 2.0, 0)

    def test_summary_of_slabs_is_that_of_the_whole(self) -> None:
        whole = np.random.default_rng(0).normal(1.0, 0.6, (6, 5, 4)).astype(np.float32)
        found, wanted = fields.summarize_slabs([whole[:1], whole[1:4], whole[4:]]), fields.summarize_jacobian(whole)
        assert vars(found) == pytest.approx(vars(wanted))

    def test_summary_of_an_empty_mask_is_refused(self) -> None:
        with pytest.raises(errors.EngineError) as caught:
            fields.summarize_jacobian(self.JACOBIAN, np.zeros((1, 1, 4)))
        assert caught.value.code == errors.MASK_OUTSIDE
