"""The panel, clicked through, the engine played by a stand-in: ctest runs this inside Slicer, pytest on stand-ins."""

# ruff: noqa: PT009 - Slicer has unittest, not pytest

import sys
import weakref
from unittest import mock

import slicer

from panel_case import PROBLEM, PanelCase


class DeepAttentionRegGuiTest(PanelCase):
    """Runs registrations, and opens, closes, saves and reloads the panel meanwhile."""

    def test_first_run_offers_to_install(self):
        for state in ("MISSING", "OLD", "BROKEN"):
            self.found = state
            self.widget.enter()
            self.assertFalse(self.ui.mendWidget.isHidden())
            self.assertEqual(self.ui.mendLabel.text, PROBLEM)
            self.assertTrue(self.ui.mendButton.enabled)

    def test_ready_panel_does_not_offer_to_install(self):
        self.assertTrue(self.ui.mendWidget.isHidden())

    def test_apply_asks_before_it_installs(self):
        self.found = "MISSING"
        with mock.patch.object(slicer.util, "confirmOkCancelDisplay", return_value=False) as ask:
            self.ui.applyButton.click()
        self.assertTrue(ask.call_args.args[0].startswith(PROBLEM))
        self.assertEqual(self.ui.statusLabel.text, "PyTorch was not installed.")
        self.assertFalse(self.widget.logic.isRunning)

    def agree(self, question):
        """Let the user agree to a question about PyTorch."""
        patch = mock.patch.object(self.lib.Install, question, return_value=True)
        patch.start()
        self.addCleanup(patch.stop)

    def test_installation_ends_in_a_ready_panel(self):
        self.found = "MISSING"
        self.agree("ask")
        with mock.patch.object(self.lib.Install, "install") as install:
            self.widget.enter()
            self.ui.mendButton.click()
        self.assertReason("being installed")
        self.assertFalse(self.ui.mendButton.enabled)
        self.found = "READY"
        _finding, _onLog, onDone = install.call_args.args
        onDone("")
        self.assertTrue(self.ui.mendWidget.isHidden())
        self.assertTrue(self.ui.applyButton.enabled)

    def test_installer_that_cannot_start_can_be_tried_again(self):
        self.found = "MISSING"
        self.widget.enter()
        self.agree("ask")
        with mock.patch.object(self.lib.Install, "install", side_effect=RuntimeError("No disk space.")):
            self.ui.mendButton.click()
        self.assertIn("No disk space.", self.ui.statusLabel.text)
        self.assertTrue(self.ui.mendButton.enabled)

    def test_removal_ends_in_a_panel_that_offers_to_install(self):
        self.agree("askToRemove")
        with mock.patch.object(self.lib.Install, "remove") as remove:
            self.ui.removePyTorchButton.click()
        self.assertReason("being removed")
        self.assertFalse(self.ui.removePyTorchButton.enabled)
        self.found = "MISSING"
        _onLog, onDone = remove.call_args.args
        onDone("")
        self.assertIn("PyTorch was removed.", self.ui.statusLabel.text)
        self.assertFalse(self.ui.mendWidget.isHidden())
        self.assertFalse(self.ui.removePyTorchButton.enabled)

    def test_two_volumes_are_chosen_by_themselves(self):
        self.assertIs(self.ui.fixedVolumeSelector.currentNode(), self.fixed)
        self.assertIs(self.ui.movingVolumeSelector.currentNode(), self.moving)

    def test_nothing_is_chosen_in_place_of_a_removed_node(self):
        self.addVolumes()
        slicer.mrmlScene.RemoveNode(self.moving)
        self.assertIsNone(self.ui.movingVolumeSelector.currentNode())
        self.assertIsNone(self.widget._parameterNode.movingVolume)
        self.assertIs(self.ui.fixedVolumeSelector.currentNode(), self.fixed)
        self.assertReason("Choose a fixed and a moving volume.")

    def test_empty_scene_asks_for_volumes(self):
        slicer.mrmlScene.Clear()
        self.assertReason("Choose a fixed and a moving volume.")

    def test_one_volume_cannot_be_both(self):
        self.ui.movingVolumeSelector.setCurrentNode(self.fixed)
        self.assertReason("same volume")

    def test_input_cannot_be_an_output(self):
        self.ui.outputVolumeSelector.setCurrentNode(self.moving)
        self.assertReason("moving is an input")

    def test_something_has_to_be_registered(self):
        self.widget._parameterNode.method = self.lib.Parameters.MethodChoice.REFINEMENT_ONLY
        self.ui.refineCheckBox.checked = False
        self.assertReason("Nothing would be registered")

    def test_apply_is_enabled_again_once_its_reason_is_gone(self):
        self.ui.movingVolumeSelector.setCurrentNode(self.fixed)
        self.ui.movingVolumeSelector.setCurrentNode(self.moving)
        self.assertTrue(self.ui.applyButton.enabled)
        self.assertEqual(self.ui.statusLabel.text, "")

    def test_every_choice_has_a_widget(self):
        byHand = {"weights", "device", "inspectSegment", "inspectAttended", "batchPairs", "batchFolder"}
        self.assertEqual(set(self.bound()) | byHand, set(self.widget._parameterNode.allParameters))

    def test_widgets_change_the_choices(self):
        parameters = self.widget._parameterNode
        for name, widget in self.bound().items():
            before = getattr(parameters, name)
            if isinstance(before, bool):
                widget.checked = not before  # which a click does not do to one that is folded away
            elif isinstance(before, (int, float)):
                widget.value = before + 1
            elif isinstance(before, str):
                widget.text = "Spine; Rib *"
            elif hasattr(before, "label"):
                widget.currentIndex = (widget.currentIndex + 1) % widget.count
            else:
                widget.setCurrentNode(slicer.mrmlScene.AddNewNodeByClass(widget.nodeTypes[0]))
            self.assertNotEqual(getattr(parameters, name), before, name)

    def test_widgets_follow_the_choices(self):
        parameters = self.widget._parameterNode
        parameters.fixedVolume, parameters.smoothness, parameters.refine = self.moving, 2.5, False
        parameters.device = "cpu"
        self.assertIs(self.ui.fixedVolumeSelector.currentNode(), self.moving)
        self.assertEqual(self.ui.smoothnessSlider.value, 2.5)
        self.assertFalse(self.ui.refineCheckBox.checked)
        self.assertEqual(self.ui.deviceComboBox.currentText, "CPU")

    def test_panel_follows_another_set_of_choices(self):
        first = self.widget._parameterNode
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "Other choices")
        second = self.lib.Parameters.DeepAttentionRegParameterNode(node)
        self.widget.setParameterNode(second)
        self.ui.recursionsSlider.value = 7
        self.assertEqual((first.recursions, second.recursions), (6, 7))

    def test_second_panel_shows_the_same_choices(self):
        second = self.openSecondPanel()
        self.ui.recursionsSlider.value = 7
        self.assertEqual(second.ui.recursionsSlider.value, 7)
        second.ui.recursionsSlider.value = 6
        self.assertEqual(self.ui.recursionsSlider.value, 6)

    def test_second_panel_leaves_the_registration_of_the_first_alone(self):
        self.startEndless()
        second = self.openSecondPanel()
        self.assertEqual((self.ui.applyButton.text, second.ui.applyButton.text), ("Cancel", "Apply"))
        second.cleanup()
        self.assertTrue(self.widget.logic.isRunning)

    def test_apply_adds_the_result_and_says_so(self):
        self.register()
        self.assertIn("moving to fixed (rman)", self.ui.statusLabel.text)
        self.assertIsNotNone(slicer.mrmlScene.GetFirstNode("moving to fixed (rman)", "vtkMRMLTransformNode"))

    def test_apply_shows_the_warped_over_the_fixed_volume(self):
        self.register()
        warped = slicer.mrmlScene.GetFirstNode("moving to fixed (rman) volume")
        views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        shown = {(view.GetBackgroundVolumeID(), view.GetForegroundVolumeID()) for view in views}
        self.assertEqual(shown, {(self.fixed.GetID(), warped.GetID())})

    def test_second_apply_adds_a_second_result(self):
        for _run in range(2):
            self.register()
        self.assertIsNotNone(slicer.mrmlScene.GetFirstNode("moving to fixed (rman)_1", "vtkMRMLTransformNode"))

    def test_apply_writes_into_a_chosen_output(self):
        output = self.ui.outputTransformSelector.addNode()
        self.register()
        self.assertIs(output.GetNodeReference(output.GetMovingNodeReferenceRole()), self.moving)

    def test_choices_cannot_be_changed_meanwhile(self):
        self.startEndless()
        self.assertFalse(self.ui.inputsCollapsibleButton.enabled)
        self.assertEqual(self.ui.applyButton.text, "Cancel")

    def test_cancel_leaves_the_scene_as_it_was(self):
        before = self.nodeIds()
        self.startEndless()
        self.register()
        self.assertEqual(self.nodeIds(), before)
        self.assertTrue(self.ui.applyButton.enabled)

    def test_cancel_works_where_the_temporary_folder_is_full(self):
        before = self.nodeIds()
        self.startEndless()
        with mock.patch("pathlib.Path.touch", side_effect=OSError):
            self.ui.applyButton.click()
        self.assertEqual((self.ui.applyButton.text, self.ui.applyButton.enabled), ("Canceling...", False))
        self.waitForEnd()
        self.assertEqual(self.nodeIds(), before)
        self.assertTrue(self.ui.applyButton.enabled)
        self.assertIn("canceled", self.ui.statusLabel.text)

    def test_cancellation_does_not_outlive_its_run(self):
        self.startEndless()
        self.register()
        self.widget.logic.register(self.fixed, self.moving, wait=False)
        self.widget._updateGui()
        self.assertEqual((self.ui.applyButton.text, self.ui.applyButton.enabled), ("Cancel", True))

    def test_finish_that_could_not_be_asked_for_can_be_asked_again(self):
        self.startEndless()
        with mock.patch("pathlib.Path.touch", side_effect=OSError("full")):
            self.ui.finishButton.click()
        self.assertIn("could not be asked to end early (full)", self.ui.statusLabel.text)
        self.assertTrue(self.ui.finishButton.enabled)

    def test_failure_says_why_and_what_to_do(self):
        self.useEngine("fail")
        self.register()
        self.assertEqual(self.ui.statusLabel.text, "The volumes do not overlap. Align them first.")

    def test_crash_of_the_engine_leaves_the_scene_as_it_was(self):
        before = self.nodeIds()
        self.useEngine("crash")
        self.register()
        self.assertIn("stopped before it was done", self.ui.statusLabel.text)
        self.assertEqual(self.nodeIds(), before)

    def test_engine_that_cannot_start_is_named(self):
        self.usePython(str(self.folder / "python"))
        self.ui.applyButton.click()
        self.assertIn(str(self.folder / "python"), self.ui.statusLabel.text)
        self.assertTrue(self.ui.applyButton.enabled)

    def test_error_is_forgotten_with_the_next_registration(self):
        self.useEngine("fail")
        self.register()
        self.useEngine("work")
        self.register()
        self.assertNotIn("overlap. Align", self.ui.statusLabel.text)

    def test_registration_that_ended_is_let_go(self):
        self.startEndless()
        reference = weakref.ref(self.widget.logic._registration)
        self.ui.applyButton.click()
        self.waitForEnd()
        self.assertLetGo(reference)

    def test_registration_that_was_closed_is_let_go(self):
        self.startEndless()
        reference = weakref.ref(self.widget.logic._registration)
        self.widget.logic.close()
        self.assertLetGo(reference)

    def test_removing_an_input_stops_the_registration(self):
        self.startEndless()
        slicer.mrmlScene.RemoveNode(self.moving)
        self.waitForEnd()
        self.assertIn("was removed", self.ui.statusLabel.text)

    def test_closing_the_scene_stops_the_registration(self):
        self.startEndless()
        slicer.mrmlScene.Clear()
        self.waitForEnd()
        self.assertFalse(self.widget.logic.isRunning)
        self.assertIsNone(self.ui.fixedVolumeSelector.currentNode())

    def test_registration_can_follow_a_closed_scene(self):
        self.startEndless()
        slicer.mrmlScene.Clear()
        self.waitForEnd()
        self.addVolumes()
        self.widget.enter()
        self.useEngine("work")
        self.register()
        self.assertIn("moving to fixed (rman)", self.ui.statusLabel.text)

    def test_registration_ends_while_another_module_is_open(self):
        self.ui.applyButton.click()
        self.widget.exit()
        self.waitUntil(lambda: not self.widget.logic.isRunning)
        self.widget.enter()
        self.assertEqual(self.ui.applyButton.text, "Apply")
        self.assertEqual(self.widget._parameterNode.inspected.GetName(), "moving to fixed (rman)")
        self.assertIs(self.widget._parameterNode.warpTransform, self.widget._parameterNode.inspected)

    def test_choices_come_back_with_the_scene(self):
        self.ui.movingVolumeSelector.setCurrentNode(self.fixed)
        self.ui.recursionsSlider.value = 7
        self.ui.alignmentComboBox.currentIndex = 3
        self.ui.velocityCheckBox.checked = True
        slicer.mrmlScene.SetURL(str(self.folder / "scene.mrml"))
        slicer.mrmlScene.Commit()
        slicer.mrmlScene.Clear()
        self.assertEqual(self.ui.recursionsSlider.value, 6)
        slicer.mrmlScene.Connect()
        self.assertEqual(self.ui.recursionsSlider.value, 7)
        self.assertEqual(self.ui.alignmentComboBox.currentIndex, 3)
        self.assertTrue(self.ui.velocityCheckBox.checked)
        self.assertEqual(self.ui.movingVolumeSelector.currentNode().GetName(), "fixed")

    def test_choices_that_mean_nothing_here_are_told_and_become_the_usual_ones(self):
        self.ui.recursionsSlider.value = 7
        slicer.mrmlScene.SetURL(str(self.folder / "scene.mrml"))
        slicer.mrmlScene.Commit()
        path = self.folder / "scene.mrml"
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("RMAN", "RMAN_TWO").replace("AUTOMATIC", "BY_MAGIC"), encoding="utf-8")
        slicer.mrmlScene.Clear()
        slicer.mrmlScene.Connect()
        for name in ("method RMAN_TWO", "alignment BY_MAGIC"):
            self.assertIn(name, self.ui.statusLabel.text)
        self.assertEqual(self.widget._parameterNode.method.value, "rman")
        self.assertEqual(self.ui.recursionsSlider.value, 7)

    def test_recursions_have_the_range_of_the_method(self):
        registry = sys.modules["DeepAttentionRegEngine.protocol.registry"]
        parameters = self.widget._parameterNode
        for method in type(parameters.method):
            if method is not self.lib.Parameters.MethodChoice.REFINEMENT_ONLY:
                parameters.method = method
                described = registry.load_method(method.value)
                limits, slider = described.recursions, self.ui.recursionsSlider
                self.assertEqual((slider.minimum, slider.maximum), (limits.minimum, limits.maximum))
                first = registry.find_variant(described, 3, None)
                self.assertEqual(slider.value, described.usual_recursions(first))

    def test_choices_are_let_go_when_the_panel_is_left(self):
        reference = weakref.ref(self.widget._parameterNode)
        self.widget.exit()
        self.assertLetGo(reference)
        self.widget.enter()

    def test_reload_keeps_the_choices(self):
        self.ui.recursionsSlider.value = 7
        self.reload()
        self.assertEqual(self.ui.recursionsSlider.value, 7)

    def test_reload_mends_a_panel_that_could_not_be_set_up(self):
        load = slicer.util.loadUI

        def fail(path):
            if path.endswith("Batch.ui"):
                raise RuntimeError("No form.")
            return load(path)

        with (
            mock.patch.object(slicer.util, "loadUI", side_effect=fail),
            mock.patch.object(sys, "excepthook") as tell,
        ):
            self.reload()
        tell.assert_called_once()
        self.widget.enter()
        self.widget.exit()
        slicer.mrmlScene.Clear()
        self.reload()
        self.assertReason("Choose a fixed and a moving volume.")

    def test_reload_lets_go_of_the_old_panel(self):
        old = self.ui.smoothnessSlider
        self.reload()
        self.ui.smoothnessSlider.value = 2.5
        self.assertEqual(old.value, 1.0)

    def test_reload_ends_the_registration(self):
        self.startEndless()
        logic = self.widget.logic
        self.reload()
        self.assertFalse(logic.isRunning)

    def test_reloaded_panel_registers(self):
        self.reload()
        self.useEngine("work")
        self.register()
        self.assertIn("moving to fixed (rman)", self.ui.statusLabel.text)
