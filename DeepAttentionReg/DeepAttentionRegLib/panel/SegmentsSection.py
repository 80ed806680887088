"""The part of the panel in which segments are picked that steer a registration, are held, or slide."""

import functools
from collections.abc import Callable
from types import SimpleNamespace

from slicer.i18n import tr as _

from DeepAttentionRegEngine.volume.segment_pairs import BETWEEN, Segment

from ..nodes import SegmentPairs
from . import Parts

BUTTONS = {
    "steered": "steeredPickButton",
    "rigid": "rigidPickButton",
    "volumeKeeping": "volumeKeepingPickButton",
    "sliding": "slidingPickButton",
}
OF_FIXED_ALONE = ("sliding",)


class SegmentsSection(Parts.Section):
    """Lets names be picked instead of typed, each from a menu of the segments that there are."""

    def __init__(self, ui: SimpleNamespace, tell: Callable[[str], None]) -> None:
        """Connect the buttons; parameters as `Section`."""
        import qt

        super().__init__(ui, tell)
        self._menus = {parameter: qt.QMenu(getattr(ui, name)) for parameter, name in BUTTONS.items()}
        for parameter, menu in self._menus.items():
            button = getattr(ui, BUTTONS[parameter])
            button.setMenu(menu)
            button.popupMode = qt.QToolButton.InstantPopup
            menu.connect("aboutToShow()", functools.partial(self.fill, parameter))

    def fill(self, parameter: str) -> None:
        """Offer the segments that there are now, those that are chosen already ticked."""
        menu, segments = self._menus[parameter], self._segments(parameter)
        chosen = SegmentPairs.named(segments, getattr(self.chosen, parameter))
        menu.clear()
        for segment in segments:
            action = menu.addAction(segment.title.replace("&", "&&"))
            action.checkable = True
            action.checked = segment in chosen
            action.connect("toggled(bool)", functools.partial(self._pick, parameter, segment))
        if not segments:
            menu.addAction(_("Choose a segmentation first")).enabled = False

    def _segments(self, parameter: str) -> list[Segment]:
        chosen = self.chosen
        nodes = [chosen.fixedSegmentation, chosen.movingSegmentation]
        return SegmentPairs.offered(nodes[:1] if parameter in OF_FIXED_ALONE else nodes)

    def _pick(self, parameter: str, segment: Segment, isChosen: bool) -> None:
        """Add a segment to what is chosen, or take it away from that."""
        names = getattr(self.chosen, parameter)
        if isChosen:
            titles = [names.strip(f" {BETWEEN}"), segment.title]
        else:
            # What a name with * means besides stays.
            found = SegmentPairs.named(self._segments(parameter), names)
            titles = [other.title for other in found if other.title != segment.title]
        setattr(self.chosen, parameter, f"{BETWEEN} ".join(filter(None, titles)))
