"""Readers of data sets, each on a small data set in its layout."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.torch

from training_cases import EDGE, lungs, need, write, write_chest

need("monai", "scipy")

from training.configs.schema import ConfigError, Data
from training.data.cases import data_folder
from training.data.loaders import load
from training.data.loaders.chest import load_chest_xray
from training.data.loaders.cine import load_cine
from training.data.loaders.dirlab import CASES, load_dirlab, lung_box, read_landmarks, spacing_of
from training.data.loaders.folders import load_folders
from training.data.loaders.ixi import STRUCTURES, load_ixi, read_arrays
from training.data.loaders.learn2reg import load_learn2reg
from training.data.loaders.phantoms import load_phantoms


class TestChest:
    def test_lungs_are_one_label_and_the_heart_is_none(self, tmp_path: Path) -> None:
        write_chest(tmp_path)
        found = load_chest_xray(tmp_path / "chest_xray", None, sets=["jsrt", "montgomery"], resolution=64)
        assert [case.subset for case in found.cases] == ["jsrt"] * 6 + ["montgomery"] * 6
        for case in found.cases:
            assert case.labels.unique().tolist() == [0, 1]
            assert 0.1 < case.labels.float().mean() < 0.5
            assert (case.image.min(), case.image.max()) == (0, 1)
        assert found.cases[0].spacing == pytest.approx((5.6, 5.6))

    def test_names_of_other_sets_are_left_out(self, tmp_path: Path) -> None:
        write_chest(tmp_path)
        found = load_chest_xray(
            tmp_path / "chest_xray", ["jsrt/1.png", "montgomery/0.png"], sets=["jsrt"], resolution=64
        )
        assert [case.name for case in found.cases] == ["jsrt/1.png"]


class TestFolders:
    def test_volumes_are_oriented_cropped_and_relabelled(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        labels = np.zeros((6, 8, 10), np.uint8)
        labels[2:4, 3:5, 4:6] = 7
        write(tmp_path / "set" / "images" / "a.nii.gz", rng.random((6, 8, 10), np.float32), (1.0, 2.0, 3.0))
        write(tmp_path / "set" / "labels" / "a.nii.gz", labels, (1.0, 2.0, 3.0))
        (case,) = load_folders(tmp_path / "set", None, crop=[4, 8, 12], values=[[7]]).cases
        assert case.image.shape == (1, 4, 8, 12)
        assert case.labels[1:3, 3:5, 5:7].eq(1).all()
        assert case.labels.sum() == 8
        assert case.spacing == (3.0, 2.0, 1.0)

    def test_flat_png_without_labels(self, tmp_path: Path) -> None:
        write(tmp_path / "images" / "a.png", lungs(np.random.default_rng(0))[0])
        (case,) = load_folders(tmp_path, ["a.png"], labels=None).cases
        assert case.image.shape == (1, EDGE, EDGE)
        assert case.labels is None


class TestLearn2Reg:
    def test_images_labels_landmarks_and_pairs(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        for number in (0, 1):
            name = f"Lung_0001_000{number}.nii.gz"
            write(tmp_path / "imagesTr" / name, rng.normal(-500, 300, (8, 9, 10)).astype(np.float32), (1.0, 1.0, 2.0))
            write(tmp_path / "labelsTr" / name, np.full((8, 9, 10), number, np.uint8))
            (tmp_path / "keypointsTr").mkdir(exist_ok=True)
            (tmp_path / "keypointsTr" / name.replace("nii.gz", "csv")).write_text("1,2,3\n4,5,6\n")
        pair = {"fixed": "./imagesTr/Lung_0001_0000.nii.gz", "moving": "./imagesTr/Lung_0001_0001.nii.gz"}
        (tmp_path / "dataset.json").write_text(json.dumps({"training_paired_images": [pair]}))
        found = load_learn2reg(tmp_path, None, part="training_paired_images", window=[-1000, 0], crop=[6, 9, 12])
        assert found.pairs == [(0, 1)]
        fixed, moving = found.cases
        assert fixed.group == moving.group == "Lung_0001"
        assert fixed.image.shape == (1, 6, 9, 12)
        assert moving.labels.eq(1).all()
        # One voxel is cut off in front along the first axis, one put in front along the last.
        assert fixed.points.tolist() == [[2, 2, 2], [5, 5, 5]]

    def test_single_images(self, tmp_path: Path) -> None:
        image = np.random.default_rng(0).random((4, 4, 4), np.float32)
        write(tmp_path / "imagesTr" / "a_1.nii.gz", image)
        write(tmp_path / "labelsTr" / "a_1.nii.gz", (image > 0.5).astype(np.uint8))
        entry = {"image": "imagesTr/a_1.nii.gz", "label": "labelsTr/a_1.nii.gz"}
        (tmp_path / "dataset.json").write_text(json.dumps({"training": [entry]}))
        found = load_learn2reg(tmp_path, None)
        assert found.pairs is None
        assert found.cases[0].labels.sum() == (image > 0.5).sum()


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


class TestIxi:
    def test_atlas_moves_to_every_patient_and_30_structures_count(self, tmp_path: Path) -> None:
        assert len(STRUCTURES) == 30
        (tmp_path / "Train").mkdir()
        for name in ("atlas.pkl", "Train/subject_1.pkl", "Train/subject_2.pkl"):
            values = np.array([0, 2, 3, 4, 24, 251]).reshape(1, 2, 3).astype(np.int16)
            (tmp_path / name).write_bytes(pickle.dumps((np.random.rand(1, 2, 3).astype(np.float32), values)))
        found = load_ixi(tmp_path, None)
        assert found.pairs == [(1, 0), (2, 0)]
        # CSF (24) is the 15th scored structure, the corpus callosum (251) is not scored.
        assert found.cases[0].labels.flatten().tolist() == [0, 1, 2, 3, 15, 0]

    def test_pickles_of_anything_but_arrays_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.pkl").write_bytes(pickle.dumps((np.zeros(3), Harmful())))
        with pytest.raises(pickle.UnpicklingError, match="should hold arrays alone"):
            read_arrays(tmp_path / "a.pkl")

    @pytest.mark.parametrize("protocol", [2, 4, 5])
    def test_arrays_of_all_protocols_are_read(self, tmp_path: Path, protocol: int) -> None:
        array = np.arange(6.0).reshape(2, 3)
        (tmp_path / "a.pkl").write_bytes(pickle.dumps([array], protocol=protocol))
        assert np.array_equal(read_arrays(tmp_path / "a.pkl")[0], array)


def write_dirlab(folder: Path, error_mm: float) -> None:
    """Write case 1 with lungs of air in a body, landmarks `error_mm` apart along z."""
    nz, ny, nx = CASES["case1"].size[::-1]
    volume = np.full((nz, ny, nx), -1000, "<i2")
    volume[:, 60:200, 40:220] = 40
    volume[20:80, 90:160, 70:120] = -800
    folder.mkdir(parents=True, exist_ok=True)
    fixed = np.array([[100, 120, 40], [110, 130, 60]], float)
    for state, points in (("T00", fixed), ("T50", fixed + np.array([0, 0, error_mm / 2.5]))):
        (volume + 1024).astype("<i2").tofile(folder / f"Case1_{state}_s.img")
        np.savetxt(folder / f"Case1_300_{state}_xyz.txt", points, fmt="%.4f")


class TestDirlab:
    def test_states_are_cropped_to_the_lungs_and_paired(self, tmp_path: Path) -> None:
        write_dirlab(tmp_path / "Case1Pack", CASES["case1"].identity_mm)
        found = load_dirlab(tmp_path, ["case1"])
        fixed, moving = found.cases
        assert found.pairs == [(0, 1)]
        # Lungs of 60 x 70 x 50 voxels, 20 mm around: 8 voxels along z, 21 along y and x.
        assert fixed.image.shape == (1, 76, 112, 92)
        # Landmarks count from 1; the box begins at 12, 69, 49.
        assert fixed.points[0].tolist() == [39 - 12, 119 - 69, 99 - 49]
        assert fixed.image[0, 20, 40, 40] == pytest.approx(200 / 1500)
        assert moving.group == "case1"

    def test_wrong_landmark_distance_is_refused(self, tmp_path: Path) -> None:
        write_dirlab(tmp_path, 4.5)
        with pytest.raises(ValueError, match=r"4\.50 mm apart, published are 3\.89"):
            read_landmarks(tmp_path, "case1")

    def test_volume_without_air_is_taken_whole(self) -> None:
        assert lung_box(np.zeros((4, 5, 6), np.float32), (1, 1, 1)) == (slice(0, 4), slice(0, 5), slice(0, 6))

    @pytest.mark.data
    @pytest.mark.parametrize("number", range(1, 11))
    def test_identity_error_of_the_real_landmarks_is_the_published_one(self, number: int) -> None:
        try:
            folder = data_folder("dirlab_landmarks")
        except FileNotFoundError as error:
            pytest.skip(str(error))
        fixed, _ = read_landmarks(folder, f"case{number}")
        assert fixed.shape == (300, 3)
        assert spacing_of(f"case{number}")[0] == 2.5


class TestCine:
    def test_slices_are_groups_and_the_cavity_is_label_1(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        for frame in range(3):
            image, labels = lungs(rng)
            write(tmp_path / "pig_cine" / "images" / "s02" / f"t0{frame}.png", image)
            write(tmp_path / "pig_cine" / "masks" / "s02" / f"t0{frame}.png", labels)
        # Numbers 48 and 59 are phases of slice 2, 61 is the only one of slice 3.
        for number in (48, 59, 61):
            image, labels = lungs(rng)
            name = f"SC-HF-I-01-IM-0001-{number:04}.dcm.png"
            write(tmp_path / "sunnybrook_cine" / "images" / name, np.stack([image] * 3, -1))
            write(tmp_path / "sunnybrook_cine" / "labels" / name, np.uint8(255) * (labels == 1))
        cases = load_cine(tmp_path, None).cases
        assert [case.group for case in cases] == ["pig_cine/s02"] * 3 + ["SC-HF-I-01, slice 2"] * 2
        assert cases[0].labels.unique().tolist() == [0, 1, 2]
        assert cases[-1].labels.unique().tolist() == [0, 1]
        assert cases[-1].image.shape == (1, EDGE, EDGE)
        (tmp_path / "pig_cine" / "masks" / "s02" / "t00.png").unlink()
        assert [case.labels is None for case in load_cine(tmp_path, None).cases] == [True] + [False] * 4
        assert len(load_cine(tmp_path, None, labelled=True).cases) == 4


class TestPhantoms:
    def test_landmarks_lie_in_the_same_organ_of_both_states(self) -> None:
        fixed, moving = load_phantoms(None, None, first=3, count=1).cases
        assert fixed.group == moving.group == "3"
        assert fixed.image.shape == moving.image.shape == (1, 48, 40, 48)
        organs = [case.labels[tuple(case.points.round().long().T)] for case in (fixed, moving)]
        assert (organs[0] == organs[1]).float().mean() > 0.9
        assert (fixed.points - moving.points).norm(dim=1).max() > 1

    def test_seeds_make_different_phantoms_and_no_folder_is_needed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DAR_DATA", raising=False)
        data = Data("phantoms", options={"first": 0, "count": 1}, validation_options={"first": 1})
        train, validation = (load(data, part).cases for part in ("train", "validation"))
        assert not torch.allclose(train[0].image, validation[0].image, atol=0.05)


class TestChoice:
    def test_unknown_loader_and_option_are_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DAR_DATA", str(tmp_path))
        (tmp_path / "set").mkdir()
        with pytest.raises(ConfigError, match="loader 'dicom' is unknown; known: anatomies, chest_xray"):
            load(Data(loader="dicom", folder="set"), "train")
        with pytest.raises(ConfigError, match="'folders' needs a folder"):
            load(Data(loader="folders"), "train")
        with pytest.raises(ConfigError, match=r"options of loader 'folders'.*size"):
            load(Data(loader="folders", folder="set", options={"size": 3}), "train")
