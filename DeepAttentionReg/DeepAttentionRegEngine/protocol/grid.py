"""How large the grids are on which a method works: the one policy and the one formula. Standard library only.

They are isotropic and cover the fixed field of view.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .settings import option

MAXIMUM_VOXELS = 4_100_000
FINER = 2.0  # times as many nodes along each axis as the working grid, where fields of segments that slide are joined
SLIDING_NODES = 5_000_000  # of that grid at most, unless the working grid itself has more: 60 MB


@dataclass(frozen=True)
class GridPolicy:
    """How many voxels the grids of a method have.

    Attributes:
        minimum_size: Shortest allowed axis in voxels; the grid grows beyond the field of view if need be.
        maximum_voxels: The working grid has as many voxels as the fixed volume and what it grows by, but no more than
            this and its margin: it is made coarser until that fits.
        network_voxels: Above this the network sees the images reduced, and its field is enlarged.
        margin: Voxels that the working grid reaches beyond either end of the field of view. A convolution sees zeros
            beyond its grid, so that fields are worst at the border; and what the fixed image ends with may have its
            counterpart beyond.
    """

    minimum_size: int = option(32, at_least=1, at_most=1000)
    maximum_voxels: int = option(MAXIMUM_VOXELS, at_least=1)
    network_voxels: int = option(MAXIMUM_VOXELS, at_least=1)
    margin: int = option(0, at_least=0, at_most=1000)

    def working_size(self, size: Sequence[int], spacing: Sequence[float]) -> tuple[int, ...]:
        """Return the size of the working grid over a volume, its axes in the order of the volume's.

        Args:
            size: Voxels along i, j, k.
            spacing: Voxel size in mm along i, j, k.

        Returns:
            Three numbers; two for a single slice, whose own axis is left out.

        Examples:
            >>> GridPolicy().working_size((256, 256, 40), (1.0, 1.0, 4.0))
            (162, 162, 101)
            >>> GridPolicy(minimum_size=32).working_size((256, 256, 1), (1.0, 1.0, 5.0))
            (256, 256)
        """
        edge, around = self.working_spacing(size, spacing), 2 * self.margin
        extent = (size[axis] * spacing[axis] for axis in used_axes(size))
        # 1e-6: a volume that is isotropic already keeps its size despite rounding.
        return tuple(max(self.minimum_size, math.ceil(length / edge - 1e-6) + around) for length in extent)

    def working_spacing(self, size: Sequence[int], spacing: Sequence[float]) -> float:
        """Return the edge of a voxel of the working grid in mm; arguments as in `working_size`."""
        axes = used_axes(size)
        edge = math.prod(spacing[axis] for axis in axes) ** (1 / len(axes))
        return edge * self._coarsening([size[axis] * spacing[axis] / edge for axis in axes], self.maximum_voxels)

    def coarser(self, size: Sequence[int], spacing: Sequence[float], factor: int) -> "GridPolicy":
        """Return a policy whose grids over a volume have so many times fewer voxels, their margins not counted.

        Args:
            size: As in `working_size`.
            spacing: As in `working_size`.
            factor: How many times fewer, 1 or more.

        Examples:
            >>> GridPolicy().coarser((256, 256, 40), (1.0, 1.0, 4.0), 2).working_size((256, 256, 40), (1.0, 1.0, 4.0))
            (128, 128, 80)
        """
        if factor == 1:
            return self
        working = min(self.maximum_voxels, math.prod(size))
        network = min(self.network_voxels, math.prod(self.working_size(size, spacing)))
        return replace(self, maximum_voxels=max(working // factor, 1), network_voxels=max(network // factor, 1))

    def network_size(self, spatial: tuple[int, ...], edge: float = 1.0) -> tuple[int, ...]:
        """Return the size of the grid a network sees.

        Args:
            spatial: Size of the working grid.
            edge: Voxel size that the network knows, in voxels of the working grid; larger ones come of large grids.
        """
        lengths = [n / edge for n in spatial]
        factor = self._coarsening(lengths, self.network_voxels)
        return tuple(max(self.minimum_size, round(n / factor)) for n in lengths)

    def _coarsening(self, lengths: Sequence[float], maximum: int) -> float:
        """Return the factor, 1 or more, by which voxels must grow for a grid to have no more than so many.

        The shortest axes cannot get below the minimum, whatever the factor, so the others make up for them. A grid
        has `prod(max(minimum, length / factor))` voxels, which is the largest of the products with none, one or more
        of the shortest axes at the minimum; each of these gives a bound.

        Args:
            lengths: Of the axes in voxels before.
            maximum: Most voxels; more come only of all axes at the minimum.
        """
        longest = sorted(lengths, reverse=True)
        counts = range(1, len(longest) + 1)
        voxels = {n: math.prod(longest[:n]) * self.minimum_size ** (len(longest) - n) for n in counts}
        return max(1.0, *((voxels[n] / maximum) ** (1 / n) for n in counts))


# Without a network, only the coarsest level of the refinement needs some voxels along each axis.
REFINEMENT_ALONE = GridPolicy(minimum_size=8)


def used_axes(size: Sequence[int]) -> list[int]:
    """Return the axes of a volume along which it extends: all three, or the two of a single slice."""
    flat = list(size).index(1) if list(size).count(1) == 1 else None
    return [axis for axis in range(3) if axis != flat]


def check_pyramid(pyramid: Sequence[int], *, sees_structures: bool) -> None:
    """Refuse with a ValueError what are no factors, coarse to fine, or a network that would see warped structures."""
    if pyramid and sees_structures:
        msg = "a pyramid is for networks that see whole images, without structures"
        raise ValueError(msg)
    if pyramid and (min(pyramid) < 2 or list(pyramid) != sorted(pyramid, reverse=True)):
        msg = f"pyramid is {list(pyramid)}, but must be factors of 2 or more, coarse to fine"
        raise ValueError(msg)


def pyramid_factors(pyramid: Sequence[int], count: int) -> list[int]:
    """Return by which factor the grid of each recursion is coarser; the last is on the network's own.

    Of fewer recursions than the pyramid has grids the coarsest are left out.

    Args:
        pyramid: Factors of the first recursions, one each, coarse to fine.
        count: Number of recursions.

    Examples:
        >>> pyramid_factors((4, 2), 5)
        [4, 2, 1, 1, 1]
        >>> pyramid_factors((4, 2), 2)
        [2, 1]
    """
    coarse = pyramid[max(0, len(pyramid) + 1 - count) :]
    return [*coarse, *[1] * (count - len(coarse))]
