"""The section of the panel that registers a table of pairs from files to files."""

import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import contract

from ..tasks import Batch
from . import Arguments, Parts
from .RunSection import RunSection


class BatchSection(Parts.Section):
    """Registers the pairs of the chosen table by the method and settings of the panel."""

    def __init__(self, ui: SimpleNamespace, run: RunSection, logic: Any, resourcePath: Callable[[str], str]) -> None:
        """Load the form, whose widgets join the others.

        :param ui: as `Section`.
        :param run: starts the registration and shows how far it is.
        :param logic: the `DeepAttentionRegLogic`.
        :param resourcePath: returns the path of a file in the module's resources.
        """
        import ctk

        super().__init__(ui, run.tell)
        self._run, self._logic = run, logic
        self._checked: tuple[Any, str] = (None, "")
        form = slicer.util.loadUI(resourcePath("UI/Batch.ui"))
        ui.batchCollapsibleButton.layout().addWidget(form)
        vars(ui).update(vars(slicer.util.childWidgetVariables(form)))
        ui.batchPairsPathLineEdit.filters = ctk.ctkPathLineEdit.Files
        ui.batchFolderPathLineEdit.filters = ctk.ctkPathLineEdit.Dirs
        for widget, name in ((ui.batchPairsPathLineEdit, "batchPairs"), (ui.batchFolderPathLineEdit, "batchFolder")):
            # The box itself tells of no path that it finds unfit, such as one that is half typed.
            widget.comboBox().lineEdit().connect("textChanged(QString)", self._choosing(name))
        ui.batchButton.connect("clicked(bool)", lambda: self.onRegister())

    def update(self, otherProblem: str) -> None:
        """Show the choices, and say whether they can be registered.

        :param otherProblem: why nothing can be registered at all; empty if it can.
        """
        ui, parameters = self._ui, self.chosen
        for widget, path in (
            (ui.batchPairsPathLineEdit, parameters.batchPairs),
            (ui.batchFolderPathLineEdit, parameters.batchFolder),
        ):
            if widget.currentPath != path:
                widget.currentPath = path
        problem = self._problem() or otherProblem
        ui.batchButton.enabled = not problem
        ui.batchButton.toolTip = problem or _("Register all pairs of the table, one after another.")

    def onRegister(self) -> None:
        """Start the registration."""
        parameters = self.chosen
        settings = Arguments.usable(parameters)
        make = functools.partial(Batch.BatchRegistration, parameters.batchPairs, parameters.batchFolder, settings)
        calls = {"onProgress": self._onProgress, "onFinished": self._onFinished}
        self._run.start(self._logic.run, make, stages=["pair"], **calls)

    def _choosing(self, name: str) -> Callable[[str], None]:
        def choose(path: str) -> None:
            if self._parameters is not None:
                setattr(self.chosen, name, path)

        return choose

    def _problem(self) -> str:
        """Return why the table cannot be registered; it is read again only if it was changed."""
        pairs, folder = self.chosen.batchPairs, self.chosen.batchFolder
        try:
            status = Path(pairs).stat()
            key = pairs, folder, status.st_mtime_ns, status.st_size
        except OSError:
            key = pairs, folder, 0, 0
        if key != self._checked[0]:
            self._checked = key, Batch.checkBatch(pairs, folder)
        return self._checked[1]

    def _onProgress(self, progress: contract.Progress) -> None:
        text = _("Pair {number} of {count}").format(number=progress.step + 1, count=progress.of) if progress.of else ""
        self._run.show(progress, text=text)

    def _onFinished(self, outcome: Batch.BatchOutcome) -> None:
        values = outcome.result.values
        text = _('Registered {done} of {pairs} pairs, {resumed} of them before; see the table "{name}".')
        name = outcome.tableNode.GetName()
        lines = [text.format(done=values["done"], pairs=values["pairs"], resumed=values["resumed"], name=name)]
        self._tell("\n".join([*lines, *outcome.result.warnings]))
