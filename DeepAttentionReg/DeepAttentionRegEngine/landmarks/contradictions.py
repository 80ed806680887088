"""Landmark pairs that guide a registration: which of them to believe, and where they say that points belong."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from .interpolation import Interpolation, interpolate

JUDGES = 5  # landmarks at least, below which none can be told from the others
OUTLYING = 6.0  # times the usual disagreement, for organs that slide make some of it
LEAST = 0.02  # of the extent, of disagreement that is worth a word
SHARE = 1 / 3  # of the landmarks that may be wrong


@dataclass(frozen=True)
class Contradiction:
    """A landmark that the others contradict.

    Attributes:
        number: Counted from 1.
        error_mm: How far its partner lies from where the others have it.
        partner: Number of another with which its partner seems to be exchanged; None if there is none.
    """

    number: int
    error_mm: float
    partner: int | None = None

    @property
    def numbers(self) -> tuple[int, ...]:
        """Those of all landmarks that it is about."""
        return (self.number,) if self.partner is None else (self.number, self.partner)

    @property
    def sentence(self) -> str:
        """What to tell of it."""
        if self.partner is not None:
            return f"Landmarks {self.number} and {self.partner} seem to be exchanged on one image; neither guided."
        return f"Landmark {self.number} contradicts its neighbours by {self.error_mm:.0f} mm; it did not guide."


def contradictions(
    points: np.ndarray, vectors: np.ndarray, extent: float, foreseen: np.ndarray | None = None
) -> list[Contradiction]:
    """Return the landmarks that the others contradict, worst first.

    One after the other is left out, for a wrong one makes its neighbours look wrong, too.

    Args:
        points: `(N, nd)` mm, on the fixed image, all different.
        vectors: `(N, nd)` mm, from there to their partners.
        extent: Of the image, in mm.
        foreseen: `(N, nd)` mm, what the images say of the vectors. The landmarks are then also judged by how far they
            are from that, if they agree better with each other about it: organs that slide make right ones disagree,
            and images that are out of reach say nothing.
    """
    told = [np.zeros_like(vectors)] if foreseen is None else [np.zeros_like(vectors), foreseen]
    base = min(told, key=lambda base: float(np.median(interpolate(points, vectors - base, extent).disagreement)))
    suspects, trusted = _suspects(points, vectors - base, extent)
    if not suspects:
        return []
    expected = (points + base)[suspects] + trusted.at(points[suspects])
    return _named(suspects, expected, (points + vectors)[suspects], _tolerated(trusted, extent))


def _suspects(points: np.ndarray, vectors: np.ndarray, extent: float) -> tuple[list[int], Interpolation]:
    """Return which vectors may be wrong, and the field of the others."""
    kept, suspects = list(range(len(points))), []
    trusted = interpolate(points, vectors, extent)
    while len(kept) > max(JUDGES, (1 - SHARE) * len(points)):
        worst = int(trusted.disagreement.argmax())
        if trusted.disagreement[worst] <= _tolerated(trusted, extent):
            break
        suspects.append(kept.pop(worst))
        trusted = interpolate(points[kept], vectors[kept], extent)
    return suspects, trusted


def _tolerated(agreement: Interpolation, extent: float) -> float:
    """Return the disagreement in mm that is still usual."""
    return max(LEAST * extent, OUTLYING * float(np.median(agreement.disagreement)))


def _named(
    suspects: Sequence[int], expected: np.ndarray, partners: np.ndarray, tolerated: float
) -> list[Contradiction]:
    """Return the contradictions among suspects; who agrees with those that are trusted is none of them.

    Args:
        suspects: Indices of landmarks.
        expected: `(S, nd)` mm, where the others have their partners.
        partners: `(S, nd)` mm, where they are.
        tolerated: Disagreement in mm that is still usual.
    """
    errors = np.linalg.norm(expected[:, None] - partners[None], axis=2)  # of each with the partner of each
    exchanged: dict[int, int] = {}
    for one, other in combinations(range(len(suspects)), 2):
        crossed = max(errors[one, other], errors[other, one])
        if not {one, other} & set(exchanged) and crossed <= tolerated < min(errors[one, one], errors[other, other]):
            exchanged |= {one: suspects[other] + 1, other: suspects[one] + 1}
    told = [
        Contradiction(number + 1, float(errors[index, index]), exchanged.get(index))
        for index, number in enumerate(suspects)
        if errors[index, index] > tolerated
    ]
    told = [one for one in told if one.partner is None or one.number < one.partner]
    return sorted(told, key=lambda one: -one.error_mm)
