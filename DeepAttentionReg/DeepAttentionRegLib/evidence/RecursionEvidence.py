"""What a registration left behind besides its result: its deformation step by step, what its network attended to.

    evidence = RecursionEvidence(transformNode)
    evidence.step = 1
    weights, grid = evidence.heatMap("level 3", pointRas)

EvidenceFiles.py says which nodes hold it.
"""

from dataclasses import dataclass

import numpy as np
import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.volume import recursions
from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras

from ..nodes import EvidenceFiles, Record, Volumes
from ..nodes.EvidenceFiles import COUNT, GAUSSIANS, HEADS, IMAGE, KEY, MAP, NAME, QUERY, STEPS, TABLE, TOKENS
from ..nodes.Transforms import WORLD


@dataclass(frozen=True)
class Gaussian:
    """A local deformation: `vector * exp(-r^2 / 2)`, r the distance from the center in standard deviations; RAS, mm.

    :param center: (3,).
    :param axes: (3, 3), an axis a row; the third one is 0 in a single slice.
    :param sigma: (3,), standard deviations along these.
    :param vector: (3,), displacement at the center.
    """

    center: np.ndarray
    axes: np.ndarray
    sigma: np.ndarray
    vector: np.ndarray


class RecursionEvidence:
    """The nodes that a registration left behind, and which of its steps is looked at."""

    def __init__(self, transformNode: slicer.vtkMRMLTransformNode) -> None:
        """Find the nodes.

        :param transformNode: of the registration.
        :raises ValueError: with a sentence, if nothing was kept or something is gone.
        """
        steps = Record.attached(transformNode, STEPS)
        browser = _browserOf(steps)
        if steps is None or browser is None or steps.GetNumberOfDataNodes() == 0:
            text = _(
                "The steps of {name} were not kept. Turn on the keeping of recursions (Outputs) and register again."
            )
            raise ValueError(text.format(name=transformNode.GetName()))
        self.transformNode, self.steps, self.browser = transformNode, steps, browser
        self._nodes = Record.attachments(transformNode)

    @property
    def table(self) -> slicer.vtkMRMLTableNode | None:
        """Measures by step; None if it was removed."""
        return self._nodes.get(TABLE)

    @property
    def count(self) -> int:
        """Number of steps, that of the alignment alone included."""
        return self.steps.GetNumberOfDataNodes()

    @property
    def step(self) -> int:
        """The step that is looked at, from 0; it is kept in the scene."""
        return max(self.browser.GetSelectedItemNumber(), 0)

    @step.setter
    def step(self, number: int) -> None:
        """Look at another step.

        :raises ValueError: if there is no such step.
        """
        if not 0 <= number < self.count:
            msg = _("There is no step {number}; there are steps 0 to {last}.")
            raise ValueError(msg.format(number=number, last=self.count - 1))
        self.browser.SetSelectedItemNumber(number)

    @property
    def recursion(self) -> int:
        """The recursion that led to the present step, from 1; the first or the last one where none did."""
        return min(max(self.step, 1), max(int(self.steps.GetAttribute(COUNT) or 0), 1))

    def label(self, number: int) -> str:
        """Return what a step is called."""
        count = int(self.steps.GetAttribute(COUNT) or 0)
        if number == 0:
            return _("Before: aligned only")
        if number > count:
            return _("Result")
        unit = self.steps.GetIndexName()
        return _("{unit} {number} of {count}").format(unit=unit[:1].upper() + unit[1:], number=number, count=count)

    @property
    def shownTransform(self) -> slicer.vtkMRMLTransformNode:
        """The transform node that is always that of the present step."""
        return self.browser.GetProxyNode(self.steps)

    @property
    def layers(self) -> list[str]:
        """Names of the layers whose cross-attention was kept, the finest first."""
        queries, keys = ({node.GetAttribute(NAME): node for node in self._nodesOf(role)} for role in (QUERY, KEY))
        return sorted(queries.keys() & keys.keys())

    @property
    def maps(self) -> list[tuple[str, str]]:
        """Name and image, "fixed" or "moving", of the maps that the network made."""
        return [(node.GetAttribute(NAME), node.GetAttribute(IMAGE)) for node in self._nodesOf(MAP)]

    @property
    def hasGaussians(self) -> bool:
        """Whether the deformation consists of Gaussians."""
        return GAUSSIANS in self._nodes

    def map(self, name: str, image: str) -> slicer.vtkMRMLScalarVolumeNode:
        """Return a map of the present recursion, a node of a sequence.

        Those of the image "moving" are in the coordinates of the moving volume below its parent transform.
        """
        found = self._nodesOf(MAP)[self.maps.index((name, image))]
        return found.GetDataNodeAtValue(str(self.recursion), False)

    def _nodesOf(self, role: str) -> list[slicer.vtkMRMLSequenceNode]:
        """Return the sequences of a role that is counted, in order."""
        numbers = (name.removeprefix(role) for name in self._nodes if name.startswith(role))
        return [self._nodes[f"{role}{number}"] for number in sorted(map(int, filter(str.isdigit, numbers)))]

    def heatMap(self, layer: str, pointRas: np.ndarray) -> tuple[np.ndarray, Geometry]:
        """Return what the network looked at for a point, in the recursion that `attending` tells, mean over heads.

        :param layer: one of `layers`.
        :param pointRas: (3,) of the fixed volume, mm.
        :return: weights (k, j, i) that sum to 1, and their grid: that of the tokens of the moving volume, warped by the
            recursion before.
        """
        attention, grid = self._attention(layer)
        return attention.heat_map(grid, flip_lps_ras(np.asarray(pointRas, float)[None])[0])

    def attending(self, layer: str) -> int:
        """Return the recursion whose attention is shown: the present one or, if it kept none, the next that did.

        On grids that are coarser than the network's own none is kept.

        :param layer: one of `layers`.
        """
        sequence = self._sequenceOf(QUERY, layer)
        kept = sorted(int(sequence.GetNthIndexValue(index)) for index in range(sequence.GetNumberOfDataNodes()))
        return next((number for number in kept if number >= self.recursion), kept[-1])

    def _sequenceOf(self, role: str, layer: str) -> slicer.vtkMRMLSequenceNode:
        return next(node for node in self._nodesOf(role) if node.GetAttribute(NAME) == layer)

    def _attention(self, layer: str) -> tuple[recursions.Attention, Geometry]:
        """Return the attention of a recursion as if the tokens of the fixed volume were the voxels."""
        tokens, grids, recursion = [], [], str(self.attending(layer))
        for role in (QUERY, KEY):
            sequence = self._sequenceOf(role, layer)
            frame = sequence.GetDataNodeAtValue(recursion, False)
            heads, slices = int(sequence.GetAttribute(HEADS)), int(sequence.GetAttribute(TOKENS))
            array, whole = slicer.util.arrayFromVolume(frame), Volumes.geometryOf(frame, WORLD)
            tokens.append(EvidenceFiles.unstacked(array, heads, slices))
            grids.append(Geometry.from_ijk_to_ras(whole.ijk_to_ras, (*whole.size[:2], slices)))
        query, key = (grid.shape[1:] if grid.is_flat else grid.shape for grid in grids)
        stride = grids[1].spacing[0] / grids[0].spacing[0]
        return recursions.Attention(tokens[0], tokens[1], query, key, 1.0, stride), grids[0]

    def gaussians(self) -> list[Gaussian]:
        """Return the local deformations that the present recursion added."""
        table = self._nodes[GAUSSIANS].GetTable()
        rows = np.array(
            [
                [table.GetValue(row, column).ToDouble() for column in range(table.GetNumberOfColumns())]
                for row in range(table.GetNumberOfRows())
            ]
        )
        chosen = rows[rows[:, 0] == self.recursion, 1:]
        return [Gaussian(row[:3], row[3:12].reshape(3, 3), row[12:15], row[15:18]) for row in chosen]


def _browserOf(sequence: slicer.vtkMRMLSequenceNode | None) -> slicer.vtkMRMLSequenceBrowserNode | None:
    browsers = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode") if sequence is not None else []
    return next((browser for browser in browsers if browser.IsSynchronizedSequenceNode(sequence, True)), None)
