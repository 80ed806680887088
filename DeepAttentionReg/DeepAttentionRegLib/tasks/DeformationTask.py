"""Registers the volumes of a deformation once more, as they were registered, for evidence about it."""

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import contract, registry
from DeepAttentionRegEngine.protocol.settings import Settings
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.geometry import Geometry

from ..engine import Methods, Weights
from ..engine.Callbacks import Callbacks
from ..engine.Engine import Engine
from ..engine.Task import Task
from ..nodes import Record, Volumes, Warping
from ..nodes.Deformation import Deformation
from ..nodes.Present import present
from . import Results

LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class DeformationTask(Task):
    """A registration of the volumes of a deformation; the scene gets what a subclass makes of it.

    It takes the settings that the transform remembers, the weights among them, from the same start on; masks are not
    remembered, so it takes none.
    """

    def __init__(
        self,
        deformation: Deformation,
        settings: Settings | None = None,
        callbacks: Callbacks | None = None,
        *,
        engine: Engine | None = None,
    ) -> None:
        """Prepare; nothing is done before `start`.

        :param deformation: the deformation and its volumes.
        :param settings: device, and all else for a transform that does not remember how it was made.
        :param callbacks: whom to tell.
        :param engine: what runs it; None takes Slicer's own Python.
        """
        super().__init__(callbacks, engine)
        settings = settings or Settings()
        self._record = _recordOf(deformation, settings)
        self._name = deformation.name
        self._transform = Results.NodeReference(deformation.transformNode)
        self._fixed, self._moving = Results.NodeReference(deformation.fixed), Results.NodeReference(deformation.moving)
        self._toFrame = Warping.toFrame(deformation.moving, deformation.transformNode)
        self._start = Record.startOf(deformation)

    def problems(self) -> list[str]:
        """Return why it cannot be started, as sentences."""
        if self._goneMessage():
            return [self._goneMessage()]
        fixed, moving = self._fixed.get(), self._moving.get()
        wrong = [Volumes.checkNode(fixed)]
        if self._toFrame is None:  # else it may be under the deformation itself, to be shown
            wrong.append(Volumes.checkNode(moving))
        values = self._record.settings
        if values["method"].endswith(registry.DESCRIPTION_SUFFIX):  # whose code nobody chose here
            return [_("The transform was made by a method file; a scene cannot start that. Register the volumes anew.")]
        weights = values.get("weights")
        if weights is not None and weights.endswith(Weights.SUFFIX) and not Path(weights).is_file():
            text = _("The weights {name} of the transform are not known here; import them, or give them as a setting.")
            return [text.format(name=Path(weights).name)]
        return [problem for problem in wrong if problem] + Methods.checkMethod(values["method"], fixed, weights)

    @property
    def deformation(self) -> Deformation:
        """The deformation and its volumes, as long as they are in the scene."""
        return Deformation(self._transform.get(), self._fixed.get(), self._moving.get())

    def _goneMessage(self) -> str:
        areThere = all(node.get() is not None for node in (self._transform, self._fixed, self._moving))
        return "" if areThere else _("The transform or one of its volumes was removed, so nothing more is done.")

    def _exportVolumes(self) -> dict[str, str]:
        """Write both volumes and return the files by their role in the deformation."""
        sides = {"fixed": (self._fixed, None), "moving": (self._moving, self._toFrame)}
        files = {}
        for side, (reference, toFrame) in sides.items():
            node = present(reference.get())
            self._tell("export", _("Exporting {name}.").format(name=node.GetName()))
            toFrame = present(Volumes.matrixToWorld(node)) if toFrame is None else toFrame
            grid = Geometry.from_ijk_to_ras(toFrame @ Volumes.ijkToRas(node), node.GetImageData().GetDimensions())
            files[side] = f"{side}.nrrd"
            image = images.to_sitk(slicer.util.arrayFromVolume(node), grid)
            sitk.WriteImage(image, str(self._folder / files[side]))
        return files

    def _exportStart(self, start: np.ndarray) -> dict[str, str]:
        """Write where to start, 4x4 RAS from fixed to moving points, and return the job's field for it."""
        images.write_linear_transform(self._folder / "initial.tfm", LPS_RAS @ start @ LPS_RAS)
        return {"initial_transform": "initial.tfm"}


def _recordOf(deformation: Deformation, settings: Settings) -> Record.Record:
    """Return how a deformation was made, as far as is known, on the device of the settings."""
    record = Record.recall(deformation.transformNode)
    known = {item.name for item in fields(Settings)} & record.settings.keys()
    remembered = {name: record.settings[name] for name in known} or asdict(settings)
    weights = _fileOf(remembered.get("weights"), settings.weights)
    return replace(record, settings={**remembered, "weights": weights, "device": settings.device})


def _fileOf(name: str | None, given: str | None) -> str | None:
    """Return the weights of a name that may lack its folder: those given if they have it, or else imported ones."""
    if name is not None and given is not None and Path(given).name == name:
        return given
    entry = Weights.find(name)
    return name if entry is None else entry.id


def jobOf(values: dict[str, Any]) -> contract.RegisterJob:
    """Return a registration.

    :raises EngineError: if a value is out of range.
    """
    return contract.build(contract.RegisterJob, values)
