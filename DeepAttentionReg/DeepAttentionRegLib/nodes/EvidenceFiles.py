"""What a registration leaves behind besides its result, from files to nodes.

RecursionEvidence.py gives access to the nodes.

All become nodes that are saved with the scene, and which the transform of the registration knows (Record.py):

- "Recursions": a sequence of grid transforms, one for each step. Step 0 is the alignment alone, step k that after
  recursion k; the last one is the result, where that is another field. A browser of the sequence says which is shown.
- "RecursionsTable": similarity and share of folded voxels by step.
- "Map1", ...: sequences of scalar volumes, one for each map that the network made, by recursion.
- "Query1", "Key1", ...: the same of cross-attention. Slicer stores one or three values a voxel alone, so that the
  values of a token are not components but volumes on the grid of the tokens, one behind the other along k.
- "Gaussians": a table, one row for each local deformation.

Fields are on a coarser grid where theirs is large, so that 50 steps fit into memory.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import contract, registry
from DeepAttentionRegEngine.protocol.quality import resolve
from DeepAttentionRegEngine.protocol.reporting import Pause, no_pause
from DeepAttentionRegEngine.protocol.settings import Settings
from DeepAttentionRegEngine.volume import fields, images, recursions
from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras

from . import Record, Transforms, Volumes

LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
STEP_VOXELS, ALL_VOXELS = 2**20, 2**24
STEPS, TABLE, GAUSSIANS, MAP, QUERY, KEY = "Recursions", "RecursionsTable", "Gaussians", "Map", "Query", "Key"
# Attributes of sequences.
COUNT, NAME, IMAGE, HEADS, TOKENS = (
    f"DeepAttentionReg.{name}" for name in ("Count", "Name", "Image", "Heads", "Tokens")
)
AXES = 3


def stepVoxels(settings: Settings, axes: int) -> int:
    """Return how many voxels the field of a step may have.

    :param settings: of a method with recursions.
    :param axes: of the images: 2 of single slices, 3 of volumes.
    :raises EngineError: if the method or its weights cannot be read.
    """
    method = registry.load_method(settings.method)
    variant = registry.find_variant(method, axes, settings.weights)
    count = settings.recursions or resolve(settings, method, variant).recursions or 0
    return min(STEP_VOXELS, ALL_VOXELS // (count + 2))


@dataclass(frozen=True)
class LoadedEvidence:
    """Nodes that are in no scene yet.

    :param steps: the sequence of fields.
    :param table: similarity and folds.
    :param sequences: maps and attention, by role.
    :param gaussians: the local deformations; None if there are none.
    """

    steps: slicer.vtkMRMLSequenceNode
    table: vtk.vtkTable
    sequences: dict[str, slicer.vtkMRMLSequenceNode] = field(default_factory=dict)
    gaussians: vtk.vtkTable | None = None


def read(
    result: contract.Result, displacementLps: np.ndarray, geometry: Geometry, pause: Pause = no_pause
) -> LoadedEvidence:
    """Read what a job left behind.

    :param result: of the job.
    :param displacementLps: the field that was found, (k, j, i, 3) LPS mm.
    :param geometry: its grid.
    :param pause: called between the files.
    :raises EngineError: if a file cannot be read.
    """
    path = result.outputs.get("recursions")
    if path is None:
        return _withoutRecursions(result, displacementLps, geometry, pause)
    folder = Path(path).parent
    index = recursions.read_index(folder)
    found = []
    for step in index.recursions:
        pause()
        found.append(images.read_displacement(folder / step.displacement))
    grid = found[0][1] if found else geometry.coarsened(STEP_VOXELS)
    arrays = [_linearField(index.alignment, grid), *(array for array, _grid in found)]
    similarity = [_first(result.values.get("similarity")), *(step.similarity for step in index.recursions)]
    folds = [0.0, *(step.fold_percent for step in index.recursions)]
    if "refined_similarity" in result.values or not similarity[-1] >= similarity[0]:
        arrays.append(fields.resize(displacementLps, geometry, grid, pause))
        similarity.append(result.values.get("refined_similarity", similarity[0]))
        folds.append(_foldsOf(result))
    return LoadedEvidence(
        _makeSteps(arrays, grid, index.method, len(found)),
        _makeTable(similarity, folds),
        {**readMaps(folder, index), **_readAttention(folder, index)},
        _makeGaussians(index) if any(step.gaussians for step in index.recursions) else None,
    )


def _withoutRecursions(
    result: contract.Result, displacementLps: np.ndarray, geometry: Geometry, pause: Pause
) -> LoadedEvidence:
    """Return the two steps of a refinement without a method."""
    grid = geometry.coarsened(STEP_VOXELS)
    aligned = _linearField(np.reshape(result.values["alignment"], (4, 4)), grid)
    arrays = [aligned, fields.resize(displacementLps, geometry, grid, pause)]
    similarity = [np.nan, result.values.get("refined_similarity", np.nan)]
    steps = _makeSteps(arrays, grid, contract.METHOD_NONE, 0)
    return LoadedEvidence(steps, _makeTable(similarity, [0.0, _foldsOf(result)]))


def _first(values: list[float] | None) -> float:
    return values[0] if values else np.nan


def _foldsOf(result: contract.Result) -> float:
    return result.values.get("jacobian", {}).get("fold_percent", np.nan)


def _linearField(matrixLps: np.ndarray, grid: Geometry) -> np.ndarray:
    """Return the field (k, j, i, 3) of a linear map."""
    result = np.empty((*grid.shape, 3), np.float32)
    for slab, points in fields.grid_slabs(grid):
        moved = points @ (matrixLps[:3, :3] - np.eye(3)).T + matrixLps[:3, 3]
        result[slab] = moved.reshape(result[slab].shape)
    return result


def _makeSequence(name: str, indexName: str) -> slicer.vtkMRMLSequenceNode:
    sequence = slicer.vtkMRMLSequenceNode()
    sequence.SetName(name)
    sequence.SetIndexName(indexName)
    sequence.SetIndexUnit("")
    return sequence


def _makeSteps(arrays: list[np.ndarray], grid: Geometry, method: str, count: int) -> slicer.vtkMRMLSequenceNode:
    unit = "" if method == contract.METHOD_NONE else registry.load_method(method).recursions.unit
    sequence = _makeSequence(_("steps"), unit)
    sequence.SetAttribute(COUNT, str(count))
    for step, array in enumerate(arrays):
        transform = Transforms.makeGridTransform(array, grid)
        # Three times as fast as cubic, which shows; and what Slicer sets when it reads a sequence of fields.
        transform.SetInterpolationModeToLinear()
        node = slicer.vtkMRMLTransformNode()
        node.SetAndObserveTransformFromParent(transform)
        sequence.SetDataNodeAtValue(node, str(step))
    return sequence


def _makeTable(similarity: list[float], folds: list[float]) -> vtk.vtkTable:
    return makeTable({_("Step"): range(len(folds)), _("Similarity"): similarity, _("Folded voxels (%)"): folds})


def makeTable(columns: dict[str, Any]) -> vtk.vtkTable:
    """Return a table of numbers.

    :param columns: numbers by the name of their column.
    """
    table = vtk.vtkTable()
    for name, numbers in columns.items():
        column = vtk.vtkDoubleArray()
        column.SetName(name)
        for number in numbers:
            column.InsertNextValue(float(number))
        table.AddColumn(column)
    return table


def _addFrame(sequence: slicer.vtkMRMLSequenceNode, number: int, array: np.ndarray, ijkToRas: np.ndarray) -> None:
    """Put a volume (k, j, i) into a sequence as that of a recursion, counted from 1."""
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijkToRas))
    node.SetAndObserveImageData(Volumes.makeImage(array.astype(np.float32, copy=False)))
    sequence.SetDataNodeAtValue(node, str(number))


def readMaps(folder: Path, index: recursions.Index) -> dict[str, slicer.vtkMRMLSequenceNode]:
    """Return the maps; those of the moving volume in its own coordinates, to which the alignment leads."""
    sequences: dict[tuple[str, str], slicer.vtkMRMLSequenceNode] = {}
    for number, step in enumerate(index.recursions, start=1):
        for entry in step.maps:
            key = entry["name"], entry["image"]
            if key not in sequences:
                sequences[key] = _makeSequence(f"{entry['name']} ({entry['image']})", "recursion")
                sequences[key].SetAttribute(NAME, entry["name"])
                sequences[key].SetAttribute(IMAGE, entry["image"])
            volume = images.read_volume(folder / entry["file"])
            toMoving = index.alignment if entry["image"] == "moving" else np.eye(4)
            _addFrame(sequences[key], number, volume.array, LPS_RAS @ toMoving @ volume.geometry.ijk_to_lps)
    return {f"{MAP}{number}": sequence for number, sequence in enumerate(sequences.values(), start=1)}


def _readAttention(folder: Path, index: recursions.Index) -> dict[str, slicer.vtkMRMLSequenceNode]:
    """Return queries and keys by role."""
    names: list[str] = []
    sequences: dict[str, slicer.vtkMRMLSequenceNode] = {}
    for number, step in enumerate(index.recursions, start=1):
        for entry in step.attention:
            if entry["name"] not in names:
                names.append(entry["name"])
            attention = recursions.read_attention(folder / entry["file"])
            layer = names.index(entry["name"]) + 1
            parts = {
                QUERY: (attention.query, attention.query_grid(index.grid)),
                KEY: (attention.key, attention.key_grid(index.grid)),
            }
            for role, (tokens, grid) in parts.items():
                sequence = sequences.setdefault(f"{role}{layer}", _makeSequence(f"{role} {entry['name']}", "recursion"))
                sequence.SetAttribute(NAME, entry["name"])
                sequence.SetAttribute(HEADS, str(len(tokens)))
                sequence.SetAttribute(TOKENS, str(grid.size[2]))
                _addFrame(sequence, number, stacked(tokens, grid), grid.ijk_to_ras)
    return sequences


def stacked(tokens: np.ndarray, grid: Geometry) -> np.ndarray:
    """Return tokens (heads, n, d) as one volume (heads * d * k, j, i)."""
    return tokens.transpose(0, 2, 1).reshape(-1, *grid.shape[1:])


def unstacked(volume: np.ndarray, heads: int, slices: int) -> np.ndarray:
    """Return the tokens (heads, n, d) that `stacked` put into a volume.

    :param slices: tokens along k.
    """
    return volume.reshape(heads, -1, slices * volume.shape[1] * volume.shape[2]).transpose(0, 2, 1)


def _makeGaussians(index: recursions.Index) -> vtk.vtkTable:
    """Return the local deformations as a table: step, then in RAS and mm center, axes, deviations and vector.

    Those of a slice lack a third axis; its deviation is 0.
    """
    rows = []
    for number, step in enumerate(index.recursions, start=1):
        for entry in step.gaussians:
            axes, sigma = np.zeros((AXES, 3)), np.zeros(AXES)
            axes[: len(entry["axes_lps"])] = entry["axes_lps"]
            sigma[: len(entry["sigma_mm"])] = entry["sigma_mm"]
            vectors = flip_lps_ras(np.array([entry["center_lps"], *axes, entry["vector_lps"]]))
            rows.append([number, *vectors[:-1].ravel(), *sigma, *vectors[-1]])
    names = ["Step", *(f"{part} {axis}" for part in ("Center", "Axis1", "Axis2", "Axis3") for axis in "RAS")]
    names += ["Sigma1", "Sigma2", "Sigma3", "Vector R", "Vector A", "Vector S"]
    return makeTable(dict(zip(names, np.transpose(rows), strict=True)))


def commit(material: LoadedEvidence, transformNode: slicer.vtkMRMLTransformNode) -> None:
    """Add the nodes to the scene and let the transform of the registration know them."""
    scene, name = slicer.mrmlScene, transformNode.GetName()
    for role, sequence in {STEPS: material.steps, **material.sequences}.items():
        sequence.SetName(f"{name} {sequence.GetName()}")
        Record.attach(transformNode, role, scene.AddNode(sequence))
    tables = {TABLE: (_("steps table"), material.table), GAUSSIANS: (_("Gaussians"), material.gaussians)}
    for role, (title, table) in tables.items():
        if table is not None:
            node = scene.AddNewNodeByClass("vtkMRMLTableNode", f"{name} {title}")
            node.SetAndObserveTable(table)
            node.SetUseColumnTitleAsColumnHeader(True)
            Record.attach(transformNode, role, node)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", f"{name} {_('browser')}")
    browser.AddSynchronizedSequenceNode(material.steps)
    browser.SetPlaybackRateFps(2.0)
    browser.SetSelectedItemNumber(material.steps.GetNumberOfDataNodes() - 1)
    shown = browser.GetProxyNode(material.steps)
    for role in (shown.GetFixedNodeReferenceRole(), shown.GetMovingNodeReferenceRole()):
        shown.SetNodeReferenceID(role, transformNode.GetNodeReferenceID(role))
