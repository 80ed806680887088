"""The watchdog ends a process that nobody needs any more, and no other."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from DeepAttentionRegEngine.protocol import watchdog
from DeepAttentionRegEngine.protocol.watchdog import Wish

MODULE = Path(watchdog.__file__).resolve().parents[2]
TIMEOUT_S = 20.0
# Says that it is being watched and sleeps; its watchdog is as quick as a test should be.
WATCHED = """
import os, sys, time
sys.path.insert(0, {module!r})
from DeepAttentionRegEngine.protocol import watchdog
watchdog.POLL_S, watchdog.GRACE_S = 0.02, 1.0
watchdog.watch({parent}, {cancel!r})
print("watching", os.getpid(), flush=True)
time.sleep({seconds})
"""


def watched(parent: int, *, cancel: str | None = None, seconds: float = 60.0) -> subprocess.Popen[str]:
    """Start a process that is watched."""
    code = WATCHED.format(module=str(MODULE), parent=parent, cancel=cancel, seconds=seconds)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()  # nothing comes where the watchdog has ended the process already
    return process


def ended_process() -> subprocess.Popen[bytes]:
    """Return a process that has ended, and has been waited for."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(timeout=TIMEOUT_S)
    return process


def exit_code(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=TIMEOUT_S)
    return process.returncode


class TestRequest:
    def test_without_a_file_nobody_asks_to_stop(self) -> None:
        assert not Wish(None).made()

    def test_file_asks_to_stop(self, tmp_path: Path) -> None:
        cancellation = Wish(str(tmp_path / "cancel"))
        before = cancellation.made()
        (tmp_path / "cancel").touch()
        assert (before, cancellation.made()) == (False, True)

    def test_folder_that_is_gone_does_not_ask_to_stop(self, tmp_path: Path) -> None:
        assert not Wish(str(tmp_path / "gone" / "cancel")).made()


class TestWatch:
    def test_process_goes_on_while_its_parent_lives(self) -> None:
        assert exit_code(watched(os.getpid(), seconds=0.5)) == 0

    def test_process_ends_when_its_parent_has_ended(self) -> None:
        assert exit_code(watched(ended_process().pid)) == watchdog.EXIT_CODE

    def test_process_ends_soon_after_its_parent(self) -> None:
        parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        process = watched(parent.pid)
        running = process.poll() is None
        parent.communicate(b"\n", timeout=TIMEOUT_S)
        started = time.monotonic()
        assert (running, exit_code(process)) == (True, watchdog.EXIT_CODE)
        assert time.monotonic() - started < 5

    @pytest.mark.skipif(not Path("/proc").is_dir(), reason="only Linux shows processes nobody has waited for")
    def test_parent_that_nobody_waited_for_has_ended_too(self) -> None:
        parent = subprocess.Popen([sys.executable, "-c", ""])
        process = watched(parent.pid)
        code = exit_code(process)
        parent.wait(timeout=TIMEOUT_S)
        assert code == watchdog.EXIT_CODE

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows does not hand orphans to another parent")
    def test_process_ends_when_whoever_started_it_has_ended(self) -> None:
        # The process to wait for is this one, which lives; the launcher between them ends.
        code = WATCHED.format(module=str(MODULE), parent=os.getpid(), cancel=None, seconds=60.0)
        launcher = textwrap.dedent(f"""
            import subprocess, sys
            child = subprocess.Popen([sys.executable, "-c", {code!r}], stdout=subprocess.PIPE, text=True)
            print(child.stdout.readline(), flush=True)
        """)
        done = subprocess.run([sys.executable, "-c", launcher], capture_output=True, text=True, timeout=TIMEOUT_S)
        orphan = int(done.stdout.split()[1])
        deadline = time.monotonic() + TIMEOUT_S
        while is_running(orphan) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not is_running(orphan)

    def test_cancelled_process_that_does_not_listen_is_ended(self, tmp_path: Path) -> None:
        (tmp_path / "cancel").touch()
        assert exit_code(watched(os.getpid(), cancel=str(tmp_path / "cancel"))) == watchdog.EXIT_CODE

    def test_cancelled_process_has_time_to_end_by_itself(self, tmp_path: Path) -> None:
        (tmp_path / "cancel").touch()
        assert exit_code(watched(os.getpid(), cancel=str(tmp_path / "cancel"), seconds=0.05)) == 0

    def test_exit_code_is_that_of_a_cancelled_job(self) -> None:
        from DeepAttentionRegEngine import cli

        assert watchdog.EXIT_CODE == cli.EXIT_CANCELLED


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that ended and was not waited for does not."""
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8") if Path("/proc").is_dir() else ") R"
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
