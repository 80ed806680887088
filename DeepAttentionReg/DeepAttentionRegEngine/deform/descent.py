"""The one loop of all optimisation on a pair: gradient descent that keeps the best it met."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def descend(
    unknowns: Sequence[Tensor],
    loss_of: Callable[[Sequence[Tensor]], Tensor],
    optimizer: torch.optim.Optimizer,
    steps: int,
    report: Callable[[int, float], bool],
) -> tuple[list[Tensor], bool]:
    """Minimise a loss.

    Args:
        unknowns: Where to start; they require gradients and are changed in place.
        loss_of: Returns the loss of unknowns.
        optimizer: Of these unknowns.
        steps: Iterations.
        report: Called after every iteration with (done, loss); returns whether that is enough, may raise.

    Returns:
        The unknowns with the lowest loss met, those of the start if no step made it lower; and whether `report` said
        that it is enough.
    """
    best, lowest, enough = _copies(unknowns), math.inf, False
    for step in range(steps + 1):
        is_last = step == steps or enough
        with torch.set_grad_enabled(not is_last):
            loss = loss_of(unknowns)
        value = float(loss.detach())
        if value < lowest:
            best, lowest = _copies(unknowns), value
        if is_last:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        enough = report(step + 1, value)
    return best, enough


def _copies(unknowns: Sequence[Tensor]) -> list[Tensor]:
    return [unknown.detach().clone() for unknown in unknowns]
