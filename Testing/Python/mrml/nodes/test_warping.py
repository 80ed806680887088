"""Warping further nodes by a registration's transform, against fields whose effect can be calculated."""

import re

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import vtk

import mrml_scene
from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras
from DeepAttentionRegLib.nodes import Transforms, Volumes, Warping
from mrml_cases import RIGID, InputNodes, add_segmentation, put_under

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

SHIFT_LPS = np.array([3.0, -2.0, 4.0])
SHIFT_RAS = flip_lps_ras(SHIFT_LPS)
SLOPE_RAS = np.array([1.5, -2.0, 0.75])  # of the image that changes linearly
INVERSE_MM = 0.02  # VTK seeks an inverse to 0.01 mm
POINT_CLASSES = ["Fiducial", "Line", "Angle", "Curve", "ClosedCurve"]


@pytest.fixture
def fixed(oblique_geometry):
    return mrml_scene.add_volume(np.zeros(oblique_geometry.shape, np.float32), oblique_geometry, "CT1")


@pytest.fixture
def moving(oblique_geometry):
    return mrml_scene.add_linear_volume(oblique_geometry, SLOPE_RAS, "CT2")


@pytest.fixture
def make_transform(fixed, moving, oblique_geometry):
    """The function from a displacement `(k, j, i, 3)`, LPS mm, to the transform of a registration."""

    def make(displacement: np.ndarray) -> slicer.vtkMRMLTransformNode:
        made = Transforms.makeGridTransform(displacement.astype(np.float32), oblique_geometry)
        return Transforms.createGridTransform(made, "CT2 to CT1", fixed, moving)

    return make


@pytest.fixture
def shift(make_transform, oblique_geometry):
    """A transform whose field is the same everywhere."""
    return make_transform(np.broadcast_to(SHIFT_LPS, (*oblique_geometry.shape, 3)))


@pytest.fixture
def smooth(make_transform, smooth_displacement, oblique_geometry):
    return make_transform(smooth_displacement(oblique_geometry))


def add_points(kind: str, points_ras: np.ndarray) -> slicer.vtkMRMLMarkupsNode:
    node = slicer.mrmlScene.AddNewNodeByClass(f"vtkMRMLMarkups{kind}Node", "Points")
    for point in points_ras:
        node.AddControlPoint(vtk.vtkVector3d(*point))
    return node


def points_inside(geometry: Geometry) -> np.ndarray:
    share = np.random.default_rng(0).uniform(0.2, 0.8, (3, 3))
    return flip_lps_ras(geometry.index_to_lps(share * (np.array(geometry.size) - 1)))


def positions(node: slicer.vtkMRMLMarkupsNode) -> np.ndarray:
    return slicer.util.arrayFromMarkupsControlPoints(node)


def mapped(node: slicer.vtkMRMLTransformNode, points: np.ndarray) -> np.ndarray:
    """Return where a transform leads fixed points, RAS."""
    return np.array([node.GetTransformFromParent().TransformPoint(point) for point in points])


def add_sphere(center_ras: np.ndarray, radius: float) -> slicer.vtkMRMLModelNode:
    source = vtk.vtkSphereSource()
    source.SetCenter(*center_ras)
    source.SetRadius(radius)
    source.Update()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "Sphere")
    node.SetAndObservePolyData(source.GetOutput())
    node.CreateDefaultDisplayNodes()
    return node


def hardened(node: slicer.vtkMRMLTransformableNode, transform: slicer.vtkMRMLTransformNode) -> None:
    node.SetAndObserveTransformNodeID(transform.GetID())
    node.HardenTransform()


class TestPoints:
    @pytest.mark.parametrize("kind", POINT_CLASSES)
    def test_constant_field_moves_points_against_it(self, shift, oblique_geometry, kind):
        points = points_inside(oblique_geometry)[: 2 if kind == "Line" else 3]
        warped = Warping.warp(add_points(kind, points), shift).node
        np.testing.assert_allclose(positions(warped), points - SHIFT_RAS, atol=INVERSE_MM)

    def test_field_leads_warped_points_back(self, smooth, oblique_geometry):
        points = points_inside(oblique_geometry)
        warped = Warping.warp(add_points("Fiducial", points), smooth)
        np.testing.assert_allclose(mapped(smooth, positions(warped.node)), points, atol=INVERSE_MM)
        assert warped.warning == ""

    def test_is_what_hardening_does(self, smooth, oblique_geometry):
        node = add_points("Curve", points_inside(oblique_geometry))
        warped = Warping.warp(node, smooth).node
        hardened(node, smooth)
        np.testing.assert_allclose(positions(warped), positions(node), atol=1e-9)

    def test_labels_locks_and_colors_are_kept(self, shift, oblique_geometry):
        node = add_points("Fiducial", points_inside(oblique_geometry))
        node.SetNthControlPointLabel(1, "Carina")
        node.SetNthControlPointLocked(1, True)
        node.GetDisplayNode().SetSelectedColor(0.1, 0.2, 0.3)
        warped = Warping.warp(node, shift).node
        assert warped.GetNthControlPointLabel(1) == "Carina"
        assert warped.GetNthControlPointLocked(1)
        assert warped.GetDisplayNode().GetSelectedColor() == pytest.approx((0.1, 0.2, 0.3))

    def test_unplaced_points_stay_unplaced(self, shift, oblique_geometry):
        node = add_points("Fiducial", points_inside(oblique_geometry))
        node.UnsetNthControlPointPosition(1)
        assert Warping.warp(node, shift).node.GetNumberOfDefinedControlPoints() == 2

    def test_box_keeps_its_size_under_a_constant_field(self, shift):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
        node.SetCenter(5.0, 6.0, 7.0)
        node.SetSize(4.0, 5.0, 6.0)
        warped = Warping.warp(node, shift).node
        np.testing.assert_allclose(warped.GetCenter(), np.array([5.0, 6.0, 7.0]) - SHIFT_RAS, atol=INVERSE_MM)
        np.testing.assert_allclose(warped.GetSize(), (4.0, 5.0, 6.0), atol=INVERSE_MM)

    def test_points_that_cannot_be_traced_back_are_counted(self, make_transform, oblique_geometry):
        rough = np.random.default_rng(0).normal(0.0, 6.0, (*oblique_geometry.shape, 3))
        node = add_sphere(flip_lps_ras(oblique_geometry.center_lps), 4.0)
        warning = Warping.warp(node, make_transform(rough)).warning
        assert re.match(r"[1-9]\d* of 50 points of Sphere lie where the deformation folds", warning)

    def test_saved_and_loaded_transform_moves_points_alike(self, scene, smooth, oblique_geometry, tmp_path):
        node = add_points("Fiducial", points_inside(oblique_geometry))
        before = positions(Warping.warp(node, smooth).node).copy()
        mrml_scene.save_and_reload(scene, tmp_path)
        transform, node = (slicer.util.getNode(name) for name in ("CT2 to CT1", "Points"))
        np.testing.assert_allclose(positions(Warping.warp(node, transform).node), before, atol=1e-3)


class TestModels:
    def test_is_what_hardening_does(self, smooth, oblique_geometry):
        node = add_sphere(flip_lps_ras(oblique_geometry.center_lps), 4.0)
        warped = Warping.warp(node, smooth).node
        hardened(node, smooth)
        np.testing.assert_allclose(slicer.util.arrayFromModelPoints(warped), slicer.util.arrayFromModelPoints(node))

    def test_input_stays_as_it_is(self, shift):
        node = add_sphere(np.zeros(3), 4.0)
        before = slicer.util.arrayFromModelPoints(node).copy()
        Warping.warp(node, shift)
        np.testing.assert_array_equal(slicer.util.arrayFromModelPoints(node), before)

    def test_color_is_kept(self, shift):
        node = add_sphere(np.zeros(3), 4.0)
        node.GetDisplayNode().SetColor(1.0, 0.5, 0.0)
        warped = Warping.warp(node, shift).node
        assert warped.GetDisplayNode().GetColor() == (1.0, 0.5, 0.0)
        assert warped.GetDisplayNode() is not node.GetDisplayNode()


class TestFrames:
    @pytest.fixture
    def points(self, oblique_geometry):
        return points_inside(oblique_geometry)

    def test_node_under_the_parent_of_the_moving_volume_leaves_it(self, shift, moving, points):
        put_under(moving, RIGID)
        node = add_points("Fiducial", points)
        node.SetAndObserveTransformNodeID(moving.GetTransformNodeID())
        warped = Warping.warp(node, shift).node
        assert warped.GetParentTransformNode() is None
        np.testing.assert_allclose(positions(warped), points - SHIFT_RAS, atol=INVERSE_MM)

    def test_node_in_the_world_follows_a_moving_volume_under_a_parent(self, shift, moving, points):
        put_under(moving, RIGID)
        node = add_points("Fiducial", points @ RIGID[:3, :3].T + RIGID[:3, 3])
        np.testing.assert_allclose(positions(Warping.warp(node, shift).node), points - SHIFT_RAS, atol=INVERSE_MM)

    def test_node_under_the_transform_itself_is_not_moved_twice(self, shift, moving, points):
        node = add_points("Fiducial", points)
        for shown in (node, moving):
            shown.SetAndObserveTransformNodeID(shift.GetID())
        np.testing.assert_allclose(positions(Warping.warp(node, shift).node), points - SHIFT_RAS, atol=INVERSE_MM)

    def test_volume_under_a_parent_of_its_own_is_seen_where_it_lies(self, shift, moving, oblique_geometry, grid_points):
        other = slicer.mrmlScene.CopyNode(moving)
        put_under(other, RIGID)
        warped = slicer.util.arrayFromVolume(Warping.warp(other, shift).node)
        seen = flip_lps_ras(grid_points(oblique_geometry)) + SHIFT_RAS
        wanted = (seen - RIGID[:3, 3]) @ RIGID[:3, :3] @ SLOPE_RAS
        inside = warped != slicer.util.arrayFromVolume(moving).min()
        assert inside.any()
        np.testing.assert_allclose(warped[inside], wanted[inside], atol=0.5)


class TestVolumes:
    def test_voxels_are_looked_up_where_the_field_points_to(
        self, smooth, moving, oblique_geometry, smooth_displacement, grid_points
    ):
        warped = slicer.util.arrayFromVolume(Warping.warp(moving, smooth).node)
        seen = flip_lps_ras(grid_points(oblique_geometry) + smooth_displacement(oblique_geometry))
        np.testing.assert_allclose(warped, seen @ SLOPE_RAS, atol=1e-3)  # the field is stored in single precision

    def test_lies_on_the_fixed_grid_under_a_telling_name(self, smooth, moving, oblique_geometry):
        node = Warping.warp(moving, smooth).node
        geometry = Volumes.geometryOf(node, np.eye(4))
        np.testing.assert_allclose(geometry.ijk_to_lps, oblique_geometry.ijk_to_lps, atol=1e-9)
        assert node.GetName() == "CT2 warped to CT1"

    def test_comes_onto_the_grid_that_is_asked_for(self, smooth, moving):
        reference = slicer.mrmlScene.CopyNode(moving)
        warped = Warping.warp(moving, smooth, reference=reference).node
        assert warped.GetImageData().GetDimensions() == moving.GetImageData().GetDimensions()

    def test_type_is_kept_and_whole_numbers_are_rounded(self, shift, moving):
        values = slicer.util.arrayFromVolume(moving)
        slicer.util.updateVolumeFromArray(moving, np.rint(values).astype(np.int16))
        whole = slicer.util.arrayFromVolume(Warping.warp(moving, shift).node)
        slicer.util.updateVolumeFromArray(moving, np.rint(values))
        exact = slicer.util.arrayFromVolume(Warping.warp(moving, shift).node)
        assert whole.dtype == np.int16
        assert np.abs(whole - exact).max() <= 0.5 + 1e-6

    def test_outside_is_the_minimum_and_holes_are_filled_with_it(self, make_transform, moving, oblique_geometry):
        array = slicer.util.arrayFromVolume(moving)
        lowest = array.min()
        array[20:24, 16:20, 18:22] = np.nan
        far = make_transform(np.broadcast_to([1000.0, 0.0, 0.0], (*oblique_geometry.shape, 3)))
        assert (slicer.util.arrayFromVolume(Warping.warp(moving, far).node) == lowest).all()
        none = make_transform(np.zeros((*oblique_geometry.shape, 3)))
        warped = slicer.util.arrayFromVolume(Warping.warp(moving, none).node)
        assert warped.min() == pytest.approx(lowest)
        assert np.isnan(slicer.util.arrayFromVolume(moving)).any()

    def test_labels_are_not_mixed_and_keep_their_colors(self, smooth, moving):
        labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
        array = slicer.util.arrayFromVolume(moving)
        array = np.where(array > np.median(array), 7, 3).astype(np.uint8)
        slicer.util.updateVolumeFromArray(labels, array)
        labels.CopyOrientation(moving)
        labels.CreateDefaultDisplayNodes()
        labels.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeRed")
        warped = Warping.warp(labels, smooth).node
        assert set(np.unique(slicer.util.arrayFromVolume(warped))) == {3, 7}
        assert warped.GetDisplayNode().GetColorNodeID() == "vtkMRMLColorTableNodeRed"

    def test_every_channel_of_a_color_volume_is_warped(self, shift, moving):
        color = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "Color")
        array = slicer.util.arrayFromVolume(moving)
        slicer.util.updateVolumeFromArray(color, np.stack([array, -array, 2 * array], axis=-1))
        color.CopyOrientation(moving)
        color.SetVoxelVectorType(color.VoxelVectorTypeColorRGB)
        red, green, blue = np.moveaxis(slicer.util.arrayFromVolume(Warping.warp(color, shift).node), -1, 0)
        np.testing.assert_allclose(red, slicer.util.arrayFromVolume(Warping.warp(moving, shift).node))
        np.testing.assert_allclose(green, -red)
        np.testing.assert_allclose(blue, 2 * red)


class TestSegmentations:
    @pytest.fixture
    def segmentation(self, fixed, moving):
        """Two boxes on the fixed grid, as a structure of the moving volume."""
        node = add_segmentation(InputNodes(fixed, moving), "Organs")
        segment = node.GetSegmentation().GetNthSegment(0)
        segment.SetColor(0.2, 0.4, 0.6)
        segment.SetTag("TerminologyEntry", "Anatomy~Liver")
        return node

    @staticmethod
    def drawn(node: slicer.vtkMRMLSegmentationNode, index: int, fixed) -> np.ndarray:
        """Return the voxels of a segment as Slicer exports them on the grid of a volume."""
        labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
        names = vtk.vtkStringArray()
        names.InsertNextValue(node.GetSegmentation().GetNthSegmentID(index))
        slicer.vtkSlicerSegmentationsModuleLogic.ExportSegmentsToLabelmapNode(node, names, labels, fixed)
        array = slicer.util.arrayFromVolume(labels).copy()
        slicer.mrmlScene.RemoveNode(labels)
        return array

    def test_shift_by_whole_voxels_shifts_every_segment(self, make_transform, segmentation, fixed, oblique_geometry):
        step = oblique_geometry.ijk_to_lps[:3, :3] @ [1.0, 0.0, 0.0]
        transform = make_transform(np.broadcast_to(step, (*oblique_geometry.shape, 3)))
        warped = Warping.warp(segmentation, transform).node
        for index in range(2):
            before, after = (self.drawn(node, index, fixed) for node in (segmentation, warped))
            np.testing.assert_array_equal(after[:, :, :-1], before[:, :, 1:])

    def test_names_colors_and_terminology_are_kept(self, smooth, segmentation):
        source = segmentation.GetSegmentation()
        warped = Warping.warp(segmentation, smooth).node.GetSegmentation()
        assert list(warped.GetSegmentIDs()) == list(source.GetSegmentIDs())
        segment, tag = warped.GetNthSegment(0), vtk.reference("")
        assert segment.GetName() == "Liver"
        assert segment.GetColor() == (0.2, 0.4, 0.6)
        assert segment.GetTag("TerminologyEntry", tag)
        assert tag == "Anatomy~Liver"

    def test_segments_that_overlap_still_do(self, make_transform, segmentation, fixed, oblique_geometry):
        body = Volumes.makeSegmentation(np.ones(oblique_geometry.shape, np.uint8), oblique_geometry, {})
        segmentation.GetSegmentation().AddSegment(body.GetNthSegment(0), "Body")
        none = make_transform(np.zeros((*oblique_geometry.shape, 3)))
        warped = Warping.warp(segmentation, none).node
        assert self.drawn(warped, 0, fixed).sum() == self.drawn(segmentation, 0, fixed).sum() > 0
        assert self.drawn(warped, 2, fixed).all()

    def test_empty_segment_stays_empty(self, smooth, segmentation, fixed):
        segmentation.GetSegmentation().AddEmptySegment("Lost", "Lost")
        warped = Warping.warp(segmentation, smooth).node
        assert not self.drawn(warped, 2, fixed).any()

    def test_surfaces_are_drawn_and_made_again(self, smooth, segmentation, fixed):
        labels = Warping.warp(segmentation, smooth).node
        source = segmentation.GetSegmentation()
        source.CreateRepresentation("Closed surface")
        source.SetSourceRepresentationName("Closed surface")
        source.RemoveRepresentation("Binary labelmap")
        warped = Warping.warp(segmentation, smooth).node
        assert not source.ContainsRepresentation("Binary labelmap")
        assert warped.GetSegmentation().ContainsRepresentation("Closed surface")
        before, after = (self.drawn(node, 0, fixed) > 0 for node in (labels, warped))
        assert not (after & ~before).any()  # surfaces cut off the corners of a small box
        assert after.sum() > before.sum() / 2

    def test_saving_and_loading_changes_nothing(self, scene, smooth, segmentation, fixed, tmp_path):
        before = self.drawn(Warping.warp(segmentation, smooth).node, 0, fixed).copy()
        mrml_scene.save_and_reload(scene, tmp_path)
        loaded, fixed = (slicer.util.getNode(name) for name in ("Organs warped to CT1", "CT1"))
        np.testing.assert_array_equal(self.drawn(loaded, 0, fixed), before)


class TestOutputs:
    def test_existing_node_is_written_into(self, shift, moving, oblique_geometry):
        for node in (moving, add_points("Fiducial", points_inside(oblique_geometry))):
            output = slicer.mrmlScene.AddNewNodeByClass(node.GetClassName(), "Mine")
            put_under(output, RIGID)
            assert Warping.warp(node, shift, output).node is output
            assert output.GetName() == "Mine"
            assert output.GetParentTransformNode() is None

    def test_existing_segmentation_is_replaced(self, shift, fixed, moving):
        node, output = (add_segmentation(InputNodes(fixed, moving), name) for name in ("Organs", "Mine"))
        output.GetSegmentation().AddEmptySegment("Old", "Old")
        Warping.warp(node, shift, output)
        assert output.GetSegmentation().GetNumberOfSegments() == 2

    def test_second_result_gets_a_name_of_its_own(self, shift, moving):
        names = {Warping.warp(moving, shift).node.GetName() for _time in range(2)}
        assert len(names) == 2

    def test_input_is_not_overwritten(self, shift, fixed, moving):
        for output in (fixed, moving):
            with pytest.raises(ValueError, match="is an input"):
                Warping.warp(moving, shift, output)

    def test_node_of_another_kind_is_refused(self, shift, moving, oblique_geometry):
        with pytest.raises(ValueError, match="Points cannot hold what CT2 becomes"):
            Warping.warp(moving, shift, add_points("Fiducial", points_inside(oblique_geometry)))


class TestRefusals:
    @pytest.mark.parametrize("kind", ["Text", "Table", "DiffusionTensorVolume", "Camera"])
    def test_kinds_that_cannot_be_warped(self, shift, kind):
        node = slicer.mrmlScene.AddNewNodeByClass(f"vtkMRML{kind}Node", "Thing")
        assert Warping.checkWarp(node, shift).startswith("Thing cannot be warped")

    def test_field_of_vectors(self, shift):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "Field")
        node.SetVoxelVectorType(node.VoxelVectorTypeSpatial)
        assert Warping.checkWarp(node, shift).startswith("Field cannot be warped")

    @pytest.mark.parametrize("kind", ["ScalarVolume", "Segmentation", "Model", "MarkupsFiducial", "MarkupsROI"])
    def test_empty_nodes(self, shift, kind):
        node = slicer.mrmlScene.AddNewNodeByClass(f"vtkMRML{kind}Node", "Thing")
        assert Warping.checkWarp(node, shift).startswith("Thing is empty")

    def test_another_non_linear_transform_above(self, shift, moving, oblique_geometry):
        node = add_points("Fiducial", points_inside(oblique_geometry))
        node.SetAndObserveTransformNodeID(slicer.mrmlScene.CopyNode(shift).GetID())
        assert "Points is under a non-linear transform" in Warping.checkWarp(node, shift)

    def test_no_grid_to_draw_on(self, shift, fixed, moving):
        slicer.mrmlScene.RemoveNode(fixed)
        assert "fixed volume of CT2 to CT1 is gone" in Warping.checkWarp(moving, shift)
        assert Warping.checkWarp(add_sphere(np.zeros(3), 4.0), shift) == ""
