"""The section of the panel that chooses a method, weights and effort; run as DeepAttentionRegGuiTest.py is."""

# ruff: noqa: PT009 - Slicer has unittest, not pytest

import json
import sys
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import slicer

from panel_case import CARD, PanelCase


class DeepAttentionRegMethodTest(PanelCase):
    """Chooses methods, anatomies and numbers, by hand and by what the images show."""

    def setUp(self):
        """Keep imported weights in a folder of the test."""
        super().setUp()
        self.weights = sys.modules["DeepAttentionRegLib.engine.Weights"]
        patch = mock.patch.object(self.weights, "userFolder", return_value=self.folder / "Weights")
        patch.start()
        self.addCleanup(patch.stop)
        self.parameters = self.widget._parameterNode

    def chooseMethod(self, name):
        """Choose a method by its name in a job."""
        self.parameters.method = self.lib.Parameters.MethodChoice(name)

    def makeWeights(self):
        """Write a file that looks like weights and return its path."""
        path = self.folder / "mine.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("mine/data.pkl", "state")
        return path

    def importWeights(self):
        """Import weights by the button."""
        with self.choosingFile(self.makeWeights()):
            self.ui.importWeightsButton.click()

    def test_method_says_what_it_is(self):
        for method in type(self.parameters.method):
            self.parameters.method = method
            self.assertTrue(self.ui.summaryLabel.text, method)
            self.assertEqual(self.ui.citationGroupBox.isHidden(), not self.ui.citationLabel.text)

    def test_citation_goes_to_the_clipboard(self):
        self.ui.citationGroupBox.collapsed = False
        self.ui.copyCitationButton.click()
        self.assertIn("MIUA 2022", slicer.app.clipboard().text())

    def test_best_quality_takes_more_than_fast(self):
        efforts = []
        for text in ("Fast", "Balanced", "Best"):
            self.choose(self.ui.presetComboBox, text)
            efforts.append((self.parameters.recursions, self.parameters.refinementSteps))
            self.assertEqual(self.ui.presetComboBox.currentText, text)
        self.assertEqual(efforts, sorted(set(efforts)))

    def test_own_numbers_are_custom_quality(self):
        self.ui.refinementStepsSlider.value = 41
        self.assertEqual(self.ui.presetComboBox.currentText, "Custom")
        self.choose(self.ui.presetComboBox, "Balanced")
        self.assertEqual(self.itemsOf(self.ui.presetComboBox), ["Fast", "Balanced", "Best"])

    def test_quality_is_kept_with_another_method(self):
        self.choose(self.ui.presetComboBox, "Best")
        self.chooseMethod("bspline")
        self.assertEqual(self.ui.presetComboBox.currentText, "Best")

    def test_own_recursions_outlast_refinement_alone(self):
        self.ui.recursionsSlider.value = 7
        for method in (self.lib.Parameters.MethodChoice.REFINEMENT_ONLY, self.lib.Parameters.MethodChoice.RMAN):
            self.widget._parameterNode.method = method
        self.assertEqual(self.ui.recursionsSlider.value, 7)

    def test_fast_networks_run_in_16_bits_on_a_graphics_card(self):
        self.choose(self.ui.presetComboBox, "Fast")
        self.assertFalse(self.parameters.halfPrecision)
        self.choose(self.ui.presetComboBox, "Balanced")
        self.pretendEnvironment({"devices": [CARD]})
        self.widget._updateGui()
        self.choose(self.ui.presetComboBox, "Fast")
        self.assertTrue(self.parameters.halfPrecision)

    def test_weights_are_offered_where_they_are_needed(self):
        self.assertEqual(self.itemsOf(self.ui.weightsComboBox)[:2], ["Anything", "Hippocampus"])
        self.chooseMethod("bspline")
        self.assertTrue(self.ui.weightsComboBox.isHidden())

    def test_imported_weights_are_chosen_and_used(self):
        self.importWeights()
        self.assertEqual(self.ui.weightsComboBox.currentText, "mine")
        self.assertEqual(self.widget.logic.argumentsFrom(self.parameters)["settings"].weights, self.parameters.weights)
        self.assertIn("is not known", self.ui.licenseLabel.text)

    def test_deleted_weights_are_gone(self):
        self.importWeights()
        path = Path(self.parameters.weights)
        with mock.patch.object(slicer.util, "confirmOkCancelDisplay", return_value=False):
            self.ui.deleteWeightsButton.click()
        self.assertTrue(path.exists())
        with mock.patch.object(slicer.util, "confirmOkCancelDisplay", return_value=True):
            self.ui.deleteWeightsButton.click()
        self.assertFalse(path.exists())
        self.assertEqual(self.parameters.weights, "")
        self.assertTrue(self.ui.deleteWeightsButton.isHidden())

    def test_file_that_holds_no_weights_is_refused_with_a_reason(self):
        path = self.folder / "text.pt"
        path.write_text("no weights", encoding="ascii")
        with self.choosingFile(path):
            self.ui.importWeightsButton.click()
        self.assertIn("text.pt is no", self.ui.statusLabel.text)

    def test_method_without_weights_offers_to_import_some(self):
        with mock.patch.object(self.weights, "weightsFor", return_value=[]):
            self.chooseMethod("adregnet")
            self.assertEqual(self.ui.mendButton.text, "Import weights...")
            with self.choosingFile("") as choose:
                self.ui.mendButton.click()
            self.assertEqual(choose.call_count, 1)

    def test_weights_of_another_computer_are_named(self):
        self.parameters.weights = "elsewhere.pt"
        self.assertReason("elsewhere.pt are not here")

    def makeImages(self, fixed, extent=50.0, flat=False):
        """Add two volumes of a field of view in mm, named alike, and choose them."""
        volumes = []
        for name in (fixed, f"{fixed} later"):
            volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
            slicer.util.updateVolumeFromArray(volume, np.zeros((1 if flat else 8, 9, 10), np.float32))
            volume.SetSpacing(extent / 10, extent / 10, extent / 10)
            volumes.append(volume)
        self.parameters.fixedVolume, self.parameters.movingVolume = volumes
        return volumes

    def anatomy(self):
        """Return what the panel shows as the anatomy, and what it says of it."""
        shown = "" if self.ui.proposalLabel.isHidden() else self.ui.proposalLabel.text
        return self.ui.weightsComboBox.currentText, shown

    def usedWeights(self):
        """Return the weights that a registration would get."""
        return self.widget.logic.argumentsFrom(self.parameters)["settings"].weights

    def test_anything_is_proposed_where_nothing_tells(self):
        self.assertEqual(self.anatomy(), ("Anything", "Proposed: nothing tells what the images show."))
        self.assertEqual((self.parameters.weights, self.usedWeights()), ("", None))

    def test_field_of_view_proposes_the_weights_that_run(self):
        self.makeImages("a")
        reason = "Proposed: the field of view of 50 mm is that of a hippocampus."
        self.assertEqual(self.anatomy(), ("Hippocampus", reason))
        self.assertEqual((self.parameters.weights, self.usedWeights()), ("", "rman-hippocampus-mr"))
        self.assertIn("rman-hippocampus-mr", self.ui.weightsComboBox.toolTip)
        self.makeImages("b", extent=200.0)
        self.assertEqual(self.anatomy()[0], "Anything")

    def test_choice_by_hand_stays_for_its_volumes(self):
        _fixed, moving = self.makeImages("a")
        self.choose(self.ui.weightsComboBox, "Anything")
        self.assertEqual(self.parameters.weights, "rman-general")
        self.assertIn("Hippocampus would be proposed: the field of view", self.anatomy()[1])
        moving.SetName("hippocampus")
        self.parameters.movingVolume = self.moving
        self.ui.swapButton.click()
        self.assertEqual((self.anatomy()[0], self.usedWeights()), ("Anything", "rman-general"))
        self.makeImages("b")
        self.assertEqual((self.anatomy()[0], self.parameters.weights), ("Hippocampus", ""))

    def test_choice_before_any_volume_stays_for_the_first(self):
        self.parameters.fixedVolume = self.parameters.movingVolume = None
        self.choose(self.ui.weightsComboBox, "Hippocampus")
        self.makeImages("brain", extent=200.0)
        self.assertEqual(self.anatomy()[0], "Hippocampus")

    def test_stored_weights_are_a_choice_by_hand(self):
        self.makeImages("a")
        self.parameters.weights, self.parameters.recursions = "rman-general", 7
        self.widget.exit()
        self.widget.enter()
        self.assertEqual((self.anatomy()[0], self.parameters.recursions), ("Anything", 7))

    def test_method_without_weights_for_the_anatomy_names_those_that_have_some(self):
        self.makeImages("a")
        self.chooseMethod("adregnet")
        label, text = self.anatomy()
        self.assertEqual(label, "Anything")
        self.assertIn("no weights for the anatomy Hippocampus, though the field of view of 50 mm", text)
        self.assertIn("RMAn-style recursive mutual attention network", text)

    def test_recursions_follow_the_anatomy(self):
        self.chooseMethod("agf-diffeo")
        self.assertEqual((self.anatomy()[0], self.parameters.recursions), ("Hippocampus", 5))
        self.assertIn("usually 5", self.ui.recursionsSlider.toolTip)
        self.makeImages("chest", flat=True)
        self.assertEqual((self.anatomy()[0], self.parameters.recursions), ("Chest X-ray", 2))
        self.assertEqual(self.ui.presetComboBox.currentText, "Balanced")

    def test_own_recursions_outlast_another_anatomy(self):
        self.chooseMethod("agf-diffeo")
        self.ui.recursionsSlider.value = 3
        self.makeImages("chest", flat=True)
        self.assertEqual(self.parameters.recursions, 3)

    def test_damaged_description_of_imported_weights_is_told(self):
        self.importWeights()
        Path(self.parameters.weights).with_suffix(".json").write_text("{", encoding="ascii")
        self.widget._updateGui()
        self.assertReason("are not here, or not for this method")

    def test_imported_weights_are_proposed_by_what_is_told_beside(self):
        path = self.makeWeights()
        told = {"anatomy": "knee", "recursions": 6, "title": "Our knees"}
        path.with_suffix(".json").write_text(json.dumps(told), encoding="ascii")
        with self.choosingFile(path):
            self.ui.importWeightsButton.click()
        self.makeImages("Knee2", extent=150.0)
        self.assertEqual(self.anatomy(), ("Our knees", 'Proposed: a volume is named "Knee2".'))
        self.assertEqual(self.parameters.recursions, 6)
