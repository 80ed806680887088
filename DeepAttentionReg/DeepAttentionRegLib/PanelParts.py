"""What the sections of the panel share: lists to choose from, a common column of labels, choosing a file."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import slicer


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
    labels = [
        widget for name, widget in vars(ui).items() if name.endswith(("SelectorLabel", "BoxLabel", "SliderLabel"))
    ]
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
