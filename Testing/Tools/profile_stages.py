"""Run the command line in this process and write what each of its stages took (profile_run.py).

    python Testing/Tools/profile_stages.py REPORT.json 0 register FIXED MOVING --output-warped warped.nrrd

Work belongs to the innermost stage that the engine has announced; what lies before, between and after them is
"start" (imports), "between" and "end". The number before the command line is that of the functions to list.
"""

import cProfile
import json
import pstats
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "DeepAttentionReg"))

from DeepAttentionRegEngine import cli
from DeepAttentionRegEngine.protocol.reporting import Reporter

STATUS, PAGES, RESET = Path("/proc/self/status"), Path("/proc/self/statm"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # what to write there, see proc(5)
SAMPLE_S = 0.01
START, BETWEEN, END = "start", "between", "end"

Numbers = dict[str, float]


class PeakMemory:
    """The peak of the memory in bytes since it was asked for last.

    As the kernel counts it where it can be told to begin anew, else sampled by a thread, else, where nothing tells how
    much is used now, the peak of the whole process.
    """

    def __init__(self) -> None:
        self._sampled = 0.0
        self._is_counted = self._begin()
        if not self._is_counted and PAGES.exists():
            threading.Thread(target=self._sample, daemon=True).start()

    def take(self) -> float:
        """Return the peak and begin anew."""
        if self._is_counted:
            peak = 1024.0 * next(int(line.split()[1]) for line in STATUS.open() if line.startswith("VmHWM"))
            self._begin()
        elif PAGES.exists():
            peak, self._sampled = max(self._sampled, self._now()), 0.0
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)
        return peak

    @staticmethod
    def _begin() -> bool:
        try:
            RESET.write_text(RESET_PEAK)
        except OSError:
            return False
        return True

    @staticmethod
    def _now() -> float:
        return float(PAGES.read_text().split()[1]) * resource.getpagesize()

    def _sample(self) -> None:
        while True:
            self._sampled = max(self._sampled, self._now())
            time.sleep(SAMPLE_S)


class Stages:
    """Seconds and peak memory by stage, in the order in which they began."""

    def __init__(self) -> None:
        self.found: dict[str, Numbers] = {}
        self._open = [START]
        self._memory = PeakMemory()
        self._last = _clocks()

    def begin(self, name: str) -> None:
        """Begin a stage, maybe within another."""
        self._close()
        self._open.append(name)

    def end(self) -> None:
        """End the innermost stage."""
        self._close()
        self._open.pop()
        self._open[0] = BETWEEN

    def finish(self) -> dict[str, Numbers]:
        """Return what was found, all of it."""
        self._open[0] = END
        self._close()
        return self.found

    def _close(self) -> None:
        now, peak = _clocks(), self._memory.take()
        stage = self.found.setdefault(self._open[-1], dict.fromkeys((*now, "peak"), 0.0))
        for name, value in now.items():
            stage[name] += value - self._last[name]
        stage["peak"] = max(stage["peak"], peak)
        self._last = now


def _clocks() -> Numbers:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"wall": time.perf_counter(), "user": used.ru_utime, "system": used.ru_stime}


@contextmanager
def watched(stages: Stages) -> Iterator[None]:
    """Note when the engine begins and ends a stage."""
    usual = Reporter.stage

    @contextmanager
    def stage(self: Reporter, name: str, *rest: Any, **options: Any) -> Iterator[None]:
        stages.begin(name)
        try:
            with usual(self, name, *rest, **options):
                yield
        finally:
            stages.end()

    Reporter.stage = stage  # type: ignore[method-assign]
    try:
        yield
    finally:
        Reporter.stage = usual  # type: ignore[method-assign]


def functions_of(profile: cProfile.Profile, count: int) -> list[dict[str, Any]]:
    """Return the functions in which most seconds were spent, without those that they called."""
    found = []
    for (file, line, name), (_, calls, own, total, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        place = f"{Path(file).parent.name}/{Path(file).name}:{line} {name}" if line else name
        found.append({"function": place, "calls": calls, "own": own, "total": total})
    return sorted(found, key=lambda row: -row["own"])[:count]


def main(arguments: list[str]) -> int:
    """Run the command line and write the report; return its exit code."""
    report, count, *command = arguments
    stages, profile = Stages(), cProfile.Profile()
    with watched(stages):
        code = profile.runcall(cli.main, command) if int(count) else cli.main(command)
    found = {"stages": stages.finish(), "functions": functions_of(profile, int(count)) if int(count) else []}
    Path(report).write_text(json.dumps(found))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
