"""The views in which a deformation is judged, and the words under the cursor; run as DeepAttentionRegGuiTest.py is."""

# ruff: noqa: PT009 - Slicer has unittest, not pytest

import sys

import numpy as np
import slicer

from panel_case import NAME, PanelCase

SHIFT_MM = 3.0
HELPERS = (
    *("Deformation comparison", "Corresponding point"),
    *(
        "fixed (fixed)",
        "moving (before)",
        "moving (warped)",
        "moving (warped) minus fixed",
        "fixed and moving (warped)",
    ),
)


class DeepAttentionRegViewsTest(PanelCase):
    """Compares the volumes of a deformation, and points at them."""

    def setUp(self):
        """Choose a deformation that moves tissue to the left."""
        super().setUp()
        self.modes = sys.modules["DeepAttentionRegLib.views.ComparisonModes"]
        self.parameters = self.widget._parameterNode
        self.showVolume(self.fixed)
        self.crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if self.crosshair is None:
            self.crosshair = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLCrosshairNode")
        self.crosshair.SetCursorPositionInvalid()
        self.transform = self.addTransform()
        self.parameters.inspected = self.transform

    def addTransform(self):
        """Add a deformation whose field points to the right."""
        transforms, volumes = (sys.modules[f"DeepAttentionRegLib.nodes.{name}"] for name in ("Transforms", "Volumes"))
        geometry = volumes.geometryOf(self.fixed, np.eye(4))
        field = np.zeros((*geometry.shape, 3), np.float32)
        field[..., 0] = -SHIFT_MM
        field = transforms.makeGridTransform(field, geometry)
        return transforms.createGridTransform(field, "T", self.fixed, self.moving)

    def showVolume(self, volume):
        """Show a volume alone in all slice views."""
        for view in self.sliceViews():
            view.SetBackgroundVolumeID(volume.GetID())
            view.SetForegroundVolumeID(None)

    def layers(self):
        """Return what the slice views show and whether they are linked."""
        return [
            (
                view.GetBackgroundVolumeID(),
                view.GetForegroundVolumeID(),
                view.GetForegroundOpacity(),
                view.GetLinkedControl(),
            )
            for view in self.sliceViews()
        ]

    def helpers(self):
        """Return the nodes that take part for a while."""
        return [node for name in HELPERS for node in slicer.mrmlScene.GetNodesByName(name)]

    def compare(self, name):
        """Choose how to compare."""
        self.parameters.inspectComparison = self.modes.Mode[name]

    def point(self, *ras):
        """Move the cursor to a point."""
        self.crosshair.SetCursorPositionRAS(ras)

    def visible(self, *names):
        """Return which widgets are not hidden."""
        return [name for name in names if not getattr(self.ui, name).isHidden()]

    def test_views_come_first_and_are_open(self):
        inspection = sys.modules["DeepAttentionRegLib.panel.InspectionSection"]
        self.assertEqual(next(iter(inspection.TOOLS)), "Views")
        self.assertFalse(self.ui.viewsGroupBox.collapsed)
        self.assertTrue(self.ui.readoutGroupBox.collapsed)

    def test_disabled_views_say_why(self):
        self.parameters.inspected = None
        self.assertFalse(self.ui.comparisonComboBox.enabled)
        self.assertIn("Choose the transform", self.ui.comparisonComboBox.toolTip)
        self.assertIn("Choose the transform", self.ui.readoutCheckBox.toolTip)
        self.parameters.inspected = self.transform
        self.assertTrue(self.ui.comparisonComboBox.enabled)
        self.assertIn("slice views show", self.ui.comparisonComboBox.toolTip)

    def test_nothing_changes_before_something_is_chosen(self):
        self.assertEqual({layers[:2] for layers in self.layers()}, {(self.fixed.GetID(), None)})
        self.assertEqual(self.helpers(), [])

    def test_each_way_shows_something_and_off_gives_back_what_was_shown(self):
        before, nodes = self.layers(), self.nodeIds()
        for mode in list(self.modes.Mode)[1:]:
            self.parameters.inspectComparison = mode
            self.assertNotEqual(self.layers(), before, mode)
            self.assertTrue(all(linked for *_layers, linked in self.layers()))
        self.compare("OFF")
        self.assertEqual(self.layers(), before)
        self.widget.exit()
        self.assertEqual(self.nodeIds(), nodes)

    def test_only_what_a_way_needs_is_offered(self):
        names = ("fadeSlider", "rateSlider", "tileSlider", "revealSlider", "absoluteCheckBox", "layerComboBox")
        offered = {
            "OFF": [],
            "FADE": ["fadeSlider", "layerComboBox"],
            "FLICKER": ["rateSlider", "layerComboBox"],
            "CHECKERBOARD": ["tileSlider", "layerComboBox"],
            "REVEAL": ["revealSlider", "layerComboBox"],
            "FUSION": ["layerComboBox"],
            "DIFFERENCE": ["absoluteCheckBox", "layerComboBox"],
        }
        for mode, wanted in offered.items():
            self.compare(mode)
            self.assertEqual(self.visible(*names), wanted)

    def showSideBySide(self):
        """Choose the layout of three, after Slicer's own one, and return the layout."""
        node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        node.SetViewArrangement(node.SlicerLayoutFourUpView)
        slicer.app.processEvents()
        self.addCleanup(node.SetViewArrangement, node.SlicerLayoutFourUpView)
        self.parameters.inspectArrangement = self.modes.Arrangement.SIDE_BY_SIDE
        return node

    def test_three_volumes_side_by_side_are_gone_when_the_module_is_left(self):
        node = self.showSideBySide()
        self.assertIn("DeepAttentionRegWarped", node.GetCurrentLayoutDescription())
        self.widget.exit()
        self.assertEqual(node.GetViewArrangement(), node.SlicerLayoutFourUpView)
        self.widget.enter()
        self.parameters.inspectArrangement = self.modes.Arrangement.CURRENT

    def test_three_volumes_side_by_side_are_fitted_to_their_views(self):
        layout = self.showSideBySide()
        layout.SetViewArrangement(layout.SlicerLayoutFourUpView)
        self.parameters.inspectArrangement = self.modes.Arrangement.CURRENT
        slicer.app.processEvents()
        nodes = slicer.util.getNodesByClass("vtkMRMLSliceNode")
        panes = [node for node in nodes if node.GetLayoutName().startswith(NAME)]
        for node in panes:
            node.SetDimensions(900, 800, 1)  # new views have the whole width until they are drawn
        self.showSideBySide()
        slicer.app.processEvents()
        before = [node.GetFieldOfView() for node in panes]
        slicer.util.resetSliceViews()
        self.assertEqual(len(panes), 3)
        np.testing.assert_allclose([node.GetFieldOfView() for node in panes], before)

    def test_other_views_keep_opacity_and_links_while_three_are_side_by_side(self):
        self.addCleanup(self.link, False)
        for isLinked in (False, True):
            for view in self.sliceViews():
                view.SetBackgroundVolumeID(self.fixed.GetID())
                view.SetForegroundVolumeID(self.moving.GetID())
                view.SetForegroundOpacity(0.5)
            self.link(isLinked)
            before = self.layers()
            self.showSideBySide()
            for mode in ("FADE", "ROCK", "DIFFERENCE", "OFF"):
                self.compare(mode)
            self.parameters.inspectArrangement = self.modes.Arrangement.CURRENT
            self.assertEqual(self.layers(), before)
            self.assertEqual([view.GetHotLinkedControl() for view in self.sliceViews()], [isLinked] * 3)

    def link(self, isLinked):
        """Link all slice views, or none."""
        for view in self.sliceViews():
            view.SetLinkedControl(isLinked)
            view.SetHotLinkedControl(isLinked)

    def test_scene_saved_meanwhile_opens_as_it_was_before(self):
        self.showVolume(self.moving)
        node = self.showSideBySide()
        self.compare("CHECKERBOARD")
        url = str(self.folder / "scene.mrml")
        slicer.mrmlScene.SetURL(url)
        slicer.mrmlScene.Commit()
        # As if another module were open, in which nothing is shown again.
        again = slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.widget.onSceneReady
        self.widget.removeObserver(*again)
        self.addCleanup(self.widget.addObserver, *again)
        slicer.mrmlScene.Connect()
        self.assertEqual(node.GetViewArrangement(), node.SlicerLayoutFourUpView)
        shown = [slicer.mrmlScene.GetNodeByID(view.GetBackgroundVolumeID() or "") for view in self.sliceViews()]
        self.assertEqual({volume and volume.GetName() for volume in shown}, {"moving"})

    def test_slider_fades(self):
        self.compare("FADE")
        self.ui.fadeSlider.value = 20
        self.assertEqual({opacity for *_ids, opacity, _linked in self.layers()}, {0.2})

    def test_dragged_slider_fades_before_it_is_let_go(self):
        self.compare("FADE")
        self.ui.fadeSlider.valueIsChanging.emit(80.0)
        self.assertEqual({opacity for *_ids, opacity, _linked in self.layers()}, {0.8})
        self.assertEqual(self.parameters.inspectFade, 50.0)

    def test_flicker_goes_on_by_itself_until_it_is_off(self):
        tool = self.widget._inspection._tools[0]
        self.compare("FLICKER")
        self.ui.rateSlider.value = 2
        self.waitUntil(lambda: self.sliceViews()[0].GetForegroundOpacity() == 1.0)
        self.waitUntil(lambda: self.sliceViews()[0].GetForegroundOpacity() == 0.0)
        self.compare("FADE")
        self.assertFalse(tool._ticker.isRunning)

    def test_divider_follows_the_cursor(self):
        self.compare("REVEAL")
        shown = slicer.mrmlScene.GetNodeByID(self.sliceViews()[0].GetBackgroundVolumeID())
        before = slicer.util.arrayFromVolume(shown).copy()
        self.assertFalse(self.ui.revealSlider.enabled)
        self.point(8.0, 4.0, 4.0)
        self.assertTrue((slicer.util.arrayFromVolume(shown) != before).any())

    def test_divider_stays_where_the_slider_puts_it(self):
        self.compare("REVEAL")
        self.ui.followCheckBox.checked = False
        self.ui.revealSlider.value = 10
        shown = slicer.mrmlScene.GetNodeByID(self.sliceViews()[0].GetBackgroundVolumeID())
        before = slicer.util.arrayFromVolume(shown).copy()
        self.point(8.0, 4.0, 4.0)
        self.assertTrue((slicer.util.arrayFromVolume(shown) == before).all())

    def test_difference_explains_its_colors(self):
        self.compare("DIFFERENCE")
        self.assertIn("Orange: the moving volume is brighter", self.ui.comparisonLabel.text)
        self.ui.absoluteCheckBox.checked = True
        self.assertNotIn("Orange", self.ui.comparisonLabel.text)

    def test_volumes_that_cannot_be_compared_say_why(self):
        before = self.layers()
        self.moving.SetOrigin(5000.0, 0.0, 0.0)
        self.compare("FADE")
        self.assertIn("moving lies outside of fixed", self.ui.comparisonLabel.text)
        self.assertEqual(self.layers(), before)

    def test_module_that_is_left_gives_back_what_was_shown(self):
        before = self.layers()
        self.parameters.inspectReadout = True
        self.compare("ROCK")
        self.widget.exit()
        self.assertEqual(self.layers(), before)
        self.assertEqual(self.helpers(), [])
        self.point(1.0, 2.0, 3.0)
        self.widget.enter()
        self.assertNotEqual(self.layers(), before)

    def test_scene_that_is_closed_takes_everything_along(self):
        self.parameters.inspectReadout = True
        self.compare("FLICKER")
        slicer.mrmlScene.Clear()
        self.assertEqual(self.helpers(), [])
        self.assertFalse(self.widget._inspection._tools[0]._ticker.isRunning)

    def test_module_that_is_reloaded_gives_back_what_was_shown(self):
        before = self.layers()
        self.compare("CHECKERBOARD")
        old = self.widget._inspection._tools[0]
        self.widget.cleanup()
        self.assertEqual(self.layers(), before)
        self.assertFalse(old._ticker.isRunning)
        self.reload()

    def test_removed_volume_ends_the_comparison(self):
        self.compare("FADE")
        slicer.mrmlScene.RemoveNode(self.moving)
        self.assertEqual(self.helpers(), [])

    def test_volume_that_is_compared_but_not_chosen_ends_the_comparison(self):
        self.parameters.fixedVolume, self.parameters.movingVolume = self.addVolumes()
        self.compare("FADE")
        slicer.mrmlScene.RemoveNode(self.moving)
        self.assertEqual(self.helpers(), [])
        self.assertIn("Choose the fixed and the moving volume of T", self.ui.inspectedProblemLabel.text)

    def test_registration_is_compared_when_it_is_done(self):
        self.compare("FADE")
        self.register()
        shown = slicer.mrmlScene.GetNodeByID(self.sliceViews()[0].GetForegroundVolumeID())
        self.assertIn(shown, self.helpers())

    def test_cursor_is_read_in_plain_words(self):
        self.ui.readoutCheckBox.checked = True
        self.assertIn("Point at something", self.ui.readoutLabel.text)
        self.point(4.0, 4.0, 4.0)
        self.assertIn("moved 3.0 mm to get here: left 3.0.", self.ui.readoutLabel.text)
        self.point(500.0, 4.0, 4.0)
        self.assertIn("not known here", self.ui.readoutLabel.text)
        self.ui.readoutCheckBox.checked = False
        self.assertTrue(self.ui.readoutLabel.isHidden())

    def test_corresponding_point_is_marked_where_the_moving_volume_is_shown(self):
        self.sliceViews()[1].SetBackgroundVolumeID(self.moving.GetID())
        self.ui.readoutCheckBox.checked = True
        self.point(4.0, 4.0, 4.0)
        (mark,) = slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode")
        np.testing.assert_allclose(mark.GetNthControlPointPosition(0), (4.0 + SHIFT_MM, 4.0, 4.0), atol=1e-5)
        names = mark.GetDisplayNode().GetViewNodeIDs()
        self.assertEqual(list(names), [self.sliceNode(1).GetID()])

    def test_other_view_follows_if_that_is_wanted(self):
        self.sliceViews()[1].SetBackgroundVolumeID(self.moving.GetID())
        node = self.sliceNode(1)
        node.SetOrientation("Sagittal")
        self.ui.readoutCheckBox.checked = True
        self.ui.jumpCheckBox.checked = True
        self.point(4.0, 4.0, 4.0)
        self.assertAlmostEqual(node.GetSliceToRAS().GetElement(0, 3), 4.0 + SHIFT_MM, places=4)

    def test_point_of_the_moving_volume_is_found_in_the_fixed_one(self):
        self.sliceViews()[1].SetBackgroundVolumeID(self.moving.GetID())
        self.ui.readoutCheckBox.checked = True
        node = self.sliceNode(1)
        node.SetOrientation("Axial")
        node.JumpSliceByCentering(7.0, 4.0, 4.0)
        width, height, _depth = node.GetDimensions()
        self.crosshair.SetCursorPositionXYZ([width / 2, height / 2, 0], node)
        self.assertIn("left 3.0.", self.ui.readoutLabel.text)

    def sliceNode(self, index):
        """Return the node that says where a slice view lies."""
        return sys.modules["DeepAttentionRegLib.views.ViewStates"].sliceNodeOf(self.sliceViews()[index])
