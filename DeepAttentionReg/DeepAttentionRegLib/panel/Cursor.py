"""The cursor in slice views, for the parts of the panel that follow it."""

from collections.abc import Callable

import slicer
from slicer.util import VTKObservationMixin


class Cursor(VTKObservationMixin):
    """Calls somebody whenever the cursor moves in a slice view, as long as that is wanted."""

    def __init__(self, onMove: Callable[[], None]) -> None:
        """Prepare; nothing is observed before `follow`.

        :param onMove: called when the cursor has moved.
        """
        super().__init__()
        self._onMove = onMove

    def follow(self, isWanted: bool) -> None:
        """Begin or end to observe the cursor."""
        node = _crosshair()
        event = slicer.vtkMRMLCrosshairNode.CursorPositionModifiedEvent
        if not isWanted:
            self.removeObservers()
        elif node is not None and not self.hasObserver(node, event, self._onEvent):
            self.addObserver(node, event, self._onEvent)

    def position(self) -> list[float] | None:
        """Return the point of the world under the cursor, RAS mm; None if that is in no slice view."""
        point = [0.0, 0.0, 0.0]
        node = _crosshair()
        return point if node is not None and node.GetCursorPositionRAS(point) else None

    def viewName(self) -> str:
        """Return the name of the slice view that the cursor is in; empty if it is in none."""
        node = _crosshair()
        view = node and node.GetCursorPositionXYZ([0.0, 0.0, 0.0])
        return view.GetLayoutName() if view else ""

    def _onEvent(self, caller: slicer.vtkMRMLNode, event: str) -> None:
        self._onMove()


def _crosshair() -> slicer.vtkMRMLCrosshairNode | None:
    return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
