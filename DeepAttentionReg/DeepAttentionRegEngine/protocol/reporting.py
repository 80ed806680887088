"""Progress out of a job, cancellation into it, and pauses in which others have a turn."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from . import errors
from .contract import Event, Progress
from .settings import Settings

Pause = Callable[[], None]  # called between pieces of work of a fraction of a second


def no_pause() -> None:
    """Go on at once."""


class Audience:
    """Hears what the events of a job do not say; this one does not listen."""

    def expect(self, size: Sequence[int], spacing: Sequence[float], settings: Settings) -> None:
        """Learn of the registration that begins.

        Args:
            size: Voxels of the fixed volume along i, j, k.
            spacing: Its voxel size in mm along i, j, k.
            settings: How it is registered; may be a job.
        """

    def count(self, done: int, failed: int, left: int) -> None:
        """Learn of how many registrations there are, and what became of them."""

    def within(self, name: str, event: Progress) -> None:
        """Learn of progress within one of several registrations, which has a name."""


@dataclass
class Reporter:
    """Where a job's progress goes and whence requests come; keeps the seconds of each stage.

    Attributes:
        emit: Gets all progress.
        cancelled: Tells whether the job is to be given up.
        enough: Tells whether the job is to end with the best that it has.
        seconds: By stage.
        audience: Hears more than `emit`.
        under_way: The stage that is not over, or that failed; "" between stages.
    """

    emit: Callable[[Event], None] = lambda event: None
    cancelled: Callable[[], bool] = lambda: False
    enough: Callable[[], bool] = lambda: False
    seconds: dict[str, float] = field(default_factory=dict)
    audience: Audience = field(default_factory=Audience)
    under_way: str = ""

    def step(self, stage: str, step: int = 0, of: int = 0, message: str = "", file: str | None = None) -> None:
        """Report progress.

        Raises:
            EngineError: If the job was cancelled.
        """
        self.pause()
        self.emit(Progress(stage, step, of, message, file))

    def pause(self) -> None:
        """Stop if that was asked for.

        Raises:
            EngineError: If the job was cancelled.
        """
        if self.cancelled():
            raise errors.EngineError(errors.CANCELLED, "The registration was canceled.")

    @contextmanager
    def stage(self, name: str, message: str) -> Iterator[None]:
        """Announce a stage and time it."""
        self.under_way = name
        self.step(name, message=message)
        started = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - started, 3)
        self.under_way = ""
