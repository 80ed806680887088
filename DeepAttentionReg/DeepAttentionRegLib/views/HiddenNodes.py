"""Nodes that are in the scene for a while: in no list, not saved, gone at the end."""

import slicer

from ..nodes.Present import present
from ..tasks.Results import NodeReference


class HiddenNodes:
    """Nodes that belong together, until they are closed."""

    def __init__(self) -> None:
        """Prepare; there are none yet."""
        self._nodes: list[NodeReference] = []

    def add(self, node: slicer.vtkMRMLNode, name: str) -> None:
        """Hide a node, in the scene or to be added to it.

        :param name: what the corners of slice views call it.
        """
        node.SetName(name)
        node.SetSaveWithScene(False)
        node.SetHideFromEditors(True)
        self._nodes.append(NodeReference(node if node.GetScene() is not None else slicer.mrmlScene.AddNode(node)))

    def __contains__(self, node: slicer.vtkMRMLNode) -> bool:
        """Return whether a node is one of them."""
        return any(reference.get() is node for reference in self._nodes)

    @property
    def first(self) -> slicer.vtkMRMLNode:
        """The node that was added first."""
        return present(self._nodes[0].get())

    def close(self) -> None:
        """Remove the nodes, the last one first."""
        for reference in reversed(self._nodes):
            if reference.get() is not None:
                slicer.mrmlScene.RemoveNode(reference.get())
        self._nodes = []
