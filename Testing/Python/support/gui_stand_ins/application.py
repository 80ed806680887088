"""Stands in for the Slicer application: its main window, its modules, its slice views (without their pictures)."""

import functools
import importlib
import logging
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import slicer
from PySide6 import QtCore, QtWidgets

import mrml_scene
from slice_controller import SliceController

from .ctk_widgets import ctkCollapsibleButton
from .mrml_widgets import qMRMLWidget

VIEW_SIZE = 300, 800  # pixels: three of them are side by side


class Application(QtWidgets.QApplication):
    """What `slicer.app` offers."""

    startupCompleted = QtCore.Signal()

    def __init__(self) -> None:
        QtCore.qInstallMessageHandler(_log)
        super().__init__(["Slicer"])
        self.applicationName = "Slicer"
        self.setStyle(Style())
        self._mrml = mrml_scene.boot()
        self._modules = ModuleManager()
        self._layout = LayoutManager(self._mrml)
        self._folder = tempfile.TemporaryDirectory(prefix="Slicer-", ignore_cleanup_errors=True)
        self.temporaryPath = self._folder.name
        # Nobody's settings are read or written.
        for scope in (QtCore.QSettings.UserScope, QtCore.QSettings.SystemScope):
            QtCore.QSettings.setPath(QtCore.QSettings.NativeFormat, scope, self.temporaryPath)
        self.mainWindow = MainWindow()

    def testingEnabled(self) -> bool:
        """Return True, so that Slicer asks nobody anything."""
        return True

    def applicationLogic(self) -> slicer.vtkSlicerApplicationLogic:
        return self._mrml.logic

    def mrmlScene(self) -> slicer.vtkMRMLScene:
        return self._mrml.scene

    def moduleManager(self) -> "ModuleManager":
        return self._modules

    def layoutManager(self) -> "LayoutManager":
        return self._layout

    def startupEnvironment(self) -> QtCore.QProcessEnvironment:
        return QtCore.QProcessEnvironment.systemEnvironment()

    def userSettings(self) -> QtCore.QSettings:
        return QtCore.QSettings()


def _log(_kind: QtCore.QtMsgType, _context: QtCore.QMessageLogContext, message: str) -> None:
    """Pass on what Qt complains about, but for its complaint that there is no screen."""
    if "propagateSizeHints" not in message:
        logging.warning("%s", message)


class ModuleManager(QtCore.QObject):
    """Knows the modules that were loaded."""

    moduleAboutToBeUnloaded = QtCore.Signal(str)

    def module(self, name: str) -> "ScriptedModule | None":
        return getattr(slicer.modules, name.lower(), None)


class LayoutManager:
    """Holds the slice views that the layout asks for, which show what their nodes say, without pictures."""

    def __init__(self, mrml: mrml_scene.Application) -> None:
        self._mrml = mrml
        self._logics = mrml.logic.GetSliceLogics()
        self._controllers: list[SliceController] = []
        self._layout = slicer.vtkMRMLLayoutLogic()
        self._layout.SetMRMLScene(mrml.scene)
        node = self._layout.GetLayoutNode()
        node.AddObserver("ModifiedEvent", lambda _caller, _event: self._arrange())
        node.SetViewArrangement(node.SlicerLayoutFourUpView)

    def _arrange(self) -> None:
        """Make the views that are new in the layout; all get the size they have there when they are drawn next."""
        nodes = self._layout.GetViewNodes()
        for node in [nodes.GetItemAsObject(index) for index in range(nodes.GetNumberOfItems())]:
            if node.IsA("vtkMRMLSliceNode"):
                logic = self._mrml.logic.GetSliceLogic(node) or self._addView(node)
                QtCore.QTimer.singleShot(0, functools.partial(logic.ResizeSliceNode, *VIEW_SIZE))

    def _addView(self, node: slicer.vtkMRMLSliceNode) -> slicer.vtkMRMLSliceLogic:
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(self._mrml.logic)
        self._logics.AddItem(logic)
        logic.SetMRMLScene(self._mrml.scene)
        logic.SetSliceNode(node)
        self._controllers.append(SliceController(logic))
        return logic

    def sliceViewNames(self) -> list[str]:
        nodes = slicer.util.getNodesByClass("vtkMRMLSliceNode", self._mrml.scene)
        return [node.GetLayoutName() for node in nodes]

    def mrmlSliceLogics(self) -> Any:
        return self._logics

    def resetSliceViews(self) -> None:
        for index in range(self._logics.GetNumberOfItems()):
            self._logics.GetItemAsObject(index).FitSliceToBackground()


class Style(QtWidgets.QProxyStyle):
    """Margins and distances as Slicer's style has them."""

    def __init__(self) -> None:
        super().__init__("Fusion")
        kinds = QtWidgets.QStyle
        margins = (kinds.PM_LayoutLeftMargin, kinds.PM_LayoutTopMargin)
        margins += (kinds.PM_LayoutRightMargin, kinds.PM_LayoutBottomMargin)
        spacings = (kinds.PM_LayoutHorizontalSpacing, kinds.PM_LayoutVerticalSpacing)
        self._margins = frozenset(margins)
        self._pixels = {**dict.fromkeys(margins, 6), **dict.fromkeys(spacings, 3), kinds.PM_SliderLength: 12}

    def pixelMetric(self, metric: QtWidgets.QStyle.PixelMetric, option: Any = None, widget: Any = None) -> int:
        pixels = self._pixels.get(metric)
        if pixels is None:
            return super().pixelMetric(metric, option, widget)
        return 4 if metric in self._margins and isinstance(widget, ctkCollapsibleButton) else pixels


class MainWindow(QtWidgets.QMainWindow):
    """Shows the panel of one module at a time, as Slicer's module panel does; also its own module selector."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self.scrollArea = QtWidgets.QScrollArea()
        self.scrollArea.widgetResizable = True
        self.scrollArea.setHorizontalScrollBarPolicy(QtCore.Qt.ScrollBarAlwaysOff)
        self.scrollArea.setFrameShape(QtWidgets.QFrame.NoFrame)
        self.scrollArea.setWidget(QtWidgets.QWidget())
        self._panels = QtWidgets.QVBoxLayout(self.scrollArea.widget())
        self._panels.setSizeConstraint(QtWidgets.QLayout.SetMinAndMaxSize)
        self._panels.setContentsMargins(0, 0, 0, 0)
        policy = QtWidgets.QSizePolicy
        self._panels.addItem(QtWidgets.QSpacerItem(0, 0, policy.Minimum, policy.MinimumExpanding))
        self.setCentralWidget(self.scrollArea)
        self.resize(480, 900)
        self.selectedModule = ""

    def moduleSelector(self) -> "MainWindow":
        return self

    def selectModule(self, name: str) -> None:
        """Leave the module that is open and open another; an empty name opens none."""
        if name == self.selectedModule:
            return
        if self.selectedModule:
            panel = slicer.util.getModule(self.selectedModule).widgetRepresentation()
            panel.exit()
            self._panels.removeWidget(panel)
            panel.visible = False
            panel.setParent(None)
        self.selectedModule = name
        if name:
            panel = slicer.util.getModule(name).widgetRepresentation()
            panel.layout().setContentsMargins(0, 0, 0, 0)
            panel.setSizePolicy(QtWidgets.QSizePolicy.Minimum, QtWidgets.QSizePolicy.Preferred)
            self._panels.insertWidget(0, panel, 1)
            panel.visible = True
            self.show()
            panel.enter()


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The C++ side of a module's panel."""

    def __init__(self, moduleName: str) -> None:
        super().__init__()
        self._moduleName = moduleName
        self._panel: Any = None
        self.isEntered = False
        QtWidgets.QVBoxLayout(self)
        self.setMRMLScene(slicer.mrmlScene)
        self.reload()

    def self(self) -> Any:
        """Return the Python side."""
        return self._panel

    def reload(self) -> None:
        """Make the Python side anew."""
        name = f"{self._moduleName}Widget"
        self._panel = getattr(importlib.import_module(self._moduleName), name)(self)
        setattr(slicer.modules, name, self._panel)
        try:
            self._panel.setup()
        except Exception:
            sys.excepthook(*sys.exc_info())  # of which C++, that called it, knows nothing

    def enter(self) -> None:
        self.isEntered = True
        self._panel.enter()

    def exit(self) -> None:
        self.isEntered = False
        self._panel.exit()


class ScriptedModule(SimpleNamespace):
    """The C++ side of a module, which describes itself by attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__(name=path.stem, path=str(path), panel=None)

    def widgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:
        """Return the panel, made when it is asked for first."""
        if self.panel is None:
            self.panel = self.createNewWidgetRepresentation()
        return self.panel

    def createNewWidgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:
        return qSlicerScriptedLoadableModuleWidget(self.name)


def load_module(path: Path) -> ScriptedModule:
    """Load a module as the application does when it starts; its folder is on the search path."""
    name = path.stem
    description = ScriptedModule(path)
    setattr(slicer.modules, name.lower(), description)
    setattr(slicer.modules, f"{name}Instance", getattr(importlib.import_module(name), name)(description))
    return description
