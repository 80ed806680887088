"""The layout of views, which comes back."""

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

from DeepAttentionRegLib.views import ViewStates
from DeepAttentionRegLib.views.ComparisonModes import Arrangement

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]


class TestLayout:
    @pytest.fixture
    def node(self, scene):
        logic = slicer.vtkMRMLLayoutLogic()
        logic.SetMRMLScene(scene)
        yield logic.GetLayoutNode()
        logic.SetMRMLScene(None)

    @pytest.mark.parametrize("arrangement", list(Arrangement)[1:])
    def test_layout_comes_back(self, node, arrangement):
        node.SetViewArrangement(node.SlicerLayoutOneUp3DView)
        layout = ViewStates.Layout()
        assert layout.show(arrangement)
        assert node.GetViewArrangement() != node.SlicerLayoutOneUp3DView
        assert not layout.show(arrangement)
        assert layout.show(Arrangement.CURRENT)
        assert node.GetViewArrangement() == node.SlicerLayoutOneUp3DView

    def test_layout_of_the_user_is_kept(self, node):
        layout = ViewStates.Layout()
        layout.show(Arrangement.SIDE_BY_SIDE)
        node.SetViewArrangement(node.SlicerLayoutOneUp3DView)
        layout.close()
        assert node.GetViewArrangement() == node.SlicerLayoutOneUp3DView

    def test_without_the_application_nothing_is_arranged(self, node, scene):
        scene.RemoveNode(node)
        assert not ViewStates.Layout().show(Arrangement.SIDE_BY_SIDE)

    def test_two_layouts_know_the_same_three_views(self, node):
        for _turn in range(2):
            ViewStates.Layout().show(Arrangement.SIDE_BY_SIDE)
            assert ViewStates.isSideBySide()
