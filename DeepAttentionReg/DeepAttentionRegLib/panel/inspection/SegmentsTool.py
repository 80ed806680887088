"""The tool of the panel that compares segments before and after a deformation."""

from types import SimpleNamespace
from typing import Any

import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol.reporting import Pause

from ...evidence import SegmentNodes, Segments
from ...nodes import Structures
from ...nodes.Deformation import Deformation
from .. import Parts
from ..RunSection import RunSection
from .InspectionTool import TableTool

# What shows the segments that have been compared.
SHOWING = ("segmentsMomentComboBox", "segmentComboBox", "segments3dCheckBox", "segmentsTableButton")


class SegmentsTool(TableTool):
    """Makes the regions and the table, and shows of them what is chosen."""

    def __init__(self, ui: SimpleNamespace, run: RunSection, logic: Any) -> None:
        """Connect the widgets; parameters as `InspectionTool`."""
        super().__init__(ui, run, logic)
        ui.compareSegmentsButton.connect("clicked(bool)", self.onCompare)
        ui.segmentComboBox.connect("currentIndexChanged(int)", self.onSegment)
        ui.segmentsTableButton.connect("clicked(bool)", lambda: self.showTable(SegmentNodes.TABLE_ROLE))

    def update(self, problem: str) -> None:
        """Say whether segments can be compared, and show what is chosen of those that have been."""
        ui, chosen = self._ui, self.chosen
        deformation = None if problem else self.deformation()
        if deformation is not None:
            problem = Segments.checkSegments(deformation, *self._pair(deformation))
        self.offer(["compareSegmentsButton"], problem)
        names = [] if deformation is None else SegmentNodes.structures(deformation)
        structure = chosen.inspectSegment if chosen.inspectSegment in names else ""
        Parts.fillComboBox(ui.segmentComboBox, [(_("All"), ""), *((name, name) for name in names)], structure)
        self.offer(SHOWING, "" if names else problem or _("Compare the segments first."))
        Parts.putText(ui.segmentsLabel, "" if deformation is None else SegmentNodes.describe(deformation, structure))
        ui.segmentsLabel.visible = bool(names)
        if names:
            wanted = deformation, chosen.inspectSegments.value, structure, chosen.inspectSegments3d
            self.showOnce(SegmentNodes.show, *wanted)

    def onCompare(self) -> None:
        """Compare the segmentations."""

        def compare(pause: Pause) -> SegmentNodes.SegmentNodes:
            deformation = self.deformation()
            return SegmentNodes.create(Segments.compare(deformation, *self._pair(deformation), pause))

        self.make(compare)

    def _pair(self, deformation: Deformation) -> tuple[slicer.vtkMRMLNode | None, slicer.vtkMRMLNode | None]:
        """Return what is compared: the segmentations chosen as inputs, without them the structures the network saw."""
        chosen = self.chosen.fixedSegmentation, self.chosen.movingSegmentation
        predicted = Structures.pairOf(deformation.transformNode)
        return predicted if None in chosen and None not in predicted else chosen

    def onSegment(self, index: int) -> None:
        """Show another segment."""
        self.chosen.inspectSegment = self._ui.segmentComboBox.itemData(index)
