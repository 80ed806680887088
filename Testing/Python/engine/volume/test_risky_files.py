"""Headers and transforms that ITK would take at their word: elsewhere, too large, or more than its readers survive."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.volume import images, segments, transform_files
from file_checks import refusal
from header_cases import SPACE, meta_image, nrrd, written

ARRAY = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
META = "ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 5 4 3\nElementType = MET_SHORT\nElementDataFile = "
NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 5 4 3\nencoding: raw\nendian: little\n"
SLICES = [f"s{number:02d}.raw" for number in range(3)]
ELSEWHERE = ("{0}", "../in/v.raw", "sub/../../in/v.raw", "..\\in\\v.raw", "C:\\v.raw", "\\\\host\\v.raw")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with voxels for headers to name."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for name in ("v.raw", "sub/v.raw"):
        ARRAY.tofile(folder / name)
    for name, part in zip(SLICES, ARRAY, strict=True):
        part.tofile(folder / name)
    return folder


class TestVoxelsElsewhere:
    @pytest.mark.parametrize("data", ["v.raw", "sub/v.raw", "s%02d.raw 0 2 1", "LIST\n" + "\n".join(SLICES)])
    def test_beside_a_meta_image_are_read(self, folder: Path, data: str) -> None:
        written(folder / "v.mhd", (META + data + "\n").encode())
        np.testing.assert_array_equal(images.read_volume(folder / "v.mhd").array, ARRAY)

    @pytest.mark.parametrize("field", ["data file", "datafile"])
    @pytest.mark.parametrize("packed", [False, True])
    def test_beside_a_nrrd_header_are_read(self, folder: Path, field: str, packed: bool) -> None:
        written(folder / "v.raw.gz", gzip.compress(ARRAY.tobytes()))
        header = NRRD.replace("raw\n", "gzip\n") if packed else NRRD
        written(folder / "v.nhdr", f"{header}{field}: v.raw{'.gz' if packed else ''}\n".encode())
        np.testing.assert_array_equal(images.read_volume(folder / "v.nhdr").array, ARRAY)

    def test_beside_the_header_of_a_slice_are_read(self, folder: Path) -> None:
        head = NRRD.replace("dimension: 3\nsizes: 5 4 3", "dimension: 2\nsizes: 5 4")
        plane = f"{SPACE[0]}\nspace directions: (0,2,0) (0,0,3)\n{SPACE[2]}\ndata file: s00.raw\n"
        np.testing.assert_array_equal(
            images.read_volume(written(folder / "v.nhdr", (head + plane).encode())).array[0], ARRAY[0]
        )

    @pytest.mark.parametrize("data", [*ELSEWHERE, "LIST\n{0}\n{0}\n{0}", "LIST\n../in/v.raw", "../in/s%02d.raw 0 2 1"])
    @pytest.mark.parametrize("name", ["v.mhd", "v.mha", "V.MHD"])
    def test_of_a_meta_image_are_refused(self, folder: Path, data: str, name: str) -> None:
        written(folder / name, (META + data.format(folder / "v.raw") + "\n").encode() + ARRAY.tobytes())
        with refusal(errors.INPUT_INVALID, "outside of its own folder"):
            images.read_volume(folder / name)

    @pytest.mark.parametrize("data", [*ELSEWHERE, "LIST\n{0}"])
    @pytest.mark.parametrize("field", ["data file", "datafile", "DATA FILE"])
    def test_of_a_nrrd_header_are_refused(self, folder: Path, field: str, data: str) -> None:
        written(folder / "v.nrrd", f"{NRRD}{field}: {data.format(folder / 'v.raw')}\n\n".encode())
        for read in (images.read_volume, segments.as_segments):
            with refusal(errors.INPUT_INVALID, "outside of its own folder"):
                read(folder / "v.nrrd")

    @pytest.mark.parametrize("data", ["s%s.raw 0 2 1", "%n%n.raw 0 2 1", "s%02d%d.raw 0 2 1"])
    def test_of_a_pattern_with_anything_but_one_number_are_refused(self, folder: Path, data: str) -> None:
        with refusal(errors.INPUT_INVALID, "pattern that makes no sense"):
            images.read_volume(written(folder / "v.mhd", (META + data + "\n").encode()))

    @pytest.mark.parametrize(("name", "line"), [("v.nhdr", "# comment\n"), ("v.mhd", "Comment = comment\n")])
    def test_are_not_hidden_behind_a_header_without_end(self, folder: Path, name: str, line: str) -> None:
        head, field = (
            (NRRD, "data file: ../in/v.raw\n\n") if name == "v.nhdr" else (META[:18], "ElementDataFile = /x\n")
        )
        with refusal(errors.INPUT_UNREADABLE, "header does not end"):
            images.read_volume(written(folder / name, (head + line * 200_000 + field).encode()))

    def test_of_a_format_that_names_files_anywhere_are_refused(self, folder: Path) -> None:
        with refusal(errors.INPUT_INVALID, "may name any file"):
            images.read_volume(written(folder / "v.spr", b"numDim: 2\n"))


class TestHeadersThatNoReaderSurvives:
    @pytest.mark.parametrize("axes", ["-3", "0", "11", "1000000", "9" * 400, "x"])
    def test_axes_of_a_meta_image(self, tmp_path: Path, axes: str) -> None:
        content = meta_image(ARRAY).replace(b"NDims = 3", f"NDims = {axes}".encode())
        with refusal(errors.INPUT_UNREADABLE, "number of axes"):
            images.read_volume(written(tmp_path / "v.mha", content))

    @pytest.mark.parametrize("line", ["spacings: " + "1 " * 1000, "kinds:" + " domain" * 100])
    def test_entries_of_a_nrrd_header(self, tmp_path: Path, line: str) -> None:
        with refusal(errors.INPUT_UNREADABLE, "than a file can have axes|characters"):
            images.read_volume(written(tmp_path / "v.nrrd", nrrd(ARRAY, line)))

    @pytest.mark.parametrize("line", ["x" * 200_000, "type: " + "x" * 200_000, "# " + "x" * 200_000])
    def test_lines_of_a_nrrd_header(self, tmp_path: Path, line: str) -> None:
        with refusal(errors.INPUT_UNREADABLE, "characters"):
            images.read_volume(written(tmp_path / "v.nrrd", nrrd(ARRAY, line)))

    def test_long_text_of_a_key_is_none_of_them(self, tmp_path: Path) -> None:
        path = written(tmp_path / "v.nrrd", nrrd(ARRAY, "Segmentation_Notes:=" + "x" * 50_000))
        np.testing.assert_array_equal(images.read_volume(path).array, ARRAY)

    def test_key_that_is_no_text_is_left_out(self, tmp_path: Path) -> None:
        content = nrrd(ARRAY % 2, "Segment0_Name:=Rib", "key:=value").replace(b"key:=", b"k\xff:=")
        assert segments.as_segments(written(tmp_path / "v.seg.nrrd", content)).items[0].name == "Rib"

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("v.nrrd", nrrd(ARRAY).replace(b"sizes: 5 4 3", b"sizes: 100000 100000 100000")),
            ("v.mha", meta_image(ARRAY).replace(b"DimSize = 5 4 3", b"DimSize = 100000 100000 100000")),
        ],
    )
    def test_more_voxels_than_a_file_can_hold_are_damage_not_lack_of_memory(
        self, tmp_path: Path, name: str, content: bytes
    ) -> None:
        with refusal(errors.INPUT_UNREADABLE, "claims 1000000000000000 voxels"):
            images.read_volume(written(tmp_path / name, content))


def text_transform(kind: str, numbers: str, fixed: str) -> bytes:
    head = f"#Insight Transform File V1.0\nTransform: {kind}Transform_double_3_3\n"
    return f"{head}Parameters: {numbers}\nFixedParameters: {fixed}\n".encode()


class TestTransforms:
    GRID = "0 0 0 1 1 1 1 0 0 0 1 0 0 0 1"

    @pytest.mark.parametrize("kind", ["DisplacementField", "BSpline", "ConstantVelocityField"])
    @pytest.mark.parametrize("size", ["100000 100000 100000", "-5 -5 1", "1e400 1 1", "4294967296 1 1", "2 2 2"])
    def test_more_numbers_than_are_there_are_refused(self, tmp_path: Path, kind: str, size: str) -> None:
        path = written(tmp_path / "t.tfm", text_transform(kind, "0 0 0", f"{size} {self.GRID}"))
        with refusal(errors.INPUT_UNREADABLE, "damaged"):
            images.read_linear_transform(path)

    def test_transform_that_refers_to_other_files_is_refused(self, tmp_path: Path) -> None:
        content = text_transform("Composite", "", "") + b"ComponentTransformFile: ../other.tfm\n"
        with refusal(errors.INPUT_INVALID, "refers to other files"):
            images.read_linear_transform(written(tmp_path / "t.tfm", content))

    def test_other_formats_are_not_tried(self, tmp_path: Path) -> None:
        with refusal(errors.INPUT_INVALID, "is no transform file"):
            images.read_linear_transform(written(tmp_path / "t.xfm", b"MNI Transform File\n"))

    @pytest.mark.parametrize(
        ("place", "number"), [(0, 12345), (4, 2**31 - 1), (4, -5), (8, 2**31 - 1), (12, 1), (16, 10**9), (16, -1)]
    )
    def test_matrices_larger_than_their_file_are_refused(self, tmp_path: Path, place: int, number: int) -> None:
        images.write_linear_transform(tmp_path / "t.mat", np.eye(4))
        content = bytearray((tmp_path / "t.mat").read_bytes())
        struct.pack_into("<i", content, place, number)
        with refusal(errors.INPUT_UNREADABLE, "damaged"):
            images.read_linear_transform(written(tmp_path / "t.mat", bytes(content)))

    def test_format_too_rich_to_check_is_read_by_a_process_that_may_crash(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images.write_linear_transform(tmp_path / "t.h5", np.diag([2.0, 1, 1, 1]))
        np.testing.assert_allclose(images.read_linear_transform(tmp_path / "t.h5"), np.diag([2, 1, 1, 1]))
        monkeypatch.setattr(transform_files, "READ_IT", "import os; os.abort()")
        with refusal(errors.INPUT_UNREADABLE, "would end the program"):
            images.read_linear_transform(tmp_path / "t.h5")

    def test_composite_of_one_is_still_read(self, tmp_path: Path) -> None:
        composite = sitk.CompositeTransform([sitk.TranslationTransform(3, (1, 2, 3))])
        sitk.WriteTransform(composite, str(tmp_path / "t.tfm"))
        np.testing.assert_allclose(images.read_linear_transform(tmp_path / "t.tfm")[:3, 3], (1, 2, 3))


class TestNiftiThatUnpacksToMore:
    def test_what_is_not_needed_is_not_unpacked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from DeepAttentionRegEngine.volume import nifti
        from header_cases import nifti as nifti_file

        monkeypatch.setattr(nifti, "SLACK", 1000)
        path = written(tmp_path / "v.nii.gz", gzip.compress(nifti_file(ARRAY) + bytes(10**7)))
        assert len(nifti._content(str(path), 400)) == 1400
        np.testing.assert_array_equal(images.read_volume(path).array, ARRAY)
