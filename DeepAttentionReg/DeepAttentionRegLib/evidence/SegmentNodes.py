"""The agreement of segments as nodes: regions in color before and after, and a table."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from DeepAttentionRegEngine.volume import metrics
from DeepAttentionRegEngine.volume.geometry import Geometry

from ..nodes import Metrics, Record, SegmentTable, Structures, Volumes, Warping
from ..nodes.Deformation import Deformation
from ..tasks import Results
from .Segments import AFTER, BEFORE, Part, SegmentComparison

ROLES = {BEFORE: "SegmentsBefore", AFTER: "SegmentsAfter"}
TABLE_ROLE = SegmentTable.ROLE
STRUCTURE_TAG, KIND_TAG = "DeepAttentionReg.Structure", "DeepAttentionReg.Region"
# Thin regions would vanish by the usual smoothing of surfaces.
SMOOTHING = "0.2"


@dataclass(frozen=True)
class Style:
    """How a kind of region looks.

    :param color: of the palette of Okabe and Ito, which people tell apart who do not see red or green.
    :param fill: opacity in slices; what agrees is thin, so that the anatomy shows.
    :param opacity: opacity in 3D.
    """

    color: tuple[float, float, float]
    fill: float
    opacity: float


STYLES = {
    metrics.AGREEMENT: Style((0.0, 0.62, 0.45), 0.2, 0.3),
    metrics.MISSED: Style((0.90, 0.62, 0.0), 0.75, 1.0),
    metrics.SURPLUS: Style((0.0, 0.45, 0.70), 0.75, 1.0),
}


@dataclass(frozen=True)
class SegmentNodes:
    """What a comparison has become.

    :param before: regions before the registration.
    :param after: regions after it.
    :param table: one row a segment.
    """

    before: slicer.vtkMRMLSegmentationNode
    after: slicer.vtkMRMLSegmentationNode
    table: slicer.vtkMRMLTableNode


def kindName(kind: int) -> str:
    """Return what a kind of region is called."""
    return {
        metrics.AGREEMENT: _("agreement"),
        metrics.MISSED: _("missed"),
        metrics.SURPLUS: _("surplus"),
    }[kind]


def create(comparison: SegmentComparison) -> SegmentNodes:
    """Put a comparison into the scene, in place of an earlier one of the same transform; only "after" is shown."""
    deformation = comparison.deformation
    transform = deformation.transformNode
    with Results.allOrNothing(Record.attached(transform, role) for role in (*ROLES.values(), TABLE_ROLE)):
        overlays = {state: _createOverlay(comparison, state) for state in ROLES}
        table = SegmentTable.put(
            SegmentTable.make(list(comparison.structures)),
            _("{name} segments").format(name=deformation.name),
            comparison.warnings,
            Record.attached(transform, TABLE_ROLE),
        )
        Structures.mark(table, isPredicted=comparison.isPredicted)
        for state, node in overlays.items():
            Record.attach(transform, ROLES[state], node)
        Record.attach(transform, TABLE_ROLE, table)
    show(deformation, AFTER)
    return SegmentNodes(overlays[BEFORE], overlays[AFTER], table)


def show(deformation: Deformation, state: str | None, structure: str = "", in3d: bool = False) -> None:
    """Show the regions of one state, or none, in all views.

    :param deformation: the deformation, whose segments have been compared.
    :param state: `Segments.BEFORE` or `Segments.AFTER`; None hides both.
    :param structure: name of the only segment to show; empty shows all.
    :param in3d: in 3D views, too; their surfaces are made when they are shown the first time.
    """
    for name, role in ROLES.items():
        node = Record.attached(deformation.transformNode, role)
        if node is None:
            continue
        display, segmentation = node.GetDisplayNode(), node.GetSegmentation()
        if name == state and in3d and not segmentation.ContainsRepresentation(Warping.CLOSED_SURFACE):
            node.CreateClosedSurfaceRepresentation()
        for segmentId in segmentation.GetSegmentIDs():
            display.SetSegmentVisibility(
                segmentId, structure in ("", _tagOf(segmentation.GetSegment(segmentId), STRUCTURE_TAG))
            )
        display.SetVisibility(name == state)
        display.SetVisibility3D(in3d)


def structures(deformation: Deformation) -> list[str]:
    """Return the names of the segments that have been compared, as they are in the table."""
    table = Record.attached(deformation.transformNode, TABLE_ROLE)
    if table is None:
        return []
    names = table.GetTable().GetColumn(0)
    return [names.GetValue(row) for row in range(names.GetNumberOfValues())]


def regionsOf(node: slicer.vtkMRMLSegmentationNode) -> Iterator[tuple[int, np.ndarray, Geometry, int]]:
    """Yield kind, label map (k, j, i), grid and label value of each region that is not empty.

    :param node: from `create`.
    """
    segmentation, matrix = node.GetSegmentation(), vtk.vtkMatrix4x4()
    for segment in (segmentation.GetSegment(name) for name in segmentation.GetSegmentIDs()):
        image = segment.GetRepresentation(Volumes.BINARY_LABELMAP)
        if not image.GetNumberOfPoints() or not _tagOf(segment, KIND_TAG):  # emptied or added by the user
            continue
        image.GetImageToWorldMatrix(matrix)
        toFirst = np.eye(4)
        toFirst[:3, 3] = image.GetExtent()[::2]
        grid = Geometry.from_ijk_to_ras(slicer.util.arrayFromVTKMatrix(matrix) @ toFirst, image.GetDimensions())
        labels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(grid.shape)
        yield int(_tagOf(segment, KIND_TAG)), labels, grid, segment.GetLabelValue()


def describe(deformation: Deformation, structure: str = "") -> str:
    """Return what the table says of a segment, or of all if none is named, in words; empty without a table."""
    table = Record.attached(deformation.transformNode, TABLE_ROLE)
    rows = [] if table is None else Metrics.rowsOf(table)
    if not rows:
        return ""
    named = [row for row in rows if row[_("Segment")] == structure]
    text = _describeOne(named[0]) if named else _describeAll(rows)
    return "\n".join([text, *Structures.tell([table])])


def _describeAll(rows: list[dict[str, Any]]) -> str:
    before, after = ([row[name] for row in rows] for name in (_("Dice before"), _("Dice after")))
    worst = min(rows, key=lambda row: _orZero(row[_("Dice after")]))
    text = _("{count} segments. Mean Dice {before} before, {after} after; lowest after: {name}, {least}.")
    return text.format(
        count=len(rows),
        before=Metrics.numberText(float(np.nanmean(before))),
        after=Metrics.numberText(float(np.nanmean(after))),
        name=worst[_("Segment")],
        least=Metrics.numberText(worst[_("Dice after")]),
    )


def _describeOne(row: dict[str, Any]) -> str:
    measures = {
        _("Dice"): (_("Dice before"), _("Dice after")),
        _("HD95 (mm)"): (_("HD95 before (mm)"), _("HD95 after (mm)")),
        _("ASSD (mm)"): (_("ASSD before (mm)"), _("ASSD after (mm)")),
    }
    change = _("{measure} {before} before, {after} after.")
    lines = [
        change.format(measure=measure, before=Metrics.numberText(row[before]), after=Metrics.numberText(row[after]))
        for measure, (before, after) in measures.items()
    ]
    text = _("The deformation changes its volume by {percent} %, from {before} to {after} ml; fixed: {fixed} ml.")
    lines.append(
        text.format(
            percent=Metrics.numberText(row[_("Volume change (%)")], signed=True),
            before=Metrics.numberText(row[_("Moving volume before (ml)")]),
            after=Metrics.numberText(row[_("Moving volume after (ml)")]),
            fixed=Metrics.numberText(row[_("Fixed volume (ml)")]),
        )
    )
    text = _("From moving to fixed it changes by {own} % as drawn in the images, by {jacobian} % by the Jacobian.")
    lines.append(
        text.format(
            own=Metrics.numberText(row[_("Moving to fixed volume, in the images (%)")], signed=True),
            jacobian=Metrics.numberText(row[_("Moving to fixed volume, by the Jacobian (%)")], signed=True),
        )
    )
    text = _("Jacobian determinant within the fixed segment: mean {mean}, {low} to {high}; {folds} folded voxels.")
    lines.append(
        text.format(
            mean=Metrics.numberText(row[_("Jacobian mean")]),
            low=Metrics.numberText(row[_("Jacobian min")]),
            high=Metrics.numberText(row[_("Jacobian max")]),
            folds=Metrics.numberText(row[_("Folded voxels")]),
        )
    )
    if _("Error within, median (mm)") in row:
        text = _("Error, 95 % within: median {median} mm over the fixed segment, 95th percentile {p95} mm.")
        bounds = row[_("Error within, median (mm)")], row[_("Error within, p95 (mm)")]
        lines.append(text.format(median=Metrics.numberText(bounds[0]), p95=Metrics.numberText(bounds[1])))
    return "\n".join(lines)


def _orZero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _tagOf(segment: slicer.vtkSegment, tag: str) -> str:
    value = vtk.reference("")
    return str(value) if segment.GetTag(tag, value) else ""


def _createOverlay(comparison: SegmentComparison, state: str) -> slicer.vtkMRMLSegmentationNode:
    deformation = comparison.deformation
    segmentation = slicer.vtkSegmentation()
    segmentation.SetSourceRepresentationName(Volumes.BINARY_LABELMAP)
    segmentation.SetConversionParameter("Smoothing factor", SMOOTHING)
    kinds = {}
    # What comes later is drawn over the rest: where neighbors dispute a place, the smaller one is seen.
    for structure in sorted(comparison.structures, key=lambda item: -item.fixedMl):
        image = _imageOf(structure.parts[state], comparison.geometry)
        present = set(structure.parts[state].regions.ravel().tolist())
        for kind in [kind for kind in STYLES if kind in present]:
            segment = slicer.vtkSegment()
            segment.SetName(_("{structure}: {kind}").format(structure=structure.name, kind=kindName(kind)))
            segment.SetColor(*STYLES[kind].color)
            segment.SetLabelValue(kind)
            segment.SetTag(STRUCTURE_TAG, structure.name)
            segment.SetTag(KIND_TAG, str(kind))
            segment.AddRepresentation(Volumes.BINARY_LABELMAP, image)
            kinds[segmentation.GenerateUniqueSegmentID(structure.name)] = kind
            segmentation.AddSegment(segment, list(kinds)[-1])
    text = {BEFORE: _("{name} segments before"), AFTER: _("{name} segments after")}[state]
    former = Record.attached(deformation.transformNode, ROLES[state])
    node = Volumes.createSegmentation(segmentation, text.format(name=deformation.name), deformation.fixed, former)
    display = node.GetDisplayNode()
    display.SetOpacity2DFill(1.0)
    for segmentId, kind in kinds.items():
        display.SetSegmentOpacity2DFill(segmentId, STYLES[kind].fill)
        display.SetSegmentOpacity3D(segmentId, STYLES[kind].opacity)
    return node


def _imageOf(part: Part, geometry: Geometry) -> slicer.vtkOrientedImageData:
    """Return regions as label map at their place on the grid."""
    image = Volumes.makeImage(part.regions, slicer.vtkOrientedImageData)
    ends = [first + size - 1 for first, size in zip(part.first, part.regions.shape[::-1], strict=True)]
    image.SetExtent([bound for pair in zip(part.first, ends, strict=True) for bound in pair])
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(geometry.ijk_to_ras))
    return image
