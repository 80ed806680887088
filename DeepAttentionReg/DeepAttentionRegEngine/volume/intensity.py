"""Intensity normalisation, the same for training and for use, and values back in the type they came from."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..protocol import errors
from .no_data import known_voxels

PERCENTILES = (0.5, 99.5)
BLOCK_VOXELS = 2**20  # bounds the temporaries in which a large volume is worked on


@dataclass(frozen=True, eq=False)
class Normalized:
    """An image in [0, 1] between two of its percentiles, of which only the parts that are asked for are made.

    Attributes:
        array: Any shape, any real type.
        known: Where it was measured, as `known_voxels` tells; None if everywhere.
        low: What becomes 0, in the type to compute in.
        high: What becomes 1; what lies beyond is clipped.
    """

    array: np.ndarray
    known: np.ndarray | None
    low: np.floating
    high: np.floating

    @classmethod
    def of(
        cls, array: np.ndarray, known: np.ndarray | None, name: str, percentiles: tuple[float, float] = PERCENTILES
    ) -> "Normalized":
        """Return an image normalised; arguments as of `normalize`, which tells of the errors, too."""
        # Double precision where single cannot hold every value: contrast may stand on an offset a million times as
        # large.
        kind = np.result_type(array, np.float32).type
        count = array.size if known is None else int(np.count_nonzero(known))
        if not count:
            raise errors.EngineError(
                errors.INPUT_INVALID, f"The {name} holds no finite value.", "Check how it was exported."
            )
        low, high = (kind(value) for value in _percentiles(array, known, count, percentiles, kind))
        if high <= low:  # a small bright object in an empty image
            low, high = (kind(value) for value in _ranked(array, known, [0, count - 1]))
        if high <= low:
            raise errors.EngineError(
                errors.INPUT_INVALID,
                f"The {name} is constant (every voxel is {float(low):g}), so there is nothing to align.",
                "Choose a volume that shows anatomy.",
            )
        return cls(array, known, low, high)

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of the image, array axis order."""
        return self.array.shape

    def __getitem__(self, part: Any) -> np.ndarray:
        """Return a part of the image, float32; voxels without data are 0."""
        scaled = self.array[part].astype(self.low.dtype)
        if self.known is not None:
            scaled[~self.known[part]] = self.low
        scaled -= self.low
        scaled /= self.high - self.low
        return np.clip(scaled, 0, 1, out=scaled).astype(np.float32, copy=False)


def normalize(array: np.ndarray, name: str = "image", percentiles: tuple[float, float] = PERCENTILES) -> np.ndarray:
    """Scale an image to [0, 1] between two of its percentiles; voxels without data become 0 and count for nothing.

    Args:
        array: Any shape, any real type.
        name: How to call the image in an error, such as "fixed image".
        percentiles: Which become 0 and 1; what lies beyond is clipped.

    Returns:
        float32 array of the same shape.

    Raises:
        EngineError: If the image has no finite voxel, or is constant.
    """
    array = np.asarray(array)
    normalized = Normalized.of(array, known_voxels(array), name, percentiles)
    result = np.empty(array.shape, np.float32)
    for block in blocks(array.shape):
        result[block] = normalized[block]
    return result


def blocks(shape: tuple[int, ...], voxels: int | None = None) -> Iterator[slice]:
    """Yield slices along the first axis that hold about so many voxels each, `BLOCK_VOXELS` if None."""
    step = max(1, (voxels or BLOCK_VOXELS) * shape[0] // max(1, math.prod(shape)))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def _percentiles(
    array: np.ndarray, known: np.ndarray | None, count: int, percentiles: Sequence[float], kind: type[np.floating]
) -> list[float]:
    """Return percentiles of the known values, of which there are so many, as `np.percentile` does in a type."""
    places = [percentile / 100 * (count - 1) for percentile in percentiles]
    lower = [int(place) for place in places]
    found = _ranked(array, known, [*lower, *(min(rank + 1, count - 1) for rank in lower)]).astype(kind)
    pairs = zip(places, lower, found[: len(lower)], found[len(lower) :], strict=True)
    return [float(np.percentile(np.array(ends), [100 * (place - rank)])[0]) for place, rank, *ends in pairs]


def _ranked(array: np.ndarray, known: np.ndarray | None, ranks: Sequence[int]) -> np.ndarray:
    """Return the values that have some ranks, from 0, among the known ones."""
    if is_short(array.dtype):
        least = np.iinfo(array.dtype).min
        until = np.cumsum(counts_of(array, known))
        return (np.searchsorted(until, ranks, side="right") + least).astype(array.dtype)
    values = array.flatten() if known is None else array[known]
    values.partition(sorted(set(ranks)))
    return values[list(ranks)]


def counts_of(array: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
    """Return how often each value of a type of 8 or 16 bits occurs, from its least one on.

    Args:
        array: Any shape.
        chosen: Where to count, bool of the same shape; None for everywhere.
    """
    limits = np.iinfo(array.dtype)
    counts = np.zeros(limits.max - limits.min + 1, np.int64)
    for block in blocks(array.shape):
        values = array[block].ravel() if chosen is None else array[block][chosen[block]]
        counts += np.bincount(values.astype(np.intp) - limits.min, minlength=counts.size)
    return counts


def count_values(array: np.ndarray, chosen: np.ndarray | None = None) -> dict[int, int]:
    """Return how often each value that occurs does, in ascending order; arguments as of `counts_of`, but any type."""
    if is_short(array.dtype):
        counts = counts_of(array, chosen)
        values = np.flatnonzero(counts)
        counts, values = counts[values], values + np.iinfo(array.dtype).min
    else:
        values, counts = np.unique(array if chosen is None else array[chosen], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def is_short(kind: np.dtype) -> bool:
    """Return whether a type is one of integers of so few bits that each of its values can be counted."""
    return kind.kind in "iu" and kind.itemsize <= 2


def in_type(values: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Return floats in another type: the nearest whole number for integers, none beyond their range, where it wraps.

    Args:
        values: float64, any shape.
        kind: Integers or floats.

    Examples:
        >>> in_type(np.array([-0.5, 254.6, 1e9]), np.dtype(np.uint8)).tolist()
        [0, 255, 255]
    """
    if kind.kind == "f":
        return values.astype(kind)
    limits = np.iinfo(kind)
    # For 64 bits, the largest of them is no float64, and the next one would wrap.
    return np.clip(np.rint(values), limits.min, np.nextafter(limits.max + 1.0, 0.0)).astype(kind)
