"""What all registration networks have in common: their input, the state after each recursion, what they attended to.

Shapes: images and masks `(B, 1, *spatial)`, of AGF a channel per structure; displacements `(B, nd, *spatial)` in voxels
of the grid the network works on, nd 2 or 3, channels in array axis order (warp.py). Whatever a network attended to is
kept for B = 1 only.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..deform.gaussians import Gaussians
from ..deform.pairs import ImagePair as ImagePair
from ..deform.pairs import Masks, OnStep
from ..deform.warp import compose, warp


@dataclass(frozen=True)
class CrossAttention:
    """Which places of the warped moving image each place of the fixed image looked at, of one image pair.

    Row i of head h is `softmax(query[h, i] @ key[h].T / sqrt(d))`. Token t along an axis sits at voxel
    `(t + 0.5) * stride - 0.5` of the network's grid.

    Attributes:
        name: Where in the network, such as "level 3".
        query: `(heads, n, d)`, tokens of the fixed image in C order of `query_size`.
        key: `(heads, m, d)`, tokens of the warped moving image in C order of `key_size`.
        query_size: Tokens along each axis, product n.
        key_size: The same, product m.
        query_stride: Voxels per token.
        key_stride: The same.
    """

    name: str
    query: Tensor
    key: Tensor
    query_size: tuple[int, ...]
    key_size: tuple[int, ...]
    query_stride: float
    key_stride: float


@dataclass(frozen=True)
class AttentionMap:
    """A scalar map over the network's whole grid, at any resolution.

    Attributes:
        name: Such as "relevance, level 1".
        image: "fixed" or "moving" (not warped), on which it is to be shown.
        values: `(1, 1, *size)`.
    """

    name: str
    image: str
    values: Tensor


@dataclass
class Evidence:
    """What a network attended to in one recursion; networks add to it.

    Attributes:
        maps: Scalar maps.
        attention: Cross-attention.
        gaussians: The local deformations that this recursion added.
    """

    maps: list[AttentionMap] = field(default_factory=list)
    attention: list[CrossAttention] = field(default_factory=list)
    gaussians: Gaussians | None = None


@dataclass(frozen=True)
class Recursion:
    """State after one recursion, all `(B, C, *spatial)`.

    Attributes:
        displacement: phi_k, the whole displacement so far.
        increment: psi_k, what this recursion added.
        warped: The original moving image warped once by phi_k.
        evidence: What the network attended to; None unless asked for.
        structures: Masks of the structures that the network sees, `(B, structures, *spatial)` in [0, 1], fixed first;
            None if it sees whole images, or an image shows none of them.
    """

    displacement: Tensor
    increment: Tensor
    warped: Tensor
    evidence: Evidence | None = None
    structures: Masks | None = None


class RegistrationNetwork(nn.Module):
    """A registration method on one grid.

    Attributes:
        minimum_size: Shortest axis it can work on; shorter ones are refused with a ValueError.
        half_precision: Compute convolutions and attention in bfloat16 (CPU) or float16 (GPU). Displacements, warps and
            compositions stay in single precision.
        checkpointed: Recompute each recursion in the backward pass instead of keeping its activations.
        settings: Arguments it was built from.
        on_step: Told (done, of, loss) by methods that iterate within a recursion; returns whether that is enough.
    """

    minimum_size: ClassVar[int] = 32
    settings: Any

    def __init__(self) -> None:
        super().__init__()
        self.half_precision = False
        self.checkpointed = False
        self.on_step: OnStep | None = None

    def recurse(self, pair: ImagePair, recursions: int, *, attend: bool = False) -> Iterator[Recursion]:
        """Yield the state after each recursion; a generator, so that the caller may report or stop in between.

        Args:
            pair: The images.
            recursions: K >= 1; may differ from the K used in training.
            attend: Also keep what the network attended to; needs B = 1.

        Raises:
            ValueError: If an axis is shorter than `minimum_size`.
        """
        raise NotImplementedError

    def memberships(self, image: Tensor) -> Tensor | None:
        """Return how much of each voxel each structure has that the network tells apart; None if it tells none apart.

        Args:
            image: `(B, 1, *spatial)` in [0, 1], of any size that the network can work on.

        Returns:
            `(B, 1 + structures, *spatial)`; a voxel belongs to the largest, the first of which stands for none of them.
        """
        return None

    def precision(self, device: torch.device) -> AbstractContextManager[None]:
        """Return the context in which convolutions and attention are computed."""
        dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
        return torch.autocast(device.type, dtype=dtype, enabled=self.half_precision)

    def require_size(self, image: Tensor) -> None:
        """Check the size of an image.

        Raises:
            ValueError: If an axis is shorter than `minimum_size`.
        """
        if min(image.shape[2:]) < self.minimum_size:
            msg = f"image size {tuple(image.shape[2:])} must be at least {self.minimum_size} along every axis"
            raise ValueError(msg)


class StepNetwork(RegistrationNetwork):
    """A network without memory that is applied again and again with the same weights; subclasses give `forward`.

    Source: Zheng et al. 2022 (RMAn), recursion with weights shared over k.
    """

    def forward(self, warped: Tensor, fixed: Tensor, evidence: Evidence | None = None) -> Tensor:
        """Predict one recursion's displacement.

        Args:
            warped: `(B, C, *spatial)`, moving image warped by the displacement so far.
            fixed: Same shape.
            evidence: Add to it what was attended to.

        Returns:
            psi, `(B, nd, *spatial)` in voxels, single precision.
        """
        raise NotImplementedError

    def recurse(self, pair: ImagePair, recursions: int, *, attend: bool = False) -> Iterator[Recursion]:
        """Yield the state after each recursion.

        `phi_k = psi_k + phi_{k-1} o (id + psi_k)` with `psi_k = forward(moving o (id + phi_{k-1}), fixed)`, phi_0 = 0;
        the moving image is always warped from the original. Arguments as in `RegistrationNetwork`.
        """
        fixed, moving = pair.fixed, pair.moving
        self.require_size(fixed)
        displacement = fixed.new_zeros(fixed.shape[0], fixed.ndim - 2, *fixed.shape[2:])
        warped = moving
        for _ in range(recursions):
            evidence = Evidence() if attend else None
            increment = self._predict(warped, fixed, evidence)
            displacement = compose(displacement, increment)
            warped = warp(moving, displacement)
            yield Recursion(displacement, increment, warped, evidence)

    def _predict(self, warped: Tensor, fixed: Tensor, evidence: Evidence | None) -> Tensor:
        with self.precision(fixed.device):
            if self.checkpointed and torch.is_grad_enabled():
                return checkpoint(self.forward, warped, fixed, evidence, use_reentrant=False)
            return self(warped, fixed, evidence)
