"""Jobs of the stand-in engine that tests share: how they start, whom they tell, how their end is waited for."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from DeepAttentionRegEngine.protocol import contract
from DeepAttentionRegLib.engine.Callbacks import Callbacks
from DeepAttentionRegLib.engine.EngineJob import EngineJob
from mrml_cases import TIMEOUT_S

REGISTER = contract.RegisterJob(fixed="fixed.nrrd", moving="moving.nrrd", output_transform="transform.nrrd")


class JobRecorder:
    """Collects what a job calls back."""

    def __init__(self) -> None:
        self.progress: list[contract.Progress] = []
        self.results: list[contract.Result] = []
        self.failures: list[contract.Failure] = []
        self.callbacks = Callbacks(self.progress.append, self.results.append, self.failures.append)

    @property
    def ends(self) -> int:
        return len(self.results) + len(self.failures)


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


def wait_until(condition: Callable[[], object], message: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.02)


def poll_until_progress(job: EngineJob, recorder: JobRecorder) -> int:
    """Wait for the engine's first word and return its process id."""

    def has_spoken() -> bool:
        job.poll()
        return bool(recorder.progress)

    wait_until(has_spoken, "the engine never spoke")
    return int(recorder.progress[0].message)


def wait_for_end(job: EngineJob) -> None:
    """Poll until the end was reported."""

    def has_ended() -> bool:
        job.poll()
        return job.isClosed

    wait_until(has_ended, "the job never ended")
