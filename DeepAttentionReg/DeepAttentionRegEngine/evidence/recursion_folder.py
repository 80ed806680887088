"""Writes the state after every recursion while a registration runs; recursions.py says what the folder holds."""

from pathlib import Path

import numpy as np
from torch import Tensor

from ..deform.tensors import to_array
from ..networks.base import CrossAttention, Evidence, Recursion
from ..protocol.files import make_folder
from ..registration.method_run import Observer
from ..registration.preprocess import WorkingPair
from ..registration.transform_grid import found_on
from ..registration.working_grid import nodes_over
from ..volume import images, recursions
from ..volume.geometry import Geometry
from .gaussian_files import in_world, to_entries


class RecursionFolder(Observer):
    """A folder that fills as recursions end.

    Args:
        folder: Where; made if it is not there.
        method: Name of the method.
        voxels: Of the fields at most, on a coarser grid if need be; None sets no limit.
        attends: Also keep what the network attended to.
        on_fixed: Keep the fields on the fixed grid instead of the network's.
    """

    def __init__(
        self,
        folder: Path,
        method: str,
        voxels: int | None = None,
        *,
        attends: bool = False,
        on_fixed: bool = False,
    ) -> None:
        self.folder, self.method, self.voxels, self.attends = folder, method, voxels, attends
        self.on_fixed = on_fixed
        self.steps: list[recursions.Step] = []

    def begin(self, view: WorkingPair, fixed: Geometry) -> None:
        """Make the folder.

        Raises:
            EngineError: If nothing can be written there.
        """
        self.pair, self.grid = view, fixed if self.on_fixed else nodes_over(fixed, view.geometry)
        if self.voxels is not None:
            self.grid = self.grid.coarsened(self.voxels)
        self.steps.clear()
        make_folder(self.folder)

    @property
    def index(self) -> Path:
        """The file that names the others."""
        return self.folder / recursions.INDEX

    def names(self, index: int, evidence: Evidence | None) -> list[str]:
        """Return the files that a recursion adds, counted from 1, its field first."""
        names = [f"recursion_{index}.nrrd"]
        if evidence is not None:
            names += [f"recursion_{index}_map_{number}.nrrd" for number, _ in enumerate(evidence.maps, 1)]
            names += [f"recursion_{index}_attention_{number}.npz" for number, _ in enumerate(evidence.attention, 1)]
        return names

    def see(self, state: Recursion, similarity: float) -> str:
        """Write the files of one recursion and return its field.

        Raises:
            EngineError: If they cannot be written.
        """
        evidence = state.evidence or Evidence()
        names = self.names(len(self.steps) + 1, evidence)
        field, *others = names
        stored = found_on(state.displacement, self.pair, self.grid)
        images.write_displacement(self.folder / field, stored.displacement_lps_mm, self.grid)
        # Nodes beyond the field of view repeat those at its border, and would count as sound.
        folded = stored.jacobian(self.grid if self.on_fixed else self.pair.geometry) <= 0
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
        return str(self.folder / field)

    def end(self) -> None:
        """Write the index."""
        found = recursions.Index(self.method, self.pair.geometry, self.pair.alignment, self.steps)
        recursions.write_index(self.folder, found)

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
