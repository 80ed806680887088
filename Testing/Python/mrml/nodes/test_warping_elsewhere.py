"""What lies elsewhere than a transform leads is warped to nothing, and that is told."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_scene
from DeepAttentionRegLib.nodes import Transforms, Warping
from mrml_cases import InputNodes, add_segmentation

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

SHIFTS = pytest.mark.parametrize(("shift_mm", "is_seen"), [(0.0, True), (1000.0, False)], ids=["here", "elsewhere"])


@pytest.fixture
def pair(oblique_geometry):
    """Two volumes on one grid, the moving one with values of all kinds."""
    values = np.random.default_rng(0).normal(0, 100, oblique_geometry.shape).astype(np.float32)
    fixed, moving = (mrml_scene.add_volume(array, oblique_geometry, "CT") for array in (0 * values, values))
    return InputNodes(fixed, moving)


def make_transform(pair, geometry, shift_mm: float):
    """Return the transform of a registration that leads so far to the left."""
    field = np.zeros((*geometry.shape, 3), np.float32)
    field[..., 0] = shift_mm
    made = Transforms.makeGridTransform(field, geometry)
    return Transforms.createGridTransform(made, "Found", pair.fixedVolume, pair.movingVolume)


def tells(warning: str, name: str) -> bool:
    return warning == f"{name} lies elsewhere than Found leads, so nothing of it is seen in what was warped."


class TestElsewhere:
    @SHIFTS
    def test_volume(self, pair, oblique_geometry, shift_mm, is_seen):
        warning = Warping.warp(pair.movingVolume, make_transform(pair, oblique_geometry, shift_mm)).warning
        assert warning == "" if is_seen else tells(warning, "CT")

    @SHIFTS
    def test_segmentation(self, pair, oblique_geometry, shift_mm, is_seen):
        node = add_segmentation(pair, "Organs")
        warning = Warping.warp(node, make_transform(pair, oblique_geometry, shift_mm)).warning
        assert warning == "" if is_seen else tells(warning, "Organs")

    def test_volume_of_one_value_has_nothing_to_show(self, pair, oblique_geometry):
        transform = make_transform(pair, oblique_geometry, 0.0)
        assert Warping.warp(pair.fixedVolume, transform).warning == ""
