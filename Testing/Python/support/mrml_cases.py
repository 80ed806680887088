"""Registrations that the MRML tests share: nodes to register, the stand-in engine, callbacks that can be asked."""

import gc
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import slicer

import evidence_cases
import mrml_scene
from DeepAttentionRegEngine.protocol import contract
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegLib.engine.Callbacks import Callbacks
from DeepAttentionRegLib.engine.Engine import Engine
from DeepAttentionRegLib.nodes import EvidenceFiles, Transforms, Volumes
from DeepAttentionRegLib.nodes.Deformation import Deformation
from DeepAttentionRegLib.nodes.InputNodes import InputNodes
from DeepAttentionRegLib.tasks import Registration
from DeepAttentionRegLib.tasks.Registration import OutputNodes
from DeepAttentionRegLib.tasks.Request import requestOf

ENGINE = Engine(sys.executable, Path(__file__).resolve().with_name("fake_engine.py"))
TIMEOUT_S = 20.0
RIGID = np.array([[0.8, -0.6, 0.0, 10.0], [0.6, 0.8, 0.0, -20.0], [0.0, 0.0, 1.0, 5.0], [0.0, 0.0, 0.0, 1.0]])
ROLES = (
    "transformNode",
    "warpedVolumeNode",
    "jacobianVolumeNode",
    "errorVolumeNode",
    "warpedSegmentationNode",
    "tableNode",
)


def add_pair(geometry: Geometry) -> InputNodes:
    """Add the volumes CT1 (fixed) and CT2 (moving) to the scene."""
    array = np.arange(np.prod(geometry.shape), dtype=np.float32).reshape(geometry.shape)
    return InputNodes(*(mrml_scene.add_volume(array, geometry, name) for name in ("CT1", "CT2")))


def put_under(node: slicer.vtkMRMLTransformableNode, matrix: np.ndarray) -> None:
    """Put a node under a new linear transform (4x4 RAS, to parent)."""
    parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Parent")
    parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    node.SetAndObserveTransformNodeID(parent.GetID())


def add_segmentation(inputs: InputNodes, name: str) -> slicer.vtkMRMLSegmentationNode:
    """Add a segmentation with two boxes, Liver and Heart, on the grid of the fixed volume."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    geometry = Volumes.geometryOf(inputs.fixedVolume, np.eye(4))
    labels = np.zeros(geometry.shape, np.uint8)
    labels[1:4, 2:8, 3:9], labels[5:8, 1:3, 7:13] = 1, 2
    made = Volumes.makeSegmentation(labels, geometry, {})
    for index, segment_name in enumerate(("Liver", "Heart")):
        made.GetNthSegment(index).SetName(segment_name)
    return Volumes.createSegmentation(made, name, inputs.fixedVolume, node)


def with_segmentations(inputs: InputNodes) -> InputNodes:
    """Return the pair with a segmentation on each side."""
    fixed, moving = (add_segmentation(inputs, name) for name in ("Fixed organs", "Moving organs"))
    return InputNodes(inputs.fixedVolume, inputs.movingVolume, fixedSegmentation=fixed, movingSegmentation=moving)


class EventLoop:
    """What `slicer.app` and `qt.QTimer` offer to a job: like PythonQt it holds what it is going to call."""

    def __init__(self, folder: str) -> None:
        self.temporaryPath = folder
        self._pending: list[Callable[[], None]] = []

    @property
    def is_idle(self) -> bool:
        return not self._pending

    def singleShot(self, _milliseconds: int, call: Callable[[], None]) -> None:
        self._pending.append(call)

    def processEvents(self) -> None:
        """Call what is due."""
        due, self._pending = self._pending, []
        for call in due:
            call()


def is_let_go(references: list[weakref.ref]) -> bool:
    """Return whether nothing is left of what these refer to."""
    gc.collect()
    return all(reference() is None for reference in references)


class Recorder:
    """Collects what a registration calls back, and acts when a stage is reached."""

    def __init__(self, act_at: str = "", act: Callable[[], None] = lambda: None) -> None:
        self.stages: list[str] = []
        self.pids: list[int] = []
        self.outcomes: list[Registration.Outcome] = []
        self.failures: list[contract.Failure] = []
        self._act_at, self._act = act_at, act
        self.callbacks = Callbacks(self._on_progress, self.outcomes.append, self.failures.append)

    def _on_progress(self, progress: contract.Progress) -> None:
        self.stages.append(progress.stage)
        if progress.message.isdecimal():
            self.pids.append(int(progress.message))
        if progress.stage == self._act_at:
            self._act()


def prepare(
    inputs: InputNodes, recorder: Recorder | None = None, outputs: OutputNodes | None = None, **options
) -> Registration.PairRegistration:
    """Return a registration by the stand-in; options are those of `DeepAttentionRegLogic.register`."""
    request = replace(requestOf(options), inputs=inputs, outputs=outputs or OutputNodes())
    return Registration.PairRegistration(request, recorder and recorder.callbacks, engine=ENGINE)


def register(inputs: InputNodes, **options) -> Registration.Outcome:
    """Register and wait."""
    registration = prepare(inputs, **options)
    registration.start()
    return registration.wait()


def poll_until(registration: Registration.PairRegistration, condition: Callable[[], object]) -> None:
    """Poll until something is there."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        registration.poll()
        time.sleep(0.02)


def outputs_of(outcome: Registration.Outcome) -> OutputNodes:
    """Return the nodes of an outcome, to be written into again."""
    return OutputNodes(**{role: getattr(outcome, role) for role in ROLES})


def add_shifted(inputs: InputNodes, folder: Path, lengths_mm: list[float]) -> Deformation:
    """Add a deformation whose recursions shift by these lengths to the left, with what they left behind."""
    geometry = Volumes.geometryOf(inputs.fixedVolume, np.eye(4))
    fields = evidence_cases.shifts(geometry, lengths_mm)
    result = evidence_cases.write_recursions(folder, geometry, fields)
    transform = Transforms.makeGridTransform(fields[-1], geometry)
    node = Transforms.createGridTransform(transform, "Shifted", inputs.fixedVolume, inputs.movingVolume)
    EvidenceFiles.commit(EvidenceFiles.read(result, fields[-1], geometry), node)
    return Deformation(node, inputs.fixedVolume, inputs.movingVolume)
