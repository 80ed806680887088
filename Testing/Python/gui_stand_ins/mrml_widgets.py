"""Stand-ins for Slicer's widgets that show nodes of the MRML scene."""

import weakref
from collections.abc import Callable
from typing import Any

import shiboken6
import slicer
from PySide6 import QtCore, QtWidgets

from .pythonqt import stored

Signal = QtCore.Signal


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

    Like Slicer's, it knows no nodes while the scene is closed or a file is read into it, it lets go of a node that is
    removed, and it chooses the first node by itself unless it can show none.
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
        self._observed: list[tuple[Any, int]] = []
        self._combo = QtWidgets.QComboBox()
        self._combo.sizeAdjustPolicy = QtWidgets.QComboBox.AdjustToMinimumContentsLengthWithIcon
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        self.setFocusProxy(self._combo)
        self._combo.activated.connect(lambda index: self.setCurrentNodeID(self._combo.itemData(index)))
        self.setEnabled(False)

    def changed(self, _name: str) -> None:
        self.refresh()

    def mrmlScene(self) -> slicer.vtkMRMLScene | None:
        return self._scene

    def setMRMLScene(self, scene: slicer.vtkMRMLScene | None) -> None:
        self._scene = scene
        self.setEnabled(scene is not None)
        self.refresh()

    def nodes(self) -> list[slicer.vtkMRMLNode]:
        """Return the nodes to choose from."""
        scene = self._scene
        if scene is None or scene.IsImporting() or scene.IsClosing():
            return []
        every = (scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes()))
        return [node for node in every if self._isOffered(node)]

    def _isOffered(self, node: slicer.vtkMRMLNode) -> bool:
        if node.GetHideFromEditors() and not self.showHidden:
            return False
        match = node.IsA if self.showChildNodeTypes else node.GetClassName().__eq__
        return any(match(kind) for kind in self.nodeTypes)

    def refresh(self) -> None:
        """Show what the scene holds now."""
        nodes = self.nodes()
        self._observe(nodes)
        current = self._node if self._node in nodes else None
        if current is None and nodes and not self.noneEnabled and not self._choseNone:
            current = nodes[0]
        self._combo.clear()
        if self.noneEnabled:
            self._combo.addItem(self.noneDisplay, "")
        for node in nodes:
            self._combo.addItem(node.GetName(), node.GetID())
        self._select(current)

    def _observe(self, nodes: list[slicer.vtkMRMLNode]) -> None:
        """Be told when the scene or the name of a node changes."""
        for subject, tag in self._observed:
            subject.RemoveObserver(tag)
        self._observed = [(node, node.AddObserver("ModifiedEvent", _calling(self, "showNames"))) for node in nodes]
        scene = self._scene
        if scene is not None:
            for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndImportEvent):
                self._observed.append((scene, scene.AddObserver(event, _calling(self, "refresh"))))

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
        self._checked: set[str] = set()
        super().__init__(parent)

    def checkedNodes(self) -> list[slicer.vtkMRMLNode]:
        return [node for node in self.nodes() if node.GetID() in self._checked]

    def uncheckedNodes(self) -> list[slicer.vtkMRMLNode]:
        return [node for node in self.nodes() if node.GetID() not in self._checked]

    def checkState(self, node: slicer.vtkMRMLNode) -> QtCore.Qt.CheckState:
        return QtCore.Qt.Checked if node.GetID() in self._checked else QtCore.Qt.Unchecked

    def setCheckState(self, node: slicer.vtkMRMLNode, state: QtCore.Qt.CheckState) -> None:
        if state == self.checkState(node):
            return
        self._checked ^= {node.GetID()}
        self.refresh()
        self.checkedNodesChanged.emit()

    def refresh(self) -> None:
        """Show the names of the checked nodes; let go of those that are gone."""
        nodes, before = self.nodes(), set(self._checked)
        self._observe(nodes)
        self._checked &= {node.GetID() for node in nodes}
        self._combo.clear()
        self._combo.addItem(", ".join(node.GetName() for node in self.checkedNodes()) or self.noneDisplay, "")
        for node in nodes:
            self._combo.addItem(node.GetName(), node.GetID())
        if self._checked != before:
            self.checkedNodesChanged.emit()


def _calling(widget: QtWidgets.QWidget, method: str) -> Callable[[Any, str], None]:
    """Return an observer that calls a method of a widget as long as the widget lives."""
    reference = weakref.ref(widget)

    def call(_caller: Any, _event: str) -> None:
        living = reference()
        if living is not None and shiboken6.isValid(living):
            getattr(living, method)()

    return call
