"""Pictures of slices, computed without a screen: what is where in them, and in which color."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_scene
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegLib.evidence import Pictures
from DeepAttentionRegLib.nodes.Overlays import Map

pytestmark = pytest.mark.mrml

L, P, S = np.eye(3)
# To the right and downward in the picture, as radiologists are used to.
DIRECTIONS = {"Axial": (L, P), "Coronal": (L, -S), "Sagittal": (P, -S)}


def gradients(plane: Pictures.Plane) -> tuple[np.ndarray, np.ndarray]:
    """Return the ways from left to right and from top to bottom of a slice, as unit vectors in LPS."""
    ways = plane.pointsLps[0, -1] - plane.pointsLps[0, 0], plane.pointsLps[-1, 0] - plane.pointsLps[0, 0]
    return tuple(way / np.linalg.norm(way) for way in ways)


def middle(picture: np.ndarray) -> np.ndarray:
    """Return a part of a picture that is away from its border."""
    height, width = picture.shape[:2]
    return picture[height // 3 : height // 2, width // 3 : width // 2]


class TestPlanes:
    def test_volume_has_three_slices_and_a_single_slice_one(self, any_geometry):
        planes = Pictures.planesThrough(any_geometry, any_geometry.center_lps)
        assert len(planes) == (1 if any_geometry.is_flat else 3)

    def test_directions_are_those_of_radiologists(self, any_geometry):
        for plane in Pictures.planesThrough(any_geometry, any_geometry.center_lps):
            for found, wanted in zip(gradients(plane), DIRECTIONS[plane.name], strict=True):
                assert found @ wanted > 0.8

    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
    def test_order_of_the_axes_makes_no_difference(self, order):
        direction = np.eye(3)[:, order] * (-1, 1, -1)
        grid = Geometry.from_arrays((20, 30, 40), (1.0, 2.0, 3.0), (5.0, 6.0, 7.0), direction)
        planes = Pictures.planesThrough(grid, grid.center_lps)
        assert [plane.name for plane in planes] == list(DIRECTIONS)
        for plane in planes:
            np.testing.assert_allclose(gradients(plane), DIRECTIONS[plane.name], atol=1e-9)

    def test_pixels_are_square(self, oblique_geometry):
        for plane in Pictures.planesThrough(oblique_geometry, oblique_geometry.center_lps):
            steps = [np.linalg.norm(np.diff(plane.pointsLps[row, column], axis=0)) for row, column in (
                (0, slice(0, 2)), (slice(0, 2), 0))]  # fmt: skip
            assert steps[0] == pytest.approx(steps[1], rel=0.05)

    def test_slices_run_through_the_voxel_of_the_point(self, oblique_geometry):
        wanted = np.array([[4.0, 7.0, 6.0]])
        point = oblique_geometry.index_to_lps(wanted + 0.3)[0]
        for plane in Pictures.planesThrough(oblique_geometry, point):
            index = oblique_geometry.lps_to_index(plane.pointsLps.reshape(-1, 3))
            across = np.ptp(index, axis=0).argmin()
            np.testing.assert_allclose(index[:, across], wanted[0, across], atol=1e-9)

    def test_point_outside_takes_the_nearest_slices(self, oblique_geometry):
        point = oblique_geometry.index_to_lps(np.array([[99.0, 99.0, 99.0]]))[0]
        for plane in Pictures.planesThrough(oblique_geometry, point):
            assert not np.isnan(plane.sample(np.ones(oblique_geometry.shape), oblique_geometry)).any()


class TestSampling:
    @pytest.fixture
    def plane(self, oblique_geometry) -> Pictures.Plane:
        return Pictures.planesThrough(oblique_geometry, oblique_geometry.center_lps)[0]

    def test_values_are_those_at_the_points(self, plane, oblique_geometry, grid_points):
        ramp = grid_points(oblique_geometry)[..., 0]
        inner = middle(plane.sample(ramp, oblique_geometry))
        np.testing.assert_allclose(inner, middle(plane.pointsLps)[..., 0], atol=1e-9)

    def test_offset_looks_elsewhere(self, plane, oblique_geometry, grid_points):
        ramp = grid_points(oblique_geometry)[..., 0]
        offset = np.broadcast_to((1.5, 0.0, 0.0), plane.pointsLps.shape)
        inner = middle(plane.sample(ramp, oblique_geometry, offset))
        np.testing.assert_allclose(inner, middle(plane.pointsLps)[..., 0] + 1.5, atol=1e-9)

    def test_outside_of_a_volume_is_unknown(self, plane, oblique_geometry):
        offset = np.full(plane.pointsLps.shape, 1000.0)
        assert np.isnan(plane.sample(np.ones(oblique_geometry.shape), oblique_geometry, offset)).all()

    def test_nearest_labels_are_those_of_the_voxels(self, any_geometry):
        labels = np.random.default_rng(0).integers(1, 200, any_geometry.shape)
        for plane in Pictures.planesThrough(any_geometry, any_geometry.center_lps):
            i, j, k = np.rint(any_geometry.lps_to_index(plane.pointsLps.reshape(-1, 3))).astype(int).T
            np.testing.assert_array_equal(plane.nearest(labels, any_geometry).ravel(), labels[k, j, i])

    def test_label_outside_is_zero(self, plane, oblique_geometry):
        corner = oblique_geometry.resized((1, 1, 1))
        far = Geometry.from_arrays((1, 1, 1), corner.spacing, (999.0, 0.0, 0.0), corner.direction)
        assert not plane.nearest(np.ones((1, 1, 1), np.uint8), far).any()


class TestColors:
    GRAY = np.full((4, 4, 3), 0.5)

    def paint(self, value: float, kind: Map) -> np.ndarray:
        return Pictures.paint(self.GRAY, np.full((4, 4), value), kind, kind.window(20.0))[0, 0]

    def test_shrinking_is_red_and_stretching_blue(self):
        assert self.paint(1.6, Map.JACOBIAN)[0] > self.paint(1.6, Map.JACOBIAN)[2]
        assert self.paint(0.4, Map.JACOBIAN)[2] > self.paint(0.4, Map.JACOBIAN)[0]

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            (Map.JACOBIAN, 1.02),
            (Map.LOG_JACOBIAN, -0.02),
            (Map.MAGNITUDE, 0.5),
            (Map.SIMILARITY_AFTER, 0.9),
            (Map.CHANGE, 0.4),
        ],
    )
    def test_unremarkable_is_not_painted(self, kind, value):
        np.testing.assert_array_equal(self.paint(value, kind), self.GRAY[0, 0])

    def test_unknown_is_not_painted(self):
        np.testing.assert_array_equal(self.paint(np.nan, Map.JACOBIAN), self.GRAY[0, 0])

    def test_what_is_brighter_in_one_volume_has_its_color(self):
        bright, dark = np.ones((2, 2)), np.zeros((2, 2))
        np.testing.assert_array_equal(Pictures.fuse(bright, dark)[0, 0], (1, 0, 1))
        np.testing.assert_array_equal(Pictures.fuse(dark, bright)[0, 0], (0, 1, 0))
        np.testing.assert_array_equal(Pictures.fuse(bright, bright)[0, 0], (1, 1, 1))

    def test_tint_colors_its_part_alone(self):
        picture = np.zeros((2, 2, 3))
        Pictures.tint(picture, np.eye(2, dtype=bool), (1.0, 0.5, 0.0), 0.5)
        np.testing.assert_array_equal(picture[0], [(0.5, 0.25, 0.0), (0.0, 0.0, 0.0)])


class TestGray:
    def test_window_is_that_of_the_views(self, scene, oblique_geometry):
        node = mrml_scene.add_volume(np.zeros(oblique_geometry.shape), oblique_geometry, "CT")
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevelMinMax(-50.0, 150.0)
        assert Pictures.grayWindow(node) == (-50.0, 150.0)

    def test_volume_never_shown_has_a_window_too(self, scene, oblique_geometry):
        values = np.linspace(0, 100, np.prod(oblique_geometry.shape)).reshape(oblique_geometry.shape)
        node = mrml_scene.add_volume(values, oblique_geometry, "CT")
        slicer.mrmlScene.RemoveNode(node.GetDisplayNode())
        assert Pictures.grayWindow(node) == pytest.approx((1.0, 99.0), abs=0.2)

    def test_ends_of_the_window_are_black_and_white(self):
        values = np.array([[-60.0, 50.0, 200.0, np.nan]])
        np.testing.assert_array_equal(Pictures.gray(values, (-50.0, 150.0)), [[0.0, 0.5, 1.0, 0.0]])


class TestFile:
    def test_png_holds_the_pixels(self, tmp_path):
        image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
        picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3)) / 255
        (tmp_path / "a.png").write_bytes(Pictures.png(picture))
        np.testing.assert_array_equal(np.asarray(image.open(tmp_path / "a.png")), np.rint(255 * picture))

    def test_pictures_beside_each_other_keep_their_size(self):
        sizes = ((4, 6, 3), (8, 2, 3))
        picture = Pictures.beside([np.zeros(size) for size in sizes])
        assert picture.shape == (8, 6 + Pictures.GAP + 2, 3)
        assert (picture == 0).sum() == sum(np.prod(size) for size in sizes)
