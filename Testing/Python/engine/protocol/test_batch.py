"""Batches whose registrations are played by a function: what is done, left alone, told and left behind."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from DeepAttentionRegEngine import cli
from DeepAttentionRegEngine.protocol import batch, errors, memo, quality
from DeepAttentionRegEngine.protocol.contract import BatchJob, Progress, RegisterJob, Result
from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.protocol.reporting import Reporter
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.geometry import Geometry

VALUES = {
    "method": "none",
    "before": {"dice": {"mean": 0.5}},
    "after": {"dice": {"mean": 0.75}, "tre_mm": {"mean": None}},
    "jacobian": {"minimum": 0.25, "fold_percent": 0.0},
    "seconds": {"load": 1.0, "refine": 2.5},
}
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
PAIRS = ("one", "two", "three")
SHARED = {"header": "name,fixed,moving,moving_labels", "rows": "one,f.nrrd,m.nrrd,l.nrrd\ntwo,f.nrrd,n.nrrd,\n"}


class Engine:
    """Registers by writing an empty transform; fails, cancels or breaks where told to."""

    def __init__(self, **misbehaves: Exception) -> None:
        self.jobs: list[RegisterJob] = []
        self.misbehaves = misbehaves

    def __call__(self, job: RegisterJob, reporter: Reporter) -> Result:
        reporter.step("load", message="Reading.")
        self.jobs.append(job)
        name = Path(job.output_transform).parent.name
        if name in self.misbehaves:
            raise self.misbehaves[name]
        Path(job.output_transform).touch()
        return Result({"transform": job.output_transform}, VALUES, ["A warning."])

    @property
    def names(self) -> list[str]:
        return [Path(job.output_transform).parent.name for job in self.jobs]


@pytest.fixture
def job(tmp_path) -> Callable[..., BatchJob]:
    def make(rows: str = "".join(f"{name},f,m\n" for name in PAIRS), header: str = "name,fixed,moving", **options):
        (tmp_path / "pairs.csv").write_text(f"{header}\n{rows}", encoding="utf-8")
        options = {"settings": {"method": "none"}, "outputs": ["transform"], **options}
        return BatchJob(pairs=str(tmp_path / "pairs.csv"), output=str(tmp_path / "out"), **options)

    return make


def run(
    job: BatchJob, engine: Engine, enough: Callable[[], bool] = lambda: False, events: list | None = None
) -> Result:
    emit = (lambda _event: None) if events is None else events.append
    return batch.run_batch(job, Reporter(emit, lambda: False, enough), engine)


def summary(result: Result) -> dict[str, dict[str, str]]:
    with open(result.outputs["summary"], encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


class TestJobs:
    def test_every_pair_goes_to_its_folder(self, job, tmp_path):
        run(job(), engine := Engine())
        files = [tmp_path / "out" / name / "transform.nrrd" for name in PAIRS]
        assert [made.output_transform for made in engine.jobs] == [str(file) for file in files]

    def test_row_takes_the_place_of_the_settings(self, job):
        table = {"header": "fixed,moving,recursions,refinement_steps", "rows": "f,m,5,\nf,m,,7\n"}
        run(job(**table, settings={"method": "rman", "recursions": 2}), engine := Engine())
        assert [(made.recursions, made.refinement_steps) for made in engine.jobs] == [(5, None), (2, 7)]

    def test_outputs_can_be_chosen_by_row(self, job, tmp_path):
        run(job(header="name,fixed,moving,output_transform", rows="one,f,m,t.h5\n"), engine := Engine())
        assert engine.jobs[0].output_transform == str(tmp_path / "out" / "one" / "t.h5")

    def test_labels_are_warped_where_there_are_any(self, job):
        table = {"header": "fixed,moving,moving_labels", "rows": "f,m,\nf,m,l\n"}
        run(job(**table, outputs=None), engine := Engine())
        assert [made.output_warped_labels is not None for made in engine.jobs] == [False, True]


class TestSummary:
    def test_numbers_are_those_of_the_result(self, job):
        row = summary(run(job(), Engine()))["one"]
        assert (row["dice_before"], row["dice_after"], row["tre_mm_after"]) == ("0.5", "0.75", "")
        assert (row["status"], row["seconds"], row["message"]) == ("done", "3.5", "A warning.")

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

    def test_two_pairs_cannot_write_one_file(self, job, tmp_path):
        path = tmp_path / "same.nrrd"
        table = {"header": "fixed,moving,output_transform", "rows": f"f,m,{path}\nf,m,{path}\n"}
        with pytest.raises(EngineError, match="two pairs write"):
            run(job(**table), Engine())

    def test_input_of_another_pair_is_not_overwritten(self, job, tmp_path):
        table = {"header": "fixed,moving,output_transform", "rows": f"f,m,{tmp_path / 'x'}\nx,m,t.nrrd\n"}
        with pytest.raises(EngineError, match="both read and written"):
            run(job(**table), Engine())

    def test_file_in_place_of_the_folder_is_told(self, job, tmp_path):
        (tmp_path / "out").touch()
        with pytest.raises(EngineError, match="cannot be written"):
            run(job(), Engine())


class TestResuming:
    def test_finished_rows_are_left_alone(self, job):
        run(job(), Engine(two=EngineError(errors.INTERNAL, "Broken.")))
        result = run(job(), engine := Engine())
        assert engine.names == ["two"]
        assert result.values == {"pairs": 3, "done": 3, "failed": 0, "not done": 0, "resumed": 2}
        assert {row["dice_after"] for row in summary(result).values()} == {"0.75"}

    def test_other_settings_do_all_again(self, job):
        run(job(), Engine())
        run(job(settings={"method": "none", "seed": 1}), engine := Engine())
        assert engine.names == list(PAIRS)

    def test_pair_whose_output_is_gone_is_done_again(self, job, tmp_path):
        run(job(), Engine())
        (tmp_path / "out" / "two" / "transform.nrrd").unlink()
        run(job(), engine := Engine())
        assert engine.names == ["two"]

    def test_pair_whose_output_was_cut_short_is_done_again(self, job, tmp_path):
        run(job(), Engine())
        (tmp_path / "out" / "two" / "transform.nrrd").write_bytes(b"half")
        run(job(), engine := Engine())
        assert engine.names == ["two"]

    def test_damaged_memory_is_no_memory(self, job, tmp_path):
        run(job(), Engine())
        (tmp_path / "out" / "two" / "result.json").write_text("{", encoding="ascii")
        run(job(), engine := Engine())
        assert engine.names == ["two"]

    def test_cancellation_keeps_what_is_done(self, job, tmp_path):
        with pytest.raises(EngineError) as end:
            run(job(), Engine(two=EngineError(errors.CANCELLED, "Canceled.")))
        assert end.value.code == errors.CANCELLED
        rows = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
        assert [row["status"] for row in rows] == ["done", "not done", "not done"]
        run(job(), engine := Engine())
        assert engine.names == ["two", "three"]

    def test_finishing_ends_after_the_present_pair(self, job):
        engine = Engine()
        result = run(job(), engine, enough=lambda: bool(engine.jobs))
        assert engine.names == ["one"]
        assert result.values["not done"] == 2


class TestContents:
    @pytest.fixture
    def again(self, job, tmp_path) -> Callable[..., list[str]]:
        """Register two pairs that share their fixed image; call it for the names of those that are done again."""
        for name in "fmnl":
            (tmp_path / f"{name}.nrrd").write_bytes(name.encode() * 100)
        run(job(**SHARED), Engine())

        def call(**options) -> list[str]:
            run(job(**SHARED, **options), engine := Engine())
            return engine.names

        return call

    def test_same_contents_are_left_alone_whatever_their_date(self, again, tmp_path):
        (tmp_path / "f.nrrd").write_bytes(b"f" * 100)
        os.utime(tmp_path / "m.nrrd", (0, 0))
        assert again() == []

    @pytest.mark.parametrize(("name", "pairs"), [("l", ["one"]), ("m", ["one"]), ("n", ["two"]), ("f", ["one", "two"])])
    def test_replaced_file_does_the_pairs_that_read_it_again(self, again, tmp_path, name, pairs):
        (tmp_path / f"{name}.nrrd").write_bytes(b"other")
        assert again() == pairs
        assert again() == []

    def test_replaced_file_of_same_size_and_date_is_noticed(self, again, tmp_path):
        file = tmp_path / "l.nrrd"
        state = file.stat()
        file.write_bytes(b"x" * 100)
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert again() == ["one"]

    def test_another_release_of_the_engine_does_all_again(self, again, monkeypatch):
        monkeypatch.setattr(memo, "__version__", "99.0")
        assert again() == ["one", "two"]

    def test_what_a_quality_means_is_remembered(self, again, monkeypatch):
        monkeypatch.setitem(quality.EFFORTS, "balanced", quality.Effort(1, 41))
        assert again() == ["one", "two"]

    def test_number_that_the_quality_would_take_anyway_changes_nothing(self, again):
        steps = quality.EFFORTS["balanced"].refinement_steps
        assert again(settings={"method": "none", "refinement_steps": steps}) == []

    def test_file_replaced_during_a_registration_counts_as_changed(self, job, tmp_path, again):
        class Slow(Engine):
            def __call__(self, made: RegisterJob, reporter: Reporter) -> Result:
                (tmp_path / "n.nrrd").write_bytes(b"late")
                return super().__call__(made, reporter)

        (tmp_path / "n.nrrd").write_bytes(b"early")
        run(job(**SHARED), Slow())
        assert again() == ["two"]

    def test_shared_file_is_read_once(self, again, monkeypatch):
        read: list[str] = []
        hashed = memo._sha256
        monkeypatch.setattr(memo, "_sha256", lambda path: read.append(path.name) or hashed(path))
        again()
        assert [name for name in read if name.endswith(".nrrd")].count("f.nrrd") == 1


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
        assert "[pair] good: Reading the volumes." in printed.err
        made = {file.name for file in (tmp_path / "out" / "good").iterdir()}
        assert made == {"transform.nrrd", "warped.nrrd", "jacobian.nrrd", "result.json"}
        assert cli.main(arguments) == 0
        assert "resumed: 1" in capsys.readouterr().out
