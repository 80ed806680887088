"""A scene that is saved while views show something for a while opens with what they showed before."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import inspection_cases
import mrml_scene
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegLib.views import Layers, Layouts, Links, SavedViews
from DeepAttentionRegLib.views.Comparison import Comparison, ComparisonOptions
from DeepAttentionRegLib.views.ComparisonModes import Arrangement, Mode
from DeepAttentionRegLib.views.WarpedView import WarpedView

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

GRID = Geometry((20, 20, 5), (2.0, 2.0, 3.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


@pytest.fixture(scope="module")
def view(application) -> mrml_scene.SliceView:
    return mrml_scene.SliceView(application, "Red", "Axial", (64, 64))


@pytest.fixture
def deformation(view):
    """A deformation whose moving volume the view shows, with 0.3 of the fixed one."""
    deformation = inspection_cases.add_deformation(GRID, np.zeros((*GRID.shape, 3)))
    view.show(deformation.moving, deformation.fixed, 0.3)
    return deformation


@pytest.fixture
def comparison(deformation):
    comparison = Comparison(deformation)
    yield comparison
    comparison.close()


@pytest.fixture
def reopen(scene, tmp_path):
    """The function that saves the scene and opens it again, as Slicer does once it has started."""
    tag = scene.AddObserver(scene.EndImportEvent, lambda _scene, _event: SavedViews.giveBack())
    yield lambda: mrml_scene.save_and_reload(scene, tmp_path)
    scene.RemoveObserver(tag)


def composite() -> slicer.vtkMRMLSliceCompositeNode:
    return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")


def shown() -> list[str | None]:
    """Return the names of background and foreground of the view."""
    nodes = (slicer.mrmlScene.GetNodeByID(name or "") for name in Layers.layersOf(composite())[:2])
    return [node and node.GetName() for node in nodes]


class TestLayers:
    @pytest.mark.parametrize("mode", list(Mode)[1:])
    def test_are_those_before_the_comparison(self, comparison, reopen, mode):
        comparison.show(ComparisonOptions(mode))
        reopen()
        assert shown() == ["CT2", "CT1"]
        assert Layers.layersOf(composite())[2:] == (pytest.approx(0.3), slicer.vtkMRMLSliceCompositeNode.Alpha)
        assert (composite().GetLinkedControl(), composite().GetHotLinkedControl()) == (0, 0)

    def test_are_those_before_a_preview(self, deformation, reopen):
        WarpedView(deformation.fixed, deformation.moving, "preview").show(deformation.transformNode)
        reopen()
        assert shown() == ["CT2", "CT1"]

    def test_chosen_meanwhile_are_kept(self, comparison, deformation, reopen):
        comparison.show(ComparisonOptions(Mode.CHECKERBOARD))
        composite().SetBackgroundVolumeID(deformation.fixed.GetID())
        reopen()
        assert shown() == ["CT1", None]

    def test_of_a_view_that_shows_what_is_saved_are_left_alone(self, view, deformation, reopen):
        view.show(deformation.fixed)
        reopen()
        assert shown() == ["CT1", None]

    def test_nothing_is_remembered_of_it_afterwards(self, comparison, reopen):
        comparison.show(ComparisonOptions(Mode.CHECKERBOARD))
        reopen()
        roles: list[str] = []
        composite().GetNodeReferenceRoles(roles)
        assert not [role for role in roles if role.startswith("Deep") and composite().GetNodeReferenceID(role)]
        assert not list(composite().GetAttributeNames())

    @pytest.mark.parametrize("text", ["", "half", "1", "0.5 0 0", "0 x"])
    def test_of_a_scene_that_holds_anything_are_left_alone(self, deformation, reopen, text):
        for attribute in (Layers.ATTRIBUTE, Links.ATTRIBUTE):
            composite().SetAttribute(attribute, text)
        reopen()
        assert shown() == ["CT2", "CT1"]
        assert (composite().GetLinkedControl(), composite().GetHotLinkedControl()) == (0, 0)


class TestLayout:
    @pytest.fixture
    def node(self, scene):
        logic = slicer.vtkMRMLLayoutLogic()
        logic.SetMRMLScene(scene)
        yield logic.GetLayoutNode()
        logic.SetMRMLScene(None)
        scene.Clear(True)

    @pytest.mark.parametrize("arrangement", [Arrangement.SIDE_BY_SIDE, Arrangement.SINGLE])
    def test_is_that_before(self, node, reopen, arrangement):
        node.SetViewArrangement(node.SlicerLayoutOneUp3DView)
        Layouts.Layout().show(arrangement)
        reopen()
        assert node.GetViewArrangement() == node.SlicerLayoutOneUp3DView

    def test_chosen_meanwhile_is_kept(self, node, reopen):
        Layouts.Layout().show(Arrangement.SIDE_BY_SIDE)
        node.SetViewArrangement(node.SlicerLayoutOneUp3DView)
        reopen()
        assert node.GetViewArrangement() == node.SlicerLayoutOneUp3DView

    @pytest.mark.parametrize("before", ["", "some", "4711"])
    def test_that_nobody_knows_is_not_shown(self, node, reopen, before):
        Layouts.Layout().show(Arrangement.SIDE_BY_SIDE)
        node.SetAttribute(Layouts.ATTRIBUTE, f"{before} {Layouts.SIDE_BY_SIDE_ID}")
        reopen()
        assert node.GetViewArrangement() == Layouts.SIDE_BY_SIDE_ID

    def test_is_known_when_slicer_has_started(self, node):
        assert not node.IsLayoutDescription(Layouts.SIDE_BY_SIDE_ID)
        Layouts.register()
        assert node.IsLayoutDescription(Layouts.SIDE_BY_SIDE_ID)
