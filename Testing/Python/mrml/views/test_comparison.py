"""Two volumes compared in slice views, by looking at pixels whose values are known."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_cases
import mrml_scene
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegLib.nodes import Deformation, Transforms
from DeepAttentionRegLib.views import Layouts, Mixing
from DeepAttentionRegLib.views.Comparison import Comparison, ComparisonOptions, opacityAt
from DeepAttentionRegLib.views.ComparisonModes import Arrangement, ComparedVolume, Divider, Mode

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

SIZE = 200  # pixels across a view that 80 mm fill
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
# Gray values of the fixed volume, and of the moving one from 20 mm left of the middle on and before.
FIXED, MOVING, OUTSIDE = 60, 180, 20
SHIFT_MM = 20.0
BLUR = 3  # pixels: slice views interpolate from one voxel, 5 pixels wide, to the next


@pytest.fixture(scope="module")
def view(application) -> mrml_scene.SliceView:
    return mrml_scene.SliceView(application, "Red", "Axial", (SIZE, SIZE))


@pytest.fixture(scope="module")
def pane_views(application) -> list[mrml_scene.SliceView]:
    return [mrml_scene.SliceView(application, name, "Axial", (SIZE, SIZE)) for name in Layouts.PANES]


@pytest.fixture
def geometry() -> Geometry:
    """An axial grid that fills the square view: LPS x to the right, y down, as in the picture."""
    return Geometry((40, 40, 5), (2.0, 2.0, 3.0), (-39.0, -39.0, -6.0), AXIAL)


def volume_of(array: np.ndarray, geometry: Geometry, name: str) -> slicer.vtkMRMLScalarVolumeNode:
    node = mrml_scene.add_volume(array, geometry, name)
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevelMinMax(0, 255)
    return node


@pytest.fixture
def deformation(geometry) -> Deformation.Deformation:
    """A field that brings the edge of the moving volume, 20 mm left of the middle, to the middle."""
    fixed = volume_of(np.full(geometry.shape, FIXED, np.uint8), geometry, "CT1")
    array = np.full(geometry.shape, OUTSIDE, np.uint8)
    array[:, :, 30:] = MOVING
    moving = volume_of(array, geometry, "CT2")
    displacement = np.zeros((*geometry.shape, 3), np.float32)
    displacement[..., 0] = SHIFT_MM
    transform = Transforms.makeGridTransform(displacement, geometry)
    return Deformation.ofTransform(Transforms.createGridTransform(transform, "T", fixed, moving))


@pytest.fixture
def comparison(deformation):
    comparison = Comparison(deformation)
    yield comparison
    comparison.close()


@pytest.fixture
def look(view, deformation, comparison):
    """The function from options to the picture of the view."""

    def show(mode: Mode, **options) -> np.ndarray:
        view.show(deformation.fixed)
        comparison.show(ComparisonOptions(mode, **options))
        return view.grab()

    return show


def gray(picture: np.ndarray, column: int, row: int = 60) -> int:
    """Return a pixel that must be gray."""
    assert np.ptp(picture[row, column].astype(int)) == 0
    return int(picture[row, column, 0])


def composite() -> slicer.vtkMRMLSliceCompositeNode:
    return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")


class TestFade:
    @pytest.mark.parametrize(
        ("layer", "grays"), [(ComparedVolume.AFTER, [OUTSIDE, MOVING]), (ComparedVolume.BEFORE, [OUTSIDE, OUTSIDE])]
    )
    def test_whole_layer_is_the_moving_volume(self, look, layer, grays):
        picture = look(Mode.FADE, opacity=1.0, layer=layer)
        assert [gray(picture, column) for column in (50, 120)] == grays

    def test_no_layer_is_the_fixed_volume(self, look):
        assert (look(Mode.FADE, opacity=0.0) == FIXED).all()

    def test_half_a_layer_is_their_mean(self, look):
        picture = look(Mode.FADE, opacity=0.5)
        assert gray(picture, 120) == pytest.approx((FIXED + MOVING) / 2, abs=1)

    def test_end_of_the_layer_does_not_look_as_if_it_fitted(self, look):
        assert gray(look(Mode.FADE, opacity=1.0), 190) == OUTSIDE


class TestAlternating:
    @pytest.mark.parametrize("mode", [Mode.ROCK, Mode.FLICKER])
    def test_comes_and_goes_once_a_turn(self, mode):
        assert [opacityAt(mode, turns) for turns in (0.0, 0.5, 1.0)] == pytest.approx([0.0, 1.0, 0.0])

    def test_rock_moves_gently(self):
        values = [opacityAt(Mode.ROCK, turns) for turns in np.arange(0, 1, 0.04)]
        assert np.abs(np.diff(values)).max() < 0.15

    def test_flicker_never_changes_more_than_four_times_a_second(self, look, comparison):
        look(Mode.FLICKER)
        values = []
        for rate in [50.0, 0.1] * 500:
            comparison.step(0.001, rate)
            values.append(composite().GetForegroundOpacity())
        assert 1 <= np.count_nonzero(np.diff(values)) <= 4

    def test_steps_show_the_one_and_the_other(self, look, view, comparison):
        look(Mode.FLICKER)
        values = []
        for _step in range(4):
            comparison.step(0.3, rateHz=1.0)
            values.append(gray(view.grab(), 120))
        assert values == [FIXED, MOVING, MOVING, FIXED]

    def test_step_leaves_a_fade_alone(self, look, view, comparison):
        before = look(Mode.FADE, opacity=0.3)
        comparison.step(0.5, rateHz=1.0)
        assert (view.grab() == before).all()


class TestCheckerboard:
    def test_tiles_have_the_chosen_edge_and_alternate(self, look):
        picture = look(Mode.CHECKERBOARD, tileMm=20.0)
        # Four tiles of 50 pixels; in the last one there is no moving volume.
        left = [gray(picture, column, 25) for column in (25, 75, 125, 175)]
        assert left == [FIXED, OUTSIDE, FIXED, 0]
        assert [gray(picture, 125, row) for row in (25, 75, 125)] == [FIXED, MOVING, FIXED]


class TestReveal:
    def edge(self, picture: np.ndarray) -> int:
        """Return the first column that is not the fixed volume, in the part where the moving one is bright."""
        return int(np.argmax(picture[100, :, 0] != FIXED))

    @pytest.mark.parametrize("position", [0.25, 0.5, 0.75])
    def test_divider_is_where_it_was_put(self, look, position):
        assert self.edge(look(Mode.REVEAL, position=position)) == pytest.approx(position * SIZE, abs=BLUR)

    def test_divider_moves_both_ways(self, look):
        for position in (0.8, 0.2, 0.6):
            picture = look(Mode.REVEAL, position=position)
        assert self.edge(picture) == pytest.approx(0.6 * SIZE, abs=BLUR)

    def test_divider_follows_a_point(self, look, view, comparison):
        look(Mode.REVEAL)
        comparison.revealAt((-20.0, 5.0, 0.0))  # RAS: 20 mm left of the middle
        assert self.edge(view.grab()) == pytest.approx(150, abs=BLUR)

    def test_divider_beyond_the_volume_is_at_its_end(self, look, view, comparison):
        look(Mode.REVEAL)
        comparison.revealAt((-500.0, 0.0, 0.0))
        assert (view.grab() == FIXED).all()

    def test_front_to_back_runs_down_an_axial_picture(self, look):
        picture = look(Mode.REVEAL, divider=Divider.FRONT_BACK, position=0.25)
        assert np.argmax(picture[:, 120, 0] != FIXED) == pytest.approx(50, abs=BLUR)

    def test_divider_is_kept_on_a_grid_that_runs_the_other_way(self, view, geometry, deformation):
        flipped = Geometry(geometry.size, geometry.spacing, (39.0, -39.0, -6.0), (-1.0, *AXIAL[1:]))
        matrix = slicer.util.vtkMatrixFromArray(flipped.ijk_to_ras)
        deformation.fixed.SetIJKToRASMatrix(matrix)
        comparison = Comparison(deformation)
        view.show(deformation.fixed)
        comparison.show(ComparisonOptions(Mode.REVEAL, position=0.25))
        assert self.edge(view.grab()) == pytest.approx(50, abs=BLUR)
        comparison.revealAt((-20.0, 5.0, 0.0))
        assert self.edge(view.grab()) == pytest.approx(150, abs=BLUR)
        comparison.close()


class TestFusion:
    def test_what_fits_is_gray_and_the_rest_green_or_magenta(self, look, geometry, deformation):
        array = np.full(geometry.shape, OUTSIDE, np.uint8)
        array[:, :, 20:] = MOVING
        array[:, 20:, :20] = MOVING
        slicer.util.updateVolumeFromArray(deformation.fixed, array)
        picture = look(Mode.FUSION).astype(int)
        assert picture[60, 120] == pytest.approx(MOVING, abs=2)
        assert picture[150, 50] == pytest.approx((OUTSIDE, MOVING, OUTSIDE), abs=2)
        slicer.util.updateVolumeFromArray(deformation.fixed, np.full(geometry.shape, OUTSIDE, np.uint8))
        assert look(Mode.FUSION)[60, 120] == pytest.approx((MOVING, OUTSIDE, MOVING), abs=2)

    def test_fixed_volume_keeps_its_own_colors(self, look, deformation):
        look(Mode.FUSION)
        assert deformation.fixed.GetDisplayNode().GetColorNode().GetName() == "Grey"

    def test_next_comparison_is_gray_again(self, look):
        look(Mode.FUSION)
        assert gray(look(Mode.FADE, opacity=1.0), 120) == MOVING


class TestDifference:
    def values(self, deformation) -> np.ndarray:
        return slicer.util.arrayFromVolume(slicer.mrmlScene.GetNodeByID(composite().GetForegroundVolumeID()))

    def test_is_moving_minus_fixed(self, look, deformation):
        look(Mode.DIFFERENCE)
        values = self.values(deformation)
        assert values[2, 20, 10] == OUTSIDE - FIXED
        assert values[2, 20, 25] == MOVING - FIXED

    def test_absolute_has_no_sign(self, look, deformation):
        look(Mode.DIFFERENCE, isAbsolute=True)
        assert self.values(deformation)[2, 20, 10] == FIXED - OUTSIDE

    def test_what_windows_show_equally_bright_is_equal(self, look, deformation):
        array = slicer.util.arrayFromVolume(deformation.moving).astype(np.float32)
        slicer.util.updateVolumeFromArray(deformation.moving, array * 10 - 1000)
        deformation.moving.GetDisplayNode().SetWindowLevelMinMax(-1000, 1550)
        look(Mode.DIFFERENCE)
        assert self.values(deformation)[2, 20, 25] == pytest.approx(MOVING - FIXED, abs=1e-3)

    def test_brighter_is_orange_darker_blue_and_equal_black(self, look, deformation, geometry):
        picture = look(Mode.DIFFERENCE).astype(int)
        assert picture[150, 130, 0] > picture[150, 130, 2] + 100
        assert picture[150, 50, 2] > picture[150, 50, 0] + 20
        slicer.util.updateVolumeFromArray(deformation.fixed, np.full(geometry.shape, MOVING, np.uint8))
        assert look(Mode.DIFFERENCE)[150, 130].max() <= 2

    def test_fixed_volume_shows_where_there_is_nothing_to_compare(self, look):
        picture = look(Mode.DIFFERENCE)
        assert gray(picture, 156, 190) == FIXED

    def test_legend_is_seen(self, look, view, scene):
        picture = look(Mode.DIFFERENCE)
        scene.GetFirstNodeByClass("vtkMRMLColorLegendDisplayNode").SetVisibility(False)
        assert (view.grab() != picture).any()

    def test_has_a_legend_and_the_others_none(self, look, scene):
        look(Mode.DIFFERENCE)
        assert len(slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode", scene)) == 1
        look(Mode.CHECKERBOARD)
        assert not slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode", scene)


class TestSources:
    def test_changed_field_is_shown(self, look, comparison, deformation, geometry):
        look(Mode.FADE, opacity=1.0)
        still = Transforms.makeGridTransform(np.zeros((*geometry.shape, 3), np.float32), geometry)
        deformation.transformNode.SetAndObserveTransformFromParent(still)
        picture = look(Mode.FADE, opacity=1.0)
        assert gray(picture, 120) == OUTSIDE

    def test_moving_volume_is_where_its_parent_puts_it(self, look, deformation):
        shift = np.eye(4)
        shift[0, 3] = SHIFT_MM  # to the right, as the field does
        mrml_cases.put_under(deformation.moving, shift)
        picture = look(Mode.FADE, opacity=1.0, layer=ComparedVolume.BEFORE)
        assert [gray(picture, 90), gray(picture, 110)] == [OUTSIDE, MOVING]

    def test_moving_volume_under_the_transform_is_warped_once(self, look, deformation):
        deformation.moving.SetAndObserveTransformNodeID(deformation.transformNode.GetID())
        picture = look(Mode.FADE, opacity=1.0)
        assert [gray(picture, 90), gray(picture, 110)] == [OUTSIDE, MOVING]
        picture = look(Mode.FADE, opacity=1.0, layer=ComparedVolume.BEFORE)
        assert [gray(picture, 140), gray(picture, 160)] == [OUTSIDE, MOVING]

    def test_volumes_that_do_not_meet_are_refused(self, comparison, deformation):
        deformation.moving.SetOrigin(5000.0, 0.0, 0.0)
        with pytest.raises(ValueError, match="CT2 lies outside of CT1"):
            comparison.show(ComparisonOptions(Mode.FADE, layer=ComparedVolume.BEFORE))

    def test_same_options_compute_nothing_anew(self, look, comparison, monkeypatch):
        look(Mode.CHECKERBOARD)
        monkeypatch.setattr(Mixing, "tilesOf", None)
        comparison.show(ComparisonOptions(Mode.CHECKERBOARD))

    def test_source_is_the_same_as_long_as_nothing_changes(self, comparison, deformation):
        before = comparison._currentSource()
        deformation.transformNode.GetTransformFromParent().TransformPoint((1.0, 2.0, 3.0))
        assert comparison._currentSource() == before

    @pytest.mark.parametrize("mode", list(Mode)[1:])
    def test_every_kind_of_grid_can_be_compared(self, any_geometry, view, mode):
        array = np.random.default_rng(0).random(any_geometry.shape, np.float32)
        fixed, moving = (volume_of(array, any_geometry, name) for name in ("A", "B"))
        field = Transforms.makeGridTransform(np.zeros((*any_geometry.shape, 3), np.float32), any_geometry)
        comparison = Comparison(Deformation.ofTransform(Transforms.createGridTransform(field, "T", fixed, moving)))
        comparison.show(ComparisonOptions(mode))
        name = composite().GetForegroundVolumeID() or composite().GetBackgroundVolumeID()
        shown = slicer.util.arrayFromVolume(slicer.mrmlScene.GetNodeByID(name))
        wanted = np.zeros_like(array) if mode is Mode.DIFFERENCE else array
        np.testing.assert_allclose(shown, wanted, atol=1e-4)
        comparison.close()


class TestEnd:
    def test_scene_is_as_before(self, scene, view, deformation):
        view.show(deformation.moving, deformation.fixed, 0.3)
        before = mrml_scene.scene_state(scene)
        comparison = Comparison(deformation)
        for mode in Mode:
            comparison.show(ComparisonOptions(mode))
        comparison.close()
        assert mrml_scene.scene_state(scene) == before

    def test_nothing_of_it_is_saved_or_offered(self, look, scene):
        for mode in Mode:
            before = set(scene.GetNodes())
            look(mode)
            added = set(scene.GetNodes()) - before
            assert not [node for node in added if node.GetSaveWithScene() or not node.GetHideFromEditors()]

    def test_off_gives_back_what_was_shown(self, look, comparison, deformation):
        look(Mode.CHECKERBOARD)
        comparison.show(ComparisonOptions(Mode.OFF))
        assert composite().GetBackgroundVolumeID() == deformation.fixed.GetID()
        assert composite().GetForegroundVolumeID() is None
        assert not composite().GetLinkedControl()

    def test_choice_made_meanwhile_is_kept(self, look, comparison, deformation):
        look(Mode.CHECKERBOARD)
        composite().SetBackgroundVolumeID(deformation.moving.GetID())
        comparison.close()
        assert composite().GetBackgroundVolumeID() == deformation.moving.GetID()

    def test_second_comparison_leaves_the_views_to_the_first(self, look, comparison, deformation):
        look(Mode.FADE)
        other = Comparison(deformation)
        for mode in (Mode.FUSION, Mode.CHECKERBOARD):
            other.show(ComparisonOptions(mode))
            comparison.show(ComparisonOptions(mode))
        comparison.close()
        other.close()
        assert (composite().GetBackgroundVolumeID(), composite().GetForegroundVolumeID()) == (
            deformation.fixed.GetID(),
            None,
        )

    def test_volume_that_is_gone_does_not_come_back(self, look, comparison, deformation, geometry, view):
        other = volume_of(np.zeros(geometry.shape, np.uint8), geometry, "Other")
        view.show(other)
        comparison.show(ComparisonOptions(Mode.FADE))
        slicer.mrmlScene.RemoveNode(other)
        comparison.close()
        assert composite().GetBackgroundVolumeID() is None

    def test_views_are_linked_only_meanwhile(self, look, comparison):
        look(Mode.FADE)
        assert (composite().GetLinkedControl(), composite().GetHotLinkedControl()) == (1, 1)
        comparison.show(ComparisonOptions(Mode.FADE, isLinked=False))
        assert (composite().GetLinkedControl(), composite().GetHotLinkedControl()) == (0, 0)


class TestLayout:
    @pytest.fixture
    def node(self, scene):
        logic = slicer.vtkMRMLLayoutLogic()
        logic.SetMRMLScene(scene)
        yield logic.GetLayoutNode()
        logic.SetMRMLScene(None)

    @pytest.fixture
    def panes(self, node, pane_views, deformation):
        node.SetViewArrangement(node.SlicerLayoutFourUpView)
        Layouts.Layout().show(Arrangement.SIDE_BY_SIDE)
        for pane in pane_views:
            pane.show(deformation.fixed)
        return pane_views

    def test_three_views_show_fixed_moving_and_warped(self, panes, deformation, comparison):
        comparison.show(ComparisonOptions(Mode.OFF))
        pictures = [pane.grab() for pane in panes]
        assert [[gray(picture, column) for column in (90, 110, 160)] for picture in pictures] == [
            [FIXED, FIXED, FIXED],
            [OUTSIDE, OUTSIDE, MOVING],
            [OUTSIDE, MOVING, OUTSIDE],
        ]

    def test_third_view_is_the_place_to_compare(self, panes, deformation, comparison):
        comparison.show(ComparisonOptions(Mode.CHECKERBOARD))
        assert [gray(pane.grab(), 75, 25) for pane in panes] == [FIXED, OUTSIDE, OUTSIDE]
        assert gray(panes[2].grab(), 25, 25) == FIXED

    def test_views_of_another_layout_are_left_alone(self, node, panes, deformation, comparison):
        node.SetViewArrangement(node.SlicerLayoutOneUp3DView)
        before = mrml_scene.scene_state(slicer.mrmlScene)
        comparison.show(ComparisonOptions(Mode.OFF))
        assert mrml_scene.scene_state(slicer.mrmlScene) == before
