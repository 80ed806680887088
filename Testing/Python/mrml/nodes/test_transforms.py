"""The field as Slicer applies it, against the engine and SimpleITK, before and after saving."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_scene
from DeepAttentionRegEngine.volume import fields, images
from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras
from DeepAttentionRegLib.nodes import Transforms

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

AT_NODES_MM = 1e-3
BETWEEN_NODES_MM = 0.1  # Slicer interpolates with cubic polynomials, ITK and the engine linearly
POINTS = 400


@pytest.fixture
def volumes(oblique_geometry: Geometry) -> list[slicer.vtkMRMLScalarVolumeNode]:
    array = np.zeros(oblique_geometry.shape, np.float32)
    return [mrml_scene.add_volume(array, oblique_geometry, name) for name in ("Fixed", "Moving")]


@pytest.fixture
def transform_node(oblique_geometry, smooth_displacement, volumes) -> slicer.vtkMRMLTransformNode:
    transform = Transforms.makeGridTransform(smooth_displacement(oblique_geometry), oblique_geometry)
    return Transforms.createGridTransform(transform, "Moving to Fixed", *volumes)


def grid_nodes(geometry: Geometry) -> np.ndarray:
    index = np.moveaxis(np.indices(geometry.shape), 0, -1)[..., ::-1].reshape(-1, 3)
    return geometry.index_to_lps(index[:: max(1, len(index) // POINTS)])


def between_nodes(geometry: Geometry) -> np.ndarray:
    share = np.random.default_rng(0).uniform(0, 1, (POINTS, 3))
    return geometry.index_to_lps(share * (np.array(geometry.size) - 1))


def apply(node: slicer.vtkMRMLTransformNode, points_lps: np.ndarray) -> np.ndarray:
    """Return where Slicer maps fixed points."""
    transform = node.GetTransformFromParent()
    return flip_lps_ras(np.array([transform.TransformPoint(point) for point in flip_lps_ras(points_lps)]))


def apply_itk(displacement: np.ndarray, geometry: Geometry, points_lps: np.ndarray) -> np.ndarray:
    transform = sitk.DisplacementFieldTransform(images.to_sitk(displacement.astype(np.float64), geometry))
    return np.array([transform.TransformPoint(point) for point in points_lps.tolist()])


def check_agreement(node: slicer.vtkMRMLTransformNode, displacement: np.ndarray, geometry: Geometry) -> None:
    for points, tolerance in ((grid_nodes(geometry), AT_NODES_MM), (between_nodes(geometry), BETWEEN_NODES_MM)):
        slicers = apply(node, points)
        assert np.abs(slicers - fields.transform_points(displacement, geometry, points)).max() < tolerance
        if not geometry.is_flat:  # ITK takes every point off the plane of a single slice for outside
            assert np.abs(slicers - apply_itk(displacement, geometry, points)).max() < tolerance


def save(node: slicer.vtkMRMLTransformNode, path: Path) -> None:
    storage = slicer.vtkMRMLTransformStorageNode()
    storage.SetFileName(str(path))
    assert storage.WriteData(node)


def load(path: Path) -> slicer.vtkMRMLTransformNode:
    storage = slicer.vtkMRMLTransformStorageNode()
    storage.SetFileName(str(path))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    assert storage.ReadData(node)
    return node


class TestAgreement:
    def test_slicer_engine_and_itk_agree_on_every_grid(self, any_geometry, smooth_displacement, volumes):
        displacement = smooth_displacement(any_geometry)
        transform = Transforms.makeGridTransform(displacement, any_geometry)
        node = Transforms.createGridTransform(transform, "T", *volumes)
        check_agreement(node, displacement, any_geometry)

    def test_outside_the_grid_the_edge_value_continues(self, transform_node, oblique_geometry, smooth_displacement):
        size = np.array(oblique_geometry.size)
        share = np.random.default_rng(1).uniform(-0.5, 1.5, (POINTS, 3))
        points = oblique_geometry.index_to_lps(share * size)
        wanted = fields.transform_points(smooth_displacement(oblique_geometry), oblique_geometry, points)
        assert np.abs(apply(transform_node, points) - wanted).max() < BETWEEN_NODES_MM

    def test_to_parent_brings_moving_points_back(self, transform_node, oblique_geometry, smooth_displacement):
        points = between_nodes(oblique_geometry)
        moving = flip_lps_ras(apply(transform_node, points))
        back = np.array([transform_node.GetTransformToParent().TransformPoint(point) for point in moving])
        assert np.abs(flip_lps_ras(back) - points).max() < 0.05  # VTK's own inverse stops at 0.01 mm

    def test_field_of_another_size_is_refused(self, oblique_geometry):
        with pytest.raises(ValueError, match=r"\(2, 2, 2, 3\)"):
            Transforms.makeGridTransform(np.zeros((2, 2, 2, 3), np.float32), oblique_geometry)


@pytest.mark.parametrize("suffix", [".h5", ".nrrd", ".nii.gz", ".mha"])
class TestFiles:
    def test_saving_and_loading_changes_no_point(self, transform_node, oblique_geometry, suffix, tmp_path):
        save(transform_node, tmp_path / f"t{suffix}")
        points = np.concatenate([grid_nodes(oblique_geometry), between_nodes(oblique_geometry)])
        difference = apply(load(tmp_path / f"t{suffix}"), points) - apply(transform_node, points)
        assert np.abs(difference).max() < 1e-5  # geometry is stored with fewer digits by some formats

    def test_loaded_field_agrees_with_engine_and_itk(
        self, transform_node, oblique_geometry, smooth_displacement, suffix, tmp_path
    ):
        save(transform_node, tmp_path / f"t{suffix}")
        check_agreement(load(tmp_path / f"t{suffix}"), smooth_displacement(oblique_geometry), oblique_geometry)

    def test_engine_reads_what_slicer_saved(
        self, transform_node, oblique_geometry, smooth_displacement, suffix, tmp_path
    ):
        save(transform_node, tmp_path / f"t{suffix}")
        displacement, _geometry = images.read_displacement(tmp_path / f"t{suffix}")
        np.testing.assert_allclose(displacement, smooth_displacement(oblique_geometry), atol=1e-5)

    def test_slicer_loads_what_the_engine_wrote(self, oblique_geometry, smooth_displacement, suffix, tmp_path):
        displacement = smooth_displacement(oblique_geometry)
        images.write_displacement(tmp_path / f"t{suffix}", displacement, oblique_geometry)
        check_agreement(load(tmp_path / f"t{suffix}"), displacement, oblique_geometry)

    def test_itk_applies_what_slicer_saved_alike(
        self, transform_node, oblique_geometry, smooth_displacement, suffix, tmp_path
    ):
        save(transform_node, tmp_path / f"t{suffix}")
        points = grid_nodes(oblique_geometry)
        if suffix == ".h5":
            transform = sitk.ReadTransform(str(tmp_path / f"t{suffix}"))
        else:
            image = sitk.ReadImage(str(tmp_path / f"t{suffix}"), sitk.sitkVectorFloat64)
            transform = sitk.DisplacementFieldTransform(image)
        itks = np.array([transform.TransformPoint(point) for point in points.tolist()])
        np.testing.assert_allclose(itks, apply(transform_node, points), atol=AT_NODES_MM)


class TestScene:
    def test_saving_and_reloading_the_scene_changes_no_point(self, scene, transform_node, oblique_geometry, tmp_path):
        points = np.concatenate([grid_nodes(oblique_geometry), between_nodes(oblique_geometry)])
        before = apply(transform_node, points)
        mrml_scene.save_and_reload(scene, tmp_path)
        after = apply(scene.GetFirstNodeByName("Moving to Fixed"), points)
        np.testing.assert_allclose(after, before, atol=1e-6)

    def test_roles_survive_the_scene(self, scene, transform_node, tmp_path):
        mrml_scene.save_and_reload(scene, tmp_path)
        node = scene.GetFirstNodeByName("Moving to Fixed")
        assert node.GetNodeReference(node.GetFixedNodeReferenceRole()).GetName() == "Fixed"
        assert node.GetNodeReference(node.GetMovingNodeReferenceRole()).GetName() == "Moving"


class TestNode:
    def test_roles_name_fixed_and_moving(self, transform_node, volumes):
        roles = transform_node.GetFixedNodeReferenceRole(), transform_node.GetMovingNodeReferenceRole()
        assert [transform_node.GetNodeReference(role) for role in roles] == volumes

    def test_existing_node_is_written_into(self, scene, transform_node, oblique_geometry, volumes):
        count = scene.GetNumberOfNodes()
        transform = Transforms.makeGridTransform(np.zeros((*oblique_geometry.shape, 3), np.float32), oblique_geometry)
        assert Transforms.createGridTransform(transform, "Other", *volumes, node=transform_node) is transform_node
        assert transform_node.GetName() == "Moving to Fixed"
        assert scene.GetNumberOfNodes() == count
        points = between_nodes(oblique_geometry)
        np.testing.assert_allclose(apply(transform_node, points), points, atol=1e-9)

    def test_field_reads_back_as_it_was(self, transform_node, oblique_geometry, smooth_displacement):
        displacement, geometry = Transforms.readGrid(transform_node)
        np.testing.assert_array_equal(displacement, smooth_displacement(oblique_geometry))
        np.testing.assert_allclose(geometry.ijk_to_lps, oblique_geometry.ijk_to_lps, atol=1e-12)
        assert geometry.size == oblique_geometry.size

    def test_linear_transform_is_refused(self):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Linear")
        with pytest.raises(ValueError, match="Linear is not a displacement field"):
            Transforms.readGrid(node)

    def test_field_of_the_other_direction_is_refused(self, oblique_geometry, smooth_displacement):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Inverse")
        transform = Transforms.makeGridTransform(smooth_displacement(oblique_geometry), oblique_geometry)
        node.SetAndObserveTransformToParent(transform)
        with pytest.raises(ValueError, match="Inverse is not a displacement field"):
            Transforms.readGrid(node)
