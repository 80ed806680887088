"""What people see of a job: one line that moves on a terminal, plain lines elsewhere."""

import logging
import os
import re
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from DeepAttentionRegEngine import console
from DeepAttentionRegEngine.console import Console, Course
from DeepAttentionRegEngine.protocol.contract import Failure, Progress, Result
from DeepAttentionRegEngine.protocol.settings import Settings

fcntl = pytest.importorskip("fcntl", reason="this system has no pseudo-terminals")
termios = pytest.importorskip("termios", reason="this system has no pseudo-terminals")

RUN_ENGINE = Path(__file__).resolve().parents[3] / "DeepAttentionReg" / "Scripts" / "run_engine.py"
CONTROL = re.compile(r"[^\x20-\x7e\r\n]")  # codes of color and the like
TIMEOUT_S = 60.0
SPACING = (1.0, 1.0, 1.0)
STEPS = [
    Progress("load", message="Reading the volumes."),
    Progress("align", message="Aligning the volumes."),
    Progress("refine", message="Refining the deformation on this pair."),
    *[Progress("refine", step, 40, f"Refinement, loss {1 / step:.4f}.") for step in range(1, 41)],
    Progress("evaluate", message="Measuring the deformation."),
    Progress("write", message="Writing the results."),
]


class Terminal:
    """A pseudo-terminal of so many columns."""

    def __init__(self, columns: int) -> None:
        self.near, self.far = os.openpty()
        fcntl.ioctl(self.far, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def read(self, wait_s: float = TIMEOUT_S) -> str:
        """Return what appeared since the last time; waits for something, though not for ever."""
        text = b""
        with suppress(OSError):  # nobody has it open any more
            while select.select([self.near], [], [], 0 if text else wait_s)[0] and (more := os.read(self.near, 4096)):
                text += more
        return text.decode()

    def read_to_the_end(self) -> str:
        os.close(self.far)
        text = ""
        while more := self.read():
            text += more
        return text


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    found = Terminal(60)
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(os.dup(found.far), "w") as stream:
        # Not those of sys itself, which pytest sets anew before the test.
        monkeypatch.setattr(console, "sys", SimpleNamespace(stderr=stream, stdout=None))
        yield found
    os.close(found.near)
    os.close(found.far)


class Clock:
    """Goes on by a second whenever it is asked."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def screen(text: str) -> list[str]:
    """Return the lines that stay on a terminal after a text."""
    lines = [""]
    for part in re.findall(r"\r\n|\r|[^\r]+", text):
        if part == "\r\n":
            lines.append("")
            continue
        if part == "\r":
            at = 0
            continue
        at = 0 if lines[-1] == "" else at
        lines[-1] = lines[-1][:at] + part + lines[-1][at + len(part) :]
        at += len(part)
    return [line.rstrip() for line in lines]


class TestTerminal:
    def test_progress_is_one_line_without_control_codes(self, terminal: Terminal) -> None:
        told = Console(Clock())
        for event in STEPS:
            told(event)
        text = terminal.read()
        assert "\n" not in text
        assert not CONTROL.search(text)
        assert re.search(r"Refinement 40 of 40  about \d+ s left", text)
        percents = [int(found) for found in re.findall(r"(\d+) %", text)]
        assert percents == sorted(percents)
        assert percents[-1] > 90

    def test_line_makes_room_for_the_end(self, terminal: Terminal) -> None:
        told = Console(Clock())
        for event in STEPS[:9]:
            told(event)
        told(Failure("cancelled", "The job was interrupted."))
        assert screen(terminal.read()) == ["Error: The job was interrupted.", ""]

    @pytest.mark.parametrize("columns", [4, 12, 24, 40, 200])
    def test_line_is_never_wider_than_the_terminal(self, terminal: Terminal, columns: int) -> None:
        fcntl.ioctl(terminal.far, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        told = Console(Clock())
        told.count(0, 0, 1)
        for event in STEPS:
            told.within("a pair with quite a long name", event)
        text = terminal.read()
        assert max(map(len, text.split("\r"))) < columns
        assert "%" in text or columns == 4

    def test_remarks_and_logs_stay_to_be_read(self, terminal: Terminal) -> None:
        told = Console(Clock())
        for event in [*STEPS[:5], Progress("load", message="There is too little memory."), *STEPS[1:4]]:
            told(event)
        told.give_way(logging.makeLogRecord({}))
        console.sys.stderr.write("a message of a log\n")
        console.sys.stderr.flush()
        assert screen(terminal.read()) == ["[load] There is too little memory.", "a message of a log", ""]

    def test_batch_shows_what_became_of_its_pairs(self, terminal: Terminal) -> None:
        fcntl.ioctl(terminal.far, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        told = Console(Clock())
        for counts in ((3, 0, 4), (4, 0, 3), (4, 1, 2)):
            told.count(*counts)
            for event in STEPS:
                told.within("case", event)
                told(Progress("pair", 1, 4, f"case: {event.message}"))
            text = terminal.read()
        assert re.search(r"50 %  4 done, 1 failed, 2 left  case: Reading  about \d+ (s|min) left", text)

    def test_dumb_terminal_gets_plain_lines(self, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "dumb")
        Console()(STEPS[0])
        assert terminal.read().endswith(")\r\n")


class TestPlainLines:
    def test_every_stage_has_a_line_and_a_percent_now_and_then(self, capsys: pytest.CaptureFixture[str]) -> None:
        told = Console(Clock())
        for event in STEPS:
            told(event)
        lines = capsys.readouterr().err.splitlines()
        stages = [re.match(r"\[(\w+)\]", line).group(1) for line in lines]
        assert list(dict.fromkeys(stages)) == ["load", "align", "refine", "evaluate", "write"]
        assert 3 <= stages.count("refine") <= 10
        assert all(" %" in line for line in lines)

    def test_every_pair_has_a_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        told = Console(Clock())
        for done in range(30):
            told.count(done, 0, 30 - done)
            for event in STEPS:
                told.within(f"case {done}", event)
        lines = capsys.readouterr().err.splitlines()
        assert 30 <= len(lines) <= 40
        assert lines[-1].startswith("[pair] case 29: ")
        assert "29 done, 0 failed, 1 left" in lines[-1]

    def test_result_is_for_standard_output_and_warnings_are_not(self, capsys: pytest.CaptureFixture[str]) -> None:
        Console()(Result({"transform": "t.nrrd"}, {"a": 0.25}, ["Look."]))
        told = capsys.readouterr()
        assert (told.out, told.err) == ("outputs:\n  transform: t.nrrd\na: 0.25\n", "Warning: Look.\n")


class TestCourse:
    def test_time_left_is_that_of_the_estimate_at_first(self) -> None:
        course = Course(units=3, left_over=3, seconds={"refine": 100.0}, is_estimated=True)
        assert course.seconds_left(1.0) == pytest.approx(300)

    def test_time_left_follows_from_progress_later(self) -> None:
        course = Course(seconds={"refine": 100.0}, is_estimated=True)
        course.take(Progress("refine", 1, 2))
        assert course.seconds_left(10.0) == pytest.approx(10)

    @pytest.mark.parametrize("is_estimated", [False, True])
    def test_time_left_is_never_below_zero(self, is_estimated: bool) -> None:
        course = Course(is_estimated=is_estimated)
        for event in [*STEPS, Progress("write", 5, 1)]:
            course.take(event)
            assert 0 <= course.share <= 1
            assert (course.seconds_left(1e4) or 0) >= 0

    def test_stages_share_what_is_estimated_of_the_whole(self) -> None:
        chosen = Settings(method="adregnet", alignment="affine")
        stages = console.stage_seconds((100, 100, 100), SPACING, chosen)
        whole = console.estimate((100, 100, 100), SPACING, chosen)
        assert sum(stages.values()) == pytest.approx(whole.seconds)
        assert min(stages[name] for name in ("align", "recursion", "refine")) > 0

    def test_method_whose_costs_are_not_known_has_no_estimate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(console, "estimate", lambda *_: None)
        assert console.stage_seconds((9, 9, 9), SPACING, Settings()) is None


@pytest.mark.torch
def test_interrupted_command_leaves_a_clean_line(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from DeepAttentionRegEngine.volume import images
    from engine_cases import blob_source, centered

    source = blob_source(centered((32, 32, 32), (2.0, 2.0, 2.0)))
    images.write_volume(tmp_path / "f.nrrd", source.array, source.geometry)
    images.write_volume(tmp_path / "m.nrrd", np.flip(source.array).copy(), source.geometry)
    terminal = Terminal(80)
    options = ["--method", "none", "--alignment", "none", "--refinement-steps", "1000"]
    command = [sys.executable, str(RUN_ENGINE), "register", str(tmp_path / "f.nrrd"), str(tmp_path / "m.nrrd")]
    environment = {**os.environ, "TERM": "xterm"}
    process = subprocess.Popen([*command, *options], stdout=terminal.far, stderr=terminal.far, env=environment)
    text = ""
    while not re.search(r"Refinement \d", text) and (more := terminal.read()):
        text += more
    process.send_signal(signal.SIGINT)
    assert process.wait() == 3
    assert "\n" not in text
    assert screen(text + terminal.read_to_the_end()) == ["Error: The job was interrupted.", ""]
    os.close(terminal.near)
