"""Values are normalised and counted block by block, as they would be all at once, in little memory."""

import tracemalloc

import numpy as np
import pytest

from DeepAttentionRegEngine.volume import intensity
from DeepAttentionRegEngine.volume.intensity import count_values, normalize
from DeepAttentionRegEngine.volume.no_data import known_voxels

SHAPE = (11, 7, 9)
TYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"]
every_type = pytest.mark.parametrize("kind", TYPES)


def image(kind: str, *, padded: bool) -> np.ndarray:
    """Return random values of a type, if wanted with a border that holds no data."""
    limits = np.iinfo(kind) if np.dtype(kind).kind in "iu" else np.finfo(np.float32)
    values = np.random.default_rng(0).normal(60, 20, SHAPE).clip(max(0.0, float(limits.min)), 120).astype(kind)
    if padded:
        values[:, :2] = np.nan if np.dtype(kind).kind == "f" else limits.min
    return values


def at_once(array: np.ndarray) -> np.ndarray:
    """Return what `normalize` promises, by plain means."""
    known = known_voxels(array)
    known = np.ones(array.shape, bool) if known is None else known
    values = array.astype(np.result_type(array, np.float32))
    low, high = np.percentile(values[known], intensity.PERCENTILES).astype(values.dtype)
    return np.where(known, ((values - low) / (high - low)).clip(0, 1), 0).astype(np.float32)


@pytest.fixture
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intensity, "BLOCK_VOXELS", 100)


@pytest.mark.usefixtures("_small_blocks")
class TestBlocks:
    @every_type
    @pytest.mark.parametrize("padded", [True, False])
    def test_image_is_normalised_as_at_once(self, kind: str, padded: bool) -> None:
        array = image(kind, padded=padded)
        np.testing.assert_array_equal(normalize(array), at_once(array))

    @every_type
    @pytest.mark.parametrize("chosen", [True, False])
    def test_values_are_counted_as_at_once(self, kind: str, chosen: bool) -> None:
        array = image(kind, padded=False)
        array[0, 0, :2] = array.max(), np.iinfo(kind).min if np.dtype(kind).kind in "iu" else -1
        where = array > 50 if chosen else None
        values, counts = np.unique(array if where is None else array[where], return_counts=True)
        assert count_values(array, where) == dict(zip(values.tolist(), counts.tolist(), strict=True))

    def test_blocks_cover_an_array_once(self) -> None:
        rows = [row for block in intensity.blocks(SHAPE) for row in range(SHAPE[0])[block]]
        assert rows == list(range(SHAPE[0]))
        assert max(block.stop - block.start for block in intensity.blocks(SHAPE)) == 1


@pytest.mark.parametrize(("kind", "copies"), [("int16", 0.3), ("float32", 1.3)])
def test_normalising_takes_little_more_memory_than_its_result(kind: str, copies: float) -> None:
    array = np.random.default_rng(0).integers(-1000, 1000, (96, 256, 256)).astype(kind)
    size = 4 * array.size
    tracemalloc.start()
    normalize(array)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Floats are copied once to find the percentiles, before there is a result; blocks are a sixth of this image.
    assert peak < (1 + copies) * size
