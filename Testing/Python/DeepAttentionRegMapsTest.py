"""Maps, uncertainty and batches in the panel, the engine played by a stand-in; run as DeepAttentionRegGuiTest.py is."""

# ruff: noqa: PT009 - Slicer has unittest, not pytest

import sys
import time
from unittest import mock

import numpy as np
import slicer

from panel_case import PanelCase

MAP_BUTTONS = ("jacobianMapButton", "logJacobianMapButton", "displacementMapButton", "similarityAfterMapButton")
OTHER_BUTTONS = ("similarityBeforeMapButton", "inconsistencyMapButton", "uncertaintyMapButton", "changeMapButton")
THRESHOLDS = ("thresholdVolumeSlider", "thresholdMmSlider", "thresholdSimilaritySlider", "thresholdCertaintySlider")


class DeepAttentionRegMapsTest(PanelCase):
    """Works on the result of one registration."""

    def setUp(self):
        """Register the two volumes and unfold the tools."""
        super().setUp()
        self.parameters = self.widget._parameterNode
        self.record = sys.modules["DeepAttentionRegLib.nodes.Record"]

    def registered(self):
        """Register and return the transform."""
        self.register()
        self.ui.inspectionCollapsibleButton.collapsed = False
        for name in ("mapsGroupBox", "uncertaintyGroupBox"):
            getattr(self.ui, name).collapsed = False
        return self.parameters.inspected

    def foregrounds(self):
        """Return the nodes that the slice views show over the background."""
        return [slicer.mrmlScene.GetNodeByID(view.GetForegroundVolumeID() or "") for view in self.sliceViews()]

    def checkedButtons(self):
        """Return the names of the buttons that are down."""
        return [name for name in (*MAP_BUTTONS, *OTHER_BUTTONS, "foldsMapButton") if getattr(self.ui, name).checked]

    def shownThresholds(self):
        """Return the sliders that are shown."""
        return [name for name in THRESHOLDS if not getattr(self.ui, name).isHidden()]

    def test_without_a_deformation_the_buttons_say_why(self):
        for name in (*MAP_BUTTONS, "uncertaintyButton", "foldsMapButton"):
            self.assertFalse(getattr(self.ui, name).enabled)
            self.assertIn("Choose the transform", getattr(self.ui, name).toolTip)

    def test_one_click_shows_a_map_and_another_one_hides_it(self):
        self.registered()
        before = self.foregrounds()
        for name in MAP_BUTTONS:
            getattr(self.ui, name).click()
            self.assertEqual(self.checkedButtons(), [name])
            self.assertEqual(
                {node.GetName().partition(" (rman) ")[0] for node in self.foregrounds()}, {"moving to fixed"}
            )
        getattr(self.ui, name).click()
        self.assertEqual((self.checkedButtons(), self.foregrounds()), ([], before))

    def test_showing_again_adds_no_node(self):
        self.registered()
        self.ui.displacementMapButton.click()
        count = len(self.nodeIds())
        for _click in range(2):
            self.ui.displacementMapButton.click()
        self.assertEqual(len(self.nodeIds()), count)

    def test_threshold_is_that_of_the_map(self):
        self.registered()
        self.assertEqual(self.shownThresholds(), [])
        buttons = ("jacobianMapButton", "displacementMapButton", "similarityAfterMapButton", "changeMapButton")
        for button, slider in zip(buttons, THRESHOLDS, strict=True):
            getattr(self.ui, button).click()
            self.assertEqual(self.shownThresholds(), [slider])

    def test_threshold_and_opacity_are_applied_and_kept(self):
        self.registered()
        self.ui.displacementMapButton.click()
        self.ui.thresholdMmSlider.value = 2.5
        self.ui.mapOpacitySlider.value = 30
        (node,) = set(self.foregrounds())
        self.assertEqual(node.GetDisplayNode().GetLowerThreshold(), 2.5)
        self.assertEqual({round(view.GetForegroundOpacity(), 3) for view in self.sliceViews()}, {0.3})
        self.ui.displacementMapButton.click()
        self.ui.displacementMapButton.click()
        self.assertEqual(node.GetDisplayNode().GetLowerThreshold(), 2.5)

    def test_folds_are_marked_over_a_map_and_counted(self):
        self.registered()
        self.ui.jacobianMapButton.click()
        self.ui.foldsMapButton.click()
        self.assertEqual(self.checkedButtons(), ["jacobianMapButton", "foldsMapButton"])
        self.assertIn("highlight", self.ui.foldsMapButton.styleSheet)
        self.assertIn("folded", self.ui.statusLabel.text)
        self.assertIn("Marked: where the deformation folds.", self.ui.mapsLabel.text)
        self.ui.foldsMapButton.click()
        self.assertNotIn("folds", self.ui.mapsLabel.text)
        self.assertEqual(self.checkedButtons(), ["jacobianMapButton"])
        self.assertEqual(self.ui.foldsMapButton.styleSheet, "")

    def test_map_of_another_deformation_is_not_left_in_the_views(self):
        self.registered()
        before = self.foregrounds()
        self.ui.jacobianMapButton.click()
        self.parameters.inspected = None
        self.assertEqual((self.checkedButtons(), self.foregrounds()), ([], before))

    def test_leaving_the_module_gives_the_views_back(self):
        self.registered()
        before = self.foregrounds()
        self.ui.jacobianMapButton.click()
        self.widget.exit()
        self.assertEqual(self.foregrounds(), before)
        self.widget.enter()
        self.assertEqual(self.checkedButtons(), [])

    def test_removed_map_is_let_go(self):
        self.registered()
        self.ui.displacementMapButton.click()
        slicer.mrmlScene.RemoveNode(self.foregrounds()[0])
        self.assertEqual(self.checkedButtons(), [])

    def test_removed_folds_are_let_go(self):
        transform = self.registered()
        self.ui.jacobianMapButton.click()
        self.ui.foldsMapButton.click()
        slicer.mrmlScene.RemoveNode(self.record.attached(transform, "Folds"))
        self.assertEqual(self.checkedButtons(), ["jacobianMapButton"])

    def test_volume_that_cannot_be_compared_is_told(self):
        self.registered()
        slicer.util.updateVolumeFromArray(self.fixed, np.zeros((8, 9, 10), np.float32))
        self.ui.similarityAfterMapButton.click()
        self.assertIn("is constant", self.ui.statusLabel.text)
        self.assertEqual(self.checkedButtons(), [])

    def test_map_that_takes_long_can_be_canceled(self):
        import qt

        self.registered()
        before = self.nodeIds()
        maps = sys.modules["DeepAttentionRegLib.evidence.Maps"]
        seen = []

        def compute(_deformation, _kind, pause):
            while True:
                time.sleep(0.02)
                pause()
                seen.append((self.ui.applyButton.text, self.ui.inspectionCollapsibleButton.enabled))

        timer = qt.QTimer()
        timer.connect("timeout()", lambda: self.ui.applyButton.text == "Cancel" and self.ui.applyButton.click())
        timer.start(300)
        with mock.patch.object(maps, "compute", side_effect=compute):
            self.ui.jacobianMapButton.click()
        timer.stop()
        self.assertIn(("Cancel", False), seen)
        self.assertEqual((self.ui.statusLabel.text, self.ui.applyButton.text), ("It was canceled.", "Apply"))
        self.assertEqual((self.nodeIds(), self.checkedButtons()), (before, []))

    def test_inverse_consistency_registers_the_other_way_round_once(self):
        transform = self.registered()
        self.ui.inconsistencyMapButton.click()
        self.assertEqual(self.ui.applyButton.text, "Cancel")
        self.waitForEnd()
        self.assertEqual(self.checkedButtons(), ["inconsistencyMapButton"])
        backward = self.record.attached(transform, "Backward")
        self.assertEqual(backward.GetName(), "moving to fixed (rman) backward")
        self.ui.inconsistencyMapButton.click()
        self.ui.inconsistencyMapButton.click()
        self.assertEqual(self.ui.applyButton.text, "Apply")
        self.assertIs(self.record.attached(transform, "Backward"), backward)

    def test_way_back_can_be_canceled(self):
        self.registered()
        self.useEngine("work until cancelled")
        self.ui.inconsistencyMapButton.click()
        self.waitUntil(lambda: self.ui.statusLabel.text.startswith("Refinement"))
        before = self.nodeIds()
        self.ui.applyButton.click()
        self.waitForEnd()
        self.assertIn("canceled", self.ui.statusLabel.text)
        self.assertEqual((self.nodeIds(), self.checkedButtons()), (before, []))

    def test_uncertainty_is_estimated_and_shown(self):
        transform = self.registered()
        self.assertIn("Estimate the uncertainty first", self.ui.uncertaintyMapButton.toolTip)
        self.ui.samplesSlider.value = 3
        self.ui.uncertaintyButton.click()
        self.waitForEnd()
        self.assertEqual(self.checkedButtons(), ["uncertaintyMapButton"])
        self.assertEqual(set(self.foregrounds()), {self.record.attached(transform, "Uncertainty")})

    def test_error_that_came_along_is_shown_and_explained(self):
        transform = self.registered()
        self.assertTrue(self.ui.errorMapButton.enabled)
        count = len(self.nodeIds())
        self.ui.errorMapButton.click()
        self.assertTrue(self.ui.errorMapButton.checked)
        self.assertEqual(set(self.foregrounds()), {self.record.attached(transform, "Error")})
        self.assertIn("With 95 % probability the true place lies within so many mm.", self.ui.mapsLabel.text)
        self.assertEqual(self.shownThresholds(), ["thresholdMmSlider"])
        self.assertEqual(len(self.nodeIds()), count)

    def test_error_that_is_not_known_says_why(self):
        self.useEngine("error not known")
        self.registered()
        self.assertFalse(self.ui.errorMapButton.enabled)
        self.assertIn("The errors of this method were not measured.", self.ui.errorMapButton.toolTip)

    def test_removed_error_map_asks_for_another_registration(self):
        transform = self.registered()
        slicer.mrmlScene.RemoveNode(self.record.attached(transform, "Error"))
        self.assertFalse(self.ui.errorMapButton.enabled)
        self.assertIn("register again to get one", self.ui.errorMapButton.toolTip)

    def test_record_of_a_former_release_asks_for_another_registration(self):
        transform = self.registered()
        self.record.remember(transform, self.record.Record(values={"device": "cpu"}))
        self.widget._updateGui()
        self.assertFalse(self.ui.errorMapButton.enabled)
        self.assertIn("register again to get one", self.ui.errorMapButton.toolTip)

    def test_estimated_uncertainty_unfolds_the_maps(self):
        self.registered()
        self.ui.mapsGroupBox.collapsed = True
        self.ui.uncertaintyButton.click()
        self.waitForEnd()
        self.assertFalse(self.ui.mapsGroupBox.collapsed)
        self.assertEqual(self.checkedButtons(), ["uncertaintyMapButton"])

    def test_failed_estimate_is_told(self):
        self.registered()
        self.useEngine("fail")
        self.ui.uncertaintyButton.click()
        self.waitForEnd()
        self.assertIn("do not overlap", self.ui.statusLabel.text)

    def chooseTable(self, text):
        """Write a table and choose it and a folder."""
        images, volumes = (
            sys.modules[name] for name in ("DeepAttentionRegEngine.volume.images", "DeepAttentionRegLib.nodes.Volumes")
        )
        geometry = volumes.geometryOf(self.fixed, np.eye(4))
        images.write_volume(self.folder / "f.nrrd", slicer.util.arrayFromVolume(self.fixed), geometry)
        (self.folder / "pairs.csv").write_text(text, encoding="utf-8")
        self.ui.batchPairsPathLineEdit.currentPath = str(self.folder / "pairs.csv")
        self.ui.batchFolderPathLineEdit.currentPath = str(self.folder / "out")

    def test_batch_says_what_it_lacks(self):
        self.assertIn("Choose a table of pairs", self.ui.batchButton.toolTip)
        self.chooseTable("fixed,moved\nf.nrrd,f.nrrd\n")
        self.assertFalse(self.ui.batchButton.enabled)
        self.assertIn("'moved'", self.ui.batchButton.toolTip)

    def test_batch_goes_to_a_folder_and_a_table(self):
        self.chooseTable("fixed,moving,name\nf.nrrd,f.nrrd,one\nf.nrrd,gone.nrrd,two\n")
        self.assertEqual(self.parameters.batchFolder, str(self.folder / "out"))
        self.ui.batchButton.click()
        self.assertEqual(self.ui.applyButton.text, "Cancel")
        self.waitForEnd()
        self.assertIn('see the table "pairs results"', self.ui.statusLabel.text)
        self.assertTrue((self.folder / "out" / "one" / "transform.nrrd").exists())

    def test_running_batch_can_be_canceled(self):
        self.chooseTable("fixed,moving\nf.nrrd,f.nrrd\n")
        self.useEngine("work until cancelled")
        self.ui.batchButton.click()
        self.waitUntil(lambda: self.widget.logic.isRunning and self.ui.progressBar.visible)
        self.ui.applyButton.click()
        self.waitForEnd()
        self.assertIn("canceled", self.ui.statusLabel.text)

    def test_choices_of_the_batch_are_those_of_the_scene(self):
        self.parameters.batchPairs = "a.csv"
        self.assertEqual(self.ui.batchPairsPathLineEdit.currentPath, "a.csv")
        slicer.mrmlScene.Clear()
        self.assertEqual(self.ui.batchPairsPathLineEdit.currentPath, "")

    def test_half_typed_path_is_left_to_the_user(self):
        self.ui.batchPairsPathLineEdit.currentPath = str(self.folder / "pairs.csv")
        edit = self.ui.batchPairsPathLineEdit.comboBox().lineEdit()
        for text in (str(self.folder / "pai"), ""):
            edit.text = text
            self.parameters.smoothness += 0.5  # which updates the panel
            self.assertEqual(edit.text, text)
            self.assertEqual(self.parameters.batchPairs, text)
            self.assertFalse(self.ui.batchButton.enabled)
