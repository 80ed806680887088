"""Batches that run again: what is left alone, what is done anew, and which files survive."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_cases import PAIRS, SHARED, Engine, run, summary
from DeepAttentionRegEngine.protocol import batch, errors, memo, quality
from DeepAttentionRegEngine.protocol.contract import BatchJob, RegisterJob, Result
from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.protocol.reporting import Reporter


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

    @pytest.mark.parametrize("content", [b"", b"deform", b"deformatiom", b"deformation and more"])
    def test_pair_whose_output_is_not_what_was_written_is_done_again(self, job, tmp_path, content):
        run(job(), Engine())
        file = tmp_path / "out" / "two" / "transform.nrrd"
        state = file.stat()
        file.write_bytes(content)
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
        run(job(), engine := Engine())
        assert engine.names == ["two"]
        assert file.read_bytes() == b"deformation"

    @pytest.mark.parametrize("change", [("0.75", "0.95"), ("A warning.", ""), ('"transform"', '"other"'), ("}", "")])
    def test_pair_whose_result_is_not_what_was_written_is_done_again(self, job, tmp_path, change):
        run(job(), Engine())
        file = tmp_path / "out" / "two" / "result.json"
        file.write_text(file.read_text(encoding="ascii").replace(*change), encoding="ascii")
        run(job(), engine := Engine())
        assert engine.names == ["two"]

    def test_files_of_recursions_are_proven_too(self, job, tmp_path):
        class Recursive(Engine):
            def __call__(self, made: RegisterJob, reporter: Reporter) -> Result:
                (Path(made.output_recursions) / "recursion_1.nrrd").write_bytes(b"one")
                return super().__call__(made, reporter)

        table = {"header": "name,fixed,moving,output_recursions", "rows": "one,f,m,recursions\n"}
        run(job(**table), Recursive())
        run(job(**table), engine := Recursive())
        assert engine.names == []
        (tmp_path / "out" / "one" / "recursions" / "recursion_1.nrrd").write_bytes(b"two")
        (tmp_path / "out" / "one" / "recursions" / "recursions.json").write_bytes(b"")
        run(job(**table), engine := Recursive())
        assert engine.names == ["one"]

    @pytest.mark.parametrize("content", ["{", "", None])
    def test_damaged_memory_is_no_memory(self, job, tmp_path, content):
        run(job(), Engine())
        file = tmp_path / "out" / "two" / "result.json"
        file.unlink() if content is None else file.write_text(content, encoding="ascii")
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


class TestFiles:
    """What the user has put there stays, and what an earlier run has made stays until there is something new."""

    @pytest.mark.parametrize("way", ["plain", "case", "symbolic", "hard", "json"])
    def test_table_survives(self, job, tmp_path, way):
        job()
        name = {"case": "Summary.CSV", "json": "summary.json"}.get(way, "summary.csv")
        (tmp_path / "out").mkdir()
        place = tmp_path / "out" / name
        text = (tmp_path / "pairs.csv").read_bytes()
        if way == "json":
            text = json.dumps([{"name": "one", "fixed": "f", "moving": "m"}]).encode()
        (tmp_path / "pairs.csv").write_bytes(text)
        move = {"symbolic": place.symlink_to, "hard": lambda source: os.link(source, place)}
        move.get(way, lambda source: source.rename(place))(tmp_path / "pairs.csv")
        batch_job = BatchJob(pairs=str(place), output=str(tmp_path / "out"), settings={"method": "none"})
        with pytest.raises(EngineError, match="both read and written"):
            run(batch_job, engine := Engine())
        assert (engine.jobs, place.read_bytes()) == ([], text)
        assert [path.name for path in (tmp_path / "out").iterdir()] == [name]

    @pytest.mark.parametrize("name", ["summary.csv", "summary.json"])
    def test_summary_of_something_else_survives(self, job, tmp_path, name):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / name).write_text("my own", encoding="ascii")
        with pytest.raises(EngineError, match="nothing tells that a registration has made it"):
            run(job(), Engine())
        assert [(path.name, path.read_text()) for path in (tmp_path / "out").iterdir()] == [(name, "my own")]

    @pytest.mark.parametrize("name", ["result.json", "transform.nrrd"])
    @pytest.mark.parametrize("fails", [False, True])
    def test_file_in_the_folder_of_a_pair_survives(self, job, tmp_path, name, fails):
        file = tmp_path / "out" / "two" / name
        file.parent.mkdir(parents=True)
        file.write_text("my own", encoding="ascii")
        for _ in range(2):
            result = run(job(), Engine(**({"two": ZeroDivisionError()} if fails else {})))
            assert (file.read_text(encoding="ascii"), result.values["failed"]) == ("my own", 1)
            assert "nothing tells" in summary(result)["two"]["message"]
        assert [path.name for path in file.parent.iterdir()] == [name]

    def test_failing_pair_keeps_what_an_earlier_run_has_made(self, job, tmp_path):
        run(job(), Engine())
        before = {path: path.read_bytes() for path in (tmp_path / "out" / "two").iterdir()}
        result = run(job(settings={"method": "none", "seed": 1}), Engine(two=ZeroDivisionError()))
        assert summary(result)["two"]["status"] == "failed"
        assert {path: path.read_bytes() for path in (tmp_path / "out" / "two").iterdir()} == before

    def test_pair_that_fails_at_its_last_file_keeps_it_too(self, job, tmp_path, monkeypatch):
        run(job(), Engine())
        before = {path: path.read_bytes() for path in (tmp_path / "out" / "two").iterdir()}

        def fail(*_arguments: object) -> None:
            raise EngineError(errors.OUTPUT_UNWRITABLE, "The disk is full.")

        class Other(Engine):
            def __call__(self, made: RegisterJob, reporter: Reporter) -> Result:
                result = super().__call__(made, reporter)
                Path(made.output_transform).write_bytes(b"another")
                return result

        monkeypatch.setattr(batch, "write_result", fail)
        with pytest.raises(EngineError, match="None of the 3 pairs"):
            run(job(settings={"method": "none", "seed": 1}), Other())
        assert {path: path.read_bytes() for path in (tmp_path / "out" / "two").iterdir()} == before

    def test_failing_pair_leaves_no_folder(self, job, tmp_path):
        run(job(), Engine(two=ZeroDivisionError()))
        assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == ["one", "three"]

    def test_input_of_another_pair_in_a_folder_of_recursions_survives(self, job, tmp_path):
        (tmp_path / "r").mkdir()
        (tmp_path / "r" / "recursion_1.nrrd").touch()
        table = {
            "header": "fixed,moving,output_recursions",
            "rows": f"f,r/recursion_1.nrrd,\nf,m,{tmp_path / 'r'}\n",
        }
        result = run(job(**table), Engine())
        assert [row["status"] for row in summary(result).values()] == ["done", "failed"]
        assert [path.name for path in (tmp_path / "r").iterdir()] == ["recursion_1.nrrd"]


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
