"""The table of segments: how they agree before and after a registration, their volumes, the Jacobian within them."""

import math
from dataclasses import dataclass, field

import slicer
import vtk
from slicer.i18n import tr as _

from DeepAttentionRegEngine.volume import fields, metrics

from . import Metrics

ROLE = "Segments"
BEFORE, AFTER = "before", "after"
STATES = (BEFORE, AFTER)


@dataclass(frozen=True)
class MeasuredSegment:
    """A pair of segments in numbers.

    :param name: of the fixed segment.
    :param fixedMl: volume of the fixed segment.
    :param movingMl: volume of the moving segment as it was, in all of its own volume.
    :param scores: agreement with the moving segment, by state.
    :param jacobian: of the deformation within the fixed segment; None if that is empty.
    :param scale: how many times as large the moving volume is in its own coordinates, of which the Jacobian tells, as
        in the world.
    :param withinMm: median and 95th percentile, within the fixed segment, of the mm within which the true displacement
        lies with 95 % probability; None where that is not known.
    """

    name: str
    fixedMl: float
    movingMl: float
    scores: dict[str, metrics.Agreement]
    jacobian: fields.JacobianSummary | None
    scale: float
    withinMm: tuple[float, float] | None = field(default=None, kw_only=True)

    @property
    def changePercent(self) -> float:
        """By how many percent the deformation has made the moving segment larger (negative: smaller)."""
        return metrics.change_percent(self.movingMl, self.scores[AFTER].volume_ml)

    @property
    def ownChangePercent(self) -> float:
        """By how many percent the fixed segment, as drawn, is larger than the moving one (negative: smaller)."""
        return metrics.change_percent(self.movingMl, self.fixedMl)

    @property
    def jacobianChangePercent(self) -> float:
        """The same if the moving tissue is what the deformation brings into the fixed segment; NaN if it folds over."""
        if self.jacobian is None or self.jacobian.mean <= 0:
            return math.nan
        return metrics.change_percent(self.fixedMl * self.jacobian.mean / self.scale, self.fixedMl)


def make(segments: list[MeasuredSegment]) -> vtk.vtkTable:
    """Return a table with a row for each pair, outside of any scene; what cannot be measured is NaN."""

    def scores(state: str, measure: str) -> list[float]:
        return [getattr(item.scores[state], measure) for item in segments]

    def jacobian(measure: str) -> list[float]:
        return [math.nan if item.jacobian is None else float(getattr(item.jacobian, measure)) for item in segments]

    return Metrics.tableOf(
        {
            _("Segment"): [item.name for item in segments],
            _("Dice before"): scores(BEFORE, "dice"),
            _("Dice after"): scores(AFTER, "dice"),
            _("HD95 before (mm)"): scores(BEFORE, "hd95_mm"),
            _("HD95 after (mm)"): scores(AFTER, "hd95_mm"),
            _("ASSD before (mm)"): scores(BEFORE, "assd_mm"),
            _("ASSD after (mm)"): scores(AFTER, "assd_mm"),
            _("Volume change (%)"): [item.changePercent for item in segments],
            _("Moving to fixed volume, in the images (%)"): [item.ownChangePercent for item in segments],
            _("Moving to fixed volume, by the Jacobian (%)"): [item.jacobianChangePercent for item in segments],
            _("Fixed volume (ml)"): [item.fixedMl for item in segments],
            _("Moving volume before (ml)"): [item.movingMl for item in segments],
            _("Moving volume after (ml)"): scores(AFTER, "volume_ml"),
            _("Jacobian mean"): jacobian("mean"),
            _("Jacobian min"): jacobian("minimum"),
            _("Jacobian max"): jacobian("maximum"),
            _("Folded voxels"): jacobian("folds"),
            **_errorColumns(segments),
        }
    )


def _errorColumns(segments: list[MeasuredSegment]) -> dict[str, list[float]]:
    """Return the columns of the error's bound; none where it is not known."""
    if all(item.withinMm is None for item in segments):
        return {}
    medians, percentiles = zip(*(item.withinMm or (math.nan, math.nan) for item in segments), strict=True)
    return {_("Error within, median (mm)"): list(medians), _("Error within, p95 (mm)"): list(percentiles)}


def put(
    table: vtk.vtkTable, name: str, notes: list[str], node: slicer.vtkMRMLTableNode | None = None
) -> slicer.vtkMRMLTableNode:
    """Put a table into a node.

    :param table: from `make`.
    :param name: of a new node.
    :param notes: what has to be known to read it, as sentences.
    :param node: existing node to write into; None adds one.
    """
    node = Metrics.createTable(table, name, node)
    node.SetDescription(" ".join(notes))
    return node
