"""The section of the panel that warps further data by the transform of a registration."""

from collections.abc import Callable
from types import SimpleNamespace

import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol.privacy import discreet_logger

from ..nodes import Warping
from . import Parts

logger = discreet_logger(__name__)


class WarpSection(Parts.Section):
    """Warps the chosen node, into a new one or one that is there."""

    def __init__(self, ui: SimpleNamespace, tell: Callable[[str], None]) -> None:
        """Connect the widgets; parameters as `Section`."""
        super().__init__(ui, tell)
        ui.warpButton.connect("clicked(bool)", self.onWarp)

    def update(self) -> None:
        """Say whether the chosen node can be warped."""
        problem = Warping.checkWarp(**self._arguments())
        self._ui.warpButton.enabled = not problem
        self._ui.warpButton.toolTip = problem or _("Warp the data by the transform.")

    def onWarp(self) -> None:
        """Warp the chosen node."""
        try:
            with slicer.util.tryWithErrorDisplay(show=False, waitCursor=True):
                warped = Warping.warp(**self._arguments())
        except Exception as error:
            logger.exception("The data could not be warped")
            self._tell(str(error))
            return
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
