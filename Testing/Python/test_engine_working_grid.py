"""The working grid covers the fixed volume, whatever its storage order, and what the moving one shows beyond it."""

import itertools

import numpy as np
import pytest

from DeepAttentionRegEngine.geometry import Geometry
from DeepAttentionRegEngine.intensity import normalize
from DeepAttentionRegEngine.preprocess import Source, prepare
from DeepAttentionRegEngine.working_grid import GridLimits, plan_grid, plan_pair_grid, spatial_shape
from engine_cases import CPU, blob_source, centered, matrix4, restored, rotation, storage_orders

pytestmark = pytest.mark.torch

OBLIQUE = rotation(12, -9, 20)
LIMITS = GridLimits(minimum_size=16, maximum_voxels=60_000)
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


class TestMargin:
    FIXED = centered((30, 40, 20), (2.0, 2.0, 2.0), OBLIQUE, (10.0, -20.0, 30.0))

    def moving(self, below: tuple[int, ...], above: tuple[int, ...], fixed: Geometry = FIXED) -> Geometry:
        """Return a grid that shows so many voxels more than the fixed one on each side."""
        size = np.array(fixed.size) + below + above
        origin = fixed.index_to_lps(-np.array(below)[None])[0]
        return Geometry.from_arrays(size, fixed.spacing, origin, fixed.direction)

    def test_volumes_of_one_field_of_view_need_none(self) -> None:
        for order, signs in storage_orders()[::5]:
            stored = restored(self.FIXED, order, signs)
            found = plan_pair_grid(stored, self.FIXED, np.eye(4), LIMITS)
            assert_same_grid(found, plan_grid(self.FIXED, LIMITS))

    def test_reaches_the_faces_of_the_moving_volume(self) -> None:
        moving = self.moving((2, 0, 1), (0, 3, 2))
        assert_same_grid(plan_pair_grid(self.FIXED, moving, np.eye(4), LIMITS), moving)

    def test_is_no_more_than_a_tenth_on_each_side(self) -> None:
        moving = self.moving((90, 1, 90), (2, 90, 90))
        expected = self.moving((3, 1, 2), (2, 4, 2))
        assert_same_grid(plan_pair_grid(self.FIXED, moving, np.eye(4), LIMITS), expected)

    def test_follows_the_alignment(self) -> None:
        alignment = matrix4(rotation(0, 0, 90), (5.0, 6.0, -7.0))
        shown = self.moving((2, 0, 1), (0, 3, 2))
        axes = alignment[:3, :3] @ np.reshape(shown.direction, (3, 3))
        origin = alignment[:3, :3] @ np.array(shown.origin) + alignment[:3, 3]
        moving = Geometry.from_arrays(shown.size, shown.spacing, origin, axes)
        assert_same_grid(plan_pair_grid(self.FIXED, moving, alignment, LIMITS), shown)

    @pytest.mark.parametrize("size", FLATS, ids=["flat-k", "flat-j", "flat-i"])
    def test_of_a_slice_lies_within_its_plane(self, size: tuple[int, int, int]) -> None:
        fixed = centered(size, (2.0, 2.0, 2.0), OBLIQUE)
        more = tuple(0 if n == 1 else 2 for n in size)
        found = plan_pair_grid(fixed, self.moving(more, more, fixed), np.eye(4), LIMITS)
        assert_same_grid(found, plan_grid(fixed, LIMITS).padded((2, 2, 0), (2, 2, 0)))

    def test_keeps_the_voxels_near_the_maximum(self) -> None:
        fixed = centered((512, 512, 200), (0.8, 0.8, 1.5))
        moving = centered((600, 600, 300), (0.8, 0.8, 1.5))
        grid = plan_pair_grid(fixed, moving, np.eye(4), LIMITS)
        # Sizes are rounded up, at most two voxels per axis of about 40.
        assert LIMITS.maximum_voxels * 0.8 < np.prod(grid.size) < LIMITS.maximum_voxels * 1.15

    @pytest.mark.parametrize("size", [(30, 28, 26), (30, 28, 1)], ids=["volume", "slice"])
    def test_shows_the_moving_volume_beyond_the_edge(self, size: tuple[int, int, int]) -> None:
        fixed = centered(size, (3.0, 3.0, 3.0), OBLIQUE)
        more = tuple(0 if n == 1 else 2 for n in size)
        whole = blob_source(self.moving(more, more, fixed))
        inner = tuple(slice(m, n - m) for m, n in zip(more[::-1], whole.array.shape, strict=True))
        pair = prepare(Source(whole.array[inner], fixed), whole, np.eye(4), LIMITS, CPU)
        spatial = spatial_shape(whole.geometry)
        expected = normalize(whole.array).reshape(spatial)
        np.testing.assert_allclose(pair.moving[0, 0].numpy(), expected, atol=1e-4)
        assert float(pair.weight.sum()) == np.prod(size)
