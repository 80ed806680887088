"""What a recursion leaves behind: its field on a grid that is fine enough, and how much of it folds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from DeepAttentionRegEngine.deform.warp import identity_grid
from DeepAttentionRegEngine.evidence.recursion_folder import RecursionFolder
from DeepAttentionRegEngine.networks.base import Recursion
from DeepAttentionRegEngine.registration.preprocess import WorkingPair
from DeepAttentionRegEngine.volume import images, recursions
from DeepAttentionRegEngine.volume.geometry import Geometry
from engine_cases import centered

pytestmark = pytest.mark.torch

GRID = centered((32, 32, 32), (2.0, 2.0, 2.0))


def step_of(folder: Path, displacement: Tensor, grid: Geometry) -> recursions.Step:
    """Return the only step of a folder whose fields are kept on a grid."""
    image = torch.zeros(1, 1, *GRID.shape)
    written = RecursionFolder(folder, "rman")
    written.begin(WorkingPair(image, image, weight=image, geometry=GRID, alignment=np.eye(4)), grid)
    written.see(Recursion(displacement, displacement, image), 0.5)
    written.end()
    (step,) = recursions.read_index(folder).recursions
    return step


def test_field_may_be_kept_on_a_coarser_grid(tmp_path: Path) -> None:
    shift = torch.tensor([0.0, 0.0, 0.5]).view(1, 3, 1, 1, 1).expand(1, 3, *GRID.shape)
    step = step_of(tmp_path, shift, GRID.coarsened(1000))
    field, grid = images.read_displacement(tmp_path / step.displacement)
    assert grid.shape == (10, 10, 10)
    np.testing.assert_allclose(field, np.broadcast_to([1.0, 0.0, 0.0], field.shape), atol=1e-4)


@pytest.mark.parametrize(("slope", "percent"), [(-0.9, 0.0), (-1.1, 100.0)])
def test_folded_share_is_told(tmp_path: Path, slope: float, percent: float) -> None:
    displacement = slope * (identity_grid(GRID.shape, torch.zeros(1)) - 15.5)
    displacement[:, :2] = 0
    assert step_of(tmp_path, displacement, GRID).fold_percent == percent
