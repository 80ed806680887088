"""Scores of a deformation: regularity, overlap, landmarks."""

import math
from collections.abc import Iterable, Iterator
from copy import deepcopy
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
from .deformation import StoredDeformation
from .preprocess import Source, warp_volume


@dataclass(frozen=True)
class Reference:
    """What a deformation can be scored with; None where the user gave nothing.

    Attributes:
        fixed_labels: Segments on the fixed grid.
        moving_labels: Segments on their own grid.
        fixed_points_lps: Landmarks `(N, 3)`.
        moving_points_lps: The corresponding landmarks.
        tolerances_mm: `(N,)`, by which each may be missed where they guide, NaN where nothing is told of it.

    Raises:
        EngineError: If no segments belong together, or the numbers of landmarks differ.
    """

    fixed_labels: Segments | None = None
    moving_labels: Segments | None = None
    fixed_points_lps: np.ndarray | None = None
    moving_points_lps: np.ndarray | None = None
    tolerances_mm: np.ndarray | None = None

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


def regularity(deformation: StoredDeformation, geometry: Geometry) -> dict[str, Any]:
    """Return numbers on the Jacobian determinant and the size of a deformation at the voxels of a grid."""
    length = fields.Moments()

    def determinants() -> Iterator[np.ndarray]:
        for _slab, displacement, determinant in deformation.jacobian_slabs(geometry):
            length.add(fields.magnitude(displacement))
            yield determinant

    summary = fields.summarize_slabs(determinants())
    return {
        "jacobian": finite(asdict(summary)),
        "displacement_mm": {"mean": length.mean, "max": length.maximum},
    }


def overlap(
    deformation: StoredDeformation, geometry: Geometry, reference: Reference, device: torch.device
) -> dict[str, Any]:
    """Return Dice, HD95 and ASSD in mm by segment (name, or label value) and their means, of the warped segments.

    Args:
        deformation: On any grid.
        geometry: Grid of the fixed labels.
        reference: What there is to score with.
        device: Where to work.
    """
    if reference.pairing is None or reference.fixed_labels is None or reference.moving_labels is None:
        return {}
    pairs, found = reference.pairing.pairs, {}
    for layer in sorted({pair.moving.layer for pair in pairs}):
        source = Source(reference.moving_labels.layers[layer], reference.moving_labels.geometry)
        warped = warp_volume(source, deformation, geometry, device, nearest=True)
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


def landmark_error(deformation: StoredDeformation, reference: Reference) -> dict[str, Any]:
    """Return the target registration error in mm: mean, max, and every point's."""
    fixed, moving = reference.fixed_points_lps, reference.moving_points_lps
    if fixed is None or moving is None:
        return {}
    error = metrics.target_registration_error(fixed, moving, deformation.displacement_lps_mm, deformation.geometry)
    return {"tre_mm": {"mean": float(error.mean()), "max": float(error.max()), "points": error.tolist()}}


def score(
    deformation: StoredDeformation, geometry: Geometry, reference: Reference, device: torch.device
) -> dict[str, Any]:
    """Return overlap (arguments as there) and landmark error together, as far as there is something to score with."""
    return {
        **overlap(deformation, geometry, reference, device),
        **landmark_error(deformation, reference),
    }


def score_states(
    deformation: StoredDeformation,
    linear: tuple[np.ndarray, np.ndarray],
    geometry: Geometry,
    reference: Reference,
    device: torch.device,
) -> dict[str, dict[str, Any]]:
    """Return what `score` says of the volumes as they were ("before"), "aligned", and "after" the registration.

    Args:
        deformation: What was found.
        linear: The initial map and the alignment, 4x4 from fixed to moving points, LPS mm.
        geometry: As of `score`.
        reference: As of `score`.
        device: Where to work.
    """
    initial, alignment = linear
    before = score(StoredDeformation.linear(initial, geometry), geometry, reference, device)
    if np.array_equal(initial, alignment):
        aligned = deepcopy(before)
    else:
        aligned = score(StoredDeformation.linear(alignment, geometry), geometry, reference, device)
    return {"before": before, "aligned": aligned, "after": score(deformation, geometry, reference, device)}


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
