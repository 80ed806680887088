"""Linear alignment finds known maps between phantoms, whatever the storage order, and repeats itself exactly."""

from dataclasses import replace

import numpy as np
import pytest

from DeepAttentionRegEngine.phantom.thorax import PhantomPair, PhantomSettings, make_phantom
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.registration.alignment import align, center_of_mass
from DeepAttentionRegEngine.registration.preprocess import Source
from engine_cases import CPU, centered, matrix4, moved_grid, rotation, stored_otherwise

pytestmark = pytest.mark.torch

CORONAL = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
STILL = PhantomSettings(breathing_amplitude=0.0)
OFFSET = (24.0, -30.0, 18.0)
RIGID = matrix4(rotation(6, -8, 12), OFFSET)
AFFINE = matrix4(rotation(6, -8, 12) @ np.diag([1.1, 0.92, 1.05]), OFFSET)
RIGID_2D = matrix4(rotation(0, 10, 0), OFFSET)
AFFINE_2D = matrix4(rotation(0, 10, 0) @ np.diag([1.1, 1.0, 0.93]), OFFSET)
ORDERS = [((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1)), ((1, 0, 2), (1, 1, -1))]


@pytest.fixture(scope="module")
def volume() -> PhantomPair:
    return make_phantom(centered((48, 40, 48), (7.0, 6.0, 7.0)), settings=STILL)


@pytest.fixture(scope="module")
def flat() -> PhantomPair:
    return make_phantom(centered((80, 80, 1), (4.0, 4.0, 4.0), CORONAL), settings=STILL)


def sources(phantom: PhantomPair, truth: np.ndarray) -> tuple[Source, Source]:
    """Return the fixed volume, and the moving one that shows every point x at truth x."""
    grid = phantom.fixed_geometry
    return Source(phantom.fixed, grid), Source(phantom.moving, moved_grid(grid, truth))


def mean_error(phantom: PhantomPair, found: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean distance in mm of the landmarks from where they belong."""
    points = phantom.fixed_points_lps
    return float(np.linalg.norm(points @ (found - truth)[:3, :3].T + (found - truth)[:3, 3], axis=1).mean())


class TestStarts:
    def test_none_returns_the_initial_map(self, volume: PhantomPair) -> None:
        assert align(*sources(volume, RIGID), "none", AFFINE, 0, CPU) is AFFINE

    @pytest.mark.parametrize("initial", [np.eye(4), AFFINE], ids=["identity", "affine"])
    def test_center_maps_the_center_of_view_to_the_other(self, volume: PhantomPair, initial: np.ndarray) -> None:
        fixed, moving = sources(volume, RIGID)
        found = align(fixed, moving, "center", initial, 0, CPU)
        mapped = found[:3, :3] @ fixed.geometry.center_lps + found[:3, 3]
        np.testing.assert_allclose(mapped, moving.geometry.center_lps, atol=1e-9)

    @pytest.mark.parametrize("mode", ["center", "mass"])
    def test_rotation_and_scale_of_the_initial_map_are_kept(self, volume: PhantomPair, mode: str) -> None:
        found = align(*sources(volume, RIGID), mode, AFFINE, 0, CPU)
        np.testing.assert_allclose(found[:3, :3], AFFINE[:3, :3], atol=1e-12)

    def test_mass_finds_a_pure_shift(self, volume: PhantomPair) -> None:
        shift = matrix4(np.eye(3), OFFSET)
        # Both images differ in noise and lung density; a twentieth of a voxel of 7 mm.
        assert mean_error(volume, align(*sources(volume, shift), "mass", np.eye(4), 0, CPU), shift) < 0.35


class TestCenterOfMass:
    GRID = centered((20, 18, 16), (2.0, 3.0, 4.0), rotation(10, 20, 30), (5.0, -6.0, 70.0))

    def box(self) -> Source:
        array = np.zeros(self.GRID.shape, np.float32)
        array[3:6, 5:8, 9:12] = 1.0
        array[12, 12, 2] = 1.0
        return Source(array, self.GRID)

    def test_is_the_weighted_mean_position(self) -> None:
        source = self.box()
        points = self.GRID.index_to_lps(np.argwhere(source.array > 0)[:, ::-1])
        np.testing.assert_allclose(center_of_mass(source), points.mean(0), atol=1e-4)

    def test_mask_limits_it(self) -> None:
        source = self.box()
        mask = np.zeros(self.GRID.shape, np.uint8)
        mask[:8] = 1
        expected = self.GRID.index_to_lps(np.array([[10.0, 6.0, 4.0]]))[0]
        np.testing.assert_allclose(center_of_mass(Source(source.array, self.GRID, mask)), expected, atol=1e-4)

    def test_mask_over_darkness_has_its_own_center(self) -> None:
        mask = np.zeros(self.GRID.shape, np.uint8)
        mask[6:9, 0:3, 0:3] = 1
        expected = self.GRID.index_to_lps(np.array([[1.0, 1.0, 7.0]]))[0]
        found = center_of_mass(Source(self.box().array, self.GRID, mask))
        np.testing.assert_allclose(found, expected, atol=1e-4)

    @pytest.mark.parametrize(("order", "signs"), ORDERS)
    def test_storage_order_does_not_matter(self, order: tuple, signs: tuple) -> None:
        stored = stored_otherwise(self.box(), order, signs)
        np.testing.assert_allclose(center_of_mass(stored), center_of_mass(self.box()), atol=1e-4)


@pytest.mark.slow
class TestOptimised:
    @pytest.mark.parametrize(("mode", "truth", "limit"), [("rigid", RIGID, 0.3), ("affine", AFFINE, 1.0)])
    @pytest.mark.parametrize(("order", "signs"), ORDERS)
    def test_known_map_is_found(
        self, volume: PhantomPair, mode: str, truth: np.ndarray, limit: float, order: tuple, signs: tuple
    ) -> None:
        fixed, moving = sources(volume, truth)
        found = align(fixed, stored_otherwise(moving, order, signs), mode, np.eye(4), 0, CPU)
        # Measured 0.04 mm (rigid) and 0.2 mm (affine) with voxels of 7 mm, from 47 mm before.
        assert mean_error(volume, found, truth) < limit

    @pytest.mark.parametrize(("mode", "truth", "limit"), [("rigid", RIGID_2D, 0.2), ("affine", AFFINE_2D, 1.0)])
    @pytest.mark.parametrize(("order", "signs"), ORDERS)
    def test_known_map_between_slices_is_found(
        self, flat: PhantomPair, mode: str, truth: np.ndarray, limit: float, order: tuple, signs: tuple
    ) -> None:
        fixed, moving = sources(flat, truth)
        found = align(fixed, stored_otherwise(moving, order, signs), mode, np.eye(4), 0, CPU)
        # Measured 0.02 mm (rigid) and 0.3 mm (affine) with pixels of 4 mm, from 42 mm before.
        assert mean_error(flat, found, truth) < limit

    @pytest.mark.parametrize(("order", "signs"), ORDERS)
    def test_rigid_map_is_a_rotation(self, volume: PhantomPair, order: tuple, signs: tuple) -> None:
        fixed, moving = sources(volume, AFFINE)
        linear = align(fixed, stored_otherwise(moving, order, signs), "rigid", np.eye(4), 0, CPU)[:3, :3]
        np.testing.assert_allclose(linear.T @ linear, np.eye(3), atol=1e-6)
        assert np.linalg.det(linear) > 0

    @pytest.mark.parametrize("turn", range(-20, 21, 8))
    def test_turned_slice_does_not_run_away(self, flat: PhantomPair, turn: float) -> None:
        truth = matrix4(rotation(0, turn, 0), OFFSET)
        assert mean_error(flat, align(*sources(flat, truth), "rigid", np.eye(4), 0, CPU), truth) < 0.2

    def test_initial_map_helps_where_the_way_is_far(self, volume: PhantomPair) -> None:
        truth = matrix4(rotation(0, 0, 100), OFFSET)
        found = align(*sources(volume, truth), "rigid", matrix4(rotation(0, 0, 90)), 0, CPU)
        assert mean_error(volume, found, truth) < 0.3

    @pytest.mark.parametrize("scale", [0.001, 100.0])
    def test_size_in_millimetres_does_not_matter(self, volume: PhantomPair, scale: float) -> None:
        enlarge = np.diag([scale, scale, scale, 1.0])
        fixed, moving = (
            Source(source.array, moved_grid(source.geometry, enlarge)) for source in sources(volume, RIGID)
        )
        found = np.linalg.inv(enlarge) @ align(fixed, moving, "rigid", np.eye(4), 0, CPU) @ enlarge
        assert mean_error(volume, found, RIGID) < 0.3

    def test_same_seed_gives_the_same_map(self, volume: PhantomPair) -> None:
        first, second = (align(*sources(volume, AFFINE), "affine", np.eye(4), 3, CPU) for _ in range(2))
        np.testing.assert_array_equal(first, second)

    def test_masked_artefact_does_not_pull(self, volume: PhantomPair) -> None:
        fixed, moving = sources(volume, RIGID)
        bright = moving.array.copy()
        bright[:, :10] = 3000.0
        mask = np.ones(bright.shape, np.uint8)
        mask[:, :13] = 0
        found = align(fixed, Source(bright, moving.geometry, mask), "rigid", np.eye(4), 0, CPU)
        # A quarter of the body is hidden; half a voxel.
        assert mean_error(volume, found, RIGID) < 3.5


class TestErrors:
    def test_slice_and_volume_cannot_be_optimised(self, volume: PhantomPair, flat: PhantomPair) -> None:
        with pytest.raises(errors.EngineError, match="slice") as caught:
            align(Source(flat.fixed, flat.fixed_geometry), sources(volume, RIGID)[1], "rigid", np.eye(4), 0, CPU)
        assert caught.value.code == errors.INPUT_INVALID

    def test_mask_without_anything_in_common_is_refused(self, volume: PhantomPair) -> None:
        fixed, moving = sources(volume, RIGID)
        mask = np.zeros(fixed.array.shape, np.uint8)
        mask[:2, :2, :2] = 1  # a corner of air, which lies outside the moving volume once the bodies are aligned
        with pytest.raises(errors.EngineError) as caught:
            align(Source(fixed.array, fixed.geometry, mask), moving, "rigid", np.eye(4), 0, CPU)
        assert caught.value.code == errors.NO_OVERLAP

    @pytest.mark.parametrize("mode", ["mass", "rigid", "affine"])
    @pytest.mark.parametrize("side", [0, 1])
    def test_empty_mask_is_refused_as_such(self, volume: PhantomPair, mode: str, side: int) -> None:
        pair = list(sources(volume, RIGID))
        pair[side] = replace(pair[side], mask=np.zeros(pair[side].array.shape, np.uint8))
        with pytest.raises(errors.EngineError, match=("fixed", "moving")[side] + " image selects no voxel") as caught:
            align(*pair, mode, np.eye(4), 0, CPU)
        assert caught.value.code == errors.MASK_OUTSIDE

    @pytest.mark.parametrize("mode", ["none", "center", "mass", "rigid", "affine"])
    def test_slices_at_an_angle_are_refused(self, flat: PhantomPair, mode: str) -> None:
        pair = sources(flat, matrix4(rotation(40, 0, 0)))
        with pytest.raises(errors.EngineError, match="at 40 degrees") as caught:
            align(*pair, mode, np.eye(4), 0, CPU)
        assert caught.value.code == errors.INPUT_INVALID

    def test_slices_that_a_transform_makes_parallel_are_aligned(self, flat: PhantomPair) -> None:
        tilt = matrix4(rotation(40, 0, 0), (5.0, 0.0, 0.0))
        assert mean_error(flat, align(*sources(flat, tilt), "center", tilt, 0, CPU), tilt) < 1e-6

    @pytest.mark.parametrize(("order", "signs"), ORDERS)
    def test_slices_at_a_small_angle_are_aligned(self, flat: PhantomPair, order: tuple, signs: tuple) -> None:
        fixed, moving = sources(flat, matrix4(rotation(14, 0, 0)))
        found = align(fixed, stored_otherwise(moving, order, signs), "center", np.eye(4), 0, CPU)
        np.testing.assert_array_equal(found[:3, :3], np.eye(3))

    def test_constant_image_is_refused(self, volume: PhantomPair) -> None:
        fixed, moving = sources(volume, RIGID)
        with pytest.raises(errors.EngineError, match="moving image is constant"):
            align(fixed, Source(np.zeros_like(moving.array), moving.geometry), "rigid", np.eye(4), 0, CPU)
