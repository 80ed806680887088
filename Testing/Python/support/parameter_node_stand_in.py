"""Stands in for slicer.parameterNodeWrapper: attributes that live in a MRML node, and their binding to widgets.

Knows numbers, texts, paths, enums, nodes, unions of nodes and lists, and the widgets in BOUND_PROPERTIES; refuses
others. Slicer itself knows more, and keeps lists in another form.
"""

import ast
import enum
import typing
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
import slicer.util
import vtk

FIRST = 1.0  # priority of an observer; of equal ones VTK calls the one that was added first last
NAME_PROPERTY = "SlicerParameterName"
# Property and signal by which a widget of a class holds a value of a kind.
BOUND_PROPERTIES = {
    ("QCheckBox", bool): ("checked", "stateChanged"),
    ("QPushButton", bool): ("checked", "toggled"),
    ("QLineEdit", str): ("text", "textChanged"),
    ("QSpinBox", int): ("value", "valueChanged"),
    ("QDoubleSpinBox", float): ("value", "valueChanged"),
    ("ctkSliderWidget", int): ("value", "valueChanged"),
    ("ctkSliderWidget", float): ("value", "valueChanged"),
    ("ctkPathLineEdit", Path): ("currentPath", "currentPathChanged"),
    ("QComboBox", enum.Enum): ("currentIndex", "currentIndexChanged"),
    ("ctkComboBox", enum.Enum): ("currentIndex", "currentIndexChanged"),
    ("qMRMLNodeComboBox", slicer.vtkMRMLNode): ("currentNodeID", "currentNodeChanged"),
}


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
    """One attribute of a parameter node class, stored in the MRML node."""

    def __init__(self, name: str, hint: Any, default: Any) -> None:
        self.name = name
        self.bounds = None
        if typing.get_origin(hint) is typing.Annotated:
            hint, self.bounds = typing.get_args(hint)
        self.is_list = typing.get_origin(hint) is list
        if self.is_list:
            (hint,) = typing.get_args(hint)
        self.default = [] if self.is_list and default is None else default
        self.kinds = typing.get_args(hint) if typing.get_origin(hint) is typing.Union else (hint,)
        families = (slicer.vtkMRMLNode, enum.Enum, Path)
        self.family = next((item for item in families if issubclass(self.kinds[0], item)), self.kinds[0])

    @property
    def is_node(self) -> bool:
        return self.family is slicer.vtkMRMLNode

    def __get__(self, wrapper: Any, _owner: type | None = None) -> Any:
        node = wrapper.parameterNode
        if self.is_node:
            count = node.GetNumberOfNodeReferences(self.name)
            found = [node.GetNthNodeReference(self.name, index) for index in range(count)]
            return found if self.is_list else next(iter(found), None)
        return wrapper.values[self.name]

    def read(self, node: slicer.vtkMRMLScriptedModuleNode) -> Any:
        """Return the value in a node.

        Raises:
            ValueError: If it means nothing.
        """
        if not node.HasParameter(self.name):
            return self.default
        stored = node.GetParameter(self.name)
        return [self._parsed(text) for text in ast.literal_eval(stored)] if self.is_list else self._parsed(stored)

    def __set__(self, wrapper: Any, value: Any) -> None:
        values = list(value) if self.is_list else [value]
        for item in values:
            self._check(item)
        if not self.is_node:
            texts = [item.name if isinstance(item, enum.Enum) else str(item) for item in values]
            with slicer.util.NodeModify(wrapper.parameterNode):
                wrapper.parameterNode.SetParameter(self.name, repr(texts) if self.is_list else texts[0])
                wrapper.values[self.name] = self.read(wrapper.parameterNode)
        elif not self.is_list:
            wrapper.parameterNode.SetNodeReferenceID(self.name, value.GetID() if value else None)
        else:
            with slicer.util.NodeModify(wrapper.parameterNode):
                wrapper.parameterNode.RemoveNodeReferenceIDs(self.name)
                for item in values:
                    wrapper.parameterNode.AddNodeReferenceID(self.name, item.GetID())

    def _parsed(self, text: str) -> Any:
        kind = self.kinds[0]
        if kind is bool:
            return text == "True"
        if self.family is not enum.Enum:
            return kind(text)
        if text not in kind.__members__:
            msg = f"Found {text!r} in parameter node but it is not a name in {kind!r}"
            raise ValueError(msg)
        return kind[text]

    def _check(self, value: Any) -> None:
        allowed = (*self.kinds, type(None)) if self.is_node and not self.is_list else self.kinds
        if not isinstance(value, allowed):
            msg = f"{self.name} must be {' or '.join(kind.__name__ for kind in allowed)}, is {value!r}"
            raise TypeError(msg)
        if self.bounds is not None:
            self.bounds.validate(value)


class _Binding:
    """A parameter and the widget that shows it."""

    def __init__(self, wrapper: Any, parameter: _Parameter, widget: Any) -> None:
        key = type(widget).__name__, None if parameter.is_list else parameter.family
        if key not in BOUND_PROPERTIES:
            msg = f"Unable to bind {parameter.name} ({', '.join(map(str, parameter.kinds))}) to a {key[0]}"
            raise RuntimeError(msg)
        self._wrapper, self._parameter, self._widget = wrapper, parameter, widget
        self._property, signal = BOUND_PROPERTIES[key]
        self._prepare()
        self.show()
        self._signal = getattr(widget, signal)
        self._signal.connect(self._take)

    def close(self) -> None:
        self._signal.disconnect(self._take)

    def _prepare(self) -> None:
        """Let the widget offer what the parameter can be, and nothing else."""
        widget, parameter = self._widget, self._parameter
        if parameter.family is enum.Enum:
            widget.clear()
            widget.addItems([item.label() for item in parameter.kinds[0]])
        elif parameter.is_node:
            widget.nodeTypes = [kind.__name__ for kind in parameter.kinds if kind is not type(None)]
        elif parameter.family in (int, float):
            if type(widget).__name__ == "ctkSliderWidget" and parameter.family is int:
                widget.decimals = 0
            widget.minimum, widget.maximum = parameter.bounds.minimum, parameter.bounds.maximum

    def show(self) -> None:
        """Pass the value of the parameter on to the widget."""
        value, family = getattr(self._wrapper, self._parameter.name), self._parameter.family
        if self._parameter.is_node:
            value = value.GetID() if value else ""
        elif family is enum.Enum:
            value = list(self._parameter.kinds[0]).index(value)
        elif family is Path:
            value = str(value)
        setattr(self._widget, self._property, value)

    def _take(self) -> None:
        """Pass the value of the widget on to the parameter, unless the widget only shows a new value of it."""
        if self._wrapper.isShowing:
            return
        value, family = getattr(self._widget, self._property), self._parameter.family
        if self._parameter.is_node:
            value = slicer.mrmlScene.GetNodeByID(value) if value else None
        elif family is enum.Enum:
            value = list(self._parameter.kinds[0])[value]
        elif family in (int, Path):
            value = family(value)
        setattr(self._wrapper, self._parameter.name, value)


class _Wrapper:
    """What a wrapped class gets besides its parameters."""

    def __init__(self, parameterNode: slicer.vtkMRMLScriptedModuleNode) -> None:
        self.parameterNode = parameterNode
        self.isShowing = False
        self._guis: dict[int, list[_Binding]] = {}
        # As in Slicer, the node gets what it lacks, and what it holds is read at once and whenever it changes.
        self.values: dict[str, Any] = {}
        for name, item in self.allParameters.items():
            if not item.is_node and not parameterNode.HasParameter(name):
                setattr(self, name, item.default)
            elif not item.is_node:
                self.values[name] = item.read(parameterNode)
        reference = weakref.ref(self)
        read = lambda *_event: reference() and reference()._read()  # noqa: E731 - no method, which would hold this
        self._tag = self.AddObserver(vtk.vtkCommand.ModifiedEvent, read, FIRST)

    def __del__(self) -> None:
        if hasattr(self, "_tag"):
            self.RemoveObserver(self._tag)

    def _read(self) -> None:
        for name in self.values:
            self.values[name] = self.allParameters[name].read(self.parameterNode)

    def connectGui(self, gui: Any) -> int:
        """Bind the widgets among the attributes of an object that name a parameter; return a tag to undo it by."""
        names = {widget: widget.property(NAME_PROPERTY) for widget in vars(gui).values()}
        bindings = [_Binding(self, self.allParameters[name], widget) for widget, name in names.items() if name]
        tag = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda _caller, _event: self._show(bindings))
        self._guis[tag] = bindings
        return tag

    def disconnectGui(self, tag: int) -> None:
        for binding in self._guis.pop(tag):
            binding.close()
        self.RemoveObserver(tag)

    def _show(self, bindings: list[_Binding]) -> None:
        if self.isShowing:
            return
        self.isShowing = True
        try:
            for binding in bindings:
                binding.show()
        finally:
            self.isShowing = False

    def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> int:
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def StartModify(self) -> int:
        return self.parameterNode.StartModify()

    def EndModify(self, wasModified: int) -> None:
        self.parameterNode.EndModify(wasModified)


def parameterNodeWrapper(wrapped: type) -> type:
    """Turn the annotations of a class into attributes that live in a MRML node."""
    hints = typing.get_type_hints(wrapped, include_extras=True)
    parameters = {name: _Parameter(name, hint, getattr(wrapped, name, None)) for name, hint in hints.items()}
    return type(wrapped.__name__, (wrapped, _Wrapper), {**parameters, "allParameters": parameters})
