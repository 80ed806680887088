"""Progress out of a job, cancellation into it, and pauses in which others have a turn."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from . import errors
from .contract import Event, Progress

Pause = Callable[[], None]  # called between pieces of work of a fraction of a second


def no_pause() -> None:
    """Go on at once."""


@dataclass
class Reporter:
    """Where a job's progress goes and whence requests come; keeps the seconds of each stage.

    Attributes:
        emit: Gets all progress.
        cancelled: Tells whether the job is to be given up.
        enough: Tells whether the job is to end with the best that it has.
        seconds: By stage.
        under_way: The stage that is not over, or that failed; "" between stages.
    """

    emit: Callable[[Event], None] = lambda event: None
    cancelled: Callable[[], bool] = lambda: False
    enough: Callable[[], bool] = lambda: False
    seconds: dict[str, float] = field(default_factory=dict)
    under_way: str = ""

    def step(self, stage: str, step: int = 0, of: int = 0, message: str = "", file: str | None = None) -> None:
        """Report progress.

        Raises:
            EngineError: If the job was cancelled.
        """
        if self.cancelled():
            raise errors.EngineError(errors.CANCELLED, "The registration was canceled.")
        self.emit(Progress(stage, step, of, message, file))

    @contextmanager
    def stage(self, name: str, message: str) -> Iterator[None]:
        """Announce a stage and time it."""
        self.under_way = name
        self.step(name, message=message)
        started = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - started, 3)
        self.under_way = ""
