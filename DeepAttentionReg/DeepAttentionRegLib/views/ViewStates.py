"""Slice views that show something for a while; what was there before comes back."""

from dataclasses import dataclass

import numpy as np
import slicer

from ..nodes.Present import present
from ..tasks.Results import NodeReference
from . import Layers
from .Layouts import PANES

# Attribute of volumes that show the moving volume before its deformation: its id.
MOVING_ATTRIBUTE = "DeepAttentionReg.Moving"


@dataclass(frozen=True)
class Shown:
    """What a slice view shows.

    :param background: a volume.
    :param foreground: a volume over it.
    :param opacity: of the foreground, 0 to 1.
    :param compositing: how the two are combined, a constant of vtkMRMLSliceCompositeNode.
    """

    background: slicer.vtkMRMLVolumeNode
    foreground: slicer.vtkMRMLVolumeNode | None = None
    opacity: float = 1.0
    compositing: int = slicer.vtkMRMLSliceCompositeNode.Alpha


class ViewState:
    """A slice view that shows something else for a while."""

    def __init__(self, view: slicer.vtkMRMLSliceCompositeNode) -> None:
        """Take a view; nothing changes before `show`.

        :param view: its composite node.
        """
        self._view = NodeReference(view)
        self._before: Layers.Layers | None = None
        self._mine: tuple[str | None, str | None] | None = None

    def show(self, shown: Shown) -> None:
        """Show something else for now."""
        view = self._view.get()
        if view is None:
            return
        if self._mine != Layers.layersOf(view)[:2]:
            self._before = Layers.layersOf(view)
            Layers.keep(view)
        foreground = shown.foreground and shown.foreground.GetID()
        Layers.setLayers(view, (shown.background.GetID(), foreground, shown.opacity, shown.compositing))
        Layers.mark(view)
        self._mine = Layers.layersOf(view)[:2]

    def setOpacity(self, opacity: float) -> None:
        """Change the opacity of the foreground, 0 to 1, if it is still what `show` was told."""
        view = self._view.get()
        if view is not None and self._mine == Layers.layersOf(view)[:2]:
            with Layers.alone(view):
                view.SetForegroundOpacity(opacity)

    def restore(self) -> None:
        """Show what was shown before; who has chosen something else meanwhile keeps that."""
        view, before = self._view.get(), self._before
        if view is not None and before is not None and self._mine == Layers.layersOf(view)[:2]:
            areThere = all(Layers.isThere(name) for name in before[:2] if name)
            # What was shown before for a while may have ended first.
            Layers.setLayers(view, before if areThere else Layers.kept(view) or before)
            Layers.release(view)
        self._mine = None


class SlicePlace:
    """A slice that is elsewhere for a while."""

    def __init__(self, node: slicer.vtkMRMLSliceNode) -> None:
        """Take a slice; nothing changes before `jump`.

        :param node: says where it lies.
        """
        self._node = NodeReference(node)
        self._before = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())
        self._mine = self._before

    def jump(self, pointRas: np.ndarray) -> None:
        """Move the slice to the plane through a point (3,) of the world, mm."""
        node = self._node.get()
        if node is not None:
            node.JumpSliceByOffsetting(*pointRas)
            self._mine = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())

    def restore(self) -> None:
        """Move the slice back; who has moved it meanwhile finds it there."""
        node = self._node.get()
        if node is not None and np.array_equal(self._mine, slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())):
            node.GetSliceToRAS().DeepCopy(slicer.util.vtkMatrixFromArray(self._before))
            node.UpdateMatrices()


def sliceNodeOf(view: slicer.vtkMRMLSliceCompositeNode) -> slicer.vtkMRMLSliceNode | None:
    """Return the node that says where a slice view lies."""
    nodes = slicer.util.getNodesByClass("vtkMRMLSliceNode")
    return next((node for node in nodes if node.GetLayoutName() == view.GetLayoutName()), None)


def turnPanes(volume: slicer.vtkMRMLVolumeNode) -> None:
    """Turn the views of the layout of three into the plane of a volume that is a single slice; others stay axial."""
    if 1 not in volume.GetImageData().GetDimensions():
        return
    for view in Layers.compositeNodes():
        if view.GetLayoutName() in PANES:
            present(sliceNodeOf(view)).RotateToVolumePlane(volume)
