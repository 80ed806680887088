"""A small job that tests of whole registrations share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from DeepAttentionRegEngine.protocol.contract import RegisterJob
from DeepAttentionRegEngine.volume import images


@pytest.fixture
def shifted(tmp_path: Path) -> Callable[..., RegisterJob]:
    """Return a maker of small jobs: the moving image is the fixed one, shown two voxels of 2 mm further to the left."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from engine_cases import blob_source, centered, matrix4, moved_grid

    grid = centered((32, 32, 32), (2.0, 2.0, 2.0))
    source, moving = blob_source(grid), moved_grid(grid, matrix4(np.eye(3), (4.0, 0.0, 0.0)))
    folder = tmp_path / "in"
    folder.mkdir()
    images.write_volume(folder / "fixed.nrrd", source.array, grid)
    images.write_volume(folder / "moving.nrrd", source.array, moving)

    def make(**options: Any) -> RegisterJob:
        paths = {"fixed": str(folder / "fixed.nrrd"), "moving": str(folder / "moving.nrrd")}
        return RegisterJob(
            **{**paths, "method": "none", "alignment": "none", "device": "cpu", "refinement_steps": 0, **options}
        )

    return make
