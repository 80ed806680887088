"""Deformations and what they are judged by, shared by the tests of the inspection."""

import numpy as np
import slicer

import mrml_scene
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegLib.nodes import Deformation, Transforms, Volumes

GRAY = 128


def add_deformation(geometry: Geometry, displacement_lps_mm: np.ndarray) -> Deformation.Deformation:
    """Add two gray volumes, CT1 and CT2, on a grid and a deformation (k, j, i, 3) in LPS mm between them."""
    gray = np.full(geometry.shape, GRAY, np.uint8)
    fixed, moving = (mrml_scene.add_volume(gray, geometry, name) for name in ("CT1", "CT2"))
    for node in (fixed, moving):
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevelMinMax(0, 255)
    transform = Transforms.makeGridTransform(displacement_lps_mm.astype(np.float32), geometry)
    node = Transforms.createGridTransform(transform, "CT2 to CT1", fixed, moving)
    return Deformation.ofTransform(node)


def shift(geometry: Geometry, voxels_ijk: tuple[float, float, float]) -> np.ndarray:
    """Return the displacement (k, j, i, 3) in LPS mm by so many voxels everywhere."""
    vector = geometry.ijk_to_lps[:3, :3] @ np.array(voxels_ijk, float)
    return np.broadcast_to(vector, (*geometry.shape, 3)).copy()


def box(geometry: Geometry, first_ijk: tuple[int, int, int], size_ijk: tuple[int, int, int]) -> np.ndarray:
    """Return a box of voxels as mask (k, j, i)."""
    mask = np.zeros(geometry.shape, bool)
    mask[tuple(slice(start, start + n) for start, n in zip(first_ijk[::-1], size_ijk[::-1], strict=True))] = True
    return mask


def add_segments(
    volume: slicer.vtkMRMLScalarVolumeNode, masks: dict[str, np.ndarray], name: str = "Organs"
) -> slicer.vtkMRMLSegmentationNode:
    """Add segments of masks (k, j, i) on the grid of a volume, each in a label map of its own, so that they overlap."""
    geometry = Volumes.geometryOf(volume, np.eye(4))
    segmentation = slicer.vtkSegmentation()
    segmentation.SetSourceRepresentationName(Volumes.BINARY_LABELMAP)
    for title, mask in masks.items():
        description = slicer.vtkSegment()
        description.SetName(title)
        made = Volumes.makeSegmentation(mask.astype(np.uint8), geometry, {1: description})
        segmentation.AddSegment(made.GetNthSegment(0), title)
    return Volumes.createSegmentation(segmentation, name, volume)


def add_labels(volume: slicer.vtkMRMLScalarVolumeNode, labels: np.ndarray) -> slicer.vtkMRMLLabelMapVolumeNode:
    """Add a label map volume (k, j, i) on the grid of a volume."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
    Volumes.fillVolume(node, Volumes.makeImage(labels.astype(np.uint8)), Volumes.geometryOf(volume, np.eye(4)))
    node.CreateDefaultDisplayNodes()
    return node


def rows_of(node: slicer.vtkMRMLTableNode) -> list[dict[str, object]]:
    """Return the rows of a table, each by the names of its columns."""
    table = node.GetTable()
    names = [table.GetColumnName(column) for column in range(table.GetNumberOfColumns())]
    rows = []
    for row in range(table.GetNumberOfRows()):
        cells = [table.GetValue(row, column) for column in range(len(names))]
        values = [cell.ToDouble() if cell.IsNumeric() else cell.ToString() for cell in cells]
        rows.append(dict(zip(names, values, strict=True)))
    return rows
