"""The outcome of a registration in the views: nothing of an earlier one covers it."""

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

from DeepAttentionRegLib.views import ResultView
from mrml_cases import register, with_segmentations

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]


@pytest.fixture
def shown(monkeypatch):
    """What was shown in the slice views, one after the other."""
    shown: list[dict] = []
    monkeypatch.setattr(slicer.util, "setSliceViewerLayers", lambda **layers: shown.append(layers))
    return shown


class TestResult:
    def test_is_the_warped_over_the_fixed_volume(self, inputs, shown):
        outcome = register(inputs)
        ResultView.show(outcome)
        assert shown == [
            {
                "background": inputs.fixedVolume,
                "foreground": outcome.warpedVolumeNode,
                "foregroundOpacity": 0.5,
                "fit": True,
            }
        ]

    def test_segmentation_of_an_earlier_one_is_hidden(self, inputs, shown):
        inputs = with_segmentations(inputs)
        displays = []
        for _run in range(3):
            outcome = register(inputs)
            ResultView.show(outcome)
            displays.append(outcome.warpedSegmentationNode.GetDisplayNode())
        assert [display.GetVisibility() for display in displays] == [0, 0, 1]
        assert inputs.movingSegmentation.GetDisplayNode().GetVisibility()

    def test_without_segmentation_hides_that_of_an_earlier_one_too(self, inputs, shown):
        former = register(with_segmentations(inputs))
        ResultView.show(register(inputs))
        assert not former.warpedSegmentationNode.GetDisplayNode().GetVisibility()


class TestWarpedSegmentation:
    def test_is_shown_as_the_moving_one(self, inputs):
        inputs = with_segmentations(inputs)
        display = inputs.movingSegmentation.GetDisplayNode()
        display.SetVisibility2DFill(False)
        display.SetOpacity2DOutline(0.4)
        segmentation = inputs.movingSegmentation.GetSegmentation()
        display.SetSegmentVisibility(segmentation.GetSegmentIdBySegmentName("Heart"), False)
        warped = register(inputs).warpedSegmentationNode
        shown, segmentation = warped.GetDisplayNode(), warped.GetSegmentation()
        assert not shown.GetVisibility2DFill()
        assert shown.GetOpacity2DOutline() == 0.4
        ids = {name: segmentation.GetSegmentIdBySegmentName(name) for name in ("Liver", "Heart")}
        visible = {name: shown.GetSegmentVisibility(segmentId) for name, segmentId in ids.items()}
        assert visible == {"Liver": True, "Heart": False}
