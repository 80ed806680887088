"""How much memory this process can still take, where the system ends what takes more without a word (Linux).

Standard library only.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/")
# Of control groups, version 2 and 1: where they lie, the limit, what is used, and what of it can be had at once.
GROUPS = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory(root: Path = ROOT) -> float | None:
    """Return how many bytes this process can still take; None where the system does not say.

    Args:
        root: Of the file system.
    """
    with suppress(OSError, ValueError, KeyError):
        told = _numbers(root / "proc/meminfo")
        everyone = 1024.0 * (told["MemAvailable:"] + told["SwapFree:"])
        return max(min(everyone, *_left_in_groups(root)), 0.0)
    return None


def held_memory(root: Path = ROOT) -> float:
    """Return how many bytes this process has taken; 0 where the system does not say."""
    with suppress(OSError, ValueError, KeyError):
        return 1024.0 * _numbers(root / "proc/self/status")["VmRSS:"]
    return 0.0


def _numbers(file: Path) -> dict[str, int]:
    """Return the numbers of a file that has a name and a number in a line."""
    lines = (line.split() for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}


def _left_in_groups(root: Path) -> Iterator[float]:
    """Yield what the control groups around this process, each within the next, still allow."""
    yield float("inf")
    lines: list[str] = []
    with suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    paths = {
        controllers: path for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") > 1)
    }
    for controllers, limit, used, idle in GROUPS:
        top = root / "sys/fs/cgroup" / controllers
        innermost = top / paths.get(controllers, "/").lstrip("/")
        for group in (innermost, *innermost.parents):
            if group.is_relative_to(top):
                yield from _left(group, limit, used, idle)


def _left(group: Path, limit: str, used: str, idle: str) -> Iterator[float]:
    """Yield what one group still allows, if it has a limit; a container does not see those around its own."""
    with suppress(OSError, ValueError):  # the limit "max" is none
        most, taken = (int((group / name).read_text(encoding="ascii")) for name in (limit, used))
        yield float(most - taken + _numbers(group / "memory.stat").get(idle, 0))
