"""Writes the state after every recursion while a registration runs; recursions.py says what the folder holds."""

from pathlib import Path

import numpy as np
from torch import Tensor

from ..deform.tensors import to_array
from ..networks.base import CrossAttention, Evidence, Recursion
from ..registration.preprocess import WorkingPair, field_on_fixed
from ..volume import fields, images, recursions
from ..volume.geometry import Geometry
from .gaussian_files import in_world, to_entries


class RecursionFolder:
    """A folder that fills as recursions end.

    Args:
        folder: An existing folder.
        method: Name of the method.
        pair: What the network sees.
        grid: Grid of the fields.
    """

    def __init__(self, folder: Path, method: str, pair: WorkingPair, grid: Geometry) -> None:
        self.folder, self.method, self.pair, self.grid = folder, method, pair, grid
        self.steps: list[recursions.Step] = []

    def names(self, index: int, evidence: Evidence | None) -> list[str]:
        """Return the files that a recursion adds, counted from 1, its field first."""
        names = [f"recursion_{index}.nrrd"]
        if evidence is not None:
            names += [f"recursion_{index}_map_{number}.nrrd" for number, _ in enumerate(evidence.maps, 1)]
            names += [f"recursion_{index}_attention_{number}.npz" for number, _ in enumerate(evidence.attention, 1)]
        return names

    def add(self, state: Recursion, similarity: float) -> Path:
        """Write the files of one recursion and return its field.

        Raises:
            EngineError: If they cannot be written.
        """
        evidence = state.evidence or Evidence()
        field, *others = self.names(len(self.steps) + 1, evidence)
        displacement = field_on_fixed(state.displacement, self.pair, self.grid)
        images.write_displacement(self.folder / field, displacement, self.grid)
        folded = fields.jacobian_determinant(displacement, self.grid) <= 0
        step = recursions.Step(field, similarity if np.isfinite(similarity) else 0.0, 100 * float(folded.mean()))
        for shown, name in zip(evidence.maps, others, strict=False):
            self._write_map(self.folder / name, shown.values)
            step.maps.append({"name": shown.name, "image": shown.image, "file": name})
        for attention, name in zip(evidence.attention, others[len(evidence.maps) :], strict=True):
            recursions.write_attention(self.folder / name, _arrays(attention))
            step.attention.append({"name": attention.name, "file": name})
        if evidence.gaussians is not None:
            grid = self.pair.geometry
            step.gaussians.extend(to_entries(in_world(evidence.gaussians, grid), 2 if grid.is_flat else 3))
        self.steps.append(step)
        return self.folder / field

    def close(self) -> Path:
        """Write the index and return it."""
        index = recursions.Index(self.method, self.pair.geometry, self.pair.alignment, self.steps)
        recursions.write_index(self.folder, index)
        return self.folder / recursions.INDEX

    def _write_map(self, path: Path, values: Tensor) -> None:
        array = to_array(values[0, 0].float())
        if array.ndim == 2:
            array = array[None]
        grid = self.pair.geometry.resized((array.shape[2], array.shape[1], array.shape[0]))
        images.write_volume(path, array, grid)


def _arrays(attention: CrossAttention) -> recursions.Attention:
    return recursions.Attention(
        to_array(attention.query.float()),
        to_array(attention.key.float()),
        attention.query_size,
        attention.key_size,
        float(attention.query_stride),
        float(attention.key_stride),
    )
