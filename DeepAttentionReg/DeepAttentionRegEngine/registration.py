"""The recursion: warp, predict, compose, report."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from .warp import compose, warp


@dataclass(frozen=True)
class Recursion:
    """State after one recursion, all `(B, C, *spatial)` on the working grid.

    Attributes:
        displacement: phi_k, the whole displacement so far, in voxels.
        increment: psi_k, what this recursion added.
        warped: The original moving image warped once by phi_k.
    """

    displacement: Tensor
    increment: Tensor
    warped: Tensor


def recurse(
    network: Callable[[Tensor, Tensor], Tensor], fixed: Tensor, moving: Tensor, recursions: int
) -> Iterator[Recursion]:
    """Yield the state after each recursion of a shared-weight network.

    `phi_k = psi_k + phi_{k-1} o (id + psi_k)` with `psi_k = network(moving o (id + phi_{k-1}), fixed)` and phi_0 = 0;
    the moving image is always warped from the original. A generator, so the caller may report or stop in between.

    Args:
        network: Maps (warped moving, fixed) to a displacement in voxels.
        fixed: `(B, 1, *spatial)`.
        moving: Same shape.
        recursions: K >= 1; may differ from the K used in training.

    Source: Zheng et al. 2022, recursion with weights shared over k.
    """
    displacement = fixed.new_zeros(fixed.shape[0], fixed.ndim - 2, *fixed.shape[2:])
    warped = moving
    for _ in range(recursions):
        increment = network(warped, fixed)
        displacement = compose(displacement, increment)
        warped = warp(moving, displacement)
        yield Recursion(displacement, increment, warped)
