"""Measure one thing in this process, of which nothing else is asked, and print it as one line of JSON (bench.py).

    python Testing/Tools/bench_measure.py method rman 96x96x96 cpu

Seconds on the CPU are those that the main thread computed: it does all of the serial and its share of the parallel
work, so on an idle machine they are the seconds that pass (within 3 % for RMAn), and on a shared one they leave the
waiting out. Bytes are how far the peak of the process' memory has risen, on a GPU the peak of what PyTorch allocated.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "DeepAttentionReg" / "Scripts" / "run_engine.py"
sys.path.insert(0, str(ROOT / "DeepAttentionReg"))

from comparison import process
from DeepAttentionRegEngine import jobs
from DeepAttentionRegEngine.deform.allocator import keep_freed_memory
from DeepAttentionRegEngine.deform.refine import refine
from DeepAttentionRegEngine.deform.speed import registration_speed
from DeepAttentionRegEngine.deform.warp import resize_displacement
from DeepAttentionRegEngine.networks import ARCHITECTURES, load_network
from DeepAttentionRegEngine.protocol import contract, registry
from DeepAttentionRegEngine.protocol.grid import REFINEMENT_ALONE, GridPolicy
from DeepAttentionRegEngine.protocol.reporting import Reporter
from DeepAttentionRegEngine.protocol.settings import AS_FOUND, AUTOMATIC, Settings
from DeepAttentionRegEngine.registration.method_run import Tool, similarity
from DeepAttentionRegEngine.registration.preprocess import Source, WorkingPair, prepare, warp_volume
from DeepAttentionRegEngine.registration.search import refine_settings
from DeepAttentionRegEngine.registration.starts import find_start
from DeepAttentionRegEngine.registration.transform_grid import store
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.geometry import Geometry

GRAIN = 8  # voxels between the random numbers of which the images are made
TIMED_RECURSIONS = 3
FEW_STEPS, MORE_STEPS = 10, 20  # of which three tenths are whole numbers
DEMONS_ITERATIONS = 50
SHARE = 10  # of the iterations of an iterative method, and of demons, one in so many is timed
SPEEDS = 5  # of which the median counts

Numbers = dict[str, Any]


def parse_size(text: str) -> tuple[int, int, int]:
    """Return voxels along i, j, k of a text such as 160x192x224, or 256x256 for a single slice."""
    i, j, *k = (int(part) for part in text.split("x"))
    return i, j, k[0] if k else 1


def axes_of(size: tuple[int, int, int]) -> int:
    """Return the spatial axes, 2 for a single slice, else 3."""
    return 2 if size.count(1) == 1 else 3


def peak_bytes(device: torch.device) -> int:
    """Return the peak of the memory so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return process.peak_bytes()


def clock(device: torch.device) -> float:
    """Return seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.thread_time()


def elapsed(started: tuple[float, float]) -> float:
    """Return the seconds since `now`, of work for which libraries may have threads of their own.

    They are those that passed or, if these are more because other programs compute too, those that were computed.
    """
    return min(end - start for start, end in zip(started, now(), strict=True))


def now() -> tuple[float, float]:
    """Return when it is, in seconds that pass and in those that the process computed."""
    return time.perf_counter(), time.process_time()


def make_sources(size: tuple[int, int, int], shift: int = 2) -> tuple[Source, Source]:
    """Return two random smooth volumes of 1 mm voxels, the moving one the fixed one shifted by some voxels."""
    grid = Geometry.from_arrays(size, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    coarse = [max(1, n // GRAIN) for n in grid.shape]
    noise = torch.rand(1, 1, *coarse, generator=torch.Generator().manual_seed(0))
    fixed = F.interpolate(noise, grid.shape, mode="trilinear")[0, 0].numpy()
    return Source(fixed, grid), Source(np.roll(fixed, shift, axis=(1, 2)), grid)


def prepared(size: tuple[int, int, int], policy: GridPolicy, device: torch.device) -> WorkingPair:
    """Return random images on their working grid."""
    return prepare(*make_sources(size), np.eye(4), policy, device)


def grids(pair: WorkingPair, size: tuple[int, int, int], network: tuple[int, ...] = ()) -> Numbers:
    """Return how many voxels each grid has."""
    return {"fixed": int(np.prod(size)), "working": pair.fixed.numel(), "network": int(np.prod(network))}


class StepTimes:
    """When each iteration of something that iterates, level by level, was done."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._times: list[float] = []

    def __call__(self, *_progress: float) -> None:
        """Note that an iteration is done."""
        self._times.append(clock(self._device))

    def per_step(self, counts: Sequence[int]) -> np.ndarray:
        """Return the usual seconds of an iteration at each level, of which there were `counts`, two at least."""
        levels = np.split(np.array(self._times), np.cumsum(counts)[:-1])
        return np.array([np.median(np.diff(level)) for level in levels])


def form(name: str, axes: int) -> tuple[registry.Method, registry.Variant]:
    """Return the method and the form of it that are to run.

    Args:
        name: Of listed weights, or of a method, which takes its first weights or, if it has none, is untrained.
        axes: Spatial axes, 2 or 3.
    """
    for method in map(registry.load_method, registry.method_names()):
        variants = [variant for variant in method.variants if variant.dimensions == axes]
        if method.name == name:
            return method, variants[0] if variants else registry.Variant(None, axes, method.networks[axes], None, {})
        if chosen := [variant for variant in variants if variant.weights == name]:
            return method, chosen[0]
    msg = f"there are no method and no weights {name!r} for {axes} axes"
    raise ValueError(msg)


def shortened(method: registry.Method, variant: registry.Variant) -> tuple[registry.Variant, tuple[int, ...]]:
    """Return an iterative method with a share of its iterations, and how many are usual per level."""
    usual = ARCHITECTURES[method.architecture][0](**variant.network).iterations
    iterations = tuple(max(2, count // SHARE) for count in usual)
    return replace(variant, network={**variant.network, "iterations": iterations}), usual


@torch.no_grad()
def measure_method(name: str, size: tuple[int, int, int], device: torch.device) -> Numbers:
    """Run a method as the pipeline does, up to the warped volume; later recursions cost what the last does.

    Returns:
        Seconds until the first recursion ("setup"), of each ("recursion") and of the final warp ("warp"). Where
        recursions are levels of resolution and the last one costs most, all of them are "setup".
    """
    axes = axes_of(size)
    method, variant = form(name, axes)
    before = peak_bytes(device)
    pair = prepared(size, method.grid[axes], device)
    started = clock(device)
    is_iterative = method.role == "iterative"
    variant, usual = shortened(method, variant) if is_iterative else (variant, ())
    network = load_network(method.architecture, variant).to(device)
    network.on_step = steps = StepTimes(device)
    view = pair.at(Tool(method, variant, network).network_size(pair.geometry))
    times = [clock(device)]
    for state in network.recurse(view.for_network(), timed_recursions(method)):
        similarity(view, state.displacement)
        times.append(clock(device))
    displacement = resize_displacement(state.displacement, pair.fixed.shape[2:])
    enlarged = clock(device)
    fixed, moving = make_sources(size)
    begun = clock(device)
    warp_volume(moving, store(displacement, pair, fixed.geometry, AS_FOUND), fixed.geometry, device)
    ended = clock(device)
    first, later = times[1] - times[0], times[2:]
    recursion = (later[-1] - times[1]) / len(later) if later else first
    if is_iterative:
        short = np.array(variant.network["iterations"])
        first = times[-1] - times[0] + float((usual - short) @ steps.per_step(short))
        recursion = 0.0
    return {
        "setup": times[0] - started + max(0.0, first - recursion) + enlarged - times[-1],
        "recursion": recursion,
        "warp": ended - begun,
        "recursions": method.usual_recursions(variant),
        "share": SHARE if is_iterative else 1,
        "bytes": peak_bytes(device) - before,
        "voxels": grids(pair, size, tuple(view.fixed.shape[2:])),
    }


def timed_recursions(method: registry.Method) -> int:
    """Return how many recursions to run: all levels of an iterative method, else a few."""
    if method.role == "iterative":
        return method.recursions.default
    # One more than the usual single one tells the recursion from what only the first costs.
    return min(max(2, min(method.recursions.default, TIMED_RECURSIONS)), method.recursions.maximum)


def measure_refinement(name: str, size: tuple[int, int, int], device: torch.device) -> Numbers:
    """Refine by the usual settings; the name is a similarity, with "-velocity" if a velocity field is refined."""
    before = peak_bytes(device)
    pair = prepared(size, REFINEMENT_ALONE, device)
    metric, _, velocity = name.partition("-")
    chosen = Settings(similarity=metric, velocity=bool(velocity))
    times = refinement_seconds(pair, chosen, {}, device)
    return {**times, "bytes": peak_bytes(device) - before, "voxels": grids(pair, size)}


def measure_own(name: str, size: tuple[int, int, int], device: torch.device) -> Numbers:
    """Refine as weights of a method, or an iterative one, want it, with the structures that the network sees."""
    method, variant = form(name, axes_of(size))
    before = peak_bytes(device)
    pair = prepared(size, method.grid[axes_of(size)], device)
    if variant.refinement.get("structures"):
        network = load_network(method.architecture, variant).to(device)
        view = pair.at(Tool(method, variant, network).network_size(pair.geometry)).for_network()
        with torch.no_grad():
            pair = replace(pair, structures=next(network.recurse(view, 1)).structures)
    times = refinement_seconds(pair, Settings(), variant.refinement, device)
    return {**times, "bytes": peak_bytes(device) - before, "voxels": grids(pair, size)}


def refinement_seconds(
    pair: WorkingPair, chosen: Settings, trusted: dict[str, Any], device: torch.device
) -> dict[str, float]:
    """Return the seconds of a step, at every level, and those that refinement takes besides its steps."""
    zero = torch.zeros(1, pair.fixed.ndim - 2, *pair.fixed.shape[2:], device=device)
    times = []
    for count in (FEW_STEPS, FEW_STEPS, MORE_STEPS):  # the first pays for what a process does once
        settings = refine_settings(replace(chosen, refinement_steps=count), zero.shape[1], trusted)
        started = clock(device)
        refine(pair, zero, settings)
        times.append(clock(device) - started)
    step = max(0.0, (times[2] - times[1]) / (MORE_STEPS - FEW_STEPS))
    return {"setup": max(0.0, times[0] - FEW_STEPS * step), "step": step}


def measure_alignment(name: str, size: tuple[int, int, int], device: torch.device) -> Numbers:
    """Find the start; the automatic one looks further where images are not alike, which half of the pairs are not."""
    seconds = []
    for shift in (1, GRAIN) if name == AUTOMATIC else (2,):
        fixed, moving = make_sources(size, shift)
        started = now()
        find_start(fixed, moving, name, np.eye(4), 0, device)
        seconds.append(elapsed(started))
    return {"seconds": float(np.mean(seconds)), "voxels": {"fixed": fixed.array.size}}


def measure_job(_name: str, size: tuple[int, int, int], device: torch.device) -> Numbers:
    """Run a job that only reads, measures and writes; its seconds are of a process of its own, from start to end."""
    before = peak_bytes(device)
    sources = make_sources(size)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: str(Path(folder) / f"{name}.nrrd") for name in ("fixed", "moving")}
        for path, source in zip(paths.values(), sources, strict=True):
            images.write_volume(path, source.array, source.geometry)
        outputs = {f"output_{name}": f"{folder}/{name}.nrrd" for name in ("transform", "warped", "jacobian")}
        nothing = {"method": "none", "alignment": "none", "refinement_steps": 0}
        job = contract.RegisterJob(**nothing, device=str(device), **paths, **outputs)
        jobs.run(job, Reporter(lambda _event: None, lambda: False))
        path = Path(folder) / "job.json"
        path.write_text(contract.dump_job(job), encoding="ascii")
        started = time.perf_counter()
        subprocess.run([sys.executable, str(SCRIPT), "run", str(path)], check=True, capture_output=True)
        seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "bytes": peak_bytes(device) - before,
        "process_bytes": before,
        "voxels": {"fixed": sources[0].array.size},
    }


def measure_demons(_name: str, size: tuple[int, int, int], _device: torch.device) -> Numbers:
    """Run SimpleITK's demons for a few iterations; its threads share the work evenly."""
    threads = torch.get_num_threads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    before = process.peak_bytes()
    fixed, moving = (sitk.GetImageFromArray(np.squeeze(source.array)) for source in make_sources(size))
    demons = sitk.DemonsRegistrationFilter()
    demons.SetNumberOfIterations(DEMONS_ITERATIONS // SHARE)
    started = time.process_time()
    field = demons.Execute(fixed, moving)
    iterated = time.process_time() - started
    started = time.process_time()
    sitk.Resample(moving, fixed, sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64)))
    seconds = (SHARE * iterated + time.process_time() - started) / threads
    bytes_ = process.peak_bytes() - before
    return {"seconds": seconds, "recursions": DEMONS_ITERATIONS, "share": SHARE, "bytes": bytes_}


def measure_machine(_name: str, _size: tuple[int, int, int], device: torch.device) -> Numbers:
    """Return what the numbers depend on besides the code."""
    return {
        "speed": statistics.median(registration_speed(device, lambda: clock(device)) for _ in range(SPEEDS)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "SimpleITK": sitk.Version.VersionString(),
    }


MEASURES: dict[str, Callable[[str, tuple[int, int, int], torch.device], Numbers]] = {
    "method": measure_method,
    "refinement": measure_refinement,
    "own": measure_own,
    "alignment": measure_alignment,
    "job": measure_job,
    "demons": measure_demons,
    "machine": measure_machine,
}

if __name__ == "__main__":
    kind, subject, size_text, device_name = sys.argv[1:]
    if kind != "demons":
        keep_freed_memory()  # as the engine's command line does
    print(json.dumps(MEASURES[kind](subject, parse_size(size_text), torch.device(device_name))))
