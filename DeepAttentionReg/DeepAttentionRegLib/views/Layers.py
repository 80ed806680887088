"""What a slice view shows: its volumes and how they are put together. What it showed before is kept in the scene.

Slicer tells nobody that it saves a scene, and nodes that are shown for a while are not saved. So the node of a view
refers to the volumes that it showed before, with which it opens again: `giveBack`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import slicer

Layers = tuple[str | None, str | None, float, int]  # ids of background and foreground, opacity, compositing
BEFORE = "DeepAttentionReg.BackgroundBefore", "DeepAttentionReg.ForegroundBefore"
SHOWN = "DeepAttentionReg.BackgroundShown", "DeepAttentionReg.ForegroundShown"
ATTRIBUTE = "DeepAttentionReg.Before"  # opacity and compositing


def compositeNodes() -> list[slicer.vtkMRMLSliceCompositeNode]:
    """Return the nodes that say what slice views show."""
    return slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")


def layersOf(view: slicer.vtkMRMLSliceCompositeNode) -> Layers:
    """Return what a view shows."""
    ids = view.GetBackgroundVolumeID(), view.GetForegroundVolumeID()
    return (*ids, view.GetForegroundOpacity(), view.GetCompositing())


def setLayers(view: slicer.vtkMRMLSliceCompositeNode, layers: Layers) -> None:
    """Have a view show something; volumes that are gone are left out."""
    before = layersOf(view)[:2]
    background, foreground = (name if isThere(name) else None for name in layers[:2])
    with alone(view), slicer.util.NodeModify(view):
        view.SetBackgroundVolumeID(background)
        view.SetForegroundVolumeID(foreground)
        view.SetForegroundOpacity(layers[2])
        view.SetCompositing(layers[3])
    if before != (background, foreground):
        tellLegends()


def tellLegends() -> None:
    """Have views show the color legends of their volumes, which they look at only when a user changes the volumes."""
    for legend in slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode"):
        legend.Modified()


@contextmanager
def alone(view: slicer.vtkMRMLSliceCompositeNode) -> Iterator[None]:
    """Keep what changes in a view from those that it is linked with.

    The slider of a view takes up its opacity, as if a user had moved it, and so gives it to all views of the group.
    """
    view.SetInteractionFlagsModifier(0)
    try:
        yield
    finally:
        view.ResetInteractionFlagsModifier()


def isThere(name: str | None) -> bool:
    """Return whether the scene has a node of an id."""
    return bool(name) and slicer.mrmlScene.GetNodeByID(name) is not None


def keep(view: slicer.vtkMRMLSliceCompositeNode) -> None:
    """Let a view know what it shows now, before it shows something else for a while; this is saved with the scene.

    If what it shows is not saved itself, what it knows already stays.
    """
    layers = layersOf(view)
    if _areSaved(layers):
        _refer(view, BEFORE, layers)
        view.SetAttribute(ATTRIBUTE, f"{layers[2]} {layers[3]}")


def kept(view: slicer.vtkMRMLSliceCompositeNode) -> Layers | None:
    """Return what a view showed before; None if it does not know."""
    how = numbersOf(view.GetAttribute(ATTRIBUTE), float, int)
    return None if how is None else (*_referred(view, BEFORE), *how)


def mark(view: slicer.vtkMRMLSliceCompositeNode) -> None:
    """Let a view know that what it shows now is for a while, if it is."""
    if view.GetAttribute(ATTRIBUTE):
        _refer(view, SHOWN, layersOf(view))


def release(view: slicer.vtkMRMLSliceCompositeNode) -> None:
    """Let a view forget what it showed before, unless it still shows something that is not saved."""
    if not _areSaved(layersOf(view)):
        mark(view)
        return
    for role in (*BEFORE, *SHOWN):
        view.RemoveNodeReferenceIDs(role)
    view.RemoveAttribute(ATTRIBUTE)


def giveBack() -> None:
    """Let the views of a scene that has just been opened show what they did before; other choices are kept."""
    for view in compositeNodes():
        before = kept(view)
        # References to what was not saved are gone by now, on both sides.
        if before is not None and layersOf(view)[:2] == _referred(view, SHOWN):
            setLayers(view, before)
        release(view)
    tellLegends()


def numbersOf(text: str | None, *kinds: Callable[[str], Any]) -> Any:
    """Return the numbers in an attribute, one of each kind; None if there are others, as a scene may hold anything."""
    try:
        return tuple(kind(word) for kind, word in zip(kinds, (text or "").split(), strict=True))
    except ValueError:
        return None


def _areSaved(layers: Layers) -> bool:
    nodes = (slicer.mrmlScene.GetNodeByID(name) for name in layers[:2] if name)
    return all(node is not None and node.GetSaveWithScene() for node in nodes)


def _refer(view: slicer.vtkMRMLSliceCompositeNode, roles: tuple[str, str], layers: Layers) -> None:
    for role, name in zip(roles, layers, strict=False):
        view.SetNodeReferenceID(role, name)


def _referred(view: slicer.vtkMRMLSliceCompositeNode, roles: tuple[str, str]) -> tuple[str | None, str | None]:
    return view.GetNodeReferenceID(roles[0]), view.GetNodeReferenceID(roles[1])
