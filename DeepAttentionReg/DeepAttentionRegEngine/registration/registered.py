"""A deformation that was found, and what can be done with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
import torch

from ..protocol import contract, errors
from ..protocol.outputs import Outputs
from ..protocol.result_files import RESULT, require_own_results, write_result
from ..volume import images
from ..volume.geometry import Geometry
from ..volume.images import AnyImage
from ..volume.inversion import Inverse, invert
from ..volume.segments import write_segments
from .belonging import require_reached
from .deformation import StoredDeformation
from .inputs import Inputs
from .preprocess import Source, warp_segments, warp_volume
from .search import Search

if TYPE_CHECKING:
    from .registrar import Registrar

NOTHING_WARPED = "The moving labels lie outside of what the fixed image shows, so the warped labels are empty."
WRITTEN = ("transform", "warped", "jacobian", "warped_labels")
SAVED = {"transform": "transform.nrrd", "warped": "warped.nrrd", "jacobian": "jacobian.nrrd"}


@dataclass(frozen=True, eq=False)
class Registered:
    """A deformation, and what was measured of it.

    Attributes:
        deformation: The displacement field, alignment included, on the grid on which it is stored.
        geometry: The fixed grid.
        measures: Numbers and texts by name: similarity per recursion, Jacobian, overlap and landmark error before and
            after, the settings that came of the quality.
        warnings: Sentences that users must see.
        seconds: Computing time by stage.
        inputs: What was registered.
        search: How it was found, on the working grid.
        registrar: What found it.
    """

    deformation: StoredDeformation = field(repr=False)
    geometry: Geometry
    measures: dict[str, Any] = field(repr=False)
    warnings: list[str]
    seconds: dict[str, float]
    inputs: Inputs = field(repr=False)
    search: Search = field(repr=False)
    registrar: "Registrar" = field(repr=False)

    @property
    def displacement_lps_mm(self) -> np.ndarray:
        """The displacement on the fixed grid, float32 `(k, j, i, 3)`: the moving image is sampled at x + u(x).

        It is made of `deformation` at every access, and large.
        """
        return self.deformation.on(self.geometry)

    @property
    def transform(self) -> sitk.DisplacementFieldTransform:
        """The deformation as ITK's transform, which maps fixed to moving points in LPS mm, for resampling."""
        stored = self.deformation
        return sitk.DisplacementFieldTransform(
            images.to_sitk(stored.displacement_lps_mm.astype(np.float64), stored.geometry)
        )

    def warp(self, image: AnyImage | None = None, *, nearest: bool = False) -> sitk.Image:
        """Return an image of the moving side on the fixed grid.

        Args:
            image: Any that lies where the moving image does; None for the moving image itself.
            nearest: Nearest neighbour, for label maps.

        Raises:
            EngineError: If nothing of the image lies where the deformation leads.

        Examples:
            >>> registered = register(fixed, moving, Settings(method="none", refinement_steps=5))
            >>> registered.warp(moving > 0.5, nearest=True).GetSize()
            (32, 32, 32)
        """
        source = self.inputs.moving
        if image is not None:
            volume = images.as_volume(image)
            source = Source(volume.array, volume.geometry)
            device = self.search.pair.fixed.device
            require_reached(source, self.deformation, self.geometry, device, whole=not nearest)
        return images.to_sitk(self._warped(source, nearest=nearest), self.geometry)

    def jacobian(self) -> sitk.Image:
        """Return the Jacobian determinant: above 1 moving tissue is shrunk, at or below 0 the deformation folds."""
        return images.to_sitk(self.deformation.jacobian(self.geometry), self.geometry)

    def inverse(self) -> Inverse:
        """Return the deformation of moving to fixed points on the fixed grid, and how far it misses.

        Examples:
            >>> registered = register(fixed, moving, Settings(method="none", refinement_steps=5))
            >>> registered.inverse().residual_mm_max < 0.01
            True
        """
        stored = self.deformation
        return invert(stored.displacement_lps_mm, stored.geometry, grid=self.geometry)

    def write(self, wanted: Mapping[str, str]) -> dict[str, str]:
        """Write some of what came of the registration, all of it or nothing.

        Args:
            wanted: A file each for "transform", "warped", "jacobian" or "warped_labels"; any may be left out.

        Returns:
            The files that were written; warped labels only where the moving image has labels.

        Raises:
            EngineError: If one cannot be written, or was read.
        """
        labels = self.inputs.reference.moving_labels
        unknown = next((name for name in wanted if name not in WRITTEN), None)
        if unknown is not None:
            known = ", ".join(WRITTEN)
            raise errors.EngineError(errors.CONTRACT, f"There is no output {unknown!r}.", f"Known: {known}.")
        with Outputs(self.inputs.files) as outputs:
            places = {name: outputs.place(file) for name, file in wanted.items() if name != "warped_labels" or labels}
            for name, place in places.items():
                self._write(name, place)
        return {name: wanted[name] for name in places}

    def _write(self, name: str, file: str) -> None:
        labels = self.inputs.reference.moving_labels
        if name == "transform":
            images.write_displacement(file, self.deformation.displacement_lps_mm, self.deformation.geometry)
        elif name == "warped":
            images.write_volume(file, self._warped(self.inputs.moving), self.geometry)
        elif name == "jacobian":
            images.write_volume(file, self.deformation.jacobian(self.geometry), self.geometry)
        elif labels is not None:
            warped = warp_segments(labels, self.deformation, self.geometry, self._device)
            if not warped.marked.any():
                self.warnings.append(NOTHING_WARPED)
            write_segments(file, warped)

    def save(self, folder: str | Path) -> dict[str, str]:
        """Write transform, warped image, Jacobian and all measures into a folder, made if it is not there.

        Returns:
            The files by what they hold: "transform", "warped", "jacobian", "result".

        Raises:
            EngineError: If one cannot be written.

        Examples:
            >>> registered = register(fixed, moving, Settings(method="none", refinement_steps=5))
            >>> sorted(registered.save(folder))
            ['jacobian', 'result', 'transform', 'warped']
        """
        folder = Path(folder)
        files = {name: str(folder / file) for name, file in SAVED.items()}
        require_own_results(folder, files.values())
        with Outputs(self.inputs.files) as outputs:
            result = self.write_into(folder, files, outputs)
        return {**files, "result": str(result)}

    def write_into(self, folder: Path, files: Mapping[str, str], outputs: Outputs) -> Path:
        """Write into a folder, made if it is not there, some files as `write` does, and one with all measures.

        Args:
            folder: Where the measures go.
            files: As `wanted` of `write`.
            outputs: The run that all of it belongs to.

        Returns:
            The file with the measures.

        Raises:
            EngineError: If one cannot be written.
        """
        outputs.make_folder(folder)
        written = self.write({name: outputs.place(file) for name, file in files.items()})
        finals = {name: outputs.final(file) for name, file in written.items()}
        place = outputs.place(folder / RESULT)
        write_result(Path(place).parent, contract.Result(finals, self.measures, self.warnings))
        return folder / RESULT

    def _warped(self, source: Source, *, nearest: bool = False) -> np.ndarray:
        return warp_volume(source, self.deformation, self.geometry, self._device, nearest=nearest)

    @property
    def _device(self) -> torch.device:
        return self.search.pair.fixed.device
