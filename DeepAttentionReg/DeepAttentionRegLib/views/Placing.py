"""Two points that the user places one after the other in the slice views."""

from collections.abc import Callable

import numpy as np
import slicer
from slicer.util import VTKObservationMixin

from .HiddenNodes import HiddenNodes


class Placing(VTKObservationMixin):
    """Places points in a list that is not saved, and gone at the end."""

    def __init__(self, onFirst: Callable[[], None], onBoth: Callable[[np.ndarray, np.ndarray], None]) -> None:
        """Prepare; nothing is placed before `start`.

        :param onFirst: called when the first point is placed.
        :param onBoth: called with both points (3,), RAS mm in the world.
        """
        super().__init__()
        self._onFirst, self._onBoth = onFirst, onBoth
        self._nodes = HiddenNodes()
        self._isOn = False

    def start(self, name: str) -> None:
        """Let the user place two points.

        :param name: what they are called meanwhile.
        """
        self.stop()
        self._isOn = True
        points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
        self._nodes.add(points, name)
        points.CreateDefaultDisplayNodes()
        self.addObserver(points, points.PointPositionDefinedEvent, self._onPlaced)
        selection = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSelectionNode")
        selection.SetReferenceActivePlaceNodeClassName(points.GetClassName())
        selection.SetActivePlaceNodeID(points.GetID())
        _interaction().SwitchToPersistentPlaceMode()

    def stop(self) -> None:
        """End it, whether points were placed or not."""
        if not self._isOn:
            return
        self._isOn = False
        self.removeObservers()
        _interaction().SetCurrentInteractionMode(slicer.vtkMRMLInteractionNode.ViewTransform)
        self._nodes.close()

    def _onPlaced(self, points: slicer.vtkMRMLMarkupsNode, event: str) -> None:
        count = points.GetNumberOfDefinedControlPoints()
        if count == 1:
            self._onFirst()
        elif count > 1:
            first, second = slicer.util.arrayFromMarkupsControlPoints(points, world=True)[:2].copy()
            self.stop()
            self._onBoth(first, second)


def _interaction() -> slicer.vtkMRMLInteractionNode:
    return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLInteractionNode")
