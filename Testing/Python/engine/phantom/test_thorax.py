"""The phantom is ground truth: its images, labels, landmarks and displacement have to agree with each other."""

import numpy as np
import pytest

from DeepAttentionRegEngine.phantom import anatomy, thorax
from DeepAttentionRegEngine.phantom.thorax import PhantomPair, PhantomSettings, default_geometry, make_phantom
from DeepAttentionRegEngine.volume import fields
from DeepAttentionRegEngine.volume.geometry import Geometry

ndimage = pytest.importorskip("scipy.ndimage", reason="scipy is not installed")

SMALL = {"size": (64, 54, 64), "spacing": (5.25, 4.444, 5.25)}
CLEAN = PhantomSettings(noise=0.0, lung_density_change=0.0)
LABEL = {name: value for value, name in anatomy.LABEL_NAMES.items()}
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def grid_lps(geometry: Geometry) -> np.ndarray:
    """Return the positions (k * j * i, 3) LPS mm of all voxels, in the order of a raveled array."""
    k, j, i = np.indices(geometry.shape)
    return geometry.index_to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3))


def sampled(image: np.ndarray, geometry: Geometry, points_lps: np.ndarray, order: int) -> np.ndarray:
    """Return the values (N,) of an image (k, j, i) at LPS points (N, 3), by splines of some order."""
    index = geometry.lps_to_index(points_lps)[:, ::-1].T
    return ndimage.map_coordinates(image.astype(float), index, order=order, mode="nearest")


def warped(pair: PhantomPair, image: np.ndarray, order: int) -> np.ndarray:
    """Return an image of the moving grid, resampled to the fixed grid through the true displacement."""
    points = grid_lps(pair.fixed_geometry) + pair.displacement_lps_mm.reshape(-1, 3)
    return sampled(image, pair.moving_geometry, points, order).reshape(pair.fixed_geometry.shape)


def turned(geometry: Geometry, columns: tuple[int, int, int], signs: tuple[int, int, int]) -> Geometry:
    """Return the same field of view stored with its axes in another order and sense."""
    direction = np.reshape(geometry.direction, (3, 3))[:, columns] * signs
    size = tuple(geometry.size[c] for c in columns)
    spacing = tuple(geometry.spacing[c] for c in columns)
    origin = geometry.center_lps - direction @ ((np.array(size) - 1) / 2 * spacing)
    return Geometry(size, spacing, tuple(origin.tolist()), tuple(direction.ravel().tolist()))


@pytest.fixture(scope="module")
def volume() -> PhantomPair:
    return make_phantom(default_geometry(**SMALL), settings=CLEAN)


@pytest.fixture(scope="module")
def flat() -> PhantomPair:
    return make_phantom(default_geometry(flat=True), settings=CLEAN)


@pytest.fixture(params=["volume", "flat"])
def pair(request: pytest.FixtureRequest) -> PhantomPair:
    return request.getfixturevalue(request.param)


class TestArrays:
    def test_dtypes_and_shapes_follow_the_grids(self, pair: PhantomPair) -> None:
        shape = pair.fixed_geometry.shape
        assert pair.fixed.shape == pair.moving.shape == pair.fixed_labels.shape == pair.moving_labels.shape == shape
        assert pair.displacement_lps_mm.shape == (*shape, 3)
        assert pair.fixed.dtype == pair.moving.dtype == pair.displacement_lps_mm.dtype == np.float32
        assert pair.fixed_labels.dtype == pair.moving_labels.dtype == np.uint8

    def test_volume_shows_every_organ(self, volume: PhantomPair) -> None:
        for labels in (volume.fixed_labels, volume.moving_labels):
            assert set(np.unique(labels)) == {0, *anatomy.LABEL_NAMES}

    def test_slice_shows_what_moves(self, flat: PhantomPair) -> None:
        seen = set(np.unique(flat.fixed_labels))
        assert seen >= {LABEL[name] for name in ("Right lung", "Left lung", "Heart", "Liver", "Tumor")}

    @pytest.mark.parametrize(
        ("name", "low", "high"),
        [("Right lung", -850, -700), ("Heart", 30, 120), ("Liver", 40, 80), ("Spine", 150, 450)],
    )
    def test_organs_have_the_density_of_ct(self, volume: PhantomPair, name: str, low: float, high: float) -> None:
        assert low < np.median(volume.fixed[volume.fixed_labels == LABEL[name]]) < high

    def test_air_outside_the_body_is_air(self, volume: PhantomPair) -> None:
        outside = ndimage.binary_erosion(volume.fixed_labels == 0, iterations=2)
        assert np.all(volume.fixed[outside] == -1000.0)

    def test_soft_edges_reach_less_than_two_voxels(self, volume: PhantomPair) -> None:
        # The ramp is two voxels wide in all, so two voxels inside the body no air may remain.
        inside = ndimage.binary_erosion(volume.moving_labels == LABEL["Liver"], iterations=2)
        assert volume.moving[inside].min() > 0.0


class TestTruth:
    def test_moving_warped_by_the_truth_is_the_fixed_image(self, pair: PhantomPair) -> None:
        body = pair.fixed_labels > 0
        before = np.abs(pair.moving - pair.fixed)[body].mean()
        after = np.abs(warped(pair, pair.moving, order=3) - pair.fixed)[body].mean()
        # Edges of one voxel and 1000 HU leave an interpolation error of 8 HU at 5 mm and 3 HU at 2 mm on average.
        assert after < 10.0
        assert after < 0.2 * before

    def test_moving_labels_warped_by_the_truth_are_the_fixed_labels(self, pair: PhantomPair) -> None:
        carried = warped(pair, pair.moving_labels, order=0)
        for name in ("Right lung", "Left lung", "Heart", "Liver"):
            a, b = carried == LABEL[name], pair.fixed_labels == LABEL[name]
            # Nearest neighbor sampling moves a boundary by half a voxel at most.
            assert 2 * np.sum(a & b) / (np.sum(a) + np.sum(b)) > 0.93

    def test_truth_holds_between_different_grids(self) -> None:
        fixed = default_geometry(**SMALL)
        coarse = Geometry((70, 60, 75), (5.0, 5.0, 5.0), (-172.5, -147.5, -185.0), AXIAL)
        pair = make_phantom(fixed, coarse, CLEAN)
        body = pair.fixed_labels > 0
        assert pair.moving.shape == coarse.shape
        # Before: 66 HU. No voxel centers coincide, so that all the body is interpolated: 11 HU.
        assert np.abs(warped(pair, pair.moving, order=3) - pair.fixed)[body].mean() < 14.0

    def test_lung_is_darker_in_inspiration(self) -> None:
        geometry = default_geometry(**SMALL)
        pair = make_phantom(geometry, settings=PhantomSettings(breathing_amplitude=0.0, noise=0.0))
        lung = ndimage.binary_erosion(pair.fixed_labels == LABEL["Right lung"], iterations=2)
        assert np.median((pair.fixed - pair.moving)[lung]) == pytest.approx(-15.0, abs=0.5)

    def test_no_breathing_means_no_displacement(self) -> None:
        still = PhantomSettings(breathing_amplitude=0.0, noise=0.0, lung_density_change=0.0)
        pair = make_phantom(default_geometry(**SMALL), settings=still)
        assert not np.any(pair.displacement_lps_mm)
        np.testing.assert_array_equal(pair.fixed, pair.moving)


class TestDisplacement:
    def test_peak_is_the_amplitude_towards_the_head(self, pair: PhantomPair) -> None:
        geometry = pair.fixed_geometry
        rows = 2 if geometry.size[2] > 1 else 1
        height = geometry.size[rows] * geometry.spacing[rows]
        # The grid need not hit the very peak.
        assert pair.displacement_lps_mm[..., 2].max() == pytest.approx(0.07 * height, rel=0.03)
        assert pair.displacement_lps_mm[..., 2].min() >= 0.0

    @pytest.mark.parametrize("flat", [False, True])
    def test_largest_amplitude_does_not_fold(self, flat: bool) -> None:
        geometry = default_geometry(flat=True) if flat else default_geometry(**SMALL)
        settings = PhantomSettings(breathing_amplitude=0.1)
        displacement = make_phantom(geometry, settings=settings).displacement_lps_mm
        assert fields.jacobian_determinant(displacement, geometry).min() > 0.3

    def test_is_zero_outside_the_body(self, pair: PhantomPair) -> None:
        assert not np.any(pair.displacement_lps_mm[pair.fixed_labels == 0])

    def test_spine_is_at_rest(self, volume: PhantomPair) -> None:
        assert not np.any(volume.displacement_lps_mm[volume.fixed_labels == LABEL["Spine"]])

    def test_chest_wall_moves_backwards(self, volume: PhantomPair) -> None:
        assert 2.0 < volume.displacement_lps_mm[..., 1].max() < 10.0
        assert volume.displacement_lps_mm[..., 1].min() >= 0.0

    def test_slice_moves_within_its_plane_exactly(self, flat: PhantomPair) -> None:
        # The coronal slice has the normal (0, 1, 0).
        assert not np.any(flat.displacement_lps_mm[..., 1])
        assert not np.any(flat.moving_points_lps[:, 1] - flat.fixed_points_lps[:, 1])

    def test_oblique_slice_moves_within_its_plane(self) -> None:
        tilt = np.radians(25.0)
        c, s = float(np.cos(tilt)), float(np.sin(tilt))
        geometry = Geometry((90, 90, 1), (3.5, 3.5, 5.0), (-150.0, 20.0, 160.0), (1.0, 0.0, 0.0, 0.0, s, c, 0.0, -c, s))
        displacement = make_phantom(geometry, settings=CLEAN).displacement_lps_mm
        # float32 keeps about 1e-6 of 20 mm.
        assert np.abs(displacement @ np.array([0.0, c, s])).max() < 1e-5
        assert displacement[..., 2].max() > 10.0


class TestLandmarks:
    def test_are_many(self, pair: PhantomPair) -> None:
        assert pair.fixed_points_lps.shape == pair.moving_points_lps.shape
        assert len(pair.fixed_points_lps) >= 60

    def test_move_with_the_field(self, pair: PhantomPair) -> None:
        read = fields.transform_points(pair.displacement_lps_mm, pair.fixed_geometry, pair.fixed_points_lps)
        # Linear interpolation of the field: its curvature, 1.5 * 2 * 23 mm / (45 mm)^2, times voxel^2 / 8.
        assert np.linalg.norm(read - pair.moving_points_lps, axis=1).max() < 0.2

    def test_lie_in_moving_organs(self, pair: PhantomPair) -> None:
        for points, labels, geometry in (
            (pair.fixed_points_lps, pair.fixed_labels, pair.fixed_geometry),
            (pair.moving_points_lps, pair.moving_labels, pair.moving_geometry),
        ):
            found = sampled(labels, geometry, points, order=0)
            # The nearest voxel of a point near a boundary may be on its other side.
            assert np.isin(found, thorax.LANDMARK_LABELS).mean() > 0.85

    def test_are_shared_among_the_organs(self, pair: PhantomPair) -> None:
        assert len(pair.fixed_points_lps) == thorax.LANDMARKS_PER_ORGAN * len(thorax.LANDMARK_LABELS)


class TestRepeat:
    def test_same_seed_gives_the_same_arrays(self) -> None:
        first, second = (make_phantom(default_geometry(size=(30, 26, 30), spacing=(11.0, 9.0, 11.0))) for _ in range(2))
        np.testing.assert_array_equal(first.fixed, second.fixed)
        np.testing.assert_array_equal(first.moving, second.moving)
        np.testing.assert_array_equal(first.fixed_points_lps, second.fixed_points_lps)

    def test_another_seed_gives_other_texture_and_the_same_truth(self) -> None:
        geometry = default_geometry(size=(30, 26, 30), spacing=(11.0, 9.0, 11.0))
        first, second = (make_phantom(geometry, settings=PhantomSettings(noise=0.0, seed=seed)) for seed in (0, 1))
        assert np.abs(first.fixed - second.fixed)[first.fixed_labels > 0].mean() > 5.0
        np.testing.assert_array_equal(first.displacement_lps_mm, second.displacement_lps_mm)
        np.testing.assert_array_equal(first.fixed_labels, second.fixed_labels)

    def test_noise_has_the_given_deviation(self, flat: PhantomPair) -> None:
        noisy = make_phantom(flat.fixed_geometry, settings=PhantomSettings(noise=20.0, lung_density_change=0.0))
        # The sample deviation of 25,600 pixels varies by 0.4 %.
        assert np.std(noisy.fixed - flat.fixed) == pytest.approx(20.0, rel=0.02)


class TestOrientation:
    @pytest.mark.parametrize(
        ("columns", "signs"), [((1, 2, 0), (1, 1, 1)), ((0, 2, 1), (1, -1, 1)), ((0, 1, 2), (-1, -1, 1))]
    )
    def test_storage_order_leaves_the_anatomy_in_place(
        self, volume: PhantomPair, columns: tuple[int, int, int], signs: tuple[int, int, int]
    ) -> None:
        other = make_phantom(turned(volume.fixed_geometry, columns, signs), settings=CLEAN)
        points = grid_lps(volume.fixed_geometry)
        # The voxel centers coincide, so nothing is interpolated but rounding; float32 keeps 1e-4 HU of steep edges.
        difference = sampled(other.fixed, other.fixed_geometry, points, order=1) - volume.fixed.ravel()
        assert np.abs(difference).max() < 0.5
        moved = fields.sample_field(other.displacement_lps_mm, other.fixed_geometry, points)
        np.testing.assert_allclose(moved, volume.displacement_lps_mm.reshape(-1, 3), atol=1e-3)

    def test_oblique_grid_shows_the_anatomy_of_the_straight_one(self) -> None:
        oblique = default_geometry(**SMALL)
        origin = tuple(-(n - 1) / 2 * s for n, s in zip(oblique.size, oblique.spacing, strict=True))
        straight = Geometry(oblique.size, oblique.spacing, origin, AXIAL)
        pairs = [make_phantom(geometry, settings=CLEAN) for geometry in (oblique, straight)]
        points = grid_lps(straight).reshape(*straight.shape, 3)[8:-8, 8:-8, 8:-8].reshape(-1, 3)
        seen = [sampled(pair.fixed, pair.fixed_geometry, points, order=3) for pair in pairs]
        # The interpolation error of the test above.
        assert np.abs(seen[0] - seen[1]).mean() < 14.0
        moved = [fields.sample_field(pair.displacement_lps_mm, pair.fixed_geometry, points) for pair in pairs]
        assert np.linalg.norm(moved[0] - moved[1], axis=1).max() < 0.5

    def test_default_volume_is_oblique_and_centered(self) -> None:
        geometry = default_geometry()
        assert 0.02 < np.abs(np.reshape(geometry.direction, (3, 3)) - np.eye(3)).max() < 0.2
        np.testing.assert_allclose(geometry.center_lps, 0.0, atol=1e-9)

    def test_body_scales_with_the_field_of_view(self) -> None:
        child = default_geometry(size=(40, 36, 40), spacing=(4.0, 3.3, 4.0))
        adult = default_geometry(size=(40, 36, 40), spacing=(8.0, 6.6, 8.0))
        small, large = (make_phantom(geometry, settings=CLEAN) for geometry in (child, adult))
        np.testing.assert_array_equal(small.fixed_labels, large.fixed_labels)
        np.testing.assert_allclose(2.0 * small.displacement_lps_mm, large.displacement_lps_mm, atol=1e-4)


class TestRefusals:
    @pytest.mark.parametrize("amplitude", [-0.01, 0.11, float("nan")])
    def test_amplitude_that_folds_is_refused(self, amplitude: float) -> None:
        with pytest.raises(ValueError, match="breathing_amplitude"):
            PhantomSettings(breathing_amplitude=amplitude)

    def test_negative_noise_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"noise \(-1"):
            PhantomSettings(noise=-1.0)

    def test_slice_against_volume_is_refused(self) -> None:
        with pytest.raises(ValueError, match="single slice"):
            make_phantom(default_geometry(flat=True), default_geometry())
