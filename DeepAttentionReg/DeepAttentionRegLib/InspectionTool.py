"""What the tools of the panel have in common that judge a deformation."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from . import PanelParts, PanelRun, Subject


class InspectionTool(PanelParts.Section):
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
        self.run: PanelRun.RunSection | None = None

    def subject(self) -> Subject.Subject:
        """Return the chosen deformation and its volumes.

        :raises ValueError: with a sentence, if there is none.
        """
        chosen = self._parameters
        return Subject.ofTransform(chosen.inspected, chosen.fixedVolume, chosen.movingVolume)

    def update(self, problem: str) -> None:
        """Show what can be done now.

        :param problem: why nothing can be inspected, as a sentence; empty if it can.
        """
        raise NotImplementedError
