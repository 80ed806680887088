"""Batches whose registrations are played by a function: what is done, left alone, told and left behind."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from batch_cases import AXIAL, PAIRS, VALUES, Engine, run, summary
from DeepAttentionRegEngine import cli
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.protocol.contract import Progress
from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.geometry import Geometry


class TestJobs:
    def test_every_pair_goes_to_its_folder(self, job, tmp_path):
        run(job(), Engine())
        made = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").glob("*/*"))
        assert made == [f"{name}/{file}" for name in sorted(PAIRS) for file in ("result.json", "transform.nrrd")]

    def test_row_takes_the_place_of_the_settings(self, job):
        table = {"header": "fixed,moving,recursions,refinement_steps", "rows": "f,m,5,\nf,m,,7\n"}
        run(job(**table, settings={"method": "rman", "recursions": 2}), engine := Engine())
        assert [(made.recursions, made.refinement_steps) for made in engine.jobs] == [(5, None), (2, 7)]

    def test_outputs_can_be_chosen_by_row(self, job, tmp_path):
        run(job(header="name,fixed,moving,output_transform", rows="one,f,m,t.h5\n"), Engine())
        assert (tmp_path / "out" / "one" / "t.h5").is_file()

    def test_labels_are_warped_where_there_are_any(self, job):
        table = {"header": "fixed,moving,moving_labels", "rows": "f,m,\nf,m,l\n"}
        run(job(**table, outputs=None), engine := Engine())
        assert [made.output_warped_labels is not None for made in engine.jobs] == [False, True]


class TestSummary:
    def test_numbers_are_those_of_the_result(self, job):
        row = summary(run(job(), Engine()))["one"]
        assert (row["dice_before"], row["dice_after"], row["tre_mm_after"]) == ("0.5", "0.75", "")
        assert (row["status"], row["seconds"], row["message"]) == ("done", "3.5", "A warning.")

    def test_tells_no_folder_beyond_that_of_the_table(self, job, tmp_path):
        failure = EngineError(errors.INPUT_MISSING, "The file /srv/Smith/f.nrrd does not exist.")
        rows = "one,case/f.nrrd,/srv/Smith/m.nrrd\ntwo,../f.nrrd,m.nrrd\n"
        found = summary(run(job(rows), Engine(one=failure)))
        assert (found["one"]["fixed"], found["one"]["moving"]) == (os.path.join("case", "f.nrrd"), "m.nrrd")
        assert found["two"]["fixed"] == os.path.join("..", "f.nrrd")
        assert found["one"]["message"] == "The file f.nrrd does not exist."
        texts = [path.read_text(encoding="utf-8") for path in (tmp_path / "out").glob("summary.*")]
        assert not [text for text in texts if str(tmp_path) in text or "Smith" in text]

    def test_holds_no_formulas(self, job):
        values = {**VALUES, "jacobian": {"minimum": -0.5}}
        engine = Engine()
        engine.values = values
        (row,) = summary(run(job("-1+1,@f,=m\n"), engine)).values()
        assert (row["name"], row["fixed"], row["moving"]) == ("'-1+1", "'@f", "'=m")
        assert row["jacobian_min"] == "-0.5"

    def test_json_holds_the_same(self, job):
        result = run(job(), Engine())
        rows = json.loads(Path(result.outputs["summary_json"]).read_text(encoding="utf-8"))
        assert [row["name"] for row in rows] == list(PAIRS)
        assert rows[0]["dice_after"] == 0.75

    def test_progress_names_the_pair(self, job):
        events: list[Progress] = []
        run(job(), Engine(), events=events)
        assert [(event.step, event.of, event.message) for event in events] == [
            (index, 3, f"{name}: Reading.") for index, name in enumerate(PAIRS)
        ]


class TestFailures:
    @pytest.mark.parametrize("error", [EngineError(errors.NO_OVERLAP, "They do not overlap."), ZeroDivisionError("x")])
    def test_failing_row_is_told_and_does_not_stop_the_rest(self, job, error):
        result = run(job(), engine := Engine(two=error))
        assert engine.names == list(PAIRS)
        assert {name: row["status"] for name, row in summary(result).items()} == {
            "one": "done",
            "two": "failed",
            "three": "done",
        }
        assert result.values == {"pairs": 3, "done": 2, "failed": 1, "not done": 0, "resumed": 0}
        (warning,) = result.warnings
        assert warning.startswith("two: ")

    def test_value_that_makes_no_sense_fails_its_row_alone(self, job):
        table = {"header": "name,fixed,moving,recursions", "rows": "one,f,m,many\ntwo,f,m,3\n"}
        result = run(job(**table), engine := Engine())
        assert engine.names == ["two"]
        assert "'many'" in summary(result)["one"]["message"]

    def test_batch_fails_where_every_row_does(self, job):
        broken = EngineError(errors.INPUT_MISSING, "The file f does not exist.")
        with pytest.raises(EngineError, match="None of the 3 pairs could be registered"):
            run(job(), Engine(**dict.fromkeys(PAIRS, broken)))

    def test_unknown_output_is_refused(self, job):
        with pytest.raises(EngineError, match="'picture'"):
            run(job(outputs=["picture"]), Engine())

    def test_file_in_place_of_the_folder_is_told(self, job, tmp_path):
        (tmp_path / "out").touch()
        with pytest.raises(EngineError, match="cannot be written"):
            run(job(), Engine())


@pytest.mark.torch
class TestCommandLine:
    def test_pairs_are_registered_and_a_failing_one_is_told(self, tmp_path, capsys):
        pytest.importorskip("torch", reason="PyTorch is not installed")
        path = tmp_path / "\u00e4.nrrd"
        image = np.random.default_rng(0).normal(size=(10, 10, 10)).astype(np.float32)
        images.write_volume(path, image, Geometry((10, 10, 10), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), AXIAL))
        rows = f"name,fixed,moving\ngood,{path},{path.name}\nbad,{path.name},missing.nrrd\n"
        (tmp_path / "pairs.csv").write_text(rows, encoding="utf-8")
        arguments = ["batch", str(tmp_path / "pairs.csv"), str(tmp_path / "out"), "--method", "none", "--device", "cpu"]
        assert cli.main(arguments) == 0
        printed = capsys.readouterr()
        assert "Warning: bad: The file" in printed.err
        assert "[pair] good: Reading (0 %, 0 done, 0 failed, 2 left" in printed.err
        made = {file.name for file in (tmp_path / "out" / "good").iterdir()}
        assert made == {"transform.nrrd", "warped.nrrd", "jacobian.nrrd", "result.json"}
        assert cli.main(arguments) == 0
        assert "resumed: 1" in capsys.readouterr().out
