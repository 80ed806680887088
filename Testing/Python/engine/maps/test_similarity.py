"""How alike images are around every voxel, where the truth is known."""

import numpy as np
import pytest

from DeepAttentionRegEngine.maps import similarity
from DeepAttentionRegEngine.maps.similarity import local_correlation
from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.volume.geometry import Geometry

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
GRID = Geometry((40, 30, 20), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), AXIAL)


def noise(seed: int, grid: Geometry = GRID) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=grid.shape)


def test_is_one_for_the_same_image_in_other_units():
    assert local_correlation(noise(0), 500 - 3 * noise(0), GRID).min() > 0.999


def test_is_near_zero_for_unrelated_images():
    # With 343 voxels in a window chance correlates by 1/343 in the mean.
    assert local_correlation(noise(0), noise(1), GRID).mean() < 0.05


def test_tells_where_two_images_differ():
    changed = noise(0)
    changed[:, :, 20:] = noise(1)[:, :, 20:]
    likeness = local_correlation(noise(0), changed, GRID)
    assert likeness[:, :, :16].min() > 0.99
    assert likeness[:, :, 24:].max() < 0.3


def test_uniform_parts_of_both_images_do_not_contradict():
    first, second = (np.where(np.arange(40) < 20, 0.5 + 0.005 * noise(seed), noise(2)) for seed in (0, 1))
    assert local_correlation(first, second, GRID)[:, :, :16].min() > 0.9


def test_structure_in_one_image_alone_contradicts():
    flat = np.where(np.arange(40) < 20, 0.5, noise(0))
    assert local_correlation(noise(0), flat, GRID)[:, :, :16].max() < 0.1


def test_window_is_as_long_in_mm_along_every_axis():
    grid = Geometry((40, 40, 16), (1.0, 1.0, 4.0), (0.0, 0.0, 0.0), AXIAL)
    other = noise(0, grid)
    other[8, 20, 20] += 20  # clipped, but still another brightness
    touched = np.argwhere(local_correlation(noise(0, grid), other, grid) < 0.9999)
    extent_mm = (np.ptp(touched, axis=0) + 1) * grid.spacing[::-1]
    np.testing.assert_allclose(extent_mm, [12, 11, 11])


def test_single_slice_is_compared_within_itself():
    grid = Geometry((40, 30, 1), (1.0, 1.0, 5.0), (0.0, 0.0, 0.0), AXIAL)
    assert local_correlation(noise(0, grid), noise(0, grid), grid).shape == (1, 30, 40)


@pytest.mark.parametrize("second", [np.ones(GRID.shape), noise(0)[:-1]], ids=["constant", "another size"])
def test_what_cannot_be_compared_is_refused(second):
    with pytest.raises(EngineError):
        local_correlation(noise(0), second, GRID)


def test_slabs_make_up_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = Geometry((9, 8, 11), (1.0, 1.0, 1.5), (0.0, 0.0, 0.0), AXIAL)
    a, b = np.random.default_rng(0).random((2, *geometry.shape), dtype=np.float32)
    whole = local_correlation(a, b, geometry)
    monkeypatch.setattr(similarity, "CHUNK_VOXELS", 1)
    pauses: list[None] = []
    slabs = local_correlation(a, b, geometry, lambda: pauses.append(None))
    np.testing.assert_allclose(slabs, whole, atol=1e-5)  # sums in single precision
    assert len(pauses) > geometry.size[2]
