"""The section of the panel that warps further data by the transform of a registration."""

from types import SimpleNamespace

import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol.reporting import Pause

from ..evidence import Percentiles
from ..nodes import ErrorBound, Warping
from . import Parts
from .RunSection import RunSection


class WarpSection(Parts.Section):
    """Warps the chosen node, into a new one or one that is there."""

    def __init__(self, ui: SimpleNamespace, run: RunSection) -> None:
        """Connect the widgets.

        :param ui: as `Section`.
        :param run: does what takes a while, and tells.
        """
        super().__init__(ui, run.tell)
        self._run = run
        ui.warpButton.connect("clicked(bool)", self.onWarp)

    def update(self) -> None:
        """Say whether the chosen node can be warped, and whether it has percentiles."""
        problem = Warping.checkWarp(**self._arguments())
        self._ui.warpButton.enabled = not problem
        self._ui.warpButton.toolTip = problem or _("Warp the data by the transform.")
        problem = Percentiles.check(**self._source())
        about = _(
            "Also make three new nodes of what the data may be where the transform errs, by the map of its error: of "
            "volumes the 5th percentile, the median and the 95th percentile at every voxel, of segmentations what is "
            "inside with a probability of at least 95, 50 and 5 %. Takes up to a hundred times as long."
        )
        self._ui.warpPercentilesCheckBox.enabled = not problem
        self._ui.warpPercentilesCheckBox.toolTip = f"<p>{problem or about}</p>"

    def onWarp(self) -> None:
        """Warp the chosen node, and if wanted to its percentiles."""
        arguments, source = self._arguments(), self._source()
        isWanted = self.chosen.warpPercentiles and not Percentiles.check(**source)
        nodes = [node for node in arguments.values() if node is not None]
        if isWanted:
            nodes.append(ErrorBound.mapOf(self.chosen.warpTransform))

        def work(pause: Pause) -> Warping.Warped:
            made = Percentiles.warp(**source, pause=pause) if isWanted else {}
            try:
                return Warping.warp(**arguments, pause=pause)
            except BaseException:  # canceled
                for node in made.values():
                    slicer.mrmlScene.RemoveNode(node)
                raise

        self._run.work(work, nodes, self._onWarped)

    def _onWarped(self, warped: Warping.Warped) -> None:
        text = _('Wrote "{name}". {warning}')
        self._tell(text.format(name=warped.node.GetName(), warning=warped.warning).strip())

    def _source(self) -> dict[str, slicer.vtkMRMLNode | None]:
        chosen = self.chosen
        return {"node": chosen.warpNode, "transformNode": chosen.warpTransform, "reference": chosen.warpReference}

    def _arguments(self) -> dict[str, slicer.vtkMRMLNode | None]:
        return {**self._source(), "output": self.chosen.warpOutput}
