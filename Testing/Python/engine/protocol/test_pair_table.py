"""Tables of pairs as people write them, and what is said about those that cannot be used."""

import json
from pathlib import Path

import pytest

from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.protocol.pair_table import Pair, read_pairs


@pytest.fixture
def table(tmp_path):
    def write(text: str, name: str = "pairs.csv", encoding: str = "utf-8") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return write


def fields_of(path: Path) -> dict:
    (pair,) = read_pairs(path)
    return pair.fields


class TestTables:
    def test_inputs_are_relative_to_the_table(self, table, tmp_path):
        pairs = read_pairs(table("fixed,moving\na/f.nrrd,m.nrrd\n"))
        files = {"fixed": str(tmp_path / "a" / "f.nrrd"), "moving": str(tmp_path / "m.nrrd")}
        assert pairs == [Pair("m to f", files)]

    def test_absolute_inputs_stay(self, table, tmp_path):
        path = str(tmp_path / "elsewhere" / "f.nrrd")
        assert fields_of(table(f"fixed,moving\n{path},m.nrrd\n"))["fixed"] == path

    @pytest.mark.parametrize("delimiter", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"], ids=["plain", "as Excel saves it"])
    def test_spreadsheets_write_it_their_way(self, table, delimiter, encoding):
        lines = [["fixed", "name", "moving"], ["f.nrrd", "Fall \u00e4", "m.nrrd"], ["", "", ""]]
        text = "\r\n".join(delimiter.join(line) for line in lines)
        assert [pair.name for pair in read_pairs(table(text, encoding=encoding))] == ["Fall \u00e4"]

    def test_cells_mean_what_the_field_takes(self, table):
        text = "fixed,moving,recursions,smoothness,velocity,weights\nf,m,3,0.5,yes,mine\n"
        found = fields_of(table(text))
        wanted = {"recursions": 3, "smoothness": 0.5, "velocity": True, "weights": "mine"}
        assert {name: found[name] for name in wanted} == wanted

    def test_empty_cells_say_nothing(self, table):
        assert set(fields_of(table("fixed,moving,fixed_mask,recursions\nf,m,,\n"))) == {"fixed", "moving"}

    def test_what_makes_no_sense_is_left_to_its_pair(self, table):
        assert fields_of(table("fixed,moving,recursions\nf,m,many\n"))["recursions"] == "many"

    def test_json_is_read_as_csv_is(self, table, tmp_path):
        rows = [{"fixed": "f.nrrd", "moving": "m.nrrd", "name": "one", "recursions": 2, "weights": None}]
        (pair,) = read_pairs(table(json.dumps(rows), "pairs.json"))
        assert pair.name == "one"
        assert pair.fields == {"fixed": str(tmp_path / "f.nrrd"), "moving": str(tmp_path / "m.nrrd"), "recursions": 2}


class TestNames:
    def test_pairs_of_the_same_files_get_numbers(self, table):
        pairs = read_pairs(table("fixed,moving\nf.nii.gz,m.nii\nx/f.nii.gz,x/m.nii\n"))
        assert [pair.name for pair in pairs] == ["m to f", "m to f 2"]

    @pytest.mark.parametrize(
        ("given", "made"), [("a/b", "a_b"), ("..", "pair"), ("case: 1?", "case_ 1_"), ("C:\\x", "C__x")]
    )
    def test_names_are_fit_for_every_file_system(self, table, given, made):
        assert read_pairs(table(f"name,fixed,moving\n{given},f,m\n"))[0].name == made


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("fixed,moving\n", "names no pair"),
            ("", "names no pair"),
            ("fixed,movin\nf,m\n", "unknown column 'movin'"),
            ("fixed\nf\n", "has no column 'moving'"),
            ("fixed,moving,cancel_file\nf,m,c\n", "unknown column 'cancel_file'"),
            ("fixed,fixed,moving\nf,f,m\n", "has the column 'fixed' twice"),
            ("fixed,moving\nf,m,x\n", "more cells than columns in line 2"),
            ("name,fixed,moving\na,f,m\nA,f,m\n", "names two pairs 'A'"),
        ],
    )
    def test_table_that_cannot_work_is_refused_by_a_sentence(self, table, text, words):
        with pytest.raises(EngineError, match=words):
            read_pairs(table(text))

    @pytest.mark.parametrize("text", ["{", '{"fixed": "f"}', "[1]"])
    def test_other_json_is_refused(self, table, text):
        with pytest.raises(EngineError, match=r"pairs\.json"):
            read_pairs(table(text, "pairs.json"))

    def test_missing_table_is_named(self, tmp_path):
        with pytest.raises(EngineError, match=r"gone\.csv does not exist"):
            read_pairs(tmp_path / "gone.csv")

    def test_other_encoding_is_refused(self, table):
        with pytest.raises(EngineError, match="UTF-8"):
            read_pairs(table("fixed,moving\n\u00e4,m\n", encoding="latin-1"))
