"""The profile of a run tells of its stages, each with its time and its peak of memory."""

import cProfile
import mmap
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("resource", reason="Only Unix tells of the time and memory of a process")

import profile_run
import profile_stages
from DeepAttentionRegEngine.protocol.reporting import Reporter
from DeepAttentionRegEngine.volume import images

pytestmark = pytest.mark.torch

MEGABYTES = 200


class TestStages:
    def test_memory_of_a_stage_is_told_with_it_alone(self) -> None:
        stages = profile_stages.Stages()
        with profile_stages.watched(stages):
            with Reporter().stage("large", ""):
                # From the system itself: a process may have kept as much from what ran before.
                np.frombuffer(mmap.mmap(-1, MEGABYTES * 2**20), np.uint8)[:] = 1
            with Reporter().stage("small", ""):
                pass
        found = stages.finish()
        assert list(found) == ["start", "large", "between", "small", "end"]
        assert found["large"]["peak"] - found["small"]["peak"] > 0.9 * MEGABYTES * 2**20

    def test_work_within_a_stage_within_another_counts_once(self) -> None:
        stages, reporter = profile_stages.Stages(), Reporter()
        with profile_stages.watched(stages), reporter.stage("outer", ""), reporter.stage("inner", ""):
            sum(range(20_000_000))
        found = stages.finish()
        assert found["inner"]["user"] > found["outer"]["user"]
        # The outer one goes on when the inner one ends, so what the engine itself measures is the sum of both.
        assert found["outer"]["wall"] + found["inner"]["wall"] == pytest.approx(reporter.seconds["outer"], abs=0.5)

    def test_stage_that_fails_ends(self) -> None:
        stages = profile_stages.Stages()
        with profile_stages.watched(stages), pytest.raises(ValueError, match="no"), Reporter().stage("bad", ""):
            raise ValueError("no")
        assert list(stages.finish()) == ["start", "bad", "end"]

    def test_engine_is_watched_no_longer_than_asked(self) -> None:
        usual = Reporter.stage
        with profile_stages.watched(profile_stages.Stages()):
            assert Reporter.stage is not usual
        assert Reporter.stage is usual


def slow() -> None:
    for _number in range(3_000_000):
        pass


def test_slowest_function_comes_first() -> None:
    profile = cProfile.Profile(time.process_time)  # a busy machine may halt any function
    profile.runcall(lambda: (sorted(range(10)), slow()))
    assert "slow" in profile_stages.functions_of(profile, 1)[0]["function"]


class TestRun:
    ARGUMENTS = ("--size", "24x22x20", "--labels", "--method", "none", "--refinement-steps", "2", "--functions", "3")

    def test_table_has_the_stages_of_a_registration(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert profile_run.main(self.ARGUMENTS) == 0
        lines = capsys.readouterr().out.splitlines()
        stages = [line.split()[0] for line in lines[1 : lines.index("")]]
        assert {"start", "load", "align", "refine", "evaluate", "write", "end", "total"} <= set(stages)
        assert len(lines) == len(stages) + 6  # two lines of headings, an empty one, three functions

    def test_failure_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match=r"does not exist|missing|found"):
            profile_run.measure(["register", "nothing.nrrd", "nowhere.nrrd"], tmp_path)

    def test_drawn_pair_has_the_size_that_is_asked_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(profile_run, "DRAWN_VOXELS", 2000)
        files = profile_run.draw(tmp_path, (40, 36, 20))
        volume, labels = images.read_volume(files["fixed"]), images.read_labels(files["fixed_labels"])
        assert volume.geometry == labels.geometry
        assert volume.geometry.size == (40, 36, 20)
        assert volume.array.dtype == np.int16
        lung, spine = (volume.array[labels.array == value].mean() for value in (2, 6))
        assert lung < spine - 200
