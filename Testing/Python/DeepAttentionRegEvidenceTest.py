"""Segments, landmarks and report in the panel, the engine played by a stand-in; run like DeepAttentionRegGuiTest.py."""

# ruff: noqa: PT009 - Slicer has unittest, not pytest

import json
import sys
from unittest import mock

import numpy as np
import slicer

from panel_case import PanelCase


class DeepAttentionRegEvidenceTest(PanelCase):
    """Judges the result of one registration by what was chosen among the inputs."""

    def setUp(self):
        """Register the two volumes and unfold the tools."""
        super().setUp()
        self.parameters = self.widget._parameterNode
        self.register()
        self.ui.inspectionCollapsibleButton.collapsed = False
        for name in ("segmentsGroupBox", "landmarksGroupBox", "reportGroupBox"):
            getattr(self.ui, name).collapsed = False

    def attached(self, role):
        """Return a node that the inspected transform remembers."""
        return sys.modules["DeepAttentionRegLib.nodes.Record"].attached(self.parameters.inspected, role)

    def addSegmentations(self):
        """Choose segmentations of two boxes each, the moving ones shifted by a voxel."""
        volumes = sys.modules["DeepAttentionRegLib.nodes.Volumes"]
        for side, shift in (("fixed", 0), ("moving", 1)):
            volume = getattr(self, side)
            labels = np.zeros((8, 9, 10), np.uint8)
            labels[2:5, 2:5, 1 + shift : 4 + shift], labels[2:5, 5:8, 5 + shift : 8 + shift] = 1, 2
            geometry = volumes.geometryOf(volume, np.eye(4))
            segmentation = volumes.makeSegmentation(labels, geometry, {})
            for index, name in enumerate(("Liver", "Heart")):
                segmentation.GetNthSegment(index).SetName(name)
            node = volumes.createSegmentation(segmentation, f"{side} organs", volume)
            setattr(self.parameters, f"{side}Segmentation", node)

    def addLandmarks(self):
        """Choose three landmarks on each side."""
        for side in ("fixed", "moving"):
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", f"{side} points")
            for position in ((-3.0, -4.0, 5.0), (-2.0, -6.0, 3.0), (-6.0, -3.0, 4.0)):
                node.AddControlPoint(position)
            setattr(self.parameters, f"{side}Landmarks", node)

    def compare(self):
        """Compare the segments."""
        self.addSegmentations()
        self.ui.compareSegmentsButton.click()

    def choose(self, comboBox, text):
        """Choose an item by its text."""
        comboBox.currentIndex = comboBox.findText(text)

    def visible(self):
        """Return which regions are shown, before and after."""
        return [self.attached(role).GetDisplayNode().GetVisibility() for role in ("SegmentsBefore", "SegmentsAfter")]

    def writing(self, name):
        """Let the user name a file in the next dialog."""
        parts = sys.modules["DeepAttentionRegLib.panel.Parts"]
        return mock.patch.object(parts, "chooseNewFile", return_value=name and str(self.folder / name))

    def test_verdict_is_told_after_a_registration(self):
        self.assertIn("Nothing suspicious was found. Of 300 registrations", self.ui.verdictLabel.text)
        self.assertFalse(self.ui.verdictLabel.isHidden())
        self.assertEqual(self.ui.verdictLabel.styleSheet, "")

    def test_probable_failure_is_seen(self):
        self.useEngine("probably failed")
        self.register()
        for label in (self.ui.verdictLabel, self.ui.inspectedVerdictLabel):
            self.assertTrue(label.text.startswith("The registration probably failed"))
            self.assertIn("Of 300 registrations", label.text)
            self.assertIn("background", label.styleSheet)

    def test_error_that_is_not_known_is_explained(self):
        self.useEngine("error not known")
        self.register()
        self.assertEqual(self.ui.verdictLabel.text, "The errors of this method were not measured.")
        self.assertEqual(self.ui.verdictLabel.styleSheet, "")

    def test_verdict_goes_with_its_message(self):
        self.startEndless()
        self.assertTrue(self.ui.verdictLabel.isHidden())
        self.ui.applyButton.click()
        self.waitForEnd()
        self.assertTrue(self.ui.verdictLabel.isHidden())

    def test_verdict_is_that_of_the_chosen_deformation(self):
        first = self.parameters.inspected
        self.useEngine("probably failed")
        self.register()
        self.parameters.inspected = first
        self.assertIn("Nothing suspicious was found.", self.ui.inspectedVerdictLabel.text)
        self.parameters.inspected = None
        self.assertTrue(self.ui.inspectedVerdictLabel.isHidden())

    def test_record_of_a_former_release_has_no_verdict(self):
        record = sys.modules["DeepAttentionRegLib.nodes.Record"]
        record.remember(self.parameters.inspected, record.Record(values={"device": "cpu"}))
        self.widget._updateGui()
        self.assertTrue(self.ui.inspectedVerdictLabel.isHidden())

    def test_disabled_tools_say_what_to_choose(self):
        self.assertIn("Choose a fixed and a moving segmentation", self.ui.compareSegmentsButton.toolTip)
        self.assertIn("Choose fixed and moving landmarks", self.ui.measureLandmarksButton.toolTip)
        self.assertFalse(self.ui.compareSegmentsButton.enabled or self.ui.measureLandmarksButton.enabled)
        self.assertTrue(self.ui.writeReportButton.enabled)

    def test_tools_without_a_deformation_say_so(self):
        self.parameters.inspected = None
        for button in (self.ui.compareSegmentsButton, self.ui.measureLandmarksButton, self.ui.writeReportButton):
            self.assertFalse(button.enabled)
            self.assertIn("Choose the transform", button.toolTip)

    def test_structures_of_the_network_are_offered_where_it_tells_some_apart(self):
        self.assertFalse(self.ui.structuresCheckBox.enabled)
        self.parameters.keepStructures = True  # as another method left it
        self.assertFalse(self.widget.logic.argumentsFrom(self.parameters)["keepStructures"])
        self.register()
        self.assertIsNone(self.attached("StructuresFixed"))

    def registerStructures(self):
        """Register with a method that tells structures apart, and keep them."""
        self.parameters.method = self.lib.Parameters.MethodChoice("agf-diffeo")
        self.assertTrue(self.ui.structuresCheckBox.enabled)
        self.ui.structuresCheckBox.checked = True
        self.register()

    def test_structures_of_the_network_are_shown_and_told_without_any_segmentation(self):
        self.registerStructures()
        for side in ("Fixed", "Moving", "Warped"):
            self.assertEqual(self.attached(f"Structures{side}").GetSegmentation().GetNumberOfSegments(), 2)
        self.assertIn("2 segments. Mean Dice 0.500 before, 0.800 after", self.ui.segmentsLabel.text)
        self.assertIn("prove nothing by themselves", self.ui.segmentsLabel.text)
        self.assertIn("prove nothing by themselves", self.ui.statusLabel.text)
        self.choose(self.ui.segmentComboBox, "liver")
        self.assertIn("Jacobian determinant within the fixed segment: mean 1", self.ui.segmentsLabel.text)

    def test_structures_of_the_network_are_compared_unless_segmentations_are_chosen(self):
        self.registerStructures()
        self.ui.compareSegmentsButton.click()
        self.assertIsNotNone(self.attached("SegmentsAfter"))
        self.assertIn("prove nothing by themselves", self.ui.statusLabel.text)
        self.compare()
        self.assertNotIn("prove nothing by themselves", self.ui.segmentsLabel.text)
        self.assertIn("2 segments. Mean Dice 0.667 before", self.ui.segmentsLabel.text)

    def test_segments_are_compared_and_told(self):
        self.compare()
        self.assertIn("segments", self.ui.statusLabel.text)
        self.assertEqual(self.attached("Segments").GetNumberOfRows(), 2)
        self.assertIn("2 segments. Mean Dice 0.667 before", self.ui.segmentsLabel.text)
        self.assertEqual(self.visible(), [0, 1])

    def test_regions_before_after_and_none_can_be_shown(self):
        self.compare()
        shown = {}
        for text in ("Before", "After", "Hidden"):
            self.choose(self.ui.segmentsMomentComboBox, text)
            shown[text] = self.visible()
        self.assertEqual(shown, {"Before": [1, 0], "After": [0, 1], "Hidden": [0, 0]})

    def test_one_segment_is_shown_and_told_alone(self):
        self.compare()
        self.choose(self.ui.segmentComboBox, "Heart")
        self.assertIn("Dice 0.667 before", self.ui.segmentsLabel.text)
        node = self.attached("SegmentsAfter")
        segmentation, display = node.GetSegmentation(), node.GetDisplayNode()
        names = [name for name in segmentation.GetSegmentIDs() if display.GetSegmentVisibility(name)]
        self.assertEqual({segmentation.GetSegment(name).GetName().split(":")[0] for name in names}, {"Heart"})

    def test_segments_are_in_3d_unless_unwanted(self):
        self.compare()
        display = self.attached("SegmentsAfter").GetDisplayNode()
        self.assertTrue(display.GetVisibility3D())
        self.ui.segments3dCheckBox.checked = False
        self.assertFalse(display.GetVisibility3D())

    def test_what_was_hidden_elsewhere_stays_hidden(self):
        self.compare()
        self.attached("SegmentsAfter").GetDisplayNode().SetVisibility(False)
        self.widget._updateGui()
        self.assertEqual(self.visible(), [0, 0])

    def test_failed_comparison_is_told(self):
        self.addSegmentations()
        segments = sys.modules["DeepAttentionRegLib.panel.inspection.SegmentsTool"].Segments
        with mock.patch.object(segments, "compare", side_effect=ValueError("No segment fits.")):
            self.ui.compareSegmentsButton.click()
        self.assertIn("No segment fits.", self.ui.statusLabel.text)

    def test_table_is_shown(self):
        self.compare()
        self.ui.segmentsTableButton.click()
        selection = slicer.app.applicationLogic().GetSelectionNode()
        self.assertEqual(selection.GetActiveTableID(), self.attached("Segments").GetID())

    def test_what_shows_a_comparison_waits_for_one(self):
        self.addSegmentations()
        for widget in (self.ui.segmentsTableButton, self.ui.segmentComboBox):
            self.assertFalse(widget.enabled)
            self.assertIn("Compare the segments first.", widget.toolTip)  # inside a paragraph
        self.compare()
        self.assertNotIn("first", self.ui.segmentsTableButton.toolTip)

    def test_removed_table_is_told(self):
        self.compare()
        slicer.mrmlScene.RemoveNode(self.attached("Segments"))
        self.ui.segmentsTableButton.click()
        self.assertIn("The table was removed.", self.ui.statusLabel.text)

    def test_landmarks_are_measured_and_told(self):
        self.addLandmarks()
        self.ui.measureLandmarksButton.click()
        self.assertIn("3 landmarks. Error 0 mm before", self.ui.landmarksLabel.text)
        self.assertEqual(self.attached("Landmarks").GetNumberOfRows(), 5)
        self.choose(self.ui.landmarksMomentComboBox, "Before")
        roles = ("LandmarksBefore", "LandmarksAfter")
        self.assertEqual([self.attached(role).GetDisplayNode().GetVisibility() for role in roles], [1, 0])

    def test_report_is_written_with_its_numbers(self):
        self.compare()
        with self.writing("report"):
            self.ui.writeReportButton.click()
        self.assertIn("Wrote report.html, report.csv, report.json", self.ui.statusLabel.text)
        numbers = json.loads((self.folder / "report.json").read_text(encoding="ascii"))
        self.assertEqual(numbers["registration"]["settings"]["method"], "rman")
        self.assertIn("Liver", (self.folder / "report.html").read_text(encoding="utf-8"))

    def test_report_is_opened_once_it_is_there(self):
        self.assertFalse(self.ui.openReportButton.enabled)
        with self.writing("report.html"):
            self.ui.writeReportButton.click()
        self.assertTrue(self.ui.openReportButton.enabled)

    def test_report_comes_as_pdf_or_says_why_not(self):
        self.ui.reportPdfCheckBox.checked = True
        with self.writing("report.html"):
            self.ui.writeReportButton.click()
        path = self.folder / "report.pdf"
        if path.exists():
            self.assertTrue(path.read_bytes().startswith(b"%PDF"))
        else:
            self.assertIn("cannot write PDF", self.ui.statusLabel.text)

    def test_canceled_dialog_writes_nothing(self):
        before = self.ui.statusLabel.text
        with self.writing(""):
            self.ui.writeReportButton.click()
        self.assertEqual(self.ui.statusLabel.text, before)

    def test_report_that_cannot_be_written_says_why(self):
        with self.writing("nowhere/report.html"):
            self.ui.writeReportButton.click()
        self.assertIn("nowhere does not exist", self.ui.statusLabel.text)

    def test_report_without_a_volume_says_what_to_choose(self):
        self.parameters.fixedVolume = self.parameters.movingVolume = None
        slicer.mrmlScene.RemoveNode(self.fixed)
        self.assertFalse(self.ui.writeReportButton.enabled)
        self.assertIn("Choose the fixed and the moving volume", self.ui.writeReportButton.toolTip)

    def test_pictures_are_taken_where_the_views_cross(self):
        crossing = sys.modules["DeepAttentionRegLib.panel.inspection.ReportTool"].crossing
        for name, orientation in (("Red", "Axial"), ("Yellow", "Sagittal"), ("Green", "Coronal")):
            node = slicer.mrmlScene.GetSingletonNode(name, "vtkMRMLSliceNode")
            node.SetOrientation(orientation)
            node.JumpSliceByOffsetting(-3.0, -4.0, 5.0)
        np.testing.assert_allclose(crossing(), (-3.0, -4.0, 5.0))
        self.ui.reportViewsCheckBox.checked = True
        report = sys.modules["DeepAttentionRegLib.panel.inspection.ReportTool"].Report
        with self.writing("report.html"), mock.patch.object(report, "write", side_effect=report.write) as write:
            self.ui.writeReportButton.click()
        np.testing.assert_allclose(write.call_args.kwargs["pointRas"], (-3.0, -4.0, 5.0))

    def test_closed_scene_leaves_nothing_to_show(self):
        self.compare()
        slicer.mrmlScene.Clear()
        self.assertFalse(self.ui.segmentsLabel.isVisible())
        self.assertFalse(self.ui.compareSegmentsButton.enabled)
