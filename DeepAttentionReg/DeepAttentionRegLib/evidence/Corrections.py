"""A deformation that is corrected by hand: pairs of points, each made of a place and of where the same is seen.

The pairs are two markups lists that the transform remembers, saved with the scene, and as good as landmarks for the
next registration. Places lie on the fixed volume, partners where the moving volume lay before it was deformed.
"""

from dataclasses import dataclass

import numpy as np
import slicer
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from DeepAttentionRegEngine.landmarks.mending import Mended, Mending
from DeepAttentionRegEngine.volume.geometry import flip_lps_ras

from ..nodes import Metrics, Record, Transforms
from ..nodes.Deformation import Deformation
from ..nodes.Overlays import Map
from ..nodes.Present import present
from ..tasks.Results import NodeReference
from . import Landmarks

PLACES, PARTNERS = "CorrectionPlaces", "CorrectionPartners"  # roles
NAMES = {PLACES: "{name} corrections (fixed)", PARTNERS: "{name} corrections (moving)"}
COLORS = {PLACES: Landmarks.COLORS[Landmarks.AFTER], PARTNERS: Landmarks.COLORS[Landmarks.BEFORE]}


@dataclass(frozen=True)
class PointPairs:
    """Points that belong together, each `(N, 3)` RAS mm in the world: on the fixed, and on the moving volume."""

    places: np.ndarray
    partners: np.ndarray

    @classmethod
    def none(cls) -> "PointPairs":
        """Return no points."""
        return cls(np.empty((0, 3)), np.empty((0, 3)))


class Corrections:
    """Mends the field of a transform by pairs of points, and can go back and forth between them."""

    def __init__(self, deformation: Deformation) -> None:
        """Take a deformation as it is now; pairs that it remembers are those of before.

        :raises ValueError: if its field cannot be changed; says why.
        """
        self._node = NodeReference(deformation.transformNode)
        self._moving = NodeReference(deformation.moving)
        field, self._geometry = Transforms.readGrid(deformation.transformNode)
        if (self._grid().GetDisplacementScale(), self._grid().GetDisplacementShift()) != (1.0, 0.0):
            msg = _("{name} stores its field in another unit; harden it first (Data module).")
            raise ValueError(msg.format(name=deformation.name))
        self._mending = Mending(field, self._geometry)
        self._history = [self.read()]
        self._now = 0

    @property
    def node(self) -> slicer.vtkMRMLTransformNode | None:
        """The transform; None once it is gone."""
        return self._node.get()

    @property
    def canUndo(self) -> bool:
        """Whether there is a step to take back."""
        return self._now > 0

    @property
    def canRedo(self) -> bool:
        """Whether a step was taken back."""
        return self._now + 1 < len(self._history)

    def add(self, placeRas: np.ndarray, seenRas: np.ndarray, reachMm: float, *, onMoving: bool) -> Mended:
        """Add a pair of points.

        :param placeRas: where it is wrong, on the fixed volume, (3,) in the world.
        :param seenRas: where the same is seen, (3,) in the world.
        :param reachMm: how far around the field goes along.
        :param onMoving: whether it was seen on the moving volume itself; else on the moving volume as it is warped now.
        """
        partner = np.asarray(seenRas, float) if onMoving else self._toWorld(self._carried(seenRas))
        pairs = self._history[self._now]
        places, partners = np.vstack([pairs.places, placeRas]), np.vstack([pairs.partners, partner])
        return self._take(PointPairs(places, partners), reachMm)

    def follow(self, reachMm: float) -> Mended | None:
        """Take the points as they are in the lists now, which the user may have dragged; None if none has moved."""
        pairs, known = self.read(), self._history[self._now]
        sides = (pairs.places, known.places), (pairs.partners, known.partners)
        if all(new.shape == old.shape and np.allclose(new, old, atol=1e-6) for new, old in sides):
            return None
        return self._take(pairs, reachMm)

    def undo(self, reachMm: float) -> Mended:
        """Take the last step back."""
        self._now = max(0, self._now - 1)
        return self._mend(reachMm)

    def redo(self, reachMm: float) -> Mended:
        """Do again what was taken back."""
        self._now = min(len(self._history) - 1, self._now + 1)
        return self._mend(reachMm)

    def again(self, reachMm: float) -> Mended:
        """Mend by the same points with another reach."""
        return self._mend(reachMm)

    def showWithout(self) -> None:
        """Show the field without any correction, until the next step."""
        self._write(self._mending.mend(np.empty((0, 3)), np.empty((0, 3)), 1.0))

    def lists(self) -> tuple[slicer.vtkMRMLNode | None, slicer.vtkMRMLNode | None]:
        """Return the lists of the places and of their partners; None before there are any."""
        transform = present(self.node)
        return Record.attached(transform, PLACES), Record.attached(transform, PARTNERS)

    def read(self) -> PointPairs:
        """Return the pairs of the lists."""
        nodes = self.lists()
        if None in nodes:
            return PointPairs.none()
        points = [slicer.util.arrayFromMarkupsControlPoints(node, world=True).reshape(-1, 3) for node in nodes]
        count = min(map(len, points))
        return PointPairs(*(side[:count] for side in points))

    def _take(self, pairs: PointPairs, reachMm: float) -> Mended:
        """Go on from pairs; what was taken back cannot come again."""
        self._history[self._now + 1 :] = [pairs]
        self._now += 1
        for role in (Map.ERROR, Map.CHANGE):  # they stand for the deformation as it was found
            Record.detach(present(self.node), role.value)
        return self._mend(reachMm)

    def _mend(self, reachMm: float) -> Mended:
        pairs = self._history[self._now]
        toFrame = np.linalg.inv(self._movingToWorld())
        sides = flip_lps_ras(pairs.places), flip_lps_ras(Transforms.applyMatrix(toFrame, pairs.partners))
        mended = self._mending.mend(*sides, reachMm)
        self._write(mended)
        self._showPairs(pairs)
        return mended

    def _write(self, mended: Mended) -> None:
        """Put what has changed into the field of the transform."""
        grid = self._grid().GetDisplacementGrid()
        scalars = grid.GetPointData().GetScalars()
        values = vtk_to_numpy(scalars).reshape(*self._geometry.shape, 3)
        for box in mended.boxes:
            values[box] = flip_lps_ras(self._mending.field[box])
        scalars.Modified()
        grid.Modified()
        self._grid().Modified()
        present(self.node).TransformModified()

    def _showPairs(self, pairs: PointPairs) -> None:
        """Put pairs into the lists, which are made where there are none yet."""
        transform = present(self.node)
        for role, points in ((PLACES, pairs.places), (PARTNERS, pairs.partners)):
            node = Record.attached(transform, role) or _makeList(transform, role)
            with slicer.util.NodeModify(node):
                node.RemoveAllControlPoints()
                for number, point in enumerate(points, start=1):
                    node.AddControlPointWorld(*point, str(number))

    def _grid(self) -> slicer.vtkOrientedGridTransform:
        return present(self.node).GetTransformFromParentAs("vtkOrientedGridTransform", False)

    def _carried(self, pointRas: np.ndarray) -> np.ndarray:
        """Return where the field as it is now leads a point of the world, in the moving volume's own coordinates."""
        return np.array(self._grid().TransformPoint(np.asarray(pointRas, float)))

    def _movingToWorld(self) -> np.ndarray:
        moving = self._moving.get()
        matrix = None if moving is None else Record.movingToWorld(present(self.node), moving)
        return np.eye(4) if matrix is None else matrix

    def _toWorld(self, pointRas: np.ndarray) -> np.ndarray:
        return Transforms.applyMatrix(self._movingToWorld(), pointRas[None])[0]


def describe(mended: Mended, count: int) -> str:
    """Return what corrections have done, in words; empty for none.

    :param mended: what the last step came to.
    :param count: of the pairs.
    """
    if not count or mended.jacobian is None:
        return ""
    low, high = mended.jacobian
    text = _("Corrections: {count}, the longest {longest} mm, reach {reach} mm. Jacobian around: {low} to {high}.")
    numbers = {"longest": mended.longest_mm, "reach": mended.reach_mm, "low": low, "high": high}
    sentence = text.format(count=count, **{name: Metrics.numberText(value) for name, value in numbers.items()})
    folding = "" if low > 0 else _("The deformation folds there: take back what contradicts the rest.")
    return f"{sentence} {folding}".strip()


def _makeList(transform: slicer.vtkMRMLTransformNode, role: str) -> slicer.vtkMRMLMarkupsFiducialNode:
    name = _(NAMES[role]).format(name=transform.GetName())
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetSelectedColor(*COLORS[role])
    Record.attach(transform, role, node)
    return node
