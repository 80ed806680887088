"""Nodes to files and back: frames, segmentations, landmarks, and what is refused."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import vtk

import mrml_scene
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras
from DeepAttentionRegEngine.volume.segments import as_segments
from DeepAttentionRegLib.nodes import SegmentPairs, Volumes
from DeepAttentionRegLib.nodes.InputNodes import InputNodes, checkInputs
from inspection_cases import add_segments

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

WORLD = np.eye(4)
RIGID = np.array([[0.8, -0.6, 0.0, 10.0], [0.6, 0.8, 0.0, -20.0], [0.0, 0.0, 1.0, 5.0], [0.0, 0.0, 0.0, 1.0]])
SHEAR = np.array([[1.0, 0.5, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
BINARY_LABELMAP = "Binary labelmap"


@pytest.fixture
def array(oblique_geometry) -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, oblique_geometry.shape, dtype=np.int16)


@pytest.fixture
def volume(array, oblique_geometry):
    return mrml_scene.add_volume(array, oblique_geometry, "Volume")


@pytest.fixture
def inputs(volume, array, oblique_geometry) -> InputNodes:
    return InputNodes(volume, mrml_scene.add_volume(array, oblique_geometry, "Moving"))


def put_under(node, matrix: np.ndarray) -> slicer.vtkMRMLTransformNode:
    parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Parent")
    parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    node.SetAndObserveTransformNodeID(parent.GetID())
    return parent


def add_landmarks(points_ras: np.ndarray, name: str = "Points"):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    slicer.util.updateMarkupsControlPointsFromArray(node, points_ras)
    return node


def label_array(geometry: Geometry) -> np.ndarray:
    """Return a label map (k, j, i) with two boxes, 3 and 7, that tell every axis and end apart."""
    labels = np.zeros(geometry.shape, np.uint8)
    labels[1:4, 2:8, 3:9] = 3
    labels[5:8, 1:3, 7:13] = 7
    return labels


def add_segmentation(geometry: Geometry, names: tuple[str, str] = ("Liver", "Heart"), name: str = "Segmentation"):
    """Add a segmentation that holds `label_array`, its segments cropped and named."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    labels = label_array(geometry)
    for value, segment_name in zip((3, 7), names, strict=True):
        image = Volumes.makeImage((labels == value).astype(np.uint8), slicer.vtkOrientedImageData)
        image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(geometry.ijk_to_ras))
        extent = [0] * 6
        slicer.vtkOrientedImageDataResample.CalculateEffectiveExtent(image, extent)
        image.Crop(extent)
        node.AddSegmentFromBinaryLabelmapRepresentation(image, segment_name, [value / 10, 0.5, 0.5])
    return node


class TestVolumes:
    def test_voxels_and_place_are_kept(self, volume, array, oblique_geometry, tmp_path):
        Volumes.exportVolume(volume, WORLD, tmp_path / "v.nrrd")
        read = images.read_volume(tmp_path / "v.nrrd")
        np.testing.assert_array_equal(read.array, array)
        assert read.array.dtype == array.dtype
        np.testing.assert_allclose(read.geometry.ijk_to_lps, oblique_geometry.ijk_to_lps, atol=1e-9)

    def test_single_slice_is_kept(self, flat_geometry, tmp_path):
        node = mrml_scene.add_volume(np.ones(flat_geometry.shape, np.float32), flat_geometry, "Flat")
        Volumes.exportVolume(node, WORLD, tmp_path / "v.nrrd")
        assert images.read_volume(tmp_path / "v.nrrd").geometry.size == flat_geometry.size

    def test_parent_transform_is_folded_into_the_place_in_the_world(self, volume, tmp_path):
        inner = slicer.util.arrayFromVTKMatrix(matrix_of(volume))
        put_under(volume, RIGID)
        geometry = Volumes.geometryOf(volume, WORLD)
        np.testing.assert_allclose(geometry.ijk_to_ras, RIGID @ inner, atol=1e-9)

    def test_in_its_own_frame_a_volume_is_not_moved(self, volume, oblique_geometry):
        put_under(volume, RIGID)
        geometry = Volumes.geometryOf(volume, Volumes.frameOf(volume))
        np.testing.assert_allclose(geometry.ijk_to_lps, oblique_geometry.ijk_to_lps, atol=1e-9)

    def test_path_with_spaces_and_umlauts_works(self, volume, array, tmp_path):
        folder = tmp_path / "J\u00fcrgen M\u00fcller \u80ba"
        folder.mkdir()
        Volumes.exportVolume(volume, WORLD, folder / "v.nrrd")
        np.testing.assert_array_equal(images.read_volume(folder / "v.nrrd").array, array)

    def test_image_of_an_array_is_the_array(self, scene, array, oblique_geometry):
        node = Volumes.createVolume(
            Volumes.makeImage(array), oblique_geometry, "New", mrml_scene.add_volume(array, oblique_geometry, "Like")
        )
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), array)
        np.testing.assert_allclose(slicer.util.arrayFromVTKMatrix(matrix_of(node)), oblique_geometry.ijk_to_ras)

    def test_new_volume_looks_like_the_given_one(self, volume, array, oblique_geometry):
        volume.GetDisplayNode().SetAutoWindowLevel(False)
        volume.GetDisplayNode().SetWindowLevel(321.0, 12.0)
        volume.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeIron")
        display = Volumes.createVolume(Volumes.makeImage(array), oblique_geometry, "New", volume).GetDisplayNode()
        assert (display.GetWindow(), display.GetLevel()) == (321.0, 12.0)
        assert display.GetColorNodeID() == "vtkMRMLColorTableNodeIron"


def matrix_of(node) -> vtk.vtkMatrix4x4:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return matrix


class TestPoints:
    def test_points_are_written_in_lps(self, tmp_path):
        points_ras = np.array([[1.0, 2.0, 3.0], [-4.0, 5.0, 6.5]])
        Volumes.exportPoints(add_landmarks(points_ras), WORLD, tmp_path / "p.csv")
        np.testing.assert_allclose(images.read_points(tmp_path / "p.csv"), flip_lps_ras(points_ras), atol=1e-6)

    def test_points_are_written_in_the_frame(self, volume, tmp_path):
        put_under(volume, RIGID)
        points_ras = np.array([[1.0, 2.0, 3.0]])
        Volumes.exportPoints(add_landmarks(points_ras), Volumes.frameOf(volume), tmp_path / "p.csv")
        wanted = np.linalg.inv(RIGID) @ [1.0, 2.0, 3.0, 1.0]
        np.testing.assert_allclose(images.read_points(tmp_path / "p.csv")[0], flip_lps_ras(wanted[:3]), atol=1e-6)


class TestLabels:
    def test_segments_are_drawn_where_they_are(self, oblique_geometry, tmp_path):
        node = add_segmentation(oblique_geometry)
        numbers = SegmentPairs.numberSegments([node])[0]
        Volumes.exportLabels(node, numbers, oblique_geometry, WORLD, tmp_path / "l.nrrd")
        labels = label_array(oblique_geometry)
        wanted = np.where(labels == 3, 1, np.where(labels == 7, 2, 0))
        np.testing.assert_array_equal(images.read_labels(tmp_path / "l.nrrd").array, wanted)

    def test_segments_are_drawn_on_a_grid_of_other_spacing(self, oblique_geometry, tmp_path):
        fine = Geometry.from_ijk_to_lps(
            oblique_geometry.ijk_to_lps @ np.diag([0.5, 0.5, 0.5, 1.0]), tuple(2 * n for n in oblique_geometry.size)
        )
        node = add_segmentation(oblique_geometry)
        Volumes.exportLabels(node, SegmentPairs.numberSegments([node])[0], fine, WORLD, tmp_path / "l.nrrd")
        drawn = images.read_labels(tmp_path / "l.nrrd").array
        np.testing.assert_array_equal(drawn[::2, ::2, ::2] > 0, label_array(oblique_geometry) > 0)

    def test_parent_of_the_segmentation_counts(self, oblique_geometry, tmp_path):
        node = add_segmentation(oblique_geometry)
        put_under(node, RIGID)
        moved = Geometry.from_ijk_to_ras(RIGID @ oblique_geometry.ijk_to_ras, oblique_geometry.size)
        Volumes.exportLabels(node, SegmentPairs.numberSegments([node])[0], moved, WORLD, tmp_path / "l.nrrd")
        drawn = images.read_labels(tmp_path / "l.nrrd").array
        np.testing.assert_array_equal(drawn > 0, label_array(oblique_geometry) > 0)

    def test_segmentation_with_sheared_axes_is_drawn_in_its_place(self, oblique_geometry, tmp_path):
        node = add_segmentation(oblique_geometry)
        put_under(node, SHEAR)
        node.HardenTransform()
        Volumes.exportLabels(node, SegmentPairs.numberSegments([node])[0], oblique_geometry, WORLD, tmp_path / "l.nrrd")
        to_stored = np.linalg.inv(SHEAR @ oblique_geometry.ijk_to_ras) @ oblique_geometry.ijk_to_ras
        voxels = np.argwhere(np.ones(oblique_geometry.shape))[:, ::-1]
        stored = np.rint(voxels @ to_stored[:3, :3].T + to_stored[:3, 3]).astype(int)[:, ::-1]
        inside = ((stored >= 0) & (stored < oblique_geometry.shape)).all(1)
        expected = np.zeros(oblique_geometry.shape, bool)
        expected.reshape(-1)[inside] = label_array(oblique_geometry)[tuple(stored[inside].T)] > 0
        np.testing.assert_array_equal(images.read_labels(tmp_path / "l.nrrd").array > 0, expected)

    def test_surfaces_are_converted_and_the_node_stays_as_it_was(self, scene, oblique_geometry, tmp_path):
        geometry = Geometry.from_ijk_to_lps(oblique_geometry.ijk_to_lps, (40, 36, 30))
        share = np.indices(geometry.shape).T / np.array(geometry.shape) - 0.5
        ball = (np.linalg.norm(share, axis=-1) < 0.4).T.astype(np.uint8)
        node = Volumes.createSegmentation(
            Volumes.makeSegmentation(ball, geometry, {}), "Ball", mrml_scene.add_volume(ball, geometry, "Reference")
        )
        segmentation = node.GetSegmentation()
        segmentation.CreateRepresentation("Closed surface")
        segmentation.SetSourceRepresentationName("Closed surface")
        segmentation.RemoveRepresentation(BINARY_LABELMAP)
        Volumes.exportLabels(node, SegmentPairs.numberSegments([node])[0], geometry, WORLD, tmp_path / "l.nrrd")
        drawn = images.read_labels(tmp_path / "l.nrrd").array
        assert 2 * (drawn & ball).sum() / (drawn.sum() + ball.sum()) > 0.99
        assert not segmentation.ContainsRepresentation(BINARY_LABELMAP)

    def test_label_map_volume_is_written_as_it_is(self, scene, oblique_geometry, tmp_path):
        node = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
        Volumes.fillVolume(node, Volumes.makeImage(label_array(oblique_geometry)), oblique_geometry)
        found = Volumes.exportLabels(node, {}, oblique_geometry, WORLD, tmp_path / "l.nrrd")
        np.testing.assert_array_equal(images.read_labels(tmp_path / "l.nrrd").array, label_array(oblique_geometry))
        assert sorted(found) == [3, 7]

    def test_segments_that_overlap_are_written_in_layers_that_hold_all_others_together(
        self, volume, oblique_geometry, tmp_path
    ):
        labels = label_array(oblique_geometry)
        masks = {"Liver": labels == 3, "Heart": labels == 7, "Body": labels > 0, "Empty": labels < 0}
        node = add_segments(volume, masks)
        Volumes.exportLabels(
            node, SegmentPairs.numberSegments([node])[0], oblique_geometry, WORLD, tmp_path / "l.seg.nrrd"
        )
        found = as_segments(tmp_path / "l.seg.nrrd")
        assert len(found.layers) == 2
        assert [item.name for item in found.items] == list(masks)
        for item in found.items:
            np.testing.assert_array_equal(found.layers[item.layer] == item.value, masks[item.name])

    def test_mask_is_all_segments(self, oblique_geometry, tmp_path):
        Volumes.exportMask(add_segmentation(oblique_geometry), oblique_geometry, WORLD, tmp_path / "m.nrrd")
        np.testing.assert_array_equal(images.read_labels(tmp_path / "m.nrrd").array, label_array(oblique_geometry) > 0)

    def test_export_leaves_the_scene_as_it_was(self, scene, oblique_geometry, volume, tmp_path):
        node = add_segmentation(oblique_geometry)
        before = mrml_scene.scene_state(scene)
        Volumes.exportLabels(node, SegmentPairs.numberSegments([node])[0], oblique_geometry, WORLD, tmp_path / "l.nrrd")
        Volumes.exportVolume(volume, WORLD, tmp_path / "v.nrrd")
        assert mrml_scene.scene_state(scene) == before


class TestNumbers:
    def test_segments_of_one_name_get_one_number(self, oblique_geometry):
        fixed = add_segmentation(oblique_geometry, ("Liver", "Heart"))
        moving = add_segmentation(oblique_geometry, ("Heart", "Liver"))
        numbers = SegmentPairs.numberSegments([fixed, moving])
        assert list(numbers[0].values()) == [1, 2]
        assert list(numbers[1].values()) == [2, 1]

    def test_segments_that_share_a_name_stay_apart(self, oblique_geometry):
        numbers = SegmentPairs.numberSegments([add_segmentation(oblique_geometry, ("Rib", "Rib"))])
        assert list(numbers[0].values()) == [1, 2]

    def test_label_map_volume_makes_segments_keep_their_values(self, scene, oblique_geometry):
        labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
        Volumes.fillVolume(labels, Volumes.makeImage(label_array(oblique_geometry)), oblique_geometry)
        segmentation = add_segmentation(oblique_geometry)
        segments = segmentation.GetSegmentation()
        for index, value in enumerate((7, 3)):
            segments.GetNthSegment(index).SetLabelValue(value)
        wanted = [segments.GetSegment(name).GetLabelValue() for name in segments.GetSegmentIDs()]
        assert list(SegmentPairs.numberSegments([segmentation, labels])[0].values()) == wanted

    def test_values_that_segments_share_find_no_label_of_a_label_map(self, scene, oblique_geometry):
        labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
        array = np.minimum(label_array(oblique_geometry), 1)
        Volumes.fillVolume(labels, Volumes.makeImage(array), oblique_geometry)
        segmentation = add_segmentation(oblique_geometry)
        assert list(SegmentPairs.numberSegments([labels, segmentation])[1].values()) == [2, 3]
        assert "No segment of Labels has the name or value" in SegmentPairs.checkPairs(labels, segmentation)

    def test_absent_node_has_no_numbers(self):
        assert SegmentPairs.numberSegments([None, None]) == [{}, {}]


class TestSegmentation:
    def test_labels_come_back_with_names_and_colors(self, volume, oblique_geometry, tmp_path):
        source = add_segmentation(oblique_geometry)
        numbers = SegmentPairs.numberSegments([source])[0]
        described = Volumes.exportLabels(source, numbers, oblique_geometry, WORLD, tmp_path / "l.nrrd")
        labels = images.read_labels(tmp_path / "l.nrrd").array
        made = Volumes.makeSegmentation(labels, oblique_geometry, described)
        node = Volumes.createSegmentation(made, "Result", volume)
        segments = [made.GetNthSegment(index) for index in range(made.GetNumberOfSegments())]
        assert [segment.GetName() for segment in segments] == ["Liver", "Heart"]
        np.testing.assert_allclose([segment.GetColor()[0] for segment in segments], [0.3, 0.7])
        Volumes.exportLabels(
            node, SegmentPairs.numberSegments([node])[0], oblique_geometry, WORLD, tmp_path / "again.nrrd"
        )
        np.testing.assert_array_equal(images.read_labels(tmp_path / "again.nrrd").array, labels)

    def test_structure_that_was_warped_away_stays_as_an_empty_segment(self, oblique_geometry, tmp_path):
        source = add_segmentation(oblique_geometry)
        numbers = SegmentPairs.numberSegments([source])[0]
        described = Volumes.exportLabels(source, numbers, oblique_geometry, WORLD, tmp_path / "l.nrrd")
        made = Volumes.makeSegmentation(np.zeros(oblique_geometry.shape, np.uint8), oblique_geometry, described)
        assert made.GetNumberOfSegments() == 2


class TestChecks:
    def test_good_inputs_pass(self, inputs):
        assert checkInputs(inputs) == []

    def test_missing_volume_is_named(self, volume):
        assert "Choose" in checkInputs(InputNodes(volume, None))[0]

    def test_same_volume_twice_is_refused(self, volume):
        assert "same volume" in checkInputs(InputNodes(volume, volume))[0]

    def test_empty_volume_is_refused(self, scene, volume):
        empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
        assert checkInputs(InputNodes(volume, empty)) == ["Empty is empty."]

    def test_color_volume_is_refused(self, scene, volume):
        color = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "Color")
        image = vtk.vtkImageData()
        image.SetDimensions(4, 4, 4)
        image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
        color.SetAndObserveImageData(image)
        assert "several values" in checkInputs(InputNodes(volume, color))[0]

    @pytest.mark.parametrize("hardened", [False, True])
    def test_sheared_volume_is_to_be_resampled(self, inputs, hardened):
        put_under(inputs.movingVolume, SHEAR)
        if hardened:
            inputs.movingVolume.HardenTransform()
        (problem,) = checkInputs(inputs)
        assert problem.startswith("Moving is sheared")
        assert "Resample Scalar/Vector/DWI Volume" in problem

    def test_sheared_segmentation_is_to_be_hardened(self, inputs, oblique_geometry):
        node = add_segmentation(oblique_geometry)
        given = InputNodes(inputs.fixedVolume, inputs.movingVolume, movingMask=node)
        put_under(node, SHEAR)
        assert "harden" in checkInputs(given)[0]
        node.HardenTransform()
        assert checkInputs(given) == []

    def test_non_linear_initial_transform_is_refused(self, scene, inputs):
        initial = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Start")
        initial.SetAndObserveTransformFromParent(vtk.vtkThinPlateSplineTransform())
        given = InputNodes(inputs.fixedVolume, inputs.movingVolume, initialTransform=initial)
        assert checkInputs(given) == ["Start is not linear; choose another initial transform."]

    def test_non_linear_parent_is_refused(self, scene, inputs):
        parent = scene.AddNewNodeByClass("vtkMRMLTransformNode", "Parent")
        parent.SetAndObserveTransformFromParent(vtk.vtkThinPlateSplineTransform())
        inputs.fixedVolume.SetAndObserveTransformNodeID(parent.GetID())
        assert "Volume is under a non-linear transform" in checkInputs(inputs)[0]

    def test_segmentation_without_segments_is_refused(self, scene, inputs):
        empty = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Empty")
        with_mask = InputNodes(inputs.fixedVolume, inputs.movingVolume, fixedMask=empty)
        assert checkInputs(with_mask) == ["Empty has no segments."]

    def test_landmarks_of_one_side_only_are_refused(self, inputs):
        points = add_landmarks(np.zeros((2, 3)))
        given = InputNodes(inputs.fixedVolume, inputs.movingVolume, fixedLandmarks=points)
        assert "both volumes" in checkInputs(given)[0]

    def test_different_numbers_of_landmarks_are_refused(self, inputs):
        points = [add_landmarks(np.zeros((count, 3))) for count in (2, 3)]
        given = InputNodes(inputs.fixedVolume, inputs.movingVolume, fixedLandmarks=points[0], movingLandmarks=points[1])
        assert "2 fixed but 3 moving" in checkInputs(given)[0]

    def test_landmark_that_is_not_placed_is_refused(self, inputs):
        points = [add_landmarks(np.zeros((2, 3)), name) for name in ("A", "B")]
        points[1].UnsetNthControlPointPosition(0)
        given = InputNodes(inputs.fixedVolume, inputs.movingVolume, fixedLandmarks=points[0], movingLandmarks=points[1])
        assert "B has no landmarks, or one that is not placed" in checkInputs(given)[0]
