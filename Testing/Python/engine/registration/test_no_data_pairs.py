"""Voxels without data take no part in a registration, the result tells of them, and a mask decides instead."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from DeepAttentionRegEngine import Settings, Volume, register
from DeepAttentionRegEngine.phantom import thorax
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.protocol.grid import GridPolicy
from DeepAttentionRegEngine.registration.alignment import align, center_of_mass
from DeepAttentionRegEngine.registration.coarse import CoarsePair
from DeepAttentionRegEngine.registration.preprocess import Source, prepare
from DeepAttentionRegEngine.volume.geometry import Geometry
from engine_cases import CPU, blob_source, centered, matrix4, moved_grid, rotation

pytestmark = pytest.mark.torch

GRID = centered((32, 32, 32), (2.0, 2.0, 2.0))
LIMITS = GridPolicy(minimum_size=16, maximum_voxels=60_000)
QUICK = Settings(method="none", alignment="none", refinement_steps=20, device="cpu")
VALUES = [-3024.0, -32768.0, -3.4028235e38, np.nan]


def circle(geometry: Geometry, shift_mm: float = 0.0, share: float = 1.0) -> np.ndarray:
    """Return where a scanner sees, `(k, j, i)`, some mm off the center."""
    _, j, i = np.indices(geometry.shape)
    x = (i - (geometry.size[0] - 1) / 2) * geometry.spacing[0] - shift_mm
    y = (j - (geometry.size[1] - 1) / 2) * geometry.spacing[1]
    return x * x + y * y < (share * geometry.size[1] * geometry.spacing[1] / 2) ** 2


def blobs(value: float) -> Source:
    """Return blobs of a thousand in a circle; around it a value."""
    array = np.where(circle(GRID), 1000 * blob_source(GRID).array, np.float32(value)).astype(np.float32)
    return Source(array, GRID)


@pytest.fixture(scope="module")
def made() -> thorax.PhantomPair:
    return thorax.make_phantom(thorax.default_geometry((40, 36, 40), (8.5, 7.0, 8.5)))


class TestPairs:
    @pytest.mark.parametrize("value", VALUES)
    @pytest.mark.parametrize("role", ["fixed", "moving"])
    def test_weight_is_zero_where_an_image_holds_no_data(self, value: float, role: str) -> None:
        plain = blob_source(GRID)
        pair = prepare(*((blobs(value), plain) if role == "fixed" else (plain, blobs(value))), np.eye(4), LIMITS, CPU)
        np.testing.assert_array_equal(pair.weight[0, 0].numpy(), circle(GRID))

    def test_mask_decides_on_voxels_without_data(self) -> None:
        mask = np.zeros(GRID.shape, np.uint8)
        mask[:, :10] = 1
        pair = prepare(Source(blobs(-3024).array, GRID, mask), blob_source(GRID), np.eye(4), LIMITS, CPU)
        np.testing.assert_array_equal(pair.weight[0, 0].numpy(), mask)

    def test_images_that_share_padding_alone_do_not_overlap(self) -> None:
        left = np.arange(32) < 14
        halves = [np.where(half, 1000 * blob_source(GRID).array, -32768.0) for half in (left, ~left)]
        with pytest.raises(EngineError) as caught:
            prepare(*(Source(half, GRID) for half in halves), np.eye(4), LIMITS, CPU)
        assert caught.value.code == errors.NO_OVERLAP

    def test_mutual_information_does_not_see_the_padding(self) -> None:
        grid = moved_grid(GRID, matrix4(rotation(3, -4, 5), (5.0, -4.0, 3.0)))
        image = 1000 * blob_source(GRID).array
        fixed = Source(np.where(circle(GRID, 10), image, -32768.0), GRID)
        moving = Source(np.where(circle(GRID, -10), image, -32768.0), grid)
        found = align(fixed, moving, "rigid", np.eye(4), 0, CPU)
        expected = align(Source(image, GRID), Source(image, grid), "rigid", np.eye(4), 0, CPU)
        points = GRID.index_to_lps(np.array([[8.0, 8, 8], [24, 8, 16], [16, 24, 24]]))
        ours, theirs = (points @ m[:3, :3].T + m[:3, 3] for m in (found, expected))
        # A quarter of a voxel: the circles leave half as many voxels to sample.
        assert np.linalg.norm(ours - theirs, axis=1).max() < 0.5

    @pytest.mark.parametrize("value", VALUES)
    def test_search_for_a_start_does_not_see_the_padding(self, value: float) -> None:
        coarse = CoarsePair.of(blobs(value), Source(blob_source(GRID).array, GRID), CPU)
        assert coarse.fixed.mask is not None
        agreement = (coarse.fixed.mask > 0) == circle(coarse.fixed.geometry)
        assert agreement.mean() > 0.95  # the nearest voxel may lie at the other side of the outline
        assert coarse.moving.mask is None

    @pytest.mark.parametrize("value", VALUES)
    def test_padding_has_no_mass(self, value: float) -> None:
        # Percentiles of what is known are not those of all, so contrast and center differ by little.
        np.testing.assert_allclose(center_of_mass(blobs(value)), center_of_mass(blobs(0.0)), atol=0.1)


class TestRegistration:
    @staticmethod
    def error_mm(made: thorax.PhantomPair, value: float) -> float:
        """Return the landmark error with a value around the circles of both scans."""
        pairs = ((made.fixed, made.fixed_geometry, 0), (made.moving, made.moving_geometry, 25))
        scans = [
            Volume(np.where(circle(grid, shift, 1.15), array, np.float32(value)).astype(np.float32), grid)
            for array, grid, shift in pairs
        ]
        points = {"fixed_points": made.fixed_points_lps, "moving_points": made.moving_points_lps}
        return register(*scans, QUICK, **points).measures["after"]["tre_mm"]["mean"]

    def test_landmark_error_does_not_depend_on_the_padding(self, made: thorax.PhantomPair) -> None:
        air = self.error_mm(made, -1024.0)
        for value in VALUES:
            assert self.error_mm(made, value) < air + 0.3

    def test_result_tells_of_voxels_without_data(self) -> None:
        fixed, moving = (Volume(source.array, GRID) for source in (blobs(-3024), blobs(np.nan)))
        sentences = register(fixed, moving, QUICK).warnings
        assert [("fixed" in text, "-3024" in text, "NaN" in text) for text in sentences] == [
            (True, True, False),
            (False, False, True),
        ]

    def test_result_tells_nothing_where_a_mask_decides(self) -> None:
        fixed, everywhere = Volume(blobs(-3024).array, GRID), Volume(np.ones(GRID.shape, np.uint8), GRID)
        assert register(fixed, (blob_source(GRID).array, GRID), QUICK, fixed_mask=everywhere).warnings == []

    def test_voxels_without_data_are_background_of_the_warped_image(self) -> None:
        moving = Volume(blobs(np.nan).array, GRID)
        still = Settings(**{**vars(QUICK), "refinement_steps": 0})
        warped = register((blob_source(GRID).array, GRID), moving, still).warp()
        assert np.isfinite(warped[0, 0, 0])
        assert warped[0, 0, 0] == np.nanmin(moving.array)
