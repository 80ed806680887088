"""Segments that keep their shape or their volume: from their names to nodes of a working grid, and what is told."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
import torch

from ..deform.bodies import Bodies
from ..volume.geometry import Geometry
from ..volume.intensity import blocks
from ..volume.segment_pairs import Segment, find_named, plain
from ..volume.segments import Segments

BENT_MM = 0.1  # of a rigid segment, from which on it is worth a word
SWOLLEN = 0.01  # of the volume of one that keeps it
LEAST_SHARE = 1e-3  # of a voxel, for a node to take part in what is linear there
CHUNK_VOXELS = 2**20
MEASURED = 50_000  # voxels of a segment
SPANNED = 1e-6  # of the strongest axis, above which a segment extends along an axis


class StoredField(Protocol):
    """A stored deformation, which maps fixed to moving points."""

    @property
    def displacement_lps_mm(self) -> np.ndarray:
        """Its vectors `(k, j, i, 3)`."""

    @property
    def geometry(self) -> Geometry:
        """The grid of these."""

    def at(self, points_lps: np.ndarray) -> np.ndarray:
        """Return the displacement `(N, 3)` at points `(N, 3)`, both LPS mm."""


@dataclass(frozen=True)
class Held:
    """A segment that moves as one piece.

    Attributes:
        name: What people call it.
        rigid: Whether it keeps its shape; if not, its volume.
        segments: Those of the image that has it.
        item: It, among them.
        on_fixed: Whether that is the fixed image.
    """

    name: str
    rigid: bool
    segments: Segments
    item: Segment
    on_fixed: bool

    def places(self) -> Iterator[np.ndarray]:
        """Yield the voxels of it, indices `(N, 3)` in the order i, j, k, part by part."""
        layer = self.segments.layers[self.item.layer]
        for slab in blocks(layer.shape, CHUNK_VOXELS):
            found = np.argwhere(layer[slab] == self.item.value)
            if len(found):
                yield found[:, ::-1] + [0, 0, slab.start]


@dataclass(frozen=True)
class HeldSegments:
    """All segments that move as one piece each."""

    items: list[Held]

    @classmethod
    def of(cls, fixed: Segments | None, moving: Segments | None, rigid: str, volume_keeping: str) -> "HeldSegments":
        """Find segments by name; one that both images have is that of the fixed image.

        Args:
            fixed: Segments of the fixed image.
            moving: Those of the moving image.
            rigid: Names of those that keep their shape, ";" between them; in a name * stands for any text.
            volume_keeping: Names of those that keep their volume.

        Raises:
            EngineError: If there are none of a name.
        """
        sides = [side for side in (fixed, moving) if side is not None]
        homes = [(side, item) for side in sides for item in side.items]
        found: dict[str, Held] = {}
        for names, is_rigid in ((rigid, True), (volume_keeping, False)):
            for side, item in _named(homes, names):
                found.setdefault(plain(item.title), Held(item.title, is_rigid, side, item, side is fixed))
        return cls(list(found.values()))

    def bodies(self, working: Geometry, alignment: np.ndarray, device: torch.device) -> Bodies:
        """Return them on a working grid.

        Args:
            working: The grid; a flat one has its single slice along k.
            alignment: Linear map of fixed to moving points, 4x4 LPS mm.
            device: Where to work.
        """
        flat = working.is_flat
        axes = np.reshape(working.direction, (3, 3))[:, ::-1][:, 1 if flat else 0 :]
        sides = [self._nodes(working, matrix, side) for side, matrix in ((True, np.eye(4)), (False, alignment))]
        fixed, moving = (
            torch.from_numpy(nodes[0] if flat else nodes)[None, None].to(device).float() for nodes in sides
        )
        edges = torch.tensor(working.spacing[::-1][1 if flat else 0 :], dtype=torch.float32)
        linear = torch.from_numpy(axes.T @ alignment[:3, :3] @ axes).float()
        rigid = tuple(item.rigid for item in self.items)
        return Bodies(fixed, moving, rigid, edges.to(device), linear.to(device))

    def _nodes(self, working: Geometry, matrix: np.ndarray, on_fixed: bool) -> np.ndarray:
        """Return at each node `(k, j, i)` the number of the segment of an image that takes most of it, 0 for none."""
        numbers, most = np.zeros(working.shape, np.int16), np.full(working.shape, LEAST_SHARE, np.float32)
        for number, held in enumerate(self.items, start=1):
            if held.on_fixed == on_fixed:
                to_working = working.lps_to_ijk @ np.linalg.inv(matrix) @ held.segments.geometry.ijk_to_lps
                share = _share(held, to_working, working.shape)
                numbers[share > most] = number
                np.maximum(most, share, out=most)
        return numbers

    def exact(self, field: np.ndarray) -> np.ndarray:
        """Return a field on the fixed grid in which every voxel of those of the fixed image follows its segment.

        On a coarser grid voxels of two that touch share nodes, and cannot.

        Args:
            field: `(k, j, i, 3)` LPS mm, alignment included.
        """
        result = field.copy()
        for held in self.items:
            found = np.concatenate([np.empty((0, 3), int), *held.places()])
            if not held.on_fixed or len(found) <= found.shape[1]:
                continue
            i, j, k = found.T
            here = held.segments.geometry.index_to_lps(found)
            there = here + field[k, j, i]
            arms, goal = here - here.mean(0), there.mean(0)
            linear, volume = _linear(arms, there - goal)
            axes = 2 if held.segments.geometry.is_flat else 3
            kept = _turn(arms, there - goal) if held.rigid else linear / volume ** (1 / axes)
            result[k, j, i] = arms @ kept.T + goal - here
        return result

    def told(self, deformation: StoredField) -> list[dict[str, Any]]:
        """Return what came of each under a stored deformation.

        How it turned and moved (degrees, mm), how far a voxel of it is at most from where the closest rigid or linear
        map has it, and the relative change of its volume.
        """
        return [_told(held, deformation) for held in self.items]

    @property
    def sentence(self) -> str:
        """What to tell of them before anything is measured."""
        kinds = (("Moved as rigid bodies", True), ("Kept their volume", False))
        names = ((kind, ", ".join(held.name for held in self.items if held.rigid == rigid)) for kind, rigid in kinds)
        return " ".join(f"{kind}: {listed}." for kind, listed in names if listed)


def missed(told: Sequence[dict[str, Any]]) -> list[str]:
    """Return sentences on segments that did not keep what they were to keep, from what was told of them."""
    unseen = [one["name"] for one in told if "bent_mm" not in one]
    bent = [
        f"{one['name']} ({one['bent_mm']:.1f} mm)" for one in told if one["rigid"] and one.get("bent_mm", 0) > BENT_MM
    ]
    swollen = [
        f"{one['name']} ({100 * one['volume_change']:+.1f} %)"
        for one in told
        if not one["rigid"] and abs(one.get("volume_change", 0)) > SWOLLEN
    ]
    closer = "they may touch others; choose the transform grid of the fixed volume."
    return [
        *([f"Too small or out of view to be held: {', '.join(unseen)}."] if unseen else []),
        *([f"Not quite rigid: {', '.join(bent)}; {closer}"] if bent else []),
        *([f"Volume not quite kept: {', '.join(swollen)}; {closer}"] if swollen else []),
    ]


def _named(homes: Sequence[tuple[Segments, Segment]], names: str) -> list[tuple[Segments, Segment]]:
    """Return those that one of some names means."""
    wanted = find_named([item for _side, item in homes], names, "move as one piece")
    return [home for home in homes if any(home[1] is item for item in wanted)]


def _share(held: Held, to_working: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Return by how much the voxels of a segment take part in each node, float32 `(k, j, i)`, by linear interpolation.

    Where all nodes between which a voxel lies follow a linear map, so does the voxel.
    """
    share = np.zeros(shape, np.float32)
    size = np.array(shape[::-1])
    for places in held.places():
        index = places @ to_working[:3, :3].T + to_working[:3, 3]
        low = np.floor(index).astype(int)
        for corner in product((0, 1), repeat=3):
            nodes = low + corner
            weight = np.prod(1 - np.abs(index - nodes), axis=1)
            inside = ((nodes >= 0) & (nodes < size)).all(1)
            i, j, k = nodes[inside].T
            np.add.at(share, (k, j, i), weight[inside])
    return share


def _told(held: Held, deformation: StoredField) -> dict[str, Any]:
    """Return what became of one segment."""
    here = _seen(held, deformation)
    told: dict[str, Any] = {"name": held.name, "rigid": held.rigid, "nodes": len(here)}
    if len(here) <= here.shape[1]:
        return told
    there = here + deformation.at(here)
    arms, reached = here - here.mean(0), there - there.mean(0)
    turn, (linear, volume) = _turn(arms, reached), _linear(arms, reached)
    fitted = turn if held.rigid else linear
    return {
        **told,
        "turned_deg": float(np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))),
        "moved_mm": float(np.linalg.norm(there.mean(0) - here.mean(0))),
        "bent_mm": float(np.linalg.norm(reached - arms @ fitted.T, axis=1).max()),
        "volume_change": volume - 1,
    }


def _turn(arms: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """Return the rotation that brings points `(N, 3)` closest to others, both about their means (Kabsch 1976)."""
    u, _strengths, v = np.linalg.svd(reached.T @ arms)
    return u @ np.diag([1, 1, np.sign(np.linalg.det(u @ v))]) @ v


def _linear(arms: np.ndarray, reached: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the linear map that does, and its change of volume, or of area if the points lie in a plane."""
    linear = np.linalg.lstsq(arms, reached, rcond=None)[0].T
    _u, strengths, axes = np.linalg.svd(arms, full_matrices=False)
    spanned = axes[strengths > SPANNED * strengths[0]]
    return linear, float(np.prod(np.linalg.svd(linear @ spanned.T, compute_uv=False)))


def _seen(held: Held, deformation: StoredField) -> np.ndarray:
    """Return points `(N, 3)` LPS mm on the fixed image that lie in a segment; of the moving image's, by the nodes."""
    if held.on_fixed:
        geometry = held.segments.geometry
        places = np.concatenate([np.empty((0, 3)), *held.places()])
        return geometry.index_to_lps(places[:: 1 + len(places) // MEASURED])
    grid = deformation.geometry
    nodes = grid.index_to_lps(np.argwhere(np.ones(grid.shape, bool))[:, ::-1])
    index = held.segments.geometry.lps_to_index(nodes + deformation.displacement_lps_mm.reshape(-1, 3))
    voxels = np.rint(index).astype(int)
    inside = ((voxels >= 0) & (voxels < held.segments.geometry.size)).all(1)
    i, j, k = voxels[inside].T
    layer = held.segments.layers[held.item.layer]
    return nodes[inside][layer[k, j, i] == held.item.value]
