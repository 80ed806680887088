"""The panel's forms, as Qt Designer wrote them, against the parameter node and the code that use it."""

import re
import typing
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")

import slicer_stand_ins

slicer_stand_ins.install()

import DeepAttentionReg as module
from DeepAttentionRegLib import Parameters

pytestmark = pytest.mark.mrml

MODULE_FILE = Path(module.__file__)
FORMS = [ET.parse(path).getroot() for path in sorted((MODULE_FILE.parent / "Resources" / "UI").glob("*.ui"))]
OPERABLE = (
    "qMRMLNodeComboBox",
    "QComboBox",
    "QCheckBox",
    "QLineEdit",
    "QPushButton",
    "QToolButton",
    "QProgressBar",
    "ctkSliderWidget",
)
HINTS = typing.get_type_hints(Parameters.DeepAttentionRegParameterNode, include_extras=True)
PARAMETERS = typing.get_type_hints(Parameters.DeepAttentionRegParameterNode)


def widgets(*classes: str) -> list[ET.Element]:
    return [item for form in FORMS for item in form.iter("widget") if not classes or item.get("class") in classes]


def property_of(widget: ET.Element, name: str) -> str | None:
    """Return a property's text, of a string list the lines."""
    for item in widget.findall("property"):
        if item.get("name") == name:
            return "\n".join(text.strip() for text in item.itertext() if text.strip())
    return None


BOUND = {property_of(widget, "SlicerParameterName"): widget for widget in widgets()}
BOUND.pop(None)


class TestForm:
    def test_binds_every_parameter_whose_values_are_known_and_nothing_else(self):
        assert set(BOUND) == set(PARAMETERS) - {
            "weights",
            "device",
            "inspectSegment",
            "inspectAttended",
            "batchPairs",
            "batchFolder",
        }

    def test_has_every_widget_the_code_uses(self):
        files = MODULE_FILE, *(MODULE_FILE.parent / "DeepAttentionRegLib" / "panel").rglob("*.py")
        used = {name for path in files for name in re.findall(r"\bui\.(\w+)", path.read_text(encoding="utf-8"))}
        assert used <= {widget.get("name") for widget in widgets()}

    def test_wrapped_texts_are_put_so_that_they_fit(self):
        wrapped = [widget.get("name") for widget in widgets("QLabel") if property_of(widget, "wordWrap")]
        files = MODULE_FILE, *(MODULE_FILE.parent / "DeepAttentionRegLib" / "panel").rglob("*.py")
        for path in files:
            assert not re.findall(rf"\bui\.({'|'.join(wrapped)})\.text = ", path.read_text(encoding="utf-8"))

    def test_names_are_unique(self):
        names = [
            item.get("name") for form in FORMS for item in form.iter() if item.tag in ("widget", "layout", "spacer")
        ]
        assert len(names) == len(set(names))

    @pytest.mark.parametrize("widget", widgets(*OPERABLE), ids=lambda widget: widget.get("name"))
    def test_widget_has_a_tooltip(self, widget):
        assert property_of(widget, "toolTip")

    @pytest.mark.parametrize("widget", widgets("ctkSliderWidget"), ids=lambda widget: widget.get("name"))
    def test_slider_tooltip_states_the_range(self, widget):
        low, high = (float(property_of(widget, name)) for name in ("minimum", "maximum"))
        assert f"({low:g} to {high:g}" in property_of(widget, "toolTip")

    @pytest.mark.parametrize("widget", widgets("ctkSliderWidget"), ids=lambda widget: widget.get("name"))
    def test_slider_range_is_that_of_the_parameter(self, widget):
        (bounds,) = HINTS[property_of(widget, "SlicerParameterName")].__metadata__
        limits = tuple(float(property_of(widget, name)) for name in ("minimum", "maximum"))
        assert limits == (bounds.minimum, bounds.maximum)

    @pytest.mark.parametrize("widget", widgets("qMRMLNodeComboBox"), ids=lambda widget: widget.get("name"))
    def test_selector_offers_the_nodes_its_parameter_takes(self, widget):
        hint = PARAMETERS[property_of(widget, "SlicerParameterName")]
        kinds = typing.get_args(hint) or (hint,)
        wanted = [kind.__name__ for kind in kinds if issubclass(kind, slicer.vtkMRMLNode)]
        assert property_of(widget, "nodeTypes").split() == wanted

    @pytest.mark.parametrize("widget", widgets("qMRMLNodeComboBox"), ids=lambda widget: widget.get("name"))
    def test_selector_is_not_as_wide_as_the_longest_name(self, widget):
        assert widget.find("property[@name='sizePolicy']/sizepolicy").get("hsizetype") == "Ignored"

    def test_every_selector_gets_the_scene(self):
        receivers = [item.findtext("receiver") for form in FORMS for item in form.iter("connection")]
        assert receivers == [widget.get("name") for widget in widgets("qMRMLNodeComboBox")]

    def test_every_buddy_exists(self):
        buddies = {property_of(widget, "buddy") for widget in widgets("QLabel")} - {None}
        assert buddies <= {widget.get("name") for widget in widgets()}

    def test_declares_the_classes_that_are_not_of_qt(self):
        for form in FORMS:
            used = {widget.get("class") for widget in form.iter("widget")}
            declared = {item.findtext("class") for item in form.iter("customwidget")}
            assert {name for name in used if not name.startswith("Q")} == declared
