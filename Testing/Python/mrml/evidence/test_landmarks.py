"""The error of landmarks before and after a deformation: distances that are known, arrows where the truth is."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import inspection_cases as cases
import mrml_cases
import mrml_scene
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegLib.evidence import Landmarks, Maps
from DeepAttentionRegLib.nodes import Record
from DeepAttentionRegLib.nodes.Overlays import Map

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

SIDE = 200  # of the view, pixels
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
STEP = (2.0, 0.0, 0.0)  # of the deformation, voxels
OFF_RAS = np.array([3.0, -4.0, 12.0])  # of the moving landmarks, mm
NAMES = ["Apex", "Carina", "Tip"]
INDEX = np.array([[3.0, 4.0, 2.0], [8.0, 6.0, 5.0], [5.5, 2.5, 7.0]])


def add_points(positions: np.ndarray, names: list[str], name: str = "F") -> slicer.vtkMRMLMarkupsFiducialNode:
    """Add named points (N, 3) in RAS mm."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    for position, label in zip(positions, names, strict=True):
        node.AddControlPoint(*position, label)
    return node


def to_ras(geometry: Geometry, index: np.ndarray) -> np.ndarray:
    return geometry.index_to_lps(index) * (-1.0, -1.0, 1.0)


@pytest.fixture
def deformation(scene, oblique_geometry):
    return cases.add_deformation(oblique_geometry, cases.shift(oblique_geometry, STEP))


@pytest.fixture
def fixed_ras(oblique_geometry):
    return to_ras(oblique_geometry, INDEX)


@pytest.fixture
def pair(deformation, fixed_ras):
    """Moving landmarks that are off by 13 mm."""
    return add_points(fixed_ras, NAMES, "Fixed"), add_points(fixed_ras + OFF_RAS, NAMES, "Moving")


class TestErrors:
    def test_before_is_the_distance_of_the_landmarks(self, deformation, pair):
        np.testing.assert_allclose(Landmarks.measure(deformation, *pair).errorsMm["before"], 13.0)

    def test_after_is_the_distance_from_where_they_are_carried(self, deformation, pair, oblique_geometry):
        step_ras = np.diff(to_ras(oblique_geometry, np.array([np.zeros(3), STEP])), axis=0)[0]
        expected = np.linalg.norm(OFF_RAS - step_ras)
        np.testing.assert_allclose(Landmarks.measure(deformation, *pair).errorsMm["after"], expected, atol=1e-5)

    def test_exact_deformation_leaves_no_error(self, deformation, fixed_ras, oblique_geometry):
        moving = to_ras(oblique_geometry, INDEX + STEP)
        pair = add_points(fixed_ras, NAMES), add_points(moving, NAMES)
        np.testing.assert_allclose(Landmarks.measure(deformation, *pair).errorsMm["after"], 0.0, atol=1e-5)

    def test_moving_side_under_a_rigid_transform(self, deformation, pair):
        after = Landmarks.measure(deformation, *pair).errorsMm["after"]
        mrml_cases.put_under(deformation.moving, mrml_cases.RIGID)
        pair[1].SetAndObserveTransformNodeID(deformation.moving.GetTransformNodeID())
        measurement = Landmarks.measure(deformation, *pair)
        np.testing.assert_allclose(measurement.errorsMm["after"], after)
        world = slicer.util.arrayFromMarkupsControlPoints(pair[1], world=True)
        fixed = slicer.util.arrayFromMarkupsControlPoints(pair[0])
        np.testing.assert_allclose(measurement.errorsMm["before"], np.linalg.norm(world - fixed, axis=1))
        np.testing.assert_allclose(measurement.arrowsRas["after"][1], world)

    def test_start_is_remembered_when_the_moving_side_is_under_the_result(self, deformation, pair):
        start = np.linalg.inv(mrml_cases.RIGID)
        Record.remember(deformation.transformNode, Record.Record(start=start.ravel().tolist()))
        before = Landmarks.measure(deformation, *pair).errorsMm["before"]
        for node in (deformation.moving, pair[1]):
            node.SetAndObserveTransformNodeID(deformation.transformNode.GetID())
        np.testing.assert_allclose(Landmarks.measure(deformation, *pair).errorsMm["before"], before)

    @pytest.mark.parametrize("state", ["before", "after"])
    def test_arrows_are_as_long_as_the_error(self, deformation, pair, state):
        measurement = Landmarks.measure(deformation, *pair)
        tails, heads = measurement.arrowsRas[state]
        np.testing.assert_allclose(np.linalg.norm(heads - tails, axis=1), measurement.errorsMm[state])


class TestBound:
    """The bound rises by 1 mm a slice from 8 mm on."""

    @pytest.fixture
    def bounded(self, deformation, oblique_geometry):
        bound = np.broadcast_to(np.arange(9.0)[:, None, None] + 8, oblique_geometry.shape)
        Maps.put(deformation, Map.ERROR, bound.astype(np.float32), oblique_geometry)
        return deformation

    def test_is_that_of_the_map_at_the_fixed_landmark(self, bounded, pair):
        rows = cases.rows_of(Landmarks.create(Landmarks.measure(bounded, *pair)).table)
        found = {row["Landmark"]: row["Error within (mm)"] for row in rows}
        wanted = {"Apex": 10.0, "Carina": 13.0, "Tip": 15.0}
        assert found == pytest.approx({"Mean": 38 / 3, "Maximum": 15.0, **wanted}, abs=1e-5)

    def test_errors_within_it_are_counted(self, bounded, pair):
        after = Landmarks.measure(bounded, *pair).errorsMm["after"]
        held = int((after <= (10.0, 13.0, 15.0)).sum())
        Landmarks.create(Landmarks.measure(bounded, *pair))
        assert Landmarks.describe(bounded).endswith(f"{held} of 3 errors after are within their 95 % bound.")
        assert 0 < held < 3

    def test_is_not_known_outside_of_the_fixed_volume(self, bounded, fixed_ras, oblique_geometry):
        fixed_ras[2] = to_ras(oblique_geometry, np.array([[40.0, 2.0, 2.0]]))[0]
        pair = add_points(fixed_ras, NAMES), add_points(fixed_ras, NAMES)
        rows = cases.rows_of(Landmarks.create(Landmarks.measure(bounded, *pair)).table)
        assert np.isnan(rows[-1]["Error within (mm)"])
        assert rows[0]["Error within (mm)"] == pytest.approx(11.5, abs=1e-5)
        assert " of 2 errors after" in Landmarks.describe(bounded)

    def test_without_a_map_there_is_no_column(self, deformation, pair):
        rows = cases.rows_of(Landmarks.create(Landmarks.measure(deformation, *pair)).table)
        assert "Error within (mm)" not in rows[0]
        assert "bound" not in Landmarks.describe(deformation)


class TestPairing:
    def test_same_names_in_the_same_order(self):
        assert Landmarks.pairUp(NAMES, NAMES) == Landmarks.Pairing([(0, 0), (1, 1), (2, 2)], NAMES, [])

    def test_same_names_in_another_order_are_paired_by_name(self):
        pairing = Landmarks.pairUp(NAMES, ["Tip", "Apex", "Carina"])
        assert pairing.indices == [(0, 1), (1, 2), (2, 0)]
        assert pairing.warnings == ["The landmarks are listed in another order, so they were paired by name."]

    def test_other_names_are_paired_by_order(self):
        pairing = Landmarks.pairUp(["F-1", "F-2"], ["M-1", "M-2"])
        assert pairing == Landmarks.Pairing([(0, 0), (1, 1)], ["F-1 / M-1", "F-2 / M-2"], [])

    def test_landmark_missing_within_is_told_and_the_rest_paired_by_name(self):
        pairing = Landmarks.pairUp(NAMES, ["Apex", "Tip"])
        assert pairing.indices == [(0, 0), (2, 1)]
        (warning,) = pairing.warnings
        assert warning == "There are 3 fixed and 2 moving landmarks, paired by name; without a partner: Carina."

    def test_surplus_at_the_end_is_told_and_the_rest_paired_by_order(self):
        pairing = Landmarks.pairUp(["F-1"], ["M-1", "M-2"])
        assert pairing.indices == [(0, 0)]
        assert pairing.warnings[0].endswith("paired in their order; without a partner: M-2.")

    def test_names_that_occur_twice_tell_nothing(self):
        assert Landmarks.pairUp(["A", "A", "B"], ["B", "A", "A"]).indices == [(0, 0), (1, 1), (2, 2)]


class TestWarnings:
    def test_landmark_that_is_not_placed_is_left_out(self, deformation, pair):
        pair[1].UnsetNthControlPointPosition(1)
        measurement = Landmarks.measure(deformation, *pair)
        assert measurement.names == ["Apex", "Tip"]
        assert measurement.warnings[0] == "1 landmarks of Moving are not placed and were left out."
        assert measurement.warnings[1].endswith("without a partner: Carina.")

    def test_landmark_outside_of_the_fixed_volume_is_told(self, deformation, fixed_ras, oblique_geometry):
        fixed_ras[2] = to_ras(oblique_geometry, np.array([[40.0, 2.0, 2.0]]))[0]
        pair = add_points(fixed_ras, NAMES), add_points(fixed_ras, NAMES)
        (warning,) = Landmarks.measure(deformation, *pair).warnings
        assert warning == "Outside of the fixed volume, where the deformation is not known: Tip."


class TestRefusal:
    def test_without_landmarks_it_says_what_to_choose(self, deformation, pair):
        assert "Choose fixed and moving landmarks" in Landmarks.checkLandmarks(deformation, pair[0], None)

    def test_one_list_for_both_is_refused(self, deformation, pair):
        assert "the same list" in Landmarks.checkLandmarks(deformation, pair[0], pair[0])

    def test_empty_list_is_refused(self, deformation, pair):
        empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Empty")
        with pytest.raises(ValueError, match="Empty has no landmark that is placed"):
            Landmarks.measure(deformation, pair[0], empty)

    def test_landmarks_under_another_deformation_are_refused(self, deformation, pair, oblique_geometry):
        other = cases.add_deformation(oblique_geometry, cases.shift(oblique_geometry, STEP))
        pair[1].SetAndObserveTransformNodeID(other.transformNode.GetID())
        assert "Moving is under a non-linear transform" in Landmarks.checkLandmarks(deformation, *pair)


class TestNodes:
    def test_table_has_mean_and_maximum_and_every_landmark(self, deformation, pair):
        rows = cases.rows_of(Landmarks.create(Landmarks.measure(deformation, *pair)).table)
        assert [row["Landmark"] for row in rows] == ["Mean", "Maximum", *NAMES]
        assert {round(row["Error before (mm)"], 9) for row in rows} == {13.0}

    def test_measuring_again_writes_into_the_same_nodes(self, scene, deformation, pair):
        nodes = Landmarks.create(Landmarks.measure(deformation, *pair))
        count = scene.GetNumberOfNodes()
        assert Landmarks.create(Landmarks.measure(deformation, *pair)) == nodes
        assert scene.GetNumberOfNodes() == count

    def test_failure_leaves_the_scene_as_it_was(self, scene, deformation, pair, monkeypatch):
        before = mrml_scene.scene_state(scene)
        monkeypatch.setattr(Landmarks.Metrics, "createTable", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Landmarks.create(Landmarks.measure(deformation, *pair))
        assert mrml_scene.scene_state(scene) == before

    def test_arrow_reaches_from_tail_to_head(self):
        tail, head = np.array([[1.0, 2.0, 3.0]]), np.array([[-4.0, 10.0, 6.0]])
        points = np.array(Landmarks.makeArrows(tail, head, 0.1).GetPoints().GetData())
        along = (points - tail) @ (head - tail)[0] / np.linalg.norm(head - tail)
        assert (along.min(), along.max()) == pytest.approx((0.0, np.linalg.norm(head - tail)), abs=1e-5)

    def test_landmark_without_error_has_no_arrow(self):
        assert Landmarks.makeArrows(np.ones((1, 3)), np.ones((1, 3)), 1.0).GetNumberOfPoints() == 0


@pytest.fixture(scope="module")
def view(application) -> mrml_scene.SliceView:
    return mrml_scene.SliceView(application, "Red", "Axial", (SIDE, SIDE))


class TestPixels:
    @pytest.fixture
    def shown(self, scene):
        """One landmark at the left, carried nowhere, whose partner lies 40 mm to the right of it and 6 mm behind."""
        grid = Geometry((40, 40, 5), (2.0, 2.0, 3.0), (-39.0, -39.0, -6.0), AXIAL)
        deformation = cases.add_deformation(grid, cases.shift(grid, (0, 0, 0)))
        pair = [add_points(np.array([[x, 0.0, z]]), ["A"]) for x, z in ((20.0, -3.0), (-20.0, 3.0))]
        for node in pair:
            node.CreateDefaultDisplayNodes()
            node.GetDisplayNode().SetVisibility(False)
        Landmarks.create(Landmarks.measure(deformation, *pair))
        return deformation

    def test_arrow_is_drawn_from_where_the_landmark_goes_to_its_partner(self, view, shown):
        view.show(shown.fixed)
        drawn = np.argwhere((view.grab() != cases.GRAY).any(axis=2))
        assert (drawn[:, 1].min(), drawn[:, 1].max()) == pytest.approx((50, 150), abs=2)
        assert drawn[:, 0].mean() == pytest.approx(100, abs=2)

    def test_tip_is_at_the_moving_landmark(self, view, shown):
        view.show(shown.fixed)
        height = (view.grab() != cases.GRAY).any(axis=2).sum(axis=0)
        assert height[60:120].max() < height[120:150].max()

    def test_states_have_their_colors(self, view, shown):
        for state, color in Landmarks.COLORS.items():
            Landmarks.show(shown, state)
            view.show(shown.fixed)
            np.testing.assert_allclose(view.grab()[100, 90] / 255, color, atol=0.02)

    def test_hidden_arrows_are_not_drawn(self, view, shown):
        Landmarks.show(shown, None)
        view.show(shown.fixed)
        assert (view.grab() == cases.GRAY).all()
