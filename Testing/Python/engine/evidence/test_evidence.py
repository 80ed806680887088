"""What a recursion leaves behind: its field on a grid that is fine enough, and how much of it folds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from DeepAttentionRegEngine.deform.warp import identity_grid
from DeepAttentionRegEngine.evidence.recursion_folder import RecursionFolder
from DeepAttentionRegEngine.networks.base import Recursion
from DeepAttentionRegEngine.registration.preprocess import WorkingPair
from DeepAttentionRegEngine.volume import images, recursions
from engine_cases import centered

pytestmark = pytest.mark.torch

GRID = centered((32, 32, 32), (2.0, 2.0, 2.0))


def step_of(folder: Path, displacement: Tensor, **options: Any) -> recursions.Step:
    """Return the only step of a folder for a fixed volume on the network's grid."""
    image = torch.zeros(1, 1, *GRID.shape)
    written = RecursionFolder(folder, "rman", **options)
    written.begin(WorkingPair(image, image, weight=image, geometry=GRID, alignment=np.eye(4)), GRID)
    written.see(Recursion(displacement, displacement, image), 0.5)
    written.end()
    (step,) = recursions.read_index(folder).recursions
    return step


@pytest.mark.parametrize(
    ("options", "size"),
    [({}, 34), ({"on_fixed": True}, 32), ({"voxels": 1000}, 10), ({"voxels": 1000, "on_fixed": True}, 10)],
    ids=["around the volume", "fixed grid", "coarser", "coarser fixed grid"],
)
def test_field_is_kept_on_the_grid_that_was_asked_for(tmp_path: Path, options: dict[str, Any], size: int) -> None:
    shift = torch.tensor([0.0, 0.0, 0.5]).view(1, 3, 1, 1, 1).expand(1, 3, *GRID.shape)
    step = step_of(tmp_path, shift, **options)
    field, grid = images.read_displacement(tmp_path / step.displacement)
    assert grid.shape == (size, size, size)
    np.testing.assert_allclose(field, np.broadcast_to([1.0, 0.0, 0.0], field.shape), atol=1e-4)


@pytest.mark.parametrize(("slope", "percent"), [(-0.9, 0.0), (-1.1, 100.0)])
@pytest.mark.parametrize("on_fixed", [False, True])
def test_folded_share_is_told(tmp_path: Path, slope: float, percent: float, on_fixed: bool) -> None:
    displacement = slope * (identity_grid(GRID.shape, torch.zeros(1)) - 15.5)
    displacement[:, :2] = 0
    assert step_of(tmp_path, displacement, on_fixed=on_fixed).fold_percent == percent
