"""A job of the stand-in engine, and what it says."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from DeepAttentionRegLib.engine.EngineJob import EngineJob
    from job_cases import JobRecorder


@pytest.fixture
def recorder() -> "JobRecorder":
    """Collects what the job calls back."""
    from job_cases import JobRecorder

    return JobRecorder()


@pytest.fixture
def job(recorder: "JobRecorder") -> "Iterator[EngineJob]":
    """A job that is not started yet."""
    from DeepAttentionRegLib.engine.EngineJob import EngineJob
    from mrml_cases import ENGINE

    job = EngineJob(recorder.callbacks, ENGINE)
    yield job
    job.close()
