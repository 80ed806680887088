"""Scenes that were saved while views showed something for a while: they open with what was there before."""

import slicer

from . import Layers, Layouts, Links


def prepare() -> None:
    """Know the layout of three, and look after all scenes that are opened; to be called when Slicer has started."""
    scene = slicer.mrmlScene
    Layouts.register()
    # A scene that was emptied altogether has another layout node.
    scene.AddObserver(scene.StartImportEvent, lambda _caller, _event: Layouts.register())
    # Before the panel, which may show something again.
    scene.AddObserver(scene.EndImportEvent, lambda _caller, _event: giveBack(), 1.0)


def giveBack() -> None:
    """Let the views of a scene that has just been opened be as before."""
    Layers.giveBack()
    Links.giveBack()
    Layouts.giveBack()
