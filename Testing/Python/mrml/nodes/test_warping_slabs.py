"""Volumes are drawn slab by slab, so that there are pauses, and quickly where the field lies on their grid."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_scene
from DeepAttentionRegEngine.volume.geometry import flip_lps_ras
from DeepAttentionRegLib.nodes import Reslicing, Transforms, Warping

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]


@pytest.fixture
def moving(oblique_geometry):
    noise = np.random.default_rng(0).random(oblique_geometry.shape, dtype=np.float32)
    return mrml_scene.add_volume(noise, oblique_geometry, "CT2")


@pytest.fixture
def smooth(moving, smooth_displacement, oblique_geometry):
    """A transform whose field is smooth."""
    fixed = mrml_scene.add_volume(np.zeros(oblique_geometry.shape, np.float32), oblique_geometry, "CT1")
    field = Transforms.makeGridTransform(smooth_displacement(oblique_geometry).astype(np.float32), oblique_geometry)
    return Transforms.createGridTransform(field, "CT2 to CT1", fixed, moving)


@pytest.fixture
def warped(smooth, moving):
    return slicer.util.arrayFromVolume(Warping.warp(moving, smooth).node).copy()


def test_slabs_make_up_the_whole(smooth, moving, warped, monkeypatch):
    monkeypatch.setattr(Reslicing, "SLAB_VOXELS", 1)
    again = Warping.warp(moving, smooth).node
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(again), warped)


def test_pause_that_raises_leaves_the_scene_as_it_was(smooth, moving, monkeypatch):
    monkeypatch.setattr(Reslicing, "SLAB_VOXELS", 1)
    before = mrml_scene.scene_state(slicer.mrmlScene)
    turns = iter([None, KeyboardInterrupt])

    def pause() -> None:
        if next(turns) is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Warping.warp(moving, smooth, pause=pause)
    assert mrml_scene.scene_state(slicer.mrmlScene) == before


def test_quick_field_leads_voxels_to_the_same_places(smooth, oblique_geometry):
    field = smooth.GetTransformFromParent()
    quick = Transforms.forVoxels(field, oblique_geometry)
    assert quick is not field
    inside = np.array([[1, 1, 1], [2, 3, 1], [size // 2 for size in oblique_geometry.size]])
    points = flip_lps_ras(oblique_geometry.index_to_lps(inside))
    for point in points:
        np.testing.assert_allclose(quick.TransformPoint(point), field.TransformPoint(point), atol=1e-5)


def test_field_on_another_grid_stays_as_it_is(smooth, oblique_geometry):
    field = smooth.GetTransformFromParent()
    assert Transforms.forVoxels(field, oblique_geometry.resized((5, 6, 7))) is field
