"""A stand-in for the engine that answers at once, or misbehaves as the environment variable FAKE_ENGINE says.

Called like run_engine.py. Every progress message is the process id, by which tests find out whether it has ended.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "DeepAttentionReg"))

import evidence_cases
import grid_cases
from DeepAttentionRegEngine.protocol import batch, contract, errors, reporting, result_files, watchdog
from DeepAttentionRegEngine.protocol.settings import AS_FIXED
from DeepAttentionRegEngine.volume import fields, images, recursions, segments
from DeepAttentionRegEngine.volume.geometry import Geometry

AMPLITUDE_MM = 3.0
WAVELENGTH_MM = 70.0
BRIGHT = 220
REFINED_SIMILARITY = 0.97
SPEED = {"cpu": 80.0, "cuda:0": 4000.0}
# What it expects of the error, by the mode; in all others nothing suspicious was found.
MEASURED = "Of 300 registrations on which this was measured it found 92 % of the failures."
UNREMARKABLE = {
    "known": True,
    "verdict": "unremarkable",
    "sentence": "Nothing suspicious was found.",
    "measured": MEASURED,
    "probability": 0.02,
    "limit_mm": 10.0,
    "mm": {"median": 3.0, "p95": 4.5},
    "regions": [],
}
EXPECTATIONS: dict[str, dict[str, Any]] = {
    "probably failed": {
        **UNREMARKABLE,
        "verdict": "failed",
        "sentence": "The registration probably failed: errors above 10 mm are likely in most of the image.",
        "probability": 0.9,
        "regions": [{"center_lps": [1.0, 2.0, 3.0], "volume_mm3": 4000.0, "within_mm": 12.0}],
    },
    "error not known": {"known": False, "reason": "The errors of this method were not measured."},
}
VALUES = {
    "before": {"dice": {"1": 0.5, "2": None, "mean": 0.5}, "tre_mm": {"mean": 8.0, "max": 9.0, "points": [7.0, 9.0]}},
    "aligned": {"dice": {"1": 0.6, "2": None, "mean": 0.6}, "tre_mm": {"mean": 6.0, "max": 8.0, "points": [4.0, 8.0]}},
    "after": {"dice": {"1": 0.9, "2": None, "mean": 0.9}, "tre_mm": {"mean": 1.0, "max": 2.0, "points": [0.5, 2.0]}},
    "jacobian": {"min": 0.5, "max": 1.5, "mean": 1.0, "std": 0.1, "folds": 0, "fold_percent": 0.0},
    "displacement_mm": {"mean": 1.5, "max": 3.0},
    "alignment": np.eye(4).ravel().tolist(),
    "expected_error": UNREMARKABLE,
}


def displacement_at(points_lps: np.ndarray) -> np.ndarray:
    """Return the smooth displacement (N, 3) in LPS mm that this engine always finds, at points (N, 3)."""
    phase = np.array([0.0, 1.0, 2.0])
    return AMPLITUDE_MM * np.sin(2 * np.pi * np.roll(points_lps, 1, axis=1) / WAVELENGTH_MM + phase)


def field_on(geometry: Geometry) -> np.ndarray:
    """Return that displacement (k, j, i, 3) in LPS mm on a grid."""
    indices = np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij")[::-1], axis=-1)
    points = geometry.index_to_lps(indices.reshape(-1, 3))
    return displacement_at(points).reshape(*geometry.shape, 3).astype(np.float32)


def bound_at(points_lps: np.ndarray) -> np.ndarray:
    """Return the bound in mm that this engine always has for its error, at points (N, 3): linear between nodes."""
    return 8.0 + points_lps @ (0.02, -0.01, 0.015)


def write_error(path: str, fixed: Geometry) -> None:
    """Write that bound on a grid of its own over a fixed volume: oblique to it and half as fine."""
    grid = grid_cases.found_grid(fixed)
    grid = grid.resized(tuple(max(1, size // 2) for size in grid.size))
    indices = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")[::-1], axis=-1)
    bound = bound_at(grid.index_to_lps(indices.reshape(-1, 3))).reshape(grid.shape)
    images.write_volume(path, bound.astype(np.float32), grid)


def found_on(fixed: Geometry) -> tuple[np.ndarray, Geometry]:
    """Return that displacement where this engine stores it for a fixed volume, and that grid."""
    grid = grid_cases.found_grid(fixed)
    return field_on(grid), grid


def emit(event: contract.Event) -> None:
    print(contract.dump_event(event), flush=True)


def write_recursions(job: contract.RegisterJob, grid: Geometry) -> str:
    """Write and tell the field after every recursion, and return the index."""
    folder, count = Path(job.output_recursions), job.recursions or 3
    folder.mkdir()
    kept = grid if job.recursion_voxels is None else grid.coarsened(job.recursion_voxels)
    index = recursions.Index(job.method, grid, np.eye(4), [])
    for number in range(1, count + 1):
        path = folder / f"recursion_{number}.nrrd"
        images.write_displacement(path, field_on(kept) * (number / count), kept)
        step = recursions.Step("", evidence_cases.similarity_after(number))
        if job.attention:
            step = evidence_cases.write_evidence(folder, grid, number)
        index.recursions.append(replace(step, displacement=path.name))
        emit(contract.Progress("recursion", number, count, str(os.getpid()), str(path)))
    recursions.write_index(folder, index)
    return str(folder / recursions.INDEX)


def work(job: contract.Job) -> int:
    """Write every output the job names, or tell the speed of the computer."""
    if isinstance(job, contract.ProbeJob):
        emit(contract.Result(values={"speed": SPEED}))
    elif isinstance(job, contract.SequenceJob):
        work_on_frames(job)
        emit(contract.Result(values={"frames": len(job.frames)}))
    elif isinstance(job, contract.BatchJob):
        told = reporting.Reporter(emit, watchdog.Wish(job.cancel_file).made)
        emit(batch.run_batch(job, told, register_pair))
    else:
        emit(register(job))
    return 0


def work_on_frames(job: contract.SequenceJob, count: int | None = None) -> None:
    """Register the first frames of a sequence, all for None; a bright one fails in the mode "fail at bright"."""
    for number, frame in enumerate(job.frames[:count], start=1):
        emit(contract.Progress("refine", 1, 2, str(os.getpid())))
        if os.environ.get("FAKE_ENGINE") == "fail at bright" and images.read_volume(frame).array.max() > BRIGHT:
            sys.exit(fail(job))
        folder = Path(job.output) / str(number)
        folder.mkdir(parents=True)
        outputs = {"output_transform": str(folder / "transform.nrrd")}
        if job.warped:
            outputs["output_warped"] = str(folder / "warped.nrrd")
        result = register(contract.RegisterJob(fixed=job.fixed, moving=frame, **outputs))
        file = result_files.write_result(folder, result)
        emit(contract.Progress("frame", number, len(job.frames), "Done.", str(file)))


def register_pair(job: contract.RegisterJob, reporter: reporting.Reporter) -> contract.Result:
    """Register one of many pairs."""
    reporter.step("refine", 1, 2, "Refinement.")
    return register(job)


def register(job: contract.RegisterJob) -> contract.Result:
    """Write every output the job names."""
    fixed = images.read_volume(job.fixed)
    on_fixed = job.transform_grid == AS_FIXED
    displacement, grid = (field_on(fixed.geometry), fixed.geometry) if on_fixed else found_on(fixed.geometry)
    names = ("transform", "warped", "jacobian", "uncertainty")
    outputs = {name: getattr(job, f"output_{name}") for name in names}
    if job.output_recursions is not None:
        outputs["recursions"] = write_recursions(job, fixed.geometry)
    if job.output_gaussians is not None:
        Path(job.output_gaussians).write_text("{}", encoding="ascii")
        outputs["gaussians"] = job.output_gaussians
    if job.output_transform is not None:
        images.write_displacement(job.output_transform, displacement, grid)
    if job.output_uncertainty is not None:
        lengths = fields.magnitude(fields.resize(displacement, grid, fixed.geometry))
        images.write_volume(job.output_uncertainty, lengths / job.samples, fixed.geometry)
    values = measures_of(job)
    if job.output_error is not None and values["expected_error"]["known"]:
        write_error(job.output_error, fixed.geometry)
        outputs["error"] = job.output_error
    if job.output_warped is not None:
        images.write_volume(job.output_warped, fixed.array + 1, fixed.geometry)
    if job.output_jacobian is not None:
        jacobian = fields.jacobian_determinant(fields.resize(displacement, grid, fixed.geometry), fixed.geometry)
        images.write_volume(job.output_jacobian, jacobian, fixed.geometry)
    if job.moving_labels is not None and job.output_warped_labels is not None:
        segments.write_segments(job.output_warped_labels, segments.as_segments(job.fixed_labels or job.moving_labels))
        outputs["warped_labels"] = job.output_warped_labels
    if job.output_structures is not None:
        grids = {"fixed": fixed.geometry, "moving": images.read_volume(job.moving).geometry, "warped": fixed.geometry}
        folder = Path(job.output_structures)
        outputs["structures"], values["structures"] = evidence_cases.write_structures(folder, grids)
    return contract.Result({name: path for name, path in outputs.items() if path}, values, ["A warning."])


def measures_of(job: contract.RegisterJob) -> dict[str, Any]:
    """Return what this engine always measures, as far as the job leads to it."""
    values = by_name(job.fixed_labels)
    values["expected_error"] = EXPECTATIONS.get(os.environ.get("FAKE_ENGINE", ""), UNREMARKABLE)
    if job.output_recursions is not None:
        values["similarity"] = [evidence_cases.similarity_after(step) for step in range((job.recursions or 3) + 1)]
    if job.refinement_steps:
        values["refined_similarity"] = REFINED_SIMILARITY
    return values


def by_name(labels: str | None) -> dict[str, Any]:
    """Return the measures by the names of segments, if there are some, instead of their numbers."""
    items = [] if labels is None else segments.as_segments(labels).items
    names = {str(number): item.title for number, item in enumerate(items, start=1)}
    values = dict(VALUES)
    for state in ("before", "aligned", "after"):
        dice = {names.get(key, key): value for key, value in VALUES[state]["dice"].items()}
        values[state] = {**VALUES[state], "dice": dice}
    return values


def work_until_cancelled(job: contract.Job) -> int:
    """Be at work, on the last frame of a sequence, until that is canceled."""
    if isinstance(job, contract.SequenceJob):
        work_on_frames(job, len(job.frames) - 1)
    if getattr(job, "output_recursions", None) is not None:
        write_recursions(job, images.read_volume(job.fixed).geometry)
    cancellation = watchdog.Wish(job.cancel_file)
    while not cancellation.made():
        emit(contract.Progress("refine", 1, 2, str(os.getpid())))
        time.sleep(0.02)
    emit(contract.Failure(errors.CANCELLED, "The registration was canceled."))
    return 3


def work_until_finished(job: contract.Job) -> int:
    """Be at work, on the first frame of a sequence, until that is to end with what there is."""
    finish = watchdog.Wish(job.finish_file)
    while not finish.made():
        emit(contract.Progress("refine", 1, 2, str(os.getpid())))
        time.sleep(0.02)
    if isinstance(job, contract.SequenceJob):
        work_on_frames(job, 1)
        emit(contract.Result(values={"frames": 1}))
        return 0
    return work(job)


def hang(_job: contract.Job) -> int:
    time.sleep(600)
    return 1


def fail(_job: contract.Job) -> int:
    emit(contract.Failure(errors.NO_OVERLAP, "The volumes do not overlap.", "Align them first."))
    return 1


def lack_memory(_job: contract.Job) -> int:
    emit(contract.Failure(errors.OUT_OF_MEMORY, "There is not enough memory to load PyTorch.", "Close other programs."))
    return 1


def fail_at_bright(job: contract.RegisterJob) -> int:
    """Fail for one of several moving volumes."""
    if isinstance(job, contract.SequenceJob):
        return work(job)
    return (fail if images.read_volume(job.moving).array.max() > BRIGHT else work)(job)


def crash(job: contract.RegisterJob) -> int:
    """End without a verdict, a half-written field left behind."""
    Path(job.output_transform).write_bytes(b"NRRD0004\nhalf")
    print("Segmentation fault, or so.", flush=True)
    os._exit(9)


def crash_after_result(job: contract.RegisterJob) -> int:
    work(job)
    os._exit(9)


def write_corrupt_volume(job: contract.RegisterJob) -> int:
    """Claim success with a last output that cannot be read."""
    code = work(job)
    Path(job.output_jacobian).write_bytes(b"not an image")
    return code


def speak_another_version(job: contract.Job) -> int:
    print('{"contract": 99, "event": "result"}', flush=True)
    return hang(job)


def launch(_job: contract.Job) -> int:
    """Be only a launcher, as PythonSlicer is, of the process that hangs."""
    environment = {**os.environ, "FAKE_ENGINE": "hang"}
    return subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode


MODES: dict[str, Callable[[contract.RegisterJob], int]] = {
    "work": work,
    "work until cancelled": work_until_cancelled,
    "work until finished": work_until_finished,
    "hang": hang,
    "fail": fail,
    "lack memory": lack_memory,
    "fail at bright": fail_at_bright,
    "crash": crash,
    "crash after result": crash_after_result,
    "write corrupt volume": write_corrupt_volume,
    "speak another version": speak_another_version,
    "launch": launch,
    **dict.fromkeys(EXPECTATIONS, work),
}


def main() -> int:
    """Run the job file named on the command line."""
    job = contract.parse_job(Path(sys.argv[2]).read_text(encoding="utf-8"))
    watchdog.watch(job.parent_pid, job.cancel_file)
    emit(contract.Progress("load", message=str(os.getpid())))
    return MODES[os.environ.get("FAKE_ENGINE", "work")](job)


if __name__ == "__main__":
    sys.exit(main())
