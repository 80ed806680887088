"""Ends the engine when nobody waits for it any more, and tells it when to stop. Standard library only."""

import contextlib
import os
import sys
import threading
import time
from pathlib import Path

from .owned_folders import remove_left

FOLDER_PREFIX = "DeepAttentionReg-"  # of the folders in which an application has its jobs run
POLL_S = 0.5
GRACE_S = 30.0  # longer than the engine's longest stretch without a look at the cancel file
EXIT_CODE = 3


class Wish:
    """Whether someone has asked a running job for something, by creating a file."""

    def __init__(self, file: str | None) -> None:
        """Poll this file; None asks for nothing."""
        self._file = file or None

    def made(self) -> bool:
        """Return whether the file exists."""
        return self._file is not None and os.path.exists(self._file)


def watch(parent_pid: int, cancel_file: str | None = None) -> threading.Thread:
    """End this process, from a daemon thread, once nobody needs it.

    That is when the process `parent_pid` or whoever started this one is gone, or when the cancel file has been there
    for `GRACE_S` seconds and the computation has still not stopped by itself. Until all are there, outputs lie in
    private folders (outputs.py), which the next start of the engine removes; the folder of the job goes if the
    application that owns it is gone.

    Args:
        parent_pid: Process id of the application that waits for the result.
        cancel_file: The job's cancel file.

    Returns:
        The running thread.
    """
    parent = _Process(parent_pid)  # here and not in the thread: whoever started this one may end any moment
    thread = threading.Thread(target=_watch, args=(parent, cancel_file), name="watchdog", daemon=True)
    thread.start()
    return thread


def _watch(parent: "_Process", cancel_file: str | None) -> None:
    cancellation = Wish(cancel_file)
    stop_at = None
    while parent.is_alive():
        if stop_at is None and cancellation.made():
            stop_at = time.monotonic() + GRACE_S
        if stop_at is not None and time.monotonic() > stop_at:
            break
        time.sleep(POLL_S)
    with contextlib.suppress(OSError):  # there is no such folder any more
        remove_left(Path.cwd().parent, FOLDER_PREFIX)
    os._exit(EXIT_CODE)


if sys.platform == "win32":
    import ctypes

    SYNCHRONIZE = 0x00100000
    ERROR_INVALID_PARAMETER = 87  # no process has this id
    WAIT_OBJECT_0 = 0

    class _Process:
        """The parent by its handle, which stays valid, and its own, after the process has ended."""

        def __init__(self, pid: int) -> None:
            self._kernel = ctypes.WinDLL("kernel32", use_last_error=True)
            self._kernel.OpenProcess.argtypes = (ctypes.c_uint32, ctypes.c_int, ctypes.c_uint32)
            self._kernel.OpenProcess.restype = ctypes.c_void_p
            self._kernel.WaitForSingleObject.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
            self._kernel.WaitForSingleObject.restype = ctypes.c_uint32
            self._handle = self._kernel.OpenProcess(SYNCHRONIZE, 0, pid)
            self._unknown = not self._handle and ctypes.get_last_error() == ERROR_INVALID_PARAMETER

        def is_alive(self) -> bool:
            """Return whether the process runs; one that may not be watched (other user) counts as running."""
            if not self._handle:
                return not self._unknown
            return bool(self._kernel.WaitForSingleObject(self._handle, 0) != WAIT_OBJECT_0)

else:

    class _Process:
        """The parent by its process id, along with the process that started this one (a launcher may be between)."""

        def __init__(self, pid: int) -> None:
            self._pid = pid
            self._starter = os.getppid()

        def is_alive(self) -> bool:
            """Return whether both run; a process that ended but was not waited for (zombie) does not."""
            if os.getppid() != self._starter:
                return False
            try:
                os.kill(self._pid, 0)
            except ProcessLookupError:
                return False
            except PermissionError:
                return True
            return not self._is_zombie()

        def _is_zombie(self) -> bool:
            try:
                status = Path(f"/proc/{self._pid}/stat").read_text(encoding="utf-8", errors="replace")
            except OSError:  # macOS has no /proc, but there the changed starter tells
                return False
            # The state follows the program's name, which is in parentheses and may contain spaces.
            return status.rpartition(")")[2].split()[:1] == ["Z"]
