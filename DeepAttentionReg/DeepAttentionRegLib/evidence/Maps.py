"""Maps of a deformation over the fixed volume; the transform remembers them, and showing one again updates its node.

    deformation = Deformation.ofTransform(transformNode)
    view = MapView.MapView()
    view.show(deformation, Maps.create(deformation, Map.JACOBIAN), opacity=0.6)
    view.close()

The inverse consistency error needs a registration the other way round:

    registration = Maps.BackwardRegistration(deformation)
    registration.start()
    registration.wait()
    Maps.create(deformation, Map.INCONSISTENCY)
"""

from dataclasses import replace

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from DeepAttentionRegEngine.maps import change, similarity
from DeepAttentionRegEngine.protocol import contract, errors
from DeepAttentionRegEngine.protocol.reporting import Pause, no_pause
from DeepAttentionRegEngine.volume import fields, images, no_data
from DeepAttentionRegEngine.volume.geometry import Geometry

from ..nodes import Deformation, FieldMaps, Overlays, Record, Transforms, Volumes, Warping
from ..nodes.Overlays import Map
from ..nodes.Present import present
from ..nodes.Transforms import WORLD
from ..tasks import Results
from ..tasks.DeformationTask import DeformationTask, jobOf

FOLDS, BACKWARD = "Folds", "Backward"
Arrays = tuple[np.ndarray, Geometry]


def compute(deformation: Deformation.Deformation, kind: Map, pause: Pause = no_pause) -> Arrays:
    """Return a map (k, j, i) at the voxels of the fixed volume, and their grid.

    The field is interpolated linearly between the nodes of its own grid, as the engine does.

    :param deformation: what is judged.
    :param kind: any map but the uncertainty, which Uncertainty.py estimates, and the error, which registrations bring.
    :param pause: called before every slab.
    :raises ValueError: if it cannot be computed; says why.
    """
    if kind in (Map.SIMILARITY_BEFORE, Map.SIMILARITY_AFTER):
        return _similarity(deformation, kind is Map.SIMILARITY_AFTER, pause)
    if kind is Map.CHANGE:
        return _change(deformation, pause)
    geometry, field = Volumes.placeOf(deformation.fixed), Transforms.readGrid(deformation.transformNode)
    if kind is Map.MAGNITUDE:
        return FieldMaps.magnitude(field, geometry, pause), geometry
    if kind is Map.INCONSISTENCY:
        backward = backwardOf(deformation)
        if backward is None:
            raise ValueError(_("Register {name} the other way round first.").format(name=deformation.name))
        return FieldMaps.inconsistency(field, Transforms.readGrid(backward), geometry, pause), geometry
    jacobian = FieldMaps.jacobian(field, geometry, pause)
    return (jacobian if kind is Map.JACOBIAN else fields.log_jacobian(jacobian)), geometry


def create(deformation: Deformation.Deformation, kind: Map, pause: Pause = no_pause) -> slicer.vtkMRMLScalarVolumeNode:
    """Compute a map into the node that the transform remembers for it, or a new one; parameters as of `compute`."""
    return put(deformation, kind, *compute(deformation, kind, pause))


def put(
    deformation: Deformation.Deformation, kind: Map, array: np.ndarray, geometry: Geometry
) -> slicer.vtkMRMLScalarVolumeNode:
    """Put a map into the node that the transform remembers for it, or a new one.

    :param array: (k, j, i) on the grid.
    :param geometry: grid in the world.
    """
    existing = of(deformation, kind)
    node = Overlays.createMap(kind, array, geometry, _nameOf(deformation, kind), existing)
    Record.attach(deformation.transformNode, kind.value, node)
    return node


def of(deformation: Deformation.Deformation, kind: Map) -> slicer.vtkMRMLScalarVolumeNode | None:
    """Return the map that the transform remembers; None if there is none."""
    return Record.attached(deformation.transformNode, kind.value)


def createFolds(deformation: Deformation.Deformation, pause: Pause = no_pause) -> slicer.vtkMRMLLabelMapVolumeNode:
    """Mark the folded voxels in the label map that the transform remembers for them, or a new one."""
    jacobian, geometry = compute(deformation, Map.JACOBIAN, pause)
    existing = Record.attached(deformation.transformNode, FOLDS)
    name = slicer.mrmlScene.GenerateUniqueName(_("{name} folds").format(name=deformation.name))
    node = Overlays.createFolds(jacobian, geometry, name, existing)
    Record.attach(deformation.transformNode, FOLDS, node)
    return node


def countFolds(node: slicer.vtkMRMLLabelMapVolumeNode) -> tuple[int, float]:
    """Return how many voxels a label map from `createFolds` marks, and their share in percent."""
    array = slicer.util.arrayFromVolume(node)
    return int((array > 0).sum()), 100 * float((array > 0).mean())


def backwardOf(deformation: Deformation.Deformation) -> slicer.vtkMRMLTransformNode | None:
    """Return the transform of the registration the other way round; None if there is none."""
    return Record.attached(deformation.transformNode, BACKWARD)


def _nameOf(deformation: Deformation.Deformation, kind: Map) -> str:
    text = {
        Map.JACOBIAN: _("{name} Jacobian"),
        Map.LOG_JACOBIAN: _("{name} log Jacobian"),
        Map.MAGNITUDE: _("{name} displacement"),
        Map.SIMILARITY_BEFORE: _("{name} similarity before"),
        Map.SIMILARITY_AFTER: _("{name} similarity after"),
        Map.INCONSISTENCY: _("{name} inverse consistency error"),
        Map.UNCERTAINTY: _("{name} uncertainty"),
        Map.ERROR: _("{name} error"),
        Map.CHANGE: _("{name} no counterpart"),
    }[kind]
    return slicer.mrmlScene.GenerateUniqueName(text.format(name=deformation.name))


def _similarity(deformation: Deformation.Deformation, isAfter: bool, pause: Pause) -> Arrays:
    """Return how alike the volumes are; where the moving one ends, nothing contradicts the fixed one."""
    drawn, view, geometry = _drawn(deformation, isAfter, _fieldOfView(deformation.moving), pause)
    try:
        likeness = similarity.local_correlation(slicer.util.arrayFromVolume(deformation.fixed), drawn, geometry, pause)
    except errors.EngineError as error:
        raise ValueError(str(error)) from error
    likeness[view == 0] = 1
    return likeness, geometry


def _change(deformation: Deformation.Deformation, pause: Pause) -> Arrays:
    """Return how surely what is in the fixed volume has no counterpart in the moving one."""
    known = no_data.known_voxels(slicer.util.arrayFromVolume(deformation.moving))
    drawn, view, geometry = _drawn(deformation, True, _fieldOfView(deformation.moving, known), pause)
    found = change.find_changes(slicer.util.arrayFromVolume(deformation.fixed), drawn, geometry, view > 0, pause)
    if found.certainty is None:
        raise ValueError(found.reason)
    return found.certainty, geometry


def changedSize(node: slicer.vtkMRMLScalarVolumeNode) -> tuple[float, str]:
    """Return how much has no counterpart by a map of it, and the unit: ml, or mm2 in a slice."""
    voxels = np.count_nonzero(slicer.util.arrayFromVolume(node) >= change.SURE)
    geometry = Volumes.placeOf(node)
    flat = geometry.is_flat
    return (voxels * geometry.voxel_area, "mm2") if flat else (voxels * geometry.voxel_volume / 1000, "ml")


def _drawn(
    deformation: Deformation.Deformation, isAfter: bool, fieldOfView: slicer.vtkMRMLLabelMapVolumeNode, pause: Pause
) -> tuple[np.ndarray, np.ndarray, Geometry]:
    """Return the moving volume and its field of view (k, j, i) at the voxels of the fixed one, and their grid.

    :raises ValueError: if that cannot be; says why.
    """
    toFrame = Warping.toFrame(deformation.moving, deformation.transformNode)
    problem = Volumes.checkNode(deformation.fixed)
    if toFrame is None or problem:
        raise ValueError(problem or Volumes.checkNode(deformation.moving))
    transform = Transforms.forImages(deformation.transformNode)
    if not isAfter:
        transform = vtk.vtkTransform()
        transform.SetMatrix(slicer.util.vtkMatrixFromArray(Record.startOf(deformation)))
    geometry = Volumes.geometryOf(deformation.fixed, WORLD)
    drawn, view = (
        vtk_to_numpy(Warping.drawVolume(node, toFrame, transform, geometry, pause).GetPointData().GetScalars())
        for node in (deformation.moving, fieldOfView)
    )
    return drawn.reshape(geometry.shape), view.reshape(geometry.shape), geometry


def _fieldOfView(
    volume: slicer.vtkMRMLScalarVolumeNode, known: np.ndarray | None = None
) -> slicer.vtkMRMLLabelMapVolumeNode:
    """Return a label map outside of any scene that is 1 in all voxels of a volume, or in those that are known."""
    node = slicer.vtkMRMLLabelMapVolumeNode()
    node.CopyOrientation(volume)
    marked = np.ones(volume.GetImageData().GetDimensions()[::-1], np.uint8) if known is None else known.astype(np.uint8)
    node.SetAndObserveImageData(Volumes.makeImage(marked))
    return node


class BackwardRegistration(DeformationTask):
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
        field = Transforms.makeGridTransform(*images.read_displacement(result.outputs["transform"]))
        self._requireInputs()
        deformation = self.deformation
        existing = backwardOf(deformation)
        name = slicer.mrmlScene.GenerateUniqueName(_("{name} backward").format(name=self._name))
        with Results.allOrNothing([existing, deformation.transformNode]):
            node = Transforms.createGridTransform(field, name, deformation.moving, deformation.fixed, existing)
            inputs = {"fixedVolume": deformation.moving.GetName(), "movingVolume": deformation.fixed.GetName()}
            record = replace(
                self._record,
                made=Record.now(),
                inputs=inputs,
                start=np.linalg.inv(self._start).ravel().tolist(),
                place=present(Volumes.matrixToWorld(deformation.fixed)).ravel().tolist(),
                values=result.values,
                warnings=result.warnings,
                slicer=Record.slicerVersion(),
            )
            Record.remember(node, record)
            Record.attach(node, BACKWARD, deformation.transformNode)
            Record.attach(deformation.transformNode, BACKWARD, node)
        return node
