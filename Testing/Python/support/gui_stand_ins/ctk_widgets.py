"""Stand-ins for widgets of CTK, the toolkit below Slicer: what a panel sets, reads, connects to and sees of them."""

import math
import re
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from .pythonqt import stored

Signal = QtCore.Signal
UNLIMITED_PIXELS = 16777215  # QWIDGETSIZE_MAX
COLLAPSED_PIXELS = 14


class _Collapsing:
    """Hides and shows the children of a widget that can be collapsed, and remembers which were hidden anyway."""

    def childEvent(self, event: QtCore.QChildEvent) -> None:
        if event.type() == QtCore.QEvent.ChildAdded and event.child().isWidgetType() and self.collapsed:
            event.child().hide()
        super().childEvent(event)

    def showContents(self, shown: bool) -> None:
        for child in self.findChildren(QtWidgets.QWidget, options=QtCore.Qt.FindDirectChildrenOnly):
            if not shown:
                child.setProperty("hiddenAnyway", child.isHidden())
            child.setVisible(shown and not child.property("hiddenAnyway"))


class ctkCollapsibleButton(_Collapsing, QtWidgets.QAbstractButton):
    """A section with a bar on top that folds it; folded, it keeps a strip below the bar."""

    contentsCollapsed = Signal(bool)
    flat = stored("flat", bool, False)
    collapsedHeight = stored("collapsedHeight", int, COLLAPSED_PIXELS)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent if isinstance(parent, QtWidgets.QWidget) else None)
        if isinstance(parent, str):
            self.text = parent
        self._collapsed = False
        self.setSizePolicy(QtWidgets.QSizePolicy.Minimum, QtWidgets.QSizePolicy.Preferred)
        self.setContentsMargins(0, self._barHeight(), 0, 0)
        self.clicked.connect(lambda: self.setCollapsed(not self._collapsed))

    def setCollapsed(self, collapsed: bool) -> None:
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        self.showContents(not collapsed)
        self.setMaximumHeight(self._barHeight() + self.collapsedHeight if collapsed else UNLIMITED_PIXELS)
        self.updateGeometry()
        self.contentsCollapsed.emit(collapsed)

    collapsed = QtCore.Property(bool, lambda self: self._collapsed, setCollapsed)

    def minimumSizeHint(self) -> QtCore.QSize:
        return self._hint(super().minimumSizeHint())

    def sizeHint(self) -> QtCore.QSize:
        return self._hint(super().sizeHint())

    def _hint(self, ofContents: QtCore.QSize) -> QtCore.QSize:
        width, height = self.fontMetrics().horizontalAdvance(self.text) + self._barHeight(), self._barHeight()
        if self._collapsed:
            return QtCore.QSize(width, height + self.collapsedHeight)
        return ofContents.expandedTo(QtCore.QSize(width, height))

    def _barHeight(self) -> int:
        return self.fontMetrics().height() + 8

    def hitButton(self, position: QtCore.QPoint) -> bool:
        return position.y() < self._barHeight()

    def paintEvent(self, _event: QtGui.QPaintEvent) -> None:
        painter, height = QtWidgets.QStylePainter(self), self._barHeight()
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect.setHeight(height)
        painter.drawControl(QtWidgets.QStyle.CE_PushButtonBevel, option)
        option.text = self.text
        text = QtCore.QRect(height, 0, option.rect.width() - height, height)
        role = QtGui.QPalette.ButtonText
        alignment = int(QtCore.Qt.AlignLeft | QtCore.Qt.AlignVCenter)
        painter.drawItemText(text, alignment, option.palette, self.enabled, self.text, role)
        _drawArrow(painter, option, QtCore.QPoint(height // 2, height // 2), self._collapsed)


class ctkCollapsibleGroupBox(_Collapsing, QtWidgets.QGroupBox):
    """A group that folds by a click on its title; folded, it keeps a strip below the title."""

    collapsedHeight = stored("collapsedHeight", int, COLLAPSED_PIXELS)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self.setCheckable(True)
        self.toggled.connect(self._fold)

    def _fold(self, shown: bool) -> None:
        self.showContents(shown)
        self.setMaximumHeight(UNLIMITED_PIXELS if shown else self.fontMetrics().height() + self.collapsedHeight)

    def setCollapsed(self, collapsed: bool) -> None:
        self.checked = not collapsed

    collapsed = QtCore.Property(bool, lambda self: not self.checked, setCollapsed)

    def paintEvent(self, _event: QtGui.QPaintEvent) -> None:
        """Draw an arrow where a group box has its check mark, and no frame around nothing."""
        painter, option = QtWidgets.QStylePainter(self), QtWidgets.QStyleOptionGroupBox()
        self.initStyleOption(option)
        style, kind = QtWidgets.QStyle, QtWidgets.QStyle.CC_GroupBox
        mark, label = (
            self.style().subControlRect(kind, option, part, self)
            for part in (style.SC_GroupBoxCheckBox, style.SC_GroupBoxLabel)
        )
        option.subControls = style.SC_None if self.collapsed else style.SC_GroupBoxFrame
        painter.drawComplexControl(kind, option)
        role, alignment = QtGui.QPalette.WindowText, int(QtCore.Qt.AlignCenter)
        painter.drawItemText(label, alignment, option.palette, self.enabled, self.title, role)
        _drawArrow(painter, option, mark.center(), self.collapsed)


def _drawArrow(
    painter: QtWidgets.QStylePainter, option: QtWidgets.QStyleOption, center: QtCore.QPoint, collapsed: bool
) -> None:
    arrow = QtWidgets.QStyleOption(option)
    arrow.rect = QtCore.QRect(center.x() - 5, center.y() - 5, 10, 10)
    style = QtWidgets.QStyle
    painter.drawPrimitive(style.PE_IndicatorArrowRight if collapsed else style.PE_IndicatorArrowDown, arrow)


def _ofSpinBox(kind: type, name: str) -> QtCore.Property:
    """Return a property of a slider that is one of its number box."""

    def put(self: Any, value: Any) -> None:
        setattr(self._spinBox, name, value)
        self._follow()

    return QtCore.Property(kind, lambda self: getattr(self._spinBox, name), put)


class ctkSliderWidget(QtWidgets.QWidget):
    """A slider with a number box beside it; without tracking, its value changes when the slider is let go."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    value = _ofSpinBox(float, "value")
    minimum = _ofSpinBox(float, "minimum")
    maximum = _ofSpinBox(float, "maximum")
    singleStep = _ofSpinBox(float, "singleStep")
    decimals = _ofSpinBox(int, "decimals")
    prefix = _ofSpinBox(str, "prefix")
    suffix = _ofSpinBox(str, "suffix")
    pageStep = stored("pageStep", float, 10.0)
    tracking = stored("tracking", bool, True)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Horizontal)
        self._spinBox = QtWidgets.QDoubleSpinBox()
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)
        layout.addWidget(self._spinBox)
        self.setFocusProxy(self._spinBox)
        self._slider.valueChanged.connect(self._lead)
        self._slider.sliderReleased.connect(lambda: None if self.tracking else self.valueChanged.emit(self.value))
        self._spinBox.valueChanged.connect(self._tell)
        self._follow()

    def setRange(self, minimum: float, maximum: float) -> None:
        self._spinBox.setRange(minimum, maximum)
        self._follow()

    def _lead(self, position: int) -> None:
        self._spinBox.value = self.minimum + position * self.singleStep

    def _tell(self, value: float) -> None:
        self._follow()
        if not self.tracking:
            self.valueIsChanging.emit(value)
        if self.tracking or not self._slider.sliderDown:
            self.valueChanged.emit(value)

    def _follow(self) -> None:
        with QtCore.QSignalBlocker(self._slider):
            self._slider.maximum = round((self.maximum - self.minimum) / self.singleStep)
            self._slider.value = round((self.value - self.minimum) / self.singleStep)


class ctkComboBox(QtWidgets.QComboBox):
    """A combo box that says what to choose while nothing is."""

    defaultText = stored("defaultText", str, "")

    def minimumSizeHint(self) -> QtCore.QSize:
        """Return what shows the longest item in full, unless the policy says that fewer letters do."""
        if self.sizeAdjustPolicy == QtWidgets.QComboBox.AdjustToMinimumContentsLengthWithIcon:
            return super().minimumSizeHint()
        return super().sizeHint()

    def changed(self, _name: str) -> None:
        self.placeholderText = self.defaultText


class ctkPathLineEdit(QtWidgets.QWidget):
    """A path to type or to browse for; only one that the filters of names accept is told."""

    Dirs, Files = 0x001, 0x002

    currentPathChanged = Signal(str)
    filters = stored("filters", int, 0)
    nameFilters = stored("nameFilters", "QStringList", [])
    settingKey = stored("settingKey", str, "")
    label = stored("label", str, "")

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._combo = QtWidgets.QComboBox()
        self._combo.editable = True
        self._edit = self._combo.lineEdit()
        self._button = QtWidgets.QToolButton()
        self._button.text = "..."
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo, 1)
        layout.addWidget(self._button)
        self.setFocusProxy(self._edit)
        self._edit.textChanged.connect(self._tell)
        self.changed("nameFilters")

    def comboBox(self) -> QtWidgets.QComboBox:
        return self._combo

    def changed(self, _name: str) -> None:
        endings = (ending for text in self.nameFilters for ending in re.findall(r"\*\.(\w+)", text))
        pattern = "|".join(rf".*\.{ending}" for ending in endings) or ".+"
        self._edit.setValidator(QtGui.QRegularExpressionValidator(QtCore.QRegularExpression(pattern), self))

    def _tell(self, path: str) -> None:
        if self._edit.acceptableInput:
            self.currentPathChanged.emit(path)

    def setCurrentPath(self, path: str) -> None:
        self._edit.text = path

    def addCurrentPathToHistory(self) -> None:
        """Do nothing: no history is kept."""

    currentPath = QtCore.Property(str, lambda self: self._edit.text, setCurrentPath)


class ctkFittedTextBrowser(QtWidgets.QTextBrowser):
    """A text that is as high as it is long."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self.setVerticalScrollBarPolicy(QtCore.Qt.ScrollBarAlwaysOff)
        self.document.documentLayout().documentSizeChanged.connect(self._fit)

    def _fit(self, size: QtCore.QSizeF) -> None:
        self.setFixedHeight(math.ceil(size.height()) + 2 * self.frameWidth)


class ctkMessageBox(QtWidgets.QMessageBox):
    """A question; tests run in testing mode, where none is shown."""
