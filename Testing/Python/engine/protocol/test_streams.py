"""Standard streams that are closed, full, left early or of another encoding: files and exit code are as ever."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from DeepAttentionRegEngine import cli

MODULE = Path(cli.__file__).resolve().parents[1]
TIMEOUT_S = 60.0
CONTENT = b"deformation"
# The command line with an engine that needs no PyTorch: it writes one file, tells much, and prints as libraries do.
ENGINE = """
import os, sys, types
sys.path.insert(0, {module!r})
from DeepAttentionRegEngine import cli
from DeepAttentionRegEngine.protocol.contract import Result
from DeepAttentionRegEngine.protocol.errors import EngineError

def run(job, reporter, read=()):
    with open(job.output, "wb", buffering=0) as file:
        for number in range(200):
            reporter.step("load", number, 200, "\\u4e2d\\udce4 " * 20)
        try:
            os.write(1, b"noise of a library")
        except OSError:
            pass
        file.write({content!r})
    if "fail" in job.output:
        raise EngineError("internal", "It failed \\u4e2d.", "")
    return Result({{"map": job.output}}, {{"name": "\\u4e2d\\udce4"}}, ["\\u4e2d"])

engine = types.ModuleType("DeepAttentionRegEngine.jobs")
engine.run = run
sys.modules["DeepAttentionRegEngine.jobs"] = engine
import DeepAttentionRegEngine
DeepAttentionRegEngine.jobs = engine
sys.exit(cli.main(sys.argv[1:]))
"""

posix = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")


def closed(*numbers: int) -> Callable[[], None]:
    """Return what closes streams in a child before it starts."""

    def close() -> None:
        for number in numbers:
            os.close(number)

    return close


def command(output: Path, *options: str) -> list[str]:
    code = ENGINE.format(module=str(MODULE), content=CONTENT)
    return [sys.executable, "-c", code, "jacobian", "t.nrrd", str(output), *options]


@pytest.mark.parametrize(("name", "code"), [("map.nrrd", 0), ("fail.nrrd", 1)])
@pytest.mark.parametrize("options", [(), ("--json",)], ids=["people", "programs"])
class TestVerdict:
    @staticmethod
    def outcome(tmp_path: Path, name: str, options: tuple[str, ...], **streams: Any) -> tuple[int, bytes]:
        """Return the exit code of a job and the file that it has written."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        process = subprocess.Popen(command(tmp_path / name, *options), **streams)
        process.communicate(timeout=TIMEOUT_S)
        return process.returncode, (tmp_path / name).read_bytes()

    @posix
    def test_full_streams(self, tmp_path: Path, name: str, options: tuple[str, ...], code: int) -> None:
        with open("/dev/full", "wb") as full:
            assert self.outcome(tmp_path, name, options, stdout=full, stderr=full) == (code, CONTENT)

    @posix
    @pytest.mark.parametrize("numbers", [(1,), (0, 1, 2)])
    def test_closed_stream(
        self, tmp_path: Path, name: str, options: tuple[str, ...], code: int, numbers: tuple[int, ...]
    ) -> None:
        assert self.outcome(tmp_path, name, options, preexec_fn=closed(*numbers)) == (code, CONTENT)

    def test_streams_of_another_encoding(self, tmp_path: Path, name: str, options: tuple[str, ...], code: int) -> None:
        environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
        assert self.outcome(tmp_path, name, options, env=environment) == (code, CONTENT)

    @pytest.mark.parametrize("which", ["stdout", "both"])
    def test_reader_that_leaves_early(
        self, tmp_path: Path, name: str, options: tuple[str, ...], code: int, which: str
    ) -> None:
        own = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        streams = {stream: subprocess.PIPE for stream in own if which in (stream, "both")}
        process = subprocess.Popen(command(tmp_path / name, *options), stdin=subprocess.DEVNULL, **{**own, **streams})
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        assert process.wait(timeout=TIMEOUT_S) == code
        assert (tmp_path / name).read_bytes() == CONTENT


@posix
@pytest.mark.parametrize("arguments", [["--version"], ["register", "--help"]])
def test_help_that_nobody_reads_is_no_failure(arguments: list[str]) -> None:
    code = f"import sys; sys.path.insert(0, {str(MODULE)!r}); from DeepAttentionRegEngine import cli"
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", f"{code}; sys.exit(cli.main({arguments!r}))"], stdout=full, stderr=subprocess.PIPE
        )
    assert (done.returncode, done.stderr) == (0, b"")
