"""Shows maps of a deformation over its fixed volume in the slice views, and gives the views back."""

import slicer

from ..nodes.Deformation import Deformation
from ..tasks.Results import NodeReference
from .Layers import alone, compositeNodes
from .Layouts import FIXED_PANE, PANES
from .ViewStates import Shown, ViewState


class MapView:
    """Shows a map, or the folds, over the fixed volume in the slice views, until it is closed."""

    def __init__(self) -> None:
        """Prepare; nothing changes before something is shown."""
        self._views: list[ViewState] = []
        self._labels: list[tuple[NodeReference, str | None, float]] = []
        self._folds = NodeReference(None)

    @property
    def marksFolds(self) -> bool:
        """Whether the folds are marked."""
        return self._folds.get() is not None

    def show(self, deformation: Deformation, node: slicer.vtkMRMLScalarVolumeNode, opacity: float) -> None:
        """Show a map in place of the one that is shown.

        :param deformation: its fixed volume is the background.
        :param node: from `create`.
        :param opacity: 0 to 1.
        """
        self.hide()
        self._views = [ViewState(view) for view in _views()]
        for view in self._views:
            view.show(Shown(deformation.fixed, node, opacity))

    def setOpacity(self, opacity: float) -> None:
        """Show the map through, 0 to 1."""
        for view in self._views:
            view.setOpacity(opacity)

    def hide(self) -> None:
        """Show what was shown before the map."""
        for view in self._views:
            view.restore()
        self._views = []

    def showFolds(self, node: slicer.vtkMRMLLabelMapVolumeNode) -> None:
        """Mark the folds, whatever else is shown.

        :param node: from `createFolds`.
        """
        self.hideFolds()
        for view in _views():
            self._labels.append((NodeReference(view), view.GetLabelVolumeID(), view.GetLabelOpacity()))
            with alone(view):
                view.SetLabelVolumeID(node.GetID())
                view.SetLabelOpacity(1.0)
        self._folds = NodeReference(node)

    def hideFolds(self) -> None:
        """Show the labels that were shown before; who has chosen others meanwhile keeps those."""
        for reference, label, opacity in self._labels:
            view, folds = reference.get(), self._folds.get()
            if view is not None and (folds is None or view.GetLabelVolumeID() == folds.GetID()):
                with alone(view):
                    view.SetLabelVolumeID(label)
                    view.SetLabelOpacity(opacity)
        self._labels, self._folds = [], NodeReference(None)

    def close(self) -> None:
        """Give the views back."""
        self.hide()
        self.hideFolds()


def _views() -> list[slicer.vtkMRMLSliceCompositeNode]:
    """Return the views of the fixed volume: all but those that a layout gives to the other volumes."""
    others = set(PANES) - {FIXED_PANE}
    return [view for view in compositeNodes() if view.GetLayoutName() not in others]
