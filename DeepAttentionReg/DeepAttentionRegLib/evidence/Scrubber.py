"""A deformation step by step: the warped volume and the deformed grid in the slice views, and how it came to fit.

    scrubber = Scrubber(Deformation.ofTransform(transformNode))
    scrubber.show()
    for step in range(scrubber.evidence.count):
        scrubber.evidence.step = step
    scrubber.close()
    chart = plot(deformation, fixedSegmentation, movingSegmentation)

The step is that of a sequence browser, so that Slicer's own toolbar for sequences plays the deformation, too.
"""

import math

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from DeepAttentionRegEngine.volume import metrics

from ..nodes import EvidenceFiles, Overlays, Record, SegmentPairs, Volumes, Warping
from ..nodes.Deformation import Deformation
from ..nodes.Present import present
from ..views.WarpedView import WarpedView
from .RecursionEvidence import RecursionEvidence
from .Segments import drawStructures

SIMILARITY, FOLDS, DICE = 1, 2, 3  # columns of the table
CHART_ROLE = "StepsChart"
FONT_SIZE = 12  # so that titles fit into a view that is a quarter of the window
LEGEND_SHARE = 0.3  # of the height of a chart: what the legend takes in such a view
# Of the palette of Okabe and Ito, which people tell apart who do not see red or green.
SERIES_COLORS = {SIMILARITY: (0.0, 0.45, 0.70), FOLDS: (0.84, 0.37, 0.0), DICE: (0.0, 0.62, 0.45)}


class Scrubber:
    """Shows the present step of a deformation over the fixed volume."""

    def __init__(self, deformation: Deformation) -> None:
        """Prepare; nothing is shown before `show`.

        :param deformation: the deformation.
        :raises ValueError: with a sentence, if its steps were not kept.
        """
        self.evidence = RecursionEvidence(deformation.transformNode)
        self._deformation = deformation
        self._view = WarpedView(deformation.fixed, deformation.moving, _("step"))

    def show(self, *, withGrid: bool = True) -> None:
        """Show the moving volume as it is deformed after the present step, which may change from then on.

        :param withGrid: also show the deformed grid.
        """
        self._view.show(self.evidence.shownTransform)
        self.showGrid(withGrid)

    def showGrid(self, isShown: bool) -> None:
        """Show or hide the deformed grid."""
        transform = self.evidence.shownTransform
        if isShown:
            step = self.evidence.step
            self.evidence.step = self.evidence.count - 1  # the colors are those of the largest displacement
            Overlays.showGrid(transform, self._deformation.fixed)
            self.evidence.step = step
        elif transform.GetDisplayNode() is not None:
            transform.GetDisplayNode().SetVisibility(False)

    def close(self) -> None:
        """Show what was shown before."""
        self._view.close()
        if self.evidence.shownTransform is not None:
            self.showGrid(False)


def describe(evidence: RecursionEvidence, step: int) -> str:
    """Return what is known of a step, for people."""
    parts = [evidence.label(step)]
    if evidence.table is not None:
        table = evidence.table.GetTable()
        names = _("similarity {value:.3f}"), _("{value:.2f} % folded"), _("Dice {value:.3f}")
        for column, name in enumerate(names[: table.GetNumberOfColumns() - 1], start=1):
            value = float(table.GetValue(step, column).ToString())
            if math.isfinite(value):
                parts.append(name.format(value=value))
    return ", ".join(parts)


def plot(
    deformation: Deformation,
    fixedSegmentation: slicer.vtkMRMLNode | None = None,
    movingSegmentation: slicer.vtkMRMLNode | None = None,
) -> slicer.vtkMRMLPlotChartNode:
    """Return a chart of similarity, folds and, with two segmentations, overlap against the step.

    :param deformation: the deformation.
    :param fixedSegmentation: segmentation or label map volume that belongs to the fixed volume.
    :param movingSegmentation: the same of the moving volume.
    :raises ValueError: with a sentence, if the steps were not kept or the segmentations cannot be compared.
    """
    evidence = RecursionEvidence(deformation.transformNode)
    if evidence.table is None:
        raise ValueError(_("The table of the steps is gone; register again."))
    if fixedSegmentation is not None and movingSegmentation is not None:
        overlaps = measureOverlap(deformation, evidence, fixedSegmentation, movingSegmentation)
        _setColumn(evidence.table, DICE, _("Dice, mean of the structures"), overlaps)
    return _createChart(evidence, deformation.name)


def measureOverlap(
    deformation: Deformation,
    evidence: RecursionEvidence,
    fixedSegmentation: slicer.vtkMRMLNode,
    movingSegmentation: slicer.vtkMRMLNode,
) -> list[float]:
    """Return the Dice overlap at every step, mean of the structures that both have, on the grid of the fixed volume.

    Over a large one a coarser grid is taken; that of the fields does not matter. Structures are paired as registrations
    pair them, and each is compared by itself.

    :raises ValueError: with a sentence, if the segmentations cannot be compared.
    """
    problem = Volumes.checkNode(fixedSegmentation) or Warping.checkWarp(
        movingSegmentation, deformation.transformNode, None, deformation.fixed
    )
    if problem:
        raise ValueError(problem)
    voxels = min(EvidenceFiles.STEP_VOXELS, EvidenceFiles.ALL_VOXELS // evidence.count)
    geometry = Volumes.placeOf(deformation.fixed).coarsened(voxels)
    numbers = SegmentPairs.numberSegments([fixedSegmentation, movingSegmentation])
    toWorld = present(Volumes.matrixToWorld(fixedSegmentation))
    still = drawStructures(fixedSegmentation, numbers[0], toWorld, vtk.vtkTransform(), geometry)
    toFrame = present(Warping.toFrame(movingSegmentation, deformation.transformNode))
    overlaps = []
    for step in range(evidence.count):
        transform = evidence.steps.GetNthDataNode(step).GetTransformFromParent()
        moved = drawStructures(movingSegmentation, numbers[1], toFrame, transform, geometry)
        pairs = [(still[number].mask(), moved[number].mask()) for number in still.keys() & moved.keys()]
        scores = [metrics.dice(*pair, [1])[1] for pair in pairs if all(mask.any() for mask in pair)]
        overlaps.append(float(np.mean(scores)) if scores else math.nan)
    return overlaps


def _setColumn(node: slicer.vtkMRMLTableNode, column: int, name: str, values: list[float]) -> None:
    """Put numbers into a column of a table, which may have just one less."""
    table = node.GetTable()
    kept = range(min(column, table.GetNumberOfColumns()))
    columns = {table.GetColumnName(index): _numbersOf(table, index) for index in kept}
    node.SetAndObserveTable(EvidenceFiles.makeTable({**columns, name: values}))


def _createChart(evidence: RecursionEvidence, name: str) -> slicer.vtkMRMLPlotChartNode:
    """Return the chart of a table of steps, made on first use."""
    table = present(evidence.table)
    chart = Record.attached(evidence.transformNode, CHART_ROLE)
    if chart is None:
        chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode", _("{name} steps chart").format(name=name))
        Record.attach(evidence.transformNode, CHART_ROLE, chart)
    for index in reversed(range(chart.GetNumberOfPlotSeriesNodes())):
        series = chart.GetNthPlotSeriesNode(index)
        chart.RemoveNthPlotSeriesNodeID(index)
        slicer.mrmlScene.RemoveNode(series)
    for column in range(1, table.GetNumberOfColumns()):
        title = table.GetTable().GetColumnName(column)
        series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", title)
        series.SetAndObserveTableNodeID(table.GetID())
        series.SetXColumnName(table.GetTable().GetColumnName(0))
        series.SetYColumnName(title)
        series.SetPlotType(series.PlotTypeScatter)
        series.SetMarkerStyle(series.MarkerStyleCircle)
        series.SetColor(*SERIES_COLORS[column])
        chart.AddAndObservePlotSeriesNodeID(series.GetID())
    chart.SetTitle(name)
    chart.SetXAxisTitle(evidence.steps.GetIndexName() or _("step"))
    chart.SetYAxisTitleVisibility(False)  # the legend names the curves
    for setSize in (chart.SetTitleFontSize, chart.SetAxisTitleFontSize, chart.SetLegendFontSize):
        setSize(FONT_SIZE)
    chart.SetYAxisRangeAuto(False)
    chart.SetYAxisRange(*_rangeOf(table.GetTable()))
    return chart


def _rangeOf(table: vtk.vtkTable) -> tuple[float, float]:
    """Return the range in which to plot a table of steps: with room over the curves for the legend."""
    values = [number for column in range(1, table.GetNumberOfColumns()) for number in _numbersOf(table, column)]
    low, high = float(np.nanmin(values, initial=0)), float(np.nanmax(values, initial=1))
    return low, low + (high - low) / (1 - LEGEND_SHARE)


def _numbersOf(table: vtk.vtkTable, column: int) -> list[float]:
    # Once loaded from a file, numbers may be texts.
    return [float(table.GetValue(row, column).ToString()) for row in range(table.GetNumberOfRows())]
