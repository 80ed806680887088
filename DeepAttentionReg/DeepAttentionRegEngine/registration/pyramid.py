"""Recursions that climb a pyramid: the first ones on coarse grids, where a motion of many voxels is one of few.

The same weights serve all grids. A coarse recursion costs a fraction of one on the network's own grid: an eighth at
half of it in volumes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from torch import Tensor

from ..deform.warp import compose, resize_displacement, warp
from ..networks.base import Evidence, ImagePair, Recursion, RegistrationNetwork

Size = tuple[int, ...]


def grid_size(own: Size, factor: int, least: int) -> Size:
    """Return the size of a grid that is coarser than the network's own; that one where it would hardly be.

    Args:
        own: Size of that.
        factor: How many times longer voxels are.
        least: Voxels along an axis, below which it is not made coarser.

    Examples:
        >>> grid_size((128, 96), 4, 32)
        (32, 32)
        >>> grid_size((36, 40), 2, 32)
        (36, 40)
    """
    found = tuple(max(min(n, least), round(n / factor)) for n in own)
    return found if 2 * math.prod(found) <= math.prod(own) else own


def climb(
    network: RegistrationNetwork, pair: ImagePair, sizes: Sequence[Size], *, attend: bool = False
) -> Iterator[Recursion]:
    """Yield the state after each recursion, on the grid of the pair.

    Args:
        network: One that sees whole images.
        pair: The images on the network's own grid, B = 1.
        sizes: Of the grid of each recursion, coarse to fine; the last is that of the pair.
        attend: Also keep what the network attended to; from coarse grids only maps are kept.
    """
    full = tuple(pair.fixed.shape[2:])
    start: Tensor | None = None
    for size, group in groupby(sizes):
        images = _seen(pair, size, start)
        for state in network.recurse(images, len(list(group)), attend=attend):
            if start is None and size == full:
                yield state
                continue
            found = _after(start, state.displacement)
            yield _on_own_grid(state, found, pair)
        start = resize_displacement(_after(start, state.displacement), full)


def _seen(pair: ImagePair, size: Size, start: Tensor | None) -> ImagePair:
    """Return a pair on a grid, the moving image warped by what was found before."""
    images = pair if tuple(pair.fixed.shape[2:]) == size else pair.at(size)
    if start is None:
        return images
    before = resize_displacement(start, size)
    mask = None if images.moving_mask is None else warp(images.moving_mask, before, nearest=True)
    return replace(images, moving=warp(images.moving, before), moving_mask=mask)


def _after(start: Tensor | None, displacement: Tensor) -> Tensor:
    """Return a displacement together with what was found before it."""
    return displacement if start is None else compose(resize_displacement(start, displacement.shape[2:]), displacement)


def _on_own_grid(state: Recursion, displacement: Tensor, pair: ImagePair) -> Recursion:
    """Return a state with the whole displacement on the grid of the pair, whatever grid it was found on."""
    full = pair.fixed.shape[2:]
    evidence, whole = state.evidence, resize_displacement(displacement, full)
    if evidence is not None and displacement.shape[2:] != full:
        evidence = Evidence(evidence.maps)
    return Recursion(whole, resize_displacement(state.increment, full), warp(pair.moving, whole), evidence)
