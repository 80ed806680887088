"""What the tools of the panel have in common that judge a deformation."""

import logging
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import slicer
from slicer.i18n import tr as _

from ..nodes import Deformation, Metrics, Record
from ..Parameters import DeepAttentionRegParameterNode
from . import Parts, Run


class InspectionTool(Parts.Section):
    """A group of widgets that shows one kind of evidence."""

    def __init__(self, ui: SimpleNamespace, tell: Callable[[str], None], logic: Any) -> None:
        """Take the widgets; a tool connects its own.

        :param ui: as `Section`.
        :param tell: as `Section`.
        :param logic: the `DeepAttentionRegLogic`.
        """
        super().__init__(ui, tell)
        self._logic = logic
        # What starts what takes long; the section that makes the tool provides it.
        self.run: Run.RunSection | None = None
        self._toolTips: dict[str, str] = {}

    def deformation(self) -> Deformation.Deformation:
        """Return the chosen deformation and its volumes.

        :raises ValueError: with a sentence, if there is none.
        """
        chosen = self._parameters
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

    def attempt(self, work: Callable[[], Any]) -> Any:
        """Return what work comes to that may take a moment; None if it fails, of which the user is told why."""
        try:
            with slicer.util.tryWithErrorDisplay(show=False, waitCursor=True):
                return work()
        except ValueError as reason:  # a sentence for the user
            self._tell(str(reason))
        except Exception as error:
            logging.exception("A tool of the inspection failed")
            self._tell(str(error))
        return None

    def showTable(self, role: str) -> None:
        """Show the table that the deformation remembers in a role."""
        table = Record.attached(self._parameters.inspected, role)
        if table is None:
            self._tell(_("The table was removed."))
        else:
            Metrics.showTable(table)


class TableTool(InspectionTool):
    """A tool that makes nodes with a table on demand, and then shows of them what is chosen."""

    def __init__(self, ui: SimpleNamespace, tell: Callable[[str], None], logic: Any) -> None:
        """Take the widgets; parameters as `InspectionTool`."""
        super().__init__(ui, tell, logic)
        self._shown: tuple[object, ...] | None = None

    def follow(self, parameters: DeepAttentionRegParameterNode | None) -> None:
        """Take other choices."""
        super().follow(parameters)
        self._shown = None

    def make(self, work: Callable[[], Any]) -> None:
        """Make the nodes, and tell of their table and what has to be known to read it.

        :param work: makes the nodes; the result has a `table`.
        """
        nodes = self.attempt(work)
        if nodes is not None:
            self._shown = None
            text = _('Wrote "{table}". {note}')
            self._tell(text.format(table=nodes.table.GetName(), note=nodes.table.GetDescription() or "").strip())

    def showOnce(self, show: Callable[..., None], *wanted: object) -> None:
        """Show what is chosen, unless it has been shown since: the user may have changed it elsewhere."""
        if self._shown != wanted:
            self._shown = wanted
            show(*wanted)
