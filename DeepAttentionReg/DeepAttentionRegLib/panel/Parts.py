"""What the sections of the panel share: following the choices, lists to choose from, texts, files."""

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import slicer

from ..nodes import ErrorBound
from ..nodes.Present import present
from ..Parameters import DeepAttentionRegParameterNode

SCROLL_BAR_PIXELS = 18  # at most, in the styles of Slicer
# Colors of their own, to be read in the light and in the dark style of Slicer.
VERDICT_STYLES = {
    ErrorBound.FAILED: "background: #b3261e; color: #ffffff; font-weight: bold; padding: 3px;",
    ErrorBound.SUSPICIOUS: "background: #ffd591; color: #1b1f24; padding: 3px;",
}


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


def putText(label: Any, text: str) -> None:
    """Let a word-wrapped label show a text in full.

    A scroll area asks only for the least height, in which such a text may not fit.
    """
    if label.text != text:
        label.text = text
        _fit(label)


def putVerdict(label: Any, verdict: ErrorBound.ToldVerdict | None) -> None:
    """Let a label show a verdict on a registration, so that a bad one is seen; hide it if there is none."""
    style = "" if verdict is None else VERDICT_STYLES.get(verdict.kind, "")
    if label.styleSheet != style:
        label.styleSheet = style
    putText(label, "" if verdict is None else verdict.text)
    label.visible = bool(label.text)


def _keepTextsFitting(ui: SimpleNamespace) -> Any:
    """Let all word-wrapped labels be high enough whenever their width changes, and return what does it."""
    import qt

    labels = [item for item in vars(ui).values() if item.className() == "QLabel" and item.wordWrap]
    widths = [0] * len(labels)
    # A layout that is at work does not see what changes meanwhile.
    timer = qt.QTimer(ui.sectionsScrollArea)
    timer.setSingleShot(True)

    class Fitter(qt.QObject):
        def eventFilter(self, _label: Any, event: Any) -> bool:
            if event.type() == qt.QEvent.Resize:
                timer.start()
            return False

    def fit() -> None:
        for index, label in enumerate(labels):
            if label.width != widths[index]:
                widths[index] = label.width
                _fit(label)

    timer.connect("timeout()", fit)
    fitter = Fitter()
    for label in labels:
        label.installEventFilter(fitter)
    return fitter


def _fit(label: Any) -> None:
    label.setMinimumHeight(0)  # or it would not need less than before
    # Not only the least: in a form, it would get the height of its size hint, which is for another width.
    label.setFixedHeight(max(label.heightForWidth(label.width), 0))


def arrange(ui: SimpleNamespace) -> Any:
    """Let all fit: labels, texts, and the width of the whole.

    :param ui: widgets by name.
    :return: what goes on doing it, to be kept as long as the widgets are there.
    """
    _alignLabels(ui)
    _fitWidth(ui.sectionsScrollArea)
    return _keepTextsFitting(ui)


def _alignLabels(ui: SimpleNamespace) -> None:
    """Give all labels of the sections the width of the widest, so that what they name is in one column."""
    endings = ("SelectorLabel", "BoxLabel", "SliderLabel", "EditLabel")
    labels = [widget for name, widget in vars(ui).items() if name.endswith(endings)]
    labels.append(ui.estimateTitleLabel)
    width = max(label.fontMetrics().boundingRect(label.text).width() for label in labels)
    for label in labels:
        label.setMinimumWidth(width)


def _fitWidth(scrollArea: Any) -> None:
    """Let a scroll area be no narrower than what is in it."""
    scrollArea.setMinimumWidth(scrollArea.widget().layout().minimumSize().width() + SCROLL_BAR_PIXELS)


def setVisible(widgets: Iterable[Any], visible: bool) -> None:
    """Show or hide widgets."""
    for widget in widgets:
        widget.visible = visible


def chooseFile(title: str, filters: str = "") -> str:
    """Ask the user for an existing file and return its path; empty if none was chosen.

    A link stays one: the Python of a virtual environment is a link to one that lacks its packages.

    :param title: of the dialog.
    :param filters: kinds of files, as in QFileDialog.
    """
    import qt

    dialog = qt.QFileDialog(slicer.util.mainWindow(), title, _sceneFolder(), filters)
    dialog.setFileMode(qt.QFileDialog.ExistingFile)
    dialog.setOption(qt.QFileDialog.DontResolveSymlinks)
    return dialog.selectedFiles()[0] if dialog.exec_() else ""


def chooseNewFile(title: str, suggestion: str, filters: str) -> str:
    """Ask the user where to write a file and return its path; empty if nowhere.

    :param title: of the dialog.
    :param suggestion: name of the file.
    :param filters: kinds of files, as in QFileDialog.
    """
    import qt

    path = str(Path(_sceneFolder(), suggestion))
    return qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, path, filters)


def _sceneFolder() -> str:
    return slicer.mrmlScene.GetRootDirectory() or ""
