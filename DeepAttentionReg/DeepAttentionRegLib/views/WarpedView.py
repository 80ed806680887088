"""The moving volume as a transform deforms it, over the fixed volume in the slice views, for a while.

Its voxels are shared, not copied, so that another transform shows at once.
"""

import slicer

from ..tasks.Results import NodeReference
from .HiddenNodes import HiddenNodes
from .Layers import compositeNodes
from .Layouts import FIXED_PANE, MOVING_PANE
from .ViewStates import Shown, ViewState

OPACITY = 0.5


class WarpedView:
    """A hidden volume that is not saved with the scene, and gone at the end; what views showed before comes back."""

    def __init__(
        self, fixedVolume: slicer.vtkMRMLScalarVolumeNode, movingVolume: slicer.vtkMRMLScalarVolumeNode, kind: str
    ) -> None:
        """Prepare; nothing is shown before `show`.

        :param fixedVolume: what the moving volume is shown over.
        :param movingVolume: what to show.
        :param kind: what is shown of it, in a word.
        """
        self._fixed, self._moving = NodeReference(fixedVolume), NodeReference(movingVolume)
        self._name = f"{movingVolume.GetName()} ({kind})"
        self._nodes = HiddenNodes()
        self._views: list[ViewState] = []

    def add(self, node: slicer.vtkMRMLNode) -> None:
        """Add a node to the scene that goes with this view."""
        self._nodes.add(node, self._name)

    def show(self, transformNode: slicer.vtkMRMLTransformNode) -> None:
        """Show the moving volume under a transform, in all views but those of the two volumes alone.

        Nothing is done if one of the volumes is gone.

        :param transformNode: moves the moving volume onto the fixed one; the view follows its changes.
        """
        fixed, moving = self._fixed.get(), self._moving.get()
        if fixed is None or moving is None:
            return
        volume = self._addVolume(moving)
        volume.SetAndObserveTransformNodeID(transformNode.GetID())
        for view in compositeNodes():
            if view.GetLayoutName() not in (FIXED_PANE, MOVING_PANE):
                self._views.append(ViewState(view))
                self._views[-1].show(Shown(fixed, volume, OPACITY))

    def close(self) -> None:
        """Remove what is shown and let the views show what they showed before."""
        for view in self._views:
            view.restore()
        self._nodes.close()
        self._views = []

    def _addVolume(self, moving: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLScalarVolumeNode:
        display = slicer.vtkMRMLScalarVolumeDisplayNode()
        if moving.GetDisplayNode() is not None:
            display.CopyContent(moving.GetDisplayNode())
        else:
            display.SetDefaultColorMap()
        volume = slicer.vtkMRMLScalarVolumeNode()
        volume.CopyOrientation(moving)
        volume.SetAndObserveImageData(moving.GetImageData())
        self.add(display)
        self.add(volume)
        volume.SetAndObserveDisplayNodeID(display.GetID())
        return volume
