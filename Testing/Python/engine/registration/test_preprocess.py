"""Any two volumes reach one working grid, and the field comes back exactly, whatever the storage order."""

import re

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.protocol.grid import GridPolicy
from DeepAttentionRegEngine.registration import preprocess
from DeepAttentionRegEngine.registration.deformation import StoredDeformation
from DeepAttentionRegEngine.registration.preprocess import Source, field_on, prepare, warp_volume
from DeepAttentionRegEngine.registration.working_grid import plan_grid, spatial_shape
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegEngine.volume.images import to_sitk
from DeepAttentionRegEngine.volume.intensity import normalize
from engine_cases import (
    CPU,
    blob_image,
    blob_source,
    centered,
    matrix4,
    positions,
    restored,
    rotation,
    smooth_displacement,
    storage_orders,
)

pytestmark = pytest.mark.torch

OBLIQUE = rotation(12, -9, 20)
LIMITS = GridPolicy(minimum_size=16, maximum_voxels=60_000)
SIMPLE = Geometry((32, 32, 32), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
FLATS = [(40, 30, 1), (40, 1, 30), (1, 40, 30)]


def is_one_sentence(text: str) -> bool:
    return bool(re.fullmatch(r"[A-Z](?:[^.]|\.(?!\s))*\.", text))


class TestPrepare:
    @pytest.mark.parametrize("size", [(28, 24, 20), (28, 24, 1)], ids=["volume", "slice"])
    def test_storage_order_does_not_change_the_images(self, size: tuple[int, int, int]) -> None:
        geometry = centered(size, (3.0, 3.5, 4.0), OBLIQUE)
        expected = prepare(blob_source(geometry), blob_source(geometry), np.eye(4), LIMITS, CPU)
        for order, signs in storage_orders()[::7]:
            source = blob_source(restored(geometry, order, signs))
            pair = prepare(source, source, np.eye(4), LIMITS, CPU)
            # Coordinates in single precision on an image of contrast 1.
            torch.testing.assert_close(pair.fixed, expected.fixed, atol=1e-4, rtol=0)

    def test_image_on_its_own_grid_is_the_normalised_image(self) -> None:
        source = blob_source(SIMPLE)
        pair = prepare(source, source, np.eye(4), LIMITS, CPU)
        np.testing.assert_allclose(pair.fixed[0, 0].numpy(), normalize(source.array), atol=1e-5)

    def test_moving_image_is_sampled_through_the_alignment(self) -> None:
        # The moving image shows at A x what the fixed one shows at x, on a grid of its own.
        alignment = matrix4(rotation(5, -8, 10), (30.0, -20.0, 12.0))
        fixed = blob_source(centered((36, 36, 36), (3.0, 3.0, 3.0)))
        away = centered((40, 38, 36), (3.2, 2.8, 3.0), OBLIQUE, (30.0, -20.0, 12.0))
        moving = blob_source(away, np.linalg.inv(alignment))
        pair = prepare(fixed, moving, alignment, LIMITS, CPU)
        known = pair.weight > 0
        # Linear interpolation of blobs of 7 mm at 3 mm, of contrast 1: measured 0.03 at most.
        assert float((pair.fixed - pair.moving)[known].abs().max()) < 0.06

    def test_weight_is_zero_where_the_moving_volume_has_no_data(self) -> None:
        source = blob_source(SIMPLE)
        pair = prepare(source, source, matrix4(np.eye(3), (20.0, 0.0, 0.0)), LIMITS, CPU)
        assert pair.weight[0, 0, 5, 5].tolist() == [1.0] * 22 + [0.0] * 10

    @pytest.mark.parametrize("role", ["fixed", "moving"])
    def test_mask_restricts_the_weight(self, role: str) -> None:
        plain = blob_source(SIMPLE)
        mask = np.zeros(SIMPLE.shape, np.uint8)
        mask[:, :16] = 1
        masked = Source(plain.array, SIMPLE, mask)
        sources = (masked, plain) if role == "fixed" else (plain, masked)
        pair = prepare(*sources, np.eye(4), LIMITS, CPU)
        np.testing.assert_array_equal(pair.weight[0, 0].numpy(), mask)

    def test_small_mask_is_no_lack_of_overlap(self) -> None:
        mask = np.zeros(SIMPLE.shape, np.uint8)
        mask[14:18, 14:18, 14:18] = 1  # 0.2 % of the volume
        plain = blob_source(SIMPLE)
        pair = prepare(Source(plain.array, SIMPLE, mask), plain, np.eye(4), LIMITS, CPU)
        assert float(pair.weight.sum()) == 64

    def test_small_moving_volume_within_the_fixed_one_is_no_lack_of_overlap(self) -> None:
        plain = blob_source(SIMPLE)
        part = Source(plain.array[12:19, 12:19, 12:19], centered((7, 7, 7), (2.0, 2.0, 2.0), center=(30.0, 30.0, 30.0)))
        pair = prepare(plain, part, np.eye(4), LIMITS, CPU)  # 1 % of it
        assert float(pair.weight.sum()) == 343

    def test_small_volume_at_the_edge_of_the_other_one_is_refused(self) -> None:
        plain = blob_source(SIMPLE)
        away = centered((7, 7, 7), (2.0, 2.0, 2.0), center=(-8.1, 30.0, 30.0))  # all but a tenth of a millimetre off
        with pytest.raises(EngineError, match=r"0\.0 % of the smaller field of view"):
            prepare(plain, Source(plain.array[12:19, 12:19, 12:19], away), np.eye(4), LIMITS, CPU)

    def test_not_a_number_counts_as_dark(self) -> None:
        source = blob_source(SIMPLE)
        source.array[3:6, 3:6, 3:6] = np.nan
        pair = prepare(source, blob_source(SIMPLE), np.eye(4), LIMITS, CPU)
        assert torch.isfinite(pair.fixed).all()


class TestErrors:
    @staticmethod
    def refusal(fixed: Source, moving: Source, alignment: np.ndarray) -> EngineError:
        with pytest.raises(EngineError) as caught:
            prepare(fixed, moving, alignment, LIMITS, CPU)
        return caught.value

    def cases(self) -> dict[str, tuple[EngineError, str]]:
        plain = blob_source(SIMPLE)
        empty = Source(plain.array, SIMPLE, np.zeros(SIMPLE.shape, np.uint8))
        constant, nothing = np.full(SIMPLE.shape, 3.0), np.full(SIMPLE.shape, np.nan)
        away = matrix4(np.eye(3), (500.0, 0.0, 0.0))
        return {
            "overlap": (self.refusal(plain, plain, away), errors.NO_OVERLAP),
            "fixed mask": (self.refusal(empty, plain, np.eye(4)), errors.MASK_OUTSIDE),
            "moving mask": (self.refusal(plain, empty, np.eye(4)), errors.MASK_OUTSIDE),
            "constant": (self.refusal(Source(constant, SIMPLE), plain, np.eye(4)), errors.INPUT_INVALID),
            "nan": (self.refusal(plain, Source(nothing, SIMPLE), np.eye(4)), errors.INPUT_INVALID),
        }

    @pytest.mark.parametrize("case", ["overlap", "fixed mask", "moving mask", "constant", "nan"])
    def test_has_its_code(self, case: str) -> None:
        error, code = self.cases()[case]
        assert error.code == code

    @pytest.mark.parametrize("case", ["overlap", "fixed mask", "moving mask", "constant", "nan"])
    def test_is_one_sentence_and_a_hint(self, case: str) -> None:
        error, _ = self.cases()[case]
        assert is_one_sentence(error.message)
        assert is_one_sentence(error.hint)

    @pytest.mark.parametrize(("case", "name"), [("fixed mask", "fixed image"), ("nan", "moving image")])
    def test_names_the_volume(self, case: str, name: str) -> None:
        error, _ = self.cases()[case]
        assert name in error.message


class TestFieldOnFixed:
    FIXED = centered((22, 18, 14), (2.0, 2.5, 4.0), OBLIQUE, (150.0, -80.0, 400.0))
    ALIGNMENT = matrix4(rotation(10, 20, -30) @ np.diag([1.1, 0.9, 1.05]), (25.0, -40.0, 10.0))

    def pair(self, alignment: np.ndarray, fixed: Geometry) -> preprocess.WorkingPair:
        grid = plan_grid(fixed, LIMITS)
        empty = torch.zeros(1, 1, *spatial_shape(grid))
        return preprocess.WorkingPair(empty, empty, weight=empty, geometry=grid, alignment=alignment)

    def zero(self, pair: preprocess.WorkingPair) -> torch.Tensor:
        spatial = pair.fixed.shape[2:]
        return torch.zeros(1, len(spatial), *spatial)

    @pytest.mark.parametrize("size", [(22, 18, 14), *((22, 18, 1), (22, 1, 18), (1, 22, 18))])
    def test_zero_displacement_leaves_exactly_the_alignment(self, size: tuple[int, int, int]) -> None:
        fixed = centered(size, (2.0, 2.5, 4.0), OBLIQUE, (150.0, -80.0, 400.0))
        pair = self.pair(self.ALIGNMENT, fixed)
        field = field_on(self.zero(pair), pair, fixed)
        points = positions(fixed)
        expected = points @ self.ALIGNMENT[:3, :3].T + self.ALIGNMENT[:3, 3] - points
        # Single precision at coordinates of 400 mm; a thousandth of a millimetre is what the field promises.
        np.testing.assert_allclose(field, expected, atol=1e-3)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_one_voxel_along_a_working_axis_is_one_spacing_along_its_direction(self, axis: int) -> None:
        pair = self.pair(np.eye(4), self.FIXED)
        displacement = self.zero(pair)
        displacement[:, 2 - axis] = 1.0  # channels run k, j, i
        field = field_on(displacement, pair, self.FIXED)
        expected = np.broadcast_to(pair.geometry.ijk_to_lps[:3, axis], field.shape)
        np.testing.assert_allclose(field, expected, atol=1e-5)

    def test_displacement_is_applied_before_the_alignment(self) -> None:
        pair = self.pair(self.ALIGNMENT, self.FIXED)
        displacement = self.zero(pair)
        displacement[:, 0] = 1.5
        field = field_on(displacement, pair, self.FIXED)
        points = positions(self.FIXED)
        moved = points + 1.5 * pair.geometry.ijk_to_lps[:3, 2]
        expected = moved @ self.ALIGNMENT[:3, :3].T + self.ALIGNMENT[:3, 3] - points
        np.testing.assert_allclose(field, expected, atol=1e-3)

    @pytest.mark.parametrize("size", FLATS, ids=["flat-k", "flat-j", "flat-i"])
    def test_slice_moves_within_its_plane(self, size: tuple[int, int, int]) -> None:
        fixed = centered(size, (1.0, 2.0, 1.5), OBLIQUE)
        pair = self.pair(np.eye(4), fixed)
        displacement = smooth_displacement(tuple(pair.fixed.shape[2:]), peak=3.0)
        normal = OBLIQUE[:, size.index(1)]
        assert np.abs(field_on(displacement, pair, fixed) @ normal).max() < 1e-5

    def test_slab_by_slab_is_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pair = self.pair(self.ALIGNMENT, self.FIXED)
        displacement = smooth_displacement(tuple(pair.fixed.shape[2:]), peak=3.0)
        whole = field_on(displacement, pair, self.FIXED)
        monkeypatch.setattr(preprocess, "SLAB_VOXELS", 1000)
        np.testing.assert_array_equal(field_on(displacement, pair, self.FIXED), whole)


class TestWarpVolume:
    FIXED = centered((24, 20, 16), (2.5, 3.0, 4.0), OBLIQUE, (15.0, -8.0, 40.0))
    MOVING = centered((28, 26, 22), (2.0, 3.5, 3.0), rotation(-15, 5, 100), (15.0, -8.0, 40.0))

    def deformation(self) -> StoredDeformation:
        return StoredDeformation(self.field(), self.FIXED)

    def field(self, *, peak: float = 8.0) -> np.ndarray:
        """Return a smooth displacement in mm on the fixed grid, up to `peak` mm along x, y and z."""
        noise = smooth_displacement(self.FIXED.shape, peak=peak, seed=3)
        return noise[0].movedim(0, -1).contiguous().numpy()

    def by_simpleitk(self, array: np.ndarray, field: np.ndarray, *, nearest: bool, background: float) -> np.ndarray:
        transform = sitk.DisplacementFieldTransform(to_sitk(field.astype(np.float64), self.FIXED))
        reference = to_sitk(np.zeros(self.FIXED.shape, np.float32), self.FIXED)
        method = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
        image = to_sitk(array, self.MOVING)
        return sitk.GetArrayFromImage(sitk.Resample(image, reference, transform, method, background))

    def image(self) -> np.ndarray:
        return blob_image(positions(self.MOVING) - np.array([15.0, -8.0, 40.0])) * 1000 - 200

    def test_float_image_is_what_simpleitk_makes_of_the_same_field(self) -> None:
        image, field = self.image(), self.field()
        ours = warp_volume(Source(image, self.MOVING), StoredDeformation(field, self.FIXED), self.FIXED, CPU)
        theirs = self.by_simpleitk(image, field, nearest=False, background=float(image.min()))
        # Values up to 1000, coordinates in single precision (1e-5 voxel).
        np.testing.assert_allclose(ours, theirs, atol=0.02)

    @pytest.mark.parametrize("kind", [np.int16, np.uint8])
    def test_integer_image_is_what_simpleitk_makes_of_the_same_field(self, kind: type) -> None:
        image, field = np.clip(self.image() / 5 + 60, 0, 250).astype(kind), self.field()
        ours = warp_volume(Source(image, self.MOVING), StoredDeformation(field, self.FIXED), self.FIXED, CPU)
        theirs = self.by_simpleitk(image, field, nearest=False, background=float(image.min()))
        # One unit where a value lies half way between two whole numbers.
        assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1

    @pytest.mark.parametrize("kind", [np.int16, np.uint8, np.uint16, np.float32, np.float64])
    def test_type_is_kept(self, kind: type) -> None:
        image = np.clip(self.image() / 5 + 60, 0, 250).astype(kind)
        assert warp_volume(Source(image, self.MOVING), self.deformation(), self.FIXED, CPU).dtype == kind

    def test_labels_are_what_simpleitk_makes_of_the_same_field(self) -> None:
        labels, field = (np.digitize(self.image(), (0, 200, 400)) * 7).astype(np.uint8), self.field()
        ours = warp_volume(
            Source(labels, self.MOVING), StoredDeformation(field, self.FIXED), self.FIXED, CPU, nearest=True
        )
        theirs = self.by_simpleitk(labels, field, nearest=True, background=0)
        # A point half way between two voxels may fall to either.
        assert (ours != theirs).mean() < 1e-3

    def test_large_label_values_are_kept(self) -> None:
        # Numbers of the Allen mouse brain atlas, beyond what single precision can hold.
        labels = np.where(self.image() > 100, 614_454_277, 182_305_689).astype(np.uint32)
        ours = warp_volume(Source(labels, self.MOVING), self.deformation(), self.FIXED, CPU, nearest=True)
        assert set(np.unique(ours)) <= {0, 614_454_277, 182_305_689}

    def test_outside_the_moving_volume_images_take_their_minimum(self) -> None:
        far = StoredDeformation(np.full((*self.FIXED.shape, 3), 1000.0, np.float32), self.FIXED)
        assert (warp_volume(Source(self.image(), self.MOVING), far, self.FIXED, CPU) == self.image().min()).all()

    def test_outside_the_moving_volume_there_is_no_label(self) -> None:
        labels = np.full(self.MOVING.shape, 5, np.uint8)
        far = StoredDeformation(np.full((*self.FIXED.shape, 3), 1000.0, np.float32), self.FIXED)
        assert not warp_volume(Source(labels, self.MOVING), far, self.FIXED, CPU, nearest=True).any()

    def test_not_a_number_becomes_the_minimum(self) -> None:
        image = self.image()
        image[10:12, 10:12] = np.nan
        ours = warp_volume(Source(image, self.MOVING), self.deformation(), self.FIXED, CPU)
        assert np.isfinite(ours).all()

    def test_slab_by_slab_is_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = warp_volume(Source(self.image(), self.MOVING), self.deformation(), self.FIXED, CPU)
        monkeypatch.setattr(preprocess, "SLAB_VOXELS", 1000)
        np.testing.assert_array_equal(
            warp_volume(Source(self.image(), self.MOVING), self.deformation(), self.FIXED, CPU),
            whole,
        )


class TestOnGrid:
    LABELS = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    GRID = Geometry((4, 3, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))

    def test_same_grid_returns_the_array_itself(self) -> None:
        assert preprocess.on_grid(Source(self.LABELS, self.GRID), self.GRID) is self.LABELS

    def test_other_grid_takes_the_nearest_voxel_and_nothing_outside(self) -> None:
        shifted = Geometry((4, 3, 2), (1.0, 1.0, 1.0), (1.2, 0.0, 0.0), tuple(np.eye(3).ravel()))
        expected = np.pad(self.LABELS[:, :, 1:], ((0, 0), (0, 0), (0, 1)))
        np.testing.assert_array_equal(preprocess.on_grid(Source(self.LABELS, self.GRID), shifted), expected)

    def test_type_is_kept(self) -> None:
        shifted = Geometry((4, 3, 2), (1.0, 1.0, 1.0), (1.2, 0.0, 0.0), tuple(np.eye(3).ravel()))
        assert preprocess.on_grid(Source(self.LABELS, self.GRID), shifted).dtype == np.uint16

    def test_large_label_values_are_kept(self) -> None:
        shifted = Geometry((4, 3, 2), (1.0, 1.0, 1.0), (1.2, 0.0, 0.0), tuple(np.eye(3).ravel()))
        labels = np.full(self.GRID.shape, 614_454_277, np.int64)
        found = preprocess.on_grid(Source(labels, self.GRID), shifted)
        assert set(np.unique(found)) == {0, 614_454_277}


class TestResample:
    def test_slabs_cover_a_volume_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(preprocess, "SLAB_VOXELS", 50)
        slices = [k for slab in preprocess.slabs((11, 4, 5)) for k in range(11)[slab]]
        assert slices == list(range(11))

    def test_coarser_grid_averages_fine_detail_away(self) -> None:
        stripes = np.zeros((4, 4, 64), np.float32)
        stripes[..., ::2] = 1.0
        values, _ = preprocess.resample(stripes, np.diag([4.0, 1.0, 1.0, 1.0]), (4, 4, 16), CPU)
        # Without smoothing every fourth sample would be 1. The border continues a bright voxel.
        assert float((values[..., 3:-3] - 0.5).abs().max()) < 0.05

    def test_constant_survives_smoothing(self) -> None:
        values, _ = preprocess.resample(np.full((9, 9, 9), 0.7), np.diag([3.0, 2.0, 1.5, 1.0]), (4, 4, 3), CPU)
        torch.testing.assert_close(values, torch.full_like(values, 0.7))


class TestNormalize:
    def test_range_is_zero_to_one(self) -> None:
        scaled = normalize(np.random.default_rng(0).normal(1000, 300, (20, 20, 20)).astype(np.float32))
        assert (scaled.min(), scaled.max()) == (0, 1)

    @pytest.mark.parametrize(("gain", "offset"), [(1e5, 0.0), (0.01, -3.0)])
    def test_gain_and_offset_do_not_matter(self, gain: float, offset: float) -> None:
        image = np.random.default_rng(0).random((12, 12, 12))
        # Single precision at values of 1e5.
        np.testing.assert_allclose(normalize(gain * image + offset), normalize(image), atol=1e-4)

    def test_outliers_do_not_set_the_scale(self) -> None:
        image = np.random.default_rng(0).random((20, 20, 20))
        image[0, 0, :10] = 1e6
        assert normalize(image).std() > 0.25

    def test_small_bright_object_in_an_empty_image_stays_visible(self) -> None:
        image = np.zeros((30, 30, 30))
        image[10:12, 10:12, 10:12] = 5
        assert normalize(image).max() == 1

    def test_infinity_becomes_dark(self) -> None:
        image = np.random.default_rng(0).random((12, 12, 12))
        image[0, 0, 0] = np.inf
        assert normalize(image)[0, 0, 0] == 0
