"""Loads forms of Qt Designer, stand-ins taking the places of the widgets that are not of Qt."""

import xml.etree.ElementTree as ET

from PySide6 import QtCore, QtUiTools, QtWidgets

from . import ctk_widgets, mrml_widgets

STAND_INS = {
    name: item
    for module in (ctk_widgets, mrml_widgets)
    for name, item in vars(module).items()
    if name.startswith(("ctk", "qMRML"))
}


class FormLoader(QtUiTools.QUiLoader):
    """Stands in for `qt.QUiLoader`; unlike it, refuses classes and properties that nothing stands in for."""

    def createWidget(self, className: str, parent: QtWidgets.QWidget | None = None, name: str = "") -> object:
        """Make one widget of a form; Qt calls this."""
        if className not in STAND_INS:
            return super().createWidget(className, parent, name)
        widget = STAND_INS[className](parent)
        widget.setObjectName(name)
        return widget

    def load(self, device: QtCore.QIODevice, parent: QtWidgets.QWidget | None = None) -> QtWidgets.QWidget:
        """Return the widget of a form.

        Raises:
            NotImplementedError: If something in it has no stand-in.
        """
        form = ET.fromstring(device.readAll().data())
        _check(form)
        # Qt cannot make connections between signals and slots that Python alone knows.
        connections = form.find("connections")
        form.remove(connections)
        buffer = QtCore.QBuffer()
        buffer.setData(ET.tostring(form))
        buffer.open(QtCore.QIODevice.ReadOnly)
        widget = super().load(buffer, parent)
        for item in (widget, *widget.findChildren(QtWidgets.QWidget)):
            item.toolTip = item.toolTip  # what the form sets directly looks like what is set in Python
        members = {item.objectName: item for item in (widget, *widget.findChildren(QtCore.QObject))}
        for item in connections:
            sender, receiver = members[item.findtext("sender")], members[item.findtext("receiver")]
            sender.connect(item.findtext("signal"), receiver, item.findtext("slot"))
        return widget


def _check(form: ET.Element) -> None:
    for item in form.iter("widget"):
        name = item.get("class")
        if name in STAND_INS:
            wanted = {entry.get("name") for entry in item.findall("property") if entry.get("stdset") != "0"}
            missing = sorted(entry for entry in wanted if not hasattr(STAND_INS[name], entry))
        else:
            missing = [] if hasattr(QtWidgets, name) else ["class"]
        if missing:
            msg = f"Nothing stands in for {', '.join(missing)} of {name} yet: see gui_stand_ins/__init__.py."
            raise NotImplementedError(msg)
