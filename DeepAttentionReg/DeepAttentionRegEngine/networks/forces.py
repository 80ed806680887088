"""Where the moving image wants to go at each voxel by optical flow, and networks whose fields start from it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, avg_pool3d, pad

from ..deform.losses import LocalNcc, box_mean, mean_within
from ..deform.mind import mind_ssc
from ..deform.warp import resize, resize_displacement
from .blocks import CONVOLUTIONS, pool

POOLS = {2: avg_pool2d, 3: avg_pool3d}
NOISE = 1e-3  # of images of deviation 1: smaller contrasts say nothing
DAMPING, FLOOR = 0.05, 1e-4  # of the structure tensor of descriptors: a share of its trace, and what noise has
LONGEST = 2.0  # voxels: what is further away is not to be seen from here
START_GAIN, START_GAINS = 0.3, 1.2  # of a candidate at most, of all together
NEAR = 5  # voxels along the window in which images are normalised
AROUND = 15  # voxels of half resolution
TRUSTED = 0.125  # mean correlation within these, from which the flow between images counts in full

Guides = tuple[tuple[int, int], ...]  # level (0 full, 1 half resolution, ...) and window in voxels of it


def demons_force(fixed: Tensor, warped: Tensor) -> Tensor:
    """Return the displacement in voxels by which linearly varying intensities would agree.

    `(F - W) grad / (|grad|^2 + (F - W)^2)` of the images averaged over three voxels per axis, grad being that of their
    mean; no longer than half a voxel. Source: Thirion 1998, with the symmetric gradient of Vercauteren et al. 2009.

    Args:
        fixed: `(B, 1, *spatial)`, mean 0 and deviation 1.
        warped: Same shape.

    Returns:
        `(B, nd, *spatial)`, components in array axis order.
    """
    difference, slope = _differences(fixed, warped)
    slope = slope[:, 0]
    return difference * slope / (slope.square().sum(1, keepdim=True) + difference.square() + NOISE)


def lucas_kanade(fixed: Tensor, warped: Tensor, windows: Iterable[int], *, halved: bool = False) -> list[Tensor]:
    """Return the displacement in voxels that explains the difference of two descriptors best, for each window.

    Solves `(sum grad grad^T + damping) u = sum grad (F - W)`, sums over channels and over the window about each voxel;
    no longer than `LONGEST`. Source: Lucas and Kanade 1981.

    Args:
        fixed: `(B, C, *spatial)`.
        warped: Same shape.
        windows: Odd edge lengths in voxels.
        halved: Sum and solve on a grid of half the resolution, an eighth of the work in volumes; windows, displacements
            and their limit are in voxels of it then.

    Returns:
        `(B, nd, *spatial)` for each window, components in array axis order.
    """
    windows = tuple(windows)
    if not windows:
        return []
    difference, slope = _differences(fixed, warped)
    nd = slope.shape[2]
    wanted = (difference[:, :, None] * slope).sum(1)
    tensor = torch.cat([(slope[:, :, a, None] * slope[:, :, a:]).sum(1) for a in range(nd)], 1)
    if halved:
        tensor, wanted = pool(tensor), pool(wanted) / 2
    return [_solved(box_mean(tensor, window), box_mean(wanted, window)) for window in windows]


def _solved(tensor: Tensor, wanted: Tensor) -> Tensor:
    """Return the solution of damped linear systems, by cofactors: solvers take matrices one by one.

    Args:
        tensor: `(B, nd (nd + 1) / 2, *spatial)`, the rows of the symmetric matrices from the diagonal on.
        wanted: `(B, nd, *spatial)`.
    """
    nd = wanted.shape[1]
    place = {2: ((0, 1), (1, 2)), 3: ((0, 1, 2), (1, 3, 4), (2, 4, 5))}[nd]
    entries = tensor.unbind(1)
    weight = DAMPING * torch.stack([entries[place[n][n]] for n in range(nd)]).sum(0) + FLOOR
    identity = torch.eye(nd, device=tensor.device).view(nd, 1, nd, *[1] * (tensor.ndim - 2))
    plain = (torch.stack([entries[column] for column in row], 1) for row in place)
    rows = [row + weight[:, None] * one for row, one in zip(plain, identity, strict=True)]
    if nd == 2:
        (a, b), (c, d) = (row.unbind(1) for row in rows)
        columns = [torch.stack([d, -c], 1), torch.stack([-b, a], 1)]
    else:
        columns = [torch.linalg.cross(rows[n - 2], rows[n - 1], dim=1) for n in range(3)]
    determinant = (rows[0] * columns[0]).sum(1, keepdim=True)
    found = sum(column * wanted[:, n, None] for n, column in enumerate(columns)) / determinant
    squared_length = found.square().sum(1, keepdim=True)  # `norm` takes several times as long
    return found * (LONGEST / squared_length.clamp_min(LONGEST**2).sqrt())


def _differences(fixed: Tensor, warped: Tensor) -> tuple[Tensor, Tensor]:
    """Return difference and mean gradient (`gradient`) of maps averaged over three voxels per axis."""
    fixed, warped = (POOLS[fixed.ndim - 2](image, 3, 1, 1, count_include_pad=False) for image in (fixed, warped))
    return fixed - warped, gradient((fixed + warped) / 2)


def gradient(image: Tensor) -> Tensor:
    """Return central differences per voxel of `(B, C, *spatial)`, `(B, C, nd, *spatial)`; the edge value continues."""
    nd = image.ndim - 2
    padded = pad(image, [1] * (2 * nd), mode="replicate")
    slopes = []
    for axis in range(2, image.ndim):
        inner = padded
        for other in {*range(2, image.ndim)} - {axis}:
            inner = inner.narrow(other, 1, image.shape[other])
        ahead, behind = (inner.narrow(axis, start, image.shape[axis]) for start in (2, 0))
        slopes.append((ahead - behind) / 2)
    return torch.stack(slopes, 2)


@torch.no_grad()
def normalized(image: Tensor) -> Tensor:
    """Return an image `(B, 1, *spatial)` with mean 0 and deviation 1 within `NEAR` voxels about each.

    The optical flow between two of them is a Gauss-Newton step on their local correlation.
    """
    with torch.autocast(image.device.type, enabled=False):
        return LocalNcc(image, NEAR).normal


@torch.no_grad()
def correlation(fixed: Tensor, warped: Tensor) -> Tensor:
    """Return the local correlation of two images from `normalized`, -1 to 1, at half their resolution."""
    return box_mean(pool(fixed * warped), NEAR // 2 + 1).clamp(-1, 1)


@torch.no_grad()
def descriptors(image: Tensor, levels: Iterable[int]) -> dict[int, Tensor]:
    """Return the MIND-SSC of an image halved as often as each level says; what they tell does not hang on contrast.

    Args:
        image: `(B, 1, *spatial)`.
        levels: 0 is the image itself.
    """
    wanted, result = set(levels), {}
    with torch.autocast(image.device.type, enabled=False):
        for level in range(max(wanted, default=-1) + 1):
            image = image if level == 0 else pool(image)
            if level in wanted:
                result[level] = mind_ssc(image, dilation=1)
    return result


@dataclass(frozen=True)
class Described:
    """What optical flow is computed of.

    Attributes:
        structure: Descriptors by level, whatever the contrast.
        normal: The image, locally normalised, at full resolution; None where it is not wanted.
    """

    structure: dict[int, Tensor]
    normal: Tensor | None = None


@dataclass(frozen=True)
class Flows:
    """Where the moving image wants to go.

    Attributes:
        candidates: `(B, nd, *size)` in voxels of grids of any size over the same field of view.
        alike: `(B, 1, *size)`, the local correlation of the images; None where it is not known.
    """

    candidates: list[Tensor]
    alike: Tensor | None = None


def described(image: Tensor, guides: Guides, correlated: Sequence[int]) -> Described:
    """Return what `flows` needs of an image `(B, 1, *spatial)`."""
    return Described(descriptors(image, [level for level, _ in guides]), normalized(image) if correlated else None)


@torch.no_grad()
def flows(fixed: Described, warped: Described, guides: Guides, correlated: Sequence[int]) -> Flows:
    """Return the optical flow between descriptors of two images for every guide, then between the images themselves.

    Args:
        fixed: Of the fixed image.
        warped: Of the moving one, warped by what is known already.
        guides: Level and window of the flows between descriptors.
        correlated: Windows, in voxels of half resolution, of those between the images, locally normalised. Where these
            hardly correlate, as of two contrasts, such flow is misleading and does not count.
    """
    found = [
        flow
        for level in dict.fromkeys(level for level, _ in guides)
        for flow in lucas_kanade(
            fixed.structure[level], warped.structure[level], [window for at, window in guides if at == level]
        )
    ]
    if fixed.normal is None or warped.normal is None:
        return Flows(found)
    alike = correlation(fixed.normal, warped.normal)
    trust = (mean_within(alike, AROUND) / TRUSTED).clamp(0, 1)
    found += [trust * flow for flow in lucas_kanade(fixed.normal, warped.normal, correlated, halved=True)]
    return Flows(found, alike)


def start_gain(count: int) -> float:
    """Return the gain of each of so many candidates before anything is learned."""
    return min(START_GAIN, START_GAINS / count)


class Guide(nn.Module):
    """Candidate velocities, each times a gain in (0, 1) that features decide at every voxel.

    Normalised features know neither how far to go nor which way all is displaced; optical flow does. A network that
    starts from it learns where to trust which window, and what they miss, which takes far fewer pairs than learning to
    match.
    """

    def __init__(self, nd: int, channels: int, count: int, *, correlated: bool = False) -> None:
        """Build the module for features of so many channels and `count` candidates.

        If correlated, how much the images are alike at each voxel decides, too.
        """
        super().__init__()
        self.gain = CONVOLUTIONS[nd](channels + correlated, count, 3, padding=1)
        nn.init.zeros_(self.gain.weight)
        nn.init.constant_(self.gain.bias, float(torch.tensor(start_gain(count)).logit()))

    def forward(self, features: Tensor, flows: Flows) -> Tensor:
        """Return a velocity `(B, nd, *spatial)` in voxels of the features' grid `(B, channels, *spatial)`."""
        seen, spatial = features, features.shape[2:]
        if flows.alike is not None:
            seen = torch.cat([features, resize(flows.alike, spatial).to(features.dtype)], 1)
        gains = self.gain(seen).float().sigmoid().split(1, 1)
        steps = (resize_displacement(candidate, spatial) for candidate in flows.candidates)
        return torch.stack([gain * step for gain, step in zip(gains, steps, strict=True)]).sum(0)
