"""Values of nodes survive warping, whatever their type, at its ends."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_scene
from DeepAttentionRegLib.nodes import Transforms, Volumes, Warping

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

KINDS = ["int16", "int32", "uint32", "int64", "uint64"]


def extremes(kind: str, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the ends of a type, and what floats would round, at random places."""
    limits = np.iinfo(kind)
    some = [limits.min, limits.max, limits.max - 1, 2**24 + 3, 2**53 + 1]
    values = np.array([value for value in some if value <= limits.max], kind)
    return values[np.random.default_rng(0).integers(0, len(values), shape)]


def add(className: str, array: np.ndarray, geometry) -> slicer.vtkMRMLVolumeNode:
    node = slicer.mrmlScene.AddNewNodeByClass(className, "Values")
    Volumes.fillVolume(node, Volumes.makeImage(array), geometry)  # Slicer's own way refuses 64 bits
    return node


@pytest.fixture
def step(oblique_geometry):
    """The transform of a registration that leads one voxel further along i."""
    fixed = mrml_scene.add_volume(np.zeros(oblique_geometry.shape, np.float32), oblique_geometry, "CT")
    voxel = oblique_geometry.ijk_to_lps[:3, :3] @ [1.0, 0.0, 0.0]
    field = np.broadcast_to(np.float32(voxel), (*oblique_geometry.shape, 3))
    return Transforms.createGridTransform(Transforms.makeGridTransform(field, oblique_geometry), "Found", fixed, fixed)


class TestValues:
    @pytest.mark.parametrize("kind", KINDS)
    def test_labels_are_taken_as_they_are(self, step, oblique_geometry, kind):
        array = extremes(kind, oblique_geometry.shape)
        node = add("vtkMRMLLabelMapVolumeNode", array, oblique_geometry)
        warped = slicer.util.arrayFromVolume(Warping.warp(node, step).node)
        assert warped.dtype == array.dtype
        np.testing.assert_array_equal(warped[..., :-1], array[..., 1:])

    @pytest.mark.parametrize("kind", KINDS)
    def test_images_do_not_wrap(self, step, oblique_geometry, kind):
        array = extremes(kind, oblique_geometry.shape)
        node = add("vtkMRMLScalarVolumeNode", array, oblique_geometry)
        warped = slicer.util.arrayFromVolume(Warping.warp(node, step).node)
        assert warped.dtype == array.dtype
        # The field has single precision, which the contrast of the whole type multiplies.
        inner, expected = (part[1:-1, 1:-1, 1:-1].astype(float) for part in (warped[..., :-1], array[..., 1:]))
        np.testing.assert_allclose(inner, expected, atol=1e-4 * float(np.iinfo(kind).max))
