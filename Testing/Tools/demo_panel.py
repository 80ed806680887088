"""Photograph the panel in all its states, light and dark, while the engine registers the phantom: part of `make demo`.

python Testing/Tools/demo_panel.py demo-output
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

TESTS = Path(__file__).resolve().parents[1] / "Python"
sys.path[:0] = [str(TESTS), str(TESTS / "support")]

WIDTH_PIXELS = 460
LEAST_HEIGHT_PIXELS = 300
TIMEOUT_S = 600.0
CORRECTION_RAS = ((40.0, 10.0, -20.0), (40.0, 10.0, -28.0))  # a place, and where the same is seen
# Roles of a palette and their colors in a dark theme.
DARK = {
    "Window": "#383838",
    "WindowText": "#ececec",
    "Base": "#1a1a1a",
    "AlternateBase": "#2e2e2e",
    "Text": "#ececec",
    "Button": "#464646",
    "ButtonText": "#ececec",
    "ToolTipBase": "#3c3c3c",
    "ToolTipText": "#ececec",
    "PlaceholderText": "#9a9a9a",
    "Link": "#6fb1f0",
    "Highlight": "#2f6ea8",
    "HighlightedText": "#ffffff",
}
DARK_DISABLED = {"WindowText": "#8c8c8c", "Text": "#8c8c8c", "ButtonText": "#8c8c8c"}


class Photographer:
    """Clicks through the panel as a user would, and takes pictures on the way."""

    def __init__(self, folder: Path) -> None:
        """Start the application; pictures go into a folder, which is made."""
        import gui_stand_ins

        self.application = gui_stand_ins.install()
        import qt
        import slicer

        import DeepAttentionRegLib

        self.qt, self.slicer, self.lib = qt, slicer, DeepAttentionRegLib
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.light = qt.QPalette(self.application.palette())
        self.dark = qt.QPalette(self.light)
        for role, color in DARK.items():
            self.dark.setColor(getattr(qt.QPalette, role), qt.QColor(color))
        for role, color in DARK_DISABLED.items():
            self.dark.setColor(qt.QPalette.Disabled, getattr(qt.QPalette, role), qt.QColor(color))

    def open(self) -> None:
        """Open the panel, which thereby looks for PyTorch anew."""
        self.application.mainWindow.selectModule("")
        self.application.mainWindow.selectModule("DeepAttentionReg")
        self.widget = self.slicer.util.getModuleWidget("DeepAttentionReg")
        self.ui = self.widget.ui

    def wait_until(self, condition: Callable[[], Any]) -> None:
        """Let the application work until something is the case."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            if time.monotonic() > deadline:
                msg = f"The panel still says: {self.ui.statusLabel.text}"
                raise RuntimeError(msg)
            self.application.processEvents()
            time.sleep(0.02)

    def shoot(self, state: str) -> None:
        """Write a light and a dark picture of the panel as it is now."""
        for name, palette in (("light", self.light), ("dark", self.dark)):
            self.application.setPalette(palette)
            self._write(f"{state}-{name}.png")
        self.application.setPalette(self.light)

    def shoot_high_resolution(self, state: str) -> None:
        """Write a picture as a screen with twice as many pixels shows it."""
        self._write(f"{state}-light-2x.png", 2)

    def _write(self, name: str, scale: int = 1) -> None:
        panel, window = self.widget.parent, self.application.mainWindow
        area = self.ui.sectionsScrollArea
        for _turn in range(8):  # layouts settle one inside the other, and how high a text is depends on its width
            missing = area.widget().minimumSizeHint().height() - area.viewport().height
            window.resize(WIDTH_PIXELS, max(LEAST_HEIGHT_PIXELS, window.height + missing))
            self.application.processEvents()
        picture = self.qt.QPixmap(panel.size * scale)
        picture.setDevicePixelRatio(scale)
        panel.render(picture)
        picture.save(str(self.folder / name))


def shoot_without_pytorch(camera: Photographer) -> None:
    """Show what a user finds after installing the extension alone."""
    install = camera.lib.Install
    text = "PyTorch, which computes the registration, is not installed yet."
    with mock.patch.object(install, "probe", return_value=install.Finding(install.State.MISSING, text)):
        camera.open()
        camera.shoot("install")


def shoot_sections(camera: Photographer) -> None:
    """Show what is folded at first."""
    folded = [widget for widget in vars(camera.ui).values() if getattr(widget, "collapsed", False) is True]
    for widget in folded:
        widget.collapsed = False
    camera.shoot("unfolded")
    for widget in folded:
        widget.collapsed = True


def shoot_steering(camera: Photographer, inputs: Any) -> None:
    """Show what steers a registration, and choose nothing of it in the end."""
    ui, parameters = camera.ui, camera.widget._parameterNode
    others = [ui.methodCollapsibleButton, ui.refinementCollapsibleButton, ui.outputsCollapsibleButton]
    before = [(widget, widget.collapsed) for widget in (*others, ui.optionalInputsGroupBox)]
    for widget in others:
        widget.collapsed = True
    ui.optionalInputsGroupBox.collapsed = False
    segmentations = {"fixedSegmentation": inputs.fixedSegmentation, "movingSegmentation": inputs.movingSegmentation}
    names = {"rigid": "Spine; Ribs *", "volumeKeeping": "Tumor", "sliding": "* lung"}
    for name, value in {**segmentations, **names, "guided": True}.items():
        setattr(parameters, name, value)
    camera.shoot("steer")
    for name, value in {**dict.fromkeys(segmentations), **dict.fromkeys(names, ""), "guided": False}.items():
        setattr(parameters, name, value)
    for widget, collapsed in before:
        widget.collapsed = collapsed


def shoot_correction(camera: Photographer) -> None:
    """Show the tool that corrects a result by hand, used once, and take the correction back."""
    ui, parameters = camera.ui, camera.widget._parameterNode
    ui.correctionGroupBox.collapsed = False
    ui.correctButton.click()
    selection = camera.slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSelectionNode")
    points = camera.slicer.mrmlScene.GetNodeByID(selection.GetActivePlaceNodeID())
    for place in CORRECTION_RAS:
        points.AddControlPoint(*place)
    camera.shoot("correct")
    ui.undoCorrectionButton.click()
    ui.correctionGroupBox.collapsed = True
    parameters.guided = False


def shoot_inspection(camera: Photographer) -> None:
    """Show the tools that judge a result, some of them used."""
    ui = camera.ui
    groups = [ui.viewsGroupBox, ui.mapsGroupBox, ui.landmarksGroupBox, ui.recursionsGroupBox]
    sections = [ui.inputsCollapsibleButton, ui.methodCollapsibleButton, ui.refinementCollapsibleButton]
    sections += [ui.outputsCollapsibleButton, ui.inspectionCollapsibleButton]
    before = [(widget, widget.collapsed) for widget in (*groups, *sections)]
    for widget in sections:
        widget.collapsed = widget is not ui.inspectionCollapsibleButton
    for widget in groups:
        widget.collapsed = False
    ui.jacobianMapButton.click()
    ui.measureLandmarksButton.click()
    camera.application.processEvents()
    camera.shoot("inspect")
    for widget in groups:
        widget.collapsed = True
    shoot_correction(camera)
    for widget, collapsed in before:
        widget.collapsed = collapsed


def small_grid() -> Any:
    """Return the grid of a phantom that is registered in seconds."""
    from DeepAttentionRegEngine.phantom import thorax

    return thorax.default_geometry((48, 40, 48), (7.0, 6.0, 7.0))


def shoot_registration(camera: Photographer) -> None:
    """Show the way from the empty scene to a result, and to an error."""
    camera.open()
    camera.wait_until(lambda: camera.widget.logic.speeds is not None)
    camera.shoot("empty")
    inputs = camera.lib.SampleCases.addPhantom(small_grid())
    camera.open()
    parameters = camera.widget._parameterNode
    parameters.fixedLandmarks, parameters.movingLandmarks = inputs.fixedLandmarks, inputs.movingLandmarks
    parameters.method = camera.lib.Parameters.MethodChoice("rman")
    parameters.inspectEvidence = True
    camera.shoot("ready")
    camera.shoot_high_resolution("ready")
    shoot_sections(camera)
    shoot_steering(camera, inputs)
    camera.ui.applyButton.click()
    camera.wait_until(lambda: camera.ui.progressBar.value >= 45 or not camera.widget.logic.isRunning)
    camera.shoot("running")
    camera.wait_until(lambda: not camera.widget.logic.isRunning)
    camera.shoot("done")
    shoot_inspection(camera)
    inputs.movingVolume.SetOrigin(5000.0, 0.0, 0.0)
    parameters.alignment = type(parameters.alignment)("none")
    camera.ui.applyButton.click()
    camera.wait_until(lambda: not camera.widget.logic.isRunning)
    camera.shoot("error")


def main(output: Path) -> int:
    """Write the pictures to the folder "panel" of an output folder and return the exit code."""
    try:
        import slicer  # noqa: F401
        from PySide6 import QtWidgets  # noqa: F401
    except ImportError as error:
        print(f"No pictures of the panel, which need slicer-core and PySide6: {error}.", flush=True)
        return 0
    folder = output.resolve() / "panel"
    camera = Photographer(folder)
    shoot_without_pytorch(camera)
    shoot_registration(camera)
    camera.widget.cleanup()
    print(f"Pictures of the panel: {folder}", flush=True)
    return 0


if __name__ == "__main__":
    code = main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-output"))
    os._exit(code)  # as __main__.py of the stand-ins does
