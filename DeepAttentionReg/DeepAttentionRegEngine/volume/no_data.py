"""Which voxels of an image were never measured, because they hold NaN or a value that stands for "no data"."""

import numpy as np

THINNEST = -1100.0  # CT shows air at -1000 and clips it at -1024; in other images 0 is dark
BRIGHTEST = 32767.0  # the largest of 16 bits; a lower value that is far too bright may be metal or saturation
FAR_BELOW, FAR_ABOVE = 0.4, 5.0  # of the range of the rest; -2000 lies so far below the air around a head
BULK = (2.0, 98.0)  # percentiles; what lies beyond may be a blend of anatomy and padding
BORDER_SHARE = 0.005
SAMPLES = 1_000_000  # for percentiles


def known_voxels(array: np.ndarray) -> np.ndarray | None:
    """Return where an image was measured; None if everywhere.

    Not measured is what is not finite, and padding: a constant value at the border, darker than air or brighter than
    16 bits can tell, and far from all others. Air (-1000, -1024) and darkness (0) around a body are measured.

    Args:
        array: `(k, j, i)` of any real type.

    Returns:
        bool `(k, j, i)`, or None.

    Examples:
        >>> known_voxels(np.array([[-1000.0, 40.0], [60.0, np.nan]])).tolist()
        [[True, True], [True, False]]
    """
    known = np.isfinite(array) if array.dtype.kind not in "iub" else None
    if known is not None and known.all():
        known = None
    # Again and again, as what a scanner and a resampling have padded with may differ.
    while array.size and (known is None or known.any()):
        values = array.ravel() if known is None else array[known]
        low, high = _limits(array, values)
        if values.min() >= low and values.max() <= high:
            break
        within = (array >= low) & (array <= high)
        known = within if known is None else known & within
    return None if known is None or known.all() else known


def _limits(array: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Return between which of an image's finite values those lie that are no padding."""
    lowest, highest = float(values.min()), float(values.max())
    low = lowest < THINNEST and _is_at_border(array, lowest)
    high = highest >= BRIGHTEST and _is_at_border(array, highest)
    if not (low or high):
        return lowest, highest
    some = values[:: -(-values.size // SAMPLES)].astype(float)
    rest = some[(some != lowest) & (some != highest)]
    bottom, top = np.percentile(rest, BULK) if rest.size else (0.0, 0.0)
    if bottom == top:  # two or three values, as of a drawing, of which none is far from all others
        return lowest, highest
    # Where everything is darker than air, as in an image on an offset of its own, darkness says nothing.
    far_below = FAR_BELOW if top > THINNEST else FAR_ABOVE
    below, above = float(bottom - far_below * (top - bottom)), float(top + FAR_ABOVE * (top - bottom))
    return below if low and lowest < below else lowest, above if high and highest > above else highest


def _is_at_border(array: np.ndarray, value: float) -> bool:
    faces = [array.take(end, axis) == value for axis, size in enumerate(array.shape) if size > 1 for end in (0, -1)]
    return sum(int(face.sum()) for face in faces) >= BORDER_SHARE * sum(face.size for face in faces)
