"""Runs the command line in processes with limited memory that are all alike at first; prints a JSON line for each run.

    python limited_runs.py JOBS.json

JOBS.json holds a list of `[share, arguments]`: the share, of what the first run took, that a run may take; null for no
limit. Every line has the exit code and the events of a run.
"""

import contextlib
import io
import json
import multiprocessing
import re
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "DeepAttentionReg"))

from DeepAttentionRegEngine import cli, jobs

LOADED = (
    jobs,
    torch.optim.Adam([torch.zeros(1, requires_grad=True)]),
)  # an optimizer loads much of torch at its first use
cli.keep_freed_memory = lambda: False  # so that the addresses that are taken are those of what is held


def size_of(name: str) -> int:
    """Return a size in bytes that the system tells of this process."""
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text("ascii")).group(1))


def run(arguments: list[str], allowed: int | None) -> dict[str, Any]:
    """Run the command line with so many bytes, and return how it ended and how many it took."""
    told, begin = io.StringIO(), size_of("VmSize")
    if allowed is not None:
        resource.setrlimit(resource.RLIMIT_AS, (begin + allowed, begin + allowed))
    with contextlib.redirect_stdout(told):
        sys.argv = ["deepattentionreg", *arguments, "--json"]
        code = cli.main()
    return {"code": code, "events": told.getvalue().splitlines(), "taken": size_of("VmPeak") - begin}


def main() -> None:
    taken = 0
    for share, arguments in json.loads(Path(sys.argv[1]).read_text("ascii")):
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as one:
            outcome = one.submit(run, arguments, None if share is None else int(share * taken)).result()
        taken = taken or outcome["taken"]
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
