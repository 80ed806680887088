"""Memory that was freed is reused, in a process of its own because the setting cannot be taken back."""

import subprocess
import sys
from pathlib import Path

import pytest

from DeepAttentionRegEngine.deform import allocator

MODULE = Path(allocator.__file__).resolve().parents[2]
SCRIPT = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from DeepAttentionRegEngine.deform.allocator import keep_freed_memory
if sys.argv[2] == "keep":
    assert keep_freed_memory()
for _ in range(20):
    bytearray(64 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def page_faults(mode: str) -> int:
    """Return how many pages a process got from the kernel for twenty times the same 64 MiB."""
    command = [sys.executable, "-c", SCRIPT, str(MODULE), mode]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_pages_are_asked_for_once() -> None:
    assert page_faults("keep") < 0.5 * page_faults("give back")
