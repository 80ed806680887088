"""Segments that move as one piece each: in each the deformation is one linear map, rigid or of constant volume.

Every displacement is projected onto such ones, differentiably, so that refinement never leaves them, and what lies
between the pieces follows by its smoothness. In each piece an affine map is fitted to where its nodes go; of that the
closest rotation is kept (its polar factor), or its volume is made one.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from .folds import central_folds, folds, unfolded
from .losses import box_sum
from .warp import resize, resize_displacement, shrink, warp

ROUNDS = 10  # of smoothing folds around pieces
IN_VAIN = 4  # of these without fewer folds, after which the best is kept
SETTLED = 1e-3  # voxels
EASED = 9  # nodes, twice: of windows in which what is around pieces follows them
ROTATION_STEPS = 8
SLACK = 1e-5  # of a piece's extent along all axes, that is added to each, so that none is flat
LEAST = 1e-6  # of what is divided by
INVERTED = 0.05  # least determinant of what is fitted; below it a piece does not turn


@dataclass(frozen=True)
class Bodies:
    """Segments of either image that move as one piece each.

    Attributes:
        fixed: `(1, 1, *spatial)`, at the nodes that a segment of the fixed image takes its number, from 1, else 0.
        moving: The same of segments that only the moving image has, seen through the alignment.
        rigid: Of each segment, the first one's first, whether it keeps its shape; if not, its volume.
        edges: mm of a voxel along each axis.
        linear: `(nd, nd)`, the alignment's linear part along these axes: it comes after the displacement.
    """

    fixed: Tensor
    moving: Tensor
    rigid: tuple[bool, ...]
    edges: Tensor
    linear: Tensor

    def placed(self, displacement: Tensor) -> "Placed":
        """Return them where a displacement `(1, nd, *any)` has those of the moving image."""
        labels = self.fixed
        if self.moving.any():
            here = resize_displacement(displacement.detach(), labels.shape[2:])
            there = warp(self.moving, here, nearest=True)
            pool = F.max_pool2d if there.ndim == 4 else F.max_pool3d
            labels = torch.where(labels > 0, labels, pool(there, 3, stride=1, padding=1))
        return Placed(labels, self)

    @torch.no_grad()
    def settled(self, displacement: Tensor) -> Tensor:
        """Return a displacement `(1, nd, *any)` that keeps every piece, smoothed around them where it folds."""
        fewest, best, vain = math.inf, displacement, 0
        for number in range(ROUNDS):
            kept = self.placed(displacement).kept(displacement)
            folded = bool(folds(kept).any())
            if not folded and float((kept - displacement).abs().max()) < SETTLED:
                return kept
            count = int(central_folds(kept).sum())
            # Without folds, the last one keeps the pieces best; with them, the first one has not been smoothed yet.
            if not folded or (number and count < fewest):
                fewest, best, vain = count, kept, 0
            elif number:
                vain += 1
            if folded and vain == IN_VAIN:
                break
            displacement = unfolded(kept) if folded else kept
        # Where it has those of the moving image, has changed with it.
        return self.placed(best).kept(best) if self.moving.any() else best


@dataclass(frozen=True)
class Placed:
    """Bodies whose places on the fixed image are known.

    Attributes:
        labels: As `Bodies.fixed`, of all.
        bodies: What they are.
    """

    labels: Tensor
    bodies: Bodies

    @cached_property
    def _grids(self) -> dict[tuple[int, ...], "Pieces"]:
        return {}

    def kept(self, displacement: Tensor) -> Tensor:
        """Return displacements on any grid over the same field of view, `(B, nd, *any)`, that keep every piece."""
        size = tuple(displacement.shape[2:])
        if size not in self._grids:
            self._grids[size] = self._on(size)
        return torch.cat([self._grids[size].kept(one) for one in displacement.split(1)])

    def divided(self, inside: Tensor) -> tuple["Placed", "Placed"]:
        """Return the pieces of which most lies inside a segment, and the others.

        Args:
            inside: `(1, 1, *any)` in [0, 1].
        """
        share = resize(inside, self.labels.shape[2:])
        within = torch.zeros_like(self.labels, dtype=torch.bool)
        for number in range(1, len(self.bodies.rigid) + 1):
            piece = self.labels == number
            if piece.any() and share[piece].mean() > 0.5:
                within |= piece
        return Placed(self.labels * within, self.bodies), Placed(self.labels * ~within, self.bodies)

    def eased(self, displacement: Tensor) -> Tensor:
        """Return displacements that keep every piece, and change steadily around them; arguments as of `kept`."""
        size = displacement.shape[2:]
        change = self.kept(displacement) - displacement
        held = (shrink((self.labels > 0).to(change), size) > 0).to(change)
        near, around = held, change * held
        for _round in range(2):
            near, around = box_sum(near, EASED), box_sum(around, EASED)
        pool = F.max_pool2d if held.ndim == 4 else F.max_pool3d
        beside = box_sum(pool(held, EASED, stride=1, padding=EASED // 2), EASED) / EASED ** len(size)
        around = around / near.clamp_min(1) * (2 * beside).clamp_max(1)
        return displacement + torch.where(held > 0, change, around)

    def _on(self, size: tuple[int, ...]) -> "Pieces":
        nodes, numbers, shares = [], [], []
        for number in range(1, len(self.bodies.rigid) + 1):
            share = shrink((self.labels == number).to(self.bodies.edges), size).flatten()
            taken = share.nonzero()[:, 0]
            nodes.append(taken)
            numbers.append(torch.full_like(taken, number - 1))
            shares.append(share[taken])
        whole = torch.tensor(self.labels.shape[2:]).to(self.bodies.edges)
        edges = self.bodies.edges * whole / torch.tensor(size).to(whole)
        return Pieces(torch.cat(nodes), torch.cat(numbers), torch.cat(shares)[:, None], edges, size, self.bodies)


@dataclass(frozen=True)
class Pieces:
    """Bodies on one grid.

    Attributes:
        nodes: `(M,)`, indices into the grid.
        numbers: `(M,)`, of which body, from 0.
        shares: `(M, 1)`, how much of the node belongs to it.
        edges: mm of a voxel along each axis.
        size: Of the grid.
        bodies: What they are.
    """

    nodes: Tensor
    numbers: Tensor
    shares: Tensor
    edges: Tensor
    size: tuple[int, ...]
    bodies: Bodies

    @cached_property
    def places(self) -> Tensor:
        """Where the nodes lie, `(M, nd)` mm."""
        return torch.stack(torch.unravel_index(self.nodes, self.size), 1) * self.edges

    def kept(self, displacement: Tensor) -> Tensor:
        """Return a displacement `(1, nd, *size)` in voxels that keeps every piece; differentiable."""
        motion = displacement[0].flatten(1).T
        here = self.places
        there = (here + motion[self.nodes] * self.edges) @ self.bodies.linear.T
        middle, goal = self._mean(here), self._mean(there)
        arms = here - middle[self.numbers]
        maps = self._maps(arms, there - goal[self.numbers])
        moved = (maps[self.numbers] @ arms[:, :, None])[:, :, 0] + goal[self.numbers]
        wanted = (moved @ torch.linalg.inv(self.bodies.linear).T - here) / self.edges
        change = self.shares * (wanted - motion[self.nodes])
        return motion.index_add(0, self.nodes, change).T.reshape(displacement.shape)

    def _maps(self, arms: Tensor, reached: Tensor) -> Tensor:
        """Return the linear map `(N, nd, nd)` of each body, of `(M, nd)` mm from its middle before and after."""
        spread, carried = (self._sum(side[:, :, None] * arms[:, None]) for side in (arms, reached))
        slack = SLACK * spread.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] + SETTLED
        fitted = (carried + slack * self.bodies.linear) @ torch.linalg.inv(
            spread + slack * torch.eye(arms.shape[1]).to(arms)
        )
        sound = torch.linalg.det(fitted)[:, None, None] > INVERTED
        fitted = torch.where(sound, fitted, self.bodies.linear)
        volume = torch.linalg.det(fitted)[:, None, None] ** (1 / arms.shape[1])
        rigid = torch.tensor(self.bodies.rigid, device=arms.device)[:, None, None]
        return torch.where(rigid, _rotation(fitted), fitted / volume)

    def _sum(self, values: Tensor) -> Tensor:
        """Return the sums `(N, ...)` of values `(M, ...)` over the nodes of each body."""
        shares = self.shares.view(-1, *[1] * (values.ndim - 1))
        total = values.new_zeros(len(self.bodies.rigid), *values.shape[1:])
        return total.index_add(0, self.numbers, values * shares)

    def _mean(self, values: Tensor) -> Tensor:
        return self._sum(values) / self._sum(torch.ones_like(self.shares)).clamp_min(LEAST)


def _rotation(maps: Tensor) -> Tensor:
    """Return the rotations closest to maps `(N, nd, nd)` that turn nothing inside out (Newton; Higham 1986)."""
    for _step in range(ROTATION_STEPS):
        maps = (maps + torch.linalg.inv(maps).transpose(1, 2)) / 2
    return maps
