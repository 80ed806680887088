"""What the sections of the panel share: following the choices, lists to choose from, a common column of labels."""

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import slicer

from ..nodes.Present import present
from ..Parameters import DeepAttentionRegParameterNode


class Section:
    """A part of the panel that looks after its own widgets."""

    def __init__(self, ui: SimpleNamespace, tell: Callable[[str], None]) -> None:
        """Take the widgets; a section connects its own.

        :param ui: widgets by name.
        :param tell: shows the user a sentence, and has the panel updated.
        """
        self._ui, self._tell = ui, tell
        self._parameters: DeepAttentionRegParameterNode | None = None

    @property
    def chosen(self) -> DeepAttentionRegParameterNode:
        """The choices, while there are any."""
        return present(self._parameters)

    def follow(self, parameters: DeepAttentionRegParameterNode | None) -> None:
        """Take other choices; None lets go of the scene, which may be about to close."""
        self._parameters = parameters


def fillComboBox(comboBox: Any, items: Iterable[tuple[str, str]], current: str) -> None:
    """Let a combo box offer these items and show one of them, without telling those who listen to it.

    :param comboBox: a QComboBox.
    :param items: texts and what they stand for.
    :param current: what the shown item stands for.
    """
    items = list(items)
    offered = [(comboBox.itemText(index), comboBox.itemData(index)) for index in range(comboBox.count)]
    wasBlocked = comboBox.blockSignals(True)
    if items != offered:
        comboBox.clear()
        for text, data in items:
            comboBox.addItem(text, data)
    comboBox.currentIndex = comboBox.findData(current)
    comboBox.blockSignals(wasBlocked)


def alignLabels(ui: SimpleNamespace) -> None:
    """Give all labels of the sections the width of the widest, so that what they name is in one column.

    :param ui: widgets by name.
    """
    endings = ("SelectorLabel", "BoxLabel", "SliderLabel", "EditLabel")
    labels = [widget for name, widget in vars(ui).items() if name.endswith(endings)]
    labels.append(ui.estimateTitleLabel)
    width = max(label.fontMetrics().boundingRect(label.text).width() for label in labels)
    for label in labels:
        label.setMinimumWidth(width)


def setVisible(widgets: Iterable[Any], visible: bool) -> None:
    """Show or hide widgets."""
    for widget in widgets:
        widget.visible = visible


def chooseFile(title: str, filters: str = "") -> str:
    """Ask the user for an existing file and return its path; empty if none was chosen.

    :param title: of the dialog.
    :param filters: kinds of files, as in QFileDialog.
    """
    import qt

    return qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), title, "", filters)


def chooseNewFile(title: str, suggestion: str, filters: str) -> str:
    """Ask the user where to write a file and return its path; empty if nowhere.

    :param title: of the dialog.
    :param suggestion: name of the file.
    :param filters: kinds of files, as in QFileDialog.
    """
    import qt

    return qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, suggestion, filters)
