"""What the corners of slice views call the volumes of a comparison: after what is in them."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import inspection_cases
import mrml_scene
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegLib.views import Layers
from DeepAttentionRegLib.views.Comparison import Comparison, ComparisonOptions
from DeepAttentionRegLib.views.ComparisonModes import ComparedVolume, Mode

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

GRID = Geometry((9, 8, 7), (2.0, 2.0, 3.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


@pytest.fixture(scope="module")
def view(application) -> mrml_scene.SliceView:
    return mrml_scene.SliceView(application, "Red", "Axial", (64, 64))


@pytest.fixture
def names(view):
    """The function from options to the names of background and foreground."""
    deformation = inspection_cases.add_deformation(GRID, np.zeros((*GRID.shape, 3)))
    comparison = Comparison(deformation)

    def show(mode: Mode, layer: ComparedVolume) -> list[str | None]:
        comparison.show(ComparisonOptions(mode, layer=layer))
        ids = Layers.layersOf(Layers.compositeNodes()[0])[:2]
        return [name and slicer.mrmlScene.GetNodeByID(name).GetName() for name in ids]

    yield show
    comparison.close()


@pytest.mark.parametrize(
    ("mode", "layer", "wanted"),
    [
        (Mode.FADE, ComparedVolume.AFTER, ["CT1", "CT2 (warped)"]),
        (Mode.FADE, ComparedVolume.BEFORE, ["CT1", "CT2 (before)"]),
        (Mode.CHECKERBOARD, ComparedVolume.AFTER, ["CT1 and CT2 (warped)", None]),
        (Mode.FUSION, ComparedVolume.AFTER, ["CT1 (fixed)", "CT2 (warped)"]),
        (Mode.DIFFERENCE, ComparedVolume.BEFORE, ["CT1", "CT2 (before) minus CT1"]),
    ],
)
def test_tell_what_is_shown(names, mode, layer, wanted):
    assert names(mode, layer) == wanted


def test_follow_the_choice_of_the_layer(names):
    names(Mode.CHECKERBOARD, ComparedVolume.AFTER)
    assert names(Mode.CHECKERBOARD, ComparedVolume.BEFORE) == ["CT1 and CT2 (before)", None]


def test_of_the_volumes_themselves_are_theirs_alone(names):
    names(Mode.FUSION, ComparedVolume.AFTER)
    assert [len(list(slicer.mrmlScene.GetNodesByName(name))) for name in ("CT1", "CT2")] == [1, 1]
