"""Lets the application have a turn now and then while this process is at work."""

import time

import slicer

INTERVAL_S = 0.1


class Turns:
    """Knows when the application has had its last turn."""

    def __init__(self) -> None:
        """Begin to count."""
        self._since = time.monotonic()

    @property
    def areDue(self) -> bool:
        """Whether the application has waited long enough."""
        return time.monotonic() - self._since >= INTERVAL_S

    def give(self) -> None:
        """Handle the events of the application, if there is one."""
        application = getattr(slicer, "app", None)
        if application is not None:
            application.processEvents()
        self._since = time.monotonic()
