"""What the headers of real files say of units, places and voxels that are missing or no numbers."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.geometry import Geometry
from file_checks import refusal
from header_cases import METRE_UNIT, MICROMETRE_UNIT, SKEWED, SPACE, meta_image, nifti, nrrd, written

ARRAY = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
TO_RAS = np.vstack([SKEWED, (0, 0, 0, 1)])


def picture(path: Path, density: int = 0) -> Path:
    """Write a picture with a print density in dots per inch."""
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    options = {"dpi": (density, density)} if density else {}
    pillow.fromarray(ARRAY[0].astype(np.uint8)).save(path, **options)
    return path


class TestUnits:
    @pytest.mark.parametrize(("unit", "factor"), [(0, 1), (METRE_UNIT, 1e3), (MICROMETRE_UNIT, 1e-3)])
    def test_nifti_unit_counts(self, tmp_path: Path, unit: int, factor: float) -> None:
        volume = images.read_volume(written(tmp_path / "a.nii", nifti(ARRAY, units=unit)))
        np.testing.assert_allclose(volume.geometry.ijk_to_ras[:3], SKEWED * factor, rtol=1e-6, atol=1e-9)
        assert volume.notes == ()

    @pytest.mark.parametrize(
        ("unit", "factor"), [("mm", 1), ("m", 1e3), ("um", 1e-3), ("micrometres", 1e-3), ("cm", 10)]
    )
    def test_nrrd_unit_counts(self, tmp_path: Path, unit: str, factor: float) -> None:
        units = f'space units: "{unit}" "{unit}" "{unit}"'
        volume = images.read_volume(written(tmp_path / "a.nrrd", nrrd(ARRAY, *SPACE, units)))
        np.testing.assert_allclose(volume.geometry.ijk_to_ras[:3], SKEWED * factor, rtol=1e-6)
        assert len(volume.notes) == (factor != 1)

    def test_unit_of_axes_without_space_counts(self, tmp_path: Path) -> None:
        content = nrrd(ARRAY, "spacings: 2 3 4", 'units: "um" "um" "um"')
        spacing = images.read_volume(written(tmp_path / "a.nrrd", content)).geometry.spacing
        np.testing.assert_allclose(spacing, (0.002, 0.003, 0.004))

    def test_meta_image_unit_counts(self, tmp_path: Path) -> None:
        content = meta_image(ARRAY, "ElementSpacing = 1 2 3", "DistanceUnits = um")
        volume = images.read_volume(written(tmp_path / "a.mha", content))
        np.testing.assert_allclose(volume.geometry.spacing, (0.001, 0.002, 0.003))
        assert "measures in um" in volume.notes[0]

    def test_unknown_unit_is_told(self, tmp_path: Path) -> None:
        content = nrrd(ARRAY, *SPACE, 'space units: "pixel" "pixel" "pixel"')
        volume = images.read_volume(written(tmp_path / "a.nrrd", content))
        assert 'a.nrrd measures in "pixel", which was taken as mm' in volume.notes[0]

    def test_several_units_are_refused(self, tmp_path: Path) -> None:
        written(tmp_path / "a.nrrd", nrrd(ARRAY, *SPACE, 'space units: "mm" "mm" "m"'))
        with refusal(errors.INPUT_INVALID, r"different units \(m, mm\)"):
            images.read_volume(tmp_path / "a.nrrd")

    @pytest.mark.parametrize(
        ("suffix", "density"), [(".jpg", 72), (".jpg", 96), (".tif", 96), (".bmp", 96), (".png", 96)]
    )
    def test_print_density_is_no_size(self, tmp_path: Path, suffix: str, density: int) -> None:
        volume = images.read_volume(picture(tmp_path / f"a{suffix}", density))
        assert volume.geometry.spacing == (1, 1, 1)
        assert "holds no physical size, so a pixel counts as 1 mm" in volume.notes[0]

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_size_that_itk_wrote_into_a_picture_counts(self, tmp_path: Path, suffix: str) -> None:
        image = sitk.GetImageFromArray(ARRAY[0].astype(np.uint8))
        image.SetSpacing((0.7, 0.7))
        sitk.WriteImage(image, tmp_path / f"a{suffix}")
        volume = images.read_volume(tmp_path / f"a{suffix}")
        np.testing.assert_allclose(volume.geometry.spacing, (0.7, 0.7, 1), rtol=1e-6)
        assert volume.notes == ()

    def test_distance_of_slices_that_a_picture_cannot_hold_is_told(self, tmp_path: Path) -> None:
        image = sitk.GetImageFromArray(ARRAY.astype(np.uint8))
        image.SetSpacing((0.7, 0.7, 2))
        sitk.WriteImage(image, tmp_path / "a.tif")
        assert "distance of its slices" in images.read_volume(tmp_path / "a.tif").notes[0]

    def test_note_stays_with_a_volume_given_on(self, tmp_path: Path) -> None:
        volume = images.read_volume(picture(tmp_path / "a.jpg", 96))
        assert images.as_volume(volume).notes == images.as_labels(volume).notes == volume.notes


class TestPlaces:
    @pytest.mark.parametrize("codes", [(0, 1), (1, 0), (1, 1)])
    @pytest.mark.parametrize("packed", [False, True])
    def test_2d_nifti_is_a_slice_where_it_lies(self, tmp_path: Path, codes: tuple[int, int], packed: bool) -> None:
        content = nifti(ARRAY[0], codes=codes)
        path = written(tmp_path / ("a.nii.gz" if packed else "a.nii"), gzip.compress(content) if packed else content)
        volume = images.read_volume(path)
        np.testing.assert_allclose(volume.geometry.ijk_to_ras, TO_RAS, atol=1e-5)
        np.testing.assert_array_equal(volume.array[0], ARRAY[0])

    def test_2d_nrrd_is_a_slice_where_it_lies(self, tmp_path: Path) -> None:
        plane = SPACE[0], "space directions: (0,2,0) (0,0,3)", SPACE[2]
        volume = images.read_volume(written(tmp_path / "a.nrrd", nrrd(ARRAY[0], *plane)))
        expected = TO_RAS * (1, 1, 1 / 4, 1)  # a slice is 1 mm thick
        np.testing.assert_allclose(volume.geometry.ijk_to_ras, expected, atol=1e-9)
        np.testing.assert_array_equal(volume.array[0], ARRAY[0])

    def test_slice_with_fields_for_each_axis_is_a_slice(self, tmp_path: Path) -> None:
        plane = (
            SPACE[0],
            "space directions: (0,2,0) (0,0,3)",
            SPACE[2],
            "kinds: domain domain",
            'space units: "m" "m" "m"',
        )
        geometry = images.read_volume(written(tmp_path / "a.nrrd", nrrd(ARRAY[0], *plane))).geometry
        np.testing.assert_allclose(geometry.spacing[:2], (2000, 3000))

    def test_axes_in_pair_of_files_are_those_of_one(self, tmp_path: Path) -> None:
        image = sitk.GetImageFromArray(ARRAY[0].astype(np.float32))
        image.SetDirection((0, 1, 1, 0))
        for name in ("pair.hdr", "one.nii"):
            sitk.WriteImage(image, tmp_path / name)
        pair, one = images.read_volume(tmp_path / "pair.img"), images.read_volume(tmp_path / "one.nii")
        assert pair.geometry == one.geometry
        np.testing.assert_array_equal(pair.array, one.array)

    @pytest.mark.parametrize(
        "changes",
        [{"quaternion": (0, 0, 0), "codes": (1, 1)}, {"quaternion": (0, 0, 0), "codes": (2, 4)}, {"pixdim": (1, 1, 1)}],
    )
    def test_two_places_in_one_header_are_told(self, tmp_path: Path, changes: dict) -> None:
        volume = images.read_volume(written(tmp_path / "a.nii", nifti(ARRAY, **changes)))
        assert "a.nii gives two places to its voxels" in volume.notes[0]
        assert volume.geometry == images.from_sitk(sitk.ReadImage(tmp_path / "a.nii")).geometry

    def test_place_given_twice_alike_is_not_told(self, tmp_path: Path) -> None:
        assert images.read_volume(written(tmp_path / "a.nii", nifti(ARRAY, codes=(1, 1)))).notes == ()

    def test_field_with_two_places_is_refused(self, oblique_geometry: Geometry, tmp_path: Path) -> None:
        images.write_displacement(tmp_path / "f.nii", np.ones((*oblique_geometry.shape, 3)), oblique_geometry)
        content = bytearray((tmp_path / "f.nii").read_bytes())
        content[268:272] = np.float32(500).tobytes()
        with refusal(errors.INPUT_INVALID, r"open to doubt\. .* gives two places"):
            images.read_displacement(written(tmp_path / "g.nii", content))

    def test_field_on_a_grid_in_another_unit_is_refused(self, oblique_geometry: Geometry, tmp_path: Path) -> None:
        images.write_displacement(tmp_path / "f.nii", np.ones((*oblique_geometry.shape, 3)), oblique_geometry)
        content = bytearray((tmp_path / "f.nii").read_bytes())
        content[123] = 3  # micrometres
        with refusal(errors.INPUT_INVALID, r"open to doubt\. .* in another unit than mm"):
            images.read_displacement(written(tmp_path / "g.nii", content))


class TestSizesAndPlacesThatAreNone:
    @pytest.mark.parametrize("size", [0.0, np.nan, np.inf])
    @pytest.mark.parametrize("codes", [(0, 1), (1, 0), (0, 0)])
    def test_nifti_voxels_without_size(self, tmp_path: Path, codes: tuple[int, int], size: float) -> None:
        written(tmp_path / "a.nii", nifti(ARRAY, codes=codes, pixdim=(2, 3, size)))
        with refusal(errors.INPUT_INVALID, "a.nii gives its voxels no size"):
            images.read_volume(tmp_path / "a.nii")

    def test_nifti_axis_of_length_zero(self, tmp_path: Path) -> None:
        written(tmp_path / "a.nii", nifti(ARRAY, rows=SKEWED * (1, 1, 0, 1)))
        with refusal(errors.INPUT_INVALID, "no size"):
            images.read_volume(tmp_path / "a.nii")

    @pytest.mark.parametrize("codes", [(0, 1), (1, 0)])
    def test_nifti_place_that_is_no_number(self, tmp_path: Path, codes: tuple[int, int]) -> None:
        written(tmp_path / "a.nii", nifti(ARRAY, codes=codes, rows=SKEWED * (1, 1, 1, np.nan)))
        with refusal(errors.INPUT_INVALID, "position that is not a number"):
            images.read_volume(tmp_path / "a.nii")

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("a.nrrd", nrrd(ARRAY, "spacings: 2 3 nan")),
            ("b.nrrd", nrrd(ARRAY, "spacings: 2 3 0")),
            ("c.nrrd", nrrd(ARRAY, SPACE[0], "space directions: (0,2,0) (0,0,3) (0,0,0)")),
            ("d.mha", meta_image(ARRAY, "ElementSpacing = 1 1 0")),
            ("e.mha", meta_image(ARRAY, "ElementSpacing = 1 1 nan")),
        ],
    )
    def test_voxels_without_size_in_other_formats(self, tmp_path: Path, name: str, content: bytes) -> None:
        written(tmp_path / name, content)
        with refusal(errors.INPUT_INVALID, f"{name} gives its voxels no size"):
            images.read_volume(tmp_path / name)

    @pytest.mark.parametrize("line", ["space directions: (0,2,0) (0,0,3) (nan,0,0)", "space origin: (10,nan,30)"])
    def test_nrrd_place_that_is_no_number(self, tmp_path: Path, line: str) -> None:
        fields = [line if field.startswith(line.split(":")[0]) else field for field in SPACE]
        written(tmp_path / "a.nrrd", nrrd(ARRAY, *fields))
        with refusal(errors.INPUT_INVALID, "position that is not a number"):
            images.read_volume(tmp_path / "a.nrrd")


class TestUnusualFilesAreNotDamaged:
    @pytest.mark.parametrize("tail", [b"\0" * 512, b"signature " * 20, gzip.compress(b"", mtime=0)])
    def test_bytes_after_compressed_data(self, tmp_path: Path, tail: bytes) -> None:
        path = written(tmp_path / "a.nii.gz", gzip.compress(nifti(ARRAY)) + tail)
        np.testing.assert_array_equal(images.read_volume(path).array, ARRAY)

    def test_data_compressed_in_several_parts(self, tmp_path: Path) -> None:
        content = nifti(ARRAY)
        path = written(tmp_path / "a.nii.gz", gzip.compress(content[:100]) + gzip.compress(content[100:]))
        np.testing.assert_array_equal(images.read_volume(path).array, ARRAY)

    @pytest.mark.parametrize(
        ("array", "directions"),
        [(ARRAY[None], "(0,2,0) (0,0,3) (4,0,0) none"), (ARRAY[..., None], "none (0,2,0) (0,0,3) (4,0,0)")],
    )
    def test_nrrd_list_of_one_volume(self, tmp_path: Path, array: np.ndarray, directions: str) -> None:
        kinds = "kinds: " + " ".join("list" if axis == "none" else "domain" for axis in directions.split())
        content = nrrd(array, SPACE[0], f"space directions: {directions}", SPACE[2], kinds)
        volume = images.read_volume(written(tmp_path / "a.nrrd", content))
        np.testing.assert_array_equal(volume.array, ARRAY)
        np.testing.assert_allclose(volume.geometry.ijk_to_ras, TO_RAS)

    def test_nifti_2_is_named(self, tmp_path: Path) -> None:
        written(tmp_path / "a.nii", (540).to_bytes(4, "little") + bytes(600))
        with refusal(errors.INPUT_INVALID, "is in the format NIfTI-2"):
            images.read_volume(tmp_path / "a.nii")

    def test_refusal_of_an_unknown_file_has_the_reason(self, tmp_path: Path) -> None:
        written(tmp_path / "a.nrrd", nrrd(ARRAY, "spacings: 2 3"))
        with refusal(errors.INPUT_UNREADABLE, r"of a kind unknown here \(.*spacing"):
            images.read_volume(tmp_path / "a.nrrd")


class TestNumbersThatAreNone:
    HOLES = np.where(ARRAY % 7 == 3, np.nan, ARRAY)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.nii", "a.nii.gz", "a.hdr"])
    def test_nan_is_kept_in_every_format(self, tmp_path: Path, name: str, dtype: str) -> None:
        sitk.WriteImage(sitk.GetImageFromArray(self.HOLES.astype(dtype)), tmp_path / name)
        np.testing.assert_array_equal(images.read_volume(tmp_path / name).array, self.HOLES)

    def test_infinity_is_kept(self, tmp_path: Path) -> None:
        array = np.where(ARRAY == 3, np.inf, ARRAY).astype(np.float32)
        np.testing.assert_array_equal(images.read_volume(written(tmp_path / "a.nii", nifti(array))).array, array)

    @pytest.mark.parametrize("name", ["a.nrrd", "a.nii.gz"])
    def test_nan_is_no_label(self, tmp_path: Path, name: str) -> None:
        sitk.WriteImage(sitk.GetImageFromArray(self.HOLES), tmp_path / name)
        with refusal(errors.INPUT_INVALID, "holds nan, which is no label"):
            images.read_labels(tmp_path / name)

    @pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".nii.gz", ".mha"])
    def test_image_of_nan_alone_is_refused(self, tmp_path: Path, suffix: str) -> None:
        sitk.WriteImage(sitk.GetImageFromArray(np.full((3, 4, 5), np.nan)), tmp_path / f"a{suffix}")
        with refusal(errors.INPUT_INVALID, "no finite value"):
            images.read_volume(tmp_path / f"a{suffix}")

    @pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".mha"])
    def test_field_with_nan_is_refused(self, oblique_geometry: Geometry, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"field{suffix}"
        images.write_displacement(path, np.full((*oblique_geometry.shape, 3), 0.1), oblique_geometry)
        content = bytearray(path.read_bytes())
        content[-4:] = np.float32(np.nan).tobytes()
        path.write_bytes(content)
        with refusal(errors.INPUT_INVALID, "not finite"):
            images.read_displacement(path)

    def test_volume_with_nan_is_written_as_nifti(self, oblique_geometry: Geometry, tmp_path: Path) -> None:
        array = np.ones(oblique_geometry.shape, np.float32)
        array[2, 3, 4] = np.nan
        images.write_volume(tmp_path / "a.nii.gz", array, oblique_geometry)
        np.testing.assert_array_equal(images.read_volume(tmp_path / "a.nii.gz").array, array)
