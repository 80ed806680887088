"""The end of an engine that nobody needs any more, in real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from DeepAttentionRegEngine import watchdog

MODULE = Path(watchdog.__file__).resolve().parents[1]
TIMEOUT_S = 20
WAITER = """
import sys, time
sys.path.insert(0, {module!r})
from DeepAttentionRegEngine import watchdog
watchdog.POLL_S, watchdog.GRACE_S = 0.05, {grace}
watchdog.watch({parent}, {cancel_file!r})
time.sleep({seconds})
"""


def start_waiter(parent: int, cancel_file: str | None = None, grace: float = 600, seconds: float = 600):
    """Start a process that watches and then waits, to end with code 0."""
    code = WAITER.format(module=str(MODULE), parent=parent, cancel_file=cancel_file, grace=grace, seconds=seconds)
    return subprocess.Popen([sys.executable, "-c", code])


class TestWatch:
    def test_process_ends_when_its_parent_is_gone(self):
        gone = subprocess.Popen([sys.executable, "-c", "pass"])
        gone.wait()
        assert start_waiter(gone.pid).wait(TIMEOUT_S) == watchdog.EXIT_CODE

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no zombies")
    def test_parent_that_nobody_waited_for_is_gone_too(self):
        zombie = subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE)
        zombie.stdout.read()  # returns at its end
        assert start_waiter(zombie.pid).wait(TIMEOUT_S) == watchdog.EXIT_CODE
        zombie.communicate()

    def test_process_with_a_living_parent_goes_on(self):
        assert start_waiter(os.getpid(), seconds=0.5).wait(TIMEOUT_S) == 0

    def test_process_that_ignores_its_cancellation_ends_after_a_while(self, tmp_path):
        (tmp_path / "cancel").touch()
        waiter = start_waiter(os.getpid(), str(tmp_path / "cancel"), grace=0.2)
        assert waiter.wait(TIMEOUT_S) == watchdog.EXIT_CODE

    def test_process_has_time_to_heed_its_cancellation(self, tmp_path):
        (tmp_path / "cancel").touch()
        assert start_waiter(os.getpid(), str(tmp_path / "cancel"), seconds=0.5).wait(TIMEOUT_S) == 0


class TestCancellation:
    def test_file_is_the_request(self, tmp_path):
        cancellation = watchdog.Cancellation(str(tmp_path / "cancel"))
        assert not cancellation.requested()
        (tmp_path / "cancel").touch()
        assert cancellation.requested()

    def test_without_file_nothing_is_requested(self):
        assert not watchdog.Cancellation(None).requested()
