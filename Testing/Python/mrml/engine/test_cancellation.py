"""A job is canceled whatever has become of its folder, its engine or the disk, and says so once."""

import errno
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_scene  # noqa: F401  (provides slicer.i18n)
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegLib.engine import Interpreter
from DeepAttentionRegLib.engine.EngineJob import EngineJob
from job_cases import REGISTER, is_running, poll_until_progress, start, wait_for_end, wait_until
from mrml_cases import ENGINE, TIMEOUT_S

pytestmark = pytest.mark.mrml


def lose(folder: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a folder away, or let nothing more be written."""

    def refuse(_path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if how == "gone":
        shutil.rmtree(folder)
    else:
        monkeypatch.setattr(Path, "touch", refuse)


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

    @pytest.mark.parametrize("loss", ["full", "gone"])
    def test_engine_that_cannot_be_asked_is_killed_at_once(self, job, recorder, monkeypatch, loss):
        monkeypatch.setattr("DeepAttentionRegLib.engine.EngineJob.CANCEL_GRACE_S", 10 * TIMEOUT_S)
        start(job, monkeypatch, "hang")
        pid = poll_until_progress(job, recorder)
        lose(job.folder, loss, monkeypatch)
        job.cancel()
        wait_for_end(job)
        assert [failure.code for failure in recorder.failures] == [errors.CANCELLED]
        assert not is_running(pid)

    def test_second_request_leaves_the_time_to_stop_as_it_was(self, job, recorder, monkeypatch):
        monkeypatch.setattr("DeepAttentionRegLib.engine.EngineJob.CANCEL_GRACE_S", 0.5)
        start(job, monkeypatch, "hang")
        poll_until_progress(job, recorder)

        def has_ended() -> bool:
            job.cancel()
            job.poll()
            return job.isClosed

        wait_until(has_ended, "the engine was never killed")
        assert [failure.code for failure in recorder.failures] == [errors.CANCELLED]

    def test_engine_that_has_died_meanwhile_is_canceled(self, job, recorder, monkeypatch):
        start(job, monkeypatch, "hang")
        os.kill(poll_until_progress(job, recorder), signal.SIGKILL)
        job._process.wait(TIMEOUT_S)
        job.cancel()
        wait_for_end(job)
        assert [failure.code for failure in recorder.failures] == [errors.CANCELLED]

    def test_job_that_does_not_run_has_nothing_to_cancel(self, job, recorder, monkeypatch):
        job.cancel()
        job.finish()
        job.poll()
        start(job, monkeypatch, "hang")
        job.close()
        job.cancel()
        job.finish()
        assert recorder.ends == 0
        assert not job.folder.exists()

    def test_engine_that_may_not_be_killed_is_waited_for_no_longer(self, job, recorder, monkeypatch):
        def refuse(_group: int, _signal: int) -> None:
            raise PermissionError

        for name in ("CANCEL_GRACE_S", "KILL_WAIT_S"):
            monkeypatch.setattr(f"DeepAttentionRegLib.engine.EngineJob.{name}", 0.1)
        start(job, monkeypatch, "hang")
        pid = poll_until_progress(job, recorder)
        with monkeypatch.context() as patch:
            patch.setattr(os, "killpg", refuse)
            job.cancel()
            wait_for_end(job)
        assert [failure.code for failure in recorder.failures] == [errors.CANCELLED]
        os.kill(pid, signal.SIGKILL)

    def test_wish_to_end_early_that_cannot_be_written_is_a_sentence(self, job, recorder, monkeypatch):
        start(job, monkeypatch, "hang")
        poll_until_progress(job, recorder)
        lose(job.folder, "full", monkeypatch)
        with pytest.raises(RuntimeError, match=r"could not be asked to end early \(No space left on device\)\. Let it"):
            job.finish()
        assert job.isRunning

    def test_immediate_cancellation_is_heard(self, job, recorder, monkeypatch):
        start(job, monkeypatch, "work until cancelled")
        job.cancel()
        job.wait()
        assert [failure.code for failure in recorder.failures] == [errors.CANCELLED]


class TestTemporaryFolder:
    """Where it is full or gone, that is told in a sentence."""

    @pytest.fixture(autouse=True)
    def nowhere(self, monkeypatch, tmp_path):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))

    def test_job_is_not_made_without(self):
        with pytest.raises(RuntimeError, match=r"temporary folder \(No such file.*\); free some space there"):
            EngineJob()

    def test_interpreter_is_not_checked_without(self):
        answers = []
        Interpreter.Check(answers.append, ENGINE).start()
        assert "free some space" in answers[0].problem

    def test_job_that_cannot_be_written_is_closed(self, monkeypatch, tmp_path):
        def refuse(*_arguments: object, **_options: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        (tmp_path / "gone").mkdir()
        job = EngineJob(engine=ENGINE)
        monkeypatch.setattr(Path, "write_text", refuse)
        with pytest.raises(RuntimeError, match=r"temporary folder \(No space left on device\); free"):
            job.start(REGISTER)
        assert not job.folder.exists()
