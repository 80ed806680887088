"""What a report on a deformation says: facts, numbers, pictures and tables, in no particular format.

Everything is gathered from the transform, from what it remembers of its registration and from the nodes that were made
to judge it, so that a report can be made at any time after, also of a scene that was saved and loaded again.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine import __version__
from DeepAttentionRegEngine.protocol.privacy import without_folders_within
from DeepAttentionRegEngine.protocol.reporting import Pause, no_pause
from DeepAttentionRegEngine.volume import fields
from DeepAttentionRegEngine.volume.geometry import flip_lps_ras

from ..evidence import Landmarks, Maps, SegmentNodes
from ..nodes import ErrorBound, FieldMaps, Metrics, Overlays, Record, Transforms, Volumes, Warping
from ..nodes.Deformation import Deformation
from . import Facts, Figures

TABLE_ROLES = ("Metrics", SegmentNodes.TABLE_ROLE, Landmarks.TABLE_ROLE)


@dataclass(frozen=True)
class Table:
    """Numbers of a node.

    :param title: name of the node.
    :param columns: their names; those of texts say what a row is about.
    :param rows: texts and numbers.
    :param note: what has to be known to read it.
    """

    title: str
    columns: list[str]
    rows: list[list[str | float]]
    note: str


@dataclass(frozen=True)
class Content:
    """All of a report.

    :param title: name of the transform.
    :param made: when the report was made.
    :param verdict: what the engine expected of the error; None if it said nothing.
    :param facts: label and text, by section: what was registered, and how.
    :param details: the same of what a reader seldom needs: settings and versions.
    :param keyFigures: what was measured of the whole deformation.
    :param figures: pictures.
    :param tables: numbers of nodes.
    :param warnings: sentences.
    :param citations: what the report refers to.
    :param numbers: all numbers and what they belong to, as JSON knows it.
    """

    title: str
    made: str
    verdict: ErrorBound.ToldVerdict | None
    facts: dict[str, dict[str, str]]
    details: dict[str, dict[str, str]]
    keyFigures: list[Facts.KeyFigure]
    figures: list[Figures.Figure]
    tables: list[Table]
    warnings: list[str]
    citations: list[str]
    numbers: dict[str, Any]


def check(deformation: Deformation) -> str:
    """Return why there can be no report on a deformation, as a sentence; empty if there can."""
    # The moving volume may lie under the deformation itself, to be shown warped.
    return Volumes.checkNode(deformation.fixed) or Warping.checkWarp(
        deformation.moving, deformation.transformNode, reference=deformation.fixed
    )


def gather(deformation: Deformation, pointRas: np.ndarray | None = None, pause: Pause = no_pause) -> Content:
    """Return what there is to say of a deformation; of files it tells the names, but not the folders.

    :param deformation: the deformation.
    :param pointRas: (3,) mm, where the slices of the pictures cross; None takes the center of the fixed volume.
    :param pause: called between pictures and what else takes long.
    :raises ValueError: if there can be no report; says why.
    """
    problem = check(deformation)
    if problem:
        raise ValueError(problem)
    record = Record.recall(deformation.transformNode)
    field = _fieldOf(deformation, pause)
    pause()
    summary = fields.summarize_jacobian(field.jacobian)
    pointLps = Volumes.geometryOf(deformation.fixed, Warping.WORLD).center_lps
    if pointRas is not None:
        pointLps = flip_lps_ras(np.array(pointRas, float))
    content = Content(
        title=deformation.name,
        made=Record.now(),
        verdict=ErrorBound.verdictOf(record.values),
        facts=Facts.facts(deformation, record),
        details=Facts.details(record),
        keyFigures=Facts.keyFigures(deformation, record, summary),
        figures=Figures.draw(deformation, field, pointLps, pause),
        tables=list(_tables(deformation)),
        warnings=_warnings(record, summary),
        citations=Facts.citations(record),
        numbers={},
    )
    pause()
    displacement = {"mean": float(field.magnitude.mean(dtype=float)), "max": float(field.magnitude.max())}
    numbers = {"registration": asdict(record), "jacobian": asdict(summary), "displacement_mm": displacement}
    content.numbers.update(_finite({**_numbersOf(content), **numbers, "maps": _mapNumbers(deformation)}))
    return without_folders_within(content)


def _fieldOf(deformation: Deformation, pause: Pause) -> Figures.Field:
    own, geometry = Transforms.readGrid(deformation.transformNode), Volumes.placeOf(deformation.fixed)
    jacobian = FieldMaps.jacobian(own, geometry, pause)
    return Figures.Field(*own, jacobian, FieldMaps.magnitude(own, geometry, pause), geometry)


def _numbersOf(content: Content) -> dict[str, Any]:
    """Return the numbers among what a report says, for programs."""
    return {
        "report": {"transform": content.title, "made": content.made, "version": __version__},
        "tables": {
            table.title: [dict(zip(table.columns, row, strict=True)) for row in table.rows] for table in content.tables
        },
        "warnings": content.warnings,
        "key_figures": [asdict(figure) for figure in content.keyFigures],
    }


def _warnings(record: Record.Record, summary: fields.JacobianSummary) -> list[str]:
    warnings = list(record.warnings)
    if summary.folds and not record.settings:  # the engine has said so itself
        text = _("The deformation folds in {count} voxels; points there have no valid inverse.")
        warnings.append(text.format(count=summary.folds))
    return warnings


def _tables(deformation: Deformation) -> Iterator[Table]:
    """Yield what the attached tables hold, the best known first."""
    attached = Record.attachments(deformation.transformNode)
    roles = [*TABLE_ROLES, *(role for role in attached if role not in TABLE_ROLES)]
    for node in (attached.get(role) for role in roles):
        if isinstance(node, slicer.vtkMRMLTableNode) and node.GetNumberOfRows():
            rows = Metrics.rowsOf(node)
            yield Table(
                node.GetName(), list(rows[0]), [list(row.values()) for row in rows], node.GetDescription() or ""
            )


def _mapNumbers(deformation: Deformation) -> dict[str, dict[str, float]]:
    """Return figures of the maps that the transform remembers, by their roles."""
    nodes = {kind: Maps.of(deformation, kind) for kind in Overlays.Map}
    numbers = {}
    for kind, node in nodes.items():
        values = np.empty(0) if node is None else slicer.util.arrayFromVolume(node).astype(float)
        values = values[np.isfinite(values)]
        if values.size:
            numbers[kind.value] = {
                "min": values.min(),
                "mean": values.mean(),
                "p95": np.percentile(values, 95),
                "max": values.max(),
            }
    return numbers


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by None, and numbers of NumPy by plain ones, at any depth."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
