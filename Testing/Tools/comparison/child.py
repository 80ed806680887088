"""Register one pair in this process, of which nothing else is asked, and print what it took as one line of JSON.

    python Testing/Tools/comparison/child.py '{"peer": "demons", "pair": {"fixed": "a.mha", "moving": "b.mha"}}'

Seconds are those from two volumes in memory to a displacement in memory; "start_cpu_seconds" is what loading the
program and the volumes takes. The peak of the memory is the process', before anything is measured. Nothing is imported
that the method does not need.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "DeepAttentionReg"), str(ROOT / "Testing" / "Tools")]

from comparison.peers import PEERS, TwoVolumes
from comparison.process import Numbers, peak_bytes
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.images import Volume
from DeepAttentionRegEngine.volume.intensity import normalize

Volumes = tuple[Volume, Volume]


def ours(settings: dict[str, Any]) -> Callable[[Volumes], np.ndarray]:
    """Return what registers by the engine; the network stays loaded."""
    from DeepAttentionRegEngine import Registrar, Settings
    from DeepAttentionRegEngine.deform.allocator import keep_freed_memory

    keep_freed_memory()  # as the engine's command line and the panel do
    registrar = Registrar(Settings(**settings))

    def register(volumes: Volumes) -> np.ndarray:
        fixed, moving = ((volume.array, volume.geometry) for volume in volumes)
        return registrar.register(fixed, moving).displacement_lps_mm

    return register


def theirs(name: str) -> Callable[[Volumes], np.ndarray]:
    """Return what registers by a peer; it gets intensities as our networks do, and a grid along the axes."""
    peer = PEERS[name]
    __import__(peer.module)

    def register(volumes: Volumes) -> np.ndarray:
        grid = volumes[0].geometry
        pair = TwoVolumes(*(normalize(volume.array) for volume in volumes), grid.spacing)
        return peer.register(pair) @ np.reshape(grid.direction, (3, 3)).T

    return register


def measure(spec: dict[str, Any]) -> Numbers:
    """Return what registering a pair took and how good it is.

    Args:
        spec: "settings" of the engine or "peer"; "pair", files by field of the engine's jobs; "repeat", how often.
    """
    register = theirs(spec["peer"]) if "peer" in spec else ours(spec["settings"])
    volumes = tuple(images.read_volume(spec["pair"][side]) for side in ("fixed", "moving"))
    ready = time.perf_counter(), time.process_time()
    for _ in range(spec.get("repeat", 1)):
        displacement = register(volumes)
    numbers = {
        "seconds": time.perf_counter() - ready[0],
        "cpu_seconds": time.process_time() - ready[1],
        "start_cpu_seconds": ready[1],
        "bytes": peak_bytes(),
        "voxels": int(np.prod(displacement.shape[:3])),
    }
    return {**numbers, **scores(displacement, volumes[0], spec["pair"])}


def scores(displacement: np.ndarray, fixed: Volume, pair: dict[str, str]) -> Numbers:
    """Return the engine's figures of a displacement `(k, j, i, 3)`, LPS mm, and those before it."""
    from DeepAttentionRegEngine import jobs
    from DeepAttentionRegEngine.protocol.contract import MetricsJob, build
    from DeepAttentionRegEngine.protocol.reporting import Reporter
    from training.measure.whole_jobs import score_figures

    reference = {name: file for name, file in pair.items() if name not in ("fixed", "moving")}
    with TemporaryDirectory() as folder:
        file = f"{folder}/transform.mha"
        images.write_displacement(file, displacement.astype(np.float32), fixed.geometry)
        values = jobs.run(build(MetricsJob, {"transform": file, **reference}), Reporter()).values
    before, after = (score_figures(values[stage]) for stage in ("before", "after"))
    return {**after, "folds": values["jacobian"]["folds"], "aligned": before}


def measure_job(spec: dict[str, Any]) -> Numbers:
    """Run a whole job of the engine as the panel does; its seconds are the process', which the parent takes."""
    from DeepAttentionRegEngine import jobs
    from DeepAttentionRegEngine.deform.allocator import keep_freed_memory
    from DeepAttentionRegEngine.protocol.contract import RegisterJob, build
    from DeepAttentionRegEngine.protocol.reporting import Reporter

    keep_freed_memory()
    with TemporaryDirectory() as folder:
        outputs = {f"output_{name}": f"{folder}/{name}.nrrd" for name in ("transform", "warped", "jacobian")}
        result = jobs.run(build(RegisterJob, {**spec["job"], **outputs}), Reporter())
    # The main thread does all of the serial and its share of the parallel work.
    taken = {"thread_seconds": time.thread_time(), "cpu_seconds": time.process_time(), "bytes": peak_bytes()}
    return {**taken, "warnings": result.warnings}


def prepare(spec: dict[str, Any]) -> Numbers:
    """Make the pairs of a set, which later processes read."""
    from comparison.sets import make

    return {"pairs": make(spec["set"], spec["count"], Path(spec["folder"]))}


def probe(_spec: dict[str, Any]) -> Numbers:
    """Return what the engine's probe says of this computer, and versions."""
    from DeepAttentionRegEngine import jobs
    from DeepAttentionRegEngine.protocol.contract import ProbeJob
    from DeepAttentionRegEngine.protocol.reporting import Reporter

    return jobs.run(ProbeJob(), Reporter()).values


ACTIONS: dict[str, Callable[[dict[str, Any]], Numbers]] = {"job": measure_job, "set": prepare, "probe": probe}

if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    print(json.dumps(ACTIONS.get(next(iter(told)), measure)(told)))
