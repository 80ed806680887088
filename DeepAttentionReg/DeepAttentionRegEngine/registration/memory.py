"""What happens when memory runs out: a registration goes without something, and says so, as long as that helps."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from ..protocol import errors
from ..protocol.errors import is_out_of_memory

T = TypeVar("T")

COARSEST = 4  # times fewer voxels of the working grid
LEAST_VOXELS = 32_768  # of a working grid that was made coarser
NETWORK_STAGES = ("recursion", "uncertainty")  # half precision spares memory there
WORKING_STAGES = (*NETWORK_STAGES, "refine")  # a coarser working grid does
SHARES = {2: "half as many voxels", 4: "a quarter of the voxels"}


@dataclass(frozen=True)
class Economy:
    """What a registration goes without for lack of memory.

    Attributes:
        half_precision: The network runs in 16 bits.
        coarser: The working grid has so many times fewer voxels.
        on_cpu: The CPU computes, not the graphics card.

    Examples:
        >>> Economy(coarser=2).sentence
        'There is too little memory for these volumes, so the working grid has half as many voxels.'
    """

    half_precision: bool = False
    coarser: int = 1
    on_cpu: bool = False

    @property
    def sentence(self) -> str:
        """What people are told of it; "" for an economy of nothing."""
        parts = ["the CPU is used"] if self.on_cpu else []
        parts += ["the network runs in half precision"] if self.half_precision else []
        parts += [f"the working grid has {SHARES[self.coarser]}"] if self.coarser > 1 else []
        return f"There is too little memory for these volumes, so {' and '.join(parts)}." if parts else ""


NO_ECONOMY = Economy()


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
            "Close other programs, crop or down-sample the volumes, or choose the device cpu if it was another one.",
        ) from error


def run_where_it_fits(work: Callable[[], T], spare: Callable[[], bool]) -> T:
    """Return what a function returns, called again after memory ran out as long as it can go without something.

    Args:
        work: What to do.
        spare: Called when memory ran out, after all that the work held is free again; has it need less from now on,
            and returns whether it could.

    Raises:
        EngineError: In a sentence, if memory ran out and nothing was left to spare.
    """
    while True:
        try:
            return run_within_memory(work)
        except errors.EngineError as error:
            if error.code != errors.OUT_OF_MEMORY:
                raise
            failure = error
        # The frames of its trace hold every tensor of the work that failed.
        failure.__traceback__ = failure.__cause__ = failure.__context__ = None
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if not spare():
            try:
                raise failure
            finally:
                del failure  # or this frame and the trace would hold each other, and all that callers work on
