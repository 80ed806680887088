"""The engine as a child process, played by a stand-in: events, cancellation, crashes, orphans, clean-up."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import types
from pathlib import Path

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_scene  # noqa: F401  (provides slicer.i18n)
from DeepAttentionRegEngine.protocol import contract, errors
from DeepAttentionRegLib.engine.Callbacks import Callbacks
from DeepAttentionRegLib.engine.Engine import Engine
from DeepAttentionRegLib.engine.EngineJob import EngineJob

pytestmark = pytest.mark.mrml

HERE = Path(__file__).resolve().parents[2] / "support"
FAKE_ENGINE = HERE / "fake_engine.py"
ENGINE = Engine(sys.executable, FAKE_ENGINE)
TIMEOUT_S = 20.0
REGISTER = contract.RegisterJob(fixed="fixed.nrrd", moving="moving.nrrd", output_transform="transform.nrrd")


class Recorder:
    """Collects what a job calls back."""

    def __init__(self) -> None:
        self.progress: list[contract.Progress] = []
        self.results: list[contract.Result] = []
        self.failures: list[contract.Failure] = []
        self.callbacks = Callbacks(self.progress.append, self.results.append, self.failures.append)

    @property
    def ends(self) -> int:
        return len(self.results) + len(self.failures)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def job(recorder: Recorder):
    job = EngineJob(recorder.callbacks, ENGINE)
    yield job
    job.close()


def start(job: EngineJob, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("FAKE_ENGINE", mode)
    job.start(REGISTER)


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that ended and was not waited for does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until(condition, message: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.02)


def poll_until_progress(job: EngineJob, recorder: Recorder) -> int:
    """Wait for the engine's first word and return its process id."""

    def has_spoken() -> bool:
        job.poll()
        return bool(recorder.progress)

    wait_until(has_spoken, "the engine never spoke")
    return int(recorder.progress[0].message)


class TestVerdict:
    def test_failure_of_the_engine_is_passed_on(self, job, recorder, monkeypatch):
        start(job, monkeypatch, "fail")
        job.wait()
        assert [failure.code for failure in recorder.failures] == [errors.NO_OVERLAP]

    def test_crash_becomes_a_failure_with_the_last_words(self, job, recorder, monkeypatch):
        start(job, monkeypatch, "crash")
        job.wait()
        assert recorder.failures[0].code == errors.INTERNAL
        assert "exit code 9" in recorder.failures[0].message
        assert "Segmentation fault" in recorder.failures[0].hint

    def test_killed_engine_becomes_a_failure(self, job, recorder, monkeypatch):
        start(job, monkeypatch, "hang")
        os.kill(poll_until_progress(job, recorder), signal.SIGKILL)
        job.wait()
        assert "memory" in recorder.failures[0].hint

    def test_event_of_another_version_ends_the_engine(self, job, recorder, monkeypatch):
        start(job, monkeypatch, "speak another version")
        job.wait()
        assert recorder.failures[0].code == errors.CONTRACT

    def test_every_job_ends_with_one_callback(self, job, recorder, monkeypatch):
        start(job, monkeypatch, "fail")
        job.wait()
        job.poll()
        job.cancel()
        job.poll()
        assert recorder.ends == 1

    def test_interpreter_that_is_not_there_is_a_sentence(self, recorder):
        job = EngineJob(recorder.callbacks, Engine("no-such-python", FAKE_ENGINE))
        with pytest.raises(RuntimeError, match="no-such-python"):
            job.start(REGISTER)
        assert not job.folder.exists()


class TestCancellation:
    def test_engine_that_listens_stops_by_itself(self, job, recorder, monkeypatch):
        start(job, monkeypatch, "work until cancelled")
        pid = poll_until_progress(job, recorder)
        job.cancel()
        job.wait()
        assert [failure.code for failure in recorder.failures] == [errors.CANCELLED]
        assert not is_running(pid)

    def test_engine_that_hangs_is_killed(self, job, recorder, monkeypatch):
        monkeypatch.setattr("DeepAttentionRegLib.engine.EngineJob.CANCEL_GRACE_S", 0.1)
        start(job, monkeypatch, "hang")
        pid = poll_until_progress(job, recorder)
        job.cancel()
        job.wait()
        assert [failure.code for failure in recorder.failures] == [errors.CANCELLED]
        assert not is_running(pid)

    def test_launcher_is_killed_with_what_it_launched(self, job, recorder, monkeypatch):
        monkeypatch.setattr("DeepAttentionRegLib.engine.EngineJob.CANCEL_GRACE_S", 0.1)
        start(job, monkeypatch, "launch")

        def both_spoke() -> bool:
            job.poll()
            return len(recorder.progress) == 2

        wait_until(both_spoke, "the launched process never spoke")
        job.cancel()
        job.wait()
        wait_until(
            lambda: not any(is_running(int(progress.message)) for progress in recorder.progress), "a process survived"
        )

    def test_immediate_cancellation_is_heard(self, job, recorder, monkeypatch):
        start(job, monkeypatch, "work until cancelled")
        job.cancel()
        job.wait()
        assert [failure.code for failure in recorder.failures] == [errors.CANCELLED]


class TestCleanUp:
    def test_folder_is_gone_after_the_end(self, job, recorder, monkeypatch):
        start(job, monkeypatch, "crash")
        job.wait()
        assert not job.folder.exists()

    def test_folder_is_there_during_the_last_callback(self, monkeypatch):
        seen = []
        job = EngineJob(Callbacks(onFailed=lambda _failure: seen.append(job.folder.exists())), ENGINE)
        start(job, monkeypatch, "fail")
        job.wait()
        assert seen == [True]

    def test_closing_ends_the_engine_and_silences_it(self, job, recorder, monkeypatch):
        start(job, monkeypatch, "hang")
        pid = poll_until_progress(job, recorder)
        job.close()
        job.poll()
        assert not is_running(pid)
        assert recorder.ends == 0
        assert not job.folder.exists()

    def test_callback_that_raises_leaves_nothing_behind(self, monkeypatch):
        def raise_error(_event: object) -> None:
            raise ZeroDivisionError

        job = EngineJob(Callbacks(onProgress=raise_error), ENGINE)
        start(job, monkeypatch, "hang")
        with pytest.raises(ZeroDivisionError):
            job.wait()
        assert not job.folder.exists()

    def test_temporary_folder_with_spaces_and_umlauts_works(self, recorder, monkeypatch, tmp_path):
        folder = tmp_path / "J\u00fcrgen M\u00fcller \u80ba"
        folder.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        job = EngineJob(recorder.callbacks, ENGINE)
        assert job.folder.parent == folder
        start(job, monkeypatch, "fail")
        job.wait()
        assert [failure.code for failure in recorder.failures] == [errors.NO_OVERLAP]


class FakeTimer:
    """What qt.QTimer does here, without an event loop."""

    def __init__(self) -> None:
        self.calls: list = []
        self.timeout = types.SimpleNamespace(connect=self.calls.append)
        self.running = False

    def setInterval(self, milliseconds: int) -> None:
        self.interval = milliseconds

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False


class TestInApplication:
    """With an application there is an event loop, a temporary folder and the environment Slicer was started in."""

    @pytest.fixture
    def application(self, monkeypatch, tmp_path):
        application = types.SimpleNamespace(temporaryPath=str(tmp_path), processEvents=lambda: None)
        monkeypatch.setattr(slicer, "app", application, raising=False)
        monkeypatch.setattr(slicer.util, "startupEnvironment", lambda: {**os.environ, "FAKE_ENGINE": "fail"})
        monkeypatch.setattr("DeepAttentionRegLib.engine.EngineJob.qt", types.SimpleNamespace(QTimer=FakeTimer))
        return application

    def test_timer_brings_the_news_and_stops_at_the_end(self, application, recorder):
        job = EngineJob(recorder.callbacks, ENGINE)
        job.start(REGISTER)
        timer = job._timer
        assert timer.running

        def fire() -> bool:
            for call in timer.calls:
                call()
            return bool(recorder.failures)

        wait_until(fire, "the timer brought nothing")
        assert not timer.running

    def test_job_works_in_the_folder_and_environment_of_the_application(self, application, recorder, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "hang")
        job = EngineJob(recorder.callbacks, ENGINE)
        assert str(job.folder.parent) == application.temporaryPath
        job.start(REGISTER)
        job.wait()
        assert [failure.code for failure in recorder.failures] == [errors.NO_OVERLAP]


@pytest.mark.slow
class TestOrphans:
    PARENT = textwrap.dedent(
        """
        import sys
        sys.path[:0] = {path!r}
        import mrml_scene
        from pathlib import Path
        from DeepAttentionRegEngine.protocol import contract
        from DeepAttentionRegLib.engine.Callbacks import Callbacks
        from DeepAttentionRegLib.engine.Engine import Engine
        from DeepAttentionRegLib.engine.EngineJob import EngineJob
        show = Callbacks(onProgress=lambda progress: print(progress.message, flush=True))
        job = EngineJob(show, Engine(sys.executable, Path({engine!r})))
        job.start(contract.RegisterJob(fixed="f", moving="m", output_transform="t"))
        job.wait()
        """
    )

    @pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")
    @pytest.mark.parametrize(("mode", "processes"), [("hang", 1), ("launch", 2)])
    def test_killed_parent_leaves_no_engine(self, mode, processes, tmp_path):
        path = [str(HERE), str(HERE.parents[2] / "DeepAttentionReg")]
        parent = subprocess.Popen(
            [sys.executable, "-c", self.PARENT.format(path=path, engine=str(FAKE_ENGINE))],
            env={**os.environ, "FAKE_ENGINE": mode, "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        pids = [int(parent.stdout.readline()) for _ in range(processes)]
        assert all(is_running(pid) for pid in pids)
        # Not waited for: the parent stays a zombie, whose process id still exists.
        parent.kill()
        wait_until(lambda: not any(is_running(pid) for pid in pids), "the engine outlived its parent")
        parent.communicate()
