"""What a result was made from is told by contents: of images with their data, of methods with their weights."""

from collections.abc import Callable
from pathlib import Path

import pytest

from DeepAttentionRegEngine.protocol import memo, registry
from DeepAttentionRegEngine.protocol.contract import RegisterJob
from DeepAttentionRegEngine.protocol.errors import EngineError

OWN_METHOD = '{"architecture": "own.py:Own", "networks": {"3": {}}, "needs_weights": true, "citation": "", ' + (
    '"variants": [{"weights": "own.pt", "dimensions": 3}]}'
)

HEADERS = {
    "v.mhd": "ObjectType = Image\nElementDataFile = data.raw\n",
    "list.mhd": "ElementDataFile = LIST\nother.raw\ndata.raw\n",
    "v.nhdr": "NRRD0004\ntype: short\ndata file: data.raw\n",
    "pattern.nhdr": "NRRD0004\ndata file: dat%1c.raw 1 20 1\n",
}


def made_from(**values: str) -> dict:
    """Return what a result of these inputs is known by, hashed anew."""
    values = {"fixed": "f", "moving": "m", "method": "none", **values}
    return memo.made_from(RegisterJob(**values), memo.Contents())


class TestImages:
    @pytest.mark.parametrize("name", HEADERS)
    def test_voxels_beside_a_header_count(self, tmp_path, name):
        (tmp_path / name).write_text(HEADERS[name], encoding="ascii")
        (tmp_path / "data.raw").write_bytes(b"old")
        before = made_from(fixed=str(tmp_path / name))
        (tmp_path / "data.raw").write_bytes(b"new")
        assert made_from(fixed=str(tmp_path / name)) != before

    @pytest.mark.parametrize(("given", "other"), [("v.hdr", "v.img"), ("v.img", "v.hdr"), ("v.hdr.gz", "v.img.gz")])
    def test_both_files_of_a_pair_count(self, tmp_path, given, other):
        for name in (given, other):
            (tmp_path / name).write_bytes(b"\xff old")
        before = made_from(moving_labels=str(tmp_path / given))
        (tmp_path / other).write_bytes(b"\xff new")
        assert made_from(moving_labels=str(tmp_path / given)) != before

    def test_other_files_of_the_folder_do_not_count(self, tmp_path):
        (tmp_path / "v.mhd").write_text(HEADERS["v.mhd"], encoding="ascii")
        before = made_from(fixed=str(tmp_path / "v.mhd"))
        (tmp_path / "notes.txt").touch()
        assert made_from(fixed=str(tmp_path / "v.mhd")) == before

    def test_file_that_is_not_there_has_no_contents(self, tmp_path):
        assert made_from(fixed=str(tmp_path / "gone.mhd"))["inputs"]["fixed"] == {"gone.mhd": None}


class TestMethods:
    @pytest.fixture
    def of_own(self, tmp_path) -> Callable[[], dict]:
        for name, text in (("own.json", OWN_METHOD), ("own.py", "old"), ("own.pt", "old")):
            (tmp_path / name).write_text(text, encoding="ascii")
        return lambda: made_from(method=str(tmp_path / "own.json"))

    @pytest.mark.parametrize("name", ["own.json", "own.py", "own.pt"])
    def test_method_of_the_users_own_counts_with_its_network_and_weights(self, tmp_path, of_own, name):
        before = of_own()
        with (tmp_path / name).open("a") as file:
            file.write(" ")
        assert of_own() != before

    def test_weight_file_of_the_users_own_counts_with_what_lies_beside(self, tmp_path):
        (tmp_path / "w.pt").write_bytes(b"old")
        before = made_from(method="rman", weights=str(tmp_path / "w.pt"))
        (tmp_path / "w.json").write_text("{}", encoding="ascii")
        beside = made_from(method="rman", weights=str(tmp_path / "w.pt"))
        (tmp_path / "w.pt").write_bytes(b"new")
        assert before != beside != made_from(method="rman", weights=str(tmp_path / "w.pt"))

    def test_weights_that_come_along_have_the_hash_of_their_list(self):
        listed = [item for item in registry.load_weights().values() if registry.stored_file(item) is not None]
        variants = {item.weights for item in registry.load_method("rman").variants}
        found = made_from(method="rman")["method"]
        used = {item.file: item.sha256 for item in listed if item.id in variants}
        assert {name: value for name, value in found.items() if name.endswith(".pt")} == used

    def test_recursions_are_those_of_the_weights_for_either_number_of_axes(self):
        assert made_from(method="agf-diffeo")["job"]["recursions"] == [2, 5]
        named = made_from(method="agf-diffeo", weights="agf-hippocampus-mr", recursions=5)
        assert named["job"]["recursions"] == [5, 5]

    def test_refinement_alone_has_no_method_file(self):
        assert made_from()["method"] == {}

    def test_unknown_method_is_refused(self, tmp_path):
        with pytest.raises(EngineError, match="does not exist"):
            made_from(method=str(tmp_path / "none.json"))


def test_engine_is_told_by_its_files_too(monkeypatch) -> None:
    before = made_from()["engine"]
    monkeypatch.setattr(memo, "_sha256", lambda path: Path(path).name)
    after = made_from()["engine"]
    assert after["version"] == before["version"]
    assert after["sha256"] != before["sha256"]
