"""A deformation corrected by hand: where points then go, what stays, back and forth, and the lists that are kept."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import inspection_cases as cases
import mrml_cases
from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras
from DeepAttentionRegLib.evidence import Corrections
from DeepAttentionRegLib.nodes import Record
from DeepAttentionRegLib.nodes.Overlays import Map

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

STEP = (2.0, 0.0, 0.0)  # of the deformation, voxels
INDEX = np.array([[30.0, 24.0, 20.0], [12.0, 14.0, 11.0]])
OFF = np.array([3.0, -4.0, 2.0])  # mm
REACH = 8.0


@pytest.fixture
def geometry() -> Geometry:
    """Return an oblique grid of uneven voxels, wide enough for a correction to end within it."""
    c, s = np.cos(0.3), np.sin(0.3)
    return Geometry((60, 48, 40), (1.5, 1.8, 2.5), (-40.0, 10.0, 25.0), (c, -s, 0.0, s, c, 0.0, 0.0, 0.0, 1.0))


@pytest.fixture
def deformation(scene, geometry):
    return cases.add_deformation(geometry, cases.shift(geometry, STEP))


@pytest.fixture
def places(geometry) -> np.ndarray:
    return flip_lps_ras(geometry.index_to_lps(INDEX))


def led(deformation, point: np.ndarray) -> np.ndarray:
    return np.array(deformation.transformNode.GetTransformFromParent().TransformPoint(point))


class TestMending:
    def test_a_point_goes_where_it_was_seen_in_the_moving_volume(self, deformation, places):
        before = led(deformation, places[1])
        mended = Corrections.Corrections(deformation).add(places[0], places[0] + OFF, REACH, onMoving=True)
        np.testing.assert_allclose(led(deformation, places[0]), places[0] + OFF, atol=0.2)
        np.testing.assert_allclose(led(deformation, places[1]), before, atol=1e-3)
        assert mended.jacobian[0] > 0

    def test_a_point_that_was_seen_in_the_warped_volume_goes_where_that_leads(self, deformation, places):
        wanted = led(deformation, places[0] + OFF)
        Corrections.Corrections(deformation).add(places[0], places[0] + OFF, REACH, onMoving=False)
        np.testing.assert_allclose(led(deformation, places[0]), wanted, atol=0.1)

    def test_maps_of_the_deformation_as_it_was_found_judge_it_no_longer(self, deformation, places):
        for kind in (Map.ERROR, Map.CHANGE):
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
            Record.attach(deformation.transformNode, kind.value, node)
        Corrections.Corrections(deformation).add(places[0], places[0] + OFF, REACH, onMoving=True)
        assert not {Map.ERROR.value, Map.CHANGE.value} & set(Record.attachments(deformation.transformNode))

    def test_several_hold_together(self, deformation, places):
        corrections = Corrections.Corrections(deformation)
        partners = places + np.array([[3.0, 0.0, 0.0], [0.0, 2.0, 1.0]])
        for place, partner in zip(places, partners, strict=True):
            corrections.add(place, partner, 20.0, onMoving=True)
        for place, partner in zip(places, partners, strict=True):
            np.testing.assert_allclose(led(deformation, place), partner, atol=0.1)

    def test_a_long_one_reaches_further_rather_than_fold(self, deformation, places):
        mended = Corrections.Corrections(deformation).add(places[0], places[0] + 4 * OFF, 2.0, onMoving=True)
        assert mended.reach_mm > 10
        assert mended.jacobian[0] > 0

    def test_moving_volume_under_a_rigid_transform(self, deformation, places):
        mrml_cases.put_under(deformation.moving, mrml_cases.RIGID)
        partner = mrml_cases.RIGID @ [*(places[0] + OFF), 1.0]
        Corrections.Corrections(deformation).add(places[0], partner[:3], REACH, onMoving=True)
        np.testing.assert_allclose(led(deformation, places[0]), places[0] + OFF, atol=0.2)


class TestSteps:
    def test_can_be_taken_back_and_done_again(self, deformation, places):
        corrections = Corrections.Corrections(deformation)
        states = [led(deformation, places[0])]
        for share in (1.0, 0.5):
            corrections.add(places[0] + share, places[0] + OFF, REACH, onMoving=True)
            states.append(led(deformation, places[0]))
        for expected in states[1::-1]:
            corrections.undo(REACH)
            np.testing.assert_allclose(led(deformation, places[0]), expected, atol=1e-4)
        assert not corrections.canUndo
        for expected in states[1:]:
            corrections.redo(REACH)
            np.testing.assert_allclose(led(deformation, places[0]), expected, atol=1e-4)
        assert not corrections.canRedo

    def test_dragging_a_partner_is_a_step(self, deformation, places):
        corrections = Corrections.Corrections(deformation)
        corrections.add(places[0], places[0] + OFF, REACH, onMoving=True)
        assert corrections.follow(REACH) is None
        partners = Record.attached(deformation.transformNode, Corrections.PARTNERS)
        partners.SetNthControlPointPositionWorld(0, *(places[0] - OFF))
        assert corrections.follow(REACH) is not None
        np.testing.assert_allclose(led(deformation, places[0]), places[0] - OFF, atol=0.2)
        corrections.undo(REACH)
        np.testing.assert_allclose(led(deformation, places[0]), places[0] + OFF, atol=0.2)

    def test_a_new_step_forgets_what_was_taken_back(self, deformation, places):
        corrections = Corrections.Corrections(deformation)
        corrections.add(places[0], places[0] + OFF, REACH, onMoving=True)
        corrections.undo(REACH)
        corrections.add(places[1], places[1] + OFF, REACH, onMoving=True)
        assert not corrections.canRedo
        assert len(corrections.read().places) == 1

    def test_shows_what_it_was_without(self, deformation, places):
        before = led(deformation, places[0])
        corrections = Corrections.Corrections(deformation)
        corrections.add(places[0], places[0] + OFF, REACH, onMoving=True)
        corrections.showWithout()
        np.testing.assert_allclose(led(deformation, places[0]), before, atol=1e-4)
        corrections.again(REACH)
        np.testing.assert_allclose(led(deformation, places[0]), places[0] + OFF, atol=0.2)


class TestScene:
    def test_pairs_are_saved_and_further_ones_keep_them(self, deformation, places):
        Corrections.Corrections(deformation).add(places[0], places[0] + OFF, REACH, onMoving=True)
        roles = Corrections.PLACES, Corrections.PARTNERS
        lists = [Record.attached(deformation.transformNode, role) for role in roles]
        assert [node.GetNumberOfControlPoints() for node in lists] == [1, 1]
        assert all(node.GetSaveWithScene() for node in lists)
        later = Corrections.Corrections(deformation)
        later.add(places[1], places[1] + OFF, 20.0, onMoving=True)
        for place in places:
            np.testing.assert_allclose(led(deformation, place), place + OFF, atol=0.2)
        later.undo(REACH)
        np.testing.assert_allclose(led(deformation, places[0]), places[0] + OFF, atol=0.2)

    def test_says_what_was_done(self, deformation, places):
        mended = Corrections.Corrections(deformation).add(places[0], places[0] + OFF, REACH, onMoving=True)
        text = Corrections.describe(mended, 1)
        assert text.startswith("Corrections: 1, the longest 6.94 mm, reach 8 mm. Jacobian around: 0.")
        assert Corrections.describe(mended, 0) == ""
