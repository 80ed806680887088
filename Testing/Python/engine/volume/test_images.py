"""Volumes, label maps and linear transforms in files against what was written, and against SimpleITK."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.geometry import Geometry
from file_checks import assert_same_grid, full_disk, precision, refusal

CUBE = Geometry((5, 5, 5), (1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))


def noise(geometry: Geometry, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).normal(100, 40, geometry.shape).astype(dtype)


class TestVolumeRoundTrip:
    @pytest.mark.parametrize("suffix", images.IMAGE_SUFFIXES)
    def test_array_and_grid_return(self, any_geometry: Geometry, tmp_path: Path, suffix: str) -> None:
        array = noise(any_geometry)
        images.write_volume(tmp_path / f"volume{suffix}", array, any_geometry)
        volume = images.read_volume(tmp_path / f"volume{suffix}")
        np.testing.assert_array_equal(volume.array, array)
        assert_same_grid(volume.geometry, any_geometry, precision(suffix))

    @pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "float32", "float64"])
    @pytest.mark.parametrize("suffix", images.IMAGE_SUFFIXES)
    def test_voxel_type_is_kept(self, oblique_geometry: Geometry, tmp_path: Path, suffix: str, dtype: str) -> None:
        images.write_volume(tmp_path / f"volume{suffix}", noise(oblique_geometry, dtype), oblique_geometry)
        assert images.read_volume(tmp_path / f"volume{suffix}").array.dtype == np.dtype(dtype)

    def test_masks_become_bytes(self, oblique_geometry: Geometry, tmp_path: Path) -> None:
        mask = noise(oblique_geometry) > 100
        images.write_volume(tmp_path / "mask.nrrd", mask, oblique_geometry)
        read = images.read_labels(tmp_path / "mask.nrrd").array
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, mask)

    def test_nan_is_kept(self, oblique_geometry: Geometry, tmp_path: Path) -> None:
        array = noise(oblique_geometry)
        array[2, 3, 4] = np.nan
        images.write_volume(tmp_path / "volume.nrrd", array, oblique_geometry)
        np.testing.assert_array_equal(images.read_volume(tmp_path / "volume.nrrd").array, array)

    def test_agrees_with_simpleitk(self, oblique_geometry: Geometry) -> None:
        image = images.to_sitk(noise(oblique_geometry), oblique_geometry)
        assert image.GetPixel(3, 2, 1) == noise(oblique_geometry)[1, 2, 3]
        assert images.from_sitk(image).geometry == oblique_geometry

    def test_file_name_with_spaces_umlauts_and_capitals(self, oblique_geometry: Geometry, tmp_path: Path) -> None:
        path = tmp_path / "d\u00fcnne Schicht" / "Volume.NII.GZ"
        path.parent.mkdir()
        images.write_volume(path, noise(oblique_geometry), oblique_geometry)
        np.testing.assert_array_equal(images.read_volume(path).array, noise(oblique_geometry))


class TestVolumeReading:
    def test_2d_image_becomes_a_slice(self, tmp_path: Path) -> None:
        image = sitk.GetImageFromArray(np.arange(12, dtype=np.uint8).reshape(3, 4))
        sitk.WriteImage(image, str(tmp_path / "slice.png"))
        volume = images.read_volume(tmp_path / "slice.png")
        assert volume.geometry.size == (4, 3, 1)
        assert volume.geometry.is_flat
        np.testing.assert_array_equal(volume.array[0], np.arange(12).reshape(3, 4))

    @pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz"])
    def test_series_of_one_volume_is_that_volume(self, tmp_path: Path, suffix: str) -> None:
        array = np.random.default_rng(0).normal(size=(1, 3, 4, 5)).astype(np.float32)
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=False), str(tmp_path / f"series{suffix}"))
        np.testing.assert_array_equal(images.read_volume(tmp_path / f"series{suffix}").array, array[0])

    def test_series_is_refused_with_its_size(self, tmp_path: Path) -> None:
        series = sitk.GetImageFromArray(np.ones((2, 3, 4, 5), np.float32), isVector=False)
        sitk.WriteImage(series, str(tmp_path / "series.nrrd"))
        with refusal(errors.INPUT_INVALID, r"series.nrrd is a series of volumes \(5 x 4 x 3 x 2\)"):
            images.read_volume(tmp_path / "series.nrrd")

    def test_color_image_is_refused(self, tmp_path: Path) -> None:
        color = sitk.GetImageFromArray(np.arange(36, dtype=np.uint8).reshape(3, 4, 3), isVector=True)
        sitk.WriteImage(color, str(tmp_path / "color.png"))
        with refusal(errors.INPUT_INVALID, "3 values per voxel"):
            images.read_volume(tmp_path / "color.png")

    def test_gray_picture_stored_in_color_is_one_channel(self, tmp_path: Path) -> None:
        gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
        picture = sitk.GetImageFromArray(np.stack([gray] * 3, -1), isVector=True)
        sitk.WriteImage(picture, str(tmp_path / "gray.png"))
        np.testing.assert_array_equal(images.read_volume(tmp_path / "gray.png").array[0], gray)

    def test_complex_image_is_refused(self, tmp_path: Path) -> None:
        image = sitk.GetImageFromArray(np.ones((2, 3, 4), np.complex64))
        sitk.WriteImage(image, str(tmp_path / "complex.mha"))
        with refusal(errors.INPUT_INVALID, "complex"):
            images.read_volume(tmp_path / "complex.mha")

    def test_volume_of_nan_is_refused(self, oblique_geometry: Geometry, tmp_path: Path) -> None:
        empty = np.full(oblique_geometry.shape, np.nan, np.float32)
        images.write_volume(tmp_path / "nan.nrrd", empty, oblique_geometry)
        with refusal(errors.INPUT_INVALID, "no finite value"):
            images.read_volume(tmp_path / "nan.nrrd")

    def test_missing_file_is_named(self, tmp_path: Path) -> None:
        with refusal(errors.INPUT_MISSING, "nowhere.nrrd does not exist"):
            images.read_volume(tmp_path / "nowhere.nrrd")

    def test_folder_is_refused(self, tmp_path: Path) -> None:
        with refusal(errors.INPUT_UNREADABLE, "is a folder"):
            images.read_volume(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"hello " * 100])
    @pytest.mark.parametrize("suffix", [*images.IMAGE_SUFFIXES, ".png"])
    def test_file_of_another_kind_is_refused(self, tmp_path: Path, suffix: str, content: bytes) -> None:
        (tmp_path / f"other{suffix}").write_bytes(content)
        with refusal(errors.INPUT_UNREADABLE, "cannot be read"):
            images.read_volume(tmp_path / f"other{suffix}")

    @pytest.mark.parametrize("share", [0.2, 0.6, 0.995])
    @pytest.mark.parametrize("dtype", ["int16", "float32"])  # the one is compressed, the other is not
    @pytest.mark.parametrize("suffix", images.IMAGE_SUFFIXES)
    def test_truncated_file_is_refused(self, tmp_path: Path, suffix: str, dtype: str, share: float) -> None:
        geometry = Geometry((30, 30, 30), (1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
        path = tmp_path / f"volume{suffix}"
        images.write_volume(path, noise(geometry, dtype), geometry)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with refusal(errors.INPUT_UNREADABLE, "truncated"):
            images.read_volume(path)

    def test_packed_nifti_is_not_the_unpacked_one_beside_it(self, oblique_geometry: Geometry, tmp_path: Path) -> None:
        arrays = {name: noise(oblique_geometry) + index for index, name in enumerate(("a.nii.gz", "a.nii"))}
        for name, array in arrays.items():
            images.write_volume(tmp_path / name, array, oblique_geometry)
        for name, array in arrays.items():
            volume = images.read_volume(tmp_path / name)
            np.testing.assert_array_equal(volume.array, array)
            np.testing.assert_allclose(volume.geometry.ijk_to_lps, oblique_geometry.ijk_to_lps, atol=1e-4)

    def test_big_endian_nifti_is_complete(self, tmp_path: Path) -> None:
        header = np.zeros(352, np.uint8)
        values = {0: (">i4", [348]), 40: (">i2", [3, 2, 2, 2, 1, 1, 1, 1]), 70: (">i2", [4, 16]), 108: (">f4", [352])}
        for offset, (kind, numbers) in {**values, 76: (">f4", [1] * 8)}.items():
            data = np.array(numbers, kind).tobytes()
            header[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
        header[344:348] = np.frombuffer(b"n+1\0", np.uint8)
        voxels = np.arange(8, dtype=">i2")
        (tmp_path / "big.nii").write_bytes(header.tobytes() + voxels.tobytes())
        np.testing.assert_array_equal(images.read_volume(tmp_path / "big.nii").array.ravel(), voxels)


class TestNiftiReading:
    KINDS = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")

    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    @pytest.mark.parametrize("components", [1, 3])
    @pytest.mark.parametrize("kind", KINDS)
    def test_voxels_that_are_read_once_are_what_itk_reads(
        self, oblique_geometry: Geometry, tmp_path: Path, kind: str, components: int, suffix: str
    ) -> None:
        array = np.random.default_rng(0).integers(0, 120, (*oblique_geometry.shape, components)).astype(kind)
        array = array[..., 0] if components == 1 else array
        file = str(tmp_path / f"image{suffix}")
        sitk.WriteImage(images.to_sitk(array, oblique_geometry), file)
        expected, found = sitk.ReadImage(file), images.load_image(file).image
        assert found.GetPixelID() == expected.GetPixelID()
        np.testing.assert_array_equal(sitk.GetArrayViewFromImage(found), sitk.GetArrayViewFromImage(expected))
        for part in ("GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(found, part)() == getattr(expected, part)()
        assert found.GetMetaData("qform_code") == expected.GetMetaData("qform_code")

    def test_packed_file_is_packed_fast_and_alone(self, oblique_geometry: Geometry, tmp_path: Path) -> None:
        images.write_volume(tmp_path / "image.nii.gz", noise(oblique_geometry, "int16"), oblique_geometry)
        assert [file.name for file in tmp_path.iterdir()] == ["image.nii.gz"]
        # RFC 1952: 4 says that the fastest algorithm was used.
        assert (tmp_path / "image.nii.gz").read_bytes()[8] == 4


class TestShearedAxes:
    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    def test_sheared_nifti_is_to_be_resampled(self, oblique_geometry: Geometry, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"tilted{suffix}"
        images.write_volume(tmp_path / "straight.nii", noise(oblique_geometry), oblique_geometry)
        content = bytearray((tmp_path / "straight.nii").read_bytes())
        content[252:256] = struct.pack("=2h", 0, 1)  # its axes are in the sform alone
        content[280:328] = np.eye(4)[:3].astype("f4").tobytes()
        content[284:288] = struct.pack("=f", 0.1)
        path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
        with refusal(errors.INPUT_INVALID, r"tilted.* has sheared axes, not at right angles.*Resample it"):
            images.read_volume(path)

    def test_sheared_axes_of_other_formats_are_to_be_resampled(
        self, oblique_geometry: Geometry, tmp_path: Path
    ) -> None:
        image = images.to_sitk(noise(oblique_geometry), oblique_geometry)
        image.SetDirection((1.0, 0.1, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
        sitk.WriteImage(image, tmp_path / "tilted.mha")
        with refusal(errors.INPUT_INVALID, "tilted.mha has sheared axes, not at right angles.*Resample it"):
            images.read_volume(tmp_path / "tilted.mha")


class TestLabels:
    def test_whole_numbers_stored_as_floats_become_integers(self, oblique_geometry: Geometry, tmp_path: Path) -> None:
        labels = np.rint(noise(oblique_geometry) / 10)
        images.write_volume(tmp_path / "labels.nrrd", labels, oblique_geometry)
        read = images.read_labels(tmp_path / "labels.nrrd").array
        assert read.dtype == np.int32
        np.testing.assert_array_equal(read, labels)

    @pytest.mark.parametrize("value", [1.5, np.nan, np.inf])
    def test_other_numbers_are_refused_with_the_value(
        self, oblique_geometry: Geometry, tmp_path: Path, value: float
    ) -> None:
        labels = np.ones(oblique_geometry.shape, np.float32)
        labels[1, 2, 3] = value
        images.write_volume(tmp_path / "labels.nrrd", labels, oblique_geometry)
        with refusal(errors.INPUT_INVALID, f"holds {value:g}, which is no label"):
            images.read_labels(tmp_path / "labels.nrrd")

    @pytest.mark.parametrize("suffix", images.IMAGE_SUFFIXES)
    @pytest.mark.parametrize(("dtype", "first"), [("int64", 2**40), ("int64", -(2**40)), ("uint64", 2**63)])
    def test_labels_beyond_32_bits_are_kept(self, tmp_path: Path, suffix: str, dtype: str, first: int) -> None:
        labels = np.full(CUBE.shape, first, dtype)
        labels[2:] += np.array(1, dtype)
        images.write_volume(tmp_path / f"labels{suffix}", labels, CUBE)
        read = images.read_labels(tmp_path / f"labels{suffix}").array
        assert np.unique(read).tolist() == [first, first + 1]
        np.testing.assert_array_equal(read, labels)

    def test_large_labels_stored_as_floats_are_kept(self, tmp_path: Path) -> None:
        labels = np.full(CUBE.shape, 3e9)
        labels[2:] += 1
        images.write_volume(tmp_path / "labels.nii", labels, CUBE)
        assert np.unique(images.read_labels(tmp_path / "labels.nii").array).tolist() == [3_000_000_000, 3_000_000_001]

    @pytest.mark.parametrize(("dtype", "exact"), [("float32", 2**24), ("float64", 2**53)])
    def test_labels_that_floats_fold_together_are_refused(self, tmp_path: Path, dtype: str, exact: int) -> None:
        for largest in (exact - 1, exact):
            images.write_volume(tmp_path / f"{largest}.nrrd", np.full(CUBE.shape, largest, dtype), CUBE)
        assert images.read_labels(tmp_path / f"{exact - 1}.nrrd").array.max() == exact - 1
        with refusal(errors.INPUT_INVALID, f"holds labels up to {exact} as {dtype}"):
            images.read_labels(tmp_path / f"{exact}.nrrd")

    @pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
    def test_image_in_place_of_labels_is_recognized(
        self, oblique_geometry: Geometry, tmp_path: Path, dtype: str
    ) -> None:
        image = np.rint(noise(oblique_geometry)).astype(dtype)
        image[:, :, :4] = 0  # air
        images.write_volume(tmp_path / "image.nrrd", image, oblique_geometry)
        with refusal(errors.INPUT_INVALID, "change from voxel to voxel, as those of an image do"):
            images.read_labels(tmp_path / "image.nrrd")

    def test_picture_in_place_of_a_mask_is_recognized(self, tmp_path: Path) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(picture), tmp_path / "picture.png")
        with refusal(errors.INPUT_INVALID, "as those of an image do"):
            images.read_labels(tmp_path / "picture.png")

    @pytest.mark.parametrize("width", [2, 6])
    def test_many_small_labels_are_labels(self, width: int) -> None:
        cells = np.arange(1, 513).reshape(8, 8, 8)
        labels = cells.repeat(width, 0).repeat(width, 1).repeat(width, 2)
        size = labels.shape[0]
        grid = Geometry((size, size, size), (1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
        assert len(np.unique(images.as_labels((labels, grid)).array)) == 512


class TestWritingFails:
    def test_missing_folder_is_named(self, oblique_geometry: Geometry, tmp_path: Path) -> None:
        with refusal(errors.OUTPUT_UNWRITABLE, "folder .*nowhere does not exist"):
            images.write_volume(tmp_path / "nowhere" / "volume.nrrd", noise(oblique_geometry), oblique_geometry)

    @pytest.mark.parametrize("name", ["volume", "volume.xyz", "volume.jpg", "volume.mhd"])
    def test_unknown_extension_is_refused_with_the_known_ones(
        self, oblique_geometry: Geometry, tmp_path: Path, name: str
    ) -> None:
        with refusal(errors.OUTPUT_UNWRITABLE, r"must end in one of \.nrrd, \.nii\.gz"):
            images.write_volume(tmp_path / name, noise(oblique_geometry), oblique_geometry)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("dtype", ["int16", "float32"])
    @pytest.mark.parametrize("free", [0, 1000, 20000])
    @pytest.mark.parametrize("suffix", images.IMAGE_SUFFIXES)
    def test_volume_on_a_full_disk_leaves_the_old_file(
        self, tmp_path: Path, suffix: str, free: int, dtype: str
    ) -> None:
        geometry = Geometry((40, 40, 40), (1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
        path = tmp_path / f"volume{suffix}"
        path.write_bytes(b"old")
        with full_disk(free), refusal(errors.OUTPUT_UNWRITABLE, f"volume{suffix} cannot be written"):
            images.write_volume(path, noise(geometry, dtype), geometry)
        assert [(item, item.read_bytes()) for item in tmp_path.iterdir()] == [(path, b"old")]

    def test_last_bytes_lost_in_a_buffer_are_noticed(self, oblique_geometry: Geometry, tmp_path: Path) -> None:
        images.write_volume(tmp_path / "whole.nrrd", noise(oblique_geometry), oblique_geometry)
        size = (tmp_path / "whole.nrrd").stat().st_size
        with full_disk(size - 1), refusal(errors.OUTPUT_UNWRITABLE, "cannot be written"):
            images.write_volume(tmp_path / "cut.nrrd", noise(oblique_geometry), oblique_geometry)

    def test_array_of_another_grid_is_refused(self, oblique_geometry: Geometry, tmp_path: Path) -> None:
        with refusal(errors.INPUT_INVALID, "9 x 11 x 14"):
            images.write_volume(tmp_path / "volume.nrrd", np.zeros((14, 11, 9), np.uint8), oblique_geometry)

    def test_result_can_be_read_by_whom_the_folder_lets(self, oblique_geometry: Geometry, tmp_path: Path) -> None:
        (tmp_path / "usual").touch()
        images.write_volume(tmp_path / "volume.nrrd", noise(oblique_geometry), oblique_geometry)
        assert (tmp_path / "volume.nrrd").stat().st_mode == (tmp_path / "usual").stat().st_mode


class TestLinearTransform:
    MATRIX = np.array([[0.9, -0.4, 0.1, 12.5], [0.35, 1.05, 0.0, -140.0], [0.0, 0.2, 0.97, 33.0], [0, 0, 0, 1]])

    @pytest.mark.parametrize("suffix", images.TRANSFORM_SUFFIXES)
    def test_matrix_returns(self, tmp_path: Path, suffix: str) -> None:
        images.write_linear_transform(tmp_path / f"linear{suffix}", self.MATRIX)
        read = images.read_linear_transform(tmp_path / f"linear{suffix}")
        np.testing.assert_allclose(read, self.MATRIX, atol=1e-12)

    def test_maps_points_as_simpleitk_does(self, tmp_path: Path) -> None:
        images.write_linear_transform(tmp_path / "linear.tfm", self.MATRIX)
        mapped = sitk.ReadTransform(str(tmp_path / "linear.tfm")).TransformPoint((1.0, -2.0, 3.0))
        np.testing.assert_allclose(mapped, (self.MATRIX @ (1.0, -2.0, 3.0, 1.0))[:3], atol=1e-10)

    @pytest.mark.parametrize("composite", [False, True])
    def test_rigid_transform_about_a_center_becomes_its_matrix(self, tmp_path: Path, composite: bool) -> None:
        transform = sitk.Euler3DTransform((10, 20, 30), 0.1, 0.2, 0.3, (4, 5, 6))
        if composite:
            transform = sitk.CompositeTransform([transform, sitk.TranslationTransform(3, (1, 2, 3))])
        sitk.WriteTransform(transform, str(tmp_path / "rigid.h5"))
        matrix = images.read_linear_transform(tmp_path / "rigid.h5")
        expected = transform.TransformPoint((7.0, -8.0, 9.0))
        np.testing.assert_allclose((matrix @ (7.0, -8.0, 9.0, 1.0))[:3], expected, atol=1e-10)

    def test_bspline_is_refused(self, tmp_path: Path) -> None:
        sitk.WriteTransform(sitk.BSplineTransform(3), str(tmp_path / "bspline.tfm"))
        with refusal(errors.INPUT_INVALID, "BSplineTransform, not a linear"):
            images.read_linear_transform(tmp_path / "bspline.tfm")

    def test_2d_transform_is_refused(self, tmp_path: Path) -> None:
        sitk.WriteTransform(sitk.Euler2DTransform(), str(tmp_path / "plane.tfm"))
        with refusal(errors.INPUT_INVALID, "not a linear 3D"):
            images.read_linear_transform(tmp_path / "plane.tfm")

    def test_damaged_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "linear.tfm").write_text("#Insight Transform File V1.0\nTransform: Nonsense_double_3_3\n")
        with refusal(errors.INPUT_UNREADABLE, "cannot be read"):
            images.read_linear_transform(tmp_path / "linear.tfm")
