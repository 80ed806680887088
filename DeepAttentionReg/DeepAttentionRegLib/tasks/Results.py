"""What the engine found as nodes of the scene: all of them or, if anything goes wrong, none."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import slicer
import vtk

from DeepAttentionRegEngine.protocol import contract
from DeepAttentionRegEngine.protocol.reporting import Pause, no_pause
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegEngine.volume.segments import as_segments

from ..nodes import EvidenceFiles, Metrics, Overlays, Record, Structures, Transforms, Volumes

WARPED_ATTRIBUTE = "DeepAttentionReg.Warped"  # of the segmentations of results


@dataclass(frozen=True)
class OutputNodes:
    """Existing nodes to write into; None adds a node."""

    transformNode: slicer.vtkMRMLTransformNode | None = None
    warpedVolumeNode: slicer.vtkMRMLScalarVolumeNode | None = None
    jacobianVolumeNode: slicer.vtkMRMLScalarVolumeNode | None = None
    errorVolumeNode: slicer.vtkMRMLScalarVolumeNode | None = None
    warpedSegmentationNode: slicer.vtkMRMLSegmentationNode | None = None
    tableNode: slicer.vtkMRMLTableNode | None = None


@dataclass(frozen=True)
class Outcome:
    """Nodes and numbers of a finished registration.

    :param transformNode: grid transform that moves the moving volume onto the fixed one; it replaces any linear
        transform the moving volume is under. Its grid covers the fixed volume, and need not be that of its voxels.
    :param warpedVolumeNode: moving volume on the fixed grid.
    :param jacobianVolumeNode: Jacobian determinant on the fixed grid, colored.
    :param errorVolumeNode: mm within which the true displacement lies with 95 % probability, on a coarser grid over the
        fixed volume; None where that is not known, which `values["expected_error"]` of the result explains.
    :param warpedSegmentationNode: moving segmentation on the fixed grid; None without one.
    :param tableNode: measures before and after.
    :param stepsNode: the deformation after every recursion, if that was to be kept; see RecursionEvidence.py.
    :param structureNodes: the structures that the network tells apart, by "fixed", "moving" and "warped", as far as
        they were to be kept and there are any; see Structures.py.
    :param result: what the engine said.
    """

    transformNode: slicer.vtkMRMLTransformNode
    warpedVolumeNode: slicer.vtkMRMLScalarVolumeNode
    jacobianVolumeNode: slicer.vtkMRMLScalarVolumeNode
    errorVolumeNode: slicer.vtkMRMLScalarVolumeNode | None
    warpedSegmentationNode: slicer.vtkMRMLSegmentationNode | None
    tableNode: slicer.vtkMRMLTableNode
    stepsNode: slicer.vtkMRMLSequenceNode | None
    structureNodes: dict[str, slicer.vtkMRMLSegmentationNode]
    result: contract.Result


class NodeReference:
    """A node that may be removed, also by closing the scene, after which another one may get its id."""

    def __init__(self, node: slicer.vtkMRMLNode | None) -> None:
        self._reference = vtk.vtkWeakReference()
        self._reference.Set(node)

    def get(self) -> slicer.vtkMRMLNode | None:
        """Return the node if it is still in the scene."""
        node = self._reference.Get()
        return node if node is not None and node.GetScene() is slicer.mrmlScene else None


@dataclass
class Case:
    """What has to be known of the nodes after the engine has run, when they may be gone."""

    fixed: NodeReference
    moving: NodeReference
    outputs: dict[str, NodeReference]
    name: str
    geometry: Geometry  # of the fixed volume
    segments: dict[str, dict[int, slicer.vtkSegment]] = field(default_factory=dict)
    labelNames: dict[str, str] = field(default_factory=dict)
    record: Record.Record = field(default_factory=Record.Record)
    movingSegmentation: NodeReference = field(default_factory=lambda: NodeReference(None))

    @property
    def start(self) -> np.ndarray:
        """The 4x4 RAS matrix from world to moving coordinates where the registration started."""
        return np.eye(4) if self.record.start is None else np.reshape(self.record.start, (4, 4))


@dataclass(frozen=True)
class LoadedResult:
    """The engine's output as data that is in no scene yet."""

    transform: slicer.vtkOrientedGridTransform
    warped: vtk.vtkImageData
    jacobian: np.ndarray
    error: images.Volume | None
    segmentation: slicer.vtkSegmentation | None
    table: vtk.vtkTable
    evidence: EvidenceFiles.LoadedEvidence | None
    structures: Structures.LoadedStructures | None
    result: contract.Result


def read(result: contract.Result, case: Case, *, withEvidence: bool, pause: Pause = no_pause) -> LoadedResult:
    """Read the engine's files.

    :param result: names the files.
    :param case: from the time of the export.
    :param withEvidence: also read what recursions left behind.
    :param pause: called between the files.
    :raises EngineError: if a file cannot be read.
    """
    displacement, grid = images.read_displacement(result.outputs["transform"])
    pause()
    transform = Transforms.makeGridTransform(displacement, grid)
    pause()
    segmentation = None
    if "warped_labels" in result.outputs:
        segmentation = Volumes.makeLayers(as_segments(result.outputs["warped_labels"]), case.segments["moving"])
        pause()
    return LoadedResult(
        transform=transform,
        warped=Volumes.makeImage(images.read_volume(result.outputs["warped"]).array),
        jacobian=images.read_volume(result.outputs["jacobian"]).array,
        error=images.read_volume(result.outputs["error"]) if "error" in result.outputs else None,
        segmentation=segmentation,
        table=Metrics.makeTable(result.values, case.labelNames),
        evidence=EvidenceFiles.read(result, displacement, grid, pause) if withEvidence else None,
        structures=Structures.read(result, case.start, pause) if "structures" in result.outputs else None,
        result=result,
    )


def commit(material: LoadedResult, case: Case) -> Outcome:
    """Put the result into the scene: all of it or, if something goes wrong, nothing.

    :param material: from `read`.
    :param case: its volumes are still there.
    """
    fixed, moving = case.fixed.get(), case.moving.get()
    name = slicer.mrmlScene.GenerateUniqueName(case.name)
    nodes = _outputsOf(case)
    with allOrNothing(nodes.values()):
        outcome = Outcome(
            transformNode=Transforms.createGridTransform(
                material.transform, name, fixed, moving, nodes["transformNode"]
            ),
            warpedVolumeNode=Volumes.createVolume(
                material.warped, case.geometry, f"{name} volume", moving, nodes["warpedVolumeNode"]
            ),
            jacobianVolumeNode=Overlays.createMap(
                Overlays.Map.JACOBIAN,
                material.jacobian,
                case.geometry,
                f"{name} Jacobian",
                nodes["jacobianVolumeNode"],
            ),
            errorVolumeNode=_createError(material.error, f"{name} error", nodes["errorVolumeNode"]),
            warpedSegmentationNode=material.segmentation
            and Volumes.createSegmentation(
                material.segmentation,
                f"{name} segmentation",
                fixed,
                nodes["warpedSegmentationNode"],
                case.movingSegmentation.get(),
            ),
            tableNode=Metrics.createTable(material.table, f"{name} metrics", nodes["tableNode"]),
            stepsNode=material.evidence and material.evidence.steps,
            structureNodes={},
            result=material.result,
        )
        _remember(outcome, case)
        if material.evidence is not None:
            EvidenceFiles.commit(material.evidence, outcome.transformNode)
        if material.structures is not None:
            found = Structures.commit(material.structures, outcome.transformNode, fixed, moving)
            outcome.structureNodes.update(found)
        for node in (outcome.warpedSegmentationNode, outcome.structureNodes.get(Structures.WARPED)):
            if node is not None:
                node.SetAttribute(WARPED_ATTRIBUTE, "1")
    if outcome.errorVolumeNode is None:
        _removeFormer(nodes["errorVolumeNode"], case)
    return outcome


def _removeFormer(error: slicer.vtkMRMLScalarVolumeNode | None, case: Case) -> None:
    """Remove the map that stands for what the transform was before, unless the user chose the node."""
    if error is not None and error is not case.outputs["errorVolumeNode"].get():
        slicer.mrmlScene.RemoveNode(error)


def _outputsOf(case: Case) -> dict[str, slicer.vtkMRMLNode | None]:
    """Return the nodes to write into by role, among them the map of the error that the transform has from before."""
    nodes = {role: reference.get() for role, reference in case.outputs.items()}
    transform = nodes["transformNode"]
    former = transform and Record.attached(transform, Overlays.Map.ERROR.value)
    used = (case.fixed.get(), case.moving.get(), *nodes.values())
    if nodes["errorVolumeNode"] is None and all(former is not node for node in used):
        nodes["errorVolumeNode"] = former
    return nodes


def _createError(
    error: images.Volume | None, name: str, node: slicer.vtkMRMLScalarVolumeNode | None
) -> slicer.vtkMRMLScalarVolumeNode | None:
    """Put the map of the error, on its own grid, into a node; None where the error is not known."""
    return error and Overlays.createMap(Overlays.Map.ERROR, error.array, error.geometry, name, node)


def _remember(outcome: Outcome, case: Case) -> None:
    """Let the transform know how it was made, and the nodes that judge it."""
    transform, result = outcome.transformNode, outcome.result
    # What the quality meant here is what another run has to repeat.
    settings = result.values.get("settings", case.record.settings)
    record = replace(case.record, settings=settings, values=result.values, warnings=result.warnings)
    Record.remember(transform, record)
    Record.attach(transform, "Metrics", outcome.tableNode)
    Record.attach(transform, Overlays.Map.JACOBIAN.value, outcome.jacobianVolumeNode)
    if outcome.errorVolumeNode is not None:
        Record.attach(transform, Overlays.Map.ERROR.value, outcome.errorVolumeNode)


@contextmanager
def allOrNothing(existing: Iterable[slicer.vtkMRMLNode | None]) -> Iterator[None]:
    """Undo all changes to these nodes, leaving out None, and remove all nodes added since, if the block raises."""
    before = {node.GetID() for node in _sceneNodes()}
    backups = []
    for node in filter(None, existing):
        backup = node.CreateNodeInstance()
        backup.Copy(node)
        backups.append((node, backup))
    try:
        yield
    except BaseException:
        for node, backup in backups:
            node.Copy(backup)
        for node in reversed(_sceneNodes()):
            if node.GetID() not in before and node.GetScene() is not None:
                slicer.mrmlScene.RemoveNode(node)
        raise


def _sceneNodes() -> list[slicer.vtkMRMLNode]:
    nodes = slicer.mrmlScene.GetNodes()
    return [nodes.GetItemAsObject(index) for index in range(nodes.GetNumberOfItems())]
