"""A deformation on the grid on which it was found, as Slicer reads it from a file, against engine and SimpleITK."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)
pytest.importorskip("torch", reason="torch cannot be imported", exc_type=ImportError)

from DeepAttentionRegEngine.protocol.settings import AS_FOUND
from DeepAttentionRegEngine.registration.deformation import StoredDeformation
from DeepAttentionRegEngine.registration.transform_grid import BOUND_MM, store
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras
from stored_cases import points_within, waves, working_pair

pytestmark = [pytest.mark.mrml, pytest.mark.torch, pytest.mark.usefixtures("scene")]

AT_NODES_MM = 1e-3
SUFFIXES = [".nrrd", ".nii.gz", ".mha", ".h5"]


def load(path: Path) -> slicer.vtkMRMLTransformNode:
    storage = slicer.vtkMRMLTransformStorageNode()
    storage.SetFileName(str(path))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    assert storage.ReadData(node)
    return node


def slicers(path: Path, points: np.ndarray) -> np.ndarray:
    """Return where Slicer leads points with the transform in a file."""
    transform = load(path).GetTransformFromParent()
    return flip_lps_ras(np.array([transform.TransformPoint(point) for point in flip_lps_ras(points)]))


def itks(path: Path, points: np.ndarray) -> np.ndarray:
    """Return where SimpleITK leads points with the transform in a file."""
    if path.suffix == ".h5":
        transform = sitk.ReadTransform(str(path))
    else:
        field, geometry = images.read_displacement(path)  # vectors of NIfTI are RAS
        transform = sitk.DisplacementFieldTransform(images.to_sitk(field.astype(np.float64), geometry))
    return np.array([transform.TransformPoint(point) for point in points.tolist()])


def written(stored: StoredDeformation, path: Path) -> Path:
    images.write_displacement(path, stored.displacement_lps_mm, stored.geometry)
    return path


def nodes_within(stored: StoredDeformation, volume: Geometry) -> np.ndarray:
    """Return the nodes within a volume, `(N, 3)` LPS mm."""
    points = stored.geometry.index_to_lps(np.indices(stored.geometry.size).reshape(3, -1).T)
    index = volume.lps_to_index(points)
    return points[((index >= -0.5) & (index <= np.array(volume.size) - 0.5)).all(1)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_all_agree_at_nodes_between_them_and_at_the_border(any_geometry: Geometry, suffix: str, tmp_path: Path) -> None:
    pair = working_pair(any_geometry)
    stored = store(waves(pair, 0.05, 9), pair, any_geometry, AS_FOUND)
    assert not stored.geometry.matches(any_geometry)
    path = written(stored, tmp_path / f"t{suffix}")
    for points, tolerance in (
        (nodes_within(stored, any_geometry), AT_NODES_MM),
        (points_within(any_geometry), BOUND_MM),  # to the outer edges
        (points_within(any_geometry, 0.95), BOUND_MM),  # and a little beyond
    ):
        ours = points + stored.at(points)
        np.testing.assert_allclose(itks(path, points), ours, atol=AT_NODES_MM)
        assert np.linalg.norm(slicers(path, points) - ours, axis=1).max() < tolerance


def test_bound_holds_for_a_field_that_bends_anyhow(oblique_geometry: Geometry, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(*oblique_geometry.shape, 3)).astype(np.float32)
    stored = StoredDeformation(values, oblique_geometry)
    points = points_within(oblique_geometry, 0.0)
    apart = np.linalg.norm(slicers(written(stored, tmp_path / "t.nrrd"), points) - points - stored.at(points), axis=1)
    assert 0.2 * stored.bound_mm < apart.max() < stored.bound_mm
