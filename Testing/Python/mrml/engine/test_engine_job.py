"""The engine as a child process, played by a stand-in: events, crashes, orphans, clean-up."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import weakref
from pathlib import Path

import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_scene  # noqa: F401  (provides slicer.i18n)
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegLib.engine import EngineJob as EngineJobModule
from DeepAttentionRegLib.engine import Folders
from DeepAttentionRegLib.engine.Callbacks import Callbacks
from DeepAttentionRegLib.engine.Engine import Engine
from DeepAttentionRegLib.engine.EngineJob import EngineJob
from job_cases import REGISTER, JobRecorder, is_running, poll_until_progress, start, wait_until
from mrml_cases import ENGINE, TIMEOUT_S, is_let_go

pytestmark = pytest.mark.mrml

HERE = Path(__file__).resolve().parents[2] / "support"
OWNER = """
import sys, time
sys.path.insert(0, {module!r})
from DeepAttentionRegEngine.protocol.owned_folders import OwnedFolder
from DeepAttentionRegEngine.protocol.watchdog import FOLDER_PREFIX
folder = OwnedFolder({parent!r}, FOLDER_PREFIX)
(folder.path / "fixed.nrrd").write_bytes(b"patient")
print(folder.path, flush=True)
time.sleep(600)
"""


def left_by_the_killed(parent: Path) -> Path:
    """Return a folder whose owner was killed."""
    code = OWNER.format(module=str(HERE.parents[2] / "DeepAttentionReg"), parent=str(parent))
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    folder = Path(owner.stdout.readline().strip())
    owner.kill()
    owner.communicate(timeout=TIMEOUT_S)
    assert (folder / "fixed.nrrd").exists()
    return folder


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

    def test_last_words_tell_no_folders(self, job):
        job._handle("Traceback: /srv/Smith/ct.nrrd\n", None)
        assert job.log == "Traceback: ct.nrrd"

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
        job = EngineJob(recorder.callbacks, Engine("no-such-python", ENGINE.script))
        with pytest.raises(RuntimeError, match="no-such-python"):
            job.start(REGISTER)
        assert not job.folder.exists()


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

    def test_folder_is_for_this_user_alone(self, job):
        assert stat.S_IMODE(job.folder.stat().st_mode) == 0o700

    def test_folders_of_the_gone_go_and_those_of_the_living_stay(self, job, recorder):
        gone = left_by_the_killed(job.folder.parent)
        EngineJob(recorder.callbacks, ENGINE).close()
        assert not gone.exists()
        assert job.folder.exists()

    def test_folders_of_the_gone_go_when_slicer_starts(self, job):
        gone = left_by_the_killed(job.folder.parent)
        Folders.removeLeft()
        assert not gone.exists()
        assert job.folder.exists()

    def test_folder_goes_with_a_job_that_nobody_closed(self, recorder):
        job = EngineJob(recorder.callbacks, ENGINE)
        folder = job.folder
        del job
        assert not folder.exists()

    def test_temporary_files_of_the_engine_go_with_the_folder(self, job):
        environment = EngineJobModule._environment(job.folder)
        assert {environment[name] for name in ("TMPDIR", "TEMP", "TMP")} == {str(job.folder)}

    def test_temporary_folder_with_spaces_and_umlauts_works(self, recorder, monkeypatch, tmp_path):
        folder = tmp_path / "J\u00fcrgen M\u00fcller \u80ba"
        folder.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        job = EngineJob(recorder.callbacks, ENGINE)
        assert job.folder.parent == folder
        start(job, monkeypatch, "fail")
        job.wait()
        assert [failure.code for failure in recorder.failures] == [errors.NO_OVERLAP]


class TestInApplication:
    """With an application there is an event loop, a temporary folder and the environment Slicer was started in."""

    def test_timer_brings_the_news_and_stops_at_the_end(self, event_loop, recorder, monkeypatch):
        job = EngineJob(recorder.callbacks, ENGINE)
        start(job, monkeypatch, "fail")

        def fire() -> bool:
            event_loop.processEvents()
            return bool(recorder.failures)

        wait_until(fire, "the timer brought nothing")
        assert event_loop.is_idle

    def test_job_works_in_the_folder_and_environment_of_the_application(self, event_loop, recorder, monkeypatch):
        monkeypatch.setenv("FAKE_ENGINE", "hang")
        monkeypatch.setattr(slicer.util, "startupEnvironment", lambda: {**os.environ, "FAKE_ENGINE": "fail"})
        job = EngineJob(recorder.callbacks, ENGINE)
        assert str(job.folder.parent) == event_loop.temporaryPath
        job.start(REGISTER)
        job.wait()
        assert [failure.code for failure in recorder.failures] == [errors.NO_OVERLAP]

    @pytest.mark.parametrize(("mode", "end"), [("fail", EngineJob.wait), ("hang", EngineJob.close)])
    def test_job_that_ended_is_let_go_with_those_it_told(self, event_loop, monkeypatch, mode, end):
        class Listener:
            def hear(self, _event: object) -> None:
                """Be told."""

        listener = Listener()
        listener.job = job = EngineJob(Callbacks(*[listener.hear] * 3), ENGINE)
        start(job, monkeypatch, mode)
        end(job)
        event_loop.processEvents()
        references = [weakref.ref(listener), weakref.ref(job)]
        del listener, job
        assert is_let_go(references)

    def test_job_that_is_still_held_holds_nobody(self, event_loop, monkeypatch):
        listener = JobRecorder()
        job = EngineJob(listener.callbacks, ENGINE)
        start(job, monkeypatch, "fail")
        job.wait()
        reference = weakref.ref(listener.callbacks)
        del listener
        assert is_let_go([reference])


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
            [sys.executable, "-c", self.PARENT.format(path=path, engine=str(ENGINE.script))],
            env={**os.environ, "FAKE_ENGINE": mode, "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        pids = [int(parent.stdout.readline()) for _ in range(processes)]
        assert all(is_running(pid) for pid in pids)
        # Not waited for: the parent stays a zombie, whose process id still exists.
        parent.kill()
        wait_until(lambda: not any(is_running(pid) for pid in pids), "the engine outlived its parent")
        assert not list(tmp_path.iterdir())
        parent.communicate()
