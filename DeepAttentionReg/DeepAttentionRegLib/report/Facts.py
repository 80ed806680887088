"""What a report says in words: how a transform was made, and what was measured of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine import __version__
from DeepAttentionRegEngine.protocol import contract
from DeepAttentionRegEngine.protocol.settings import label_of
from DeepAttentionRegEngine.volume import fields

from ..engine import Methods, Weights
from ..evidence import Landmarks, Maps, SegmentNodes
from ..nodes import ErrorBound, Metrics, Overlays, Record, Structures, Transforms
from ..nodes.Deformation import Deformation


@dataclass(frozen=True)
class KeyFigure:
    """A measure of the whole deformation.

    :param measure: what it is called.
    :param found: what was measured, in words.
    """

    measure: str
    found: str


def facts(deformation: Deformation, record: Record.Record) -> dict[str, dict[str, str]]:
    """Return what was registered, and how: label and text, by the title of their section."""
    volumes = {
        _("Fixed"): _volumeText(deformation.fixed),
        _("Moving"): _volumeText(deformation.moving),
        _("Transform"): _gridText(deformation.transformNode),
    }
    return _known({_("Volumes"): volumes, _("Method"): _methodFacts(record)})


def details(record: Record.Record) -> dict[str, dict[str, str]]:
    """Return settings and versions: label and text, by the title of their section."""
    unused = set() if "uncertainty_mm" in record.values else {"samples"}
    told = {name: value for name, value in record.settings.items() if name not in unused}
    settings = {_(label_of(name)): _valueText(value) for name, value in told.items()}
    return _known({_("Settings"): settings, _("Versions"): _versions(record)})


def _known(sections: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Leave out what has no text."""
    known = {title: {label: text for label, text in items.items() if text} for title, items in sections.items()}
    return {title: items for title, items in known.items() if items}


def citations(record: Record.Record) -> list[str]:
    """Return what the report refers to: the method, if it is known."""
    return [text for text in (_methodOf(record).get("citation"),) if text]


def keyFigures(deformation: Deformation, record: Record.Record, summary: fields.JacobianSummary) -> list[KeyFigure]:
    """Return what was measured.

    :param deformation: the deformation.
    :param record: what it remembers.
    :param summary: of its Jacobian determinant.
    """
    jacobian = _("{low} to {high}; {folds} folded voxels").format(
        low=Metrics.numberText(summary.minimum),
        high=Metrics.numberText(summary.maximum),
        folds=summary.folds or _("no"),
    )
    distance = _overlapText(deformation, record, "assd_mm", _("ASSD after (mm)"), max)
    return [
        KeyFigure(_("Target registration error of landmarks"), _landmarkText(deformation, record)),
        KeyFigure(_("Average symmetric surface distance"), distance),
        KeyFigure(_("Dice similarity coefficient"), _overlapText(deformation, record, "dice", _("Dice after"), min)),
        KeyFigure(_("Jacobian determinant (above 1 where moving tissue is shrunk onto the fixed volume)"), jacobian),
        KeyFigure(_("Consistency, forth and back"), _consistencyText(deformation)),
        KeyFigure(_("Error, 95 % within"), _errorText(record)),
    ]


def _methodOf(record: Record.Record) -> dict[str, str]:
    """Return what is known of the method, which former releases did not remember."""
    return record.method or Methods.describe(record.settings.get("method"))


def _methodFacts(record: Record.Record) -> dict[str, str]:
    values, name = record.values, record.settings.get("method")
    if name is None:
        return {_("Method"): _("Not known: this transform does not remember how it was made.")}
    method, weights = _methodOf(record), values.get("weights")
    entry = Weights.find(weights)
    seconds = sum(values.get("seconds", {}).values())
    return {
        _("Made"): record.made,
        _("Method"): _("Refinement only (no network)") if name == contract.METHOD_NONE else method.get("title", name),
        _("Summary"): method.get("summary", ""),
        _("Weights"): entry.title if entry is not None else _valueText(weights),
        _("License of the weights"): "" if entry is None else entry.licence or _("not known"),
        _("Training data"): "" if entry is None else entry.trainingData,
        _("Recursions done"): _valueText(values.get("recursions")),
        _("Device"): _valueText(values.get("device")),
        _("Computing time"): Methods.timeText(seconds) if seconds else "",
    }


def _valueText(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    return str(value)


def _versions(record: Record.Record) -> dict[str, str]:
    versions = record.values.get("versions", {})
    return {
        _("DeepAttentionReg, report"): __version__,
        _("DeepAttentionReg, registration"): versions.get("engine", ""),
        _("Slicer, registration"): record.slicer,
        _("Slicer, report"): Record.slicerVersion(),
        **{name: str(version) for name, version in versions.items() if name != "engine"},
    }


def _volumeText(volume: slicer.vtkMRMLScalarVolumeNode) -> str:
    size = " x ".join(str(count) for count in volume.GetImageData().GetDimensions())
    spacing = " x ".join(f"{step:.3g}" for step in volume.GetSpacing())
    return _("{name}: {size} voxels of {spacing} mm").format(name=volume.GetName(), size=size, spacing=spacing)


def _gridText(transformNode: slicer.vtkMRMLTransformNode) -> str:
    grid = Transforms.geometryOfField(transformNode.GetTransformFromParentAs("vtkOrientedGridTransform", False))
    size = " x ".join(str(count) for count in grid.size)
    spacing = " x ".join(f"{step:.3g}" for step in grid.spacing)
    return _("a grid of {size} vectors, {spacing} mm apart").format(size=size, spacing=spacing)


def _landmarkText(deformation: Deformation, record: Record.Record) -> str:
    text = _("mean {mean} mm, at most {most} mm")
    table = Record.attached(deformation.transformNode, Landmarks.TABLE_ROLE)
    if table is not None:
        mean, most = (row[_("Error after (mm)")] for row in Metrics.rowsOf(table)[:2])
    else:
        scores = record.values.get("after", {}).get("tre_mm")
        if not scores:
            return _("not measured")
        mean, most = scores["mean"], scores["max"]
    return text.format(mean=Metrics.numberText(mean), most=Metrics.numberText(most))


def _overlapText(
    deformation: Deformation, record: Record.Record, measure: str, column: str, worst: Callable[..., float]
) -> str:
    """Return mean and worst value of a measure after the registration, over all segments."""
    table = Record.attached(deformation.transformNode, SegmentNodes.TABLE_ROLE)
    if table is not None and not Structures.arePredicted([table]):
        values = [float(row[column]) for row in Metrics.rowsOf(table)]
    else:
        scores = record.values.get("after", {}).get(measure, {})
        values = [value for label, value in scores.items() if label != "mean" and value is not None]
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return _("not measured")
    text = _("mean {mean}, worst segment {worst}")
    mean = sum(values) / len(values)
    text = text.format(mean=Metrics.numberText(mean), worst=Metrics.numberText(worst(values)))
    return f"{text} mm" if measure.endswith("_mm") else text


def _errorText(record: Record.Record) -> str:
    """Return the bound of the error as the registration brought it."""
    verdict = ErrorBound.verdictOf(record.values)
    if verdict is None or not verdict.kind:
        return _("not known")
    text = _("median {median} mm, 95th percentile {p95} mm")
    return text.format(median=Metrics.numberText(verdict.medianMm), p95=Metrics.numberText(verdict.p95Mm))


def _consistencyText(deformation: Deformation) -> str:
    node = Maps.of(deformation, Overlays.Map.INCONSISTENCY)
    if node is None:
        return _("not measured")
    values = slicer.util.arrayFromVolume(node)
    text = _("mean {mean} mm, at most {most} mm")
    return text.format(mean=Metrics.numberText(float(values.mean())), most=Metrics.numberText(float(values.max())))
