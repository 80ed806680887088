"""The arrangement of views, with a layout of three of them; what was there before comes back."""

import slicer

from .ComparisonModes import Arrangement
from .Layers import numbersOf

# Names of the views of the layout of three, with letter and color of their bars: those of Slicer's own slice views.
FIXED_PANE, MOVING_PANE, WARPED_PANE = "DeepAttentionRegFixed", "DeepAttentionRegMoving", "DeepAttentionRegWarped"
PANES = {FIXED_PANE: ("F", "#F34A33"), MOVING_PANE: ("M", "#EDD54C"), WARPED_PANE: ("W", "#6EB04B")}
SIDE_BY_SIDE_ID = 7310  # a number that no other module is likely to give its layout
VIEW_GROUP = SIDE_BY_SIDE_ID  # views are linked within their group alone
VIEW_XML = """<item><view class="vtkMRMLSliceNode" singletontag="{name}">
<property name="orientation" action="default">Axial</property>
<property name="viewlabel" action="default">{letter}</property>
<property name="viewcolor" action="default">{color}</property>
<property name="viewgroup" action="default">{group}</property></view></item>"""
ATTRIBUTE = "DeepAttentionReg.Layout"  # the layout before, and the one in its place


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
        register()
        _group()
        number = _numberOf(arrangement, node)
        current = node.GetViewArrangement()
        if number == self._mine or number == current:
            return False
        if current != self._mine:
            self._before = current
        self._mine = number
        # Slicer tells nobody that it saves a scene, which is to open with the layout before.
        node.SetAttribute(ATTRIBUTE, f"{self._before} {number}")
        node.SetViewArrangement(number)
        return True

    def close(self) -> bool:
        """Arrange the views as they were and return whether that has changed anything; another choice is kept."""
        node, mine = _layoutNode(), self._mine
        self._mine = None
        if node is None or mine is None:
            return False
        node.RemoveAttribute(ATTRIBUTE)
        if node.GetViewArrangement() != mine:
            return False
        node.SetViewArrangement(self._before)
        return True


def register() -> None:
    """Let Slicer know the layout of three, so that it can open scenes that were saved with it."""
    node = _layoutNode()
    if node is not None and not node.IsLayoutDescription(SIDE_BY_SIDE_ID):
        items = (
            VIEW_XML.format(name=name, letter=letter, color=color, group=VIEW_GROUP)
            for name, (letter, color) in PANES.items()
        )
        node.AddLayoutDescription(SIDE_BY_SIDE_ID, f'<layout type="horizontal" split="true">{"".join(items)}</layout>')


def giveBack() -> None:
    """Arrange the views of a scene that has just been opened as they were before; another choice is kept."""
    node = _layoutNode()
    layouts = None if node is None else numbersOf(node.GetAttribute(ATTRIBUTE), int, int)
    if node is None or layouts is None:
        return
    before, mine = layouts
    node.RemoveAttribute(ATTRIBUTE)
    # The one before may be of an extension that is not there.
    if node.GetViewArrangement() == mine and node.IsLayoutDescription(before):
        node.SetViewArrangement(before)


def isSideBySide() -> bool:
    """Return whether the fixed, moving and warped volume have views of their own now."""
    node = _layoutNode()
    return node is not None and node.GetViewArrangement() == SIDE_BY_SIDE_ID


def _layoutNode() -> slicer.vtkMRMLLayoutNode | None:
    return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")


def _numberOf(arrangement: Arrangement, node: slicer.vtkMRMLLayoutNode) -> int:
    """Return the number of a layout."""
    return {
        Arrangement.SIDE_BY_SIDE: SIDE_BY_SIDE_ID,
        Arrangement.SINGLE: node.SlicerLayoutOneUpRedSliceView,
        Arrangement.FOUR_UP: node.SlicerLayoutFourUpView,
    }[arrangement]


def _group() -> None:
    """Put the views of the layout of three into their group, also those that came with a scene and keep another."""
    for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        if node.GetLayoutName() in PANES:
            node.SetViewGroup(VIEW_GROUP)
