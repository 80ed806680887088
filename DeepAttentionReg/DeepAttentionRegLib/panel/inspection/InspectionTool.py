"""What the tools of the panel have in common that judge a deformation."""

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from DeepAttentionRegEngine.protocol.privacy import discreet_logger
from DeepAttentionRegEngine.protocol.reporting import Pause

from ...nodes import Deformation, Metrics, Record
from ...Parameters import DeepAttentionRegParameterNode
from .. import Parts
from ..RunSection import RunSection

logger = discreet_logger(__name__)


class InspectionTool(Parts.Section):
    """A group of widgets that shows one kind of evidence."""

    def __init__(self, ui: SimpleNamespace, run: RunSection, logic: Any) -> None:
        """Take the widgets; a tool connects its own.

        :param ui: as `Section`.
        :param run: starts what takes long, and tells.
        :param logic: the `DeepAttentionRegLogic`.
        """
        super().__init__(ui, run.tell)
        self._run, self._logic = run, logic
        self._toolTips: dict[str, str] = {}

    def deformation(self) -> Deformation.Deformation:
        """Return the chosen deformation and its volumes.

        :raises ValueError: with a sentence, if there is none.
        """
        chosen = self.chosen
        return Deformation.ofTransform(chosen.inspected, chosen.fixedVolume, chosen.movingVolume)

    def update(self, problem: str) -> None:
        """Show what can be done now.

        :param problem: why nothing can be inspected, as a sentence; empty if it can.
        """
        raise NotImplementedError

    def offer(self, names: Iterable[str], problem: str) -> None:
        """Enable widgets, or disable them and say why in their tool tips.

        :param names: of the widgets.
        :param problem: why they cannot be used, as a sentence; empty if they can.
        """
        for name in names:
            widget = getattr(self._ui, name)
            toolTip = self._toolTips.setdefault(name, widget.toolTip)
            widget.enabled = not problem
            widget.toolTip = problem or toolTip

    def work(self, work: Callable[[Pause], Any], onFinished: Callable[[Any], None]) -> None:
        """Do what may take seconds with the deformation, as `RunSection.work` does."""
        try:
            deformation = self.deformation()
        except ValueError as reason:
            self._tell(str(reason))
        else:
            self._run.work(work, vars(deformation).values(), onFinished)

    def attempt(self, work: Callable[[], Any]) -> Any:
        """Return what work comes to that may take a moment; None if it fails, of which the user is told why."""
        try:
            with slicer.util.tryWithErrorDisplay(show=False, waitCursor=True):
                return work()
        except ValueError as reason:  # a sentence for the user
            self._tell(str(reason))
        except Exception as error:
            logger.exception("A tool of the inspection failed")
            self._tell(str(error))
        return None

    def showTable(self, role: str) -> None:
        """Show the table that the deformation remembers in a role."""
        table = Record.attached(self.chosen.inspected, role)
        if table is None:
            self._tell(_("The table was removed."))
        else:
            Metrics.showTable(table)


class TableTool(InspectionTool):
    """A tool that makes nodes with a table on demand, and then shows of them what is chosen."""

    def __init__(self, ui: SimpleNamespace, run: RunSection, logic: Any) -> None:
        """Take the widgets; parameters as `InspectionTool`."""
        super().__init__(ui, run, logic)
        self._shown: tuple[object, ...] | None = None

    def follow(self, parameters: DeepAttentionRegParameterNode | None) -> None:
        """Take other choices."""
        super().follow(parameters)
        self._shown = None

    def make(self, work: Callable[[Pause], Any]) -> None:
        """Make the nodes, and tell of their table and what has to be known to read it.

        :param work: makes the nodes; the result has a `table`.
        """
        self.work(work, self._onMade)

    def _onMade(self, nodes: Any) -> None:
        self._shown = None
        text = _('Wrote "{table}". {note}')
        self._tell(text.format(table=nodes.table.GetName(), note=nodes.table.GetDescription() or "").strip())

    def showOnce(self, show: Callable[..., None], *wanted: object) -> None:
        """Show what is chosen, unless it has been shown since: the user may have changed it elsewhere."""
        if self._shown != wanted:
            self._shown = wanted
            show(*wanted)


class Cursor(VTKObservationMixin):
    """Calls somebody whenever the cursor moves in a slice view, as long as that is wanted."""

    def __init__(self, onMove: Callable[[], None]) -> None:
        """Prepare; nothing is observed before `follow`.

        :param onMove: called when the cursor has moved.
        """
        super().__init__()
        self._onMove = onMove

    def follow(self, isWanted: bool) -> None:
        """Begin or end to observe the cursor."""
        node = _crosshair()
        event = slicer.vtkMRMLCrosshairNode.CursorPositionModifiedEvent
        if not isWanted:
            self.removeObservers()
        elif node is not None and not self.hasObserver(node, event, self._onEvent):
            self.addObserver(node, event, self._onEvent)

    def position(self) -> list[float] | None:
        """Return the point of the world under the cursor, RAS mm; None if that is in no slice view."""
        point = [0.0, 0.0, 0.0]
        node = _crosshair()
        return point if node is not None and node.GetCursorPositionRAS(point) else None

    def viewName(self) -> str:
        """Return the name of the slice view that the cursor is in; empty if it is in none."""
        node = _crosshair()
        view = node and node.GetCursorPositionXYZ([0.0, 0.0, 0.0])
        return view.GetLayoutName() if view else ""

    def _onEvent(self, caller: slicer.vtkMRMLNode, event: str) -> None:
        self._onMove()


def _crosshair() -> slicer.vtkMRMLCrosshairNode | None:
    return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
