"""Overlap, surface distances, volumes and landmark errors against cases computed by hand or by brute force."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.volume import metrics
from DeepAttentionRegEngine.volume.geometry import Geometry
from grid_cases import corners_lps
from metric_cases import RADIUS_MM, SHIFT_MM, ball, roomy

Affine = Callable[[Geometry, np.ndarray], np.ndarray]

SINGLE = 2e-5  # distance maps and fields are float32


def larger(geometry: Geometry) -> Geometry:
    """Return a grid of the same kind with room for structures; single slices stay single."""
    size = [1 if n == 1 else 24 for n in geometry.size]
    return Geometry.from_arrays(size, geometry.spacing, geometry.origin, geometry.direction)


def cube(geometry: Geometry, first_voxel: int, edge: int) -> np.ndarray:
    mask = np.zeros(geometry.shape, bool)
    mask[tuple(slice(0, 1) if n == 1 else slice(first_voxel, first_voxel + edge) for n in geometry.shape)] = True
    return mask


def blobs(geometry: Geometry, seed: int) -> np.ndarray:
    """Return a ragged structure."""
    rng = np.random.default_rng(seed)
    index = np.moveaxis(np.indices(geometry.shape), 0, -1)
    center = np.array(geometry.shape) * rng.uniform(0.3, 0.7, 3)
    radius = np.maximum(np.array(geometry.shape) / 4, 1)
    return (((index - center) / radius) ** 2).sum(-1) < rng.uniform(0.5, 1.5, geometry.shape)


def by_brute_force(first: np.ndarray, second: np.ndarray, geometry: Geometry) -> tuple[float, float]:
    """Return HD95 and ASSD in mm from all pairs of boundary voxels."""
    points = []
    for mask in (first, second):
        index = [
            voxel
            for voxel in np.argwhere(mask)
            if any(
                geometry.shape[axis] > 1 and not value_at(mask, voxel + step * np.eye(3, dtype=int)[axis])
                for axis in range(3)
                for step in (-1, 1)
            )
        ]
        points.append(geometry.index_to_lps(np.array(index)[:, ::-1]))
    distances = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    forward, backward = distances.min(1), distances.min(0)
    both = np.concatenate([forward, backward])
    return max(np.percentile(forward, 95), np.percentile(backward, 95)), both.mean()


def value_at(mask: np.ndarray, voxel: np.ndarray) -> bool:
    inside = bool(((voxel >= 0) & (voxel < mask.shape)).all())
    return inside and bool(mask[tuple(voxel)])


class TestDice:
    FIRST = np.array([[[0, 1, 1, 1], [2, 2, 5, 0]]], np.uint8)
    SECOND = np.array([[[0, 1, 1, 2], [2, 7, 0, 0]]], np.int16)

    def test_by_hand(self) -> None:
        scores = metrics.dice(self.FIRST, self.SECOND)
        assert scores == {1: pytest.approx(4 / 5), 2: pytest.approx(2 / 4), 5: 0.0, 7: 0.0}

    def test_is_symmetric(self) -> None:
        assert metrics.dice(self.FIRST, self.SECOND) == metrics.dice(self.SECOND, self.FIRST)

    def test_only_the_labels_asked_for(self) -> None:
        scores = metrics.dice(self.FIRST, self.SECOND, [2, 9])
        assert list(scores) == [2, 9]
        assert np.isnan(scores[9])

    def test_background_can_be_asked_for(self) -> None:
        assert metrics.dice(self.FIRST, self.SECOND, [0]) == {0: pytest.approx(2 * 2 / 5)}

    def test_empty_maps_have_no_label(self) -> None:
        assert metrics.dice(np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), int)) == {}

    def test_maps_of_different_size_are_refused(self) -> None:
        with pytest.raises(errors.EngineError, match=r"\(1, 2, 4\) and \(1, 2, 3\)"):
            metrics.dice(self.FIRST, self.SECOND[..., :3])


class TestSurfaceDistances:
    def test_same_structure_has_no_distance(self, any_geometry: Geometry) -> None:
        grid = larger(any_geometry)
        distances = metrics.surface_distances(cube(grid, 5, 9), cube(grid, 5, 9), grid)
        assert (distances.hd95_mm, distances.assd_mm) == (0.0, 0.0)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_shifted_plate_is_off_by_its_shift_in_mm(self, oblique_geometry: Geometry, axis: int) -> None:
        grid = larger(oblique_geometry)
        first, second = np.zeros(grid.shape, bool), np.zeros(grid.shape, bool)
        for mask, position in ((first, 4), (second, 7)):
            np.moveaxis(mask, 2 - axis, 0)[position] = True
        distances = metrics.surface_distances(first, second, grid)
        assert distances.hd95_mm == pytest.approx(3 * grid.spacing[axis], abs=SINGLE)
        assert distances.assd_mm == pytest.approx(3 * grid.spacing[axis], abs=SINGLE)

    def test_shifted_and_grown_cubes_by_brute_force(self, any_geometry: Geometry) -> None:
        grid = larger(any_geometry)
        for first_voxel, edge in ((5, 9), (7, 9), (3, 14), (12, 2), (0, 5)):
            first, second = cube(grid, 5, 9), cube(grid, first_voxel, edge)
            distances = metrics.surface_distances(first, second, grid)
            expected = by_brute_force(first, second, grid)
            assert (distances.hd95_mm, distances.assd_mm) == pytest.approx(expected, abs=SINGLE)

    @pytest.mark.parametrize("seed", range(3))
    def test_ragged_structures_by_brute_force(self, any_geometry: Geometry, seed: int) -> None:
        first, second = blobs(any_geometry, seed), blobs(any_geometry, seed + 10)
        distances = metrics.surface_distances(first, second, any_geometry)
        expected = by_brute_force(first, second, any_geometry)
        assert (distances.hd95_mm, distances.assd_mm) == pytest.approx(expected, abs=SINGLE)

    def test_plate_within_a_volume_is_all_boundary(self, oblique_geometry: Geometry) -> None:
        first, second = np.zeros(oblique_geometry.shape, bool), np.zeros(oblique_geometry.shape, bool)
        first[4], second[4, 2:-2, 2:-2] = True, True
        distances = metrics.surface_distances(first, second, oblique_geometry)
        expected = by_brute_force(first, second, oblique_geometry)
        assert (distances.hd95_mm, distances.assd_mm) == pytest.approx(expected, abs=SINGLE)

    def test_whole_volumes_have_no_distance(self, any_geometry: Geometry) -> None:
        full = np.ones(any_geometry.shape, np.uint8)
        assert metrics.surface_distances(full, full, any_geometry).hd95_mm == 0.0

    @pytest.mark.parametrize("both", [True, False])
    def test_empty_structure_has_no_answer(self, oblique_geometry: Geometry, both: bool) -> None:
        empty = np.zeros(oblique_geometry.shape, bool)
        other = empty if both else ~empty
        for pair in ((empty, other), (other, empty)):
            distances = metrics.surface_distances(*pair, oblique_geometry)
            assert np.isnan(distances.hd95_mm)
            assert np.isnan(distances.assd_mm)

    def test_structure_of_another_grid_is_refused(self, oblique_geometry: Geometry) -> None:
        full = np.ones(oblique_geometry.shape, bool)
        with pytest.raises(errors.EngineError, match="structure"):
            metrics.surface_distances(full, full[1:], oblique_geometry)


class TestManyLabels:
    def cells(self, geometry: Geometry, edge: int) -> np.ndarray:
        """Return a map whose cells of so many voxels along each axis have each their own label, from 1."""
        cell = np.indices(geometry.shape) // edge
        return np.ravel_multi_index(tuple(cell), [-(-size // edge) for size in geometry.shape]) + 1

    @pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint64, np.float64])
    def test_each_is_measured_as_if_it_were_alone(self, any_geometry: Geometry, kind: type) -> None:
        grid = larger(any_geometry)
        first = self.cells(grid, 9)
        second = np.roll(first, 2, 2)
        second[np.random.default_rng(0).random(grid.shape) < 0.01] = 3
        first, second = first.astype(kind), second.astype(np.int32)
        labels = metrics.dice(first, second)
        found = metrics.surface_distances_by_label(first, second, grid, labels)
        alone = {label: metrics.surface_distances(first == label, second == label, grid) for label in labels}
        assert found == alone

    @pytest.mark.parametrize("offset", [2**31, 2**40, 2**62, -(2**40)])
    def test_labels_beyond_32_bits_stay_apart(self, oblique_geometry: Geometry, offset: int) -> None:
        first, second = np.zeros(oblique_geometry.shape, np.int64), np.zeros(oblique_geometry.shape, np.int64)
        first[2], first[4], second[2], second[5] = offset, offset + 1, offset, offset + 1
        found = metrics.surface_distances_by_label(first, second, oblique_geometry, [offset, offset + 1])
        assert found[offset].assd_mm == 0
        assert found[offset + 1].assd_mm == pytest.approx(oblique_geometry.spacing[2], abs=SINGLE)

    def test_label_of_one_map_alone_has_no_distance(self, oblique_geometry: Geometry) -> None:
        full = np.ones(oblique_geometry.shape, np.uint8)
        found = metrics.surface_distances_by_label(full, 2 * full, oblique_geometry, [1, 2, 3])
        assert all(np.isnan(distances.assd_mm) for distances in found.values())

    def test_work_follows_the_voxels_and_not_the_labels(self, oblique_geometry: Geometry, monkeypatch) -> None:
        grid = larger(oblique_geometry)
        sizes: list[int] = []
        distance_to = metrics._distance_to
        monkeypatch.setattr(
            metrics, "_distance_to", lambda mask, geometry: sizes.append(mask.size) or distance_to(mask, geometry)
        )
        monkeypatch.setattr(metrics, "PAIRS_AT_ONCE", 0)
        first = self.cells(grid, 3)
        metrics.surface_distances_by_label(first, first, grid, range(1, 8**3 + 1))
        assert len(sizes) == 2 * 8**3
        assert sum(sizes) == 2 * first.size

    def test_empty_maps_have_no_surface(self, oblique_geometry: Geometry) -> None:
        empty = np.zeros(oblique_geometry.shape, np.uint8)
        assert metrics.surface_distances_by_label(empty, empty, oblique_geometry, []) == {}

    @pytest.mark.parametrize("seed", range(3))
    def test_pairs_of_voxels_tell_what_distance_maps_tell(self, any_geometry: Geometry, monkeypatch, seed: int) -> None:
        first, second = blobs(any_geometry, seed), blobs(any_geometry, seed + 10)
        found = []
        for limit in (0, 10**12):
            monkeypatch.setattr(metrics, "PAIRS_AT_ONCE", limit)
            distances = metrics.surface_distances(first, second, any_geometry)
            found.append((distances.hd95_mm, distances.assd_mm))
        assert found[0] == pytest.approx(found[1], abs=SINGLE)

    @pytest.mark.parametrize("threshold", [0, 10**9])
    def test_threads_do_not_change_the_distances(self, oblique_geometry: Geometry, monkeypatch, threshold: int) -> None:
        first, second = blobs(oblique_geometry, 1), blobs(oblique_geometry, 2)
        usual = metrics.surface_distances(first, second, oblique_geometry)
        monkeypatch.setattr(metrics, "VOXELS_FOR_THREADS", threshold)
        assert metrics.surface_distances(first, second, oblique_geometry) == usual

    def test_maps_of_another_grid_are_refused(self, oblique_geometry: Geometry) -> None:
        full = np.ones(oblique_geometry.shape, np.uint8)
        with pytest.raises(errors.EngineError, match="label map"):
            metrics.surface_distances_by_label(full, full[1:], oblique_geometry, [1])


class TestKnownShapes:
    @pytest.fixture
    def grid(self, oblique_geometry: Geometry) -> Geometry:
        return roomy(oblique_geometry)

    def test_ball_has_the_volume_of_its_radius(self, grid: Geometry) -> None:
        found = metrics.volume_ml(ball(grid, np.zeros(3), RADIUS_MM), grid.voxel_volume)
        assert found == pytest.approx(4 / 3 * math.pi * RADIUS_MM**3 / 1000, rel=0.01)

    def test_balls_within_each_other_are_apart_by_the_difference_of_their_radii(self, grid: Geometry) -> None:
        found = metrics.agreement(
            ball(grid, np.zeros(3), RADIUS_MM),
            ball(grid, np.zeros(3), 9.0),
            grid,
        )
        assert found.assd_mm == pytest.approx(RADIUS_MM - 9.0, abs=max(grid.spacing) / 4)
        assert found.dice == pytest.approx(2 * 9.0**3 / (9.0**3 + RADIUS_MM**3), rel=0.02)

    def test_shifted_ball_has_the_overlap_of_two_lenses(self, grid: Geometry) -> None:
        found = metrics.agreement(
            ball(grid, np.zeros(3), RADIUS_MM),
            ball(grid, SHIFT_MM, RADIUS_MM),
            grid,
        )
        share = np.linalg.norm(SHIFT_MM) / RADIUS_MM
        assert found.dice == pytest.approx(1 - 0.75 * share + share**3 / 16, abs=0.01)

    def test_regions_tell_who_is_where(self) -> None:
        fixed, moving = np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1])
        assert metrics.regions(fixed, moving).tolist() == [0, metrics.MISSED, metrics.AGREEMENT, metrics.SURPLUS]

    def test_growth_is_in_percent_of_what_there_was(self) -> None:
        assert metrics.change_percent(40.0, 50.0) == pytest.approx(25.0)
        assert math.isnan(metrics.change_percent(0.0, 50.0))

    def test_missing_structure_has_no_distance_and_no_overlap(self, grid: Geometry) -> None:
        found = metrics.agreement(np.ones(grid.shape), np.zeros(grid.shape), grid)
        assert (found.dice, found.volume_ml) == (0.0, 0.0)
        assert math.isnan(found.hd95_mm)
        assert math.isnan(metrics.agreement(np.zeros(grid.shape), np.zeros(grid.shape), grid).dice)


class TestLandmarks:
    MATRIX = np.array([[1.02, 0.05, 0, 3.0], [-0.04, 0.97, 0.01, -2.0], [0, 0.03, 1.01, 1.0], [0, 0, 0, 1]])

    def test_exact_field_leaves_no_error(self, oblique_geometry: Geometry, affine_displacement: Affine) -> None:
        index = np.random.default_rng(0).uniform(0, 8, (25, 3))
        fixed = oblique_geometry.index_to_lps(index)
        moving = fixed @ self.MATRIX[:3, :3].T + self.MATRIX[:3, 3]
        field = affine_displacement(oblique_geometry, self.MATRIX)
        error = metrics.target_registration_error(fixed, moving, field, oblique_geometry)
        assert error.shape == (25,)
        np.testing.assert_allclose(error, 0, atol=SINGLE)

    def test_without_motion_it_is_the_distance_before(self, any_geometry: Geometry) -> None:
        fixed = corners_lps(any_geometry)
        moving = fixed + np.array([3.0, -4.0, 12.0])
        still = np.zeros((*any_geometry.shape, 3), np.float32)
        np.testing.assert_allclose(metrics.identity_error(fixed, moving), 13.0)
        error = metrics.target_registration_error(fixed, moving, still, any_geometry)
        np.testing.assert_allclose(error, metrics.identity_error(fixed, moving))

    def test_different_numbers_of_landmarks_are_refused(self) -> None:
        with pytest.raises(errors.EngineError, match="3 fixed but 2 moving"):
            metrics.identity_error(np.zeros((3, 3)), np.zeros((2, 3)))
