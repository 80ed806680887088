"""On which grid a deformation is stored: where it was found, or on the grid of the fixed volume."""

import math
from typing import Any

import numpy as np
from torch import Tensor

from ..protocol.settings import AS_FIXED
from ..volume.geometry import Geometry
from .deformation import StoredDeformation
from .preprocess import WorkingPair, field_on
from .working_grid import nodes_over

BOUND_MM = 0.05  # between nodes, from what was found to what Slicer makes of it
MOST_NODES = 5_000_000  # of a finer grid than that on which the field was found: 60 MB
DIGIT_MM = 2.0**-11  # displacements are multiples of it, for files that compress well


def store(displacement: Tensor, pair: WorkingPair, fixed: Geometry, choice: str) -> StoredDeformation:
    """Return what was found on the grid on which it is to be stored.

    Linear between the nodes of its grid, it is the field that was found. Where cubic interpolation is more than
    `BOUND_MM` off, it gets nodes in between, or those of the fixed volume if these are fewer; unless they are more than
    `MOST_NODES`, or segments slide: where the displacement jumps no grid has interpolations agree.

    Args:
        displacement: `(1, nd, *any)` in voxels of its grid over the field of view of the working grid.
        pair: The working pair it belongs to.
        fixed: Grid of the fixed volume.
        choice: A value of the setting `transform_grid`.
    """
    if choice == AS_FIXED:
        return StoredDeformation(field_on(displacement, pair, fixed), fixed)
    own = nodes_over(fixed, pair.grid_of(displacement))
    found = found_on(displacement, pair, own)
    factor = math.ceil(found.bound_mm / BOUND_MM)
    if factor <= 1 or pair.sliding is not None:
        return found
    finer = _refined(own, factor)
    chosen = min((finer, fixed), key=_nodes)
    if _nodes(chosen) > MOST_NODES:
        return found
    if chosen is fixed:
        return StoredDeformation(field_on(displacement, pair, fixed), fixed)
    return found_on(displacement, pair, finer)


def found_on(displacement: Tensor, pair: WorkingPair, grid: Geometry) -> StoredDeformation:
    """Return what was found at the nodes of a grid, to `DIGIT_MM`; arguments as of `field_on`."""
    values = field_on(displacement, pair, grid)
    values /= DIGIT_MM
    np.rint(values, out=values)
    values *= DIGIT_MM
    return StoredDeformation(values, grid)


def described(deformation: StoredDeformation) -> dict[str, Any]:
    """Return what a result tells of the grid of a deformation: size, spacing, and how far interpolations differ."""
    grid = deformation.geometry
    return {"size": list(grid.size), "spacing_mm": list(grid.spacing), "bound_mm": deformation.bound_mm}


def _refined(grid: Geometry, factor: int) -> Geometry:
    """Return a grid with the nodes of another one and, along each axis, `factor - 1` between any two."""
    size = (np.array(grid.size) - 1) * factor + 1
    return Geometry.from_arrays(size, np.divide(grid.spacing, factor), grid.origin, grid.direction)


def _nodes(grid: Geometry) -> int:
    return math.prod(grid.size)
