"""How uncertain a deformation is: its spread over registrations of slightly changed volumes, as a map in mm.

    estimate = Uncertainty.UncertaintyEstimate(deformation, samples=8)
    estimate.start()
    estimate.wait()

The outcome is the map, which the transform remembers. uncertainty.py of the engine says what is changed; the same
volumes and settings give the same map. What all samples get wrong together it cannot show: it is no bound of the error.
"""

import numpy as np
import slicer

from DeepAttentionRegEngine.protocol import contract
from DeepAttentionRegEngine.protocol.settings import Settings, default_of
from DeepAttentionRegEngine.volume import images

from ..engine.Callbacks import Callbacks
from ..engine.Engine import Engine
from ..nodes.Deformation import Deformation
from ..nodes.Overlays import Map
from ..tasks.DeformationTask import DeformationTask, jobOf
from . import Maps


class UncertaintyEstimate(DeformationTask):
    """Registers the volumes of a deformation several times; the outcome is the map."""

    def __init__(
        self,
        deformation: Deformation,
        samples: int = default_of("samples"),
        settings: Settings | None = None,
        callbacks: Callbacks | None = None,
        *,
        engine: Engine | None = None,
    ) -> None:
        """Prepare; nothing is done before `start`.

        :param samples: registrations, 2 to 100; the more, the smoother and slower.
        :param deformation: as `DeformationTask`; so are the others.
        """
        super().__init__(deformation, settings, callbacks, engine=engine)
        self._samples = samples

    def _export(self) -> contract.Job:
        values = {**self._record.settings, "samples": self._samples, "output_uncertainty": "uncertainty.nrrd"}
        jobOf({**values, "fixed": "", "moving": ""})  # refuses wrong settings before the slow part
        return jobOf({**values, **self._exportVolumes(), **self._exportStart(self._start)})

    def _load(self, result: contract.Result) -> slicer.vtkMRMLScalarVolumeNode:
        spreadMm = images.read_volume(result.outputs["uncertainty"])
        self._requireInputs()
        return Maps.put(self.deformation, Map.UNCERTAINTY, spreadMm.array, spreadMm.geometry)


def summaryOf(node: slicer.vtkMRMLScalarVolumeNode) -> tuple[float, float]:
    """Return mean and 95th percentile of a map, mm."""
    array = slicer.util.arrayFromVolume(node)
    return float(array.mean()), float(np.percentile(array, 95))
