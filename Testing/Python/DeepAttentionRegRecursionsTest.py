"""The steps of a deformation and what its network attended to, in the panel; run as DeepAttentionRegGuiTest.py is."""

# ruff: noqa: PT009 - Slicer has unittest, not pytest

import sys

import slicer

from panel_case import PanelCase

HELPER = "moving (step)"


class DeepAttentionRegRecursionsTest(PanelCase):
    """Registers, keeping what recursions leave behind, and looks at it."""

    def setUp(self):
        """Show the fixed volume in all views."""
        super().setUp()
        self.parameters = self.widget._parameterNode
        for view in self.sliceViews():
            view.SetBackgroundVolumeID(self.fixed.GetID())
            view.SetForegroundVolumeID(None)

    def registerWithEvidence(self):
        """Register with two recursions, all of which is kept, and a refinement."""
        self.ui.evidenceCheckBox.checked = True
        self.parameters.recursions = 2
        self.register()
        self.transform = self.parameters.inspected
        self.evidence = sys.modules["DeepAttentionRegLib.evidence.RecursionEvidence"].RecursionEvidence(self.transform)

    def layers(self):
        """Return what the slice views show."""
        return [(view.GetBackgroundVolumeID(), view.GetForegroundVolumeID()) for view in self.sliceViews()]

    def foregrounds(self):
        """Return the names of the volumes in front."""
        nodes = [slicer.mrmlScene.GetNodeByID(front) if front else None for _back, front in self.layers()]
        return [node and node.GetName() for node in nodes]

    def moveCrosshair(self, *point):
        """Put the crosshair at a point, as who holds Shift does."""
        crosshair = slicer.mrmlScene.GetSingletonNode("default", "vtkMRMLCrosshairNode")
        if crosshair is None:
            crosshair = slicer.vtkMRMLCrosshairNode()
            crosshair.SetSingletonTag("default")
            slicer.mrmlScene.AddNode(crosshair)
        crosshair.SetCrosshairRAS(*point)

    def leaveModule(self):
        """Open another module."""
        self.widget.exit()

    def test_steps_that_were_not_kept_say_how_to_keep_them(self):
        self.register()
        for widget in (self.ui.stepsCheckBox, self.ui.stepSlider, self.ui.attentionCheckBox):
            self.assertFalse(widget.enabled)
            self.assertIn("register again", widget.toolTip)

    def test_kept_steps_are_offered(self):
        self.registerWithEvidence()
        self.assertTrue(self.ui.stepSlider.enabled)
        self.assertEqual((self.ui.stepSlider.value, self.ui.stepSlider.maximum), (3, 3))
        self.assertEqual(self.ui.stepLabel.text, "Result, similarity 0.970, 0.00 % folded")

    def test_slider_chooses_the_step(self):
        self.registerWithEvidence()
        self.ui.stepSlider.value = 1
        self.assertEqual(self.evidence.step, 1)
        self.assertTrue(self.ui.stepLabel.text.startswith("Recursion 1 of 2"))

    def test_toolbar_of_sequences_moves_the_slider(self):
        self.registerWithEvidence()
        self.evidence.browser.SetSelectedItemNumber(0)
        self.assertEqual(self.ui.stepSlider.value, 0)
        self.assertTrue(self.ui.stepLabel.text.startswith("Before"))

    def test_step_is_shown_until_the_module_is_left(self):
        self.registerWithEvidence()
        before = self.layers()
        self.ui.stepsCheckBox.checked = True
        self.assertEqual(set(self.foregrounds()), {HELPER})
        self.leaveModule()
        self.assertEqual(self.layers(), before)
        self.widget.enter()
        self.assertEqual(set(self.foregrounds()), {HELPER})
        self.ui.stepsCheckBox.checked = False
        self.assertEqual(self.layers(), before)

    def test_grid_can_be_hidden(self):
        self.registerWithEvidence()
        self.ui.stepsCheckBox.checked = True
        display = self.evidence.shownTransform.GetDisplayNode()
        self.assertTrue(display.GetVisibility())
        self.ui.gridCheckBox.checked = False
        self.assertFalse(display.GetVisibility())

    def test_another_deformation_takes_the_place_of_the_one_shown(self):
        self.registerWithEvidence()
        self.ui.stepsCheckBox.checked = True
        self.ui.evidenceCheckBox.checked = False
        self.register()
        self.assertNotIn(HELPER, self.foregrounds())
        self.parameters.inspected = self.transform
        self.assertEqual(set(self.foregrounds()), {HELPER})

    def test_removed_steps_are_no_longer_shown(self):
        self.registerWithEvidence()
        self.ui.stepsCheckBox.checked = True
        slicer.mrmlScene.RemoveNode(self.evidence.browser)
        self.widget._updateGui()
        self.assertFalse(self.ui.stepSlider.enabled)
        self.assertNotIn(HELPER, self.foregrounds())

    def test_scene_can_be_closed_meanwhile(self):
        self.registerWithEvidence()
        self.ui.stepsCheckBox.checked = True
        self.ui.attentionCheckBox.checked = True
        slicer.mrmlScene.Clear(0)
        self.assertFalse(self.ui.stepSlider.enabled)

    def test_module_can_be_reloaded_meanwhile(self):
        self.registerWithEvidence()
        before = self.layers()
        self.ui.stepsCheckBox.checked = True
        self.reload()
        self.widget.enter()
        self.assertEqual(set(self.foregrounds()), {HELPER})
        self.ui.stepsCheckBox.checked = False
        self.assertEqual(self.layers(), before)

    def test_plot_is_written(self):
        self.registerWithEvidence()
        self.ui.plotStepsButton.click()
        chart = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLPlotChartNode")
        self.assertEqual(self.ui.statusLabel.text, f'Wrote "{chart.GetName()}".')

    def test_plot_that_cannot_be_written_says_why(self):
        self.registerWithEvidence()
        for side in ("fixed", "moving"):
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", side)
            setattr(self.parameters, f"{side}Segmentation", node)
        self.ui.plotStepsButton.click()
        self.assertIn("has no segments", self.ui.statusLabel.text)

    def test_refinement_alone_has_steps_but_no_attention(self):
        self.parameters.method = self.lib.Parameters.MethodChoice.REFINEMENT_ONLY
        self.ui.evidenceCheckBox.checked = True
        self.register()
        self.assertEqual(self.ui.stepSlider.maximum, 1)
        self.assertFalse(self.ui.attentionCheckBox.enabled)
        self.assertIn("leaves nothing", self.ui.attentionCheckBox.toolTip)

    def test_what_was_attended_to_is_offered(self):
        self.registerWithEvidence()
        comboBox = self.ui.attentionComboBox
        self.assertEqual(
            [comboBox.itemText(index) for index in range(comboBox.count)],
            ["Where it looked (level 2)", "Relevance, level 1 (fixed)", "Attention mask (moving)", "Gaussians"],
        )

    def test_label_follows_the_crosshair(self):
        self.registerWithEvidence()
        self.ui.attentionCheckBox.checked = True
        self.moveCrosshair(-1.0, -2.0, 3.0)
        self.ui.attentionCheckBox.checked = False
        self.ui.attentionCheckBox.checked = True
        first = self.ui.attentionLabel.text
        self.assertTrue(first.startswith("Looked most"))
        self.moveCrosshair(-9.0, -8.0, 7.0)
        self.assertNotEqual(self.ui.attentionLabel.text, first)

    def test_attention_is_shown_until_it_is_turned_off(self):
        self.registerWithEvidence()
        before = self.layers()
        self.ui.attentionCheckBox.checked = True
        for choice in ("look|level 2|moving", "map|relevance, level 1|fixed", "map|attention mask|moving"):
            self.parameters.inspectAttended = choice
            self.assertIn(f"{self.transform.GetName()} attention", self.foregrounds())
        self.ui.attentionCheckBox.checked = False
        self.assertEqual(self.layers(), before)
