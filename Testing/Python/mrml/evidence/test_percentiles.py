"""Nodes warped to their percentiles, against the engine and against errors whose effect can be calculated."""

from statistics import NormalDist

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import vtk

import mrml_scene
from DeepAttentionRegEngine.maps import percentiles
from DeepAttentionRegEngine.volume.geometry import flip_lps_ras
from DeepAttentionRegLib.evidence import Percentiles
from DeepAttentionRegLib.nodes import Record, Transforms, Volumes, Warping
from DeepAttentionRegLib.nodes.Overlays import Map
from mrml_cases import RIGID, InputNodes, add_segmentation, put_under

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

SLOPE_RAS = np.array([1.5, -2.0, 0.75])  # of the dose that changes linearly
MM, SIGMAS = 1.2, 2.796  # the bound of the error, and how many standard deviations that is
STRAYS = 0.22  # of the finite samples, of the distance from the median
NAMES = ("low", "median", "high")


@pytest.fixture
def fixed(oblique_geometry):
    return mrml_scene.add_volume(np.zeros(oblique_geometry.shape, np.float32), oblique_geometry, "CT1")


@pytest.fixture
def moving(oblique_geometry):
    return mrml_scene.add_linear_volume(oblique_geometry, SLOPE_RAS, "CT2")


@pytest.fixture
def smooth(fixed, moving, smooth_displacement, oblique_geometry):
    """A transform whose field is smooth, and which remembers no map of its error."""
    field = Transforms.makeGridTransform(smooth_displacement(oblique_geometry), oblique_geometry)
    return Transforms.createGridTransform(field, "Found", fixed, moving)


@pytest.fixture
def give_error(smooth, oblique_geometry):
    """The function that lets the transform remember a map of its error, the same everywhere."""

    def give(mm: float = MM) -> slicer.vtkMRMLTransformNode:
        node = mrml_scene.add_volume(np.full(oblique_geometry.shape, mm, np.float32), oblique_geometry, "Error")
        Record.attach(smooth, Map.ERROR.value, node)
        return smooth

    return give


@pytest.fixture
def segmentation(fixed, moving):
    """Two boxes on the fixed grid, as structures of the moving volume."""
    return add_segmentation(InputNodes(fixed, moving), "Organs")


def arrays_of(nodes: Percentiles.Nodes) -> list[np.ndarray]:
    return [slicer.util.arrayFromVolume(nodes[name]) for name in NAMES]


def mask_of(node: slicer.vtkMRMLSegmentationNode, segment_id: str, fixed) -> np.ndarray:
    """Return the voxels of a segment as Slicer exports them on the grid of a volume."""
    labels, names = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode"), vtk.vtkStringArray()
    names.InsertNextValue(segment_id)
    slicer.vtkSlicerSegmentationsModuleLogic.ExportSegmentsToLabelmapNode(node, names, labels, fixed)
    mask = slicer.util.arrayFromVolume(labels) > 0
    slicer.mrmlScene.RemoveNode(labels)
    return mask


def masks_of(nodes: Percentiles.Nodes, segment_id: str, fixed) -> list[np.ndarray]:
    return [mask_of(nodes[name], segment_id, fixed) for name in NAMES]


class TestVolumes:
    def test_linear_dose_strays_by_its_slope(self, give_error, moving):
        transform = give_error()
        low, median, high = arrays_of(Percentiles.warp(moving, transform))
        usual = slicer.util.arrayFromVolume(Warping.warp(moving, transform).node)
        strays = NormalDist().inv_cdf(0.95) * MM / SIGMAS * np.linalg.norm(SLOPE_RAS)
        np.testing.assert_allclose(median, usual, atol=1e-3)  # the field is stored in single precision
        np.testing.assert_allclose(usual - low, strays, rtol=STRAYS)
        np.testing.assert_allclose(high - usual, usual - low, atol=2e-3)

    def test_without_error_all_are_the_usual_one(self, give_error, moving):
        transform = give_error(0.0)
        usual = slicer.util.arrayFromVolume(Warping.warp(moving, transform).node)
        for array in arrays_of(Percentiles.warp(moving, transform)):
            np.testing.assert_allclose(array, usual, atol=1e-3)

    def test_lie_on_the_fixed_grid_under_telling_names(self, give_error, moving, oblique_geometry):
        nodes = Percentiles.warp(moving, give_error())
        endings = ("5th percentile", "median", "95th percentile")
        assert [nodes[name].GetName() for name in NAMES] == [f"CT2 warped to CT1 ({text})" for text in endings]
        for node in nodes.values():
            placed = Volumes.geometryOf(node, np.eye(4)).ijk_to_lps
            np.testing.assert_allclose(placed, oblique_geometry.ijk_to_lps, atol=1e-9)

    def test_come_onto_the_grid_that_is_asked_for(self, give_error, moving, oblique_geometry):
        coarse = oblique_geometry.resized((6, 5, 4))
        reference = mrml_scene.add_volume(np.zeros(coarse.shape, np.float32), coarse, "Coarse")
        assert {array.shape for array in arrays_of(Percentiles.warp(moving, give_error(), reference))} == {(4, 5, 6)}

    def test_slice_errs_in_its_plane_alone(self, moving, flat_geometry, smooth_displacement):
        zeros = np.zeros(flat_geometry.shape, np.float32)
        fixed, error = (mrml_scene.add_volume(zeros + value, flat_geometry, "Slice") for value in (0.0, MM))
        field = Transforms.makeGridTransform(smooth_displacement(flat_geometry), flat_geometry)
        transform = Transforms.createGridTransform(field, "Found", fixed, moving)
        Record.attach(transform, Map.ERROR.value, error)
        low, _median, high = arrays_of(Percentiles.warp(moving, transform))
        normal = flip_lps_ras(flat_geometry.normal_lps)
        within = SLOPE_RAS - (SLOPE_RAS @ normal) * normal
        strays = NormalDist().inv_cdf(0.95) * MM / 2.448 * np.linalg.norm(within)
        np.testing.assert_allclose((high - low) / 2, strays, rtol=STRAYS)

    def test_parents_count(self, give_error, moving):
        transform = give_error()
        wanted = [array.copy() for array in arrays_of(Percentiles.warp(moving, transform))]
        put_under(moving, RIGID)
        for array, before in zip(arrays_of(Percentiles.warp(moving, transform)), wanted, strict=True):
            np.testing.assert_allclose(array, before, atol=1e-3)

    @pytest.mark.slow
    def test_are_those_of_the_engine(self, give_error, moving, fixed, smooth_displacement, oblique_geometry):
        torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        from DeepAttentionRegEngine.evidence.percentiles import warp_volume_within
        from DeepAttentionRegEngine.registration.deformation import StoredDeformation
        from DeepAttentionRegEngine.registration.preprocess import Source

        noise = np.random.default_rng(0).random(slicer.util.arrayFromVolume(moving).shape)
        slicer.util.updateVolumeFromArray(moving, noise)
        source = Source(noise, Volumes.geometryOf(moving, np.eye(4)))
        stored = StoredDeformation(smooth_displacement(oblique_geometry), oblique_geometry)
        error = percentiles.Volume(np.full(oblique_geometry.shape, MM, np.float32), oblique_geometry)
        wanted = warp_volume_within(error, source, stored, oblique_geometry, torch.device("cpu"))
        for array, name in zip(arrays_of(Percentiles.warp(moving, give_error())), NAMES, strict=True):
            np.testing.assert_allclose(array, wanted[name], atol=1e-3)


class TestSegmentations:
    def test_contours_are_nested(self, give_error, segmentation, fixed):
        nodes = Percentiles.warp(segmentation, give_error())
        for segment_id in segmentation.GetSegmentation().GetSegmentIDs():
            low, median, high = masks_of(nodes, segment_id, fixed)
            assert (low <= median).all()
            assert (median <= high).all()
            assert low.sum() < median.sum() < high.sum()

    def test_without_error_all_are_the_usual_one(self, give_error, segmentation, fixed):
        transform = give_error(0.0)
        usual = Warping.warp(segmentation, transform).node
        nodes = Percentiles.warp(segmentation, transform)
        for segment_id in segmentation.GetSegmentation().GetSegmentIDs():
            wanted = mask_of(usual, segment_id, fixed)
            for mask in masks_of(nodes, segment_id, fixed):
                np.testing.assert_array_equal(mask, wanted)

    def test_segments_keep_names_and_colors_and_are_outlined(self, give_error, segmentation):
        segmentation.GetSegmentation().GetNthSegment(0).SetColor(0.2, 0.4, 0.6)
        for node in Percentiles.warp(segmentation, give_error()).values():
            found = [node.GetSegmentation().GetNthSegment(index) for index in range(2)]
            assert [segment.GetName() for segment in found] == ["Liver", "Heart"]
            assert found[0].GetColor() == pytest.approx((0.2, 0.4, 0.6))
            assert not node.GetDisplayNode().GetVisibility2DFill()

    def test_surfaces_come_along_and_an_empty_segment_stays_empty(self, give_error, segmentation, fixed):
        empty = segmentation.GetSegmentation().AddEmptySegment("", "Nothing")
        segmentation.CreateClosedSurfaceRepresentation()
        nodes = Percentiles.warp(segmentation, give_error())
        assert not any(mask.any() for mask in masks_of(nodes, empty, fixed))
        for node in nodes.values():
            assert node.GetSegmentation().ContainsRepresentation(Warping.CLOSED_SURFACE)


class TestRefusal:
    def test_without_a_map_of_the_error(self, smooth, moving):
        assert Percentiles.check(moving, smooth).startswith("Found does not remember a map of its error")
        with pytest.raises(ValueError, match="does not remember"):
            Percentiles.warp(moving, smooth)

    @pytest.mark.parametrize(
        ("kind", "complaint"),
        [("vtkMRMLMarkupsFiducialNode", "has no percentiles"), ("vtkMRMLLabelMapVolumeNode", "to a segmentation")],
    )
    def test_of_what_has_no_percentiles(self, give_error, moving, kind, complaint):
        node = slicer.mrmlScene.AddNewNodeByClass(kind, "Thing")
        if kind.endswith("FiducialNode"):
            node.AddControlPoint(1.0, 2.0, 3.0)
        else:
            slicer.util.updateVolumeFromArray(node, np.ones((4, 4, 4), np.uint8))
        assert complaint in Percentiles.check(node, give_error())

    def test_of_a_map_that_bounds_nothing(self, give_error, moving):
        with pytest.raises(ValueError, match="negative or no number"):
            Percentiles.warp(moving, give_error(-1.0))

    def test_of_what_cannot_be_warped_at_all(self, give_error):
        assert "Choose a transform" in Percentiles.check(None, give_error())

    def test_pause_that_raises_leaves_the_scene_as_it_was(self, give_error, segmentation):
        transform, turns = give_error(), iter([None] * 5 + [KeyboardInterrupt])
        before = mrml_scene.scene_state(slicer.mrmlScene)

        def pause() -> None:
            if next(turns) is not None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Percentiles.warp(segmentation, transform, pause=pause)
        assert mrml_scene.scene_state(slicer.mrmlScene) == before
