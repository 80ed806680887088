"""What is known of the error of a registration: the verdict of the engine in words, and its bound in mm at places.

Both may be missing: records of former releases hold no verdict, and a method that was not measured gets no bound.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer

from DeepAttentionRegEngine.protocol.reporting import Pause, no_pause
from DeepAttentionRegEngine.volume import fields
from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras

from . import Record, Volumes
from .Overlays import Map

FAILED, SUSPICIOUS, UNREMARKABLE = "failed", "suspicious", "unremarkable"
PERCENTILES = 50.0, 95.0


@dataclass(frozen=True)
class ToldVerdict:
    """What the engine has said of the error of a registration.

    :param sentence: the verdict; where nothing is known, why.
    :param measured: how good such verdicts were when that was measured; empty where nothing is known.
    :param kind: `FAILED`, `SUSPICIOUS` or `UNREMARKABLE`; empty where nothing is known.
    :param medianMm: median of the bound over what is seen; NaN where it is not known.
    :param p95Mm: its 95th percentile.
    """

    sentence: str
    measured: str = ""
    kind: str = ""
    medianMm: float = math.nan
    p95Mm: float = math.nan

    @property
    def text(self) -> str:
        """The verdict, and what it is worth."""
        return " ".join(text for text in (self.sentence, self.measured) if text)


def verdictOf(values: dict[str, Any]) -> ToldVerdict | None:
    """Return the verdict among the values of a result; None if there is none, as in those of former releases.

    :param values: as in `contract.Result`; those of a scene may come from others.
    """
    told = values.get("expected_error")
    if not isinstance(told, dict):
        return None
    if told.get("known") is not True:
        return ToldVerdict(_text(told, "reason"))
    boundMm = told.get("mm")
    median, p95 = (_number(boundMm, name) for name in ("median", "p95"))
    return ToldVerdict(_text(told, "sentence"), _text(told, "measured"), _text(told, "verdict"), median, p95)


def _text(told: dict[str, Any], name: str) -> str:
    return str(told.get(name) or "")


def _number(told: Any, name: str) -> float:
    value = told.get(name) if isinstance(told, dict) else None
    return float(value) if isinstance(value, (int, float)) else math.nan


def mapOf(transformNode: slicer.vtkMRMLTransformNode) -> slicer.vtkMRMLScalarVolumeNode | None:
    """Return the map of the bound that a transform remembers; None without one that still is a volume in the world."""
    node = Record.attached(transformNode, Map.ERROR.value)
    return None if node is None or Volumes.checkNode(node) else node


def atPoints(transformNode: slicer.vtkMRMLTransformNode, pointsRas: np.ndarray) -> np.ndarray | None:
    """Return the bound (N,) in mm at points (N, 3) of the world, RAS mm, linear between nodes; None without a map."""
    node = mapOf(transformNode)
    if node is None:
        return None
    bound, grid = slicer.util.arrayFromVolume(node)[..., None], Volumes.placeOf(node)
    return fields.sample_field(bound, grid, flip_lps_ras(np.asarray(pointsRas, float)))[:, 0]


def within(
    transformNode: slicer.vtkMRMLTransformNode, mask: np.ndarray, geometry: Geometry, pause: Pause = no_pause
) -> tuple[float, float] | None:
    """Return median and 95th percentile of the bound in a part of a grid, mm, NaN in an empty one; None without a map.

    :param transformNode: the transform of a registration.
    :param mask: binary (k, j, i).
    :param geometry: its grid in the world.
    :param pause: called before every slab.
    """
    node = mapOf(transformNode)
    if node is None:
        return None
    if not mask.any():
        return math.nan, math.nan
    bound = fields.resize(slicer.util.arrayFromVolume(node)[..., None], Volumes.placeOf(node), geometry, pause)
    median, p95 = np.percentile(bound[mask > 0], PERCENTILES)
    return float(median), float(p95)
