"""What a transform node remembers of its registration, and the nodes that were made to judge it.

Both are saved with the scene: how it was made as text in an attribute, the nodes as references. Scenes are passed on,
so files of weights and methods are remembered by their names alone, without their folders.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import slicer

from DeepAttentionRegEngine.protocol import contract, errors
from DeepAttentionRegEngine.protocol.files import MISSHAPEN, parse_json
from DeepAttentionRegEngine.protocol.privacy import discreet_logger, without_folders_within

from . import Volumes
from .Deformation import Deformation

logger = discreet_logger(__name__)

ATTRIBUTE = "DeepAttentionReg.Record"
ROLE_PREFIX = "DeepAttentionReg."


@dataclass(frozen=True)
class Record:
    """How a transform was made.

    :param made: date and time with time zone, ISO 8601.
    :param inputs: names of the nodes by role, as in `InputNodes`.
    :param settings: fields of the job that are no files.
    :param method: what people read of the method: "title", "summary" and "citation"; empty if there was none.
    :param start: 16 numbers, row by row: world to moving coordinates (RAS) where the registration started.
    :param place: 16 numbers, row by row: moving coordinates to world (RAS), where the volume was; None if not known.
    :param values: numbers and texts of the engine, as in `contract.Result`.
    :param warnings: sentences of the engine.
    :param slicer: version of the application.
    """

    made: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    method: dict[str, str] = field(default_factory=dict)
    start: list[float] | None = None
    place: list[float] | None = None
    values: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    slicer: str = ""

    def __post_init__(self) -> None:
        for matrix in (self.start, self.place):
            if matrix is not None and not (len(matrix) == 16 and np.isfinite(matrix).all()):
                msg = "a place is no 4x4 matrix"
                raise ValueError(msg)


def now() -> str:
    """Return the date and time for a record."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def slicerVersion() -> str:
    """Return the version of Slicer; empty outside of the application."""
    return getattr(getattr(slicer, "app", None), "applicationVersion", "")


def remember(transformNode: slicer.vtkMRMLTransformNode, record: Record) -> None:
    """Let a transform remember how it was made; what was made to judge a former one belongs to it no longer."""
    for role in _roles(transformNode):
        transformNode.RemoveNodeReferenceIDs(ROLE_PREFIX + role)
    transformNode.SetAttribute(ATTRIBUTE, json.dumps(without_folders_within(asdict(record))))


def addWarning(transformNode: slicer.vtkMRMLTransformNode, sentence: str) -> None:
    """Let a transform that knows how it was made remember one more thing that users must see."""
    record = recall(transformNode)
    if transformNode.GetAttribute(ATTRIBUTE) and sentence not in record.warnings:
        found = replace(record, warnings=[*record.warnings, sentence])
        transformNode.SetAttribute(ATTRIBUTE, json.dumps(without_folders_within(asdict(found))))


def recall(transformNode: slicer.vtkMRMLTransformNode) -> Record:
    """Return how a transform was made; an empty record if it does not know.

    A scene may come from others, so no folder that it names is believed.
    """
    text = transformNode.GetAttribute(ATTRIBUTE)
    try:
        return contract.build(Record, without_folders_within(parse_json(text))) if text else Record()
    except (errors.EngineError, *MISSHAPEN) as error:
        logger.warning("%s does not remember how it was made: %s", transformNode.GetName(), error)
        return Record()


def startOf(deformation: Deformation) -> np.ndarray:
    """Return the 4x4 RAS matrix from world to the moving volume where its registration started, as far as is known."""
    record = recall(deformation.transformNode)
    if record.start is not None:
        return np.reshape(record.start, (4, 4))
    toWorld = Volumes.matrixToWorld(deformation.moving)
    return np.eye(4) if toWorld is None else np.linalg.inv(toWorld)


def movingToWorld(
    transformNode: slicer.vtkMRMLTransformNode, moving: slicer.vtkMRMLTransformableNode
) -> np.ndarray | None:
    """Return the 4x4 RAS matrix from a moving volume's own coordinates to where it is before its deformation.

    None if it is under a non-linear transform. A volume that was put under the deformation itself, to be shown warped,
    has left its former parents; where it was is remembered.
    """
    if moving.GetParentTransformNode() is not transformNode:
        return Volumes.matrixToWorld(moving)
    place = recall(transformNode).place
    return np.eye(4) if place is None else np.reshape(place, (4, 4))


def attach(transformNode: slicer.vtkMRMLTransformNode, role: str, node: slicer.vtkMRMLNode) -> None:
    """Let a transform know a node that was made to judge it.

    :param transformNode: the transform.
    :param role: what the node is, in one word; one node has it at a time.
    :param node: a table, volume, segmentation or model.
    """
    transformNode.SetNodeReferenceID(ROLE_PREFIX + role, node.GetID())


def detach(transformNode: slicer.vtkMRMLTransformNode, role: str) -> None:
    """Let a transform forget the node that has a role; nothing is done if there is none."""
    transformNode.RemoveNodeReferenceIDs(ROLE_PREFIX + role)


def attachments(transformNode: slicer.vtkMRMLTransformNode) -> dict[str, slicer.vtkMRMLNode]:
    """Return all nodes that were made to judge a transform and are still in the scene, by role."""
    nodes = {role: attached(transformNode, role) for role in _roles(transformNode)}
    return {role: node for role, node in nodes.items() if node is not None}


def _roles(transformNode: slicer.vtkMRMLTransformNode) -> list[str]:
    roles: list[str] = []
    transformNode.GetNodeReferenceRoles(roles)
    return [role.removeprefix(ROLE_PREFIX) for role in roles if role.startswith(ROLE_PREFIX)]


def attached(transformNode: slicer.vtkMRMLTransformNode, role: str) -> slicer.vtkMRMLNode | None:
    """Return the node that has a role, if it is still in the scene."""
    return transformNode.GetNodeReference(ROLE_PREFIX + role)
