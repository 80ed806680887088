"""What slice views show of a deformation, by looking at their pixels."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_scene
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegLib.nodes import Overlays, Transforms

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

    def test_dissimilar_shows_and_similar_is_transparent(self, view, anatomy, geometry):
        node = Overlays.createMap(Overlays.Map.SIMILARITY_AFTER, map_of((0.1, 0.9), geometry), geometry, "S")
        view.show(anatomy, node, 0.6)
        left, right = left_and_right(view.grab())
        assert left > COLORED
        assert abs(right) <= 1

    def test_equal_shrinking_and_stretching_are_equally_far_from_the_center(self, view, anatomy, geometry):
        # A tissue element of half and one of twice the size: the logarithm is what treats them alike.
        values = float(np.log(0.5)), float(np.log(2.0))
        node = Overlays.createMap(Overlays.Map.LOG_JACOBIAN, map_of(values, geometry), geometry, "J")
        colors = node.GetDisplayNode().GetColorNode()
        low, high = (round((value + 1) / 2 * Overlays.COLORS - 0.5) for value in values)
        assert low + high == Overlays.COLORS - 1
        view.show(anatomy, node, 1.0)
        picture = view.grab()
        for columns, index in ((slice(20, 80), low), (slice(110, 150), high)):
            color = [0.0] * 4
            colors.GetColor(index, color)
            np.testing.assert_allclose(picture[120:180, columns].mean((0, 1)), np.multiply(color[:3], 255), atol=3)

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
        assert [legend.GetTitleText() for legend in legends] == ["Displacement\n(mm)"]

    def test_map_looks_the_same_after_reloading_the_scene(self, scene, view, anatomy, geometry, tmp_path):
        node = Overlays.createMap(Overlays.Map.JACOBIAN, map_of((0.4, 1.0), geometry), geometry, "J")
        view.show(anatomy, node, 0.6)
        before = view.grab()
        mrml_scene.save_and_reload(scene, tmp_path)
        view.show(scene.GetFirstNodeByName("Anatomy"), scene.GetFirstNodeByName("J"), 0.6)
        assert np.abs(view.grab().astype(int) - before).max() <= 1


class TestThreshold:
    @staticmethod
    def shown(view, anatomy, node) -> list[bool]:
        """Return whether the left and the right half differ from the anatomy."""
        view.show(anatomy, node, 0.6)
        picture = view.grab().astype(int)
        return [bool(np.abs(half - GRAY).max() > 1) for half in (picture[120:180, 20:80], picture[120:180, 110:150])]

    @pytest.mark.parametrize(
        ("kind", "values", "thresholds"),
        [
            (Overlays.Map.JACOBIAN, (0.92, 1.15), (5, 10, 20)),
            (Overlays.Map.LOG_JACOBIAN, (np.log(1.08), np.log(1.15)), (5, 10, 20)),
            (Overlays.Map.MAGNITUDE, (2.0, 4.0), (1, 3, 5)),
            (Overlays.Map.UNCERTAINTY, (0.4, 0.9), (0.2, 0.6, 1.2)),
            (Overlays.Map.SIMILARITY_BEFORE, (0.7, 0.3), (0.9, 0.5, 0.1)),
            (Overlays.Map.CHANGE, (0.4, 0.8), (0.3, 0.6, 0.9)),
        ],
        ids=lambda value: value.name if isinstance(value, Overlays.Map) else "",
    )
    def test_hides_what_is_less_remarkable(self, view, anatomy, geometry, kind, values, thresholds):
        node = Overlays.createMap(kind, map_of(values, geometry), geometry, "M")
        seen = []
        for threshold in thresholds:
            Overlays.hideUnremarkable(node, kind, threshold)
            seen.append(self.shown(view, anatomy, node))
        assert seen == [[True, True], [False, True], [False, False]]

    def test_usual_one_comes_with_a_new_map(self, view, anatomy, geometry):
        node = Overlays.createMap(Overlays.Map.MAGNITUDE, map_of((0.9, 1.1), geometry), geometry, "M")
        assert self.shown(view, anatomy, node) == [False, True]


class TestFolds:
    def test_existing_label_map_is_written_into(self, scene, geometry):
        folds = Overlays.createFolds(map_of((1.0, -0.1), geometry), geometry, "Folds")
        assert Overlays.createFolds(map_of((1.0, 1.0), geometry), geometry, "Folds", folds) is folds
        assert slicer.util.arrayFromVolume(folds).max() == 0

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
