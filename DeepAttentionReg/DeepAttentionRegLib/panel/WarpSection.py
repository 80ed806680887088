"""The section of the panel that warps further data by the transform of a registration."""

from types import SimpleNamespace

import slicer
from slicer.i18n import tr as _

from ..nodes import Warping
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
        """Say whether the chosen node can be warped."""
        problem = Warping.checkWarp(**self._arguments())
        self._ui.warpButton.enabled = not problem
        self._ui.warpButton.toolTip = problem or _("Warp the data by the transform.")

    def onWarp(self) -> None:
        """Warp the chosen node."""
        arguments = self._arguments()
        nodes = [node for node in arguments.values() if node is not None]
        self._run.work(lambda pause: Warping.warp(**arguments, pause=pause), nodes, self._onWarped)

    def _onWarped(self, warped: Warping.Warped) -> None:
        text = _('Wrote "{name}". {warning}')
        self._tell(text.format(name=warped.node.GetName(), warning=warped.warning).strip())

    def _arguments(self) -> dict[str, slicer.vtkMRMLNode | None]:
        chosen = self.chosen
        return {
            "node": chosen.warpNode,
            "transformNode": chosen.warpTransform,
            "reference": chosen.warpReference,
            "output": chosen.warpOutput,
        }
