"""Shows the deformation while it is being found: the moving volume, in the slice views, under the latest field.

The two nodes that this takes are hidden, not saved with the scene, and gone when the registration ends.
"""

import slicer

from DeepAttentionRegEngine import images

from . import Transforms
from .Results import NodeReference

OPACITY = 0.5


class Preview:
    """A copy of the moving volume, sharing its voxels, that the slice views show over the fixed volume."""

    def __init__(self, fixedVolume: slicer.vtkMRMLScalarVolumeNode, movingVolume: slicer.vtkMRMLScalarVolumeNode):
        """Prepare; nothing is shown before `show`.

        :param fixedVolume: what the moving volume is shown over.
        :param movingVolume: what to show.
        """
        self._fixed, self._moving = NodeReference(fixedVolume), NodeReference(movingVolume)
        self._added: list[NodeReference] = []
        self._transform = NodeReference(None)
        self._views: list[tuple[NodeReference, str, str, float]] = []

    def show(self, path: str) -> None:
        """Show the moving volume under a field.

        :param path: displacement field, from fixed to moving points.
        :raises EngineError: if the file cannot be read.
        """
        fixed, moving = self._fixed.get(), self._moving.get()
        if fixed is None or moving is None:
            return
        field = Transforms.makeGridTransform(*images.read_displacement(path))
        if self._transform.get() is None:
            self._addNodes(moving, field)
            self._showOver(fixed)
        else:
            self._transform.get().SetAndObserveTransformFromParent(field)

    def close(self) -> None:
        """Remove what is shown and let the views show what they showed before."""
        shown = {reference.get().GetID() for reference in self._added if reference.get() is not None}
        for reference, background, foreground, opacity in self._views:
            view = reference.get()
            # Who has chosen something else meanwhile keeps that.
            if view is not None and view.GetForegroundVolumeID() in shown:
                view.SetBackgroundVolumeID(background)
                view.SetForegroundVolumeID(foreground)
                view.SetForegroundOpacity(opacity)
        for reference in reversed(self._added):
            if reference.get() is not None:
                slicer.mrmlScene.RemoveNode(reference.get())
        self._added, self._views = [], []

    def _addNodes(self, moving: slicer.vtkMRMLScalarVolumeNode, field: slicer.vtkOrientedGridTransform) -> None:
        transform = slicer.vtkMRMLTransformNode()
        transform.SetAndObserveTransformFromParent(field)
        display = slicer.vtkMRMLScalarVolumeDisplayNode()
        if moving.GetDisplayNode() is not None:
            display.CopyContent(moving.GetDisplayNode())
        else:
            display.SetDefaultColorMap()
        volume = slicer.vtkMRMLScalarVolumeNode()
        volume.CopyOrientation(moving)
        volume.SetAndObserveImageData(moving.GetImageData())
        for node in (transform, display, volume):
            node.SetName("Deformation preview")
            node.SetSaveWithScene(False)
            node.SetHideFromEditors(True)
            self._added.append(NodeReference(slicer.mrmlScene.AddNode(node)))
        volume.SetAndObserveDisplayNodeID(display.GetID())
        volume.SetAndObserveTransformNodeID(transform.GetID())
        self._transform = NodeReference(transform)

    def _showOver(self, fixed: slicer.vtkMRMLScalarVolumeNode) -> None:
        volume = self._added[-1].get()
        for view in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            shown = view.GetBackgroundVolumeID(), view.GetForegroundVolumeID(), view.GetForegroundOpacity()
            self._views.append((NodeReference(view), *shown))
            view.SetBackgroundVolumeID(fixed.GetID())
            view.SetForegroundVolumeID(volume.GetID())
            view.SetForegroundOpacity(OPACITY)
