"""What tests of the panel share: the panel open on two volumes, the engine played by a stand-in."""

# ruff: noqa: PT009 - Slicer has unittest, not pytest

import dataclasses
import gc
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import slicer

NAME = "DeepAttentionReg"
FAKE_ENGINE = Path(__file__).resolve().with_name("support") / "fake_engine.py"
TIMEOUT_S = 60.0
PROBLEM = "PyTorch cannot be used."
CARD = {"id": "cuda:0", "name": "Graphics card"}


class PanelCase(unittest.TestCase):
    """A test starts with two volumes in an otherwise empty scene."""

    def setUp(self):
        """Open the panel on two volumes, with an engine that answers at once and needs no PyTorch."""
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        # Without PyTorch at first, or the panel would start the engine proper to measure the speed of the computer.
        self.found = "MISSING"
        self.pretendFinding()
        slicer.mrmlScene.Clear()
        if slicer.util.mainWindow() is not None:
            slicer.util.selectModule(NAME)
        self.takeWidget()
        self.useEngine("work")
        self.pretendEnvironment({})
        self.fixed, self.moving = self.addVolumes()
        self.found = "READY"
        self.widget.enter()

    def tearDown(self):
        """End what a failed test may have left running."""
        self.widget.logic.close()

    def addVolumes(self):
        """Add two small volumes, fixed and moving, to the scene and return them."""
        volumes = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name) for name in ("fixed", "moving")]
        for volume in volumes:
            slicer.util.updateVolumeFromArray(volume, np.arange(8 * 9 * 10, dtype=np.float32).reshape(8, 9, 10))
            volume.CreateDefaultDisplayNodes()
        return volumes

    def sliceViews(self):
        """Return the nodes that say what Slicer's own slice views show; those of the layout of three are others."""
        nodes = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        return [node for node in nodes if not node.GetLayoutName().startswith(NAME)]

    def choose(self, comboBox, text):
        """Choose an item by its text."""
        comboBox.currentIndex = comboBox.findText(text)

    def itemsOf(self, comboBox):
        """Return the texts of all items."""
        return [comboBox.itemText(index) for index in range(comboBox.count)]

    def choosingFile(self, path):
        """Let the user choose a file in the next dialogs."""
        parts = sys.modules["DeepAttentionRegLib.panel.Parts"]
        return mock.patch.object(parts, "chooseFile", return_value=str(path))

    def pretendFinding(self):
        """Let the module find PyTorch in the state that `found` names."""
        self.lib = sys.modules[f"{NAME}Lib"]
        install = self.lib.Install

        def probe():
            return install.Finding(install.State[self.found], "" if self.found == "READY" else PROBLEM)

        patch = mock.patch.object(install, "probe", side_effect=probe)
        patch.start()
        self.addCleanup(patch.stop)

    def pretendEnvironment(self, values):
        """Let the engine have answered this when it was asked what it sees."""
        interpreter = self.lib.Interpreter
        self.widget.logic.environment = interpreter.readEnvironment(values)
        for name in ("savedInterpreter", "saveInterpreter"):
            patch = mock.patch.object(interpreter, name, return_value=None)
            patch.start()
            self.addCleanup(patch.stop)

    def takeWidget(self):
        """Take the widget of the module, which a reload replaces."""
        self.widget = slicer.util.getModuleWidget(NAME)
        self.ui = self.widget.ui

    def reload(self):
        """Reload the module, as its developers do."""
        self.widget.onReload()
        self.pretendFinding()
        self.takeWidget()

    def openSecondPanel(self):
        """Return a second panel of the module."""
        self.found = "MISSING"
        second = slicer.util.getNewModuleWidget(NAME)
        self.found = "READY"
        # A reload replaces the panel that was made last.
        self.addCleanup(setattr, slicer.modules, f"{NAME}Widget", self.widget)
        self.addCleanup(second.cleanup)
        return second

    def useEngine(self, mode):
        """Make the next registration behave as a mode of the stand-in says."""
        # The engine gets the environment Slicer was started in, so the mode has to travel in a script.
        script = self.folder / "engine.py"
        script.write_text(
            f"import os, runpy\nos.environ['FAKE_ENGINE'] = {mode!r}\n"
            f"runpy.run_path({str(FAKE_ENGINE)!r}, run_name='__main__')\n",
            encoding="utf-8",
        )
        self.widget.logic.engine = dataclasses.replace(self.widget.logic.engine, python=None, script=script)

    def usePython(self, path):
        """Have another Python run the engine, without asking it."""
        self.widget.logic.engine = dataclasses.replace(self.widget.logic.engine, python=path)

    def waitUntil(self, condition):
        """Let the application work until something is the case."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            self.assertLess(time.monotonic(), deadline, "nothing happened")
            slicer.app.processEvents()
            time.sleep(0.02)

    def waitForEnd(self):
        """Let the application work until the registration has ended."""
        self.waitUntil(lambda: self.ui.applyButton.text == "Apply")

    def startEndless(self):
        """Start a registration that only ends when it is canceled, and wait until it is under way."""
        self.useEngine("work until cancelled")
        self.ui.applyButton.click()
        self.waitUntil(lambda: self.ui.statusLabel.text.startswith("Refinement"))

    def register(self):
        """Press Apply and wait for the end."""
        self.ui.applyButton.click()
        self.waitForEnd()

    def nodeIds(self):
        """Return the ids of all nodes in the scene."""
        return [slicer.mrmlScene.GetNthNode(index).GetID() for index in range(slicer.mrmlScene.GetNumberOfNodes())]

    def bound(self):
        """Return the widgets that are bound to a choice, by its name."""
        names = {widget: widget.property("SlicerParameterName") for widget in vars(self.ui).values()}
        return {name: widget for widget, name in names.items() if name}

    def assertLetGo(self, reference):
        """Check that nothing is left of something once the application has worked on."""

        def isGone():
            gc.collect()
            return reference() is None

        self.waitUntil(isGone)

    def assertReason(self, words):
        """Check that Apply is disabled and says why."""
        self.assertFalse(self.ui.applyButton.enabled)
        self.assertIn(words, self.ui.applyButton.toolTip)
        self.assertIn(words, self.ui.statusLabel.text)
