"""The panel in a running Slicer, the engine played by a stand-in: ctest runs this inside Slicer."""

# ruff: noqa: PT009 - Slicer has unittest, not pytest

import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

import slicer

NAME = "DeepAttentionReg"
FAKE_ENGINE = Path(__file__).resolve().with_name("fake_engine.py")
TIMEOUT_S = 60.0


class DeepAttentionRegGuiTest(unittest.TestCase):
    """Clicks through the panel. Each test starts with two volumes in an otherwise empty scene."""

    def setUp(self):
        """Open the panel on the phantom, with an engine that answers at once and needs no PyTorch."""
        slicer.mrmlScene.Clear()
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        if slicer.util.mainWindow() is not None:
            slicer.util.selectModule(NAME)
        self.takeWidget()
        self.fixed, self.moving = self.module._addPhantom()[0]
        self.widget.enter()
        self.useEngine("work")

    def tearDown(self):
        """End what a failed test may have left running."""
        self.widget.logic.close()

    def takeWidget(self):
        """Take the widget of the module, which a reload replaces, and let it find PyTorch."""
        self.widget = slicer.util.getModuleWidget(NAME)
        self.ui = self.widget.ui
        self.module = sys.modules[NAME]
        install = self.module.Install
        patch = mock.patch.object(install, "probe", return_value=install.Finding(install.State.READY))
        patch.start()
        self.addCleanup(patch.stop)

    def useEngine(self, mode):
        """Make the next registration behave as a mode of the stand-in says."""
        # The engine gets the environment Slicer was started in, so the mode has to travel in a script.
        script = self.folder / "engine.py"
        script.write_text(
            f"import os, runpy\nos.environ['FAKE_ENGINE'] = {mode!r}\n"
            f"runpy.run_path({str(FAKE_ENGINE)!r}, run_name='__main__')\n",
            encoding="utf-8",
        )
        self.widget.logic.engineOptions = {"script": script}

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

    def nodeIds(self):
        """Return the ids of all nodes in the scene."""
        return [slicer.mrmlScene.GetNthNode(index).GetID() for index in range(slicer.mrmlScene.GetNumberOfNodes())]

    def test_two_volumes_are_chosen_by_themselves(self):
        self.assertIs(self.ui.fixedVolumeSelector.currentNode(), self.fixed)
        self.assertIs(self.ui.movingVolumeSelector.currentNode(), self.moving)

    def test_disabled_apply_says_why(self):
        self.ui.movingVolumeSelector.setCurrentNode(self.fixed)
        self.assertFalse(self.ui.applyButton.enabled)
        self.assertIn("same volume", self.ui.applyButton.toolTip)
        self.assertIn("same volume", self.ui.statusLabel.text)

    def test_apply_adds_the_result_and_says_so(self):
        self.ui.applyButton.click()
        self.waitForEnd()
        self.assertIn("moving to fixed (rman)", self.ui.statusLabel.text)
        self.assertIsNotNone(slicer.mrmlScene.GetFirstNode("moving to fixed (rman)", "vtkMRMLTransformNode"))

    def test_apply_shows_the_warped_over_the_fixed_volume(self):
        self.ui.applyButton.click()
        self.waitForEnd()
        warped = slicer.mrmlScene.GetFirstNode("moving to fixed (rman) volume")
        views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        shown = {(view.GetBackgroundVolumeID(), view.GetForegroundVolumeID()) for view in views}
        self.assertEqual(shown, {(self.fixed.GetID(), warped.GetID())})

    def test_second_apply_adds_a_second_result(self):
        for _run in range(2):
            self.ui.applyButton.click()
            self.waitForEnd()
        self.assertIsNotNone(slicer.mrmlScene.GetFirstNode("moving to fixed (rman)_1", "vtkMRMLTransformNode"))

    def test_apply_writes_into_a_chosen_output(self):
        output = self.ui.outputTransformSelector.addNode()
        self.ui.applyButton.click()
        self.waitForEnd()
        self.assertIs(output.GetNodeReference(output.GetMovingNodeReferenceRole()), self.moving)

    def test_choices_cannot_be_changed_meanwhile(self):
        self.startEndless()
        self.assertFalse(self.ui.inputsCollapsibleButton.enabled)
        self.assertEqual(self.ui.applyButton.text, "Cancel")

    def test_cancel_leaves_the_scene_as_it_was(self):
        before = self.nodeIds()
        self.startEndless()
        self.ui.applyButton.click()
        self.waitForEnd()
        self.assertEqual(self.nodeIds(), before)
        self.assertTrue(self.ui.applyButton.enabled)

    def test_failure_says_why_and_what_to_do(self):
        self.useEngine("fail")
        self.ui.applyButton.click()
        self.waitForEnd()
        self.assertEqual(self.ui.statusLabel.text, "The volumes do not overlap. Align them first.")

    def test_closing_the_scene_stops_the_registration(self):
        self.startEndless()
        slicer.mrmlScene.Clear()
        self.waitForEnd()
        self.assertFalse(self.widget.logic.isRunning)
        self.assertIsNone(self.ui.fixedVolumeSelector.currentNode())

    def test_registration_ends_while_another_module_is_open(self):
        self.ui.applyButton.click()
        self.widget.exit()
        self.waitUntil(lambda: not self.widget.logic.isRunning)
        self.widget.enter()
        self.assertEqual(self.ui.applyButton.text, "Apply")

    def test_choices_come_back_with_the_scene(self):
        self.ui.movingVolumeSelector.setCurrentNode(self.fixed)
        self.ui.recursionsSlider.value = 7
        slicer.mrmlScene.SetURL(str(self.folder / "scene.mrml"))
        slicer.mrmlScene.Commit()
        slicer.mrmlScene.Clear()
        self.assertEqual(self.ui.recursionsSlider.value, 3)
        slicer.mrmlScene.Connect()
        self.assertEqual(self.ui.recursionsSlider.value, 7)
        self.assertEqual(self.ui.movingVolumeSelector.currentNode().GetName(), "fixed")

    def test_recursions_have_the_range_of_the_method(self):
        registry = sys.modules["DeepAttentionRegEngine.registry"]
        parameters = self.widget._parameterNode
        for method in type(parameters.method):
            if method is not self.module.Method.REFINEMENT_ONLY:
                parameters.method = method
                limits = registry.load_method(method.value).recursions
                slider = self.ui.recursionsSlider
                self.assertEqual((slider.minimum, slider.maximum), (limits.minimum, limits.maximum))
                self.assertEqual(slider.value, limits.default)

    def test_reload_keeps_the_choices(self):
        self.ui.recursionsSlider.value = 7
        self.widget.onReload()
        self.takeWidget()
        self.assertEqual(self.ui.recursionsSlider.value, 7)

    def test_reload_ends_the_registration(self):
        self.startEndless()
        logic = self.widget.logic
        self.widget.onReload()
        self.takeWidget()
        self.assertFalse(logic.isRunning)

    def test_reloaded_panel_registers(self):
        self.widget.onReload()
        self.takeWidget()
        self.useEngine("work")
        self.ui.applyButton.click()
        self.waitForEnd()
        self.assertIn("moving to fixed (rman)", self.ui.statusLabel.text)
