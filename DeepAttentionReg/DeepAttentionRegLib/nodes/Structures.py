"""The structures that the network of a registration tells apart, from files to nodes.

They become a segmentation each of the fixed, the moving and the warped moving volume, which the transform of the
registration knows (Record.py) as "StructuresFixed", "StructuresMoving" and "StructuresWarped", and a table of segments
(SegmentTable.py). All of them are marked as predicted, which goes with them wherever they are compared or told of.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import contract
from DeepAttentionRegEngine.protocol.reporting import Pause, no_pause
from DeepAttentionRegEngine.protocol.result_files import STRUCTURE_FILES
from DeepAttentionRegEngine.volume import fields, metrics
from DeepAttentionRegEngine.volume.segment_pairs import Segment
from DeepAttentionRegEngine.volume.segments import as_segments

from . import Record, SegmentTable, Volumes

FIXED, MOVING, WARPED = "fixed", "moving", "warped"
PREDICTED_ATTRIBUTE = "DeepAttentionReg.Predicted"


def note() -> str:
    """Return the sentence on what the agreement of such structures is worth."""
    return _(
        "These structures are predicted by the same network that steered the registration, and prove nothing by"
        " themselves."
    )


@dataclass(frozen=True)
class LoadedStructures:
    """What the engine found, in no scene yet.

    :param segmentations: by side, "fixed", "moving" and "warped"; a side without any structure is left out.
    :param table: a row for each structure; None unless both volumes show some.
    """

    segmentations: dict[str, slicer.vtkSegmentation]
    table: vtk.vtkTable | None


def read(result: contract.Result, start: np.ndarray, pause: Pause = no_pause) -> LoadedStructures:
    """Read the structures of a job that was asked for them.

    :param result: of the job.
    :param start: 4x4 RAS, from the world to where the moving volume's own coordinates were at the start.
    :param pause: called between the files.
    :raises EngineError: if a file cannot be read.
    """
    folder, segmentations = Path(result.outputs["structures"]).parent, {}
    for side, file in STRUCTURE_FILES.items():
        if (folder / file).is_file():
            pause()
            found = as_segments(folder / file)
            segmentations[side] = Volumes.makeLayers(found, {item.value: _describe(item) for item in found.items})
    values = result.values["structures"]
    scale = abs(float(np.linalg.det(start[:3, :3])))
    return LoadedStructures(segmentations, _makeTable(values, scale) if "after" in values else None)


def _describe(item: Segment) -> slicer.vtkSegment:
    """Return an empty segment with the name and color of a structure."""
    segment = slicer.vtkSegment()
    segment.SetName(item.title)
    if "Color" in item.details:
        segment.SetColor(*map(float, item.details["Color"].split()))
    return segment


def _makeTable(values: dict[str, Any], scale: float) -> vtk.vtkTable:
    """Return the table of what the engine measured.

    :param values: "structures" of its result.
    :param scale: how many times as large the moving volume is in its own coordinates as in the world.
    """
    rows = []
    for name, volumes in values["volume_ml"].items():
        warpedMl = {SegmentTable.AFTER: volumes.get(WARPED, 0.0)}
        scores = {
            state: metrics.Agreement(
                _number(values[state]["dice"].get(name)),
                _number(values[state]["hd95_mm"].get(name)),
                _number(values[state]["assd_mm"].get(name)),
                warpedMl.get(state, math.nan),
            )
            for state in SegmentTable.STATES
        }
        jacobian = values["jacobian"].get(name)
        summary = None if jacobian is None else contract.build(fields.JacobianSummary, jacobian)
        movingMl = volumes.get(MOVING, 0.0) / scale
        rows.append(SegmentTable.MeasuredSegment(name, volumes.get(FIXED, 0.0), movingMl, scores, summary, scale))
    return SegmentTable.make(rows)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def commit(
    material: LoadedStructures,
    transformNode: slicer.vtkMRMLTransformNode,
    fixed: slicer.vtkMRMLScalarVolumeNode,
    moving: slicer.vtkMRMLScalarVolumeNode,
) -> dict[str, slicer.vtkMRMLSegmentationNode]:
    """Add the nodes to the scene, and let the transform of the registration know them; only the warped ones are shown.

    :return: the segmentations by side.
    """
    name, nodes = transformNode.GetName(), {}
    texts = {
        FIXED: _("{name} structures, fixed"),
        MOVING: _("{name} structures, moving"),
        WARPED: _("{name} structures, warped"),
    }
    for side, segmentation in material.segmentations.items():
        volume = moving if side == MOVING else fixed
        node = Volumes.createSegmentation(segmentation, texts[side].format(name=name), volume)
        if side == MOVING:  # whose coordinates are those below its parent
            node.SetAndObserveTransformNodeID(moving.GetTransformNodeID())
        node.GetDisplayNode().SetVisibility(side == WARPED)
        mark(node, isPredicted=True)
        Record.attach(transformNode, _roleOf(side), node)
        nodes[side] = node
    if material.table is not None:
        table = SegmentTable.put(material.table, _("{name} segments").format(name=name), [note()])
        mark(table, isPredicted=True)
        Record.attach(transformNode, SegmentTable.ROLE, table)
    return nodes


def _roleOf(side: str) -> str:
    return f"Structures{side.capitalize()}"


def mark(node: slicer.vtkMRMLNode, *, isPredicted: bool) -> None:
    """Let a node tell whether what it holds was predicted by a network or made from what was."""
    node.SetAttribute(PREDICTED_ATTRIBUTE, "1" if isPredicted else None)


def arePredicted(nodes: Iterable[slicer.vtkMRMLNode | None]) -> bool:
    """Return whether any of these nodes holds what was predicted."""
    return any(node is not None and node.GetAttribute(PREDICTED_ATTRIBUTE) for node in nodes)


def tell(nodes: Iterable[slicer.vtkMRMLNode | None]) -> list[str]:
    """Return the sentence on what that is worth, if any of these nodes holds what was predicted."""
    return [note()] if arePredicted(nodes) else []


def pairOf(
    transformNode: slicer.vtkMRMLTransformNode,
) -> tuple[slicer.vtkMRMLSegmentationNode | None, slicer.vtkMRMLSegmentationNode | None]:
    """Return the structures of the fixed and of the moving volume that a transform knows."""
    return Record.attached(transformNode, _roleOf(FIXED)), Record.attached(transformNode, _roleOf(MOVING))
