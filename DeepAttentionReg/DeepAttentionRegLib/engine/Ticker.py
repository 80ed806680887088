"""Calls a function again and again in the main thread."""

from collections.abc import Callable

try:
    import qt
except ImportError:  # slicer-core has no Qt
    qt = None


class Ticker:
    """Calls a function at intervals from `start` to `stop`, and holds on to it no longer than that.

    A signal of Qt keeps alive what it calls where Python's garbage collector does not see it: an object whose own
    repeating timer calls one of its methods would live for ever. So every tick arms a timer for the next one only.
    """

    def __init__(self, intervalMs: int) -> None:
        """Prepare.

        :param intervalMs: time between two calls, ms.
        """
        self._intervalMs = intervalMs
        self._call: Callable[[], None] | None = None
        self._isArmed = False

    @property
    def isRunning(self) -> bool:
        """Whether it was started and not stopped since."""
        return self._call is not None

    def start(self, call: Callable[[], None]) -> None:
        """Begin, if there is an event loop of Qt.

        :param call: function to call.
        """
        self._call = call
        self._arm()

    def stop(self) -> None:
        """Call nothing any more."""
        self._call = None

    def _arm(self) -> None:
        if qt is not None and self.isRunning and not self._isArmed:
            self._isArmed = True
            qt.QTimer.singleShot(self._intervalMs, self._tick)

    def _tick(self) -> None:
        self._isArmed = False
        try:
            if self._call is not None:
                self._call()
        finally:
            self._arm()
