"""A sequence of Gaussians as a compact transform file (JSON) that can be rendered on any grid.

The file has "contract" (its version), "mode" (as in gaussians.py), "dimensions" (2 or 3),
"alignment" (4x4, fixed to moving points, LPS mm, applied after the sequence), "numbers" (how many describe the
sequence) and "steps", lists of Gaussians: "center_lps" and "vector_lps" in mm, "axes_lps", one unit vector each for the
standard deviations "sigma_mm". Those of a single slice have two axes, in its plane; they extend alike across it.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..deform.gaussians import MODES, Gaussians, half_extent, move, numbers_each
from ..deform.tensors import to_array
from ..protocol import errors
from ..protocol.contract import VERSION
from ..protocol.files import MISSHAPEN, parse_json, read_content, unreadable, write_file
from ..registration.method_run import Proposal
from ..registration.resampling import apply_matrix
from ..volume.geometry import Geometry

ACROSS_MM = 1e6  # standard deviation across a slice: the same at every distance
SUFFIXES = (".json",)
BLOCK = 32  # voxels along the edge of what is rendered at a time


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

    On a grid whose voxels are not quite cubes, the axes are those of the ellipsoids as they are in space.

    Args:
        step: In coordinates of gaussians.py on a grid, two components for a flat one.
        grid: That grid.
    """
    nd = step.center.shape[-1]
    unit = half_extent(grid.shape) * np.array(grid.spacing)
    columns = torch.tensor((np.reshape(grid.direction, (3, 3)) * unit)[:, nd - 1 :: -1].tolist(), dtype=torch.float64)
    center, vector = (torch.einsum("xa,bga->bgx", columns, part.double()) for part in (step.center, step.vector))
    variance, axes = torch.linalg.eigh(columns @ step.covariance.double() @ columns.T)  # ascending, 0 across a slice
    sigma, axes = variance[..., 3 - nd :].sqrt(), axes[..., 3 - nd :]
    if nd == 2:
        axes, sigma = _extended(axes, sigma)
    return Gaussians(center + torch.tensor(grid.center_lps, dtype=torch.float64), sigma, axes, vector)


def _extended(axes: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Return axes `(..., 3, 2)` in a plane and their deviations `(..., 2)` with a third one across it."""
    across = torch.linalg.cross(axes[..., 0], axes[..., 1], dim=-1)
    return torch.cat([axes, across[..., None]], -1), torch.cat([sigma, torch.full_like(sigma[..., :1], ACROSS_MM)], -1)


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
    axes = axes.transpose(2, 3)
    if axes.shape[3] == 2:
        axes, sigma = _extended(axes, sigma)
    orthonormal = axes.shape[2:] == (3, 3) and torch.allclose(axes.mT @ axes, torch.eye(3).double(), atol=1e-6)
    numbers = torch.cat([part.flatten() for part in (center, axes, sigma, vector)])
    if not orthonormal or not bool(numbers.isfinite().all() and (sigma > 0).all()):
        msg = "Gaussians need finite numbers and two or three orthogonal axes with positive standard deviations"
        raise ValueError(msg)
    return Gaussians(center, sigma, axes, vector)


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
        data = parse_json(read_content(path))
        version, alignment = data["contract"], np.array(data["alignment"], float)
        steps = [_from_entries(entries) for entries in data["steps"]]
        found = Sequence3d(steps, data["mode"], data["dimensions"], alignment)
        sound = found.mode in MODES and found.dimensions in (2, 3) and alignment.shape == (4, 4) and steps
        sound = sound and np.isfinite(alignment).all()
    except (RuntimeError, *MISSHAPEN) as error:
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
    for block in _blocks(geometry.shape):
        axes = [torch.arange(part.start, part.stop, dtype=torch.float64) for part in block]
        index = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1])
        points = apply_matrix(geometry.ijk_to_lps, index)
        moved = move(points[None], sequence.steps, sequence.mode, truncate=True)[0]
        total = apply_matrix(sequence.alignment, moved) - points
        result[block] = to_array(total.movedim(0, -1))
    return result


def _blocks(shape: tuple[int, int, int]) -> Iterator[tuple[slice, ...]]:
    """Yield small boxes that fill a grid; most Gaussians are far from most of them."""
    starts = (range(0, n, BLOCK) for n in shape)
    for corner in itertools.product(*starts):
        yield tuple(slice(start, min(start + BLOCK, n)) for start, n in zip(corner, shape, strict=True))


def of_proposal(proposal: Proposal) -> Sequence3d:
    """Return in LPS mm what a network proposed on its grid."""
    view = proposal.view
    return gather(proposal.steps, view.geometry, proposal.settings.mode, view.alignment)


def gather(steps: Sequence[Gaussians], grid: Geometry, mode: str, alignment: np.ndarray) -> Sequence3d:
    """Return a sequence in LPS mm from the steps that a network proposed on its grid."""
    return Sequence3d([in_world(step, grid) for step in steps], mode, 2 if grid.is_flat else 3, alignment)
