"""The folder of recursions: what is written comes back, and attention lies where its tokens are."""

from pathlib import Path

import numpy as np
import pytest

from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.volume import recursions
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegEngine.volume.recursions import Attention, Index, Step

TURN = ((0.8, -0.6, 0.0), (0.6, 0.8, 0.0), (0.0, 0.0, 1.0))
GRID = Geometry.from_arrays((16, 24, 32), (1.5, 1.5, 1.5), (-40.0, 12.0, 7.0), TURN)
SLICE = Geometry.from_arrays((16, 24, 1), (1.5, 1.5, 4.0), (-40.0, 12.0, 7.0), TURN)


def one_to_one(size: tuple[int, ...], stride: float) -> Attention:
    """Return attention in which each token looks at the token of its own place only."""
    code = 40 * np.eye(int(np.prod(size)), dtype=np.float32)[None]
    return Attention(code, code, size, size, stride, stride)


class TestIndex:
    INDEX = Index("rman", GRID, np.diag([1.0, 1.0, 2.0, 1.0]), [Step("a.nrrd", 0.5), Step("b.nrrd", 0.75)])

    def test_what_is_written_comes_back(self, tmp_path: Path) -> None:
        recursions.write_index(tmp_path, self.INDEX)
        found = recursions.read_index(tmp_path)
        assert (found.method, found.grid, found.recursions) == ("rman", GRID, self.INDEX.recursions)
        np.testing.assert_array_equal(found.alignment, self.INDEX.alignment)

    @pytest.mark.parametrize("damage", ["{", "[]", '{"contract": 1}'])
    def test_damaged_index_is_refused(self, tmp_path: Path, damage: str) -> None:
        (tmp_path / recursions.INDEX).write_text(damage, encoding="ascii")
        with pytest.raises(EngineError, match=r"recursions\.json") as caught:
            recursions.read_index(tmp_path)
        assert caught.value.code == errors.INPUT_UNREADABLE

    def test_other_version_is_refused(self, tmp_path: Path) -> None:
        recursions.write_index(tmp_path, self.INDEX)
        path = tmp_path / recursions.INDEX
        path.write_text(path.read_text(encoding="ascii").replace('"contract": 1', '"contract": 2'), encoding="ascii")
        with pytest.raises(EngineError, match="version 2"):
            recursions.read_index(tmp_path)


class TestAttentionFile:
    def test_what_is_written_comes_back(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        written = Attention(rng.normal(size=(2, 24, 5)), rng.normal(size=(2, 6, 5)), (2, 3, 4), (1, 2, 3), 8, 16)
        recursions.write_attention(tmp_path / "a.npz", written)
        found = recursions.read_attention(tmp_path / "a.npz")
        assert (found.query_size, found.key_size, found.query_stride, found.key_stride) == ((2, 3, 4), (1, 2, 3), 8, 16)
        # 2e-3: half precision of numbers up to 4.
        np.testing.assert_allclose(found.query, written.query, atol=2e-3)
        np.testing.assert_allclose(found.key, written.key, atol=2e-3)

    def test_truncated_file_is_refused(self, tmp_path: Path) -> None:
        recursions.write_attention(tmp_path / "a.npz", one_to_one((2, 2), 8))
        content = (tmp_path / "a.npz").read_bytes()
        (tmp_path / "a.npz").write_bytes(content[: len(content) // 2])
        with pytest.raises(EngineError, match="damaged"):
            recursions.read_attention(tmp_path / "a.npz")


class TestHeatMap:
    def test_weights_sum_to_one(self) -> None:
        rng = np.random.default_rng(0)
        attention = Attention(rng.normal(size=(3, 8, 4)), rng.normal(size=(3, 27, 4)), (2, 2, 2), (3, 3, 3), 8, 6)
        assert attention.row(5).sum() == pytest.approx(1)

    @pytest.mark.parametrize(("grid", "size"), [(GRID, (4, 3, 2)), (SLICE, (3, 2))], ids=["volume", "slice"])
    def test_token_that_looks_at_its_own_place_is_shown_there(self, grid: Geometry, size: tuple[int, ...]) -> None:
        point = grid.index_to_lps(np.array([[11.5, 3.5, 0.0 if grid.is_flat else 19.5]]))[0]
        weights, tokens = one_to_one(size, 8).heat_map(grid, point)
        k, j, i = np.unravel_index(weights.argmax(), weights.shape)
        # The point is the center of a token of eight voxels.
        np.testing.assert_allclose(tokens.index_to_lps(np.array([[i, j, k]], float))[0], point, atol=1e-6)
        assert weights.shape == tokens.shape

    def test_point_beyond_the_grid_takes_the_nearest_token(self) -> None:
        assert one_to_one((4, 3, 2), 8).token_at(GRID, np.array([1e4, 1e4, 1e4])) == 4 * 3 * 2 - 1
