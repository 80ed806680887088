"""Distances of boundaries as MedPy tells them, which the papers on chest X-rays report: HD and ASSD.

HD is the largest distance in either direction, ASSD the mean of the two directed means. The engine's own figures, which
users see, are the 95th percentile and the mean of all boundary voxels pooled (`volume/metrics.py`); as there, a
boundary voxel has a face neighbour outside.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

from .scoring import Figures


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
class MedpySurfaces:
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

    def distances(self, other: "MedpySurfaces") -> tuple[float, float]:
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


def medpy_figures(labels: MedpySurfaces, target: MedpySurfaces) -> Figures:
    """Return HD and ASSD in mm if the spacing is known, and in pixels if all edges of a voxel are equally long."""
    hd, assd = labels.distances(target)
    edges = set(target.spacing) or {1.0}
    figures = {"hd_mm": hd, "assd_mm": assd} if target.spacing else {}
    if len(edges) == 1:
        (edge,) = edges
        figures |= {"hd_px": hd / edge, "assd_px": assd / edge}
    return figures
