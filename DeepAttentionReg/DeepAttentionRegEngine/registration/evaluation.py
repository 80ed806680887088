"""Scores of a displacement field: regularity, overlap, landmarks."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ..protocol import errors
from ..volume import fields, metrics
from ..volume.geometry import Geometry
from .preprocess import Source, warp_volume


@dataclass(frozen=True)
class Reference:
    """What a field can be scored with; None where the user gave nothing.

    Attributes:
        fixed_labels: Label map `(k, j, i)` on the fixed grid.
        moving_labels: Label map on its own grid.
        fixed_points_lps: Landmarks `(N, 3)`.
        moving_points_lps: The corresponding landmarks.
    """

    fixed_labels: np.ndarray | None = None
    moving_labels: Source | None = None
    fixed_points_lps: np.ndarray | None = None
    moving_points_lps: np.ndarray | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to score with."""
        return (self.fixed_labels is None or self.moving_labels is None) and self.fixed_points_lps is None

    def __post_init__(self) -> None:
        points = self.fixed_points_lps, self.moving_points_lps
        fixed, moving = (0 if given is None else len(given) for given in points)
        if fixed != moving:
            raise errors.EngineError(
                errors.INPUT_INVALID,
                f"There are {fixed} fixed but {moving} moving landmarks.",
                "Give the same landmarks in the same order in both lists.",
            )


def linear_field(matrix: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return the displacement `(k, j, i, 3)` LPS mm of a linear map on a grid."""
    k, j, i = (np.arange(n) for n in geometry.shape)
    index_to_motion = (matrix - np.eye(4)) @ geometry.ijk_to_lps
    columns = index_to_motion[:3].T
    return (
        i[None, None, :, None] * columns[0]
        + j[None, :, None, None] * columns[1]
        + k[:, None, None, None] * columns[2]
        + columns[3]
    ).astype(np.float32)


def regularity(displacement_lps_mm: np.ndarray, geometry: Geometry) -> dict[str, Any]:
    """Return numbers on the Jacobian determinant and the size of a displacement on its grid."""
    jacobian = fields.jacobian_determinant(displacement_lps_mm, geometry)
    magnitude = fields.magnitude(displacement_lps_mm)
    return {
        "jacobian": finite(asdict(fields.summarize_jacobian(jacobian))),
        "displacement_mm": {"mean": float(magnitude.mean()), "max": float(magnitude.max())},
    }


def overlap(
    displacement_lps_mm: np.ndarray, geometry: Geometry, reference: Reference, device: torch.device
) -> dict[str, Any]:
    """Return Dice, HD95 and ASSD in mm by label (text) and their means, of the warped moving labels."""
    if reference.fixed_labels is None or reference.moving_labels is None:
        return {}
    warped = warp_volume(reference.moving_labels, displacement_lps_mm, geometry, device, nearest=True)
    dice = metrics.dice(warped, reference.fixed_labels)
    distances = metrics.surface_distances_by_label(warped, reference.fixed_labels, geometry, dice)
    scores: dict[str, dict[str, float]] = {
        "dice": {str(label): value for label, value in dice.items()},
        "hd95_mm": {str(label): distance.hd95_mm for label, distance in distances.items()},
        "assd_mm": {str(label): distance.assd_mm for label, distance in distances.items()},
    }
    for by_label in scores.values():
        known = [value for value in by_label.values() if not math.isnan(value)]
        by_label["mean"] = float(np.mean(known)) if known else math.nan
    return finite(scores)


def landmark_error(displacement_lps_mm: np.ndarray, geometry: Geometry, reference: Reference) -> dict[str, Any]:
    """Return the target registration error in mm: mean, max, and every point's."""
    fixed, moving = reference.fixed_points_lps, reference.moving_points_lps
    if fixed is None or moving is None:
        return {}
    error = metrics.target_registration_error(fixed, moving, displacement_lps_mm, geometry)
    return {"tre_mm": {"mean": float(error.mean()), "max": float(error.max()), "points": error.tolist()}}


def score(
    displacement_lps_mm: np.ndarray, geometry: Geometry, reference: Reference, device: torch.device
) -> dict[str, Any]:
    """Return overlap and landmark error together, as far as there is something to score with."""
    return {
        **overlap(displacement_lps_mm, geometry, reference, device),
        **landmark_error(displacement_lps_mm, geometry, reference),
    }


def finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by None, at any depth."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
