"""Registers a table of pairs from files to files, and shows the summary as a table in the scene.

    registration = Batch.BatchRegistration("pairs.csv", "results", Settings(method="rman"))
    registration.start()
    registration.wait().tableNode

pair_table.py of the engine says what the table may hold, batch.py what the folder gets. A pair that fails is told and
does not stop the rest; run again, it goes on where it has ended.
"""

import csv
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import slicer
import vtk
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import batch, contract, errors, pair_table
from DeepAttentionRegEngine.protocol.settings import Settings

from ..engine.Callbacks import Callbacks
from ..engine.Engine import Engine
from ..engine.Task import Task

TEXTS = ("name", "status", "fixed", "moving", "method", "message")


@dataclass(frozen=True)
class BatchOutcome:
    """What came of a batch.

    :param tableNode: the summary, one row a pair.
    :param result: what the engine said; a warning for each pair that failed.
    """

    tableNode: slicer.vtkMRMLTableNode
    result: contract.Result


def checkBatch(pairs: str | Path, folder: str | Path) -> str:
    """Return why a table of pairs cannot be registered, as a sentence; empty if it can be tried.

    :param pairs: CSV or JSON file.
    :param folder: where the results go; made if it is not there.
    """
    # An empty path is the present folder.
    if not Path(pairs).name:
        return _("Choose a table of pairs: a CSV file with the columns fixed and moving.")
    if not Path(folder).name:
        return _("Choose a folder for the results.")
    try:
        pair_table.read_pairs(pairs)
    except errors.EngineError as error:
        return str(error)
    if Path(folder).is_file():
        return _("{path} is a file; choose a folder for the results.").format(path=folder)
    return ""


class BatchRegistration(Task):
    """Registers pairs without blocking; the outcome is a `BatchOutcome`."""

    def __init__(
        self,
        pairs: str | Path,
        folder: str | Path,
        settings: Settings | None = None,
        callbacks: Callbacks | None = None,
        *,
        outputs: list[str] | None = None,
        engine: Engine | None = None,
    ) -> None:
        """Prepare; nothing is done before `start`.

        :param pairs: CSV or JSON file of pairs.
        :param folder: where the results go.
        :param settings: of the pairs that do not say otherwise.
        :param callbacks: whom to tell; progress is of the stage "pair".
        :param outputs: what each pair gets, of `batch.OUTPUTS` of the engine; None takes the usual ones.
        :param engine: what runs it; None takes Slicer's own Python.
        """
        super().__init__(callbacks, engine)
        self._pairs, self._results, self._outputs = Path(pairs), Path(folder), outputs
        self._settings = asdict(settings or Settings())

    def problems(self) -> list[str]:
        """Return why it cannot be started, as sentences."""
        problem = checkBatch(self._pairs, self._results)
        return [problem] if problem else []

    def _export(self) -> contract.Job:
        # Absolute, for the engine works in a folder of its own.
        values = {"pairs": str(self._pairs.absolute()), "output": str(self._results.absolute())}
        return contract.build(contract.BatchJob, {**values, "settings": self._settings, "outputs": self._outputs})

    def _load(self, result: contract.Result) -> BatchOutcome:
        table = readSummary(result.outputs["summary"])
        name = slicer.mrmlScene.GenerateUniqueName(_("{table} results").format(table=self._pairs.stem))
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", name)
        node.SetAndObserveTable(table)
        node.SetUseColumnTitleAsColumnHeader(True)
        node.SetLocked(True)
        return BatchOutcome(node, result)


def readSummary(path: str | Path) -> vtk.vtkTable:
    """Return the summary of a batch; a number that was not measured is NaN.

    :param path: summary.csv.
    """
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    table = vtk.vtkTable()
    for name in batch.COLUMNS:
        isText = name in TEXTS
        column = vtk.vtkStringArray() if isText else vtk.vtkDoubleArray()
        column.SetName(name)
        for row in rows:
            column.InsertNextValue(row[name] if isText else float(row[name] or math.nan))
        table.AddColumn(column)
    return table
