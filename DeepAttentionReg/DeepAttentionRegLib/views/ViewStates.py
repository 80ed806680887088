"""Slice views that show something for a while, and a layout of three of them; what was there before comes back."""

from dataclasses import dataclass

import slicer

from ..nodes.Present import present
from ..tasks.Results import NodeReference
from .ComparisonModes import Arrangement

# Names of the views of the layout of three, with letter and color of their bars: those of Slicer's own slice views.
FIXED_PANE, MOVING_PANE, WARPED_PANE = "DeepAttentionRegFixed", "DeepAttentionRegMoving", "DeepAttentionRegWarped"
PANES = {FIXED_PANE: ("F", "#F34A33"), MOVING_PANE: ("M", "#EDD54C"), WARPED_PANE: ("W", "#6EB04B")}
# Attribute of volumes that show the moving volume before its deformation: its id.
MOVING_ATTRIBUTE = "DeepAttentionReg.Moving"
SIDE_BY_SIDE_ID = 7310  # a number that no other module is likely to give its layout
VIEW_XML = """<item><view class="vtkMRMLSliceNode" singletontag="{name}">
<property name="orientation" action="default">Axial</property>
<property name="viewlabel" action="default">{letter}</property>
<property name="viewcolor" action="default">{color}</property></view></item>"""
_Layers = tuple[str | None, str | None, float, int]  # ids of background and foreground, opacity, compositing


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
        self._before: _Layers | None = None
        self._links = False, False
        self._mine: tuple[str | None, str | None] | None = None

    def show(self, shown: Shown, isLinked: bool) -> None:
        """Show something else for now.

        :param isLinked: whether the view scrolls and zooms with the others.
        """
        view = self._view.get()
        if view is None:
            return
        if self._mine is None:
            self._links = view.GetLinkedControl(), view.GetHotLinkedControl()
        if self._mine != _layersOf(view)[:2]:
            self._before = _layersOf(view)
        foreground = shown.foreground and shown.foreground.GetID()
        _setLayers(view, (shown.background.GetID(), foreground, shown.opacity, shown.compositing))
        self._mine = _layersOf(view)[:2]
        _link(view, (True, True) if isLinked else self._links)

    def setOpacity(self, opacity: float) -> None:
        """Change the opacity of the foreground, 0 to 1, if it is still what `show` was told."""
        view = self._view.get()
        if view is not None and self._mine == _layersOf(view)[:2]:
            view.SetForegroundOpacity(opacity)

    def restore(self) -> None:
        """Show what was shown before; who has chosen something else meanwhile keeps that."""
        view = self._view.get()
        if view is None or self._before is None or self._mine is None:
            return
        if self._mine == _layersOf(view)[:2]:
            _setLayers(view, self._before)
        _link(view, self._links)
        self._mine = None


def compositeNodes() -> list[slicer.vtkMRMLSliceCompositeNode]:
    """Return the nodes that say what slice views show."""
    return slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")


def sliceNodeOf(view: slicer.vtkMRMLSliceCompositeNode) -> slicer.vtkMRMLSliceNode | None:
    """Return the node that says where a slice view lies."""
    nodes = slicer.util.getNodesByClass("vtkMRMLSliceNode")
    return next((node for node in nodes if node.GetLayoutName() == view.GetLayoutName()), None)


def _layersOf(view: slicer.vtkMRMLSliceCompositeNode) -> _Layers:
    ids = view.GetBackgroundVolumeID(), view.GetForegroundVolumeID()
    return (*ids, view.GetForegroundOpacity(), view.GetCompositing())


def _link(view: slicer.vtkMRMLSliceCompositeNode, links: tuple[bool, bool]) -> None:
    view.SetLinkedControl(links[0])
    view.SetHotLinkedControl(links[1])


def _setLayers(view: slicer.vtkMRMLSliceCompositeNode, layers: _Layers) -> None:
    # A volume that is gone may have left its id to another one.
    background, foreground = (name if name and slicer.mrmlScene.GetNodeByID(name) else None for name in layers[:2])
    with slicer.util.NodeModify(view):
        view.SetBackgroundVolumeID(background)
        view.SetForegroundVolumeID(foreground)
        view.SetForegroundOpacity(layers[2])
        view.SetCompositing(layers[3])


class Layout:
    """The arrangement of views, until it is closed."""

    def __init__(self) -> None:
        """Prepare; nothing changes before `show`."""
        self._before: int | None = None
        self._mine: int | None = None

    def show(self, arrangement: Arrangement) -> bool:
        """Arrange the views and return whether that has changed anything.

        Without the application there are no views to arrange, and nothing is done.
        """
        node = _layoutNode()
        if node is None:
            return False
        if arrangement is Arrangement.CURRENT:
            return self.close()
        number = _numberOf(arrangement, node)
        current = node.GetViewArrangement()
        if number == self._mine or number == current:
            return False
        if current != self._mine:
            self._before = current
        self._mine = number
        node.SetViewArrangement(number)
        return True

    def close(self) -> bool:
        """Arrange the views as they were and return whether that has changed anything; another choice is kept."""
        node, mine = _layoutNode(), self._mine
        self._mine = None
        if node is None or mine is None or node.GetViewArrangement() != mine:
            return False
        node.SetViewArrangement(self._before)
        return True


def turnPanes(volume: slicer.vtkMRMLVolumeNode) -> None:
    """Turn the views of the layout of three into the plane of a volume that is a single slice; others stay axial."""
    if 1 not in volume.GetImageData().GetDimensions():
        return
    for view in compositeNodes():
        if view.GetLayoutName() in PANES:
            present(sliceNodeOf(view)).RotateToVolumePlane(volume)


def isSideBySide() -> bool:
    """Return whether the fixed, moving and warped volume have views of their own now."""
    node = _layoutNode()
    return node is not None and node.GetViewArrangement() == SIDE_BY_SIDE_ID


def _layoutNode() -> slicer.vtkMRMLLayoutNode | None:
    return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")


def _numberOf(arrangement: Arrangement, node: slicer.vtkMRMLLayoutNode) -> int:
    """Return the number of a layout, which the layout node knows from then on."""
    if not node.IsLayoutDescription(SIDE_BY_SIDE_ID):
        items = (VIEW_XML.format(name=name, letter=letter, color=color) for name, (letter, color) in PANES.items())
        node.AddLayoutDescription(SIDE_BY_SIDE_ID, f'<layout type="horizontal" split="true">{"".join(items)}</layout>')
    return {
        Arrangement.SIDE_BY_SIDE: SIDE_BY_SIDE_ID,
        Arrangement.SINGLE: node.SlicerLayoutOneUpRedSliceView,
        Arrangement.FOUR_UP: node.SlicerLayoutFourUpView,
    }[arrangement]
