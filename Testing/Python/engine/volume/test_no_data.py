"""Padding and NaN are found as voxels without data, and the air or darkness around a body is not."""

import numpy as np
import pytest

from DeepAttentionRegEngine.volume.intensity import normalize
from DeepAttentionRegEngine.volume.no_data import known_voxels

SHAPE = (20, 40, 40)
LARGEST = float(np.finfo(np.float32).max)


def body() -> np.ndarray:
    """Return an ellipsoid of about 40 HU with bone and gas in noisy air, `(k, j, i)`."""
    rng = np.random.default_rng(0)
    radius = np.sqrt(sum(((x - n / 2) / (0.4 * n)) ** 2 for x, n in zip(np.indices(SHAPE), SHAPE, strict=True)))
    image = np.where(radius < 1, rng.normal(40, 30, SHAPE), rng.normal(-990, 15, SHAPE))
    image[radius < 0.3] = 900
    image[(radius > 0.5) & (radius < 0.55)] = -850
    return image


def circle() -> np.ndarray:
    """Return where a scanner sees, `(k, j, i)`."""
    _, j, i = np.indices(SHAPE)
    return (j - 19.5) ** 2 + (i - 22) ** 2 < 20**2


def padded(value: float, dtype: str = "float32") -> np.ndarray:
    return np.where(circle(), body(), value).astype(dtype)


class TestPadding:
    @pytest.mark.parametrize(
        ("value", "dtype"),
        [
            (-2000, "int16"),
            (-3024, "int16"),
            (-32768, "int16"),
            (-9999, "float32"),
            (-LARGEST, "float32"),
            (-1e300, "float64"),
            (32767, "int16"),
            (LARGEST, "float32"),
            (np.nan, "float32"),
            (-np.inf, "float32"),
        ],
    )
    def test_padding_is_not_known(self, value: float, dtype: str) -> None:
        np.testing.assert_array_equal(known_voxels(padded(value, dtype)), circle())

    @pytest.mark.parametrize("offset", [-1e9, 1e9])
    def test_offset_makes_no_padding_of_darkness_around_a_brain(self, offset: float) -> None:
        brain = np.where(circle(), np.random.default_rng(0).uniform(400, 1000, SHAPE), 0)
        assert known_voxels(brain) is None
        assert known_voxels(brain + offset) is None

    def test_padding_of_an_image_on_an_offset_is_found(self) -> None:
        image = np.where(circle(), body() - 1e9, -LARGEST)
        np.testing.assert_array_equal(known_voxels(image), circle())

    def test_two_paddings_are_both_found(self) -> None:
        image = padded(-3024)
        image[:, :3] = -32768
        expected = circle()
        expected[:, :3] = False
        np.testing.assert_array_equal(known_voxels(image), expected)

    def test_padding_at_either_end_is_found(self) -> None:
        image = padded(-LARGEST)
        image[:, :3] = LARGEST
        expected = circle()
        expected[:, :3] = False
        np.testing.assert_array_equal(known_voxels(image), expected)

    def test_blends_of_padding_and_anatomy_are_not_known(self) -> None:
        image = padded(-32768)
        image[0, 19, 1:3] = -20000, -9000
        known = known_voxels(image)
        assert known is not None
        assert not known[0, 19, 1:3].any()

    def test_padding_in_a_slice_is_found(self) -> None:
        np.testing.assert_array_equal(known_voxels(padded(-3024)[10:11]), circle()[10:11])


class TestBackground:
    @pytest.mark.parametrize("value", [-1000, -1024, 0])
    def test_air_and_water_around_the_circle_are_known(self, value: float) -> None:
        assert known_voxels(padded(value)) is None

    def test_air_around_a_cut_out_brain_is_known(self) -> None:
        image = np.where(body() > -300, np.random.default_rng(1).normal(40, 8, SHAPE), -1024).astype(np.int16)
        assert known_voxels(image) is None

    def test_darkness_around_a_cut_out_brain_is_known(self) -> None:
        image = np.where(body() > -300, np.random.default_rng(1).normal(900, 60, SHAPE), 0).astype(np.uint16)
        assert known_voxels(image) is None

    def test_images_of_two_values_are_known(self) -> None:
        for low, high in ((-3024, 5), (0, 65535), (-32768, 32767)):
            assert known_voxels(np.where(body() > 0, high, low)) is None

    def test_image_with_values_all_the_way_down_is_known(self) -> None:
        image = np.random.default_rng(0).normal(0, 1500, SHAPE).clip(-4000, 4000)
        assert known_voxels(image) is None

    def test_saturated_tissue_at_the_border_is_known(self) -> None:
        image = (np.indices(SHAPE)[2] * 2500).clip(0, 65535).astype(np.uint16)
        assert known_voxels(image) is None

    def test_low_value_inside_of_the_body_is_known(self) -> None:
        image = body()
        image[8:12, 18:22, 18:22] = -3024
        assert known_voxels(image) is None


class TestNormalize:
    @pytest.mark.parametrize("value", [-3024, -32768, -LARGEST, LARGEST, np.nan])
    def test_padding_does_not_change_the_contrast(self, value: float) -> None:
        # The air outside of the circle, too, is noise about a thousand: its percentiles differ by a thousandth.
        np.testing.assert_allclose(normalize(padded(value))[circle()], normalize(body())[circle()], atol=0.02)

    def test_padding_becomes_dark(self) -> None:
        assert not normalize(padded(LARGEST))[~circle()].any()
