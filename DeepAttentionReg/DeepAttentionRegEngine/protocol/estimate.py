"""How long a registration will take and how much memory it needs, from measured costs. Standard library only.

Resources/costs.json holds what Testing/Tools/bench.py measured on one machine, the reference. Every cost is a law
linear in voxels, `{"constant": c, "fixed": a, "working": b, "network": n}`: those of the fixed volume, of the working
grid and of the grid that the network sees. Those of a method are of the weights that it takes first, those of its other
weights stand beside them, and where weights refine in a way of their own that has laws, too.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .contract import METHOD_NONE
from .grid import FINER, REFINEMENT_ALONE, SLIDING_NODES, pyramid_factors, used_axes
from .quality import resolve
from .registry import Method, Variant, find_variant, load_method, resources
from .settings import AUTOMATIC, Settings

FILE = "costs.json"
MOST_COMPARED_VOXELS = 1_700_000  # the automatic alignment leaves out voxels of larger volumes
SLIDING_TIMES = 2.2  # as many seconds a step takes where segments slide
SLIDING_BYTES = 90.0  # for each node of the grid on which fields are joined there
PLAIN = "ncc"  # the refinement that each weights' own one was measured with

Law = dict[str, float]
Laws = dict[str, Law]


@dataclass(frozen=True)
class Estimate:
    """What a registration needs.

    Attributes:
        seconds: From the start of the engine to its end.
        bytes: Most memory at any time.
    """

    seconds: float
    bytes: float


def evaluate(law: Law, voxels: dict[str, int]) -> float:
    """Return the value of a law for the voxels of each grid."""
    return law["constant"] + sum(slope * voxels[grid] for grid, slope in law.items() if grid != "constant")


def load_costs() -> dict[str, Any] | None:
    """Return the measured costs; None if there are none or they cannot be read, for nothing depends on them."""
    try:
        return json.loads((resources() / FILE).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def estimate(
    size: Sequence[int],
    spacing: Sequence[float],
    settings: Settings,
    *,
    cpu: float | None = None,
    device: float | None = None,
    coarser: int = 1,
) -> Estimate | None:
    """Return what a registration will need.

    Args:
        size: Voxels of the fixed volume along i, j, k.
        spacing: Its voxel size in mm along i, j, k.
        settings: How it will be registered.
        cpu: Speed of this computer's CPU as the engine's probe measures it; None takes the reference machine's.
        device: Speed of the device that computes; None takes the CPU's.
        coarser: How many times fewer voxels the working grid has than it would.

    Returns:
        The estimate; None if the costs of the method are not known.

    Raises:
        EngineError: If there is no such method, or its file or what is told beside the weights is damaged.
    """
    costs = load_costs()
    if costs is None:
        return None
    method = None if settings.method == METHOD_NONE else load_method(settings.method)
    variant = None if method is None else find_variant(method, len(used_axes(size)), settings.weights)
    slower = costs["speed"] / (cpu or costs["speed"])
    speeds = slower, costs["speed"] / device if device else slower
    try:
        settings = resolve(settings, method, variant)
        laws = _laws(costs, settings, method, variant, size, spacing)
        voxels = _voxels(size, spacing, method, variant, coarser)
        return _estimate(voxels, settings, laws, speeds)
    except KeyError:
        return None


def _voxels(
    size: Sequence[int], spacing: Sequence[float], method: Method | None, variant: Variant | None, coarser: int
) -> dict[str, int]:
    """Return the voxels of each grid."""
    usual = REFINEMENT_ALONE if method is None else method.grid[len(used_axes(size))]
    policy = usual.coarser(size, spacing, coarser)
    spatial = policy.working_size(size, spacing)
    working = network = math.prod(spatial)
    if variant is not None and variant.spacing_mm is not None:
        network = math.prod(policy.network_size(spatial, variant.spacing_mm / policy.working_spacing(size, spacing)))
    return {"fixed": math.prod(size), "working": working, "network": min(network, policy.network_voxels)}


@dataclass(frozen=True)
class _Laws:
    """The laws of the stages of a registration.

    Attributes:
        process: Bytes of a process that has done nothing yet.
        job: Reading, measuring and writing.
        alignment: Seconds of the alignment.
        method: The method; None for refinement alone.
        recursions: How many of it, those on coarser grids as the share of voxels that these have.
        axes: Of the images.
        refinement: Refinement by the usual settings, as the user's similarity and velocity have it.
        own: Refinement by those of the weights, with local correlation of displacements; None where the usual ones are
            taken.
        plain: The usual refinement with local correlation of displacements, which `own` is told beside.
    """

    process: float
    job: Laws
    alignment: Law
    method: dict[str, Any] | None
    recursions: float
    axes: int
    refinement: Laws
    own: Laws | None
    plain: Laws


def _laws(
    costs: dict[str, Any],
    settings: Settings,
    method: Method | None,
    variant: Variant | None,
    size: Sequence[int],
    spacing: Sequence[float],
) -> _Laws:
    """Return the laws that hold for a registration.

    Raises:
        KeyError: If one was never measured.
    """
    axes, refinements = str(len(used_axes(size))), costs["refinement"]
    law, is_trusted = None, False
    factors = pyramid_factors(() if variant is None else variant.pyramid, settings.recursions or 0)
    if method is not None:
        known = costs["methods"]
        is_other = variant is not None and variant.weights in known
        law = known[variant.weights if variant is not None and is_other else method.name][axes]
        extent = max(n * edge for n, edge in zip(size, spacing, strict=True))
        is_trusted = variant is None or variant.suits(extent)
    return _Laws(
        process=costs["process_bytes"],
        job=costs["job"][axes],
        alignment=costs["alignment"][settings.alignment][axes],
        method=law,
        recursions=sum(factor ** -int(axes) for factor in factors),
        axes=int(axes),
        refinement=refinements[settings.similarity + ("-velocity" if settings.velocity else "")][axes],
        own=law.get("refinement") if law is not None and is_trusted else None,
        plain=refinements[PLAIN][axes],
    )


def _estimate(voxels: dict[str, int], settings: Settings, laws: _Laws, slower: tuple[float, float]) -> Estimate:
    """Add up the stages.

    Args:
        voxels: From `_voxels`.
        settings: With no number left open.
        laws: From `_laws`.
        slower: How many times longer than the reference machine this one's CPU takes, and the device that computes.
    """
    on_cpu, on_device = slower
    aligned = voxels if settings.alignment != AUTOMATIC else {"fixed": min(voxels["fixed"], MOST_COMPARED_VOXELS)}
    seconds = on_cpu * (evaluate(laws.job["seconds"], voxels) + evaluate(laws.alignment, aligned))
    peaks = [evaluate(laws.job["bytes"], voxels)]
    if laws.method is not None:
        recursions = laws.recursions * evaluate(laws.method["recursion"], voxels)
        seconds += on_device * (evaluate(laws.method["setup"], voxels) + recursions)
        peaks.append(evaluate(laws.method["bytes"], voxels))
    if settings.refinement_steps:
        found = _refinement(voxels, settings.refinement_steps, laws)
        if settings.sliding.strip():
            found = Estimate(SLIDING_TIMES * found.seconds, found.bytes + SLIDING_BYTES * _joined(voxels, laws.axes))
        seconds += on_device * found.seconds
        peaks.append(found.bytes)
    return Estimate(seconds, laws.process + max(peaks))


def _joined(voxels: dict[str, int], axes: int) -> float:
    """Return the nodes of the grid on which fields are joined where segments slide (`deform/sliding.py`)."""
    return min(FINER**axes * voxels["working"], max(SLIDING_NODES, voxels["working"]))


def _refinement(voxels: dict[str, int], steps: int, laws: _Laws) -> Estimate:
    """Return what the steps of refinement take, and the memory beyond the process'."""
    usual = {part: evaluate(laws.refinement[part], voxels) for part in ("setup", "step", "bytes")}
    if laws.own is not None:
        # Measured with one similarity alone; another one changes a step as it changes a usual one.
        for part in usual:
            plain = evaluate(laws.plain[part], voxels)
            usual[part] *= evaluate(laws.own[part], voxels) / plain if plain else 1.0
    return Estimate(usual["setup"] + steps * usual["step"], usual["bytes"])
