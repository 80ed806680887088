"""PySide6 with the manners of PythonQt, in which Slicer's Python code speaks to Qt.

Properties are attributes, `widget.text = "a"`, not methods; `widget.connect("clicked(bool)", slot)` takes a signature
as text and gives a slot no more arguments than it takes. What a signal calls lives as long as its sender does, even if
only the two of them know each other, and a single shot until it is fired. What is wrong raises here, where PythonQt
prints or guesses.
"""

import contextlib
import functools
import inspect
import re
import types
from collections.abc import Callable
from typing import Any

import shiboken6
from PySide6 import QtCore, QtGui, QtWidgets

from slicer_stand_ins import add_module

# What a property of a type takes; PythonQt would try to convert other values.
ACCEPTED = {
    "bool": (bool, int),
    "int": (bool, int, float),
    "double": (bool, int, float),
    "QString": str,
    "QStringList": (list, tuple),
}
CONVERTED = {"bool": bool, "int": int, "double": float, "QStringList": list}
# Properties that PySide6 itself looks up as methods, to find out whether Python overrides them.
VIRTUAL = {"sizeHint", "minimumSizeHint", "viewportSizeHint", "spacing"}
VTK_POINTER = re.compile(r"\bvtk\w+\s*\*")

_plain_get = QtCore.QObject.__getattribute__
# What signals call, by the address of their sender: PythonQt keeps it where no garbage collector sees it.
_targets: dict[int, list[Any]] = {}


def install() -> types.ModuleType:
    """Change PySide6 for the whole process and return it as the module `qt`, which can then be imported."""
    QtCore.QObject.__getattribute__ = QtWidgets.QMenu.__getattribute__ = _get  # a menu has its own
    # They make their classes when asked for them, so that looking into them is not enough.
    modules = (QtCore, QtGui, QtWidgets)
    names = {name: getattr(module, name) for module in modules for name in dir(module) if not name.startswith("_")}
    for item in names.values():
        if isinstance(item, type) and issubclass(item, QtCore.QObject):
            item.__setattr__ = _set
    QtCore.QTimer.singleShot = staticmethod(_single_shot)
    return add_module("qt", **names)


def stored(name: str, kind: Any, default: Any) -> QtCore.Property:
    """Return a Qt property that only keeps its value; `changed(name)` of the widget, if there is one, is told."""

    def get(self: Any) -> Any:
        return vars(self).get(f"_stored_{name}", default)

    def put(self: Any, value: Any) -> None:
        vars(self)[f"_stored_{name}"] = value
        getattr(self, "changed", lambda _name: None)(name)

    return QtCore.Property(kind, get, put)


def _property_of(item: QtCore.QObject, name: str) -> QtCore.QMetaProperty | None:
    meta = _plain_get(item, "metaObject")()
    index = meta.indexOfProperty(name)
    return meta.property(index) if index >= 0 else None


def _get(self: QtCore.QObject, name: str) -> Any:
    if name.startswith("_") or name in VIRTUAL:
        return _plain_get(self, name)
    if name in METHODS:
        return types.MethodType(METHODS[name], self)
    name = "objectName" if name == "name" else name
    known = _property_of(self, name)
    if known is not None:
        # Of an object, `property` hands out a second owner, who takes it away.
        return _plain_get(self, name)() if known.typeName().endswith("*") else _plain_get(self, "property")(name)
    try:
        found = _plain_get(self, name)
        return _Signal(self, name, found) if isinstance(found, QtCore.SignalInstance) else found
    except AttributeError:
        if name.encode() in _plain_get(self, "dynamicPropertyNames")():
            return _plain_get(self, "property")(name)
        target = name[3:4].lower() + name[4:]
        if name.startswith("set") and _property_of(self, target) is not None:
            return functools.partial(setattr, self, target)
        raise


def _set(self: QtCore.QObject, name: str, value: Any) -> None:
    name = "objectName" if name == "name" else name
    known = None if name.startswith("_") else _property_of(self, name)
    if known is None:
        _set_other(self, name, value)
        return
    if not known.isWritable():
        msg = f"Property '{name}' of {self.className()} is not writable"
        raise AttributeError(msg)
    if name == "toolTip" and isinstance(value, str):
        value = wrapped(value)
    kind = known.typeName()
    accepted = isinstance(value, ACCEPTED.get(kind, object))
    converted = CONVERTED.get(kind, lambda given: given)(value) if accepted else None
    if not accepted or not _plain_get(self, "setProperty")(name, converted):
        msg = f"Property '{name}' of {self.className()} is a {kind} and does not accept {value!r}"
        raise AttributeError(msg)


def wrapped(text: str) -> str:
    """Return a tool tip as Slicer makes it when it is set: a text that is not rich yet becomes a paragraph."""
    is_plain = text and not QtGui.Qt.mightBeRichText(text)
    return QtGui.Qt.convertFromPlainText(text, QtGui.Qt.WhiteSpaceMode.WhiteSpaceNormal) if is_plain else text


def _set_other(item: QtCore.QObject, name: str, value: Any) -> None:
    """Set what is no property; a class of Qt itself takes nothing else but dynamic properties."""
    if name.encode() in _plain_get(item, "dynamicPropertyNames")():
        _plain_get(item, "setProperty")(name, value)
    elif _is_free(item, name) or isinstance(value, QtCore.SignalInstance):  # PySide6 keeps those itself
        vars(item)[name] = value
    else:
        msg = f"Attribute '{name}' does not exist or is not writable on {item.className()}"
        raise AttributeError(msg)


def _is_free(item: QtCore.QObject, name: str) -> bool:
    return name.startswith("_") or not type(item).__module__.startswith("PySide6")


def _class_name(self: QtCore.QObject) -> str:
    return _plain_get(self, "metaObject")().className()


def _targets_of(sender: QtCore.QObject) -> list[Any]:
    """Return what the signals of a sender call; it is let go of when the sender is gone."""
    (address,) = shiboken6.getCppPointer(sender)
    if address not in _targets:
        _targets[address] = []
        _plain_get(sender, "destroyed").connect(lambda *_sender: _targets.pop(address, None))
    return _targets[address]


class _Signal:
    """A signal as an attribute of its sender."""

    def __init__(self, sender: QtCore.QObject, name: str, signal: QtCore.SignalInstance) -> None:
        self._sender, self._name, self._signal = sender, name, signal
        self.emit = signal.emit

    def connect(self, receiver: Any) -> None:
        if isinstance(receiver, _Signal):
            receiver = receiver.emit
        elif not getattr(receiver, "__module__", "").endswith("_widgets"):  # those of stand-ins are C++ in Slicer
            _targets_of(self._sender).append((self._name, receiver))
        self._signal.connect(receiver)

    def disconnect(self, receiver: Any) -> None:
        with contextlib.suppress(ValueError):
            _targets_of(self._sender).remove((self._name, receiver))
        self._signal.disconnect(receiver)


def _single_shot(milliseconds: int, callback: Callable[[], None]) -> None:
    timer = QtCore.QTimer()
    timer.setSingleShot(True)

    def fire() -> None:
        timer.deleteLater()
        callback()

    timer.connect("timeout()", fire)
    timer.start(milliseconds)


def _signal(sender: QtCore.QObject, signature: str) -> tuple[QtCore.SignalInstance, int]:
    """Return a signal and the number of arguments in its signature.

    Raises:
        ValueError: If the sender has no such signal.
    """
    meta = _plain_get(sender, "metaObject")()
    normalized = QtCore.QMetaObject.normalizedSignature(VTK_POINTER.sub("PyObject", signature))
    index = meta.indexOfSignal(normalized.data().decode())
    if index < 0:
        msg = f"{meta.className()} has no signal {signature}"
        raise ValueError(msg)
    return _plain_get(sender, signature.partition("(")[0]), meta.method(index).parameterCount()


def _target(receiver: Any, slot: str | None) -> Callable[..., Any]:
    return receiver if slot is None else getattr(receiver, slot.partition("(")[0])


def _accepted_count(callback: Callable[..., Any]) -> float:
    """Return how many positional arguments a function takes."""
    parameters = inspect.signature(callback).parameters.values()
    if any(item.kind is item.VAR_POSITIONAL for item in parameters):
        return float("inf")
    return sum(item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD) for item in parameters)


def _connect(self: QtCore.QObject, signature: str, receiver: Any, slot: str | None = None) -> bool:
    signal, count = _signal(self, signature)
    callback = _target(receiver, slot)
    taken = int(min(count, _accepted_count(callback)))

    def call(*arguments: Any) -> None:
        callback(*arguments[:taken])

    _targets_of(self).append((signature, callback, call))
    signal.connect(call)
    return True


def _disconnect(self: QtCore.QObject, signature: str, receiver: Any, slot: str | None = None) -> bool:
    signal, _count = _signal(self, signature)
    callback, known = _target(receiver, slot), _targets_of(self)
    for item in known:
        if item[:2] == (signature, callback):
            known.remove(item)
            return signal.disconnect(item[2])
    return False


METHODS = {"connect": _connect, "disconnect": _disconnect, "className": _class_name}
