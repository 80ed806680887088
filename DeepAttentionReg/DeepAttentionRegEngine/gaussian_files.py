"""A sequence of Gaussians as a compact transform file (JSON) that can be rendered on any grid.

The file has "contract" (its version), "mode" (as in gaussians.py), "dimensions" (2 or 3),
"alignment" (4x4, fixed to moving points, LPS mm, applied after the sequence), "numbers" (how many describe the
sequence) and "steps", lists of Gaussians: "center_lps" and "vector_lps" in mm, "axes_lps", one unit vector each for the
standard deviations "sigma_mm". Those of a single slice have two axes, in its plane; they extend alike across it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import errors
from .contract import VERSION
from .files import read_file, unreadable, write_file
from .gaussians import MODES, Gaussians, half_extent, move, numbers_each
from .geometry import Geometry
from .preprocess import apply_matrix, slab_indices, slabs
from .tensors import to_array

ACROSS_MM = 1e6  # standard deviation across a slice: the same at every distance
SUFFIXES = (".json",)


@dataclass(frozen=True)
class Sequence3d:
    """A sequence in LPS mm: Gaussians of three components each, float64.

    Attributes:
        steps: Gaussians of every step; B = 1.
        mode: As in gaussians.py.
        dimensions: 2 if it describes a slice, else 3.
        alignment: 4x4, fixed to moving points, applied after it.
    """

    steps: list[Gaussians]
    mode: str
    dimensions: int
    alignment: np.ndarray

    @property
    def numbers(self) -> int:
        """How many numbers describe the sequence, alignment left out."""
        return numbers_each(self.dimensions) * sum(step.center.shape[1] for step in self.steps)


def in_world(step: Gaussians, grid: Geometry) -> Gaussians:
    """Return the Gaussians of one step in LPS mm.

    Args:
        step: In coordinates of gaussians.py on a grid, two components for a flat one.
        grid: That grid.
    """
    length = half_extent(grid.shape) * grid.spacing[0]
    columns = torch.tensor(grid.direction, dtype=torch.float64).view(3, 3).flip(1)  # of the axes k, j, i
    if grid.is_flat:
        columns = columns[:, 1:]
    turned = torch.einsum("xa,bgac->bgxc", columns, step.rotation.double())
    sigma = length * step.sigma.double()
    if grid.is_flat:
        turned = torch.cat([turned, torch.linalg.cross(turned[..., 0], turned[..., 1], dim=-1)[..., None]], -1)
        sigma = torch.cat([sigma, torch.full_like(sigma[..., :1], ACROSS_MM)], -1)
    center, vector = (
        length * torch.einsum("xa,bga->bgx", columns, part.double()) for part in (step.center, step.vector)
    )
    return Gaussians(center + torch.tensor(grid.center_lps, dtype=torch.float64), sigma, turned, vector)


def to_entries(step: Gaussians, dimensions: int) -> list[dict[str, Any]]:
    """Return the Gaussians of one step in LPS mm as plain lists."""
    return [
        {
            "center_lps": step.center[0, index].tolist(),
            "axes_lps": step.rotation[0, index].T[:dimensions].tolist(),
            "sigma_mm": step.sigma[0, index, :dimensions].tolist(),
            "vector_lps": step.vector[0, index].tolist(),
        }
        for index in range(step.center.shape[1])
    ]


def _from_entries(entries: list[dict[str, Any]]) -> Gaussians:
    def stacked(name: str) -> Tensor:
        return torch.tensor([entry[name] for entry in entries], dtype=torch.float64)[None]

    center, axes, sigma, vector = (stacked(name) for name in ("center_lps", "axes_lps", "sigma_mm", "vector_lps"))
    if axes.shape[2] == 2:
        axes = torch.cat([axes, torch.linalg.cross(axes[:, :, :1], axes[:, :, 1:], dim=-1)], 2)
        sigma = torch.cat([sigma, torch.full_like(sigma[..., :1], ACROSS_MM)], -1)
    if axes.shape[2:] != (3, 3) or not bool((sigma > 0).all()):
        msg = "Gaussians need two or three axes, each with a positive standard deviation"
        raise ValueError(msg)
    return Gaussians(center, sigma, axes.transpose(2, 3), vector)


def write_sequence(path: str | Path, sequence: Sequence3d) -> None:
    """Write a sequence.

    Raises:
        EngineError: If it cannot be written; an existing file is then untouched.
    """
    data = {
        "contract": VERSION,
        "mode": sequence.mode,
        "dimensions": sequence.dimensions,
        "alignment": np.asarray(sequence.alignment).tolist(),
        "numbers": sequence.numbers,
        "steps": [to_entries(step, sequence.dimensions) for step in sequence.steps],
    }
    text = json.dumps(data, allow_nan=False)
    write_file(
        path,
        SUFFIXES,
        lambda name: Path(name).write_text(text, encoding="ascii"),
        lambda name: Path(name).read_text(encoding="ascii") == text,
    )


def read_sequence(path: str | Path) -> Sequence3d:
    """Read what `write_sequence` wrote.

    Raises:
        EngineError: If the file is missing, damaged or of another version.
    """
    try:
        data = json.loads(read_file(path, lambda name: Path(name).read_text(encoding="ascii")))
        version, alignment = data["contract"], np.array(data["alignment"], float)
        steps = [_from_entries(entries) for entries in data["steps"]]
        found = Sequence3d(steps, data["mode"], data["dimensions"], alignment)
        sound = found.mode in MODES and found.dimensions in (2, 3) and alignment.shape == (4, 4) and steps
    except (ValueError, KeyError, TypeError, RuntimeError, IndexError) as error:
        raise unreadable(path) from error
    if not sound:
        raise unreadable(path)
    if version != VERSION:
        raise errors.EngineError(
            errors.CONTRACT, f"{path} is of version {version!r}, not {VERSION}.", "Register the volumes again."
        )
    return found


def render(sequence: Sequence3d, geometry: Geometry) -> np.ndarray:
    """Return the displacement of a sequence and its alignment on a grid: `u(x) = A (x + v(x)) - x`.

    Args:
        sequence: In LPS mm.
        geometry: Any grid; its resolution does not limit the sequence.

    Returns:
        float32 `(k, j, i, 3)`, LPS mm.
    """
    result = np.empty((*geometry.shape, 3), np.float32)
    for slab in slabs(geometry.shape):
        index = slab_indices(geometry.shape, slab, torch.device("cpu")).double()
        points = apply_matrix(geometry.ijk_to_lps, index)
        moved = move(points[None], sequence.steps, sequence.mode)[0]
        total = apply_matrix(sequence.alignment, moved) - points
        result[slab] = to_array(total.movedim(0, -1))
    return result


def gather(steps: Sequence[Gaussians], grid: Geometry, mode: str, alignment: np.ndarray) -> Sequence3d:
    """Return a sequence in LPS mm from the steps that a network proposed on its grid."""
    return Sequence3d([in_world(step, grid) for step in steps], mode, 2 if grid.is_flat else 3, alignment)
