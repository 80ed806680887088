"""Slice views that scroll and zoom together for a while.

Slicer gives the hot link of one view to all others. So each view knows how it was linked before, which is saved with
the scene, too.
"""

import slicer

from .Layers import compositeNodes, numbersOf
from .Layouts import PANES

ATTRIBUTE = "DeepAttentionReg.Links"  # whether a view was linked, and whether at once


def link(views: list[slicer.vtkMRMLSliceCompositeNode]) -> None:
    """Link these views, and no others but those that were, until `giveBack`."""
    for view in compositeNodes():
        if view.GetAttribute(ATTRIBUTE) is None:
            view.SetAttribute(ATTRIBUTE, f"{view.GetLinkedControl()} {view.GetHotLinkedControl()}")
    for view in views:
        _set(view, 1, 1)


def giveBack() -> None:
    """Link all views as they were before."""
    # The last one decides for the others: one of the user's own.
    views = sorted(compositeNodes(), key=lambda view: view.GetLayoutName() not in PANES)
    for view in views:
        links = numbersOf(view.GetAttribute(ATTRIBUTE), int, int)
        if links is not None:
            _set(view, *links)
    for view in views:
        view.RemoveAttribute(ATTRIBUTE)


def _set(view: slicer.vtkMRMLSliceCompositeNode, isLinked: int, isHot: int) -> None:
    view.SetLinkedControl(isLinked)
    view.SetHotLinkedControl(isHot)
