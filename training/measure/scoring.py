"""Figures of one registered pair or of two label maps; what they measure is the engine's definition."""

import math

import numpy as np
import torch
from torch import Tensor

from DeepAttentionRegEngine.deform.warp import warp
from DeepAttentionRegEngine.volume import fields, metrics
from DeepAttentionRegEngine.volume.geometry import Geometry

Figures = dict[str, float]
Summary = dict[str, float | None]  # "mean", "sd", and "missing" if some are


def dice(labels: np.ndarray, target: np.ndarray, count: int) -> float:
    """Return the mean Dice over the labels 1 to `count` that occur in either map; NaN if none does."""
    scores = [score for score in metrics.dice(labels, target, range(1, count + 1)).values() if not math.isnan(score)]
    return float(np.mean(scores)) if scores else math.nan


def engine_field(displacement: Tensor, spacing: tuple[float, ...] = ()) -> tuple[np.ndarray, Geometry]:
    """Return a displacement as the engine's metrics take it, on a grid along the axes of LPS.

    Args:
        displacement: `(1, nd, *spatial)` voxels.
        spacing: mm per voxel, array axis order; empty for voxels of 1 mm.

    Returns:
        `(k, j, i, 3)` LPS mm, of a single slice for two axes, and its grid.
    """
    spatial = tuple(displacement.shape[2:])
    missing, scale = 3 - len(spatial), np.array(spacing or (1.0,) * len(spatial))
    field = np.zeros((*[1] * missing, *spatial, 3), np.float32)
    field[..., : len(spatial)] = (displacement[0].movedim(0, -1).cpu().numpy() * scale)[..., ::-1]
    size, edges = field.shape[2::-1], (*scale[::-1], *[1.0] * missing)
    return field, Geometry.from_arrays(size, edges, (0, 0, 0), np.eye(3))


def determinants(displacement: Tensor) -> np.ndarray:
    """Return det(I + du/dx) `(k, j, i)` of a displacement `(1, nd, *spatial)` in voxels."""
    return fields.jacobian_determinant(*engine_field(displacement))


def fold_figures(determinant: np.ndarray) -> Figures:
    """Return the number and share of voxels with a determinant of 0 or less, and the spread of its logarithm."""
    summary = fields.summarize_jacobian(determinant)
    return {
        "folded_px": summary.folds,
        "folded_percent": summary.fold_percent,
        "sd_log_jacobian": summary.sd_log_jacobian,
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


def landmark_errors(displacement: Tensor, fixed: Tensor, moving: Tensor, spacing: tuple[float, ...]) -> np.ndarray:
    """Return the distances `(N,)` in mm of landmarks after registration, not rounded to voxels.

    Args:
        displacement: `(1, nd, *spatial)` voxels.
        fixed: `(N, nd)` voxels; they move to the moving image.
        moving: `(N, nd)` voxels.
        spacing: mm per voxel, array axis order.
    """
    field, grid = engine_field(displacement, spacing)
    beyond = ((0, 0), (0, 3 - len(spacing)))
    here, there = (grid.index_to_lps(np.pad(points.numpy()[:, ::-1], beyond)) for points in (fixed, moving))
    return metrics.target_registration_error(here, there, field, grid)


def summarized(rows: list[Figures]) -> dict[str, Summary]:
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
