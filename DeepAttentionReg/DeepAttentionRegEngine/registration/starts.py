"""Where a registration starts: the position that makes two volumes most alike, or the one that was chosen."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import device as Device

from ..protocol.settings import AUTOMATIC
from .alignment import align, center_of_mass, translation
from .coarse import CoarsePair
from .preprocess import Source

AS_STORED = "none"
TURNED = "turned"
GOOD = 0.7  # breathing phantoms have 0.9 in place and 0.65 half a turn off
CLEARLY = 0.04  # more alike, that the stored position is left, and again that a volume is turned
CHANCE = 0.22  # unrelated anatomy comes to this at best; chest X-rays of two people have 0.26 to 0.5
NOTHING = 0.01  # the volumes hardly overlap


@dataclass(frozen=True, eq=False)
class Start:
    """A linear map to start from.

    Attributes:
        matrix: Fixed to moving points, 4x4 LPS mm.
        chosen: Its name among the candidates.
        similarities: Of each candidate that was compared, 0 to 1.
        warnings: Sentences that users must see.
    """

    matrix: np.ndarray
    chosen: str
    similarities: dict[str, float]
    warnings: list[str]


def find_start(fixed: Source, moving: Source, mode: str, initial: np.ndarray, seed: int, device: Device) -> Start:
    """Return where to start; arguments as of `alignment.align`, to whose modes "automatic" is added.

    "automatic" compares, coarsely, the stored position, centres of the fields of view and centres of mass; where none
    of them is good also rigid maps from several orientations. The stored position is left only for a clearly better
    one. Any other choice but "none" is compared with the stored position.

    Raises:
        EngineError: As `alignment.align`.
    """
    if mode == AUTOMATIC:
        return _best(CoarsePair.of(fixed, moving, device), initial, seed)
    matrix = align(fixed, moving, mode, initial, seed, device)
    if mode == AS_STORED:
        return Start(matrix, mode, {}, [])
    pair = CoarsePair.of(fixed, moving, device)
    similarities = {AS_STORED: pair.similarity(initial), mode: pair.similarity(matrix)}
    return Start(matrix, mode, similarities, _regrets(mode, similarities))


def _best(pair: CoarsePair, initial: np.ndarray, seed: int) -> Start:
    """Return the start that makes a coarse pair most alike."""
    names = AS_STORED, "center", "mass"
    maps = {name: align(pair.fixed, pair.moving, name, initial, seed, pair.device) for name in names}
    similarities = {name: pair.similarity(matrix) for name, matrix in maps.items()}
    best = _most_alike(similarities)
    if similarities[best] < GOOD:
        starts = {"rigid": maps[best], **dict(_turned(pair, maps["mass"]))}
        found = dict(zip(starts, pair.improved(list(starts.values())), strict=True))
        similarities.update({name: pair.similarity(matrix) for name, matrix in found.items()})
        if max(similarities.values()) >= CHANCE:  # else chance would choose
            maps.update(found)
            best = _most_alike(similarities)
    return Start(maps[best], best, similarities, _doubts(best, similarities))


def _most_alike(similarities: dict[str, float]) -> str:
    """Return the name of the highest similarity; what is likelier anyhow unless the less likely is clearly better."""
    best = AS_STORED
    for turned in (False, True):
        names = [name for name in similarities if name.startswith(TURNED) == turned]
        name = max(names, key=similarities.__getitem__, default=best)
        lead = CLEARLY if similarities[best] > NOTHING else 0.0
        best = name if similarities[name] > similarities[best] + lead else best
    return best


def _turned(pair: CoarsePair, start: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield a start with the moving volume turned about its centre of mass; a slice turns in its plane."""
    center = center_of_mass(pair.moving, "moving image")
    turns = [(180, f"about {name}", axis) for name, axis in zip("LPS", np.eye(3), strict=True)]
    if pair.fixed.geometry.is_flat:
        normal = start[:3, :3] @ pair.fixed.geometry.normal_lps
        turns = [(degrees, "in plane", normal / np.linalg.norm(normal)) for degrees in (90, 180, 270)]
    for degrees, name, axis in turns:
        turn = translation(center) @ _rotation(axis, degrees) @ translation(-center)
        yield f"{TURNED} by {degrees} degrees {name}", turn @ start


def _rotation(axis: np.ndarray, degrees: float) -> np.ndarray:
    """Return the 4x4 rotation about a unit axis through the origin."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle, matrix = math.radians(degrees), np.eye(4)
    matrix[:3, :3] += math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return matrix


def _regrets(mode: str, similarities: dict[str, float]) -> list[str]:
    """Return a warning if the stored position is clearly better than what was chosen."""
    if similarities[AS_STORED] <= similarities[mode] + CLEARLY:
        return []
    return [
        f"The alignment that was chosen ({mode}) makes the volumes less alike than their stored position: similarity "
        f"{similarities[mode]:.2f} instead of {similarities[AS_STORED]:.2f}; choose the alignment automatic or none."
    ]


def _doubts(chosen: str, similarities: dict[str, float]) -> list[str]:
    """Return a warning if the best start may be wrong."""
    highest = max(similarities.values())
    if highest < CHANCE:
        return [
            f"From no start that was tried do the volumes look alike (similarity {highest:.2f} at best), so the "
            "result may be far off; place the moving volume with a linear transform."
        ]
    if chosen.startswith(TURNED):
        return [
            f"The volumes look alike only with the moving one {chosen}, so it was; check that its left and right, "
            "front and back are where they should be."
        ]
    return []
