"""What the bar over a slice view does to the view's node: Slicer's qMRMLSliceControllerWidget without its widgets."""

from typing import Any

import slicer


class SliceController:
    """Takes up what the node of a view says, and passes it on as if a user had chosen it."""

    def __init__(self, logic: slicer.vtkMRMLSliceLogic) -> None:
        """Follow the view of a logic."""
        self._logic = logic
        node = logic.GetSliceCompositeNode()
        self._opacity, self._is_hot = node.GetForegroundOpacity(), node.GetHotLinkedControl()
        node.AddObserver("ModifiedEvent", self._update)

    def _update(self, node: slicer.vtkMRMLSliceCompositeNode, _event: Any) -> None:
        if node.GetScene() is None or node.GetScene().IsBatchProcessing():
            return
        if node.GetHotLinkedControl() != self._is_hot:
            self._is_hot = node.GetHotLinkedControl()
            for view in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode", node.GetScene()):
                view.SetHotLinkedControl(self._is_hot)
        if node.GetForegroundOpacity() != self._opacity:
            self._opacity = node.GetForegroundOpacity()
            self._logic.StartSliceCompositeNodeInteraction(node.ForegroundOpacityFlag)
            node.SetForegroundOpacity(self._opacity)
            self._logic.EndSliceCompositeNodeInteraction()
