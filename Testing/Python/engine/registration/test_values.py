"""Values survive warping and registration: whatever their type, at its ends, and on whatever offset they stand."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from DeepAttentionRegEngine import Settings, register
from DeepAttentionRegEngine.jobs import run
from DeepAttentionRegEngine.phantom import thorax
from DeepAttentionRegEngine.protocol.contract import WarpJob
from DeepAttentionRegEngine.protocol.reporting import Reporter
from DeepAttentionRegEngine.registration.deformation import StoredDeformation
from DeepAttentionRegEngine.registration.preprocess import Source, warp_volume
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.intensity import normalize
from engine_cases import CPU, centered

pytestmark = pytest.mark.torch

GRID = centered((7, 6, 5), (2.0, 1.0, 3.0))
EXACT = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"]
every_type = pytest.mark.parametrize("kind", [*EXACT, "int64", "uint64"])


def extremes(kind: str) -> np.ndarray:
    """Return the ends of a type and what single precision would round, at random places of the grid."""
    if np.dtype(kind).kind == "f":
        values: list[Any] = [1e9 + 0.125, -1e9, 2.0**24 + 3, 0.1]
    else:
        limits = np.iinfo(kind)
        some = [limits.min, limits.max, limits.min + 1, limits.max - 1, 2**24 + 3, 2**53 + 1]
        values = [value for value in some if value <= limits.max]
    return np.array(values, kind)[np.random.default_rng(0).integers(0, len(values), GRID.shape)]


def field(voxels: float) -> np.ndarray:
    """Return a displacement by some voxels along i."""
    return np.broadcast_to(np.float32([voxels * GRID.spacing[0], 0, 0]), (*GRID.shape, 3))


def warped(array: np.ndarray, voxels: float, *, nearest: bool = False) -> np.ndarray:
    return warp_volume(Source(array, GRID), StoredDeformation(field(voxels), GRID), GRID, CPU, nearest=nearest)


class TestWarping:
    @every_type
    def test_nearest_neighbor_takes_values_as_they_are(self, kind: str) -> None:
        array = extremes(kind)
        found = warped(array, 1.2, nearest=True)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found[..., :-2], array[..., 1:-1])

    @pytest.mark.parametrize("kind", EXACT)
    def test_whole_voxels_are_not_interpolated(self, kind: str) -> None:
        array = extremes(kind)
        found = warped(array, 1.0)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found[..., :-1], array[..., 1:])

    @pytest.mark.parametrize("kind", EXACT)
    def test_half_way_is_the_mean(self, kind: str) -> None:
        array = extremes(kind)
        mean = (array[..., 1:].astype(float) + array[..., :-1]) / 2
        whole = np.dtype(kind).kind in "iu"
        # Integers are rounded; floats come to the last digits of their type.
        np.testing.assert_allclose(warped(array, 0.5)[..., :-1], mean, rtol=1e-7, atol=0.5 if whole else 0)

    @pytest.mark.parametrize("kind", ["int64", "uint64"])
    def test_the_ends_of_64_bits_do_not_wrap(self, kind: str) -> None:
        array = extremes(kind)
        # Double precision has 53 bits.
        np.testing.assert_allclose(warped(array, 1.0)[..., :-1].astype(float), array[..., 1:].astype(float), rtol=1e-15)

    @pytest.mark.parametrize("suffix", images.IMAGE_SUFFIXES)
    @pytest.mark.parametrize("labels", [True, False])
    @every_type
    def test_from_file_to_file(self, tmp_path: Path, kind: str, labels: bool, suffix: str) -> None:
        array = extremes(kind)
        array = array if np.dtype(kind).kind in "iu" or not labels else np.rint(array / 1e6).astype(kind)
        names = {name: str(tmp_path / f"{name}{suffix}") for name in ("moving", "output")}
        images.write_volume(names["moving"], array, GRID)
        images.write_displacement(tmp_path / "field.nrrd", field(1.0), GRID)
        run(WarpJob(transform=str(tmp_path / "field.nrrd"), labels=labels, **names), Reporter())
        found = images.read_volume(names["output"]).array[..., :-1]
        if np.dtype(kind).kind in "iu":
            assert found.dtype == array.dtype
        if labels or kind in EXACT:
            np.testing.assert_array_equal(found, array[..., 1:])

    @pytest.mark.parametrize(("kind", "stored"), [("float16", "float32"), (">i4", "int32"), (">f8", "float64")])
    def test_types_unknown_to_itk_become_the_next_one(self, kind: str, stored: str) -> None:
        array = np.arange(GRID.size[0], dtype=float).astype(kind) * np.ones(GRID.shape, kind)
        volume = images.as_volume((array, GRID))
        assert volume.array.dtype == np.dtype(stored)
        assert (
            images.to_sitk(warp_volume(Source(volume.array, GRID), StoredDeformation(field(0), GRID), GRID, CPU), GRID)[
                3, 0, 0
            ]
            == 3
        )


@pytest.fixture(scope="module")
def made() -> thorax.PhantomPair:
    return thorax.make_phantom(thorax.default_geometry((28, 24, 28), (12.0, 10.0, 12.0)))


class TestOffset:
    @staticmethod
    def registered(made: thorax.PhantomPair, offset: float, kind: str) -> Any:
        pairs = (made.fixed, made.fixed_geometry), (made.moving, made.moving_geometry)
        scans = [((np.rint(array).astype(float) + offset).astype(kind), grid) for array, grid in pairs]
        return register(*scans, Settings(method="none", refinement_steps=8, device="cpu"))

    @pytest.mark.parametrize(("offset", "kind"), [(1e9, "int32"), (1e9, "float64"), (-1e9, "float64"), (1e12, "int64")])
    def test_field_and_contrast_do_not_depend_on_it(self, made: thorax.PhantomPair, offset: float, kind: str) -> None:
        plain, lifted = (self.registered(made, value, kind) for value in (0.0, offset))
        assert np.abs(plain.displacement_lps_mm).max() > 5
        # Where nothing is to be seen, descent amplifies the rounding of the input; voxels are 10 to 12 mm wide.
        np.testing.assert_allclose(lifted.displacement_lps_mm, plain.displacement_lps_mm, atol=0.05)
        expected, found = (np.asarray(images.from_sitk(result.warp()).array, float) for result in (plain, lifted))
        # A hundredth of a millimeter at an edge of 1000 HU; integers round.
        np.testing.assert_allclose(found - offset, expected, atol=1.5)

    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    @pytest.mark.parametrize("kind", ["int16", "uint8", "int32", "float32"])
    def test_contrast_of_a_scaled_nifti_file_is_read(self, tmp_path: Path, kind: str, suffix: str) -> None:
        array = np.random.default_rng(0).integers(0, 100, GRID.shape).astype(kind)
        plain, file = tmp_path / "plain.nii", tmp_path / f"scaled{suffix}"
        images.write_volume(plain, array, GRID)
        content = bytearray(plain.read_bytes())
        content[112:120] = struct.pack("<ff", 2.0, 1e9)
        file.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
        np.testing.assert_array_equal(images.read_volume(file).array, 2.0 * array.astype(float) + 1e9)

    def test_normalized_image_is_the_same(self) -> None:
        image = np.random.default_rng(0).random((9, 9, 9))
        np.testing.assert_allclose(normalize(image + 1e9), normalize(image), atol=1e-6)

    def test_constant_is_told_with_its_value(self) -> None:
        with pytest.raises(Exception, match=r"constant \(every voxel is 1e\+09\)"):
            normalize(np.full((4, 4, 4), 1e9))
