"""What a voxel may hold when the displacement that brings something to it may err: its percentiles. NumPy alone.

An error map bounds the error of the displacement at each voxel: with a probability of 95 % it is no longer, in mm. The
error itself is taken to be normal and alike in all directions, in the plane of a single slice. So what is warped is
looked up at a fixed set of places around where the displacement leads, each as probable as the others, and the values
found there are put in order. Of a segment the same is done with whether a voxel belongs to it: the 5th percentile is
what belongs to it with a probability of 95 % (surely inside), the 95th what does with 5 % (possibly inside).

Each voxel is judged by itself: the percentiles of a mean or a volume are others.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from ..protocol import errors
from ..protocol.reporting import Pause, no_pause
from ..volume import fields
from ..volume.geometry import Geometry
from ..volume.images import Volume
from ..volume.segments import Segments

SAMPLES = 91
# Of the samples in ascending order, from 0: half a sample further lie 5, 50 and 95 % of them. Their number is odd, so
# that no two segments that exclude each other have half of them each.
RANKS = {"low": 4, "median": 45, "high": 86}
PROBABILITY = 0.95  # of an error within the bound
BLOCK_VOXELS = 2**17  # bounds the memory of the samples
GOLDEN = (math.sqrt(5) - 1) / 2

# Returns what lies where the displacement and an error of it, (k, j, i, 3) LPS mm, lead from the voxels of a grid.
Look = Callable[[np.ndarray], np.ndarray]
View = Callable[[Geometry], Look]
Box = tuple[slice, slice, slice]


def error_vectors(geometry: Geometry) -> np.ndarray:
    """Return equally probable errors `(SAMPLES, 3)`, LPS mm, of a displacement whose error map says 1 mm.

    With each its opposite is among them, and the last is none. The percentiles of what changes linearly stray by 6 % of
    their distance from the median (standard deviation over the directions; at most by 21 %).

    Args:
        geometry: Grid of the voxels; if it is a single slice, the errors lie in it.
    """
    if not geometry.is_flat:
        return _errors(3)
    within = [axis for axis in range(3) if geometry.size[axis] > 1]
    return _errors(2) @ np.reshape(geometry.direction, (3, 3))[:, within].T


@functools.cache
def _errors(axes: int) -> np.ndarray:
    """Return errors `(SAMPLES, axes)` in two or three dimensions, scaled so that the bound is 1."""
    count = SAMPLES // 2
    number = np.arange(count)
    # The length of a normal vector has the chi distribution, here by summing up its density.
    lengths = np.linspace(0, 8, 8001)
    probabilities = np.cumsum(lengths ** (axes - 1) * np.exp(-(lengths**2) / 2))
    probabilities /= probabilities[-1]
    # Each pair of opposites has the share of two samples, the middle of which is the probability of its length.
    radii = np.interp((2 * number + 2) / SAMPLES, probabilities, lengths)
    radii /= np.interp(PROBABILITY, probabilities, lengths)
    if axes == 2:
        angles = np.pi * (number * GOLDEN % 1)
        half = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    else:
        # A Fibonacci lattice on half a sphere, whose directions meet the lengths in an order without a pattern.
        radii = radii[((number + 0.5) * math.e % 1).argsort().argsort()]
        height, angles = (number + 0.5) / count, 2 * np.pi * number * GOLDEN
        flat = np.sqrt(1 - height**2)
        half = radii[:, None] * np.stack([flat * np.cos(angles), flat * np.sin(angles), height], 1)
    return np.concatenate([half, -half, np.zeros((1, axes))])


def require_bound(error: Volume, grid: Geometry) -> None:
    """Check that a map can bound the error of a displacement on a grid.

    Args:
        error: Bound in mm.
        grid: Usually that of the fixed volume; where the map ends, its edge value continues.

    Raises:
        EngineError: If a value is negative or no number, or the map lies elsewhere.
    """
    wrong = int(np.count_nonzero(~((error.array >= 0) & (error.array < np.inf))))
    if wrong:
        message = f"The error map is negative or no number at {wrong} of {error.array.size} voxels."
        raise errors.EngineError(errors.INPUT_INVALID, message, "Give the bound of the error in mm at every voxel.")
    if not (_meets(error.geometry, grid) or _meets(grid, error.geometry)):
        message = "The error map shows nothing of the grid on which to warp."
        raise errors.EngineError(errors.NO_OVERLAP, message, "Give the error map of this very transform.")


def _meets(geometry: Geometry, other: Geometry) -> bool:
    """Return whether a voxel of a grid, of many that are spread over it, lies in another one."""
    points = np.concatenate([points for _slab, points in fields.grid_slabs(geometry.coarsened(BLOCK_VOXELS))])
    index, size = other.lps_to_index(points), np.array(other.size)
    return bool(((index >= -0.5) & (index <= size - 0.5) | (size == 1)).all(1).any())


def of_volume(
    view: View, kind: np.dtype, error: Volume, grid: Geometry, pause: Pause = no_pause
) -> dict[str, np.ndarray]:
    """Return the percentiles of a warped volume.

    Args:
        view: Given the grid of a part of the voxels, returns what looks up the volume from there.
        kind: Type of its values.
        error: Bound of the displacement's error in mm (`require_bound`).
        grid: On which to warp.
        pause: Called before every look.

    Returns:
        The 5th, 50th and 95th, `(k, j, i)` on that grid, by the names of `RANKS`.
    """
    found = {name: np.empty(grid.shape, kind) for name in RANKS}
    for box, samples in _sampled(view, kind, error, grid, pause):
        samples.sort(axis=-1)
        for name, rank in RANKS.items():
            found[name][box] = samples[..., rank]
    return found


def of_segments(
    segments: Segments, views: Sequence[View], error: Volume, grid: Geometry, pause: Pause = no_pause
) -> dict[str, Segments]:
    """Return what belongs to warped segments surely, as likely as not, and possibly: one lies within the other.

    Args:
        segments: As they are before they are warped.
        views: For each of their layers, as of `of_volume`.
        error: Bound of the displacement's error in mm (`require_bound`).
        grid: On which to warp.
        pause: Called before every look.

    Returns:
        Segments on that grid, in the same order, by the names of `RANKS`; the last may overlap, in layers of their own.
    """
    layers: dict[str, list[np.ndarray]] = {name: [] for name in RANKS}
    places: dict[tuple[int, int], int] = {}
    for number, (layer, view) in enumerate(zip(segments.layers, views, strict=True)):
        drawn = {name: np.zeros(grid.shape, layer.dtype) for name in ("certain", "low", "median")}
        possible: dict[int, list[np.ndarray]] = {item.value: [] for item in segments.items if item.layer == number}
        for box, samples in _sampled(view, layer.dtype, error, grid, pause):
            _sort_out(samples, box, drawn, possible)
        apart, place_of = _apart(drawn["certain"], possible)
        places |= {(number, value): len(layers["high"]) + place for value, place in place_of.items()}
        layers["high"] += apart
        layers["low"].append(drawn["low"])
        layers["median"].append(drawn["median"])
    same = {name: replace(segments, layers=layers[name], geometry=grid) for name in ("low", "median")}
    items = [replace(item, layer=places[item.layer, item.value]) for item in segments.items]
    return {**same, "high": replace(segments, layers=layers["high"], geometry=grid, items=items)}


def _sampled(
    view: View, kind: np.dtype, error: Volume, grid: Geometry, pause: Pause
) -> Iterator[tuple[Box, np.ndarray]]:
    """Yield parts of a grid and what may lie at their voxels, `(k, j, i, SAMPLES)`."""
    vectors = error_vectors(grid).astype(np.float32)
    for box in _boxes(grid.shape):
        ends = np.array([[side.start, side.stop] for side in box[::-1]]).T
        part = grid.cropped(*ends)
        look, bound = view(part), fields.resize(error.array[..., None], error.geometry, part)
        samples = np.empty((*part.shape, SAMPLES), kind)
        for number, vector in enumerate(vectors):
            pause()
            samples[..., number] = look(bound * vector)
        yield box, samples


def _boxes(shape: tuple[int, int, int]) -> Iterator[Box]:
    """Yield boxes that make up a grid, as wide as high: such need the least of what is looked up around them."""
    axes = sum(size > 1 for size in shape)
    side = math.floor(BLOCK_VOXELS ** (1 / max(axes, 1)))
    starts = (range(0, size, side) for size in shape)
    for corner in itertools.product(*starts):
        k, j, i = (slice(start, min(start + side, size)) for start, size in zip(corner, shape, strict=True))
        yield k, j, i


def _sort_out(
    samples: np.ndarray, box: Box, drawn: dict[str, np.ndarray], possible: dict[int, list[np.ndarray]]
) -> None:
    """Draw what is certain of a part of a grid, and judge the voxels that may belong to several segments.

    Args:
        samples: Labels `(k, j, i, SAMPLES)`.
        box: Where they lie.
        drawn: Label maps of the whole, of which the part is filled.
        possible: By label, gets the places in the whole where it is possible without being certain.
    """
    first = samples[..., 0]
    differ = (samples != first[..., None]).any(-1)
    for labels in drawn.values():
        labels[box] = np.where(differ, 0, first)
    inside = np.nonzero(differ)
    shape = drawn["certain"].shape
    place = np.ravel_multi_index(tuple(own + side.start for own, side in zip(inside, box, strict=True)), shape)
    mixed = samples[differ]
    for value in np.intersect1d(mixed, list(possible)).tolist():
        count = (mixed == value).sum(1)
        for name in ("low", "median"):
            drawn[name].ravel()[place[count >= SAMPLES - RANKS[name]]] = value
        possible[value].append(place[count >= SAMPLES - RANKS["high"]])


def _apart(certain: np.ndarray, possible: dict[int, list[np.ndarray]]) -> tuple[list[np.ndarray], dict[int, int]]:
    """Draw labels that may overlap in as few label maps as that allows, and return these and in which each lies.

    Args:
        certain: Label map `(k, j, i)` of where they are certain, which none other can be.
        possible: By label, where else they are possible: places in the whole.
    """
    layers, place_of = [np.zeros_like(certain)], {}
    for value, parts in possible.items():
        places = np.concatenate([np.empty(0, np.intp), *parts])
        free = (number for number, layer in enumerate(layers) if not layer.ravel()[places].any())
        place_of[value] = next(free, len(layers))
        if place_of[value] == len(layers):
            layers.append(np.zeros_like(certain))
        layer = layers[place_of[value]]
        layer[certain == value] = value
        layer.ravel()[places] = value
    return layers, place_of
