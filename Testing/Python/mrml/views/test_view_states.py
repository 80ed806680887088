"""Slice views and their layout, which come back, and which leave others alone."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_scene
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegLib.views import Layers, Layouts, Links
from DeepAttentionRegLib.views.ComparisonModes import Arrangement
from DeepAttentionRegLib.views.MapView import MapView
from DeepAttentionRegLib.views.ViewStates import Shown, SlicePlace, ViewState

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

GRID = Geometry((9, 8, 7), (2.0, 2.0, 3.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


@pytest.fixture
def node(scene):
    """The layout of a scene with the views of that layout."""
    logic = slicer.vtkMRMLLayoutLogic()
    logic.SetMRMLScene(scene)
    yield logic.GetLayoutNode()
    logic.SetMRMLScene(None)
    scene.Clear(True)


class TestLayout:
    @pytest.mark.parametrize("arrangement", list(Arrangement)[1:])
    def test_layout_comes_back(self, node, arrangement):
        node.SetViewArrangement(node.SlicerLayoutOneUp3DView)
        layout = Layouts.Layout()
        assert layout.show(arrangement)
        assert node.GetViewArrangement() != node.SlicerLayoutOneUp3DView
        assert not layout.show(arrangement)
        assert layout.show(Arrangement.CURRENT)
        assert node.GetViewArrangement() == node.SlicerLayoutOneUp3DView

    def test_layout_of_the_user_is_kept(self, node):
        layout = Layouts.Layout()
        layout.show(Arrangement.SIDE_BY_SIDE)
        node.SetViewArrangement(node.SlicerLayoutOneUp3DView)
        layout.close()
        assert node.GetViewArrangement() == node.SlicerLayoutOneUp3DView

    def test_without_the_application_nothing_is_arranged(self, node, scene):
        scene.RemoveNode(node)
        assert not Layouts.Layout().show(Arrangement.SIDE_BY_SIDE)

    def test_two_layouts_know_the_same_three_views(self, node):
        for _turn in range(2):
            Layouts.Layout().show(Arrangement.SIDE_BY_SIDE)
            assert Layouts.isSideBySide()

    def test_its_three_views_are_a_group_of_their_own(self, node, scene):
        stored = slicer.vtkMRMLSliceNode()  # as scenes have it that were saved by an earlier version
        stored.SetLayoutName(Layouts.MOVING_PANE)
        scene.AddNode(stored)
        Layouts.Layout().show(Arrangement.SIDE_BY_SIDE)
        nodes = slicer.util.getNodesByClass("vtkMRMLSliceNode", scene)
        groups = {node.GetLayoutName(): node.GetViewGroup() for node in nodes}
        assert [groups[name] == Layouts.VIEW_GROUP for name in ("Red", *Layouts.PANES)] == [False, True, True, True]


@pytest.fixture(scope="module")
def views(application) -> list[mrml_scene.SliceView]:
    return [mrml_scene.SliceView(application, name, "Axial", (64, 64)) for name in ("Red", Layouts.FIXED_PANE)]


@pytest.fixture
def volumes() -> list[slicer.vtkMRMLScalarVolumeNode]:
    return [mrml_scene.add_volume(np.zeros(GRID.shape, np.float32), GRID, name) for name in ("A", "B", "C")]


@pytest.fixture
def composites(views, volumes) -> list[slicer.vtkMRMLSliceCompositeNode]:
    """What two views show: the same volumes, the second over the first, half of it."""
    for view in views:
        view.show(*volumes[:2], 0.5)
    composites = Layers.compositeNodes()
    yield composites
    for composite in composites:
        composite.SetLinkedControl(False)
        composite.SetHotLinkedControl(False)


class TestOpacity:
    @pytest.mark.parametrize("isLinked", [False, True])
    def test_stays_within_the_view(self, composites, volumes, isLinked):
        for composite in composites:
            composite.SetLinkedControl(isLinked)
            composite.SetHotLinkedControl(isLinked)
        mine, other = composites
        state = ViewState(mine)
        steps = (lambda: state.show(Shown(volumes[2], volumes[1], 0.0)), lambda: state.setOpacity(0.8), state.restore)
        for step, opacity in zip(steps, (0.0, 0.8, 0.5), strict=True):
            step()
            assert (mine.GetForegroundOpacity(), other.GetForegroundOpacity()) == (opacity, 0.5)

    def test_of_labels_stays_within_the_view(self, composites, scene):
        labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Folds")
        for composite, opacity in zip(composites, (0.4, 0.6), strict=True):
            composite.SetLabelOpacity(opacity)
        for composite in composites:
            composite.SetLinkedControl(True)
        view = MapView()
        view.showFolds(labels)
        view.hideFolds()
        assert [composite.GetLabelOpacity() for composite in composites] == [0.4, 0.6]

    def test_that_the_user_gives_goes_to_linked_views(self, composites):
        for composite in composites:
            composite.SetLinkedControl(True)
        composites[0].SetForegroundOpacity(0.1)  # the slider of the view takes it up
        assert composites[1].GetForegroundOpacity() == 0.1


class TestLinks:
    @pytest.mark.parametrize("before", [(0, 0), (1, 0), (1, 1)])
    def test_of_all_views_come_back(self, composites, before):
        for composite in composites:
            composite.SetLinkedControl(before[0])
            composite.SetHotLinkedControl(before[1])
        Links.link(composites[1:])
        assert (composites[1].GetLinkedControl(), composites[1].GetHotLinkedControl()) == (1, 1)
        Links.giveBack()
        assert [(item.GetLinkedControl(), item.GetHotLinkedControl()) for item in composites] == [before] * 2

    def test_of_the_users_own_views_decide(self, composites):
        # The view of the layout of three was not linked yet; hot links are those of all views in the end.
        composites[0].SetLinkedControl(True)
        composites[0].SetHotLinkedControl(True)
        composites[1].SetAttribute(Links.ATTRIBUTE, "0 0")
        Links.link(composites[1:])
        Links.giveBack()
        assert (composites[0].GetLinkedControl(), composites[0].GetHotLinkedControl()) == (1, 1)


class TestWhatWasBefore:
    def test_comes_back_though_what_came_between_has_ended_first(self, composites, volumes):
        volumes[2].SetSaveWithScene(False)
        first, second = ViewState(composites[0]), ViewState(composites[0])
        first.show(Shown(volumes[2]))
        second.show(Shown(volumes[1]))
        first.restore()
        slicer.mrmlScene.RemoveNode(volumes[2])
        second.restore()
        assert Layers.layersOf(composites[0])[:2] == (volumes[0].GetID(), volumes[1].GetID())


class TestSlicePlace:
    def test_comes_back(self, views):
        before = slicer.util.arrayFromVTKMatrix(views[0].node.GetSliceToRAS())
        place = SlicePlace(views[0].node)
        for height in (4.0, 9.0):
            place.jump(np.array([1.0, 2.0, height]))
            assert views[0].node.GetSliceToRAS().GetElement(2, 3) == height
        place.restore()
        np.testing.assert_array_equal(slicer.util.arrayFromVTKMatrix(views[0].node.GetSliceToRAS()), before)

    def test_chosen_meanwhile_is_kept(self, views):
        place = SlicePlace(views[0].node)
        place.jump(np.array([1.0, 2.0, 3.0]))
        views[0].jump((0.0, 0.0, 12.0))
        place.restore()
        assert views[0].node.GetSliceToRAS().GetElement(2, 3) == 12.0
