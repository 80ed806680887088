"""Figures of one registered pair or of two label maps.

HD and ASSD are those of MedPy, which the chest X-ray papers use: boundary voxels have a face neighbour outside, HD is
the largest distance in either direction, ASSD the mean of the two directed means. The engine's own figures for users
are the 95th percentile and the pooled mean.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree
from torch import Tensor

from DeepAttentionRegEngine.deform.warp import sample, warp

Figures = dict[str, float]


def dice(labels: np.ndarray, target: np.ndarray, count: int) -> float:
    """Return the mean Dice over the labels 1 to `count` that occur in either map; NaN if none does."""
    scores = []
    for label in range(1, count + 1):
        a, b = labels == label, target == label
        total = int(a.sum()) + int(b.sum())
        scores += [2 * int((a & b).sum()) / total] if total else []
    return float(np.mean(scores)) if scores else math.nan


def boundary(mask: np.ndarray) -> np.ndarray:
    """Return the indices `(N, nd)` of the voxels of a mask with a face neighbour outside it or outside the image."""
    box = []
    for axis in range(mask.ndim):
        occupied = np.flatnonzero(mask.any(tuple(other for other in range(mask.ndim) if other != axis)))
        if not len(occupied):
            return np.empty((0, mask.ndim))
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    inside = mask[tuple(box)]
    found = np.argwhere(inside & ~binary_erosion(inside))
    return found + np.array([part.start for part in box])


@dataclass
class Surfaces:
    """Boundaries of the labels of a map, with the trees to search them; kept, as a case takes part in many pairs."""

    labels: np.ndarray
    count: int
    spacing: tuple[float, ...]
    points: dict[int, np.ndarray] = field(init=False)
    trees: dict[int, cKDTree] = field(init=False)

    def __post_init__(self) -> None:
        scale = np.asarray(self.spacing or (1.0,) * self.labels.ndim)
        self.points = {label: boundary(self.labels == label) * scale for label in range(1, self.count + 1)}
        self.trees = {label: cKDTree(points) for label, points in self.points.items() if len(points)}

    def distances(self, other: "Surfaces") -> tuple[float, float]:
        """Return HD and ASSD in mm (voxels without spacing), mean over labels; NaN if one is missing on one side."""
        pairs = []
        for label in self.points.keys() | other.points.keys():
            if label in self.trees and label in other.trees:
                there = other.trees[label].query(self.points[label])[0]
                back = self.trees[label].query(other.points[label])[0]
                pairs.append((max(there.max(), back.max()), (there.mean() + back.mean()) / 2))
            elif label in self.trees or label in other.trees:
                return math.nan, math.nan
        hd, assd = np.mean(pairs, axis=0) if pairs else (math.nan, math.nan)
        return float(hd), float(assd)


def surface_figures(labels: Surfaces, target: Surfaces) -> Figures:
    """Return HD and ASSD in mm if the spacing is known, and in pixels if all edges of a voxel are equally long."""
    hd, assd = labels.distances(target)
    edges = set(target.spacing) or {1.0}
    figures = {"hd_mm": hd, "assd_mm": assd} if target.spacing else {}
    if len(edges) == 1:
        (edge,) = edges
        figures |= {"hd_px": hd / edge, "assd_px": assd / edge}
    return figures


def determinants(displacement: Tensor) -> Tensor:
    """Return det(I + du/dx) by central differences, one-sided at the border, `(B, *spatial)`.

    Args:
        displacement: `(B, nd, *spatial)` voxels.
    """
    nd = displacement.shape[1]
    gradients = torch.stack(torch.gradient(displacement, dim=tuple(range(2, 2 + nd))), 2)  # (B, nd, derivative, ...)
    jacobian = gradients.movedim((1, 2), (-2, -1)) + torch.eye(nd, device=displacement.device)
    if nd == 2:
        return jacobian[..., 0, 0] * jacobian[..., 1, 1] - jacobian[..., 0, 1] * jacobian[..., 1, 0]
    return torch.linalg.det(jacobian)


def fold_figures(determinant: Tensor) -> Figures:
    """Return the number and share of voxels with a determinant of 0 or less, and the spread of its logarithm."""
    folded = int((determinant <= 0).sum())
    return {
        "folded_px": folded,
        "folded_percent": 100 * folded / determinant.numel(),
        "sd_log_jacobian": float(determinant.clamp_min(1e-3).log().std()),
    }


def warped_map(channels: Tensor, displacement: Tensor) -> Tensor:
    """Return the likeliest label after warping each linearly.

    Args:
        channels: `(B, L, *spatial)` without background.
        displacement: `(B, nd, *spatial)` voxels.

    Returns:
        `(B, *spatial)` uint8.
    """
    warped = warp(channels, displacement)
    highest, best = 1 - warped.sum(1), torch.zeros_like(warped[:, 0], dtype=torch.uint8)
    for label, probability in enumerate(warped.unbind(1), start=1):  # argmax takes ten times as long
        best = torch.where(probability > highest, label, best)
        highest = torch.maximum(highest, probability)
    return best


def landmark_errors(displacement: Tensor, fixed: Tensor, moving: Tensor, spacing: tuple[float, ...]) -> Tensor:
    """Return the distances `(N,)` in mm of landmarks after registration, not rounded to voxels.

    Args:
        displacement: `(1, nd, *spatial)` voxels.
        fixed: `(N, nd)` voxels; they move to the moving image.
        moving: `(N, nd)` voxels.
        spacing: mm per voxel, array axis order.
    """
    nd = fixed.shape[1]
    places = fixed.T.reshape(1, nd, -1, *[1] * (nd - 1)).to(displacement)
    motion = sample(displacement, places).reshape(nd, -1).T.cpu()
    return ((fixed + motion - moving) * torch.tensor(spacing)).norm(dim=1)


def summarized(rows: list[Figures]) -> dict[str, Figures]:
    """Return mean and standard deviation of every figure over the pairs, and of how many it could not be told."""
    summary = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows], dtype=float)
        known = values[np.isfinite(values)]
        summary[name] = {
            "mean": round(float(known.mean()), 5) if len(known) else None,
            "sd": round(float(known.std()), 5) if len(known) else None,
            **({"missing": int(len(values) - len(known))} if len(known) < len(values) else {}),
        }
    return summary
