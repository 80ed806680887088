"""What people see of a job on the command line: one line that moves on a terminal, plain lines elsewhere, the result.

Standard library only. Programs get JSON instead (contract.py).
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TextIO

from .protocol import contract
from .protocol.estimate import estimate
from .protocol.reporting import Audience
from .protocol.settings import Settings

NAMES = {
    "load": "Reading",
    "align": "Alignment",
    "recursion": "Method",
    "refine": "Refinement",
    "evaluate": "Measuring",
    "uncertainty": "Uncertainty",
    "write": "Writing",
}
# Seconds of the stages of one registration, of which only the ratios count, where they cannot be estimated.
USUAL = {"load": 1.0, "align": 3.0, "recursion": 4.0, "refine": 12.0, "evaluate": 2.0, "uncertainty": 0.0, "write": 1.0}
TRUSTED = 0.25  # share done from which on the time left follows from the time so far alone
EARLIEST = 0.05  # share done before which nothing follows from it
REDRAW_S = 0.1
STRIDE = 10  # percent between two plain lines of a stage
SPARE_COLUMNS = 3  # a terminal adds "^C" where the line ends


def say(stream: TextIO | None, text: str = "") -> None:
    """Write to a standard stream as far as it takes it: a job ends well whether or not anyone can read of it."""
    if stream is None:
        return
    try:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (OSError, ValueError):
        # What could not be written waits in the stream, and would decide the exit code when Python flushes it at last.
        with suppress(OSError, ValueError), open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), stream.fileno())


def stage_seconds(size: Sequence[int], spacing: Sequence[float], settings: Settings) -> dict[str, float] | None:
    """Return how long each stage of a registration will take; None if that is not known.

    Args:
        size: Voxels of the fixed volume along i, j, k.
        spacing: Its voxel size in mm along i, j, k.
        settings: How it will be registered; a job, if uncertainty is to be counted.
    """
    alone: dict[str, Any] = {"method": contract.METHOD_NONE, "weights": None, "recursions": None}
    unrefined = replace(settings, refinement_steps=0)
    aligned = replace(unrefined, **alone)
    steps = settings, unrefined, aligned, replace(aligned, alignment="none")
    found = [estimate(size, spacing, chosen) for chosen in steps]
    whole, method, start, rest = (0.0 if item is None else item.seconds for item in found)
    if None in found:
        return None
    sample = max(whole - start, 0.0)
    samples = settings.samples - 1 if getattr(settings, "output_uncertainty", None) else 0
    return {
        "load": rest / 4,
        "align": max(start - rest, 0.0),
        "recursion": max(method - start, 0.0),
        "refine": max(whole - method, 0.0),
        "evaluate": rest / 2,
        "uncertainty": samples * sample,
        "write": rest / 4,
    }


@dataclass
class Course:
    """How far a job is, and how long it will still take.

    Attributes:
        left_over: Registrations that are not over.
        units: All registrations that this run is to do.
        seconds: By stage, of one registration.
        is_estimated: Whether these are seconds, not only ratios.
        inner: Share done of the registration under way.
    """

    left_over: int = 1
    units: int = 1
    seconds: dict[str, float] = field(default_factory=lambda: dict(USUAL))
    is_estimated: bool = False
    inner: float = 0.0

    def take(self, event: contract.Progress) -> None:
        """Go on to where a registration is."""
        stages = list(self.seconds)
        if event.stage in stages:
            before = sum(self.seconds[stage] for stage in stages[: stages.index(event.stage)])
            here = self.seconds[event.stage] * event.step / max(event.of, 1)
            self.inner = (before + here) / sum(self.seconds.values())

    @property
    def share(self) -> float:
        """Of the whole job, 0 to 1."""
        return min((self.units - self.left_over + self.inner) / max(self.units, 1), 1.0)

    def seconds_left(self, elapsed: float) -> float | None:
        """Return how long it will still take; None as long as nothing is known.

        At first that is what was estimated, later what follows from the time that was needed so far.

        Examples:
            >>> course = Course(units=4, left_over=2)
            >>> course.seconds_left(60.0)
            60.0
        """
        share, trust = self.share, min(self.share / TRUSTED, 1.0)
        by_progress = elapsed * (1 - share) / share if share > EARLIEST else None
        if not self.is_estimated:
            return by_progress
        expected = self.units * sum(self.seconds.values()) * (1 - share)
        return expected if by_progress is None else trust * by_progress + (1 - trust) * expected


def time_text(seconds: float) -> str:
    """Return a duration in words.

    Examples:
        >>> [time_text(seconds) for seconds in (2, 42, 110, 4000)]
        ['5 s', '40 s', '2 min', '1 h 7 min']
    """
    if seconds < 60:
        return f"{max(5, 5 * round(seconds / 5))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Console(Audience):
    """Tells people of a job: progress, warnings and errors on standard error, results on standard output."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Look whether anyone watches a terminal.

        Args:
            clock: Returns seconds.
        """
        self._clock, self._began = clock, clock()
        self._columns = _columns(sys.stderr)
        self._course = Course()
        self._counts = self._name = self._stage = self._told = self._shown = ""
        self._drawn, self._percent = -REDRAW_S, 0

    def __call__(self, event: contract.Event) -> None:
        """Show an event."""
        if isinstance(event, contract.Progress):
            if event.stage in NAMES:  # pairs and frames are counted
                self._follow(event)
            return
        self.clear()
        if isinstance(event, contract.Failure):
            say(sys.stderr, f"Error: {event.message} {event.hint}".rstrip() + "\n")
        else:
            say(sys.stderr, "".join(f"Warning: {warning}\n" for warning in event.warnings))
            say(sys.stdout, "\n".join(_lines({"outputs": event.outputs, **event.values})) + "\n")

    def expect(self, size: Sequence[int], spacing: Sequence[float], settings: Settings) -> None:
        """Learn of the registration that begins."""
        found = stage_seconds(size, spacing, settings)
        if found is not None:
            self._course.seconds, self._course.is_estimated = found, True

    def count(self, done: int, failed: int, left: int) -> None:
        """Learn how many registrations are over, and how many are not."""
        course = self._course
        if not self._counts:
            course.units = left
        course.left_over, course.inner, self._stage = left, 0.0, ""
        self._counts = f"{done} done, {failed} failed, {left} left"

    def within(self, name: str, event: contract.Progress) -> None:
        """Learn of progress within one of several registrations."""
        self._name = name
        self._follow(event)

    def clear(self) -> None:
        """Leave the line of the terminal empty."""
        if self._shown:
            blank = " " * (len(self._shown) + SPARE_COLUMNS - 1)
            say(sys.stderr, f"\r{blank}\r")
            self._shown = ""

    def give_way(self, _record: logging.LogRecord) -> bool:
        """Leave the line to a message of a log, which it lets pass."""
        self.clear()
        return True

    def _follow(self, event: contract.Progress) -> None:
        if not event.of and self._stage and event.stage in ("load", self._stage):
            self._remark(event)
            return
        is_new, self._stage = event.stage != self._stage, event.stage
        self._course.take(event)
        percent, now = int(100 * self._course.share), self._clock()
        seconds = self._course.seconds_left(now - self._began)
        left = "" if seconds is None else f"about {time_text(seconds)} left"
        if self._columns is not None:
            if is_new or now - self._drawn >= REDRAW_S:
                self._drawn = now
                self._draw(self._fitting(f"{percent:3d} %", self._label(event), left))
        elif self._told != (self._name or self._counts or event.stage) or percent >= self._percent + STRIDE:
            self._told, self._percent = self._name or self._counts or event.stage, percent
            what = f"[pair] {self._label(event)}" if self._name else f"[{event.stage}] {event.message}"
            say(sys.stderr, f"{what} ({', '.join(part for part in (f'{percent} %', self._counts, left) if part)})\n")

    def _remark(self, event: contract.Progress) -> None:
        """Say what is no progress and shall stay to be read."""
        self.clear()
        name = f"{self._name}: " if self._name else ""
        say(sys.stderr, f"[{event.stage}] {name}{event.message}\n")

    def _label(self, event: contract.Progress) -> str:
        steps = f" {event.step} of {event.of}" if event.of else ""
        return f"{self._name + ': ' if self._name else ''}{NAMES[event.stage]}{steps}"

    def _fitting(self, percent: str, label: str, left: str) -> str:
        """Return as much as the line has room for."""
        room = max((self._columns or 0) - SPARE_COLUMNS, 1)
        first = self._counts or label
        choices = [percent, self._counts, label, left], [percent, first, left], [percent, first]
        texts = ["  ".join(part for part in parts if part) for parts in choices]
        return next((text for text in texts if len(text) <= room), texts[-1][:room])

    def _draw(self, text: str) -> None:
        self._shown = text.ljust(len(self._shown))  # before: what interrupts the writing is to clear all of it
        say(sys.stderr, "\r" + self._shown)
        self._shown = text


def _columns(stream: TextIO | None) -> int | None:
    """Return how wide a terminal is; None if the stream is none on which a line can move."""
    with suppress(OSError, ValueError, AttributeError):
        if stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb":
            return os.get_terminal_size(stream.fileno()).columns or 80
    return None


def _lines(values: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for name, value in values.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        elif isinstance(value, float):
            lines.append(f"{indent}{name}: {value:.4g}")
        elif isinstance(value, list) and len(value) > 16:
            lines.append(f"{indent}{name}: {len(value)} values (use --json to see them)")
        elif value not in ({}, []):
            lines.append(f"{indent}{name}: {value}")
    return lines
