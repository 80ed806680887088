"""Maps of a deformation over the fixed volume; the transform remembers them, and showing one again updates its node.

    subject = Subject.ofTransform(transformNode)
    view = MapView.MapView()
    view.show(subject, Maps.create(subject, Map.JACOBIAN), opacity=0.6)
    view.close()

The inverse consistency error needs a registration the other way round:

    registration = Maps.BackwardRegistration(subject)
    registration.start()
    registration.wait()
    Maps.create(subject, Map.INCONSISTENCY)
"""

from dataclasses import replace

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from DeepAttentionRegEngine.protocol import contract, errors
from DeepAttentionRegEngine.volume import fields, images, similarity_map
from DeepAttentionRegEngine.volume.geometry import Geometry

from ..nodes import Overlays, Record, Subject, Transforms, Volumes, Warping
from ..nodes.Overlays import Map
from ..nodes.Transforms import WORLD
from ..tasks import Results
from ..tasks.SubjectTask import SubjectTask, jobOf

FOLDS, BACKWARD = "Folds", "Backward"
Arrays = tuple[np.ndarray, Geometry]


def compute(subject: Subject.Subject, kind: Map) -> Arrays:
    """Return a map (k, j, i) and its grid: that of the field, or for similarity that of the fixed volume.

    :param subject: what is judged.
    :param kind: any map but the uncertainty, which Uncertainty.py estimates.
    :raises ValueError: if it cannot be computed; says why.
    """
    if kind in (Map.SIMILARITY_BEFORE, Map.SIMILARITY_AFTER):
        return _similarity(subject, kind is Map.SIMILARITY_AFTER)
    displacementLps, geometry = Transforms.readGrid(subject.transformNode)
    if kind is Map.MAGNITUDE:
        return fields.magnitude(displacementLps), geometry
    if kind is Map.INCONSISTENCY:
        backward = backwardOf(subject)
        if backward is None:
            raise ValueError(_("Register {name} the other way round first.").format(name=subject.name))
        there_and_back = fields.compose(*Transforms.readGrid(backward), displacementLps, geometry)
        return fields.magnitude(there_and_back), geometry
    jacobian = fields.jacobian_determinant(displacementLps, geometry)
    return (jacobian if kind is Map.JACOBIAN else fields.log_jacobian(jacobian)), geometry


def create(subject: Subject.Subject, kind: Map) -> slicer.vtkMRMLScalarVolumeNode:
    """Compute a map into the node that the transform remembers for it, or a new one; parameters as of `compute`."""
    return put(subject, kind, *compute(subject, kind))


def put(subject: Subject.Subject, kind: Map, array: np.ndarray, geometry: Geometry) -> slicer.vtkMRMLScalarVolumeNode:
    """Put a map into the node that the transform remembers for it, or a new one.

    :param array: (k, j, i) on the grid.
    :param geometry: grid in the world.
    """
    existing = of(subject, kind)
    node = Overlays.createMap(kind, array, geometry, _nameOf(subject, kind), existing)
    Record.attach(subject.transformNode, kind.value, node)
    return node


def of(subject: Subject.Subject, kind: Map) -> slicer.vtkMRMLScalarVolumeNode | None:
    """Return the map that the transform remembers; None if there is none."""
    return Record.attached(subject.transformNode, kind.value)


def createFolds(subject: Subject.Subject) -> slicer.vtkMRMLLabelMapVolumeNode:
    """Mark the folded voxels in the label map that the transform remembers for them, or a new one."""
    jacobian, geometry = compute(subject, Map.JACOBIAN)
    existing = Record.attached(subject.transformNode, FOLDS)
    name = slicer.mrmlScene.GenerateUniqueName(_("{name} folds").format(name=subject.name))
    node = Overlays.createFolds(jacobian, geometry, name, existing)
    Record.attach(subject.transformNode, FOLDS, node)
    return node


def countFolds(node: slicer.vtkMRMLLabelMapVolumeNode) -> tuple[int, float]:
    """Return how many voxels a label map from `createFolds` marks, and their share in percent."""
    array = slicer.util.arrayFromVolume(node)
    return int((array > 0).sum()), 100 * float((array > 0).mean())


def backwardOf(subject: Subject.Subject) -> slicer.vtkMRMLTransformNode | None:
    """Return the transform of the registration the other way round; None if there is none."""
    return Record.attached(subject.transformNode, BACKWARD)


def _nameOf(subject: Subject.Subject, kind: Map) -> str:
    text = {
        Map.JACOBIAN: _("{name} Jacobian"),
        Map.LOG_JACOBIAN: _("{name} log Jacobian"),
        Map.MAGNITUDE: _("{name} displacement"),
        Map.SIMILARITY_BEFORE: _("{name} similarity before"),
        Map.SIMILARITY_AFTER: _("{name} similarity after"),
        Map.INCONSISTENCY: _("{name} inverse consistency error"),
        Map.UNCERTAINTY: _("{name} uncertainty"),
    }[kind]
    return slicer.mrmlScene.GenerateUniqueName(text.format(name=subject.name))


def _similarity(subject: Subject.Subject, isAfter: bool) -> Arrays:
    """Return how alike the volumes are; where the moving one ends, nothing contradicts the fixed one."""
    toFrame = Warping.toFrame(subject.moving, subject.transformNode)
    problem = Volumes.checkNode(subject.fixed)
    if toFrame is None or problem:
        raise ValueError(problem or Volumes.checkNode(subject.moving))
    transform = subject.transformNode.GetTransformFromParent()
    if not isAfter:
        transform = vtk.vtkTransform()
        transform.SetMatrix(slicer.util.vtkMatrixFromArray(Record.startOf(subject)))
    geometry = Volumes.geometryOf(subject.fixed, WORLD)
    drawn, view = (
        vtk_to_numpy(Warping.drawVolume(node, toFrame, transform, geometry).GetPointData().GetScalars())
        for node in (subject.moving, _fieldOfView(subject.moving))
    )
    try:
        likeness = similarity_map.local_correlation(
            slicer.util.arrayFromVolume(subject.fixed), drawn.reshape(geometry.shape), geometry
        )
    except errors.EngineError as error:
        raise ValueError(str(error)) from error
    likeness[view.reshape(geometry.shape) == 0] = 1
    return likeness, geometry


def _fieldOfView(volume: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLLabelMapVolumeNode:
    """Return a label map outside of any scene that is 1 in all voxels of a volume."""
    node = slicer.vtkMRMLLabelMapVolumeNode()
    node.CopyOrientation(volume)
    node.SetAndObserveImageData(Volumes.makeImage(np.ones(volume.GetImageData().GetDimensions()[::-1], np.uint8)))
    return node


class BackwardRegistration(SubjectTask):
    """Registers the fixed onto the moving volume; the outcome is the transform, which the deformation remembers."""

    def _export(self) -> contract.Job:
        files = self._exportVolumes()
        return jobOf(
            {
                **self._record.settings,
                "fixed": files["moving"],
                "moving": files["fixed"],
                **self._exportStart(np.linalg.inv(self._start)),
                "output_transform": "transform.nrrd",
            }
        )

    def _load(self, result: contract.Result) -> slicer.vtkMRMLTransformNode:
        displacementLps = images.read_displacement(result.outputs["transform"])[0]
        field = Transforms.makeGridTransform(displacementLps, self._grids["moving"])
        self._requireInputs()
        subject = self.subject
        existing = backwardOf(subject)
        name = slicer.mrmlScene.GenerateUniqueName(_("{name} backward").format(name=self._name))
        with Results.allOrNothing([existing, subject.transformNode]):
            node = Transforms.createGridTransform(field, name, subject.moving, subject.fixed, existing)
            inputs = {"fixedVolume": subject.moving.GetName(), "movingVolume": subject.fixed.GetName()}
            record = replace(
                self._record,
                made=Record.now(),
                inputs=inputs,
                start=np.linalg.inv(self._start).ravel().tolist(),
                place=Volumes.matrixToWorld(subject.fixed).ravel().tolist(),
                values=result.values,
                warnings=result.warnings,
                slicer=Record.slicerVersion(),
            )
            Record.remember(node, record)
            Record.attach(node, BACKWARD, subject.transformNode)
            Record.attach(subject.transformNode, BACKWARD, node)
        return node
