"""Landmark pairs lead the deformation of a working pair: to its start, through its refinement, and at its end."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..deform.folds import unfolded
from ..deform.pairs import Landmarks
from ..deform.warp import sample_points
from ..landmarks.contradictions import Contradiction, contradictions
from ..landmarks.interpolation import Interpolation, interpolate
from ..volume.geometry import Geometry

LAST_REACH = 4.0  # voxels around a landmark that are moved with it in the end
INVERSIONS = 10  # steps, of a displacement that bends gently
CLOSE = 0.05  # mm; closer than that nothing is corrected


@dataclass(frozen=True)
class LandmarkGuide:
    """Landmarks that guide a working pair.

    Attributes:
        landmarks: On the working grid; the linear alignment has their partners where it has the moving image.
        voxel_mm: Edge of its voxels.
        extent_mm: Of the image.
        contradictions: Further landmarks, which do not guide; None while nobody has judged them.
    """

    landmarks: Landmarks
    voxel_mm: float
    extent_mm: float
    contradictions: list[Contradiction] | None = None

    @classmethod
    def of(
        cls, points: tuple[np.ndarray, np.ndarray], alignment: np.ndarray, working: Geometry, tolerances_mm: np.ndarray
    ) -> "LandmarkGuide":
        """Return that of landmarks `(N, 3)` in LPS mm on either image; of a slice, what leads out of it is left out."""
        fixed_lps, moving_lps = points
        aligned = (moving_lps - alignment[:3, 3]) @ np.linalg.inv(alignment[:3, :3]).T
        axes = slice(1 if working.is_flat else 2, None, -1)
        places, partners = (working.lps_to_index(points)[:, axes] for points in (fixed_lps, aligned))
        voxel, extent = float(working.spacing[0]), float(max(working.extent_mm))
        sides = [torch.from_numpy(side.copy()).float() for side in (places, partners)]
        tolerances = torch.from_numpy(tolerances_mm / voxel).float()
        landmarks = Landmarks(sides[0], sides[1], working.shape[-places.shape[1] :], tolerances)
        return cls(landmarks, voxel, extent)

    def judged(self, foreseen: Tensor) -> "LandmarkGuide":
        """Return that without landmarks which contradict the others.

        Args:
            foreseen: `(1, nd, *spatial)` in voxels, what the images alone say.
        """
        points, missed = self._missed(foreseen)
        vectors = (self.landmarks.partners - self.landmarks.places).double().numpy() * self.voxel_mm
        found = contradictions(points, vectors, self.extent_mm, vectors - missed)
        wrong = {number - 1 for one in found for number in one.numbers}
        kept = [index for index in range(len(points)) if index not in wrong]
        return replace(self, landmarks=self.landmarks.among(kept), contradictions=found)

    def bent(self, bending: Tensor) -> "LandmarkGuide":
        """Return that for a moving image which was warped by a displacement `(1, nd, *spatial)` in voxels."""
        places = partners = self.landmarks.partners
        for _ in range(INVERSIONS):
            places = partners - sample_points(bending.cpu(), places[None])[0]
        return replace(self, landmarks=replace(self.landmarks, partners=places))

    def led(self, displacement: Tensor) -> tuple[Tensor, Interpolation]:
        """Return a displacement `(1, nd, *spatial)` in voxels that meets the landmarks, changed as smoothly as can be.

        Also returns the field that was added, in mm, which knows how far each landmark was foretold by the others.
        """
        field = interpolate(*self._missed(displacement), self.extent_mm)
        return displacement + self._added(field, displacement), field

    def met(self, displacement: Tensor) -> Tensor:
        """Return a displacement that meets the landmarks within the tolerance, changed close to them alone."""
        points, missed = self._missed(displacement)
        lengths = np.linalg.norm(missed, axis=1, keepdims=True)
        excess = (lengths - self.tolerances_mm[:, None]).clip(0)
        if excess.max() <= CLOSE:
            return displacement
        near = Interpolation(points, missed * excess / lengths.clip(1e-9), "none", LAST_REACH * self.voxel_mm)
        return unfolded(displacement + self._added(near, displacement))

    @property
    def tolerances_mm(self) -> np.ndarray:
        """How far each landmark `(N,)` may end from its partner."""
        return self.landmarks.tolerances.numpy() * self.voxel_mm

    def _missed(self, displacement: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return the landmarks and what a displacement misses them by, both in mm."""
        sides = self.landmarks.places, self.landmarks.to(displacement.device).missed(displacement).cpu()
        places, missed = (side.double().numpy() * self.voxel_mm for side in sides)
        return places, missed

    def _added(self, field: Interpolation, like: Tensor) -> Tensor:
        """Return a field in mm as a displacement in voxels of the grid of another one."""
        sizes = like.shape[2:]
        edges = [self.voxel_mm * there / here for here, there in zip(sizes, self.landmarks.spatial, strict=True)]
        axes = [(np.arange(n) + 0.5) * edge - self.voxel_mm / 2 for n, edge in zip(sizes, edges, strict=True)]
        columns = torch.tensor(edges).view(-1, *[1] * len(edges))
        return (torch.from_numpy(field.on_grid(axes)) / columns).to(like)[None]

    def told(self, field: Interpolation) -> dict[str, Any]:
        """Return what a result says of them."""
        errors = field.disagreement
        foretold = {"mean": float(errors.mean()), "max": float(errors.max())}
        return {
            "guided": len(errors),
            "tolerance_mm": float(self.tolerances_mm.max()),
            "contradictions": [one.sentence for one in self.contradictions or ()],
            "left_out_mm": foretold if len(errors) > 1 else None,
        }
