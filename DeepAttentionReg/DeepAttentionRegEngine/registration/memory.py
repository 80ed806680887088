"""What happens when memory runs out."""

from collections.abc import Callable
from typing import TypeVar

import torch

from ..protocol import errors
from ..protocol.errors import is_out_of_memory

T = TypeVar("T")


def run_within_memory(work: Callable[[], T]) -> T:
    """Return what a function returns.

    Raises:
        EngineError: In a sentence, if memory ran out, on the CPU or a graphics card.
    """
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, torch.cuda.OutOfMemoryError) and not is_out_of_memory(error):
            raise
        raise errors.EngineError(
            errors.OUT_OF_MEMORY,
            "There is not enough memory for volumes of this size.",
            "Choose the device cpu, close other programs, or crop or down-sample the volumes.",
        ) from error
