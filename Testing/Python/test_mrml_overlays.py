"""What slice views show of a deformation, by looking at their pixels."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_scene
from DeepAttentionRegEngine.geometry import Geometry
from DeepAttentionRegLib import Overlays, Transforms

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

GRAY = 128
COLORED = 40  # difference of red and blue from which a pixel counts as colored
SIZE = 200
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def view(application) -> mrml_scene.SliceView:
    return mrml_scene.SliceView(application, "Red", "Axial", (SIZE, SIZE))


@pytest.fixture
def geometry() -> Geometry:
    """An axial grid that fills the square view: LPS x to the right, y down, as in the picture."""
    return Geometry((40, 40, 5), (2.0, 2.0, 3.0), (-39.0, -39.0, -6.0), AXIAL)


@pytest.fixture
def anatomy(geometry):
    node = mrml_scene.add_volume(np.full(geometry.shape, GRAY, np.uint8), geometry, "Anatomy")
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevelMinMax(0, 255)
    return node


def left_and_right(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean red minus blue of two patches, away from the legend."""
    excess = picture[..., 0].astype(int) - picture[..., 2]
    return excess[120:180, 20:80].mean(), excess[120:180, 110:150].mean()


def map_of(values: tuple[float, float], geometry: Geometry) -> np.ndarray:
    """Return a map with one value in the left and one in the right half of the picture."""
    array = np.full(geometry.shape, values[0], np.float32)
    array[:, :, 20:] = values[1]
    return array


class TestMaps:
    def test_shrinking_is_red_and_stretching_blue(self, view, anatomy, geometry):
        node = Overlays.createMap(Overlays.Map.JACOBIAN, map_of((0.4, 1.6), geometry), geometry, "J")
        view.show(anatomy, node, 0.6)
        left, right = left_and_right(view.grab())
        assert left < -COLORED
        assert right > COLORED

    def test_tissue_that_keeps_its_size_is_transparent(self, view, anatomy, geometry):
        node = Overlays.createMap(Overlays.Map.JACOBIAN, map_of((1.0, 1.03), geometry), geometry, "J")
        view.show(anatomy, node, 0.6)
        picture = view.grab()
        assert np.abs(picture[120:180, 20:150].astype(int) - GRAY).max() <= 1

    def test_log_jacobian_is_centered_at_zero(self, view, anatomy, geometry):
        node = Overlays.createMap(Overlays.Map.LOG_JACOBIAN, map_of((-0.6, 0.6), geometry), geometry, "J")
        view.show(anatomy, node, 0.6)
        left, right = left_and_right(view.grab())
        assert left < -COLORED
        assert right > COLORED

    def test_displacement_shows_where_something_moves(self, view, anatomy, geometry):
        node = Overlays.createMap(Overlays.Map.MAGNITUDE, map_of((0.0, 10.0), geometry), geometry, "M")
        view.show(anatomy, node, 0.6)
        left, right = left_and_right(view.grab())
        assert abs(left) <= 1
        assert right > COLORED

    def test_legend_is_drawn_with_the_map_and_not_without(self, view, anatomy, geometry):
        node = Overlays.createMap(Overlays.Map.JACOBIAN, map_of((1.0, 1.0), geometry), geometry, "J")
        view.show(anatomy)
        assert (view.grab() == GRAY).all()
        view.show(anatomy, node, 0.6)
        assert (view.grab() != GRAY).any()

    def test_maps_share_their_colors(self, scene, geometry):
        for name in ("A", "B"):
            Overlays.createMap(Overlays.Map.JACOBIAN, map_of((1.0, 1.0), geometry), geometry, name)
        tables = slicer.util.getNodesByClass("vtkMRMLColorTableNode", scene)
        assert [node.GetName() for node in tables].count("Deformation change of volume") == 1

    def test_existing_node_gets_one_legend(self, scene, geometry):
        array = map_of((1.0, 1.0), geometry)
        node = Overlays.createMap(Overlays.Map.JACOBIAN, array, geometry, "J")
        Overlays.createMap(Overlays.Map.MAGNITUDE, array, geometry, "M", node)
        legends = slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode", scene)
        assert [legend.GetTitleText() for legend in legends] == ["Displacement (mm)"]

    def test_map_looks_the_same_after_reloading_the_scene(self, scene, view, anatomy, geometry, tmp_path):
        node = Overlays.createMap(Overlays.Map.JACOBIAN, map_of((0.4, 1.0), geometry), geometry, "J")
        view.show(anatomy, node, 0.6)
        before = view.grab()
        mrml_scene.save_and_reload(scene, tmp_path)
        view.show(scene.GetFirstNodeByName("Anatomy"), scene.GetFirstNodeByName("J"), 0.6)
        assert np.abs(view.grab().astype(int) - before).max() <= 1


class TestComputedMaps:
    @pytest.fixture
    def node(self, oblique_geometry, affine_displacement, scene):
        volume = mrml_scene.add_volume(np.zeros(oblique_geometry.shape, np.uint8), oblique_geometry, "V")
        displacement = affine_displacement(oblique_geometry, np.diag([1.2, 1.0, 1.0, 1.0]))
        transform = Transforms.makeGridTransform(displacement, oblique_geometry)
        return Transforms.createGridTransform(transform, "T", volume, volume)

    def test_jacobian_of_a_scaling_is_its_determinant(self, node):
        array, _geometry = Overlays.computeMap(node, Overlays.Map.JACOBIAN)
        np.testing.assert_allclose(array, 1.2, atol=1e-4)

    def test_log_jacobian_is_its_logarithm(self, node):
        array, _geometry = Overlays.computeMap(node, Overlays.Map.LOG_JACOBIAN)
        np.testing.assert_allclose(array, np.log(1.2), atol=1e-4)

    def test_magnitude_is_the_length(self, node, oblique_geometry, grid_points):
        array, geometry = Overlays.computeMap(node, Overlays.Map.MAGNITUDE)
        np.testing.assert_allclose(array, np.abs(0.2 * grid_points(oblique_geometry)[..., 0]), atol=1e-4)
        assert geometry.size == oblique_geometry.size


class TestFolds:
    def test_folds_are_magenta_and_the_rest_is_untouched(self, view, anatomy, geometry):
        folds = Overlays.createFolds(map_of((1.0, -0.1), geometry), geometry, "Folds")
        view.show(anatomy, label=folds)
        picture = view.grab().astype(int)
        assert np.abs(picture[120:180, 20:80] - GRAY).max() <= 1
        assert (picture[120:180, 110:150] == (255, 0, 255)).all()


class TestGrid:
    @staticmethod
    def colored(picture: np.ndarray) -> np.ndarray:
        return np.ptp(picture.astype(int), axis=-1) > COLORED

    def test_straight_grid_of_the_identity_is_drawn_over_the_anatomy(self, view, anatomy, geometry):
        transform = Transforms.makeGridTransform(np.zeros((*geometry.shape, 3), np.float32), geometry)
        node = Transforms.createGridTransform(transform, "T", anatomy, anatomy)
        view.show(anatomy)
        assert not self.colored(view.grab()).any()
        Overlays.showGrid(node, anatomy, spacingMm=10.0)
        lines = self.colored(view.grab())
        # 80 mm across 200 pixels: a line each 25 pixels, over nearly the whole height.
        columns = np.flatnonzero(lines.mean(axis=0) > 0.9)
        assert set(np.diff(columns)) <= {1, 24, 25, 26}
        assert 7 <= (np.diff(columns) > 1).sum() + 1 <= 9

    def test_deformed_grid_bends(self, view, anatomy, geometry, smooth_displacement):
        displacement = smooth_displacement(geometry, peak_mm=4.0, wavelength_mm=60.0)
        node = Transforms.createGridTransform(
            Transforms.makeGridTransform(displacement, geometry), "T", anatomy, anatomy
        )
        view.show(anatomy)
        Overlays.showGrid(node, anatomy, spacingMm=10.0)
        lines = self.colored(view.grab())
        assert lines.any()
        assert not (lines.mean(axis=0) > 0.9).any()

    def test_spacing_follows_the_size_of_the_region(self, anatomy, geometry):
        transform = Transforms.makeGridTransform(np.zeros((*geometry.shape, 3), np.float32), geometry)
        display = Overlays.showGrid(Transforms.createGridTransform(transform, "T", anatomy, anatomy), anatomy)
        assert display.GetGridSpacingMm() == pytest.approx(80.0 / Overlays.GRID_LINES)
