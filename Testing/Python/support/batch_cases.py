"""Batches whose registrations are played by a function."""

import csv
from collections.abc import Callable
from pathlib import Path

from DeepAttentionRegEngine.protocol import batch
from DeepAttentionRegEngine.protocol.contract import BatchJob, RegisterJob, Result
from DeepAttentionRegEngine.protocol.reporting import Reporter

VALUES = {
    "method": "none",
    "before": {"dice": {"mean": 0.5}},
    "after": {"dice": {"mean": 0.75}, "tre_mm": {"mean": None}},
    "jacobian": {"minimum": 0.25, "fold_percent": 0.0},
    "seconds": {"load": 1.0, "refine": 2.5},
}
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
PAIRS = ("one", "two", "three")
SHARED = {"header": "name,fixed,moving,moving_labels", "rows": "one,f.nrrd,m.nrrd,l.nrrd\ntwo,f.nrrd,n.nrrd,\n"}


class Engine:
    """Registers by writing an empty transform; fails, cancels or breaks where told to."""

    def __init__(self, **misbehaves: Exception) -> None:
        self.jobs: list[RegisterJob] = []
        self.misbehaves = misbehaves
        self.values = VALUES

    def __call__(self, job: RegisterJob, reporter: Reporter) -> Result:
        reporter.step("load", message="Reading.")
        self.jobs.append(job)
        name = self.names[-1]
        if name in self.misbehaves:
            raise self.misbehaves[name]
        Path(job.output_transform).write_bytes(b"deformation")
        return Result({"transform": job.output_transform}, self.values, ["A warning."])

    @property
    def names(self) -> list[str]:
        return [Path(job.output_transform).parents[1].name for job in self.jobs]  # written beside its place


def run(
    job: BatchJob, engine: Engine, enough: Callable[[], bool] = lambda: False, events: list | None = None
) -> Result:
    emit = (lambda _event: None) if events is None else events.append
    return batch.run_batch(job, Reporter(emit, lambda: False, enough), engine)


def summary(result: Result) -> dict[str, dict[str, str]]:
    with open(result.outputs["summary"], encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}
