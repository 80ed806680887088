"""What should not matter to a registration, such as the unit of brightness or a mirror, hardly changes its field."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from DeepAttentionRegEngine import Settings, register
from DeepAttentionRegEngine.phantom import thorax
from DeepAttentionRegEngine.registration import coarse
from DeepAttentionRegEngine.registration.coarse import CoarsePair
from DeepAttentionRegEngine.registration.preprocess import Source
from DeepAttentionRegEngine.volume.geometry import Geometry
from engine_cases import CPU, blob_source, centered, matrix4, rotation

pytestmark = pytest.mark.torch

GRIDS = {
    "3d": thorax.default_geometry((24, 21, 22), (14.0, 11.4, 14.2)),
    "2d": thorax.default_geometry((61, 56, 1), (5.4, 5.4, 5.4), flat=True),
}
METHODS: dict[str, dict[str, Any]] = {
    "refinement": {"method": "none", "refinement_steps": 10},
    "velocity": {"method": "none", "refinement_steps": 5, "velocity": True},
    "squares": {"method": "none", "refinement_steps": 10, "similarity": "mse"},
    "mind": {"method": "none", "refinement_steps": 5, "similarity": "mind"},
    "bspline": {"method": "bspline", "refinement_steps": 0, "recursions": 2},
}
# 0.0001 to 0.003 were measured, 0.03 for MIND of slices; steps along one side of a voxel made it up to 0.3.
MEAN_MM = 0.06

dimensions = pytest.mark.parametrize("dimension", GRIDS)
methods = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def pairs() -> dict[str, thorax.PhantomPair]:
    return {name: thorax.make_phantom(grid) for name, grid in GRIDS.items()}


@pytest.fixture(scope="module")
def unchanged(pairs: dict[str, thorax.PhantomPair]) -> dict[tuple[str, str], np.ndarray]:
    """Return the fields of the pairs as they are."""
    return {
        (method, name): found(method, pair.fixed, pair.moving, pair.fixed_geometry)
        for method in METHODS
        for name, pair in pairs.items()
    }


def found(method: str, fixed: np.ndarray, moving: np.ndarray, grid: Geometry) -> np.ndarray:
    settings = Settings(device="cpu", alignment="none", **METHODS[method])
    return register((fixed, grid), (moving, grid), settings).displacement_lps_mm


def require_close(field: np.ndarray, expected: np.ndarray) -> None:
    assert np.linalg.norm(expected, axis=-1).max() > 5
    assert np.linalg.norm(field - expected, axis=-1).mean() < MEAN_MM


class TestBrightness:
    @methods
    @dimensions
    @pytest.mark.parametrize(("fixed", "moving"), [(1e6, 1e6), (1e-6, 1.0)])
    def test_unit_of_brightness_does_not_matter(
        self, pairs: Any, unchanged: Any, method: str, dimension: str, fixed: float, moving: float
    ) -> None:
        pair = pairs[dimension]
        images = pair.fixed * np.float32(fixed), pair.moving * np.float32(moving)
        require_close(found(method, *images, pair.fixed_geometry), unchanged[method, dimension])


class TestSpace:
    @methods
    @pytest.mark.parametrize(("dimension", "axis"), [("3d", 0), ("3d", 1), ("3d", 2), ("2d", 0), ("2d", 1)])
    def test_mirrored_images_get_the_mirrored_field(
        self, pairs: Any, unchanged: Any, method: str, dimension: str, axis: int
    ) -> None:
        pair, grid = pairs[dimension], GRIDS[dimension]
        images = (np.flip(image, 2 - axis).copy() for image in (pair.fixed, pair.moving))
        field = np.flip(found(method, *images, grid), 2 - axis)
        normal = np.reshape(grid.direction, (3, 3))[:, axis]
        require_close(field - 2 * (field @ normal)[..., None] * normal, unchanged[method, dimension])

    @methods
    def test_order_of_axes_does_not_matter(self, pairs: Any, unchanged: Any, method: str) -> None:
        pair, grid = pairs["3d"], GRIDS["3d"]
        turned = Geometry(grid.size[::-1], grid.spacing[::-1], grid.origin, grid.direction)
        field = found(method, pair.fixed.T.copy(), pair.moving.T.copy(), turned).transpose(2, 1, 0, 3)
        axes = np.reshape(grid.direction, (3, 3))
        require_close((field @ axes)[..., ::-1] @ axes.T, unchanged[method, "3d"])


class TestStart:
    GRID = centered((33, 30, 27), (2.0, 2.0, 2.0))
    TURN = matrix4(rotation(6, -8, 10), (6.0, -5.0, 4.0))

    def improved(self, change: np.ndarray) -> np.ndarray:
        """Return where the map that is found for blobs under a change of space leads the corner of the unchanged."""
        images = (blob_source(self.GRID, matrix @ change) for matrix in (np.eye(4), self.TURN))
        (matrix,) = CoarsePair.of(*images, CPU).improved([np.eye(4)])
        return change @ matrix @ np.linalg.inv(change) @ [32.0, 29.0, 26.0, 1.0]

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_mirrored_volumes_start_at_the_mirrored_place(self, axis: int) -> None:
        mirror = np.diag([-1.0 if other == axis else 1.0 for other in range(4)])
        # mm; 0.01 was measured, and 0.1 by steps along one side of a voxel.
        np.testing.assert_allclose(self.improved(mirror), self.improved(np.eye(4)), atol=0.05)

    @pytest.mark.parametrize("size", [(400, 80, 70), (401, 81, 71)])
    def test_as_many_voxels_are_left_out_at_either_end(self, size: tuple[int, int, int]) -> None:
        grid = centered(size, (1.0, 1.0, 1.0))
        thin = coarse._thinned(Source(np.zeros(grid.shape, np.float32), grid)).geometry
        assert thin.size != grid.size
        np.testing.assert_allclose(thin.center_lps, grid.center_lps, atol=0.51)
