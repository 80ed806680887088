"""What a registration has that says how far it is off: sizes, and that clues tell a good from a bad deformation."""

import numpy as np
import pytest
import torch
from torch import Tensor

from DeepAttentionRegEngine.evidence import clues
from DeepAttentionRegEngine.evidence.clues import ALIKE, Clues, gather
from DeepAttentionRegEngine.registration.preprocess import WorkingPair
from engine_cases import centered, smooth_noise

pytestmark = pytest.mark.torch

SHAPES = pytest.mark.parametrize("spatial", [(24, 28, 32), (48, 60)], ids=["volume", "slice"])


def pair_of(fixed: Tensor, moving: Tensor) -> WorkingPair:
    grid = centered((*fixed.shape[2:][::-1], 1)[:3], (2.0, 2.0, 2.0))
    return WorkingPair(fixed, moving, weight=torch.ones_like(fixed), geometry=grid, alignment=np.eye(4))


def still(spatial: tuple[int, ...]) -> Tensor:
    return torch.zeros(1, len(spatial), *spatial)


def gathered(spatial: tuple[int, ...], shift: int = 0) -> Clues:
    """Return the clues of an image and itself, some voxels away along the first axis."""
    image = smooth_noise(spatial, seed=1)
    return gather(pair_of(image, image.roll(shift, 2)), still(spatial))


class TestSize:
    @SHAPES
    def test_is_that_of_the_working_grid_where_that_is_small(self, spatial: tuple[int, ...]) -> None:
        found = gathered(spatial)
        assert tuple(found.seen.shape) == spatial == tuple(found.values.shape[1:])
        assert found.voxel_mm == pytest.approx(2.0)

    def test_of_large_grids_is_bounded(self) -> None:
        size = clues.small_size((400, 300, 200))
        assert np.prod(size) == pytest.approx(clues.MOST_VOXELS[3], rel=0.05)
        assert size[0] / size[2] == pytest.approx(2, rel=0.05)

    def test_grid_of_large_ones_has_the_same_field_of_view(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(clues, "MOST_VOXELS", {2: 30**2, 3: 16**3})
        found = gathered((32, 32, 32))
        np.testing.assert_allclose(np.multiply(found.geometry.size, found.geometry.spacing), 64.0)
        assert found.voxel_mm == pytest.approx(4.0)


class TestValues:
    @SHAPES
    def test_are_finite(self, spatial: tuple[int, ...]) -> None:
        assert bool(torch.isfinite(gathered(spatial, 3).values).all())

    @SHAPES
    def test_of_a_perfect_match_correlate(self, spatial: tuple[int, ...]) -> None:
        assert float(gathered(spatial).means[0]) > 0.98

    @SHAPES
    def test_of_a_miss_do_not(self, spatial: tuple[int, ...]) -> None:
        good, bad = (gathered(spatial, shift).means[:ALIKE] for shift in (0, 4))
        assert float(bad[0]) < float(good[0]) - 0.2
        assert float(bad[2]) > float(good[2])

    @SHAPES
    def test_find_where_a_move_would_fit_better(self, spatial: tuple[int, ...]) -> None:
        # Length of the most likely move on the scale of two voxels: each scale has seven clues.
        place = ALIKE + 7
        assert float(gathered(spatial, 2).means[place]) > float(gathered(spatial).means[place]) + 0.2

    def test_ends_with_the_means_of_the_run(self) -> None:
        found = gathered((24, 28, 32))
        count = len(found.means)
        repeated = found.values[2 * count : 3 * count]
        torch.testing.assert_close(repeated, found.means.view(-1, 1, 1, 1).expand_as(repeated))


class TestSeen:
    def test_air_is_not(self) -> None:
        image = smooth_noise((24, 28, 32), seed=1)
        image[:, :, :, :, 16:] = 0
        seen = gather(pair_of(image, image), still((24, 28, 32))).seen
        assert seen[..., :12].all()
        assert not seen[..., 24:].any()

    def test_what_lies_outside_of_an_image_is_not(self) -> None:
        image = smooth_noise((24, 28, 32), seed=1)
        pair = pair_of(image, image)
        pair.weight[:, :, 12:] = 0
        seen = gather(pair, still((24, 28, 32))).seen
        assert not seen[12:].any()
        assert seen[:12].all()
