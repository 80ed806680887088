"""How alike two images are in the neighborhood of every voxel."""

import numpy as np
import SimpleITK as sitk

from ..protocol.reporting import Pause, no_pause
from ..volume.geometry import Geometry
from ..volume.intensity import normalize

RADIUS_VOXELS = 3  # of the window, in voxels of the mean size
# Variance that counts as noise in an image scaled to [0, 1]: about 3 % of its range. Where both images vary less, there
# is nothing to disagree about.
NOISE_VARIANCE = 1e-3
CHUNK_VOXELS = 2**20  # bounds the temporaries, and the time of a slab


def local_correlation(fixed: np.ndarray, warped: np.ndarray, geometry: Geometry, pause: Pause = no_pause) -> np.ndarray:
    """Return the squared local correlation: 1 where the images agree up to brightness and contrast, 0 where not at all.

    `((|cov| + e) / (sd1^2 + e)) * ((|cov| + e) / (sd2^2 + e))` over a window of about 7 voxels of the mean size, with
    e = `NOISE_VARIANCE`: 1 where both are uniform, near 0 where only one is.

    Args:
        fixed: `(k, j, i)`, any real type; non-finite voxels count as dark.
        warped: The same.
        geometry: Their grid.
        pause: Called before every slab and between what comes before.

    Returns:
        float32 `(k, j, i)` in [0, 1].

    Raises:
        EngineError: If an image is constant or has another size than the grid.
    """
    for array in (fixed, warped):
        geometry.require_shape(array.shape, "volume")
    mean_size = float(np.prod(geometry.spacing)) ** (1 / 3)
    radius = [
        max(1, round(RADIUS_VOXELS * mean_size / spacing)) if size > 1 else 0
        for size, spacing in zip(geometry.size, geometry.spacing, strict=True)
    ]

    pause()
    a = normalize(fixed, "fixed image")
    pause()
    b = normalize(warped, "moving image")
    result = np.empty(geometry.shape, np.float32)
    size_k, size_j, size_i = geometry.shape
    step = max(1, CHUNK_VOXELS // (size_j * size_i))
    for start in range(0, size_k, step):
        pause()
        stop = min(start + step, size_k)
        low, high = max(0, start - radius[2]), min(size_k, stop + radius[2])  # the windows reach beyond the slab
        result[start:stop] = _likeness(a[low:high], b[low:high], radius)[start - low : stop - low]
    return result


def _likeness(a: np.ndarray, b: np.ndarray, radius: list[int]) -> np.ndarray:
    """Return the correlation of two images in [0, 1] over windows of a radius (i, j, k) in voxels."""

    def mean(array: np.ndarray) -> np.ndarray:
        return sitk.GetArrayFromImage(sitk.BoxMean(sitk.GetImageFromArray(array), radius))

    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b = (
        np.maximum(mean(image * image) - center * center, 0) for image, center in ((a, mean_a), (b, mean_b))
    )
    shared = np.abs(mean(a * b) - mean_a * mean_b) + NOISE_VARIANCE
    likeness = shared * shared / ((variance_a + NOISE_VARIANCE) * (variance_b + NOISE_VARIANCE))
    return np.minimum(likeness, 1)
