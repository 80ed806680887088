"""The working grid covers the fixed volume, whatever its storage order."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from DeepAttentionRegEngine.protocol.grid import MAXIMUM_VOXELS, REFINEMENT_ALONE, GridPolicy
from DeepAttentionRegEngine.registration.working_grid import plan_grid, spatial_shape
from DeepAttentionRegEngine.volume.geometry import Geometry
from engine_cases import centered, restored, rotation, storage_orders

pytestmark = pytest.mark.torch

OBLIQUE = rotation(12, -9, 20)
LIMITS = GridPolicy(minimum_size=16, maximum_voxels=60_000)
FLATS = [(40, 30, 1), (40, 1, 30), (1, 40, 30)]


def assert_same_grid(found: Geometry, expected: Geometry) -> None:
    assert found.size == expected.size
    np.testing.assert_allclose(found.ijk_to_lps, expected.ijk_to_lps, atol=1e-6)


class TestWorkingGrid:
    @pytest.mark.parametrize(
        "geometry",
        [
            centered((40, 44, 36), (1.0, 1.0, 1.0), OBLIQUE, (100.0, -50.0, 20.0)),
            centered((64, 64, 12), (0.7, 0.7, 5.0), OBLIQUE),
            centered((3, 5, 4), (10.0, 10.0, 10.0)),
            centered((512, 512, 200), (0.8, 0.8, 1.5), rotation(90, 0, 5)),
            centered((30, 30, 30), (0.05, 0.05, 0.05), OBLIQUE),
            *(centered(size, (1.5, 2.0, 1.0), OBLIQUE) for size in FLATS),
        ],
        ids=["oblique", "thick", "tiny", "huge", "micrometres", "flat-k", "flat-j", "flat-i"],
    )
    def test_is_isotropic_within_limits_and_covers_the_volume(self, geometry: Geometry) -> None:
        grid = plan_grid(geometry, LIMITS)
        used = 2 if geometry.is_flat else 3
        spacings, sizes = grid.spacing[:used], grid.size[:used]
        assert max(spacings) == pytest.approx(min(spacings))
        assert min(sizes) >= LIMITS.minimum_size
        # The volume's outer corners lie within the working grid's voxel faces, up to rounding.
        outer = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in geometry.size))))
        index = grid.lps_to_index(geometry.index_to_lps(outer))
        assert (index > -0.5 - 1e-3).all()
        assert (index < np.array(grid.size) - 0.5 + 1e-3).all()

    def test_voxels_stay_near_the_maximum(self) -> None:
        grid = plan_grid(centered((512, 512, 200), (0.8, 0.8, 1.5)), LIMITS)
        # Sizes are rounded up, at most one voxel per axis of about 40.
        assert np.prod(grid.size) < LIMITS.maximum_voxels * 1.1

    def test_volume_within_limits_keeps_its_grid(self) -> None:
        geometry = centered((32, 36, 28), (1.3, 1.3, 1.3))
        assert_same_grid(plan_grid(geometry, LIMITS), geometry)

    @pytest.mark.parametrize("size", [(512, 512, 3), (2048, 2048, 2), (3, 300, 400)])
    @pytest.mark.parametrize("policy", [GridPolicy(8, 8_000), REFINEMENT_ALONE, GridPolicy()])
    def test_some_plane_lies_within_a_thin_slab(self, size: tuple[int, int, int], policy: GridPolicy) -> None:
        slab = centered(size, (0.1, 0.1, 0.1), OBLIQUE)
        grid = plan_grid(slab, policy)
        axis = size.index(min(size))
        middle = grid.index_to_lps(np.array([[n // 2 for n in grid.size]]))
        assert -0.5 <= slab.lps_to_index(middle)[0, axis] <= size[axis] - 0.5

    def test_margin_surrounds_the_grid_of_the_volume(self) -> None:
        for size in ((40, 44, 36), (512, 512, 200), *FLATS):
            volume = centered(size, (1.0, 2.0, 1.5), OBLIQUE, (10.0, 20.0, -30.0))
            grid, wider = plan_grid(volume, LIMITS), plan_grid(volume, replace(LIMITS, margin=3))
            axes = 2 if volume.is_flat else 3
            assert wider.spacing == grid.spacing
            assert wider.size == tuple(n + 6 * (axis < axes) for axis, n in enumerate(grid.size))
            corner = wider.index_to_lps(np.array([3.0] * axes + [0.0] * (3 - axes)))
            np.testing.assert_allclose(corner, grid.origin, atol=1e-9)

    def test_margin_of_a_tiny_volume_counts_as_what_it_lacks(self) -> None:
        assert plan_grid(centered((3, 5, 14), (1.0, 1.0, 1.0)), replace(LIMITS, margin=3)).size == (16, 16, 20)

    def test_axes_stay_parallel_to_the_volume(self) -> None:
        grid = plan_grid(centered((32, 36, 28), (1.0, 1.2, 2.0), OBLIQUE), LIMITS)
        np.testing.assert_allclose(np.reshape(grid.direction, (3, 3)), OBLIQUE, atol=1e-12)

    @pytest.mark.parametrize("size", [(40, 30, 20), *FLATS], ids=["volume", "flat-k", "flat-j", "flat-i"])
    def test_storage_order_does_not_matter(self, size: tuple[int, int, int]) -> None:
        geometry = centered(size, (1.0, 2.0, 1.5), OBLIQUE, (10.0, 20.0, -30.0))
        expected = plan_grid(geometry, LIMITS)
        for order, signs in storage_orders():
            assert_same_grid(plan_grid(restored(geometry, order, signs), LIMITS), expected)

    @pytest.mark.parametrize("size", FLATS, ids=["flat-k", "flat-j", "flat-i"])
    def test_single_slice_lies_along_k(self, size: tuple[int, int, int]) -> None:
        assert plan_grid(centered(size, (1.0, 2.0, 1.5), OBLIQUE), LIMITS).size[2] == 1


class TestThinVolumes:
    """Axes below the minimum, which the grid outgrows."""

    THIN = (
        ((512, 512, 3), (0.1, 0.1, 0.1)),
        ((2048, 2048, 2), (0.1, 0.1, 0.1)),
        ((4000, 4000, 3), (0.01, 0.01, 0.01)),
        ((2, 1500, 900), (3.0, 0.3, 0.3)),
        ((50_000, 6, 4), (0.1, 0.1, 0.1)),
        ((300_000, 2, 1), (1.0, 1.0, 5.0)),
    )
    POLICIES = (GridPolicy(), GridPolicy(16, 1_000_000), REFINEMENT_ALONE)

    @pytest.mark.parametrize("policy", POLICIES, ids=["usual", "small", "refinement"])
    @pytest.mark.parametrize(("size", "spacing"), THIN)
    def test_stay_within_the_limit(self, size, spacing, policy: GridPolicy) -> None:
        grid = plan_grid(centered(size, spacing, OBLIQUE), policy)
        # Sizes are rounded up, at most one voxel per axis.
        assert np.prod(grid.size) < policy.maximum_voxels * 1.15
        assert min(spatial_shape(grid)) >= policy.minimum_size

    def test_margin_of_a_thin_volume_adds_little(self) -> None:
        volume = centered((2048, 2048, 2), (0.1, 0.1, 0.1))
        assert np.prod(plan_grid(volume, GridPolicy(margin=2)).size) < MAXIMUM_VOXELS * 1.05

    @pytest.mark.parametrize(("size", "spacing"), THIN)
    def test_networks_see_no_more_than_their_limit(self, size, spacing) -> None:
        policy = GridPolicy(network_voxels=1_000_000)
        seen = policy.network_size(policy.working_size(size, spacing))
        assert np.prod(seen) < policy.network_voxels * 1.05
        assert min(seen) >= policy.minimum_size

    def test_networks_see_the_voxel_size_that_they_know(self) -> None:
        policy = GridPolicy(minimum_size=16)
        assert policy.network_size((80, 96, 100), 2.0) == (40, 48, 50)
        assert policy.network_size((40, 48, 50), 0.5) == (80, 96, 100)
        assert policy.network_size((20, 96, 100), 2.0) == (16, 48, 50)
        limited = GridPolicy(minimum_size=16, network_voxels=40 * 48 * 50 // 8)
        assert limited.network_size((80, 96, 100), 2.0) == (20, 24, 25)

    def test_three_slices_cost_refinement_little_more_than_their_voxels(self) -> None:
        assert REFINEMENT_ALONE.working_size((512, 512, 3), (0.1, 0.1, 0.1)) == (512, 512, 8)

    def test_limit_is_used_up(self) -> None:
        size = GridPolicy(32).working_size((512, 512, 3), (0.1, 0.1, 0.1))
        assert size == (358, 358, 32)  # 358 = sqrt(4 100 000 / 32)

    def test_thin_volume_within_the_limit_keeps_its_voxels(self) -> None:
        assert GridPolicy(16).working_size((300, 200, 7), (1.0, 1.0, 1.0)) == (300, 200, 16)

    def test_volume_short_along_all_axes_gets_the_minimum(self) -> None:
        assert GridPolicy(16, maximum_voxels=100).working_size((3, 4, 5), (1.0, 1.0, 1.0)) == (16, 16, 16)

    def test_more_slices_never_make_the_grid_much_smaller(self) -> None:
        voxels = [np.prod(GridPolicy().working_size((700, 700, n), (0.5, 0.5, 0.5))) for n in range(2, 60)]
        assert min(voxels) > 0.9 * max(voxels)


class TestSize:
    SIZES = (96, 96, 96), (512, 512, 40), (20, 300, 7), (512, 512, 300), (9, 1, 1), (64, 64, 1), (1, 700, 900)
    SPACINGS = (1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (2.3, 0.4, 1.1)

    @pytest.mark.parametrize(("size", "spacing"), list(itertools.product(SIZES, SPACINGS)))
    def test_is_what_the_policy_says_without_any_orientation(
        self, size: tuple[int, ...], spacing: tuple[float, ...]
    ) -> None:
        axes = np.eye(3)[:, [2, 0, 1]] * (1, -1, 1)
        policy = GridPolicy(24, 300_000, margin=3)
        grid = plan_grid(Geometry.from_arrays(size, spacing, (0.0, 0.0, 0.0), axes), policy)
        assert sorted(policy.working_size(size, spacing)) == sorted(spatial_shape(grid))
