"""What is wrong with one row of a batch concerns that row alone."""

import dataclasses
import json

import pytest

from batch_cases import Engine, run, summary
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.protocol.errors import EngineError


class TestRows:
    @pytest.mark.parametrize(
        "file", ["../../evil.nrrd", "..", ".", "a/../../two/transform.nrrd", "/elsewhere/evil.nrrd"]
    )
    def test_output_beyond_the_folder_of_its_pair_fails_its_row_alone(self, job, tmp_path, file):
        table = {"header": "name,fixed,moving,output_transform", "rows": f"one,f,m,{file}\ntwo,f,m,\n"}
        result = run(job(**table), engine := Engine())
        assert engine.names == ["two"]
        assert "is not in the folder of its pair" in summary(result)["one"]["message"]

    def test_pair_that_reads_what_another_one_writes_fails_alone(self, job, tmp_path):
        rows = f"one,f,m\ntwo,{tmp_path / 'out' / 'one' / 'transform.nrrd'},m\n"
        result = run(job(rows), engine := Engine())
        assert engine.names == ["one"]
        assert "both read and written" in summary(result)["two"]["message"]

    @pytest.mark.parametrize("name", ["a\0b", "a\0b.nrrd", "\ud800", "n" * 5000, "9" * 400])
    def test_name_that_is_none_fails_its_row_alone(self, job, tmp_path, name):
        rows = [{"name": "one", "fixed": name, "moving": "m"}, {"name": "two", "fixed": "f", "moving": "m"}]
        (tmp_path / "pairs.json").write_text(json.dumps(rows), encoding="ascii")
        missing = EngineError(errors.INPUT_MISSING, "There is none.")
        result = run(dataclasses.replace(job(), pairs=str(tmp_path / "pairs.json")), engine := Engine(one=missing))
        assert engine.names == ["one", "two"]
        assert [row["status"] for row in summary(result).values()] == ["failed", "done"]

    def test_folder_that_cannot_be_made_fails_its_row_alone(self, job):
        result = run(job(f"{'n' * 5000},f,m\ntwo,f,m\n"), Engine())
        (message,) = result.warnings
        assert "cannot be written: file name too long" in message

    @pytest.mark.parametrize("values", [{"seconds": 5}, {"seconds": {"load": "x"}}, {"after": {"dice": {"mean": [1]}}}])
    def test_record_of_a_pair_may_be_damaged(self, job, tmp_path, values):
        run(job(), Engine())
        path = tmp_path / "out" / "two" / "result.json"
        told = json.loads(path.read_text(encoding="ascii"))
        told["result"]["values"] = values
        path.write_text(json.dumps(told), encoding="ascii")
        assert run(job(), Engine()).values["resumed"] == 2
