"""Landmark pairs lead the deformation of a working pair: to its start, through its refinement, and at its end."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..deform.folds import unfolded
from ..deform.pairs import Landmarks, at_points
from ..deform.warp import resize_displacement
from ..volume.geometry import Geometry
from .interpolation import Interpolation, interpolate
from .landmarks import Contradiction, contradictions

NODES = 48  # at most along an axis, of the grid on which a field through landmarks is computed
LAST_REACH = 4.0  # voxels around a landmark that are moved with it in the end
INVERSIONS = 10  # steps, of a displacement that bends gently
CLOSE = 0.05  # mm; closer than that nothing is corrected


@dataclass(frozen=True)
class LandmarkGuide:
    """Landmarks on the working grid of a pair.

    Attributes:
        places: `(N, nd)` in voxels, array axis order, of all landmarks on the fixed image.
        partners: `(N, nd)`, where the linear alignment has their partners.
        working: The working grid.
        tolerance_mm: How far they may end from their partners.
    """

    places: np.ndarray
    partners: np.ndarray
    working: Geometry
    tolerance_mm: float

    @classmethod
    def of(
        cls, points: tuple[np.ndarray, np.ndarray], alignment: np.ndarray, working: Geometry, tolerance_mm: float
    ) -> "LandmarkGuide":
        """Return that of landmarks `(N, 3)` in LPS mm on either image; of a slice, what leads out of it is left out."""
        fixed_lps, moving_lps = points
        aligned = (moving_lps - alignment[:3, 3]) @ np.linalg.inv(alignment[:3, :3]).T
        axes = slice(1 if working.is_flat else 2, None, -1)
        places, partners = (working.lps_to_index(points)[:, axes].copy() for points in (fixed_lps, aligned))
        return cls(places, partners, working, tolerance_mm)

    @cached_property
    def contradictions(self) -> list[Contradiction]:
        """Landmarks that do not guide."""
        mm = self._mm
        return contradictions(self.places * mm, (self.partners - self.places) * mm, self._extent)

    @cached_property
    def landmarks(self) -> Landmarks:
        """Those that guide."""
        wrong = {number for one in self.contradictions for number in (one.number, one.partner)}
        kept = [index for index in range(len(self.places)) if index + 1 not in wrong]
        places, partners = (torch.from_numpy(points[kept]).float() for points in (self.places, self.partners))
        spatial = self.working.shape[1:] if self.working.is_flat else self.working.shape
        return Landmarks(places, partners, spatial, self.tolerance_mm / self._mm)

    @property
    def _mm(self) -> float:
        return float(self.working.spacing[0])

    @property
    def _extent(self) -> float:
        return float(max(self.working.extent_mm))

    def bent(self, bending: Tensor) -> "LandmarkGuide":
        """Return that for a moving image which was warped by a displacement `(1, nd, *spatial)` in voxels."""
        partners = torch.from_numpy(self.partners).float()
        places = partners
        for _ in range(INVERSIONS):
            places = partners - at_points(bending.cpu(), places)
        return replace(self, partners=places.double().numpy())

    def led(self, displacement: Tensor) -> tuple[Tensor, Interpolation]:
        """Return a displacement `(1, nd, *spatial)` in voxels that meets the landmarks, changed as smoothly as can be.

        Also returns the field that was added, in mm, which knows how far each landmark was foretold by the others.
        """
        points, missed = self._missed(displacement)
        field = interpolate(points, missed, self._extent)
        return displacement + self._added(field, displacement), field

    def met(self, displacement: Tensor) -> Tensor:
        """Return a displacement that meets the landmarks within the tolerance, changed close to them alone."""
        points, missed = self._missed(displacement)
        lengths = np.linalg.norm(missed, axis=1, keepdims=True)
        excess = missed * (1 - self.tolerance_mm / lengths.clip(1e-9)).clip(0)
        if np.linalg.norm(excess, axis=1).max() <= CLOSE:
            return displacement
        near = Interpolation(points, excess, "none", LAST_REACH * self._mm)
        return unfolded(displacement + self._added(near, displacement, nodes=None))

    def _missed(self, displacement: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return the landmarks and what a displacement misses them by, both in mm."""
        found = self.landmarks
        missed = found.missed(displacement.cpu())
        return found.places.double().numpy() * self._mm, missed.double().numpy() * self._mm

    def _added(self, field: Interpolation, like: Tensor, nodes: int | None = NODES) -> Tensor:
        """Return a field in mm as a displacement in voxels, computed on a coarser grid."""
        full = tuple(like.shape[2:])
        spatial = tuple(min(n, nodes or n) for n in full)
        factors = [whole / part for whole, part in zip(full, spatial, strict=True)]
        axes = [((np.arange(n) + 0.5) * factor - 0.5) * self._mm for n, factor in zip(spatial, factors, strict=True)]
        places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(full))
        slabs = np.array_split(places, max(1, len(places) * len(field.points) // 2_000_000))
        values = np.concatenate([field.at(slab) for slab in slabs]) / self._mm / np.array(factors)
        found = torch.from_numpy(values.T.reshape(1, len(full), *spatial)).to(like)
        return resize_displacement(found, full)

    def told(self, field: Interpolation) -> dict[str, Any]:
        """Return what a result says of them."""
        errors = np.linalg.norm(field.left_out, axis=1)
        foretold = {"mean": float(errors.mean()), "max": float(errors.max())}
        return {
            "guided": len(errors),
            "tolerance_mm": self.tolerance_mm,
            "contradictions": [one.sentence for one in self.contradictions],
            "left_out_mm": foretold if len(errors) > 1 else None,
        }
