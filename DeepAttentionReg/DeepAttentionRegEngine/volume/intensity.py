"""Intensity normalisation, the same for training and for use, and values back in the type they came from."""

import numpy as np

from ..protocol import errors
from .no_data import known_voxels

PERCENTILES = (0.5, 99.5)


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
    # Double precision where single cannot hold every value: contrast may stand on an offset a million times as large.
    image = np.asarray(array, dtype=np.result_type(array, np.float32))
    known = known_voxels(image)
    values = image if known is None else image[known]
    if not values.size:
        raise errors.EngineError(
            errors.INPUT_INVALID, f"The {name} holds no finite value.", "Check how it was exported."
        )
    low, high = image.dtype.type(np.percentile(values, percentiles))
    if high <= low:  # a small bright object in an empty image
        low, high = values.min(), values.max()
    if high <= low:
        raise errors.EngineError(
            errors.INPUT_INVALID,
            f"The {name} is constant (every voxel is {float(low):g}), so there is nothing to align.",
            "Choose a volume that shows anatomy.",
        )
    scaled = (image if known is None else np.where(known, image, low)) - low
    scaled /= high - low
    np.clip(scaled, 0, 1, out=scaled)
    return scaled.astype(np.float32, copy=False)


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
