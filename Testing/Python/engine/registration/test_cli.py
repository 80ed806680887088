"""The command line and the child process: help, options, exit codes, lines of JSON, and an end in every event."""

import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from DeepAttentionRegEngine import __version__, cli
from DeepAttentionRegEngine.protocol import contract, errors
from DeepAttentionRegEngine.protocol.contract import RegisterJob
from DeepAttentionRegEngine.volume import fields, images
from DeepAttentionRegEngine.volume.geometry import Geometry
from engine_cases import blob_source, centered, positions, rotation

pytestmark = pytest.mark.torch

RUN_ENGINE = Path(__file__).resolve().parents[4] / "DeepAttentionReg" / "Scripts" / "run_engine.py"
TIMEOUT_S = 120.0  # importing PyTorch on a busy machine
GRID = centered((24, 20, 18), (2.0, 2.5, 3.0), rotation(12, -9, 20), (30.0, -20.0, 10.0))
STRETCH = np.diag([0.1, -0.05, 0.2])  # du/dx


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Return an image, labels, landmarks and a linear field on one grid, in a folder with a space and an umlaut."""
    folder = tmp_path / "F\u00e4lle 1"
    folder.mkdir()
    paths = {
        name: str(folder / file)
        for name, file in (("image", "image.nrrd"), ("labels", "l.nrrd"), ("points", "p.csv"), ("field", "t.nrrd"))
    }
    image = blob_source(GRID).array
    images.write_volume(paths["image"], image, GRID)
    images.write_volume(paths["labels"], (image > 0.5).astype(np.uint8), GRID)
    images.write_points(paths["points"], GRID.center_lps[None])
    images.write_displacement(paths["field"], stretched(GRID), GRID)
    return paths


def stretched(grid: Geometry) -> np.ndarray:
    """Return the field of x -> x + STRETCH (x - center), LPS mm."""
    return ((positions(grid) - grid.center_lps) @ STRETCH.T).astype(np.float32)


def register(files: dict[str, str], *options: str) -> list[str]:
    plain = ["--method", "none", "--refinement-steps", "0", "--device", "cpu"]
    return ["register", files["image"], files["image"], *plain, *options]


def json_events(text: str) -> list[contract.Event]:
    """Return the events of an output of which every line must be one."""
    events = [contract.parse_event(line) for line in text.splitlines()]
    assert None not in events
    return events


class TestHelp:
    @pytest.mark.parametrize("task", [None, *contract.TASKS, "run"])
    def test_help_of_every_task_ends_well(self, task: str | None, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            cli.main(["--help"] if task is None else [task, "--help"])
        assert end.value.code == 0
        assert capsys.readouterr().out.startswith("usage: deepattentionreg")

    def test_every_task_is_offered(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            cli.main(["--help"])
        assert set(contract.TASKS) <= set(re.findall(r"\w+", capsys.readouterr().out))

    def test_every_option_is_explained(self) -> None:
        tasks = next(action.choices for action in cli.make_parser()._actions if action.dest == "task")
        unexplained = [
            (name, action.dest) for name, task in tasks.items() for action in task._actions if not action.help
        ]
        assert not unexplained

    def test_version_is_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            cli.main(["--version"])
        assert capsys.readouterr().out.strip() == __version__

    @pytest.mark.parametrize("arguments", [[], ["dance"], ["register", "only-one"], ["register", "a", "b", "--nope"]])
    def test_wrong_usage_ends_with_two(self, arguments: list[str]) -> None:
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 2


class TestOptions:
    @staticmethod
    def job(*arguments: str) -> contract.Job:
        return cli.job_from(cli.make_parser().parse_args(arguments))

    def test_defaults_are_those_of_the_contract(self) -> None:
        assert self.job("register", "f", "m") == RegisterJob(fixed="f", moving="m")

    def test_every_field_of_a_registration_has_its_option(self) -> None:
        values: dict[str, Any] = {}
        arguments = ["register", "f", "m"]
        own = {"cancel_file", "finish_file", "parent_pid"}  # between processes, nothing to type
        for item in dataclasses.fields(RegisterJob):
            if item.name in {"fixed", "moving", *own}:
                continue
            option = "--" + item.name.replace("_", "-")
            value = {bool: True, bool | None: True, int: 7, int | None: 7, float: 0.5}.get(item.type, "x")
            value = list(item.metadata["choices"])[-1] if item.metadata.get("choices") else value
            arguments += [option] if value is True else [option, str(value)]
            values[item.name] = value
        assert self.job(*arguments) == RegisterJob(fixed="f", moving="m", **values)

    def test_other_tasks_fill_their_jobs(self) -> None:
        assert self.job("warp", "m", "t", "o", "--labels", "--reference", "r") == contract.WarpJob(
            moving="m", transform="t", output="o", labels=True, reference="r"
        )
        assert self.job("jacobian", "t", "o", "--map", "folds") == contract.JacobianJob(
            transform="t", output="o", map="folds"
        )
        batch = self.job("batch", "p.csv", "o", "--outputs", "transform", "--recursions", "5")
        assert (batch.pairs, batch.output, batch.outputs) == ("p.csv", "o", ["transform"])
        assert batch.settings["recursions"] == 5
        assert self.job("render", "g", "r", "o") == contract.RenderJob(gaussians="g", reference="r", output="o")
        assert self.job("metrics", "t", "--fixed-points", "p") == contract.MetricsJob(transform="t", fixed_points="p")

    def test_value_out_of_range_is_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["register", "f", "m", "--recursions", "500"]) == 1
        assert capsys.readouterr().err.splitlines() == [
            "Error: RegisterJob.recursions is 500, but must be between 1 and 100. Correct the value."
        ]


class TestPeople:
    def test_results_go_to_output_and_progress_to_errors(
        self, files: dict[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(register(files)) == 0
        printed = capsys.readouterr()
        assert "jacobian:" in printed.out
        assert "[load]" in printed.err

    def test_failure_is_one_line(self, files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["register", "missing.nrrd", files["image"], "--method", "none"]) == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last == "Error: The file missing.nrrd does not exist. Check its path."

    def test_probe_names_versions(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["probe"]) == 0
        assert f"engine: {__version__}" in capsys.readouterr().out


class TestJson:
    def test_every_line_is_an_event_and_the_last_is_the_result(
        self, files: dict[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(register(files, "--json")) == 0
        events = json_events(capsys.readouterr().out)
        kinds = [type(event).__name__ for event in events]
        assert kinds == ["Progress"] * (len(kinds) - 1) + ["Result"]

    def test_lines_are_ascii_even_where_paths_are_not(
        self, files: dict[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = str(Path(files["image"]).with_name("\u00fcber.nrrd"))
        cli.main(register(files, "--json", "--output-warped", path))
        text = capsys.readouterr().out
        assert text.isascii()
        assert json_events(text)[-1].outputs == {"warped": path}

    def test_wrong_value_is_an_event_too(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["register", "f", "m", "--recursions", "0", "--json"]) == 1
        (event,) = json_events(capsys.readouterr().out)
        assert event.code == errors.CONTRACT


class TestUnexpected:
    @staticmethod
    def outcome(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException
    ) -> tuple[int, contract.Failure]:
        """Return exit code and event of a job that raises."""

        def broken(*_: object) -> None:
            raise error

        from DeepAttentionRegEngine import jobs

        monkeypatch.setattr(jobs, "probe", broken)
        code = cli.main(["probe", "--json"])
        (event,) = json_events(capsys.readouterr().out)
        return code, event

    def test_error_of_the_engine_itself_is_reported(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, event = self.outcome(monkeypatch, capsys, ZeroDivisionError("oops"))
        assert (code, event.code) == (1, errors.INTERNAL)
        assert "ZeroDivisionError: oops" in event.message

    @pytest.mark.parametrize(
        "error",
        [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ...")],
    )
    def test_lack_of_memory_has_its_code(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
    ) -> None:
        assert self.outcome(monkeypatch, capsys, error)[1].code == errors.OUT_OF_MEMORY

    def test_interruption_counts_as_cancelled(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, event = self.outcome(monkeypatch, capsys, KeyboardInterrupt())
        assert (code, event.code) == (3, errors.CANCELLED)


class TestOtherTasks:
    @staticmethod
    def output(files: dict[str, str], name: str) -> str:
        return str(Path(files["field"]).with_name(name))

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("jacobian", np.linalg.det(np.eye(3) + STRETCH)),
            ("log-jacobian", np.log(np.linalg.det(np.eye(3) + STRETCH))),
            ("folds", 0),
        ],
    )
    def test_map_of_a_linear_field_is_constant(self, files: dict[str, str], name: str, expected: float) -> None:
        path = self.output(files, "map.nrrd")
        assert cli.main(["jacobian", files["field"], path, "--map", name, "--json"]) == 0
        # float32 fields of some 10 mm, differentiated over 2 mm.
        np.testing.assert_allclose(images.read_volume(path).array, expected, atol=1e-5)

    def test_magnitude_is_the_length_of_the_displacement(self, files: dict[str, str]) -> None:
        path = self.output(files, "map.nrrd")
        cli.main(["jacobian", files["field"], path, "--map", "magnitude", "--json"])
        np.testing.assert_allclose(images.read_volume(path).array, fields.magnitude(stretched(GRID)), atol=1e-6)

    def test_fold_map_is_a_label_map(self, files: dict[str, str]) -> None:
        path = self.output(files, "map.nrrd")
        cli.main(["jacobian", files["field"], path, "--map", "folds", "--json"])
        assert images.read_volume(path).array.dtype == np.uint8

    def test_labels_are_warped_as_labels(self, files: dict[str, str]) -> None:
        path = self.output(files, "warped.nrrd")
        assert cli.main(["warp", files["labels"], files["field"], path, "--labels", "--json"]) == 0
        assert set(np.unique(images.read_labels(path).array)) == {0, 1}

    def test_warped_image_is_that_of_the_registration(self, files: dict[str, str]) -> None:
        inside, alone = self.output(files, "inside.nrrd"), self.output(files, "alone.nrrd")
        field = self.output(files, "u.nrrd")
        options = ("--output-transform", field, "--output-warped", inside, "--refinement-steps", "2", "--json")
        cli.main(register(files, *options))
        cli.main(["warp", files["image"], field, alone, "--reference", files["image"], "--json"])
        np.testing.assert_array_equal(images.read_volume(alone).array, images.read_volume(inside).array)

    def test_metrics_of_equal_labels_without_motion_are_perfect(
        self, files: dict[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        still = self.output(files, "still.nrrd")
        images.write_displacement(still, np.zeros((*GRID.shape, 3), np.float32), GRID)
        labels = ["--fixed-labels", files["labels"], "--moving-labels", files["labels"]]
        points = ["--fixed-points", files["points"], "--moving-points", files["points"]]
        assert cli.main(["metrics", still, *labels, *points, "--json"]) == 0
        after = json_events(capsys.readouterr().out)[-1].values["after"]
        assert (after["dice"]["1"], after["hd95_mm"]["1"], after["tre_mm"]["mean"]) == (1, 0, 0)

    def test_metrics_without_anything_to_score_with_tell_regularity(
        self, files: dict[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        cli.main(["metrics", files["field"], "--json"])
        values = json_events(capsys.readouterr().out)[-1].values
        assert values["jacobian"]["mean"] == pytest.approx(np.linalg.det(np.eye(3) + STRETCH), abs=1e-5)


@pytest.mark.slow
class TestProcess:
    """The engine as Slicer starts it."""

    @staticmethod
    def start(job: str | contract.Job, folder: Path, **options: Any) -> subprocess.Popen[str]:
        path = folder / "job.json"
        path.write_text(job if isinstance(job, str) else contract.dump_job(job), encoding="utf-8")
        command = [sys.executable, str(RUN_ENGINE), "run", str(path)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, **{**pipes, **options})

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, list[contract.Event]]:
        """Return exit code and events; other lines may stand between them."""
        output, _ = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, [event for event in map(contract.parse_event, output.splitlines()) if event]

    @staticmethod
    def job(files: dict[str, str], **options: Any) -> RegisterJob:
        plain = {"method": "none", "refinement_steps": 0, "device": "cpu"}
        return RegisterJob(**{**plain, "fixed": files["image"], "moving": files["image"], **options})

    def test_job_file_is_run(self, files: dict[str, str], tmp_path: Path) -> None:
        path = str(tmp_path / "t.nrrd")
        code, events = self.finish(self.start(self.job(files, output_transform=path), tmp_path))
        assert (code, events[-1].outputs) == (0, {"transform": path})
        assert Path(path).is_file()

    def test_cancel_file_ends_it_with_three_and_no_output(self, files: dict[str, str], tmp_path: Path) -> None:
        cancel, out = tmp_path / "cancel", tmp_path / "t.nrrd"
        job = self.job(files, refinement_steps=1000, cancel_file=str(cancel), output_transform=str(out))
        process = self.start(job, tmp_path)
        while '"refine"' not in process.stdout.readline():
            assert process.poll() is None
        cancel.touch()
        code, events = self.finish(process)
        assert (code, events[-1].code, out.exists()) == (3, errors.CANCELLED, False)

    @pytest.mark.parametrize("text", ["", "{", '{"contract": 1, "task": "register"}', "\u00fc"])
    def test_wrong_job_file_is_an_event(self, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "job.json"
        path.write_text(text, encoding="utf-16" if text == "\u00fc" else "utf-8")
        assert cli.main(["run", str(path)]) == 1
        (event,) = json_events(capsys.readouterr().out)
        assert isinstance(event, contract.Failure)

    def test_missing_job_file_is_an_event(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["run", str(tmp_path / "none.json")]) == 1
        assert json_events(capsys.readouterr().out)[0].code == errors.INPUT_MISSING

    @pytest.mark.skipif(sys.platform == "win32", reason="a limit on file sizes stands for a full disk, POSIX has one")
    def test_full_disk_is_a_sentence_and_leaves_nothing(self, files: dict[str, str], tmp_path: Path) -> None:
        import resource

        out = tmp_path / "out"
        out.mkdir()
        job = self.job(files, output_transform=str(out / "t.nrrd"), output_warped=str(out / "w.nrrd"))
        # The field, which is 0 everywhere and shrinks, fits; the warped image does not.
        limit = GRID.shape[0] * GRID.shape[1] * GRID.shape[2] * 2
        process = self.start(
            job, tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        )
        code, events = self.finish(process)
        assert (code, events[-1].code) == (1, errors.OUTPUT_UNWRITABLE)
        assert list(out.iterdir()) == []

    def test_killed_parent_ends_the_engine(self, files: dict[str, str], tmp_path: Path) -> None:
        # A parent of its own, which can be killed; the engine would go on for minutes.
        job = self.job(files, refinement_steps=1000, output_transform=str(tmp_path / "t.nrrd"))
        path = tmp_path / "job.json"
        path.write_text(contract.dump_job(job), encoding="utf-8")
        script = (
            "import json, os, subprocess, sys\n"
            f"path = {str(path)!r}\n"
            "job = json.load(open(path)); job['parent_pid'] = os.getpid(); json.dump(job, open(path, 'w'))\n"
            f"subprocess.Popen([sys.executable, {str(RUN_ENGINE)!r}, 'run', path]).wait()\n"
        )
        parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        while '"refine"' not in parent.stdout.readline():
            assert parent.poll() is None
        parent.kill()
        started = time.monotonic()
        parent.communicate(timeout=TIMEOUT_S)  # returns when the engine, too, has let go of the pipe
        assert time.monotonic() - started < 10
        assert not (tmp_path / "t.nrrd").exists()

    def test_reader_that_goes_away_changes_nothing(self, files: dict[str, str], tmp_path: Path) -> None:
        out = tmp_path / "t.nrrd"
        process = self.start(self.job(files, refinement_steps=2, output_transform=str(out)), tmp_path)
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=TIMEOUT_S) == 0
        assert images.read_displacement(out)
        process.stderr.close()
