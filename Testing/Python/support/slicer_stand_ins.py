"""Stand-ins for the pure Python part of Slicer that slicer-core lacks: scripted module classes, parameter node, i18n.

`install()` puts them in place, so that `import DeepAttentionReg` works on slicer-core without the application. Where
the environment variable SLICER_PY names the Base/Python folder of a Slicer source tree, Slicer's own files are used.
"""

import importlib.machinery
import importlib.util
import os
import sys
import types
import unittest
from pathlib import Path
from typing import Any

import slicer
import slicer.util

import parameter_node_stand_in


def install() -> None:
    """Make the files of Slicer importable that the module imports."""
    upstream = os.environ.get("SLICER_PY")
    if upstream:
        slicer.__path__.append(str(Path(upstream) / "slicer"))
        sys.path.append(upstream)
        for name in ("qt", "ctk"):
            if importlib.util.find_spec(name) is None:
                add_module(name).__getattr__ = _make_unused_class
        slicer.__getattr__ = _make_unused_class
        return
    add_module("slicer.i18n", tr=lambda text: text, translate=lambda _context, text: text)
    classes = (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    )
    names = {item.__name__: item for item in classes}
    add_module("slicer.ScriptedLoadableModule", __all__=list(names), **names)
    names = {name: getattr(parameter_node_stand_in, name) for name in ("WithinRange", "parameterNodeWrapper")}
    add_module("slicer.parameterNodeWrapper", **names)
    add_module("slicer.packaging", isPipInstallInProgress=lambda: False)


def add_module(name: str, **attributes: Any) -> types.ModuleType:
    """Return a module that can be imported by its name from now on."""
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(name, None))
    vars(module).update(attributes)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    return module


def _make_unused_class(name: str) -> type:
    """Return a class for Qt names that Slicer's files mention but do not use without a window."""
    if not name.startswith(("Q", "ctk", "qMRML", "qSlicer")):
        raise AttributeError(name)
    return type(name, (), {"__init__": lambda self, *_arguments: None})


class ScriptedLoadableModule:
    """What describes a module to the application."""

    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.moduleName = type(self).__name__

    def resourcePath(self, name: str) -> str:
        """Return the path of a file among the resources of the module."""
        return str(Path(self.parent.path).with_name("Resources") / name)


class ScriptedLoadableModuleWidget:
    """What a panel derives from; it is only made where something stands in for Qt."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.parent = parent if parent is not None else _make_parent()
        self.layout = self.parent.layout()
        if parent is None:
            self.setup()
            self.parent.show()

    def resourcePath(self, name: str) -> str:
        """Return the path of a file among the resources of the module."""
        return str(Path(slicer.util.modulePath(self.moduleName)).with_name("Resources") / name)

    def setup(self) -> None:
        """Add nothing for developers."""

    def onReload(self) -> None:
        """Make the panel anew, from the files as they are now."""
        slicer.util.reloadScriptedModule(self.moduleName)


def _make_parent() -> Any:
    import qt

    parent = slicer.qMRMLWidget()
    qt.QVBoxLayout(parent)
    parent.setMRMLScene(slicer.mrmlScene)
    return parent


class ScriptedLoadableModuleLogic:
    """What a logic derives from: it knows the one parameter node of its module in the scene."""

    def __init__(self) -> None:
        self.moduleName = type(self).__name__.removesuffix("Logic")

    def getParameterNode(self) -> slicer.vtkMRMLScriptedModuleNode:
        """Return the module's parameter node, made on first use."""
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.vtkMRMLScriptedModuleNode()
            node.SetSingletonTag(self.moduleName)
            node.SetName(self.moduleName)
            node = slicer.mrmlScene.AddNode(node)
        node.SetAttribute("ModuleName", self.moduleName)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """What a module's self test derives from."""

    def delayDisplay(self, message: str, _msec: int = 0) -> None:
        """Show nothing."""
