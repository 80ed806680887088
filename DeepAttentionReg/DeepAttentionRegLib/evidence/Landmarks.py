"""How far landmarks of the fixed volume are from those of the moving one, before and after a registration.

A fixed landmark is carried to the moving volume by the deformation, which needs no inverse, and its distance from the
moving landmark is the target registration error. Arrows show it where the moving volume lies in the world: from where
the fixed landmark goes to where the moving one is.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from DeepAttentionRegEngine.volume import fields, metrics
from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras

from ..nodes import ErrorBound, Metrics, Record, Transforms, Volumes, Warping
from ..nodes.Deformation import Deformation
from ..nodes.Present import present
from ..tasks import Results

BEFORE, AFTER = "before", "after"
ROLES = {BEFORE: "LandmarksBefore", AFTER: "LandmarksAfter"}
TABLE_ROLE = "Landmarks"
# Of the palette of Okabe and Ito: orange and sky blue, bright on gray and told apart by the color-blind.
COLORS = {BEFORE: (0.90, 0.62, 0.0), AFTER: (0.34, 0.71, 0.91)}
RADIUS_SHARE = 0.003  # of an arrow's shaft, of the diagonal of the fixed volume
TIP_RADII, TIP_LENGTH = 2.6, 7.0  # of its tip, in radii of the shaft


@dataclass(frozen=True)
class Pairing:
    """Which landmarks belong together.

    :param indices: of the fixed and the moving one of each pair.
    :param names: of the pairs.
    :param warnings: sentences on what was left out, and why these are paired.
    """

    indices: list[tuple[int, int]]
    names: list[str]
    warnings: list[str]


@dataclass(frozen=True)
class Measurement:
    """What was found.

    :param deformation: the deformation.
    :param names: of the landmarks.
    :param errorsMm: distance of each landmark, by state.
    :param arrowsRas: tails and heads, each (N, 3) in the world, by state.
    :param warnings: sentences.
    :param withinMm: the true place of each landmark is this near to where it is carried, with 95 % probability; NaN
        outside of the fixed volume; None where that is not known.
    """

    deformation: Deformation
    names: list[str]
    errorsMm: dict[str, np.ndarray]
    arrowsRas: dict[str, tuple[np.ndarray, np.ndarray]]
    warnings: list[str]
    withinMm: np.ndarray | None = None


@dataclass(frozen=True)
class LandmarkNodes:
    """What a measurement has become.

    :param before: arrows before the registration.
    :param after: arrows after it.
    :param table: mean, maximum, and one row a landmark.
    """

    before: slicer.vtkMRMLModelNode
    after: slicer.vtkMRMLModelNode
    table: slicer.vtkMRMLTableNode


def checkLandmarks(
    deformation: Deformation, fixed: slicer.vtkMRMLMarkupsNode | None, moving: slicer.vtkMRMLMarkupsNode | None
) -> str:
    """Return why landmarks cannot be measured, as a sentence; empty if they can. Arguments as of `measure`."""
    if fixed is None or moving is None:
        return _("Choose fixed and moving landmarks among the inputs.")
    if fixed is moving:
        return _("Fixed and moving landmarks are the same list; choose two.")
    if fixed.IsA("vtkMRMLMarkupsCurveNode") or moving.IsA("vtkMRMLMarkupsCurveNode"):
        return _("Curves guide and are measured with a registration; here choose lists of points.")
    for node in (fixed, moving):
        if not _placed(node):
            return _("{name} has no landmark that is placed.").format(name=node.GetName())
    if Warping.toFrame(moving, deformation.transformNode) is None:
        text = _("{name} is under a non-linear transform; take it out of that or harden it first (Data module).")
        return text.format(name=moving.GetName())
    return ""


def pairUp(fixed: list[str], moving: list[str]) -> Pairing:
    """Pair landmarks by order, unless that would tear apart two of the same name; then by name.

    :param fixed: names in order.
    :param moving: names in order.
    """
    areUnique = len(set(fixed)) == len(fixed) and len(set(moving)) == len(moving)
    common = set(fixed) & set(moving) if areUnique else set()
    byName = [(fixed.index(name), moving.index(name)) for name in fixed if name in common]
    if all(first == second for first, second in byName):
        indices = [(index, index) for index in range(min(len(fixed), len(moving)))]
    else:
        indices = byName
    names = [
        fixed[first] if fixed[first] == moving[second] else f"{fixed[first]} / {moving[second]}"
        for first, second in indices
    ]
    lonely = [name for index, name in enumerate(fixed) if index not in {first for first, _second in indices}]
    lonely += [name for index, name in enumerate(moving) if index not in {second for _first, second in indices}]
    warnings = []
    if lonely:
        how = _("by name") if indices is byName else _("in their order")
        text = _("There are {fixed} fixed and {moving} moving landmarks, paired {how}; without a partner: {names}.")
        warnings = [text.format(fixed=len(fixed), moving=len(moving), how=how, names=", ".join(lonely))]
    elif indices is byName:
        warnings = [_("The landmarks are listed in another order, so they were paired by name.")]
    return Pairing(indices, names, warnings)


def measure(
    deformation: Deformation, fixed: slicer.vtkMRMLMarkupsNode, moving: slicer.vtkMRMLMarkupsNode
) -> Measurement:
    """Measure the landmarks before and after; the scene stays as it is.

    :param deformation: the deformation.
    :param fixed: landmarks of the fixed volume.
    :param moving: landmarks of the moving volume.
    :raises ValueError: if it cannot be done; says why.
    """
    problem = checkLandmarks(deformation, fixed, moving)
    if problem:
        raise ValueError(problem)
    pairing = pairUp(_labels(fixed), _labels(moving))
    first, second = np.transpose(pairing.indices)
    fixedRas = _positions(fixed, world=True)[first]
    toFrame = present(Warping.toFrame(moving, deformation.transformNode))
    targets = Transforms.applyMatrix(toFrame, _positions(moving, world=False)[second])
    start, grid = Record.startOf(deformation), Volumes.geometryOf(deformation.fixed, Warping.WORLD)
    displacementLps, geometry = Transforms.readGrid(deformation.transformNode)
    fixedLps, targetsLps = flip_lps_ras(fixedRas), flip_lps_ras(targets)
    carried = {
        BEFORE: Transforms.applyMatrix(start, fixedRas),
        AFTER: flip_lps_ras(fields.transform_points(displacementLps, geometry, fixedLps)),
    }
    errors = {
        BEFORE: metrics.identity_error(flip_lps_ras(carried[BEFORE]), targetsLps),
        AFTER: metrics.target_registration_error(fixedLps, targetsLps, displacementLps, geometry),
    }
    toWorld = np.linalg.inv(start)
    heads = Transforms.applyMatrix(toWorld, targets)
    arrows = {state: (Transforms.applyMatrix(toWorld, points), heads) for state, points in carried.items()}
    beyond = _isBeyond(fixedLps, grid)
    warnings = [*_tellUnplaced(fixed, moving), *pairing.warnings, *_tellOutside(beyond, pairing.names)]
    bound = ErrorBound.atPoints(deformation.transformNode, fixedRas)
    withinMm = None if bound is None else np.where(beyond, np.nan, bound)
    return Measurement(deformation, pairing.names, errors, arrows, warnings, withinMm)


def create(measurement: Measurement) -> LandmarkNodes:
    """Put a measurement into the scene, in place of an earlier one of the same transform; only "after" is shown."""
    deformation = measurement.deformation
    transform = deformation.transformNode
    with Results.allOrNothing(Record.attached(transform, role) for role in (*ROLES.values(), TABLE_ROLE)):
        arrows = {state: _createArrows(measurement, state) for state in ROLES}
        text = _("{name} landmarks").format(name=deformation.name)
        table = Metrics.createTable(makeTable(measurement), text, Record.attached(transform, TABLE_ROLE))
        table.SetDescription(" ".join(measurement.warnings))
        for state, node in arrows.items():
            Record.attach(transform, ROLES[state], node)
        Record.attach(transform, TABLE_ROLE, table)
    show(deformation, AFTER)
    return LandmarkNodes(arrows[BEFORE], arrows[AFTER], table)


def show(deformation: Deformation, state: str | None) -> None:
    """Show the arrows of one state, or none, in all views.

    :param deformation: the deformation, whose landmarks have been measured.
    :param state: `BEFORE` or `AFTER`; None hides both.
    """
    for name, role in ROLES.items():
        node = Record.attached(deformation.transformNode, role)
        if node is not None:
            node.GetDisplayNode().SetVisibility(name == state)


def makeTable(measurement: Measurement) -> vtk.vtkTable:
    """Return a table with mean, maximum and a row for each landmark, outside of any scene."""
    before, after = (measurement.errorsMm[state] for state in ROLES)

    def column(values: np.ndarray) -> list[float]:
        known = values[np.isfinite(values)]
        summary = (known.mean(), known.max()) if known.size else (np.nan, np.nan)
        return [*map(float, summary), *values.tolist()]

    bound = measurement.withinMm
    return Metrics.tableOf(
        {
            _("Landmark"): [_("Mean"), _("Maximum"), *measurement.names],
            _("Error before (mm)"): column(before),
            _("Error after (mm)"): column(after),
            **({} if bound is None else {_("Error within (mm)"): column(bound)}),
        }
    )


def describe(deformation: Deformation) -> str:
    """Return what the table says of all landmarks, in words; empty without a table."""
    table = Record.attached(deformation.transformNode, TABLE_ROLE)
    if table is None:
        return ""
    mean, largest, *points = Metrics.rowsOf(table)
    text = _("{count} landmarks. Error {before} mm before, {after} mm after (mean); at most {most} mm after.")
    text = text.format(
        count=len(points),
        before=Metrics.numberText(mean[_("Error before (mm)")]),
        after=Metrics.numberText(mean[_("Error after (mm)")]),
        most=Metrics.numberText(largest[_("Error after (mm)")]),
    )
    return f"{text} {_describeBound(points)}".strip()


def _describeBound(points: list[dict[str, Any]]) -> str:
    """Return how many landmarks were as near as was to be expected; empty where nothing was."""
    known = [row for row in points if not math.isnan(row.get(_("Error within (mm)"), math.nan))]
    if not known:
        return ""
    held = sum(row[_("Error after (mm)")] <= row[_("Error within (mm)")] for row in known)
    text = _("{held} of {count} errors after are within their 95 % bound.")
    return text.format(held=held, count=len(known))


def _placed(node: slicer.vtkMRMLMarkupsNode) -> list[int]:
    count = node.GetNumberOfControlPoints()
    return [index for index in range(count) if node.GetNthControlPointPositionStatus(index) == node.PositionDefined]


def _labels(node: slicer.vtkMRMLMarkupsNode) -> list[str]:
    return [node.GetNthControlPointLabel(index) for index in _placed(node)]


def _positions(node: slicer.vtkMRMLMarkupsNode, *, world: bool) -> np.ndarray:
    return slicer.util.arrayFromMarkupsControlPoints(node, world=world)[_placed(node)]


def _tellUnplaced(*nodes: slicer.vtkMRMLMarkupsNode) -> list[str]:
    text = _("{count} landmarks of {name} are not placed and were left out.")
    counts = {node: node.GetNumberOfControlPoints() - len(_placed(node)) for node in nodes}
    return [text.format(count=count, name=node.GetName()) for node, count in counts.items() if count]


def _isBeyond(pointsLps: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return which points lie beyond the voxels of a grid."""
    index = geometry.lps_to_index(pointsLps)
    return np.any((index < -0.5) | (index > np.array(geometry.size) - 0.5), axis=1)


def _tellOutside(beyond: np.ndarray, names: list[str]) -> list[str]:
    """Return a sentence if points lie beyond the fixed volume, where the deformation is a guess."""
    if not beyond.any():
        return []
    text = _("Outside of the fixed volume, where the deformation is not known: {names}.")
    return [text.format(names=", ".join(name for name, isOut in zip(names, beyond, strict=True) if isOut))]


def _createArrows(measurement: Measurement, state: str) -> slicer.vtkMRMLModelNode:
    deformation = measurement.deformation
    node = Record.attached(deformation.transformNode, ROLES[state])
    if node is None:
        text = {BEFORE: _("{name} landmarks before"), AFTER: _("{name} landmarks after")}[state]
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", text.format(name=deformation.name))
    grid = Volumes.geometryOf(deformation.fixed, Warping.WORLD)
    diagonal = float(np.linalg.norm(np.array(grid.size) * grid.spacing))
    node.SetAndObserveMesh(makeArrows(*measurement.arrowsRas[state], RADIUS_SHARE * diagonal))
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetColor(*COLORS[state])
    display.SetVisibility2D(True)
    # A slice seldom runs along an arrow, whose section would be but a dot.
    display.SetSliceDisplayModeToProjection()
    return node


def makeArrows(tails: np.ndarray, heads: np.ndarray, radiusMm: float) -> vtk.vtkPolyData:
    """Return arrows of one thickness from tails to heads, each (N, 3) RAS mm; one without length is left out."""
    append = vtk.vtkAppendPolyData()
    append.AddInputData(vtk.vtkPolyData())  # so that there is a mesh even if nothing is off
    for tail, vector in zip(tails, heads - tails, strict=True):
        length = float(np.linalg.norm(vector))
        if length < 1e-3:
            continue
        scale = min(radiusMm, length / TIP_LENGTH) / length
        arrow = vtk.vtkArrowSource()
        arrow.SetShaftRadius(scale)
        arrow.SetTipRadius(TIP_RADII * scale)
        arrow.SetTipLength(TIP_LENGTH * scale)
        for resolution in (arrow.SetShaftResolution, arrow.SetTipResolution):
            resolution(12)
        place = vtk.vtkTransformPolyDataFilter()
        place.SetInputConnection(arrow.GetOutputPort())
        place.SetTransform(_alongX(tail, vector))
        place.Update()
        append.AddInputData(place.GetOutput())
    append.Update()
    return append.GetOutput()


def _alongX(origin: np.ndarray, vector: np.ndarray) -> vtk.vtkTransform:
    """Return the transform of the unit vector of x to a vector at an origin, as long in all directions."""
    length = np.linalg.norm(vector)
    side = np.cross(vector, np.eye(3)[np.abs(vector).argmin()])
    side *= length / np.linalg.norm(side)
    matrix = np.eye(4)
    matrix[:3, :3] = np.transpose([vector, side, np.cross(vector, side) / length])
    matrix[:3, 3] = origin
    transform = vtk.vtkTransform()
    transform.SetMatrix(slicer.util.vtkMatrixFromArray(matrix))
    return transform
