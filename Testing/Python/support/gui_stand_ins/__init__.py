"""Runs the module's real panel, widget class and form, without the Slicer application.

PySide6 stands in for Qt as Slicer's Python sees it (pythonqt.py), small classes for the widgets that are not of Qt
(ctk_widgets.py, mrml_widgets.py) and for the application (application.py); the MRML scene and slicer.util are the real
ones of slicer-core. Where the environment variable SLICER_PY names the Base/Python folder of a Slicer source tree, the
base classes of scripted modules and the parameter node are Slicer's own too.

    python Testing/Python/gui_stand_ins                      all tests of the panel
    python Testing/Python/gui_stand_ins -k cancel            those whose name has "cancel" in it
    python Testing/Tools/demo_panel.py demo-output                 pictures of the panel

To use another widget class in the form, add a class of its name to ctk_widgets.py or mrml_widgets.py. It needs the
properties, signals and methods that the form and the code use, and nothing more: `stored` makes a property that only
keeps its value; signals with a pointer to a VTK object are declared as Signal(object). If a choice of the parameter
node is bound to it, parameter_node_stand_in.py says how, unless Slicer's guiConnectors.py cannot do it either.

Not shown by this: the looks of Slicer's own styles, the lifetime of objects in PythonQt, Windows and macOS.
"""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .application import Application

MODULE_FILE = Path(__file__).resolve().parents[4] / "DeepAttentionReg" / "DeepAttentionReg.py"


def install() -> "Application":
    """Put everything in place, load the module and return the application; once in a process, and nothing undoes it."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    sys.path.insert(0, str(MODULE_FILE.parent))
    from . import pythonqt

    qt = pythonqt.install()
    import slicer

    import slicer_stand_ins

    from . import forms

    qt.QUiLoader = forms.FormLoader
    slicer_stand_ins.add_module("ctk", __getattr__=_missing_class, **forms.STAND_INS)
    vars(slicer).update(forms.STAND_INS)
    slicer_stand_ins.install()
    slicer.__getattr__ = _missing_class
    sample_data = SimpleNamespace(registerCustomSampleDataSource=lambda **_source: None)
    slicer_stand_ins.add_module("SampleData", SampleDataLogic=sample_data)

    from . import application

    slicer.qSlicerScriptedLoadableModuleWidget = application.qSlicerScriptedLoadableModuleWidget
    slicer.modules = SimpleNamespace()
    slicer.app = application.Application()
    application.load_module(MODULE_FILE)
    slicer.app.startupCompleted.emit()
    return slicer.app


def _missing_class(name: str) -> type:
    """Return a class for a name that Slicer's files mention; making an object of it tells what is missing."""
    if not name.startswith(("ctk", "qMRML", "qSlicer")):
        raise AttributeError(name)

    def refuse(_self: object, *_arguments: object) -> None:
        msg = f"Nothing stands in for {name} yet: see gui_stand_ins/__init__.py."
        raise NotImplementedError(msg)

    return type(name, (), {"__init__": refuse})
