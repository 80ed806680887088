"""The agreement of segments before and after a deformation: numbers that are known, pixels where the truth is."""

import dataclasses
import math

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import inspection_cases as cases
import mrml_cases
import mrml_scene
from DeepAttentionRegEngine.volume import metrics
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegLib.evidence import Maps, SegmentNodes, Segments
from DeepAttentionRegLib.nodes import Deformation, Record
from DeepAttentionRegLib.nodes.Overlays import Map

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

SIDE = 200  # of the view, pixels
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
SINGLE = 2e-5  # distance maps are float32
FIRST, SIZE = (8, 7, 5), (6, 5, 4)
OFF_BEFORE, OFF_AFTER = 3, 1  # voxels along i
# Linear RGB as people see it who lack the red or the green receptor (Vienot, Brettel and Mollon 1999).
BLINDNESS = {
    "protanopia": [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
    "deuteranopia": [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
}


@pytest.fixture
def grid(oblique_geometry) -> Geometry:
    return Geometry.from_arrays(
        (26, 20, 14), oblique_geometry.spacing, oblique_geometry.origin, oblique_geometry.direction
    )


@pytest.fixture
def deformation(scene, grid):
    """A deformation that leaves one of three voxels of the way."""
    return cases.add_deformation(grid, cases.shift(grid, (OFF_BEFORE - OFF_AFTER, 0, 0)))


def moved(first: tuple[int, int, int], by: int = OFF_BEFORE) -> tuple[int, int, int]:
    return first[0] + by, *first[1:]


@pytest.fixture
def pair(deformation, grid):
    """The same box on both sides, off by three voxels."""
    fixed = cases.add_segments(deformation.fixed, {"Liver": cases.box(grid, FIRST, SIZE)}, "Fixed organs")
    moving = cases.add_segments(deformation.moving, {"Liver": cases.box(grid, moved(FIRST), SIZE)}, "Moving organs")
    return fixed, moving


@pytest.fixture
def nodes(deformation, pair):
    return SegmentNodes.create(Segments.compare(deformation, *pair))


def only(comparison: Segments.SegmentComparison) -> Segments.Structure:
    (structure,) = comparison.structures
    return structure


class TestNumbers:
    def test_overlap_is_that_of_boxes_so_far_apart(self, deformation, pair):
        scores = only(Segments.compare(deformation, *pair)).scores
        assert scores["before"].dice == pytest.approx((SIZE[0] - OFF_BEFORE) / SIZE[0])
        assert scores["after"].dice == pytest.approx((SIZE[0] - OFF_AFTER) / SIZE[0])

    def test_distance_of_surfaces_is_the_way_that_is_left(self, deformation, pair, grid):
        scores = only(Segments.compare(deformation, *pair)).scores
        assert scores["before"].hd95_mm == pytest.approx(OFF_BEFORE * grid.spacing[0], abs=SINGLE)
        assert scores["after"].hd95_mm == pytest.approx(OFF_AFTER * grid.spacing[0], abs=SINGLE)

    def test_numbers_are_those_of_the_definitions(self, deformation, pair, grid):
        masks = [cases.box(grid, first, SIZE) for first in (FIRST, moved(FIRST, OFF_AFTER))]
        assert only(Segments.compare(deformation, *pair)).scores["after"] == metrics.agreement(*masks, grid)

    def test_shift_changes_no_volume(self, deformation, pair, grid):
        structure = only(Segments.compare(deformation, *pair))
        assert structure.fixedMl == pytest.approx(np.prod(SIZE) * grid.voxel_volume / 1000)
        assert structure.movingMl == pytest.approx(structure.fixedMl)
        assert structure.changePercent == pytest.approx(0.0, abs=1e-9)
        assert structure.jacobian.minimum == pytest.approx(1.0, abs=1e-5)

    def test_jacobian_and_volume_tell_of_stretching(self, scene, grid, affine_displacement):
        half = np.diag([0.5, 0.5, 0.5, 1.0])
        half[:3, 3] = 0.5 * grid.center_lps
        deformation = cases.add_deformation(grid, affine_displacement(grid, half))
        fixed = cases.add_segments(deformation.fixed, {"Liver": cases.box(grid, (4, 4, 3), (18, 12, 8))})
        moving = cases.add_segments(deformation.moving, {"Liver": cases.box(grid, (8, 7, 5), (10, 6, 4))})
        structure = only(Segments.compare(deformation, fixed, moving))
        assert structure.jacobian.mean == pytest.approx(0.125, abs=1e-4)
        assert structure.changePercent == pytest.approx(700.0, rel=0.15)  # of whole voxels

    def test_growth_in_the_images_stands_beside_that_by_the_jacobian(self, scene, grid, affine_displacement):
        half = np.diag([0.5, 0.5, 0.5, 1.0])
        half[:3, 3] = 0.5 * grid.center_lps
        deformation = cases.add_deformation(grid, affine_displacement(grid, half))
        fixed = cases.add_segments(deformation.fixed, {"Tumor": cases.box(grid, (4, 4, 3), (18, 12, 8))})
        moving = cases.add_segments(deformation.moving, {"Tumor": cases.box(grid, (8, 7, 5), (9, 6, 8))})
        structure = only(Segments.compare(deformation, fixed, moving))
        assert structure.ownChangePercent == pytest.approx(300.0)
        assert structure.jacobianChangePercent == pytest.approx(700.0, abs=0.5)

    def test_growth_counts_in_the_world_where_the_moving_volume_was_scaled(self, scene, grid):
        deformation = cases.add_deformation(grid, cases.shift(grid, (0, 0, 0)))
        twice = np.diag([2.0, 1.0, 1.0, 1.0])
        Record.remember(deformation.transformNode, Record.Record(start=twice.ravel().tolist()))
        mask = cases.box(grid, (8, 7, 5), (9, 6, 4))
        pair = [cases.add_segments(volume, {"Tumor": mask}) for volume in (deformation.fixed, deformation.moving)]
        structure = only(Segments.compare(deformation, *pair))
        # The moving volume is half as large in the world as in its own coordinates, to both of these.
        assert structure.ownChangePercent == pytest.approx(100.0)
        assert structure.jacobianChangePercent == pytest.approx(100.0, abs=0.01)

    def test_growth_by_a_jacobian_that_folds_over_means_nothing(self, scene, grid, affine_displacement):
        mirrored = affine_displacement(grid, np.diag([-1.0, 1.0, 1.0, 1.0]))
        deformation = cases.add_deformation(grid, mirrored)
        mask = cases.box(grid, FIRST, SIZE)
        pair = [cases.add_segments(volume, {"Tumor": mask}) for volume in (deformation.fixed, deformation.moving)]
        assert np.isnan(only(Segments.compare(deformation, *pair)).jacobianChangePercent)

    def test_folds_are_counted_within_the_segment(self, scene, grid):
        field = np.zeros((*grid.shape, 3))
        field[7, 9, 10] = cases.shift(grid, (-4.0, 0, 0))[0, 0, 0]
        deformation = cases.add_deformation(grid, field)
        masks = {"Liver": cases.box(grid, FIRST, SIZE), "Heart": cases.box(grid, (1, 1, 1), (3, 3, 3))}
        parts = [cases.add_segments(volume, masks) for volume in (deformation.fixed, deformation.moving)]
        folds = {item.name: item.jacobian.folds for item in Segments.compare(deformation, *parts).structures}
        assert folds["Liver"] > 0
        assert folds["Heart"] == 0

    def test_segments_may_overlap(self, deformation, grid):
        masks = {"Body": cases.box(grid, (2, 2, 2), (18, 14, 10)), "Liver": cases.box(grid, FIRST, SIZE)}
        parts = [cases.add_segments(volume, masks) for volume in (deformation.fixed, deformation.moving)]
        found = {item.name: item.fixedMl for item in Segments.compare(deformation, *parts).structures}
        assert found["Body"] == pytest.approx(18 * 14 * 10 * grid.voxel_volume / 1000)

    def test_empty_segment_has_no_numbers(self, deformation, pair, grid):
        fixed = cases.add_segments(deformation.fixed, {"Liver": np.zeros(grid.shape, bool)})
        structure = only(Segments.compare(deformation, fixed, pair[1]))
        assert structure.scores["after"].dice == 0.0
        assert math.isnan(structure.scores["after"].hd95_mm)
        assert structure.jacobian is None

    def test_field_on_another_grid_is_measured_on_the_fixed_one(self, scene, deformation, pair, grid):
        coarse = grid.resized((13, 10, 7))
        other = cases.add_deformation(coarse, cases.shift(coarse, ((OFF_BEFORE - OFF_AFTER) / 2, 0, 0)))
        other = dataclasses.replace(other, fixed=deformation.fixed, moving=deformation.moving)
        assert only(Segments.compare(other, *pair)).scores == only(Segments.compare(deformation, *pair)).scores


class TestBound:
    COLUMNS = "Error within, median (mm)", "Error within, p95 (mm)"

    @pytest.fixture
    def bounded(self, deformation, grid):
        """The bound in mm is the number of the voxel along i, on a grid half as fine."""
        coarse = grid.resized((13, 10, 7))
        bound = np.broadcast_to(2 * np.arange(13.0) + 0.5, coarse.shape)
        Maps.put(deformation, Map.ERROR, bound.astype(np.float32), coarse)
        return deformation

    def test_is_that_of_the_map_within_the_fixed_segment(self, bounded, pair):
        (row,) = cases.rows_of(SegmentNodes.create(Segments.compare(bounded, *pair)).table)
        voxels = np.repeat(np.arange(FIRST[0], FIRST[0] + SIZE[0]), SIZE[1] * SIZE[2])
        np.testing.assert_allclose([row[name] for name in self.COLUMNS], np.percentile(voxels, (50, 95)), atol=1e-4)

    def test_is_told_of_one_segment(self, bounded, pair):
        SegmentNodes.create(Segments.compare(bounded, *pair))
        assert "Error, 95 % within: median 10.5 mm" in SegmentNodes.describe(bounded, "Liver")

    def test_empty_segment_has_none(self, bounded, pair, grid):
        masks = {"Liver": np.zeros(grid.shape, bool), "Heart": cases.box(grid, FIRST, SIZE)}
        parts = [cases.add_segments(volume, masks) for volume in (bounded.fixed, bounded.moving)]
        rows = cases.rows_of(SegmentNodes.create(Segments.compare(bounded, *parts)).table)
        assert [math.isnan(row[self.COLUMNS[0]]) for row in rows] == [True, False]

    def test_without_a_map_there_are_no_columns(self, nodes, deformation):
        (row,) = cases.rows_of(nodes.table)
        assert not [name for name in row if "within" in name]
        assert "95 %" not in SegmentNodes.describe(deformation, "Liver")


class TestFrames:
    @pytest.fixture
    def turned(self, deformation, pair):
        """The moving side under a rigid transform, from which the registration would have started."""
        mrml_cases.put_under(deformation.moving, mrml_cases.RIGID)
        pair[1].SetAndObserveTransformNodeID(deformation.moving.GetTransformNodeID())
        return deformation

    def test_before_is_where_the_moving_side_lies_in_the_world(self, turned, pair):
        scores = only(Segments.compare(turned, *pair)).scores
        assert scores["before"].dice == 0.0
        assert scores["after"].dice == pytest.approx((SIZE[0] - OFF_AFTER) / SIZE[0])

    def test_start_is_remembered_when_the_moving_side_is_under_the_result(self, turned, pair):
        expected = only(Segments.compare(turned, *pair)).scores
        start = np.linalg.inv(mrml_cases.RIGID).ravel().tolist()
        Record.remember(turned.transformNode, Record.Record(start=start))
        for node in (turned.moving, pair[1]):
            node.SetAndObserveTransformNodeID(turned.transformNode.GetID())
        assert only(Segments.compare(turned, *pair)).scores == expected

    def test_place_is_remembered_when_the_moving_volume_alone_is_under_the_result(self, turned, pair):
        expected = only(Segments.compare(turned, *pair)).scores
        start, place = (matrix.ravel().tolist() for matrix in (np.linalg.inv(mrml_cases.RIGID), mrml_cases.RIGID))
        Record.remember(turned.transformNode, Record.Record(start=start, place=place))
        turned.moving.SetAndObserveTransformNodeID(turned.transformNode.GetID())
        assert only(Segments.compare(turned, *pair)).scores == expected

    def test_volume_before_is_that_in_the_world(self, deformation, pair):
        Record.remember(deformation.transformNode, Record.Record(start=np.diag([0.5, 0.5, 0.5, 1.0]).ravel().tolist()))
        structure = only(Segments.compare(deformation, *pair))
        assert structure.movingMl == pytest.approx(8 * structure.fixedMl)


class TestPairing:
    def test_segments_of_one_name_belong_together(self, deformation, grid):
        masks = {"Liver": cases.box(grid, FIRST, SIZE), "Heart": cases.box(grid, (1, 1, 1), (3, 3, 3))}
        fixed = cases.add_segments(deformation.fixed, masks)
        moving = cases.add_segments(deformation.moving, dict(reversed(masks.items())))
        found = {item.name: item.fixedMl for item in Segments.compare(deformation, fixed, moving).structures}
        assert found["Liver"] > found["Heart"]

    def test_label_maps_are_paired_by_value(self, deformation, grid):
        labels = 1 * cases.box(grid, FIRST, SIZE) + 4 * cases.box(grid, (1, 1, 1), (3, 3, 3))
        parts = [cases.add_labels(volume, labels) for volume in (deformation.fixed, deformation.moving)]
        assert len(Segments.compare(deformation, *parts).structures) == 2

    def test_segment_and_label_map_are_paired_by_value(self, deformation, pair, grid):
        labels = cases.add_labels(deformation.moving, cases.box(grid, moved(FIRST), SIZE))
        structure = only(Segments.compare(deformation, pair[0], labels))
        assert structure.name == "Liver"
        assert structure.scores == only(Segments.compare(deformation, *pair)).scores

    def test_case_and_spaces_of_names_are_forgiven_and_told(self, deformation, pair, grid):
        moving = cases.add_segments(deformation.moving, {" liver": cases.box(grid, moved(FIRST), SIZE)})
        comparison = Segments.compare(deformation, pair[0], moving)
        assert [structure.name for structure in comparison.structures] == ["Liver"]
        assert comparison.warnings == ["Paired though case or spaces differ: Liver with  liver."]

    def test_segment_without_partner_is_told(self, deformation, pair, grid):
        masks = {"Liver": cases.box(grid, FIRST, SIZE), "Spleen": cases.box(grid, (1, 1, 1), (3, 3, 3))}
        comparison = Segments.compare(deformation, cases.add_segments(deformation.fixed, masks), pair[1])
        assert [item.name for item in comparison.structures] == ["Liver"]
        assert comparison.warnings == ["Without a partner, so not compared: Spleen."]

    def test_segment_at_the_border_is_told(self, deformation, pair, grid):
        fixed = cases.add_segments(deformation.fixed, {"Liver": cases.box(grid, (0, 3, 3), (4, 4, 4))})
        (warning,) = Segments.compare(deformation, fixed, pair[1]).warnings
        assert warning.endswith("counted: Liver.")


class TestRefusal:
    def test_without_segmentations_it_says_what_to_choose(self, deformation, pair):
        assert "Choose a fixed and a moving segmentation" in Segments.checkSegments(deformation, pair[0], None)

    def test_segments_of_other_names_are_refused(self, deformation, pair, grid):
        other = cases.add_segments(deformation.moving, {"Kidney": cases.box(grid, FIRST, SIZE)}, "Others")
        with pytest.raises(ValueError, match="No segment of Fixed organs has the name or value of one of Others"):
            Segments.compare(deformation, pair[0], other)

    def test_label_maps_of_other_values_are_refused(self, deformation, grid):
        sides = zip((deformation.fixed, deformation.moving), (1, 2), strict=True)
        parts = [cases.add_labels(volume, value * cases.box(grid, FIRST, SIZE)) for volume, value in sides]
        with pytest.raises(ValueError, match="has the name or value"):
            Segments.compare(deformation, *parts)

    def test_one_segmentation_for_both_is_refused(self, deformation, pair):
        assert "the same" in Segments.checkSegments(deformation, pair[0], pair[0])

    def test_segmentation_without_segments_is_refused(self, deformation, pair):
        empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Empty")
        assert "Empty" in Segments.checkSegments(deformation, pair[0], empty)
        assert "Empty" in Segments.checkSegments(deformation, empty, pair[1])


class TestNodes:
    def test_row_tells_all_of_a_segment(self, nodes):
        (row,) = cases.rows_of(nodes.table)
        assert row["Segment"] == "Liver"
        assert (row["Dice before"], row["Dice after"]) == pytest.approx((3 / 6, 5 / 6))
        assert row["Volume change (%)"] == pytest.approx(0.0, abs=1e-9)
        assert row["Moving to fixed volume, in the images (%)"] == pytest.approx(0.0, abs=1e-9)
        assert row["Moving to fixed volume, by the Jacobian (%)"] == pytest.approx(0.0, abs=1e-3)
        assert row["Folded voxels"] == 0

    def test_regions_are_segments_by_name(self, nodes):
        segmentation = nodes.after.GetSegmentation()
        names = [segmentation.GetSegment(name).GetName() for name in segmentation.GetSegmentIDs()]
        assert names == ["Liver: agreement", "Liver: missed", "Liver: surplus"]

    def test_comparing_again_writes_into_the_same_nodes(self, scene, deformation, pair, nodes):
        count = scene.GetNumberOfNodes()
        again = SegmentNodes.create(Segments.compare(deformation, *pair))
        assert again == nodes
        assert scene.GetNumberOfNodes() == count

    def test_failure_leaves_the_scene_as_it_was(self, scene, deformation, pair, monkeypatch):
        before = mrml_scene.scene_state(scene)
        monkeypatch.setattr(SegmentNodes.Metrics, "createTable", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            SegmentNodes.create(Segments.compare(deformation, *pair))
        assert mrml_scene.scene_state(scene) == before

    def test_surfaces_are_there_once_shown_in_3d(self, deformation, nodes):
        SegmentNodes.show(deformation, Segments.AFTER, in3d=True)
        assert nodes.after.GetSegmentation().ContainsRepresentation("Closed surface")
        assert not nodes.before.GetSegmentation().ContainsRepresentation("Closed surface")

    def test_structures_are_those_of_the_table(self, deformation, nodes):
        assert SegmentNodes.structures(deformation) == ["Liver"]

    @pytest.mark.parametrize("blindness", BLINDNESS)
    def test_colors_are_told_apart_by_the_color_blind(self, blindness):
        colors = np.array([style.color for style in SegmentNodes.STYLES.values()])
        linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
        seen = np.clip(linear @ np.transpose(BLINDNESS[blindness]), 0, 1) ** (1 / 2.2)
        distances = [np.linalg.norm(seen[first] - seen[second]) for first, second in ((0, 1), (0, 2), (1, 2))]
        assert min(distances) > 0.25


@pytest.fixture(scope="module")
def view(application) -> mrml_scene.SliceView:
    return mrml_scene.SliceView(application, "Red", "Axial", (SIDE, SIDE))


class TestPixels:
    @pytest.fixture
    def flat_grid(self):
        """An axial grid that fills the square view: LPS x to the right, y down, as in the picture."""
        return Geometry((40, 40, 5), (2.0, 2.0, 3.0), (-39.0, -39.0, -6.0), AXIAL)

    @pytest.fixture
    def shown(self, scene, flat_grid):
        """The fixed box is left of the moving one, and they overlap by half; the deformation does nothing."""
        deformation = cases.add_deformation(flat_grid, cases.shift(flat_grid, (0, 0, 0)))
        masks = [cases.box(flat_grid, (first, 10, 0), (16, 20, 5)) for first in (6, 14)]
        sides = zip((deformation.fixed, deformation.moving), masks, strict=True)
        parts = [cases.add_segments(volume, {"Liver": mask}) for volume, mask in sides]
        SegmentNodes.create(Segments.compare(deformation, *parts))
        for part in parts:
            part.GetDisplayNode().SetVisibility(False)
        return deformation

    def colors(self, view) -> list[np.ndarray]:
        """Return the color left, in the overlap, right, and outside, 0 to 1."""
        picture = view.grab() / 255.0
        return [picture[95:105, column : column + 10].mean(axis=(0, 1)) for column in (45, 85, 125, 170)]

    def blended(self, kind: int) -> np.ndarray:
        style = SegmentNodes.STYLES[kind]
        return style.fill * np.array(style.color) + (1 - style.fill) * cases.GRAY / 255

    def test_regions_have_their_colors_where_they_are(self, view, shown):
        view.show(shown.fixed)
        left, middle, right, outside = self.colors(view)
        np.testing.assert_allclose(left, self.blended(metrics.MISSED), atol=0.02)
        np.testing.assert_allclose(middle, self.blended(metrics.AGREEMENT), atol=0.02)
        np.testing.assert_allclose(right, self.blended(metrics.SURPLUS), atol=0.02)
        np.testing.assert_allclose(outside, cases.GRAY / 255, atol=0.01)

    def test_nothing_is_drawn_of_a_state_that_is_hidden(self, view, shown):
        SegmentNodes.show(shown, None)
        view.show(shown.fixed)
        assert (view.grab() == cases.GRAY).all()

    def test_nothing_is_drawn_of_other_structures(self, view, shown):
        SegmentNodes.show(shown, Segments.AFTER, "Heart")
        view.show(shown.fixed)
        assert (view.grab() == cases.GRAY).all()
        SegmentNodes.show(shown, Segments.AFTER, "Liver")
        assert (view.grab() != cases.GRAY).any()

    def test_regions_look_the_same_after_reloading_the_scene(self, application, scene, view, shown, tmp_path):
        view.show(shown.fixed)
        before, name = view.grab(), shown.transformNode.GetName()
        mrml_scene.save_and_reload(scene, tmp_path)
        again = mrml_scene.SliceView(application, "Yellow", "Axial", (SIDE, SIDE))
        again.show(scene.GetFirstNodeByName("CT1"))
        assert np.abs(again.grab().astype(int) - before).max() <= 1
        deformation = Deformation.ofTransform(scene.GetFirstNodeByName(name))
        SegmentNodes.show(deformation, Segments.AFTER, "Heart")
        assert (again.grab() == cases.GRAY).all()
