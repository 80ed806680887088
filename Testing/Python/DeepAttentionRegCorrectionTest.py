"""A deformation corrected by hand in the panel; run as DeepAttentionRegGuiTest.py is."""

# ruff: noqa: PT009 - Slicer has unittest, not pytest

import numpy as np
import slicer

from panel_case import PanelCase

PLACE, SEEN = np.array([-4.0, -4.0, 3.0]), np.array([-3.0, -4.0, 3.0])


class DeepAttentionRegCorrectionTest(PanelCase):
    """Registers, and corrects places of the result."""

    def setUp(self):
        """Register, which leaves a transform to correct."""
        super().setUp()
        self.parameters = self.widget._parameterNode
        self.register()
        self.transform = self.parameters.inspected

    def led(self, point):
        """Return where the transform leads a point."""
        return np.array(self.transform.GetTransformFromParent().TransformPoint(point))

    def place(self, *points):
        """Place points as a click does, where the panel has asked for them."""
        selection = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSelectionNode")
        node = slicer.mrmlScene.GetNodeByID(selection.GetActivePlaceNodeID())
        for point in points:
            node.AddControlPoint(*point)

    def correct(self):
        """Correct a place; return where it has to go."""
        self.ui.correctButton.click()
        wanted = self.led(SEEN)
        self.place(PLACE, SEEN)
        return wanted

    def test_a_corrected_place_goes_where_it_was_seen(self):
        wanted = self.correct()
        np.testing.assert_allclose(self.led(PLACE), wanted, atol=0.05)
        self.assertIn("Corrections: 1, the longest", self.ui.correctionsLabel.text)
        self.assertIn("Corrections: 1, the longest", self.ui.statusLabel.text)

    def test_both_points_are_asked_for_one_after_the_other(self):
        self.ui.correctButton.click()
        self.assertIn("Click on a place of the fixed volume", self.ui.statusLabel.text)
        self.place(PLACE)
        self.assertIn("where the same is seen", self.ui.statusLabel.text)

    def test_undo_and_redo(self):
        before = self.led(PLACE)
        wanted = self.correct()
        self.assertFalse(self.ui.redoCorrectionButton.enabled)
        self.ui.undoCorrectionButton.click()
        np.testing.assert_allclose(self.led(PLACE), before, atol=1e-4)
        self.assertFalse(self.ui.undoCorrectionButton.enabled)
        self.ui.redoCorrectionButton.click()
        np.testing.assert_allclose(self.led(PLACE), wanted, atol=0.05)

    def test_without_corrections_is_what_was_before(self):
        before = self.led(PLACE)
        wanted = self.correct()
        self.ui.correctedCheckBox.checked = False
        np.testing.assert_allclose(self.led(PLACE), before, atol=1e-4)
        self.ui.correctedCheckBox.checked = True
        np.testing.assert_allclose(self.led(PLACE), wanted, atol=0.05)

    def test_pairs_guide_the_next_registration(self):
        self.correct()
        self.assertTrue(self.parameters.guided)
        self.assertEqual(self.parameters.fixedLandmarks.GetNumberOfControlPoints(), 1)
        self.ui.undoCorrectionButton.click()
        self.assertFalse(self.parameters.guided)

    def test_other_landmarks_stay_chosen(self):
        nodes = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "mine") for _side in range(2)]
        self.parameters.fixedLandmarks, self.parameters.movingLandmarks = nodes
        self.correct()
        self.assertIs(self.parameters.fixedLandmarks, nodes[0])
        self.assertFalse(self.parameters.guided)

    def test_a_dragged_point_is_followed(self):
        self.correct()
        partners = self.parameters.movingLandmarks
        partners.SetNthControlPointPositionWorld(0, *PLACE)
        partners.InvokeEvent(partners.PointEndInteractionEvent)
        np.testing.assert_allclose(self.led(PLACE), PLACE, atol=0.05)

    def test_the_transform_remembers_that_it_was_corrected(self):
        self.correct()
        self.assertTrue(any("by hand" in text for text in self.lib.Record.recall(self.transform).warnings))

    def test_another_transform_has_no_corrections(self):
        self.correct()
        self.parameters.inspected = None
        self.assertFalse(self.ui.correctButton.enabled or self.ui.undoCorrectionButton.enabled)
        self.parameters.inspected = self.transform
        self.assertTrue(self.ui.correctButton.enabled)
        self.assertFalse(self.ui.undoCorrectionButton.enabled)

    def test_scene_can_be_closed_and_module_reloaded_meanwhile(self):
        self.ui.correctButton.click()
        self.place(PLACE)
        self.reload()
        self.widget.enter()
        self.ui.correctButton.click()
        slicer.mrmlScene.Clear(0)
        self.assertFalse(self.ui.correctButton.enabled)
