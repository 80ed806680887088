"""What several tests of files share."""

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest

from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.volume.geometry import Geometry

NIFTI_PRECISION = 1e-5  # its matrices are float32; coordinates of some 100 mm
EXACT = 1e-10


def precision(suffix: str) -> float:
    """Return how exactly a format holds positions, in mm."""
    return NIFTI_PRECISION if ".nii" in suffix else EXACT


def assert_same_grid(first: Geometry, second: Geometry, tolerance_mm: float) -> None:
    """Compare the sizes, and the positions of the first voxel and of its neighbors."""
    assert first.size == second.size
    np.testing.assert_allclose(first.ijk_to_lps, second.ijk_to_lps, atol=tolerance_mm)


def refusal(code: str, match: str) -> pytest.RaisesExc[errors.EngineError]:
    """Expect an error of a code, with a hint, whose text matches."""
    return pytest.raises(errors.EngineError, match=match, check=lambda error: error.code == code and bool(error.hint))


@contextlib.contextmanager
def full_disk(free: int) -> Iterator[None]:
    """Make every file of this process end after so many bytes, as on a full disk."""
    resource = pytest.importorskip("resource", reason="file size limits are a POSIX feature")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
