"""Scores of a displacement field: regularity, overlap, landmarks."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ..protocol import errors
from ..volume import fields, metrics
from ..volume.geometry import Geometry
from ..volume.intensity import blocks, is_short
from ..volume.segment_pairs import SegmentPair, SegmentPairing, pair_up, require_pairs
from ..volume.segments import Segments
from .preprocess import Source, warp_volume


@dataclass(frozen=True)
class Reference:
    """What a field can be scored with; None where the user gave nothing.

    Attributes:
        fixed_labels: Segments on the fixed grid.
        moving_labels: Segments on their own grid.
        fixed_points_lps: Landmarks `(N, 3)`.
        moving_points_lps: The corresponding landmarks.

    Raises:
        EngineError: If no segments belong together, or the numbers of landmarks differ.
    """

    fixed_labels: Segments | None = None
    moving_labels: Segments | None = None
    fixed_points_lps: np.ndarray | None = None
    moving_points_lps: np.ndarray | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to score with."""
        return (self.fixed_labels is None or self.moving_labels is None) and self.fixed_points_lps is None

    @cached_property
    def pairing(self) -> SegmentPairing | None:
        """Which segments belong together; None unless both sides have some."""
        if self.fixed_labels is None or self.moving_labels is None:
            return None
        return pair_up(self.fixed_labels.items, self.moving_labels.items)

    @property
    def unpaired(self) -> dict[str, Any]:
        """What has no partner, as a value of the result; nothing where all have one."""
        return {"unpaired": self.pairing.unpaired} if self.pairing is not None and self.pairing.unpaired else {}

    @property
    def warnings(self) -> list[str]:
        """What users must know of the pairing."""
        return [] if self.pairing is None else list(self.pairing.warnings)

    def __post_init__(self) -> None:
        points = self.fixed_points_lps, self.moving_points_lps
        fixed, moving = (0 if given is None else len(given) for given in points)
        if fixed != moving:
            raise errors.EngineError(
                errors.INPUT_INVALID,
                f"There are {fixed} fixed but {moving} moving landmarks.",
                "Give the same landmarks in the same order in both lists.",
            )
        if self.pairing is not None and len(self.pairing.unpaired) == 2:
            require_pairs(self.pairing)


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
    """Return Dice, HD95 and ASSD in mm by segment (name, or label value) and their means, of the warped segments."""
    if reference.pairing is None or reference.fixed_labels is None or reference.moving_labels is None:
        return {}
    pairs, found = reference.pairing.pairs, {}
    for layer in sorted({pair.moving.layer for pair in pairs}):
        source = Source(reference.moving_labels.layers[layer], reference.moving_labels.geometry)
        warped = warp_volume(source, displacement_lps_mm, geometry, device, nearest=True)
        here = [pair for pair in pairs if pair.moving.layer == layer]
        for other in sorted({pair.fixed.layer for pair in here}):
            part = [pair for pair in here if pair.fixed.layer == other]
            found.update(_agreements(warped, reference.fixed_labels.layers[other], part, geometry))
    measures = {"dice": 0, "hd95_mm": 1, "assd_mm": 2}
    scores = {name: {pair.key: found[pair.key][index] for pair in pairs} for name, index in measures.items()}
    for by_key in scores.values():
        known = [value for value in by_key.values() if not math.isnan(value)]
        by_key["mean"] = float(np.mean(known)) if known else math.nan
    return finite(scores)


def _agreements(
    moving: np.ndarray, fixed: np.ndarray, pairs: list[SegmentPair], geometry: Geometry
) -> dict[str, tuple[float, float, float]]:
    """Return Dice, HD95 and ASSD by key of segments of two label maps `(k, j, i)`."""
    moving = _numbered(moving, (pair.moving.value for pair in pairs))
    fixed = _numbered(fixed, (pair.fixed.value for pair in pairs))
    dice = metrics.dice(moving, fixed, range(1, len(pairs) + 1))
    distances = metrics.surface_distances_by_label(moving, fixed, geometry, dice)
    return {
        pair.key: (dice[number], distances[number].hd95_mm, distances[number].assd_mm)
        for number, pair in enumerate(pairs, start=1)
    }


def _numbered(labels: np.ndarray, values: Iterable[int]) -> np.ndarray:
    """Return a label map in which the first of some values is 1, the second 2 and so on, and all others 0."""
    wanted = np.array(list(values), labels.dtype)
    numbers = np.arange(1, len(wanted) + 1, dtype=np.min_scalar_type(len(wanted)))
    result, order = np.zeros(labels.shape, numbers.dtype), np.argsort(wanted)
    if is_short(labels.dtype):
        least = np.iinfo(labels.dtype).min
        table = np.zeros(2 ** (8 * labels.dtype.itemsize), numbers.dtype)
        table[wanted.astype(int) - least] = numbers
    for block in blocks(labels.shape):
        part = labels[block]
        if is_short(labels.dtype):
            result[block] = table[part.astype(np.intp) - least]
            continue
        place = np.searchsorted(wanted[order], part).clip(max=len(wanted) - 1)
        np.copyto(result[block], numbers[order][place], where=wanted[order][place] == part)
    return result


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


def missed(scores: dict[str, Any]) -> list[str]:
    """Return a sentence on the segments that meet nothing of their partner, from what `score` returned."""
    names = [key for key, value in scores.get("dice", {}).items() if key != "mean" and not value]
    if not names:
        return []
    return [f"After the registration nothing of {', '.join(names)} meets its partner; check that both belong together."]


def finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by None, at any depth."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
