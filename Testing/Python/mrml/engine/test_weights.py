"""Weights that are shipped, imported and deleted, in a folder of the test."""

import errno
import json
import os
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_scene  # noqa: F401 - provides the translation
from DeepAttentionRegEngine.protocol import errors, fetching, files, registry
from DeepAttentionRegLib.engine import Weights

pytestmark = pytest.mark.mrml

SHIPPED = "rman-hippocampus-mr"
MODELS = registry.resources() / "Models"


@pytest.fixture
def folder(tmp_path) -> Path:
    """The folder of imported weights, which is not there yet."""
    return tmp_path / "user" / "Weights"


@pytest.fixture
def make_file(tmp_path):
    """The function that writes a file as PyTorch does, and what is known about it."""

    def make(name: str = "thorax.pt", told: dict | None = None, content: bytes = b"numbers") -> Path:
        path = tmp_path / name
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content * 1000)
        if told is not None:
            path.with_suffix(".json").write_text(json.dumps(told), encoding="ascii")
        return path

    return make


def shipped(folder: Path) -> Weights.Entry:
    return next(entry for entry in Weights.listWeights(folder) if entry.id == SHIPPED)


def imported(folder: Path) -> list[Weights.Entry]:
    return [entry for entry in Weights.listWeights(folder) if entry.isImported]


class TestShipped:
    @pytest.fixture
    def resources(self, tmp_path, monkeypatch) -> Path:
        """A copy of the extension's list of weights, without the files."""
        copy = tmp_path / "Resources"
        (copy / "Models").mkdir(parents=True)
        (copy / "Methods").symlink_to(registry.resources() / "Methods")
        (copy / "weights.json").write_bytes((registry.resources() / "weights.json").read_bytes())
        monkeypatch.setattr(registry, "resources", lambda: copy)
        return copy

    def test_tell_what_they_are_for(self, folder):
        entry = shipped(folder)
        assert (entry.serves, entry.isImported, entry.problem) == ((("rman", 3),), False, "")
        assert (entry.licence, entry.anatomy, entry.extentMm) == ("CC-BY-SA-4.0", "Hippocampus", (30.0, 80.0))
        assert "Hippocampus" in entry.trainingData
        assert entry.bytes == entry.path.stat().st_size

    def test_are_found_by_method_and_axes(self, folder):
        assert [entry.id for entry in Weights.weightsFor("rman", 3, folder)] == ["rman-general", SHIPPED]
        assert Weights.weightsFor("agf", 3, folder) == []

    def test_missing_file_is_told(self, resources, folder):
        assert shipped(folder).problem.startswith(f"The file {SHIPPED}.pt is missing.")

    def test_damage_is_told_as_soon_as_it_happens(self, resources, folder):
        path = resources / "Models" / f"{SHIPPED}.pt"
        shutil.copy(MODELS / path.name, path)
        assert shipped(folder).problem == ""
        path.write_bytes(path.read_bytes()[:-1])
        assert shipped(folder).problem.startswith(f"The file {SHIPPED}.pt is damaged.")

    def test_damaged_list_leaves_the_imported_ones(self, resources, folder, make_file):
        Weights.importWeights(make_file(), "rman", 3, folder)
        (resources / "weights.json").write_text("{", encoding="ascii")
        assert [entry.title for entry in Weights.listWeights(folder)] == ["thorax"]

    def test_are_not_deleted(self, folder):
        entry = shipped(folder)
        with pytest.raises(ValueError, match="belong to the extension"):
            Weights.deleteWeights(entry)
        assert entry.path.is_file()


class TestImport:
    def test_is_listed_with_what_is_known(self, folder, make_file):
        told = {"title": "Thorax CT", "licence": "CC0-1.0", "training_data": "40 scans"}
        told |= {"extent_mm": [200, 500], "anatomy": "Thorax"}
        path = make_file(told=told)
        entry = Weights.importWeights(path, "rman", 3, folder)
        assert imported(folder) == [entry]
        assert (entry.title, entry.licence, entry.trainingData) == ("Thorax CT", "CC0-1.0", "40 scans")
        assert (entry.anatomy, entry.extentMm) == ("Thorax", (200.0, 500.0))
        assert (entry.serves, entry.problem, entry.bytes) == ((("rman", 3),), "", path.stat().st_size)
        assert entry.path.read_bytes() == path.read_bytes()

    def test_engine_takes_it_by_its_id(self, folder, make_file):
        entry = Weights.importWeights(make_file(told={"extent_mm": [200, 500]}), "rman", 3, folder)
        variant = registry.choose_variant(registry.load_method("rman"), 3, entry.id)
        assert fetching.weight_content(variant.weights) == entry.path.read_bytes()
        assert variant.extent_mm == (200.0, 500.0)

    def test_change_after_the_import_is_noticed_when_it_is_loaded(self, folder, make_file):
        entry = Weights.importWeights(make_file(), "rman", 3, folder)
        entry.path.write_bytes(entry.path.read_bytes() + b"x")
        with pytest.raises(errors.EngineError, match="Import the weights again"):
            fetching.weight_content(entry.id)

    @pytest.mark.torch
    def test_network_loads_it(self, folder, tmp_path):
        pytest.importorskip("torch", reason="PyTorch is not installed")
        from DeepAttentionRegEngine.networks import load_network

        path = tmp_path / "mine.pt"
        shutil.copy(MODELS / f"{SHIPPED}.pt", path)
        entry = Weights.importWeights(path, "rman", 3, folder)
        load_network("rman", registry.choose_variant(registry.load_method("rman"), 3, entry.id))

    def test_more_recursions_than_the_method_takes_are_refused(self, folder, make_file):
        with pytest.raises(ValueError, match=r"thorax\.json is damaged.*are 11, but the method takes 1 to 10"):
            Weights.importWeights(make_file(told={"recursions": 11}), "rman", 3, folder)
        assert not folder.exists()

    def test_file_beside_tells_method_and_axes(self, folder, make_file):
        entry = Weights.importWeights(make_file(told={"method": "r2n2", "network": {"nd": 2}}), folder=folder)
        assert entry.serves == (("r2n2", 2),)

    def test_choice_of_the_user_counts_more_than_the_file(self, folder, make_file):
        entry = Weights.importWeights(make_file(told={"method": "r2n2", "dimensions": 2}), "rman", 3, folder)
        assert entry.serves == (("rman", 3),)

    def test_without_any_word_on_axes_both_are_served(self, folder, make_file):
        assert Weights.importWeights(make_file(), "rman", folder=folder).serves == (("rman", 2), ("rman", 3))

    def test_second_import_of_a_file_adds_nothing(self, folder, make_file):
        entries = [Weights.importWeights(make_file(), "rman", 3, folder) for _time in range(2)]
        assert imported(folder) == entries[:1] == entries[1:]

    def test_other_file_of_the_same_name_gets_another_one(self, folder, make_file):
        for content in (b"one", b"two"):
            Weights.importWeights(make_file(content=content), "rman", 3, folder)
        assert [entry.path.name for entry in imported(folder)] == ["thorax-2.pt", "thorax.pt"]

    def test_name_may_hold_anything(self, folder, make_file):
        entry = Weights.importWeights(make_file("my weights (v1.2).pt"), "rman", 3, folder)
        assert (entry.title, entry.path.name) == ("my weights (v1.2)", "my-weights-v1.2.pt")


class TestRefusal:
    @pytest.fixture
    def refusal(self, folder):
        """The function that imports, and returns why that is refused once nothing was left behind."""

        def tell(path: Path, method: str | None = "rman", axes: int | None = 3) -> str:
            with pytest.raises(ValueError) as caught:  # noqa: PT011 - the test looks at the message
                Weights.importWeights(path, method, axes, folder)
            assert not folder.exists() or not list(folder.iterdir())
            return str(caught.value)

        return tell

    def test_no_file(self, refusal, tmp_path):
        assert "does not exist" in refusal(tmp_path / "none.pt")

    @pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
    def test_truncated_file(self, refusal, make_file, keep):
        path = make_file(content=os.urandom(100))
        path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
        assert "damaged or truncated" in refusal(path)

    def test_flipped_bit(self, refusal, make_file):
        path = make_file()
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        assert "damaged or truncated" in refusal(path)

    def test_archive_of_something_else(self, refusal, tmp_path):
        path = tmp_path / "scene.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("scene.mrml", "<MRML/>")
        assert "is no .pt file of PyTorch" in refusal(path)

    def test_compressed_archive(self, refusal, tmp_path):
        path = tmp_path / "bomb.pt"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(10**6))
        assert "is no .pt file of PyTorch" in refusal(path)

    def test_file_without_permission(self, refusal, make_file, monkeypatch):
        path = make_file()
        denied = PermissionError(errno.EACCES, "Permission denied")
        monkeypatch.setattr(files, "open", Mock(side_effect=denied), raising=False)
        assert "you have no permission" in refusal(path)

    def test_no_method(self, refusal, make_file):
        assert refusal(make_file(), None) == "Choose the method that thorax.pt is for."

    def test_unknown_method(self, refusal, make_file):
        assert "'elastix' is unknown" in refusal(make_file(), "elastix")

    def test_method_without_weights(self, refusal, make_file):
        assert "needs no weights" in refusal(make_file(), "bspline")

    @pytest.mark.parametrize(
        ("told", "reason"),
        [
            ({"extent_mm": "wide"}, "thorax.json is damaged"),
            ({"title": 5}, "thorax.json is damaged"),
            ({"bytes": -1}, "thorax.json is damaged"),
            ({"dimensions": [True, 3.0]}, "only 2 and 3 are known"),
            ({"network": [1]}, "thorax.json is damaged"),
            ({"dimensions": [[3]]}, "only 2 and 3 are known"),
            ({"dimensions": "four"}, "only 2 and 3 are known"),
        ],
    )
    def test_description_that_makes_no_sense(self, refusal, make_file, told, reason):
        assert reason in refusal(make_file(told=told), axes=None)

    @pytest.mark.parametrize("text", ["{", "[1, 2]", '"text"', "{}{}", "[" * 100_000])
    def test_description_that_cannot_be_read(self, refusal, make_file, text):
        path = make_file()
        path.with_suffix(".json").write_text(text, encoding="ascii")
        assert "thorax.json" in refusal(path)

    @pytest.mark.parametrize("after", [0, 1], ids=["weights", "description"])
    def test_full_disk(self, refusal, make_file, monkeypatch, after):
        calls = []

        def sync(_handle: int) -> None:
            calls.append(None)
            if len(calls) > after:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", sync)
        assert "No space left on device" in refusal(make_file())

    def test_copy_of_which_only_a_part_arrives(self, refusal, make_file, monkeypatch):
        monkeypatch.setattr(shutil, "copyfileobj", lambda source, target: target.write(source.read(10)))
        assert "only a part" in refusal(make_file())

    def test_folder_that_cannot_be_made(self, refusal, make_file, folder):
        folder.parent.parent.mkdir(exist_ok=True)
        folder.parent.write_text("in the way", encoding="ascii")
        assert "could not be copied" in refusal(make_file())


class TestDelete:
    def test_removes_both_files(self, folder, make_file):
        Weights.deleteWeights(Weights.importWeights(make_file(), "rman", 3, folder))
        assert not list(folder.iterdir())

    def test_damaged_ones_can_be_deleted_too(self, folder, make_file):
        path = Weights.importWeights(make_file(), "rman", 3, folder).path
        path.with_suffix(".json").write_text("[]", encoding="ascii")
        (entry,) = imported(folder)
        assert entry.problem == "The file thorax.json is damaged. Delete these weights and import them again."
        Weights.deleteWeights(entry)
        assert not list(folder.iterdir())


class TestLicense:
    @pytest.mark.parametrize(
        ("licence", "sentence"),
        [
            ("CC-BY-NC-4.0", "non-commercial purposes only (CC-BY-NC-4.0)"),
            ("Non-commercial research license", "non-commercial"),
            ("for research use", "non-commercial"),
            ("", "is not known"),
        ],
    )
    def test_limits_are_told(self, folder, make_file, licence, sentence):
        entry = Weights.importWeights(make_file(told={"licence": licence}), "rman", 3, folder)
        assert sentence in Weights.licenceText(entry)

    @pytest.mark.parametrize("licence", ["CC-BY-SA-4.0", "Apache-2.0", "MIT"])
    def test_free_ones_say_nothing(self, folder, make_file, licence):
        entry = Weights.importWeights(make_file(told={"licence": licence}), "rman", 3, folder)
        assert Weights.licenceText(entry) == ""


class TestFolder:
    def test_lies_beside_the_settings_of_slicer(self, monkeypatch, tmp_path):
        settings = SimpleNamespace(fileName=lambda: str(tmp_path / "Slicer.ini"))
        monkeypatch.setattr(slicer, "app", SimpleNamespace(userSettings=lambda: settings), raising=False)
        assert Weights.userFolder() == tmp_path / "DeepAttentionReg" / "Weights"

    def test_lies_in_the_home_folder_without_slicer(self, monkeypatch, tmp_path):
        monkeypatch.delattr(slicer, "app", raising=False)
        monkeypatch.setattr(Path, "home", lambda: tmp_path)
        assert Weights.userFolder() == tmp_path / ".DeepAttentionReg" / "Weights"
