"""Stand-ins for the pure Python part of Slicer that slicer-core lacks: scripted module classes, parameter node, i18n.

`install()` puts them in place, so that `import DeepAttentionReg` works on slicer-core without the application. Where
the environment variable SLICER_PY names the Base/Python folder of a Slicer source tree, Slicer's own files are used.
"""

import enum
import importlib.machinery
import importlib.util
import os
import sys
import types
import typing
import unittest
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
import slicer.util


def install() -> None:
    """Make `slicer.ScriptedLoadableModule`, `slicer.parameterNodeWrapper` and `slicer.i18n` importable."""
    upstream = os.environ.get("SLICER_PY")
    if upstream:
        slicer.__path__.append(str(Path(upstream) / "slicer"))
        sys.path.append(upstream)
        for name in ("qt", "ctk"):
            if importlib.util.find_spec(name) is None:
                _add_module(name).__getattr__ = _make_unused_class
        slicer.__getattr__ = _make_unused_class
        return
    _add_module("slicer.i18n", tr=lambda text: text, translate=lambda _context, text: text)
    classes = (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    )
    names = {item.__name__: item for item in classes}
    _add_module("slicer.ScriptedLoadableModule", __all__=list(names), **names)
    _add_module("slicer.parameterNodeWrapper", WithinRange=WithinRange, parameterNodeWrapper=parameterNodeWrapper)


def _add_module(name: str, **attributes: Any) -> types.ModuleType:
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


class ScriptedLoadableModuleWidget:
    """What a panel derives from; without Qt it is never made."""


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


@dataclass(frozen=True)
class WithinRange:
    """Bounds of a number, both allowed."""

    minimum: float
    maximum: float

    def validate(self, value: float) -> None:
        """Raise ValueError for a value out of bounds."""
        if not self.minimum <= value <= self.maximum:
            msg = f"Value must be within range [{self.minimum}, {self.maximum}], is {value}"
            raise ValueError(msg)


class _Parameter:
    """One attribute of a parameter node class, stored in the MRML node as Slicer stores it."""

    def __init__(self, name: str, hint: Any, default: Any) -> None:
        self.name, self.default = name, default
        self.kinds, self.validators = (hint,), ()
        if typing.get_origin(hint) is typing.Annotated:
            kind, *self.validators = typing.get_args(hint)
            self.kinds = (kind,)
        elif typing.get_origin(hint) is typing.Union:
            self.kinds = typing.get_args(hint)
        self.is_node = any(issubclass(kind, slicer.vtkMRMLNode) for kind in self.kinds)

    def __get__(self, wrapper: Any, _owner: type | None = None) -> Any:
        node = wrapper.parameterNode
        if self.is_node:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        kind = self.kinds[0]
        if not text:
            return self.default
        if kind is bool:
            return text == "True"
        return kind[text] if issubclass(kind, enum.Enum) else kind(text)

    def __set__(self, wrapper: Any, value: Any) -> None:
        allowed = (*self.kinds, type(None)) if self.is_node else self.kinds
        if not isinstance(value, allowed):
            msg = f"{self.name} must be {' or '.join(kind.__name__ for kind in allowed)}, is {value!r}"
            raise TypeError(msg)
        for validator in self.validators:
            validator.validate(value)
        if self.is_node:
            wrapper.parameterNode.SetNodeReferenceID(self.name, value.GetID() if value else None)
        else:
            text = value.name if isinstance(value, enum.Enum) else str(value)
            wrapper.parameterNode.SetParameter(self.name, text)


def parameterNodeWrapper(wrapped: type) -> type:
    """Turn the annotations of a class into attributes that live in a MRML node."""
    hints = typing.get_type_hints(wrapped, include_extras=True)
    wrapped.allParameters = dict(hints)
    for name, hint in hints.items():
        setattr(wrapped, name, _Parameter(name, hint, getattr(wrapped, name, None)))

    def __init__(self: Any, parameterNode: slicer.vtkMRMLScriptedModuleNode) -> None:
        self.parameterNode = parameterNode

    wrapped.__init__ = __init__
    return wrapped
