"""A MRML scene on plain slicer-core, and slice views drawn off screen by Slicer's own displayable managers.

Stands in for the Slicer application in tests and in the demo: no Qt, no window, about 0.1 s a picture.
"""

import importlib.util
import sys
import types
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer
import slicer.util
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras
from slice_controller import SliceController

MODULE_LOGICS = {
    "Volumes": "vtkSlicerVolumesLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Models": "vtkSlicerModelsLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "Units": "vtkSlicerUnitsLogic",
}
SLICE_DISPLAYABLE_MANAGERS = (
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLTransformsDisplayableManager2D",
    "vtkMRMLColorLegendDisplayableManager",
)
LAYOUT_COLORS = {"Red": (0.95, 0.29, 0.25), "Yellow": (0.93, 0.84, 0.29), "Green": (0.43, 0.69, 0.29)}


def _provide_translation() -> None:
    """Put an identity `slicer.i18n` in place where the package has none, as slicer-core."""
    if importlib.util.find_spec("slicer.i18n") is None:
        module = types.ModuleType("slicer.i18n")
        module.tr = lambda text: text
        module.translate = lambda _context, text: text
        sys.modules["slicer.i18n"] = slicer.i18n = module


_provide_translation()


@dataclass(frozen=True)
class Application:
    """What the Slicer application would hold.

    Attributes:
        scene: The vtkMRMLScene, also `slicer.mrmlScene`.
        logic: Its vtkSlicerApplicationLogic.
        module_logics: Logic of each loadable module by module name.
    """

    scene: slicer.vtkMRMLScene
    logic: slicer.vtkSlicerApplicationLogic
    module_logics: dict[str, vtk.vtkObject]


def boot() -> Application:
    """Make the scene, its application logic and the module logics that register node classes and conversion rules."""
    scene = slicer.vtkMRMLScene()
    slicer.mrmlScene = scene
    logic = slicer.vtkSlicerApplicationLogic()
    logic.SetMRMLScene(scene)
    logic.SetSliceLogics(vtk.vtkCollection())
    logic.SetViewLogics(vtk.vtkCollection())
    logic.GetColorLogic().SetMRMLScene(scene)
    logic.GetColorLogic().AddDefaultColorNodes()
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    # The Colors module would do this, but it also wants the color files of an installed Slicer.
    scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
    module_logics = {}
    for name, class_name in MODULE_LOGICS.items():
        module_logic = getattr(slicer, class_name)()
        module_logic.SetMRMLApplicationLogic(logic)
        module_logic.SetMRMLScene(scene)
        logic.SetModuleLogic(name, module_logic)
        module_logics[name] = module_logic
    return Application(scene, logic, module_logics)


def add_volume(array: np.ndarray, geometry: Geometry, name: str) -> slicer.vtkMRMLScalarVolumeNode:
    """Add a volume of an array (k, j, i) on a grid to the scene."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, array)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(geometry.ijk_to_ras))
    node.CreateDefaultDisplayNodes()
    return node


def add_linear_volume(around: Geometry, slopeRas: np.ndarray, name: str) -> slicer.vtkMRMLScalarVolumeNode:
    """Add a larger volume on axes of its own, whose intensity changes linearly in RAS coordinates."""
    origin = np.array([-26.0, 29.0, -33.0]) + around.center_lps
    geometry = Geometry.from_arrays((40, 36, 44), (1.5, 1.5, 1.5), origin, (0, 1, 0, -1, 0, 0, 0, 0, 1))
    index = np.moveaxis(np.indices(geometry.shape), 0, -1)[..., ::-1].reshape(-1, 3)
    values = flip_lps_ras(geometry.index_to_lps(index)) @ slopeRas
    return add_volume(values.reshape(geometry.shape), geometry, name)


def scene_state(scene: slicer.vtkMRMLScene) -> str:
    """Return all nodes with all they hold as XML, which changes with the scene's content alone."""
    scene.SetSaveToXMLString(1)
    scene.Commit()
    scene.SetSaveToXMLString(0)
    return scene.GetSceneXMLString()


def save_and_reload(scene: slicer.vtkMRMLScene, folder: Path) -> None:
    """Save the scene as a bundle with all data, empty it and load the bundle."""
    bundle = folder / "bundle.mrb"
    scene.WriteToMRB(str(bundle))
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    scene.Clear(False)
    scene.SetURL(str(next(folder.glob("*/*.mrml"))))
    scene.Import()


class SliceView:
    """One slice view in an off-screen window."""

    def __init__(
        self,
        application: Application,
        name: str = "Red",
        orientation: str = "Axial",
        size: tuple[int, int] = (400, 400),
    ) -> None:
        """Make the view.

        Args:
            application: From `boot`.
            name: Layout name, such as "Red", "Yellow" or "Green".
            orientation: "Axial", "Sagittal" or "Coronal".
            size: Width and height, pixels.
        """
        self._size = size
        self._renderer = vtk.vtkRenderer()
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        self._window = self._make_window()
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLApplicationLogic(application.logic)
        application.logic.GetSliceLogics().AddItem(self._logic)
        self._logic.SetMRMLScene(application.scene)
        self.node = self._logic.AddSliceNode(name)
        self.node.SetOrientation(orientation)
        self.node.SetLayoutColor(*LAYOUT_COLORS.get(name, (1.0, 1.0, 1.0)))
        self.node.SetMappedInLayout(1)
        self._managers = self._make_displayable_managers(application)
        self._managers.SetMRMLDisplayableNode(self.node)
        self._controller = SliceController(self._logic)
        self._picture = self._make_picture()

    def _make_window(self) -> vtk.vtkRenderWindow:
        window = vtk.vtkRenderWindow()
        window.SetOffScreenRendering(1)
        window.SetMultiSamples(0)
        # The picture has a renderer of its own, as in Slicer: what is drawn over it blends with it.
        self._under = vtk.vtkRenderer()
        for layer, renderer in enumerate((self._under, self._renderer)):
            renderer.SetLayer(layer)
            window.AddRenderer(renderer)
        window.SetNumberOfLayers(2)
        window.SetSize(*self._size)
        self._interactor = vtk.vtkRenderWindowInteractor()
        self._interactor.SetRenderWindow(window)
        self._interactor.SetInteractorStyle(vtk.vtkInteractorStyleUser())
        self._interactor.Initialize()
        return window

    def _make_displayable_managers(self, application: Application) -> slicer.vtkMRMLDisplayableManagerGroup:
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(application.logic)
        for name in SLICE_DISPLAYABLE_MANAGERS:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        group = slicer.vtkMRMLDisplayableManagerGroup()
        group.SetRenderer(self._renderer)
        group.Initialize(factory, self._renderer)
        return group

    def _make_picture(self) -> vtk.vtkActor2D:
        """Return the actor that shows the blended slice: the work of Slicer's light box renderer manager."""
        mapper = vtk.vtkImageMapper()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        actor = vtk.vtkActor2D()
        actor.SetMapper(mapper)
        self._under.AddViewProp(actor)
        return actor

    def show(
        self,
        background: slicer.vtkMRMLVolumeNode | None,
        foreground: slicer.vtkMRMLVolumeNode | None = None,
        opacity: float = 0.5,
        label: slicer.vtkMRMLLabelMapVolumeNode | None = None,
    ) -> None:
        """Show volumes as a user does, fitted to the background; `opacity` is that of the foreground."""
        composite = self._logic.GetSliceCompositeNode()
        composite.SetBackgroundVolumeID(background.GetID() if background else None)
        composite.SetForegroundVolumeID(foreground.GetID() if foreground else None)
        composite.SetForegroundOpacity(opacity)
        composite.SetLabelVolumeID(label.GetID() if label else None)
        for legend in slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode", self.node.GetScene()):
            legend.Modified()  # after a user's choice, and not after a program's, views look at them anew
        self._logic.ResizeSliceNode(*self._size)
        self._logic.FitSliceToBackground()
        self._logic.SnapSliceOffsetToIJK()

    def jump(self, ras: tuple[float, float, float]) -> None:
        """Move the slice to the plane through a point (RAS, mm), keeping its center in view."""
        self.node.JumpSliceByOffsetting(*ras)

    def grab(self) -> np.ndarray:
        """Draw the view and return it as uint8 array (height, width, 3), first row at the top."""
        connection = self._logic.GetImageDataConnection()
        self._picture.GetMapper().SetInputConnection(connection)
        self._picture.SetVisibility(bool(connection))
        self._window.Render()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(self._window)
        grabber.ReadFrontBufferOff()
        grabber.Update()
        width, height, _ = grabber.GetOutput().GetDimensions()
        pixels = vtk_to_numpy(grabber.GetOutput().GetPointData().GetScalars())
        return pixels.reshape(height, width, -1)[::-1, :, :3].copy()
