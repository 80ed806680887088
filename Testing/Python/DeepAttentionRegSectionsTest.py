"""The sections of the panel, one by one, the engine played by a stand-in; run as DeepAttentionRegGuiTest.py is."""

# ruff: noqa: PT009 - Slicer has unittest, not pytest

import sys
from unittest import mock

import numpy as np
import slicer

from panel_case import CARD, PanelCase

SHOWN = "moving (preview)"


class DeepAttentionRegSectionsTest(PanelCase):
    """Chooses what is known only at run time, and uses what is beside the registration of two volumes."""

    def setUp(self):
        """Know the choices."""
        super().setUp()
        self.parameters = self.widget._parameterNode

    def shownNodes(self):
        """Return the nodes of the live view."""
        return list(slicer.mrmlScene.GetNodesByName(SHOWN))

    def layers(self):
        """Return what the slice views show."""
        views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        return [
            (view.GetBackgroundVolumeID(), view.GetForegroundVolumeID(), view.GetForegroundOpacity()) for view in views
        ]

    def test_devices_are_those_of_the_computer(self):
        self.pretendEnvironment({"devices": [CARD]})
        self.widget._updateGui()
        texts = ["Automatic (Graphics card)", "CPU", "Graphics card (cuda:0)", "Other Python..."]
        self.assertEqual(self.itemsOf(self.ui.deviceComboBox), texts)
        self.choose(self.ui.deviceComboBox, "Graphics card (cuda:0)")
        self.assertEqual(self.parameters.device, "cuda:0")

    def test_device_of_another_computer_is_named(self):
        self.parameters.device = "cuda:3"
        self.assertReason("no device cuda:3")

    def test_other_python_is_used_once_it_has_answered(self):
        with self.choosingFile(sys.executable):
            self.choose(self.ui.deviceComboBox, "Other Python...")
        self.waitUntil(lambda: "remembered" in self.ui.statusLabel.text)
        self.assertIn(sys.executable, self.ui.pythonLabel.text)
        self.choose(self.ui.deviceComboBox, "Slicer's own Python")
        self.assertIsNone(self.widget.logic.otherPython)

    def test_other_python_needs_no_pytorch_in_slicer(self):
        self.found = "MISSING"
        self.usePython(sys.executable)
        self.register()
        self.assertIn("moving to fixed (rman)", self.ui.statusLabel.text)

    def test_python_that_is_none_is_refused(self):
        with self.choosingFile(self.folder):
            self.choose(self.ui.deviceComboBox, "Other Python...")
        self.assertIn("is a folder", self.ui.statusLabel.text)
        self.assertEqual(self.ui.deviceComboBox.currentText, "Automatic (CPU)")

    def test_broken_pytorch_is_repaired(self):
        self.found = "BROKEN"
        self.widget.enter()
        self.assertEqual(self.ui.mendButton.text, "Repair PyTorch...")

    def test_lack_of_memory_is_tried_again_not_repaired(self):
        self.useEngine("lack memory")
        self.widget.logic.environment = None
        self.widget.enter()
        self.waitUntil(lambda: self.widget.logic.environment is not None)
        self.assertIn("not enough memory", self.ui.mendLabel.text)
        self.assertEqual(self.ui.mendButton.text, "Try again")

    def test_pytorch_that_cannot_be_used_is_installed_anew(self):
        self.widget.logic.environment = self.lib.Interpreter.Environment("No module named torchgen.")
        self.widget._updateGui()
        self.assertEqual(self.ui.mendButton.text, "Repair PyTorch...")
        with (
            mock.patch.object(self.lib.Install, "ask", return_value=True),
            mock.patch.object(self.lib.Install, "install") as install,
        ):
            self.ui.mendButton.click()
        (finding, _onLog, onDone) = install.call_args.args
        onDone("")
        self.assertIs(finding.state, self.lib.Install.State.BROKEN)
        self.assertEqual(finding.message, "No module named torchgen.")

    def test_swap_exchanges_the_inputs(self):
        self.ui.swapButton.click()
        self.assertIs(self.ui.fixedVolumeSelector.currentNode(), self.moving)
        self.assertIs(self.ui.movingVolumeSelector.currentNode(), self.fixed)

    def test_initial_transform_takes_the_place_of_the_alignment(self):
        self.parameters.initialTransform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
        self.assertFalse(self.ui.alignmentComboBox.enabled)

    def test_finish_ends_with_a_result(self):
        self.useEngine("work until finished")
        self.ui.applyButton.click()
        self.waitUntil(lambda: self.ui.statusLabel.text.startswith("Refinement"))
        self.ui.finishButton.click()
        self.waitForEnd()
        self.assertIn("moving to fixed (rman)", self.ui.statusLabel.text)

    def test_each_recursion_is_shown_and_nothing_of_it_is_left(self):
        preview = sys.modules["DeepAttentionRegLib.views.Preview"].Preview
        seen = []
        real = preview.show

        def show(view, path):
            real(view, path)
            seen.append((self.layers(), [node.GetSaveWithScene() for node in self.shownNodes()]))

        with mock.patch.object(preview, "show", show):
            self.register()
        self.assertEqual(len(seen), 6)
        layers, saved = seen[-1]
        self.assertEqual({background for background, _foreground, _opacity in layers}, {self.fixed.GetID()})
        self.assertEqual(saved, [0, 0, 0])
        self.assertEqual(self.shownNodes(), [])

    def test_views_show_what_they_did_once_the_registration_has_failed(self):
        before = self.layers()
        preview = sys.modules["DeepAttentionRegLib.views.Preview"].Preview
        with mock.patch.object(preview, "show", side_effect=OSError("damaged")):
            self.register()
        self.assertEqual(self.shownNodes(), [])
        slicer.util.setSliceViewerLayers(background=None, foreground=None, foregroundOpacity=before[0][2])
        shown = self.makePreview()
        shown.close()
        self.assertEqual(self.layers(), before)
        self.assertEqual(self.shownNodes(), [])

    def test_nothing_is_left_of_what_is_shown_when_the_scene_is_closed(self):
        self.startEndless()
        self.assertEqual(len(self.shownNodes()), 3)
        slicer.mrmlScene.Clear()
        self.assertEqual(self.shownNodes(), [])
        self.waitForEnd()
        self.assertEqual(self.shownNodes(), [])

    def test_reload_takes_every_file_anew(self):
        packages = ("DeepAttentionRegLib", "DeepAttentionRegEngine")
        before = {name: module for name, module in sys.modules.items() if name.startswith(packages)}
        self.reload()
        self.assertIn("DeepAttentionRegLib.panel.RunSection", before)
        self.assertEqual([name for name, module in before.items() if sys.modules.get(name) is module], [])

    def test_nothing_is_left_of_what_is_shown_after_a_reload(self):
        before = self.nodeIds()
        self.startEndless()
        self.assertEqual(len(self.shownNodes()), 3)
        self.reload()
        self.assertEqual(self.shownNodes(), [])
        self.assertEqual(self.nodeIds(), before)

    def makePreview(self):
        """Show a field that a registration has left and return the live view."""
        images = sys.modules["DeepAttentionRegEngine.volume.images"]
        geometry = sys.modules["DeepAttentionRegLib.nodes.Volumes"].geometryOf(self.fixed, np.eye(4))
        path = str(self.folder / "field.nrrd")
        images.write_displacement(path, np.zeros((*geometry.shape, 3), np.float32), geometry)
        view = sys.modules["DeepAttentionRegLib.views.Preview"].Preview(self.fixed, self.moving)
        view.show(path)
        self.assertEqual(len(self.shownNodes()), 3)
        return view

    def addSegmentation(self, side, names):
        """Choose a segmentation with segments of these names."""
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{side} organs")
        for name in names:
            node.GetSegmentation().AddEmptySegment(name, name)
        setattr(self.parameters, f"{side}Segmentation", node)

    def menuOf(self, parameter):
        """Return what the menu of segments offers when it is opened, actions by text."""
        menu = getattr(self.ui, f"{parameter}PickButton").menu()
        menu.aboutToShow.emit()
        return {action.text: action for action in menu.actions()}

    def test_segments_are_picked_from_a_menu(self):
        self.assertEqual([action.enabled for action in self.menuOf("rigid").values()], [False])
        self.addSegmentation("fixed", ["Rib 1", "Rib 2", "Lung"])
        self.addSegmentation("moving", ["Rib 1", "Screw"])
        self.assertEqual(list(self.menuOf("sliding")), ["Rib 1", "Rib 2", "Lung"])
        self.assertEqual(list(self.menuOf("rigid")), ["Rib 1", "Rib 2", "Lung", "Screw"])
        self.menuOf("rigid")["Screw"].checked = True
        self.assertEqual((self.parameters.rigid, self.ui.rigidLineEdit.text), ("Screw", "Screw"))
        self.menuOf("rigid")["Rib 2"].checked = True
        self.assertEqual(self.ui.rigidLineEdit.text, "Screw; Rib 2")
        self.menuOf("rigid")["Screw"].checked = False
        self.assertEqual(self.parameters.rigid, "Rib 2")

    def test_segment_of_a_name_for_several_is_taken_away_from_it(self):
        self.addSegmentation("fixed", ["Rib 1", "Rib 2", "Rib 3", "Lung"])
        self.parameters.rigid = "rib *; Lung"
        self.assertTrue(all(action.checked for action in self.menuOf("rigid").values()))
        self.menuOf("rigid")["Rib 2"].checked = False
        self.assertEqual(self.parameters.rigid, "Rib 1; Rib 3; Lung")

    def test_segmentation_is_warped_by_the_latest_result(self):
        self.register()
        points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "points")
        points.AddControlPoint(-3.0, -4.0, 5.0)
        self.ui.warpNodeSelector.setCurrentNode(points)
        self.ui.warpButton.click()
        self.assertIn('Wrote "points warped to fixed"', self.ui.statusLabel.text)

    def test_warp_writes_into_the_chosen_node(self):
        self.register()
        points, target = (slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name) for name in "ab")
        points.AddControlPoint(-3.0, -4.0, 5.0)
        self.ui.warpNodeSelector.setCurrentNode(points)
        self.ui.warpOutputSelector.setCurrentNode(target)
        before = self.nodeIds()
        self.ui.warpButton.click()
        self.assertEqual(target.GetNumberOfControlPoints(), 1)
        self.assertEqual(self.nodeIds(), before)
        self.ui.warpOutputSelector.setCurrentNode(self.moving)
        self.assertFalse(self.ui.warpButton.enabled)

    def test_disabled_warp_says_why(self):
        self.assertFalse(self.ui.warpButton.enabled)
        self.assertIn("Choose a transform", self.ui.warpButton.toolTip)

    def test_percentiles_need_a_map_of_the_error(self):
        box = self.ui.warpPercentilesCheckBox
        self.register()
        record = sys.modules["DeepAttentionRegLib.nodes.Record"]
        slicer.mrmlScene.RemoveNode(record.attached(self.parameters.warpTransform, "Error"))
        self.ui.warpNodeSelector.setCurrentNode(self.moving)
        self.assertFalse(box.enabled)
        self.assertIn("does not remember a map of its error", box.toolTip)
        box.checked = True
        self.ui.warpButton.click()
        self.assertEqual(self.namesOf("percentile"), [])

    def test_volume_is_warped_to_its_percentiles(self):
        self.register()
        error = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "error")
        slicer.util.updateVolumeFromArray(error, np.ones_like(slicer.util.arrayFromVolume(self.fixed), np.float32))
        error.CopyOrientation(self.fixed)
        record = sys.modules["DeepAttentionRegLib.nodes.Record"]
        record.attach(self.parameters.warpTransform, "Error", error)
        self.ui.warpNodeSelector.setCurrentNode(self.moving)
        self.assertTrue(self.ui.warpPercentilesCheckBox.enabled)
        self.assertIn("95th percentile", self.ui.warpPercentilesCheckBox.toolTip)
        self.ui.warpPercentilesCheckBox.checked = True
        self.ui.warpButton.click()
        self.waitForEnd()
        self.assertIn('Wrote "moving warped to fixed"', self.ui.statusLabel.text)
        warped = [
            f"moving warped to fixed{text}" for text in ("", " (5th percentile)", " (95th percentile)", " (median)")
        ]
        self.assertEqual(self.namesOf("moving warped to fixed"), warped)

    def namesOf(self, part):
        """Return the names of the volumes in which a text occurs."""
        nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        return sorted(node.GetName() for node in nodes if part in node.GetName())

    def addSequence(self):
        """Add a sequence of the two volumes."""
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "4D")
        for index, volume in enumerate((self.fixed, self.moving)):
            node.SetDataNodeAtValue(volume, str(index))
        return node

    def test_sequence_is_registered_frame_by_frame(self):
        self.ui.sequenceSelector.setCurrentNode(self.addSequence())
        self.assertEqual(self.ui.referenceFrameSlider.maximum, 2)
        self.ui.referenceFrameSlider.value = 2
        self.ui.sequenceButton.click()
        self.assertFalse(self.ui.finishButton.isHidden())
        self.waitForEnd()
        self.assertIn("4D to frame 2 (rman)", self.ui.statusLabel.text)

    def test_frames_that_probably_failed_are_told(self):
        self.useEngine("probably failed")
        self.ui.sequenceSelector.setCurrentNode(self.addSequence())
        self.ui.sequenceButton.click()
        self.waitForEnd()
        self.assertIn("Probably failed: frame 2.", self.ui.statusLabel.text)

    def test_result_of_a_sequence_stands_alone_where_no_pair_is_chosen(self):
        self.ui.sequenceSelector.setCurrentNode(self.addSequence())
        self.ui.movingVolumeSelector.setCurrentNode(None)
        self.assertReason("Choose a fixed and a moving volume.")
        self.ui.sequenceButton.click()
        self.waitForEnd()
        self.assertTrue(self.ui.statusLabel.text.startswith("Created the sequence"), self.ui.statusLabel.text)
        self.ui.movingVolumeSelector.setCurrentNode(self.fixed)
        self.assertNotIn("Choose a fixed", self.ui.statusLabel.text)
        self.assertReason("same volume")

    def test_files_are_chosen_from_the_folder_of_the_scene_without_following_links(self):
        parts, qt = (sys.modules[name] for name in ("DeepAttentionRegLib.panel.Parts", "qt"))
        slicer.mrmlScene.SetRootDirectory(str(self.folder))
        with mock.patch.object(qt, "QFileDialog") as dialog:
            dialog.return_value.selectedFiles.return_value = ["a link"]
            self.assertEqual(parts.chooseFile("Choose"), "a link")
            parts.chooseNewFile("Write", "report.html", "Web pages (*.html)")
        self.assertIn(str(self.folder), dialog.call_args.args)
        dialog.return_value.setOption.assert_called_once_with(dialog.DontResolveSymlinks)
        self.assertIn(str(self.folder / "report.html"), dialog.getSaveFileName.call_args.args)

    def test_disabled_sequence_says_why(self):
        self.assertFalse(self.ui.sequenceButton.enabled)
        self.assertIn("Choose a sequence", self.ui.sequenceButton.toolTip)

    def unfoldAll(self):
        """Unfold all sections and groups."""
        for widget in vars(self.ui).values():
            if widget.className().startswith("ctkCollapsible"):
                widget.collapsed = False

    def test_apply_stays_in_sight_whatever_is_unfolded(self):
        slicer.app.processEvents()
        needed = self.widget.parent.layout().minimumSize().height()
        self.unfoldAll()
        self.assertEqual(self.widget.parent.layout().minimumSize().height(), needed)
        for widget in (self.ui.applyButton, self.ui.progressBar, self.ui.statusLabel, self.ui.mendButton):
            self.assertFalse(self.ui.sectionsScrollArea.isAncestorOf(widget))
        self.assertTrue(self.ui.sectionsScrollArea.isAncestorOf(self.ui.batchButton))

    def test_panel_is_no_wider_for_a_long_name(self):
        self.unfoldAll()
        slicer.app.processEvents()
        width = self.widget.parent.layout().minimumSize().width()
        self.fixed.SetName("thorax_expiration_1_25mm_B31f_" * 4)
        self.widget._tell(self.fixed.GetName())
        slicer.app.processEvents()
        self.assertEqual(self.widget.parent.layout().minimumSize().width(), width)

    def test_wrapped_texts_get_the_height_they_need(self):
        self.unfoldAll()
        self.register()
        slicer.app.processEvents()
        labels = [item for item in vars(self.ui).values() if item.className() == "QLabel" and item.wordWrap]
        for label in (item for item in labels if item.text and item.visible):
            needed = label.heightForWidth(label.width)
            self.assertEqual((label.minimumHeight, label.maximumHeight), (needed, needed), label.name)
