"""Scrubbing through a deformation: the slice views show each step, the chart how the volumes came to fit."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")

import mrml_scene
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegLib.evidence import Scrubber
from DeepAttentionRegLib.evidence.RecursionEvidence import RecursionEvidence
from DeepAttentionRegLib.nodes import Volumes
from mrml_cases import InputNodes, add_shifted

pytestmark = pytest.mark.mrml

GRID = Geometry.from_arrays((48, 40, 12), (2.0, 2.0, 2.0), (-47.0, -39.0, -11.0), np.eye(3))
SHIFTS_MM = [8.0, 20.0]
BLOCK = np.s_[3:9, 16:24, 20:28]
PIXELS = 240


@pytest.fixture
def pair(scene) -> InputNodes:
    """A dark fixed volume, and a moving one with a bright block in the middle."""
    dark, block = np.zeros(GRID.shape, np.float32), np.zeros(GRID.shape, np.float32)
    dark[0, 0, 0] = 100
    block[BLOCK] = 100
    return InputNodes(*(mrml_scene.add_volume(array, GRID, name) for array, name in ((dark, "CT1"), (block, "CT2"))))


@pytest.fixture
def view(request, application, pair) -> mrml_scene.SliceView:
    """An axial view of the fixed volume; its name is new, for a node of a former one would be without a scene."""
    view = mrml_scene.SliceView(application, request.node.name, size=(PIXELS, PIXELS))
    view.show(pair.fixedVolume)
    view.jump((0.0, 0.0, 0.0))
    return view


@pytest.fixture
def deformation(view, pair, tmp_path):
    """A deformation in two recursions that shift to the left; the view is there already, as in Slicer."""
    return add_shifted(pair, tmp_path, SHIFTS_MM)


def left_of_center(view: mrml_scene.SliceView) -> float:
    """Return how far in mm the middle of what is bright lies to the left of the patient, which is right in the view."""
    bright = view.grab().min(-1) > 60
    assert bright.any()
    column = np.flatnonzero(bright.any(0)).mean() - (PIXELS - 1) / 2
    return float(column * view.node.GetFieldOfView()[0] / PIXELS)


class TestViews:
    def test_show_the_volume_as_deformed_after_each_step(self, deformation, view):
        scrubber = Scrubber.Scrubber(deformation)
        scrubber.show(withGrid=False)
        found = []
        for step in range(scrubber.evidence.count):
            scrubber.evidence.step = step
            found.append(left_of_center(view))
        # What is looked up further left appears further right; 1 mm: half a voxel.
        np.testing.assert_allclose(found, [0.0, -8.0, -20.0], atol=1.0)
        scrubber.close()

    def test_deformed_grid_is_drawn_over_it(self, deformation, view):
        scrubber = Scrubber.Scrubber(deformation)
        scrubber.show(withGrid=False)
        plain = view.grab()
        scrubber.showGrid(True)
        drawn = (view.grab() != plain).any(-1)
        assert 0.05 < drawn.mean() < 0.6
        scrubber.showGrid(False)
        np.testing.assert_array_equal(view.grab(), plain)
        scrubber.close()

    def test_show_what_they_showed_before_when_it_is_over(self, deformation, view):
        before = view.grab()
        scrubber = Scrubber.Scrubber(deformation)
        scrubber.show()
        scrubber.close()
        np.testing.assert_array_equal(view.grab(), before)
        volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        assert {node.GetName() for node in volumes} == {"CT1", "CT2"}

    def test_follow_the_toolbar_of_sequences(self, deformation, view):
        scrubber = Scrubber.Scrubber(deformation)
        scrubber.show(withGrid=False)
        scrubber.evidence.browser.SetSelectedItemNumber(0)
        scrubber.evidence.browser.SelectNextItem(1)
        assert left_of_center(view) == pytest.approx(-8.0, abs=1.0)
        scrubber.close()

    def test_twelve_recursions_are_in_their_order(self, pair, tmp_path):
        evidence = RecursionEvidence(add_shifted(pair, tmp_path, [float(n) for n in range(1, 13)]).transformNode)
        for step in range(13):
            evidence.step = step
            point = evidence.shownTransform.GetTransformFromParent().TransformPoint((0.0, 0.0, 0.0))
            np.testing.assert_allclose(point, (-step, 0, 0), atol=1e-5)


class TestText:
    def test_tells_what_is_known(self, deformation):
        evidence = RecursionEvidence(deformation.transformNode)
        assert Scrubber.describe(evidence, 0) == "Before: aligned only, similarity 0.500, 0.00 % folded"
        assert Scrubber.describe(evidence, 2) == "Recursion 2 of 2, similarity 0.700, 0.00 % folded"

    def test_tells_the_name_alone_without_the_table(self, scene, deformation):
        scene.RemoveNode(RecursionEvidence(deformation.transformNode).table)
        assert Scrubber.describe(RecursionEvidence(deformation.transformNode), 1) == "Recursion 1 of 2"


def add_labels(name: str, first: int) -> slicer.vtkMRMLSegmentationNode:
    """Add a segmentation of one block of 8 voxels along i that begins at a voxel."""
    labels = np.zeros(GRID.shape, np.uint8)
    labels[3:9, 16:24, first : first + 8] = 1
    segmentation = Volumes.makeSegmentation(labels, GRID, {})
    segmentation.GetNthSegment(0).SetName("Block")
    volume = slicer.util.getFirstNodeByName("CT1")
    return Volumes.createSegmentation(segmentation, name, volume)


def series_of(chart: slicer.vtkMRMLPlotChartNode) -> dict[str, list[float]]:
    """Return the numbers of a chart by the names of its series."""
    found = {}
    for index in range(chart.GetNumberOfPlotSeriesNodes()):
        series = chart.GetNthPlotSeriesNode(index)
        column = series.GetTableNode().GetTable().GetColumnByName(series.GetYColumnName())
        found[series.GetYColumnName()] = [column.GetValue(row) for row in range(column.GetNumberOfTuples())]
    return found


class TestChart:
    def test_has_similarity_and_folds(self, deformation):
        found = series_of(Scrubber.plot(deformation))
        np.testing.assert_allclose(found["Similarity"], [0.5, 0.6, 0.7])
        np.testing.assert_allclose(found["Folded voxels (%)"], 0)

    def test_has_the_overlap_where_there_are_segmentations(self, deformation):
        # The fixed block is where the last shift, of ten voxels, brings the moving one; the first shift is of four.
        fixed, moving = add_labels("Fixed", 10), add_labels("Moving", 20)
        found = series_of(Scrubber.plot(deformation, fixed, moving))
        np.testing.assert_allclose(found["Dice, mean of the structures"], [0.0, 0.25, 1.0])

    def test_segments_that_overlap_count_as_much_as_others(self, deformation):
        pair = [add_labels("Fixed", 10), add_labels("Moving", 20)]
        for node in pair:
            around = slicer.vtkSegment()
            around.DeepCopy(node.GetSegmentation().GetNthSegment(0))
            around.SetName("Around")
            node.GetSegmentation().AddSegment(around)
        found = series_of(Scrubber.plot(deformation, *pair))
        np.testing.assert_allclose(found["Dice, mean of the structures"], [0.0, 0.25, 1.0])

    def test_has_the_overlap_of_label_maps_too(self, scene, deformation):
        maps = []
        for name, first in (("Fixed", 10), ("Moving", 20)):
            array = np.zeros(GRID.shape, np.uint8)
            array[3:9, 16:24, first : first + 8] = 5
            node = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", name)
            Volumes.fillVolume(node, Volumes.makeImage(array), GRID)
            maps.append(node)
        overlap = series_of(Scrubber.plot(deformation, *maps))["Dice, mean of the structures"]
        np.testing.assert_allclose(overlap, [0.0, 0.25, 1.0])

    @pytest.mark.parametrize("folds", [0.5, 30.0])
    def test_has_room_for_the_legend_over_its_curves(self, deformation, folds):
        table = RecursionEvidence(deformation.transformNode).table.GetTable()
        table.SetValue(1, Scrubber.FOLDS, folds)
        chart = Scrubber.plot(deformation)
        largest = max(1.0, folds)
        assert not chart.GetYAxisRangeAuto()
        assert chart.GetYAxisRange() == pytest.approx((0.0, largest / 0.7))

    def test_titles_fit_into_a_small_view(self, deformation):
        chart = Scrubber.plot(deformation)
        assert not chart.GetYAxisTitleVisibility()
        sizes = chart.GetTitleFontSize(), chart.GetAxisTitleFontSize(), chart.GetLegendFontSize()
        assert set(sizes) == {Scrubber.FONT_SIZE}

    def test_is_made_anew_in_its_place(self, scene, deformation):
        first = Scrubber.plot(deformation)
        count = scene.GetNumberOfNodes()
        assert Scrubber.plot(deformation) is first
        assert scene.GetNumberOfNodes() == count

    def test_outlives_saving_and_loading(self, scene, deformation, tmp_path):
        Scrubber.plot(deformation)
        mrml_scene.save_and_reload(scene, tmp_path)
        chart = scene.GetFirstNodeByClass("vtkMRMLPlotChartNode")
        np.testing.assert_allclose(series_of(chart)["Similarity"], [0.5, 0.6, 0.7])

    def test_segmentation_that_cannot_be_compared_is_refused(self, scene, deformation):
        empty = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Empty")
        with pytest.raises(ValueError, match="Empty has no segments"):
            Scrubber.plot(deformation, empty, add_labels("Moving", 20))
