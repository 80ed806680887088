"""All constraints together on a thorax whose organs slide along a wall at rest."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from DeepAttentionRegEngine import Settings, register
from DeepAttentionRegEngine.phantom.thorax import PhantomSettings, default_geometry, make_phantom

pytestmark = [pytest.mark.torch, pytest.mark.slow]

QUICK = Settings(method="none", alignment="none", refinement_steps=30, device="cpu")
TOGETHER = {"sliding": "2;3;4;5;8", "rigid": "6;7", "volume_keeping": "8", "transform_grid": "fixed"}


def test_landmarks_are_closer_than_without_and_what_is_held_is_kept() -> None:
    grid = default_geometry((64, 54, 64), (5.25, 4.444, 5.25))
    pair = make_phantom(grid, settings=PhantomSettings(seed=3, sliding=True))
    labels = {"fixed_labels": (pair.fixed_labels, grid), "moving_labels": (pair.moving_labels, grid)}
    errors = []
    for options in ({}, TOGETHER):
        found = register((pair.fixed, grid), (pair.moving, grid), replace(QUICK, **options), **labels)
        points = pair.fixed_points_lps
        missed = points + found.deformation.at(points) - pair.moving_points_lps
        errors.append(float(np.linalg.norm(missed, axis=1).mean()))
        assert found.measures["jacobian"]["folds"] == 0
    assert errors[1] < 0.95 * errors[0]  # at voxels of 5 mm the layer that spreads the jump reaches over the ribs
    spine, ribs, tumor = found.measures["held_segments"]
    assert max(spine["bent_mm"], ribs["bent_mm"]) < 0.1
    assert abs(tumor["volume_change"]) < 0.01
