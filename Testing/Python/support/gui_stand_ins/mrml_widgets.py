"""Stand-ins for Slicer's widgets that show nodes of the MRML scene."""

import weakref
from collections.abc import Callable
from typing import Any

import shiboken6
import slicer
import slicer.util
import vtk
from PySide6 import QtCore, QtWidgets

from .ctk_widgets import ctkComboBox
from .pythonqt import stored

Signal = QtCore.Signal
LATE = -10.0  # Slicer's selectors hear of a removal after those who observe it in the usual way.


class qMRMLWidget(QtWidgets.QWidget):
    """A widget that hands the scene on to those in it, by the connections of the form."""

    mrmlSceneChanged = Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene = None

    def mrmlScene(self) -> slicer.vtkMRMLScene | None:
        return self._scene

    def setMRMLScene(self, scene: slicer.vtkMRMLScene | None) -> None:
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)


class qMRMLNodeComboBox(QtWidgets.QWidget):
    """Chooses a node of the scene, or none.

    Like Slicer's, it knows no nodes while the scene is closed or a file is read into it, it chooses the first node by
    itself unless it can show none, and in place of a node that is about to be removed the one that moves up.
    """

    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeTypes = stored("nodeTypes", "QStringList", [])
    showChildNodeTypes = stored("showChildNodeTypes", bool, True)
    showHidden = stored("showHidden", bool, False)
    noneEnabled = stored("noneEnabled", bool, False)
    noneDisplay = stored("noneDisplay", str, "None")
    addEnabled = stored("addEnabled", bool, True)
    removeEnabled = stored("removeEnabled", bool, True)
    renameEnabled = stored("renameEnabled", bool, False)
    editEnabled = stored("editEnabled", bool, False)
    selectNodeUponCreation = stored("selectNodeUponCreation", bool, True)
    baseName = stored("baseName", str, "")

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene = self._node = None
        self._choseNone = False
        self._observed: list[tuple[slicer.vtkMRMLNode, int]] = []
        self._shown: list[slicer.vtkMRMLNode] | None = None
        self._combo = ctkComboBox()
        self._combo.sizeAdjustPolicy = QtWidgets.QComboBox.AdjustToContents
        policy = QtWidgets.QSizePolicy
        self.setSizePolicy(policy(policy.Preferred, policy.Fixed, policy.ComboBox))
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        self.setFocusProxy(self._combo)
        self._combo.activated.connect(lambda index: self.setCurrentNodeID(self._combo.itemData(index)))
        self.setEnabled(False)

    def changed(self, _name: str) -> None:
        self._shown = None
        self.refresh()

    def mrmlScene(self) -> slicer.vtkMRMLScene | None:
        return self._scene

    def setMRMLScene(self, scene: slicer.vtkMRMLScene) -> None:
        """Choose among the nodes of a scene from now on; there is one scene only."""
        if scene is self._scene:
            return
        self._scene = scene
        self.setEnabled(True)
        scene.AddObserver(scene.NodeAboutToBeRemovedEvent, _passing(self, "leaveOut"), LATE)
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndImportEvent):
            scene.AddObserver(event, _calling(self, "refresh"))
        self.refresh()

    def nodes(self) -> list[slicer.vtkMRMLNode]:
        """Return the nodes to choose from."""
        scene = self._scene
        if scene is None or scene.IsImporting() or scene.IsClosing():
            return []
        named = [node for kind in self.nodeTypes for node in self._nodesOf(kind)]
        return list(dict.fromkeys(named))

    def _nodesOf(self, kind: str) -> list[slicer.vtkMRMLNode]:
        nodes = slicer.util.getNodesByClass(kind, self._scene)
        if not self.showChildNodeTypes:
            nodes = [node for node in nodes if node.GetClassName() == kind]
        return nodes if self.showHidden else [node for node in nodes if not node.GetHideFromEditors()]

    def refresh(self) -> None:
        """Show what the scene holds now."""
        nodes = self.nodes()
        if nodes == self._shown:
            return
        current = self._node if self._node in nodes else None
        if current is None and nodes and not self.noneEnabled and not self._choseNone:
            current = nodes[0]
        self._list(nodes, [self.noneDisplay] if self.noneEnabled else [])
        self._select(current)

    def leaveOut(self, node: slicer.vtkMRMLNode) -> None:
        """Take a node off the list; a QComboBox stays in its row, or goes to the last one there is."""
        if self._scene.IsClosing() or node not in (self._shown or ()):
            return
        row = self._shown.index(node)
        rest = [item for item in self._shown if item is not node]
        rows = [None, *rest] if self.noneEnabled else rest
        following = rows[min(row + int(self.noneEnabled), len(rows) - 1)] if rows else None
        self._list(rest, [self.noneDisplay] if self.noneEnabled else [])
        self._select(following if self._node is node else self._node)

    def _list(self, nodes: list[slicer.vtkMRMLNode], first: list[str]) -> None:
        """List nodes after other texts, and watch their names."""
        for node, tag in self._observed:
            node.RemoveObserver(tag)
        self._observed = [(node, node.AddObserver("ModifiedEvent", _calling(self, "showNames"))) for node in nodes]
        self._shown = nodes
        self._combo.clear()
        for text in first:
            self._combo.addItem(text, "")
        for node in nodes:
            self._combo.addItem(node.GetName(), node.GetID())

    def showNames(self) -> None:
        """Show nodes under the names they have now."""
        for index in range(self._combo.count):
            node = self._scene.GetNodeByID(self._combo.itemData(index)) if self._combo.itemData(index) else None
            if node is not None:
                self._combo.setItemText(index, node.GetName())

    def _select(self, node: slicer.vtkMRMLNode | None) -> None:
        self._combo.currentIndex = self._combo.findData(node.GetID() if node is not None else "")
        if node is not self._node:
            self._node = node
            self.currentNodeChanged.emit(node)
            self.currentNodeIDChanged.emit(self.currentNodeID)

    def currentNode(self) -> slicer.vtkMRMLNode | None:
        return self._node

    def setCurrentNode(self, node: slicer.vtkMRMLNode | str | None) -> None:
        if isinstance(node, str):
            self.setCurrentNodeID(node)
            return
        self._choseNone = node is None
        self._select(node if node in self.nodes() else None)

    def setCurrentNodeID(self, nodeID: str) -> None:
        self.setCurrentNode(self._scene.GetNodeByID(nodeID) if nodeID and self._scene is not None else None)

    currentNodeID = QtCore.Property(str, lambda self: self._node.GetID() if self._node else "", setCurrentNodeID)

    def addNode(self, nodeType: str = "") -> slicer.vtkMRMLNode:
        """Add a node, as "Create new" in the list does."""
        node = self._scene.AddNewNodeByClass(nodeType or self.nodeTypes[0], self.baseName)
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAdded.emit(node)
        self.nodeAddedByUser.emit(node)
        return node


class qMRMLCheckableNodeComboBox(qMRMLNodeComboBox):
    """Chooses any number of nodes."""

    checkedNodesChanged = Signal()

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._checked: set[str] = set()

    def checkedNodes(self) -> list[slicer.vtkMRMLNode]:
        return [node for node in self.nodes() if node.GetID() in self._checked]

    def uncheckedNodes(self) -> list[slicer.vtkMRMLNode]:
        return [node for node in self.nodes() if node.GetID() not in self._checked]

    def checkState(self, node: slicer.vtkMRMLNode) -> QtCore.Qt.CheckState:
        return QtCore.Qt.Checked if node.GetID() in self._checked else QtCore.Qt.Unchecked

    def setCheckState(self, node: slicer.vtkMRMLNode, state: QtCore.Qt.CheckState) -> None:
        if state != self.checkState(node):
            self._checked ^= {node.GetID()}
            self._show()

    def refresh(self) -> None:
        """Let go of the checked nodes that are gone."""
        nodes = self.nodes()
        if nodes == self._shown:
            return
        self._list(nodes, [""])
        self._checked &= {node.GetID() for node in nodes}
        self._show()

    def _show(self) -> None:
        """Show the names of the checked nodes, and tell of them."""
        self._combo.setItemText(0, ", ".join(node.GetName() for node in self.checkedNodes()) or self.noneDisplay)
        self.checkedNodesChanged.emit()


def _calling(widget: QtWidgets.QWidget, method: str) -> Callable[[Any, str], None]:
    """Return an observer that calls a method of a widget as long as the widget lives."""
    reference = weakref.ref(widget)

    def call(_caller: Any, _event: str, *arguments: Any) -> None:
        living = reference()
        if living is not None and shiboken6.isValid(living):
            getattr(living, method)(*arguments)

    return call


def _passing(widget: QtWidgets.QWidget, method: str) -> Callable[[Any, str, Any], None]:
    """Return such an observer that passes on the node that an event is about."""
    return vtk.calldata_type(vtk.VTK_OBJECT)(_calling(widget, method))
