"""What is told of a point, against fields that are known everywhere, and the mark of the corresponding point."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_cases
import mrml_scene
from DeepAttentionRegEngine.volume import fields
from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras
from DeepAttentionRegLib.evidence import Maps, Readout
from DeepAttentionRegLib.nodes import Deformation, Record, Transforms
from DeepAttentionRegLib.nodes.Overlays import Map
from DeepAttentionRegLib.views.Comparison import Comparison, ComparisonOptions
from DeepAttentionRegLib.views.ComparisonModes import ComparedVolume, Mode

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

SIZE = 200
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
GEOMETRY = Geometry((40, 40, 20), (2.0, 2.0, 3.0), (-39.0, -39.0, -30.0), AXIAL)


def deformation_of(displacement_lps: np.ndarray, geometry: Geometry) -> Deformation.Deformation:
    """Return a deformation of CT2 to CT1, which lie on the grid of its field."""
    fixed, moving = (
        mrml_scene.add_volume(np.zeros(geometry.shape, np.uint8), geometry, name) for name in ("CT1", "CT2")
    )
    transform = Transforms.makeGridTransform(displacement_lps.astype(np.float32), geometry)
    return Deformation.ofTransform(Transforms.createGridTransform(transform, "T", fixed, moving))


def shifted(ras: tuple[float, float, float], geometry: Geometry = GEOMETRY) -> Deformation.Deformation:
    """Return a deformation whose field points everywhere the same way, RAS mm."""
    field = np.broadcast_to(flip_lps_ras(np.array(ras)), (*geometry.shape, 3))
    return deformation_of(field, geometry)


def scaled(factors: tuple[float, float, float], geometry: Geometry = GEOMETRY) -> Deformation.Deformation:
    """Return a deformation in which the moving volume is this much larger, along R, A and S, about the middle."""
    index = np.moveaxis(np.indices(geometry.shape), 0, -1)[..., ::-1].reshape(-1, 3)
    points = (geometry.index_to_lps(index.astype(float)) - geometry.center_lps).reshape(*geometry.shape, 3)
    return deformation_of(points * (np.array(factors) - 1), geometry)


def text_at(deformation: Deformation.Deformation, point: tuple[float, float, float] = (1.0, -2.0, 3.0)) -> str:
    return Readout.describe(Readout.read(deformation, point), deformation)


class TestReading:
    def test_point_on_an_oblique_grid_has_the_place_of_the_field(self, oblique_geometry, affine_displacement):
        matrix = np.array([[1.1, 0.05, 0, 2], [0, 0.9, 0.1, -1], [0.03, 0, 1.2, 3], [0, 0, 0, 1]], float)
        deformation = deformation_of(affine_displacement(oblique_geometry, matrix), oblique_geometry)
        lps = oblique_geometry.center_lps + np.array([1.3, -0.4, 0.8])
        reading = Readout.read(deformation, flip_lps_ras(lps))
        np.testing.assert_allclose(reading.origin, flip_lps_ras(matrix[:3, :3] @ lps + matrix[:3, 3]), atol=1e-3)
        np.testing.assert_allclose(reading.moved, flip_lps_ras(lps) - reading.origin, atol=1e-9)
        assert reading.jacobian == pytest.approx(np.linalg.det(matrix[:3, :3]), abs=1e-4)

    def test_jacobian_is_that_of_the_map_between_its_voxels(self, any_geometry, smooth_displacement):
        displacement = smooth_displacement(any_geometry)
        deformation = deformation_of(displacement, any_geometry)
        index = np.array([[3.3, 4.6, 5.2]]) * (np.array(any_geometry.size) > 2)
        lps = any_geometry.index_to_lps(index)
        whole = fields.jacobian_determinant(displacement, any_geometry)[..., None]
        wanted = fields.sample_field(whole, any_geometry, lps)[0, 0]
        assert Readout.read(deformation, flip_lps_ras(lps[0])).jacobian == pytest.approx(wanted, abs=1e-5)

    def test_border_of_what_is_looked_at_changes_nothing(self, monkeypatch, oblique_geometry, smooth_displacement):
        displacement = smooth_displacement(oblique_geometry)
        deformation = deformation_of(displacement, oblique_geometry)
        index = np.array([[6.3, 4.6, 4.2]])
        lps = oblique_geometry.index_to_lps(index)
        whole = fields.jacobian_determinant(displacement, oblique_geometry)[..., None]
        monkeypatch.setattr(Readout, "RADIUS_MM", 0.5)
        wanted = fields.sample_field(whole, oblique_geometry, lps)[0, 0]
        assert Readout.read(deformation, flip_lps_ras(lps[0])).jacobian == pytest.approx(wanted, abs=1e-5)

    def test_what_has_no_counterpart_is_told_where_the_map_is_sure(self):
        deformation = shifted((0.0, 0.0, 0.0))
        here, there = (1.0, -2.0, 3.0), (21.0, -2.0, 3.0)
        assert "no counterpart" not in text_at(deformation, here)
        certainty = np.zeros(GEOMETRY.shape, np.float32)
        i, j, k = np.rint(GEOMETRY.lps_to_index(flip_lps_ras(np.array(here))[None])[0]).astype(int)
        certainty[k, j, i] = 0.7
        Maps.put(deformation, Map.CHANGE, certainty, GEOMETRY)
        text = "But what is here seems to have no counterpart in CT2: the deformation means nothing here."
        assert text_at(deformation, here).endswith(text)
        assert "no counterpart" not in text_at(deformation, there)

    def test_folds_are_counted_within_a_centimeter(self):
        """One fold 9 mm above and one 12 mm below; the voxels are 3 mm high."""
        displacement = np.zeros((*GEOMETRY.shape, 3))
        for k in (13, 6):
            displacement[k - 1, 20, 20, 2], displacement[k + 1, 20, 20, 2] = 4.0, -4.0
        deformation = deformation_of(displacement, GEOMETRY)
        point = flip_lps_ras(GEOMETRY.index_to_lps(np.array([[20.0, 20.0, 10.0]]))[0])
        assert Readout.read(deformation, point).folds == 1

    def test_fine_field_is_searched_less_far(self):
        geometry = Geometry((60, 60, 60), (0.05, 0.05, 0.05), (0.0, 0.0, 0.0), AXIAL)
        deformation = shifted((0.0, 0.0, 0.0), geometry)
        reading = Readout.read(deformation, flip_lps_ras(geometry.center_lps))
        assert 0.5 < reading.radiusMm < 2

    @pytest.mark.parametrize(("beyond", "known"), [(0.4, True), (0.6, False)])
    def test_field_ends_with_its_outermost_voxels(self, oblique_geometry, beyond, known):
        deformation = shifted((1.0, 0.0, 0.0), oblique_geometry)
        lps = oblique_geometry.index_to_lps(np.array([[-beyond, 4.0, 4.0]]))[0]
        assert (Readout.read(deformation, flip_lps_ras(lps)) is not None) == known

    def test_tissue_may_come_from_outside_of_the_moving_volume(self):
        assert Readout.read(shifted((5.0, 0.0, 0.0)), (0.0, 0.0, 0.0)).isInside
        assert not Readout.read(shifted((60.0, 0.0, 0.0)), (0.0, 0.0, 0.0)).isInside

    def test_moving_volume_is_where_its_parent_puts_it(self):
        deformation = shifted((5.0, 0.0, 0.0))
        lift = np.eye(4)
        lift[2, 3] = 7.0
        mrml_cases.put_under(deformation.moving, lift)
        np.testing.assert_allclose(Readout.read(deformation, (1.0, 2.0, 3.0)).origin, (6.0, 2.0, 10.0), atol=1e-5)

    def test_moving_volume_under_the_transform_is_not_moved_twice(self):
        deformation = shifted((5.0, 0.0, 0.0))
        deformation.moving.SetAndObserveTransformNodeID(deformation.transformNode.GetID())
        np.testing.assert_allclose(Readout.read(deformation, (1.0, 2.0, 3.0)).origin, (6.0, 2.0, 3.0), atol=1e-5)

    def test_moving_volume_under_the_transform_is_read_where_it_was(self):
        deformation = shifted((5.0, 0.0, 0.0))
        lift = np.eye(4)
        lift[2, 3] = 7.0
        Record.remember(deformation.transformNode, Record.Record(place=lift.ravel().tolist()))
        deformation.moving.SetAndObserveTransformNodeID(deformation.transformNode.GetID())
        np.testing.assert_allclose(Readout.read(deformation, (1.0, 2.0, 3.0)).origin, (6.0, 2.0, 10.0), atol=1e-5)

    def test_single_slice_is_read_within_its_plane(self, flat_geometry):
        normal = flat_geometry.normal_lps
        tangent = np.reshape(flat_geometry.direction, (3, 3))[:, (flat_geometry.size.index(1) + 1) % 3]
        field = np.broadcast_to(2.0 * tangent + 5.0 * normal, (*flat_geometry.shape, 3))
        reading = Readout.read(deformation_of(field, flat_geometry), flip_lps_ras(flat_geometry.center_lps))
        np.testing.assert_allclose(reading.moved, flip_lps_ras(-2.0 * tangent), atol=1e-5)
        assert reading.isFlat

    def test_reloaded_scene_reads_the_same(self, scene, tmp_path, oblique_geometry, smooth_displacement):
        deformation = deformation_of(smooth_displacement(oblique_geometry), oblique_geometry)
        point = flip_lps_ras(oblique_geometry.center_lps)
        before = Readout.read(deformation, point)
        mrml_scene.save_and_reload(scene, tmp_path)
        after = Readout.read(Deformation.ofTransform(scene.GetFirstNodeByName("T")), point)
        np.testing.assert_allclose(after.origin, before.origin, atol=1e-5)
        assert after.jacobian == pytest.approx(before.jacobian, abs=1e-6)


class TestWords:
    """The field points to where the tissue was, so the tissue went the opposite way."""

    @pytest.mark.parametrize(
        ("field_ras", "words"),
        [
            ((2.1, 0, 0), "2.1 mm to get here: left 2.1."),
            ((-2.1, 0, 0), "right 2.1."),
            ((0, 3.0, 0), "backward (posterior) 3.0."),
            ((0, -3.0, 0), "forward (anterior) 3.0."),
            ((0, 0, 4.0), "down (inferior) 4.0."),
            ((0, 0, -4.0), "up (superior) 4.0."),
            ((2.1, 0.01, -6.9), "moved 7.2 mm to get here: left 2.1, up (superior) 6.9."),
            ((0, 0, 0.02), "has not moved."),
        ],
    )
    def test_directions_are_those_of_the_patient(self, field_ras, words):
        assert words in text_at(shifted(field_ras))

    @pytest.mark.parametrize(
        ("factors", "words"),
        [
            ((1.0, 1.0, 1 / 0.81), "compressed to 81 % of its volume"),
            ((1.0, 0.5, 1.0), "stretched to 200 % of its volume"),
            ((2.0, 0.5, 1.0), "keeps its volume"),
            ((1.0, 1.0, 0.0001), "stretched to 1000 % of its volume"),
            ((1.0, 1.0, -0.5), "folds here"),
        ],
    )
    def test_tissue_that_was_larger_is_compressed(self, factors, words):
        assert words in text_at(scaled(factors))

    def test_single_slice_has_an_area(self, flat_geometry):
        axis = flat_geometry.size.index(1)
        axes = np.reshape(flat_geometry.direction, (3, 3))
        stretch = axes @ np.diag([1.0 if column == axis else 1 / 0.9 for column in range(3)]) @ axes.T
        index = np.moveaxis(np.indices(flat_geometry.shape), 0, -1)[..., ::-1].reshape(-1, 3).astype(float)
        points = flat_geometry.index_to_lps(index) - flat_geometry.center_lps
        field = (points @ (stretch - np.eye(3)).T).reshape(*flat_geometry.shape, 3)
        words = text_at(deformation_of(field, flat_geometry), flip_lps_ras(flat_geometry.center_lps))
        assert "compressed to 81 % of its area" in words

    def test_corresponding_point_is_named_as_in_slicer(self):
        assert "In CT2 it is at R 3.1, P 2.0, S 3.0 mm." in text_at(shifted((2.1, 0, 0)))

    def test_point_outside_of_the_moving_volume_is_said_to_be_there(self):
        assert "comes from outside of CT2" in text_at(shifted((60.0, 0, 0)))

    def test_folds_are_told(self):
        assert "No folds within 10 mm." in text_at(shifted((0, 0, 0)))
        assert "Folded voxels within 10 mm: " in text_at(scaled((1.0, 1.0, -0.5)))


class TestBound:
    """The bound rises by 0.05 mm for every mm to the right, on a grid coarser than the field."""

    def bounded(self, field_ras: tuple[float, float, float]) -> Deformation.Deformation:
        deformation, coarse = shifted(field_ras), GEOMETRY.resized((10, 8, 5))
        index = np.moveaxis(np.indices(coarse.shape), 0, -1)[..., ::-1].reshape(-1, 3)
        rightMm = -coarse.index_to_lps(index.astype(float))[:, 0].reshape(coarse.shape)
        Maps.put(deformation, Map.ERROR, (3.98 + 0.05 * rightMm).astype(np.float32), coarse)
        return deformation

    def test_is_read_between_the_nodes_of_its_map(self):
        deformation = self.bounded((2.1, 0, 0))
        assert Readout.read(deformation, (7.0, 3.0, 1.0)).withinMm == pytest.approx(3.98 + 0.05 * 7, abs=1e-5)

    @pytest.mark.parametrize(
        ("field_ras", "words"),
        [
            ((2.1, 0, 0), "The tissue here moved 2.1 mm (95 % within 4.0 mm) to get here: left 2.1."),
            ((0, 0, 0), "The tissue here has not moved (95 % within 4.0 mm)."),
        ],
    )
    def test_is_told_beside_the_way(self, field_ras, words):
        assert text_at(self.bounded(field_ras)).startswith(words)

    def test_without_a_map_there_is_none(self):
        assert Readout.read(shifted((2.1, 0, 0)), (0.0, 0.0, 0.0)).withinMm is None
        assert "95 %" not in text_at(shifted((2.1, 0, 0)))


class TestWayBack:
    def test_point_of_the_moving_volume_is_found_again(self, oblique_geometry, smooth_displacement):
        deformation = deformation_of(smooth_displacement(oblique_geometry), oblique_geometry)
        mrml_cases.put_under(deformation.moving, mrml_cases.RIGID)
        point = flip_lps_ras(oblique_geometry.center_lps)
        origin = Readout.read(deformation, point).origin
        np.testing.assert_allclose(Readout.fixedPointOf(deformation, origin), point, atol=0.05)

    def test_in_folds_there_is_none_rather_than_a_wrong_one(self):
        rng = np.random.default_rng(0)
        deformation = deformation_of(rng.normal(0, 10, (*GEOMETRY.shape, 3)), GEOMETRY)
        found = 0
        for point in rng.uniform(-20, 20, (50, 3)):
            fixed = Readout.fixedPointOf(deformation, point)
            if fixed is not None:
                found += 1
                np.testing.assert_allclose(Readout.read(deformation, fixed).origin, point, atol=2 * Readout.RETURN_MM)
        assert found < 50


@pytest.fixture(scope="module")
def views(application) -> list[mrml_scene.SliceView]:
    return [mrml_scene.SliceView(application, name, "Axial", (SIZE, SIZE)) for name in ("Red", "Yellow")]


class TestMark:
    @pytest.fixture
    def deformation(self):
        return shifted((20.0, 0.0, 0.0))

    @pytest.fixture
    def mark(self):
        mark = Readout.Mark()
        yield mark
        mark.close()

    def composite(self, view: mrml_scene.SliceView) -> slicer.vtkMRMLSliceCompositeNode:
        nodes = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        return next(node for node in nodes if node.GetLayoutName() == view.node.GetLayoutName())

    def marked(self, view: mrml_scene.SliceView) -> np.ndarray:
        """Return the middle of what is colored, as column and row; nothing if nothing is."""
        rows, columns = np.nonzero(np.ptp(view.grab().astype(int), axis=-1) > 100)
        return np.array([columns.mean(), rows.mean()]) if len(rows) else np.array([])

    def test_is_seen_at_the_point_in_the_views_named_only(self, views, deformation, mark):
        for view in views:
            view.show(deformation.moving)
        mark.show(np.array((20.0, 10.0, 0.0)), [self.composite(views[1])])
        assert self.marked(views[0]).size == 0
        # 80 mm across 200 pixels: 20 mm to the right of the patient, which is left in the picture; 10 mm up.
        np.testing.assert_allclose(self.marked(views[1]), (50, 75), atol=2)

    def test_is_projected_onto_the_slice(self, views, deformation, mark):
        views[0].show(deformation.moving)
        mark.show(np.array((0.0, 0.0, 20.0)), [self.composite(views[0])])
        np.testing.assert_allclose(self.marked(views[0]), (100, 100), atol=2)

    def test_without_a_view_it_is_not_seen(self, views, deformation, mark):
        views[0].show(deformation.moving)
        mark.show(np.array((0.0, 0.0, 0.0)), [])
        assert self.marked(views[0]).size == 0

    def test_hidden_mark_is_not_seen(self, views, deformation, mark):
        views[0].show(deformation.moving)
        mark.show(np.array((0.0, 0.0, 0.0)), [self.composite(views[0])])
        mark.hide()
        assert self.marked(views[0]).size == 0

    def test_leaves_the_scene_as_it_was(self, scene, mark, views):
        before = mrml_scene.scene_state(scene)
        mark.show(np.zeros(3), [self.composite(views[0])])
        assert not [node for node in scene.GetNodesByName("Corresponding point") if node.GetSaveWithScene()]
        mark.close()
        assert mrml_scene.scene_state(scene) == before

    def test_user_goes_on_placing_points_elsewhere(self, scene, mark):
        selection = scene.GetFirstNodeByClass("vtkMRMLSelectionNode")
        points = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Mine")
        mark.show(np.zeros(3), [])
        assert selection.GetActivePlaceNodeID() == points.GetID()

    def test_survives_being_removed(self, scene, mark, views):
        mark.show(np.zeros(3), [self.composite(views[0])])
        scene.RemoveNode(scene.GetFirstNodeByClass("vtkMRMLMarkupsFiducialNode"))
        mark.hide()
        mark.show(np.zeros(3), [self.composite(views[0])])
        assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == 1

    def test_views_of_the_moving_volume_are_known(self, views, deformation):
        view, composite = views[0], self.composite(views[0])
        view.show(deformation.fixed)
        assert not Readout.showsMoving(composite, deformation)
        view.show(deformation.moving)
        assert Readout.showsMoving(composite, deformation)
        deformation.moving.SetAndObserveTransformNodeID(deformation.transformNode.GetID())
        assert not Readout.showsMoving(composite, deformation)

    @pytest.mark.parametrize("mode", [Mode.FADE, Mode.CHECKERBOARD])
    def test_comparison_with_the_moving_volume_is_known(self, views, deformation, mode):
        composite = self.composite(views[0])
        comparison = Comparison(deformation)
        for layer in (ComparedVolume.BEFORE, ComparedVolume.AFTER, ComparedVolume.BEFORE):
            comparison.show(ComparisonOptions(mode, layer))
            assert Readout.showsMoving(composite, deformation) == (layer is ComparedVolume.BEFORE)
        comparison.close()
