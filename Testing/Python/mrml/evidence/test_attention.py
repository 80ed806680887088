"""What a network looked at, over the slice views: at the places where the engine says that it looked."""

import functools

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")

import evidence_cases
import mrml_scene
from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras
from DeepAttentionRegLib.evidence import Attention, Ellipsoids
from DeepAttentionRegLib.evidence.RecursionEvidence import Gaussian
from DeepAttentionRegLib.views import Layers
from mrml_cases import RIGID, InputNodes, add_shifted, put_under

pytestmark = pytest.mark.mrml

GRID = Geometry.from_arrays((48, 40, 12), (2.0, 2.0, 2.0), (-47.0, -39.0, -11.0), np.eye(3))
SHIFTS_MM = [8.0, 16.0]
PIXELS = 240
TOKEN_MM = 8.0
POINT_RAS = np.array([20.0, 4.0, 1.0])
LOOK = Attention.Choice(Attention.LOOK, evidence_cases.LAYER, "moving")
RELEVANCE = Attention.Choice(Attention.MAP, evidence_cases.RELEVANCE, "fixed")
MASK = Attention.Choice(Attention.MAP, evidence_cases.MASK, "moving")
GAUSSIANS = Attention.Choice(Attention.GAUSSIANS)


@pytest.fixture
def pair(scene) -> InputNodes:
    """Two volumes of one gray each."""
    grays = {"A": 10, "B": 20}
    return InputNodes(
        *(mrml_scene.add_volume(np.full(GRID.shape, gray, np.float32), GRID, name) for name, gray in grays.items())
    )


@pytest.fixture
def views(request, application, pair) -> list[mrml_scene.SliceView]:
    """Axial views of the fixed and of the moving volume."""
    views = []
    for number, volume in enumerate((pair.fixedVolume, pair.movingVolume)):
        name = f"{request.node.name} {number}"
        views.append(mrml_scene.SliceView(application, name, size=(PIXELS, PIXELS)))
        views[-1].show(volume)
        views[-1].jump((0.0, 0.0, 1.0))
    return views


@pytest.fixture
def deformation(views, pair, tmp_path):
    """A deformation in two recursions that shift to the left."""
    return add_shifted(pair, tmp_path, SHIFTS_MM)


@pytest.fixture
def shown(deformation):
    """What shows its attention, closed in the end."""
    shown = Attention.AttentionView(deformation)
    shown.evidence.step = 2
    yield shown
    shown.close()


@pytest.fixture
def crosshair(scene) -> slicer.vtkMRMLCrosshairNode:
    """The crosshair, as the application has it."""
    node = slicer.vtkMRMLCrosshairNode()
    node.SetSingletonTag("default")
    return scene.AddNode(node)


def looked_at(point_ras: np.ndarray, step: int) -> np.ndarray:
    """Return where the network looked for a point in a recursion: one token to the left, and there where the recursion
    before had shifted it from; (3,) RAS of the moving volume.
    """
    attention = evidence_cases.looks_ahead(GRID)
    weights, tokens = attention.heat_map(GRID, flip_lps_ras(point_ras[None])[0])
    k, j, i = np.unravel_index(weights.argmax(), weights.shape)
    place = flip_lps_ras(tokens.index_to_lps(np.array([[i, j, k]], float)))[0]
    return place - [([0.0, *SHIFTS_MM])[step - 1], 0, 0]


def colored(view: mrml_scene.SliceView) -> np.ndarray:
    """Return the middle of what is not gray in a view, RAS mm in its plane (R, A), legends left out."""
    picture = view.grab().astype(int)
    found = np.argwhere(picture.max(-1) - picture.min(-1) > 60)
    found = found[found[:, 1] < 0.7 * PIXELS]
    assert len(found)
    row, column = found.mean(0)
    scale = view.node.GetFieldOfView()[0] / PIXELS
    center = view.node.GetSliceToRAS().MultiplyPoint((0, 0, 0, 1))
    return np.array([center[0] - (column - (PIXELS - 1) / 2) * scale, center[1] - (row - (PIXELS - 1) / 2) * scale])


class TestLook:
    def test_choices_are_what_was_kept(self, shown):
        assert [choice.label() for choice in shown.choices()] == [
            "Where it looked (level 2)",
            "Relevance, level 1 (fixed)",
            "Attention mask (moving)",
            "Gaussians",
        ]

    @pytest.mark.parametrize("step", [1, 2])
    def test_place_is_on_the_moving_volume_as_the_recursion_saw_it(self, shown, step):
        shown.evidence.step = step
        shown.show(LOOK)
        looked = shown.lookAt(POINT_RAS)
        expected = looked_at(POINT_RAS, step)
        np.testing.assert_allclose(looked.peakRas, expected, atol=1e-4)
        assert looked.distanceMm == pytest.approx(np.linalg.norm(expected - POINT_RAS + [SHIFTS_MM[-1], 0, 0]))
        assert looked.times == pytest.approx(10 * 12 * 3, rel=1e-3)

    def test_place_lights_up_in_the_view_of_the_moving_volume_alone(self, shown, views):
        before = views[0].grab()
        shown.show(LOOK)
        shown.lookAt(POINT_RAS)
        # A quarter of a token: the lit disk is cut to whole pixels and drawn on another grid than that of the tokens.
        np.testing.assert_allclose(colored(views[1]), looked_at(POINT_RAS, 2)[:2], atol=TOKEN_MM / 4)
        np.testing.assert_array_equal(views[0].grab(), before)

    def test_place_is_under_the_parent_of_the_moving_volume(self, shown, deformation):
        put_under(deformation.moving, RIGID)
        shown.show(LOOK)
        expected = RIGID @ [*looked_at(POINT_RAS, 2), 1]
        np.testing.assert_allclose(shown.lookAt(POINT_RAS).peakRas, expected[:3], atol=1e-4)

    def test_slice_that_goes_there_comes_back(self, shown, views):
        before = slicer.util.arrayFromVTKMatrix(views[1].node.GetSliceToRAS())
        shown.show(LOOK)
        shown.lookAt(np.array([20.0, 4.0, 9.0]))
        assert views[1].node.GetSliceToRAS().GetElement(2, 3) != before[2, 3]
        shown.close()
        np.testing.assert_array_equal(slicer.util.arrayFromVTKMatrix(views[1].node.GetSliceToRAS()), before)

    @pytest.mark.parametrize("choice", [LOOK, RELEVANCE, MASK], ids=["look", "fixed", "moving"])
    def test_is_drawn_at_once_without_a_complaint(self, shown, views, crosshair, capfd, request, choice):
        def draw(_node: slicer.vtkMRMLSliceCompositeNode, _event: str) -> None:
            for view in views:
                view.grab()

        for composite in Layers.compositeNodes():
            request.addfinalizer(
                functools.partial(composite.RemoveObserver, composite.AddObserver("ModifiedEvent", draw))
            )
        capfd.readouterr()
        shown.show(choice)
        assert "ERR|" not in capfd.readouterr().err

    def test_follows_the_crosshair(self, deformation, crosshair):
        found = []
        shown = Attention.AttentionView(deformation, found.append)
        shown.evidence.step = 1
        shown.show(LOOK)
        crosshair.SetCrosshairRAS(POINT_RAS)
        np.testing.assert_allclose(found[-1].peakRas, looked_at(POINT_RAS, 1), atol=1e-4)
        shown.evidence.step = 2
        np.testing.assert_allclose(found[-1].peakRas, looked_at(POINT_RAS, 2), atol=1e-4)
        shown.close()
        count = len(found)
        crosshair.SetCrosshairRAS(-POINT_RAS)
        assert len(found) == count

    def test_is_told_in_words(self):
        looked = Attention.Looked(np.zeros(3), 12.34, 5.67)
        assert looked.sentence() == (
            "Looked most 5.7 mm from where the result puts this point, 12.3 times the average."
        )


class TestMaps:
    @pytest.mark.parametrize(("choice", "place"), [(RELEVANCE, 0), (MASK, 1)], ids=["fixed", "moving"])
    def test_are_shown_over_their_volume(self, shown, views, choice, place):
        shown.show(choice)
        picture = views[place].grab().astype(int)
        # They rise from right to left of the patient: from left to right in the view, red to yellow.
        left, right = picture[120, 60], picture[160, 160]
        assert left[0] - left[2] > 60
        assert right[1] - left[1] > 40

    def test_follow_the_step(self, shown):
        shown.show(RELEVANCE)
        overlay = slicer.mrmlScene.GetFirstNodeByName("Shifted attention")
        for step in (1, 2):
            shown.evidence.step = step
            assert slicer.util.arrayFromVolume(overlay).max() == step

    def test_leave_the_views_as_they_were(self, shown, views):
        before = [view.grab() for view in views]
        shown.show(RELEVANCE)
        shown.show(MASK)
        shown.close()
        for view, picture in zip(views, before, strict=True):
            np.testing.assert_array_equal(view.grab(), picture)


class TestGaussians:
    def test_are_outlined_where_slices_cut_them(self, shown, views):
        shown.show(GAUSSIANS)
        np.testing.assert_allclose(colored(views[0]), (0.0, 0.0), atol=1.0)
        drawn = views[0].grab().astype(int)
        columns = np.flatnonzero((drawn.max(-1) - drawn.min(-1) > 60).any(0))
        width_mm = (columns.max() - columns.min()) * views[0].node.GetFieldOfView()[0] / PIXELS
        assert width_mm == pytest.approx(2 * evidence_cases.SIGMA_MM[0], abs=1.5)

    def test_are_gone_when_it_is_over(self, shown, views):
        before = views[0].grab()
        shown.show(GAUSSIANS)
        shown.close()
        np.testing.assert_array_equal(views[0].grab(), before)

    def test_surface_is_one_deviation_away_along_each_axis(self):
        turn = np.array([[0.8, 0.6, 0.0], [-0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
        gaussian = Gaussian(np.array([5.0, 6.0, 7.0]), turn, np.array([3.0, 2.0, 1.0]), np.zeros(3))
        mesh = slicer.util.arrayFromModelPoints(_model(Ellipsoids.make([gaussian], 1.0)))
        along = (mesh - gaussian.center) @ turn.T
        np.testing.assert_allclose(np.abs(along).max(0), gaussian.sigma, rtol=0.01)

    def test_arrow_is_the_displacement_of_the_center(self):
        vector = np.array([0.0, -6.0, 8.0])
        gaussian = Gaussian(np.zeros(3), np.eye(3), np.full(3, 1e-3), vector)
        mesh = slicer.util.arrayFromModelPoints(_model(Ellipsoids.make([gaussian], 1.0)))
        np.testing.assert_allclose(mesh[(mesh @ vector).argmax()], vector, atol=1e-6)

    def test_those_of_a_slice_are_as_thick_as_it(self):
        flat = Gaussian(np.zeros(3), np.diag([1.0, 1.0, 0.0]), np.array([3.0, 2.0, 0.0]), np.zeros(3))
        mesh = slicer.util.arrayFromModelPoints(_model(Ellipsoids.make([flat], 4.0)))
        assert np.abs(mesh[:, 2]).max() == pytest.approx(4.0)


def _model(mesh) -> slicer.vtkMRMLModelNode:
    node = slicer.vtkMRMLModelNode()
    node.SetAndObservePolyData(mesh)
    return node
