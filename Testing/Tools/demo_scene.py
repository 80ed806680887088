"""The demo in a MRML scene: load a case, register it by the module's logic, save the scene, check that it reopens."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk

import mrml_scene
from DeepAttentionReg import DeepAttentionRegLogic
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.protocol.settings import Settings
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.geometry import flip_lps_ras
from DeepAttentionRegLib.evidence import Landmarks, SegmentNodes, Segments
from DeepAttentionRegLib.nodes import Deformation, Transforms, Volumes
from DeepAttentionRegLib.report import Report
from demo_case import DemoCase

# Okabe and Ito's colors, which the color-blind can tell apart.
SEGMENT_COLORS = ("E69F00", "56B4E9", "009E73", "F0E442", "0072B2", "D55E00", "CC79A7", "999999")
OUTLINE_PIXELS = 2
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")  # which slicer-core has no readers for


@dataclass
class LoadedCase:
    """The nodes of a case; None for what the case lacks.

    Attributes:
        fixed: Fixed volume.
        moving: Moving volume.
        optional: Segmentations and landmarks, by the argument of `DeepAttentionRegLogic.register`.
    """

    fixed: slicer.vtkMRMLScalarVolumeNode
    moving: slicer.vtkMRMLScalarVolumeNode
    optional: dict[str, slicer.vtkMRMLNode] = field(default_factory=dict)


def load(case: DemoCase) -> LoadedCase:
    """Put a case into `slicer.mrmlScene`, volumes by Slicer's own reader."""
    loaded = LoadedCase(_load_volume(case.fixed, "Fixed"), _load_volume(case.moving, "Moving"))
    if case.fixed_labels and case.moving_labels:
        for side, path in (("fixed", case.fixed_labels), ("moving", case.moving_labels)):
            name = f"{side.capitalize()} segmentation"
            loaded.optional[f"{side}Segmentation"] = _load_segmentation(case, path, name)
    if case.fixed_points and case.moving_points:
        for side, path in (("fixed", case.fixed_points), ("moving", case.moving_points)):
            loaded.optional[f"{side}Landmarks"] = _load_points(path, f"{side.capitalize()} landmarks")
    return loaded


def _load_volume(path: Path, name: str) -> slicer.vtkMRMLScalarVolumeNode:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        volume = images.read_volume(path)
        Volumes.fillVolume(node, Volumes.makeImage(volume.array), volume.geometry)
    else:
        _read_by_slicer(node, path)
    node.CreateDefaultDisplayNodes()
    return node


def _read_by_slicer(node: slicer.vtkMRMLScalarVolumeNode, path: Path) -> None:
    images.read_volume(path)  # explains what is wrong with a file, where Slicer's reader only fails
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(path.resolve()))
    storage.SetSingleFile(True)
    if not storage.ReadData(node):
        raise errors.EngineError(errors.INPUT_UNREADABLE, f"Slicer cannot read {path} as a volume.", "Use nrrd or nii.")
    node.SetAndObserveStorageNodeID(storage.GetID())


def _load_segmentation(case: DemoCase, path: Path, name: str) -> slicer.vtkMRMLSegmentationNode:
    labels = images.read_labels(path)
    descriptions = {}
    for number, value in enumerate(np.unique(labels.array[labels.array != 0]).tolist()):
        segment = slicer.vtkSegment()
        segment.SetName(case.label(value))
        color = SEGMENT_COLORS[number % len(SEGMENT_COLORS)]
        segment.SetColor(*(int(color[start : start + 2], 16) / 255 for start in (0, 2, 4)))
        descriptions[value] = segment
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.SetAndObserveSegmentation(Volumes.makeSegmentation(labels.array, labels.geometry, descriptions))
    node.CreateDefaultDisplayNodes()
    outline(node)
    return node


def outline(node: slicer.vtkMRMLSegmentationNode) -> None:
    """Have a segmentation drawn as thin outlines, once it is shown."""
    display = node.GetDisplayNode()
    display.SetVisibility2DFill(False)
    display.SetSliceIntersectionThickness(OUTLINE_PIXELS)
    display.SetVisibility(False)


def _load_points(path: Path, name: str) -> slicer.vtkMRMLMarkupsFiducialNode:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    for point in flip_lps_ras(images.read_points(path)):
        node.AddControlPoint(vtk.vtkVector3d(*point))
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetVisibility(False)
    return node


def register(loaded: LoadedCase, settings: Settings, on_progress: Callable[[Any], None]) -> Any:
    """Run the module's logic, as a script in Slicer would, and return its outcome."""
    options = {"settings": settings, **loaded.optional}
    return DeepAttentionRegLogic().register(loaded.fixed, loaded.moving, **options, wait=True, onProgress=on_progress)


def judge(loaded: LoadedCase, transform: slicer.vtkMRMLTransformNode, path: Path) -> None:
    """Compare segments and landmarks, as far as there are any, and write a report."""
    deformation, given = Deformation.ofTransform(transform), loaded.optional
    if "fixedSegmentation" in given:
        SegmentNodes.create(Segments.compare(deformation, given["fixedSegmentation"], given["movingSegmentation"]))
    if "fixedLandmarks" in given:
        Landmarks.create(Landmarks.measure(deformation, given["fixedLandmarks"], given["movingLandmarks"]))
    Report.write(deformation, path)


def save(folder: Path, outcome: Any) -> Path:
    """Write every node's data beside `scene.mrml`, so that the folder can be moved and opened in Slicer.

    Args:
        folder: Where to write.
        outcome: Of the registration; its nodes get the names of the engine's files, the others are called after their
            node.
    """
    file_names = {
        "transform.h5": outcome.transformNode,
        "warped.nrrd": outcome.warpedVolumeNode,
        "jacobian.nrrd": outcome.jacobianVolumeNode,
    }
    scene = slicer.mrmlScene
    chosen = {node.GetID(): name for name, node in file_names.items()}
    scene.SetRootDirectory(str(folder))
    scene.SetURL(str(folder / "scene.mrml"))
    for node in storable_nodes():
        storage = node.GetStorageNode()
        if storage is None:
            node.AddDefaultStorageNode()
            storage = node.GetStorageNode()
        extension = storage.GetDefaultWriteFileExtension()
        name = chosen.get(node.GetID()) or f"{re.sub('[^a-z0-9]+', '-', node.GetName().lower()).strip('-')}.{extension}"
        (folder / name).unlink(missing_ok=True)  # which the storage node would do too, but not silently
        storage.SetFileName(str(folder / name))
        storage.SetURI(None)
        if not storage.WriteData(node):
            raise errors.EngineError(errors.OUTPUT_UNWRITABLE, f"{name} cannot be written.", "Check the folder.")
    if not scene.Commit():
        raise errors.EngineError(errors.OUTPUT_UNWRITABLE, "The scene cannot be written.", "Check the folder.")
    return Path(scene.GetURL())


def storable_nodes() -> list[slicer.vtkMRMLStorableNode]:
    """Return the nodes of the scene that have data to save; those hidden from the user are saved with the scene."""
    return [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLStorableNode")
        if node.GetSaveWithScene() and not node.GetHideFromEditors() and not node.GetSingletonTag()
    ]


def check_reopens(path: Path, transform: slicer.vtkMRMLTransformNode, volume: slicer.vtkMRMLVolumeNode) -> str:
    """Open a saved scene afresh and say how it compares; replaces `slicer.mrmlScene`.

    Args:
        path: The saved scene.
        transform: A grid transform in it, as it was when saved.
        volume: A volume in it.

    Raises:
        EngineError: If nodes are missing or anything differs.
    """
    count = len(storable_nodes())
    names = transform.GetName(), volume.GetName()
    field_before, _ = Transforms.readGrid(transform)
    voxels_before = slicer.util.arrayFromVolume(volume).copy()
    application = mrml_scene.boot()
    scene = application.scene
    scene.SetURL(str(path))
    scene.SetRootDirectory(str(path.parent))
    opened = scene.Connect()
    nodes = [scene.GetFirstNodeByName(name) for name in names]
    if not opened or None in nodes or len(storable_nodes()) != count:
        raise errors.EngineError(errors.OUTPUT_UNWRITABLE, f"The scene {path} does not reopen.", "Report this.")
    field_after, _ = Transforms.readGrid(nodes[0])
    difference = float(np.abs(field_after - field_before).max())
    if difference > 0 or (slicer.util.arrayFromVolume(nodes[1]) != voxels_before).any():
        raise errors.EngineError(errors.OUTPUT_UNWRITABLE, f"The scene {path} changed when saved.", "Report this.")
    return f"{count} nodes with data; reopened, nothing has changed"
