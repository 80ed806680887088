"""The one loop of all optimisation on a pair: gradient descent that keeps the best it met."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

SOFTNESS = 0.1  # of the mean gradient: what lies below moves by less than a whole step


def descend(
    unknowns: Sequence[Tensor],
    loss_of: Callable[[Sequence[Tensor]], Tensor],
    optimizer: torch.optim.Adam,
    steps: int,
    report: Callable[[int, float], bool],
) -> tuple[list[Tensor], bool]:
    """Minimise a loss.

    Adam's steps are as long for a gradient of rounding errors as for one of edges, so that flat images would drift at
    random. Here they vanish with the gradient, measured by the first one of each group of unknowns.

    Args:
        unknowns: Where to start; they require gradients and are changed in place.
        loss_of: Returns the loss of unknowns.
        optimizer: Of these unknowns; those of one kind and unit in a group.
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
        if step == 0:
            _soften(optimizer)
        optimizer.step()
        enough = report(step + 1, value)
    return best, enough


def _soften(optimizer: torch.optim.Adam) -> None:
    for group in optimizer.param_groups:
        gradient = torch.cat([unknown.grad.flatten() for unknown in group["params"]])
        group["eps"] = max(group["eps"], SOFTNESS * float(gradient.square().mean().sqrt()))


def _copies(unknowns: Sequence[Tensor]) -> list[Tensor]:
    return [unknown.detach().clone() for unknown in unknowns]
