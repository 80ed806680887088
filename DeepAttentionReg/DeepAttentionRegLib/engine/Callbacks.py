"""Whom something that runs in the background tells how it goes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from DeepAttentionRegEngine.protocol import contract


def _ignore(_event: Any) -> None:
    """Stand in for a callback that nobody set."""


@dataclass(frozen=True)
class Callbacks:
    """Functions called in the main thread; one of the last two is called exactly once, unless `close` comes first.

    :param onProgress: gets every step forward: a `contract.Progress`, of a task's stages "export" and "import" too, or
        a `Sequences.FrameProgress`.
    :param onFinished: gets what came of it: of a job the `contract.Result`, of a task its outcome.
    :param onFailed: gets the `contract.Failure`; its code is `errors.CANCELLED` if the user or a vanished input
        stopped it.
    """

    onProgress: Callable[[Any], None] = _ignore
    onFinished: Callable[[Any], None] = _ignore
    onFailed: Callable[[contract.Failure], None] = _ignore
