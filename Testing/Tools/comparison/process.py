"""Processes that measure themselves, one at a time, and what they found kept until something changes."""

import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
MODULE = ROOT / "DeepAttentionReg"
CHILD = Path(__file__).with_name("child.py")
PEAK = "VmHWM:"
TIMEOUT_S = 1800

Numbers = dict[str, Any]


def peak_bytes() -> int:
    """Return the peak of this process' memory so far.

    On Linux the rusage of a process begins with the peak of the one that started it; its status does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith(PEAK))
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def digest_of_engine() -> str:
    """Return a hash of all that the engine's results depend on: its code, its methods and its weights."""
    found = hashlib.sha256()
    resources = MODULE / "Resources"
    files = [*(MODULE / "DeepAttentionRegEngine").rglob("*.py"), resources / "weights.json"]
    for file in sorted([*files, *(resources / "Methods").iterdir(), *(resources / "Models").iterdir()]):
        found.update(file.read_bytes())
    return found.hexdigest()[:16]


def run_child(spec: Numbers, threads: int) -> Numbers:
    """Return what child.py prints for a spec, and "process_seconds", from its start to its end.

    Raises:
        RuntimeError: If it failed or took too long; says how.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    surroundings = {**os.environ, **dict.fromkeys(names, str(threads)), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, str(CHILD), json.dumps(spec)]
    started = time.perf_counter()
    try:
        with TemporaryDirectory() as folder:  # elastix leaves files where it is called
            how = {"env": surroundings, "cwd": folder, "timeout": TIMEOUT_S}
            done = subprocess.run(command, capture_output=True, text=True, check=False, **how)
    except subprocess.TimeoutExpired as error:
        msg = f"it took more than {TIMEOUT_S} s"
        raise RuntimeError(msg) from error
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        last = (done.stderr.strip() or "without a word").splitlines()[-1]
        msg = f"it ended with code {done.returncode}: {last}"
        raise RuntimeError(msg)
    return {**json.loads(done.stdout.splitlines()[-1]), "process_seconds": seconds}


class Cache:
    """Keeps what children found in a folder, so that a run goes on where the last one ended.

    Attributes:
        folder: Where the files lie.
        threads: Of every child.
        fresh: Whether to measure anew what is there.
        failures: What could not be measured, by name, and why.
    """

    def __init__(self, folder: Path, threads: int, *, fresh: bool = False) -> None:
        self.folder, self.threads, self.fresh = folder, threads, fresh
        self.failures: dict[str, str] = {}
        self._engine = digest_of_engine()

    def get(self, name: str, spec: Numbers, *, engine: bool = True, **more: Any) -> Numbers | None:
        """Return what a child found for a spec, now or before; None if it fails.

        Args:
            name: Of the file, and for people.
            spec: For the child.
            engine: Whether what it finds depends on the engine.
            more: What else it depends on.
        """
        key = {"spec": spec, "threads": self.threads, **more, **({"engine": self._engine} if engine else {})}
        file = self.folder / f"{name}.json"
        known = json.loads(file.read_text(encoding="ascii")) if file.exists() and not self.fresh else {}
        if known.get("key") == key:
            return known["numbers"]
        sys.stderr.write(f"{name}\n")
        try:
            numbers = run_child(spec, self.threads)
        except RuntimeError as error:
            self.failures[name] = str(error)
            sys.stderr.write(f"  {error}\n")
            return None
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"key": key, "numbers": numbers}, indent=1), encoding="ascii")
        return numbers
