"""What is inspected: a deformation and the two volumes it belongs to."""

from dataclasses import dataclass

import slicer
from slicer.i18n import tr as _


@dataclass(frozen=True)
class Deformation:
    """A deformation and its volumes.

    :param transformNode: holds a displacement field from fixed to moving points, as registrations make it.
    :param fixed: the volume that stayed.
    :param moving: the volume that is deformed.
    """

    transformNode: slicer.vtkMRMLTransformNode
    fixed: slicer.vtkMRMLScalarVolumeNode
    moving: slicer.vtkMRMLScalarVolumeNode

    @property
    def name(self) -> str:
        """Name that all nodes made of it start with."""
        return self.transformNode.GetName()


def ofTransform(
    transformNode: slicer.vtkMRMLTransformNode | None,
    fixed: slicer.vtkMRMLScalarVolumeNode | None = None,
    moving: slicer.vtkMRMLScalarVolumeNode | None = None,
) -> Deformation:
    """Return what there is to inspect of a transform.

    :param transformNode: from a registration, or any node that holds a displacement field.
    :param fixed: volume for a transform that does not remember its own.
    :param moving: the same.
    :raises ValueError: with a sentence, if something is missing.
    """
    if transformNode is None:
        raise ValueError(_("Choose the transform of a registration."))
    field = transformNode.GetTransformFromParentAs("vtkOrientedGridTransform", False)
    if field is None or field.GetInverseFlag() or field.GetDisplacementGrid() is None:
        msg = _("{name} is not a displacement field from fixed to moving points: choose the result of a registration.")
        raise ValueError(msg.format(name=transformNode.GetName()))
    roles = transformNode.GetFixedNodeReferenceRole(), transformNode.GetMovingNodeReferenceRole()
    pair = tuple(_nodeInScene(transformNode, role) for role in roles)
    # What was removed is not replaced by a volume of another pair.
    if None in pair and all(known in (None, given) for known, given in zip(pair, (fixed, moving), strict=True)):
        pair = fixed, moving
    if None in pair:
        msg = _("Choose the fixed and the moving volume of {name} above; it does not remember them.")
        raise ValueError(msg.format(name=transformNode.GetName()))
    return Deformation(transformNode, *pair)


def _nodeInScene(transformNode: slicer.vtkMRMLTransformNode, role: str) -> slicer.vtkMRMLScalarVolumeNode | None:
    """Return the node that a transform refers to; while a node is being removed, references still lead to it."""
    node = transformNode.GetNodeReference(role)
    return node if node is not None and node.GetScene() is not None else None
