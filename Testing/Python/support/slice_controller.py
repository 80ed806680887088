"""What the bar over a slice view does to the view's node: Slicer's qMRMLSliceControllerWidget without its widgets."""

from typing import Any

import slicer

OPACITIES = ("ForegroundOpacity", "LabelOpacity")  # each has a slider


class SliceController:
    """Takes up what the node of a view says, and passes it on as if a user had chosen it."""

    def __init__(self, logic: slicer.vtkMRMLSliceLogic) -> None:
        """Follow the view of a logic."""
        self._logic = logic
        node = logic.GetSliceCompositeNode()
        self._is_hot = node.GetHotLinkedControl()
        self._opacities = {name: getattr(node, f"Get{name}")() for name in OPACITIES}
        node.AddObserver("ModifiedEvent", self._update)

    def _update(self, node: slicer.vtkMRMLSliceCompositeNode, _event: Any) -> None:
        if node.GetScene() is None or node.GetScene().IsBatchProcessing():
            return
        if node.GetHotLinkedControl() != self._is_hot:
            self._is_hot = node.GetHotLinkedControl()
            for view in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode", node.GetScene()):
                view.SetHotLinkedControl(self._is_hot)
        for name in OPACITIES:
            opacity = getattr(node, f"Get{name}")()
            if opacity != self._opacities[name]:
                self._opacities[name] = opacity
                self._logic.StartSliceCompositeNodeInteraction(getattr(node, f"{name}Flag"))
                getattr(node, f"Set{name}")(opacity)
                self._logic.EndSliceCompositeNodeInteraction()
