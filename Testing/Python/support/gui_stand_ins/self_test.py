"""The stand-ins hold what they promise; run by __main__.py, on Slicer's own parameter node too (see __init__.py)."""

# ruff: noqa: PT009, PT027, UP007 - run by unittest, as what is run beside it; unions as in Parameters.py

import enum
import gc
import time
import unittest
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Union

import ctk
import qt
import slicer
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from . import forms

FORM = """<ui version="4.0"><widget class="{0}" name="top"><property name="{1}"><string>a</string></property></widget>
<customwidgets><customwidget><class>{0}</class><extends>QWidget</extends><header>a.h</header></customwidget>
</customwidgets><connections/></ui>"""


class Color(enum.Enum):
    """An enum as in a panel."""

    RED = 1
    BLUE = 2

    def label(self) -> str:
        return self.name.capitalize()


@parameterNodeWrapper
class Choices:
    """A choice of every kind."""

    flag: bool = False
    count: Annotated[int, WithinRange(0, 9)] = 3
    weight: Annotated[float, WithinRange(0.0, 2.0)] = 1.0
    text: str = "a"
    path: Path = Path("a")
    color: Color = Color.BLUE
    volume: Union[slicer.vtkMRMLScalarVolumeNode, slicer.vtkMRMLLabelMapVolumeNode, None] = None
    words: list[str]
    volumes: list[slicer.vtkMRMLScalarVolumeNode]


def _load(className: str, propertyName: str) -> object:
    buffer = qt.QBuffer()
    buffer.setData(FORM.format(className, propertyName).encode())
    buffer.open(qt.QIODevice.ReadOnly)
    return forms.FormLoader().load(buffer)


class PythonQtTest(unittest.TestCase):
    """Qt as Slicer's Python sees it."""

    def setUp(self):
        self.button = qt.QPushButton("a")
        self.calls = []

    def test_properties_are_attributes(self):
        self.button.text = "b"
        self.assertEqual(self.button.text, "b")

    def test_tool_tip_is_read_back_as_a_paragraph(self):
        self.button.toolTip = "a < b"
        self.assertEqual(self.button.toolTip, "<p>a &lt; b</p>")
        self.assertEqual(_load("ctkCollapsibleButton", "toolTip").toolTip, "<p>a</p>")

    def test_misspelled_attribute_is_refused(self):
        with self.assertRaisesRegex(AttributeError, "toolTipp"):
            self.button.toolTipp = "b"

    def test_value_of_another_type_is_refused(self):
        with self.assertRaisesRegex(AttributeError, "enabled"):
            self.button.enabled = "no"

    def test_slot_gets_what_the_signature_names(self):
        self.button.connect("clicked()", lambda *arguments: self.calls.append(arguments))
        self.button.click()
        self.assertEqual(self.calls, [()])

    def test_slot_gets_no_more_than_it_takes(self):
        self.button.connect("clicked(bool)", lambda: self.calls.append(()))
        self.button.click()
        self.assertEqual(self.calls, [()])

    def test_disconnected_slot_is_not_called(self):
        self.button.connect("clicked(bool)", self.calls.append)
        self.assertTrue(self.button.disconnect("clicked(bool)", self.calls.append))
        self.button.click()
        self.assertEqual(self.calls, [])

    def test_signal_keeps_alive_what_it_calls_until_it_is_disconnected(self):
        class Owner:
            def __init__(self):
                self.timer = qt.QTimer()

            def call(self):
                """Be called."""

        calls = (
            (lambda owner: owner.timer.connect("timeout()", owner.call)),
            (lambda owner: owner.timer.disconnect("timeout()", owner.call)),
        )
        attributes = (
            (lambda owner: owner.timer.timeout.connect(owner.call)),
            (lambda owner: owner.timer.timeout.disconnect(owner.call)),
        )
        for connect, disconnect in (calls, attributes):
            owner = Owner()
            connect(owner)
            reference = weakref.ref(owner)
            del owner
            gc.collect()
            self.assertIsNotNone(reference())
            disconnect(reference())
            gc.collect()
            self.assertIsNone(reference())

    def test_single_shot_is_fired_once(self):
        qt.QTimer.singleShot(0, lambda: self.calls.append(()))
        for _turn in range(3):
            time.sleep(0.002)
            slicer.app.processEvents()
        self.assertEqual(self.calls, [()])

    def test_unknown_signal_is_refused(self):
        with self.assertRaisesRegex(ValueError, "clicked.int"):
            self.button.connect("clicked(int)", self.calls.append)

    def test_widget_without_stand_in_is_refused(self):
        with self.assertRaisesRegex(NotImplementedError, "ctkNothing"):
            _load("ctkNothing", "toolTip")

    def test_property_without_stand_in_is_refused(self):
        with self.assertRaisesRegex(NotImplementedError, "fancy"):
            _load("ctkSliderWidget", "fancy")

    def test_property_of_a_form_reaches_the_widget(self):
        self.assertEqual(_load("ctkCollapsibleButton", "text").text, "a")


class BindingTest(unittest.TestCase):
    """A parameter and a widget bound to it follow each other."""

    def setUp(self):
        slicer.mrmlScene.Clear()
        self.choices = Choices(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
        kinds = ("vtkMRMLScalarVolumeNode", "vtkMRMLLabelMapVolumeNode")
        self.volumes = [slicer.mrmlScene.AddNewNodeByClass(kind) for kind in kinds]

    def check(self, name, widget, attribute, *pairs):
        """Bind a widget to a parameter and compare both ways; pairs are values of parameter and widget."""
        widget.setProperty("SlicerParameterName", name)
        tag = self.choices.connectGui(SimpleNamespace(widget=widget))
        for value, shown in pairs:
            setattr(self.choices, name, value)
            self.assertEqual(getattr(widget, attribute), shown)
        for value, shown in pairs:
            setattr(widget, attribute, shown)
            self.assertEqual(getattr(self.choices, name), value)
        self.choices.disconnectGui(tag)
        setattr(widget, attribute, pairs[0][1])
        self.assertEqual(getattr(self.choices, name), pairs[-1][0])

    def test_flag(self):
        for widget in (qt.QCheckBox(), qt.QPushButton()):
            widget.setCheckable(True)
            self.check("flag", widget, "checked", (True, True), (False, False))

    def test_count(self):
        for widget in (qt.QSpinBox(), ctk.ctkSliderWidget()):
            self.check("count", widget, "value", (9, 9), (2, 2))
            self.assertEqual((widget.minimum, widget.maximum), (0, 9))

    def test_weight(self):
        for widget in (qt.QDoubleSpinBox(), ctk.ctkSliderWidget()):
            self.check("weight", widget, "value", (0.25, 0.25), (1.5, 1.5))

    def test_text(self):
        self.check("text", qt.QLineEdit(), "text", ("b", "b"), ("", ""))

    def test_path(self):
        self.check("path", ctk.ctkPathLineEdit(), "currentPath", (Path("b"), "b"), (Path("c"), "c"))

    def test_enum(self):
        for widget in (qt.QComboBox(), ctk.ctkComboBox()):
            self.check("color", widget, "currentText", (Color.RED, "Red"), (Color.BLUE, "Blue"))

    def test_node(self):
        widget = slicer.qMRMLNodeComboBox()
        widget.noneEnabled = True
        widget.setMRMLScene(slicer.mrmlScene)
        pairs = [(node, node.GetID()) for node in self.volumes]
        self.check("volume", widget, "currentNodeID", *pairs, (None, ""))

    def test_widget_that_cannot_show_a_choice_is_refused(self):
        with self.assertRaises(RuntimeError):
            self.check("text", qt.QRadioButton(), "text", ("b", "b"))

    def test_lists_are_kept_in_the_scene(self):
        self.choices.words, self.choices.volumes = ["a", "b"], self.volumes[:1]
        again = Choices(self.choices.parameterNode)
        self.assertEqual((list(again.words), list(again.volumes)), (["a", "b"], self.volumes[:1]))


class WidgetTest(unittest.TestCase):
    """The widgets that are not of Qt."""

    def setUp(self):
        slicer.mrmlScene.Clear()
        self.volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")

    def makeSelector(self, kind):
        """Return a selector of volumes that knows the scene."""
        selector = kind()
        selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        selector.setMRMLScene(slicer.mrmlScene)
        return selector

    def test_selector_without_none_takes_the_first_node(self):
        self.assertIs(self.makeSelector(slicer.qMRMLNodeComboBox).currentNode(), self.volume)

    def test_selector_lets_go_of_a_removed_node(self):
        selector, calls = self.makeSelector(slicer.qMRMLNodeComboBox), []
        selector.connect("currentNodeChanged(vtkMRMLNode*)", calls.append)
        slicer.mrmlScene.RemoveNode(self.volume)
        self.assertEqual(calls, [None])

    def test_selector_that_can_show_none_takes_the_node_that_moves_up(self):
        following = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "MR")
        selector = self.makeSelector(slicer.qMRMLNodeComboBox)
        selector.noneEnabled = True
        selector.setCurrentNode(self.volume)
        slicer.mrmlScene.RemoveNode(self.volume)
        self.assertIs(selector.currentNode(), following)
        slicer.mrmlScene.RemoveNode(following)
        self.assertIsNone(selector.currentNode())

    def test_checkable_selector_lets_go_of_a_removed_node(self):
        selector = self.makeSelector(slicer.qMRMLCheckableNodeComboBox)
        selector.setCheckState(self.volume, qt.Qt.Checked)
        self.assertEqual(selector.checkedNodes(), [self.volume])
        slicer.mrmlScene.RemoveNode(self.volume)
        self.assertEqual(selector.checkedNodes(), [])

    def test_folded_section_hides_what_is_in_it(self):
        section = ctk.ctkCollapsibleButton()
        shown, hidden = qt.QLabel("a", section), qt.QLabel("b", section)
        hidden.hide()
        section.collapsed = True
        self.assertTrue(shown.isHidden())
        section.collapsed = False
        self.assertEqual((shown.isHidden(), hidden.isHidden()), (False, True))

    def test_slider_that_does_not_track_changes_when_it_is_let_go(self):
        slider, changing, changed = ctk.ctkSliderWidget(), [], []
        slider.tracking = False
        slider.connect("valueIsChanging(double)", changing.append)
        slider.connect("valueChanged(double)", changed.append)
        slider._slider.sliderDown = True
        slider._slider.value = 7
        self.assertEqual((changing, changed), ([7.0], []))
        slider._slider.sliderDown = False
        self.assertEqual(changed, [7.0])

    def test_path_that_the_filters_do_not_accept_is_not_told(self):
        box, told = ctk.ctkPathLineEdit(), []
        box.nameFilters = ["Tables (*.csv *.json)"]
        box.connect("currentPathChanged(QString)", told.append)
        for path in ("a", "a.csv", "a.json", ""):
            box.currentPath = path
            self.assertEqual(box.currentPath, path)
        self.assertEqual(told, ["a.csv", "a.json"])

    def test_fitted_text_is_as_high_as_it_is_long(self):
        browser = ctk.ctkFittedTextBrowser()
        browser.show()
        browser.html = "a"
        slicer.app.processEvents()
        low = browser.height
        browser.html = "a<br>b<br>c"
        slicer.app.processEvents()
        self.assertGreater(browser.height, low)
