"""Work that lets others have a turn: who calls it with a pause is called between pieces of a fraction of a second."""

from collections.abc import Callable

Pause = Callable[[], None]


def no_pause() -> None:
    """Go on at once."""
