"""Curves as landmarks: points at equal shares of their length, which belong together.

Ends belong to ends. Which end, and on a closed curve where it begins and which way round, is what makes the shapes most
alike as they lie, apart from a shift.
"""

import numpy as np

from ..protocol import errors
from ..volume.points import Markups

PER_SEGMENT = 10  # points of a smooth curve between two control points
FEWEST, MOST = 8, 64  # points of a curve that guide or measure
PER_CONTROL = 3


def matched(fixed: Markups, moving: Markups) -> tuple[np.ndarray, np.ndarray]:
    """Return points `(N, 3)` and `(M, 3)` LPS mm that belong together one by one; of curves as many of both.

    Raises:
        EngineError: If one is a curve and the other none of its kind, or has too few points.
    """
    if fixed.kind == moving.kind == "points":
        return fixed.points, moving.points
    if fixed.kind != moving.kind:
        raise errors.EngineError(
            errors.INPUT_INVALID,
            f"The fixed landmarks are {_told(fixed)}, the moving ones {_told(moving)}.",
            "Give points on both images, or the same kind of curve.",
        )
    closed = fixed.kind == "closed curve"
    if min(len(fixed.points), len(moving.points)) < 2 + closed:
        raise errors.EngineError(
            errors.INPUT_INVALID, "A curve has too few points.", "Place at least two of an open, three of a closed one."
        )
    count = int(np.clip(PER_CONTROL * max(len(fixed.points), len(moving.points)), FEWEST, MOST))
    here, there = (spread(smooth(one.points, closed=closed), count, closed=closed) for one in (fixed, moving))
    return here, most_alike(here, there, closed=closed)


def _told(markups: Markups) -> str:
    return markups.kind if markups.kind == "points" else f"a {markups.kind}"


def smooth(points: np.ndarray, *, closed: bool) -> np.ndarray:
    """Return points `(M, 3)` along a smooth curve through points `(N, 3)`, at whose end the first is not repeated.

    Source: Catmull and Rom 1974.
    """
    if len(points) < 3:
        return points
    ends = (points[-1:], points[:2]) if closed else (2 * points[:1] - points[1:2], 2 * points[-1:] - points[-2:-1])
    around = np.vstack([ends[0], points, ends[1]])
    share = np.arange(PER_SEGMENT)[:, None] / PER_SEGMENT
    pieces = []
    for before, start, end, after in zip(around, around[1:], around[2:], around[3:], strict=False):
        straight, bend = end - before, 2 * before - 5 * start + 4 * end - after
        twist = 3 * (start - end) + after - before
        pieces.append(start + 0.5 * share * (straight + share * (bend + share * twist)))
    return np.vstack(pieces if closed else [*pieces, points[-1:]])


def spread(points: np.ndarray, count: int, *, closed: bool) -> np.ndarray:
    """Return so many points at equal shares of the length of a polygon through points `(N, 3)`."""
    line = np.vstack([points, points[:1]]) if closed else points
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    wanted = np.linspace(0.0, along[-1], count, endpoint=not closed)
    return np.stack([np.interp(wanted, along, line[:, axis]) for axis in range(3)], 1)


def most_alike(fixed: np.ndarray, moving: np.ndarray, *, closed: bool) -> np.ndarray:
    """Return the points `(N, 3)` of a moving curve in the order and, if closed, from the start that suit the fixed."""
    shape = fixed - fixed.mean(0)
    shifts = range(len(moving)) if closed else (0,)
    orders = [np.roll(way, -shift, axis=0) for way in (moving, moving[::-1]) for shift in shifts]
    return min(orders, key=lambda order: float(((order - order.mean(0) - shape) ** 2).sum()))
