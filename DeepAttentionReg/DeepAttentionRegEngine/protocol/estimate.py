"""How long a registration will take and how much memory it needs, from measured costs. Standard library only.

Resources/costs.json holds what Testing/Tools/bench.py measured on one machine, the reference. Every cost is a law
linear in voxels, `{"constant": c, "fixed": a, "working": b, "network": n}`: those of the fixed volume, of the working
grid and of the grid that the network sees.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .contract import METHOD_NONE
from .grid import REFINEMENT_ALONE, used_axes
from .quality import resolve
from .registry import Method, load_method, resources
from .settings import AUTOMATIC, Settings

FILE = "costs.json"
MOST_COMPARED_VOXELS = 1_700_000  # the automatic alignment leaves out voxels of larger volumes

Law = dict[str, float]


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
) -> Estimate | None:
    """Return what a registration will need.

    Args:
        size: Voxels of the fixed volume along i, j, k.
        spacing: Its voxel size in mm along i, j, k.
        settings: How it will be registered.
        cpu: Speed of this computer's CPU as the engine's probe measures it; None takes the reference machine's.
        device: Speed of the device that computes; None takes the CPU's.

    Returns:
        The estimate; None if the costs of the method are not known.

    Raises:
        EngineError: If there is no such method, or its file is damaged.
    """
    costs = load_costs()
    if costs is None:
        return None
    method = None if settings.method == METHOD_NONE else load_method(settings.method)
    slower = costs["speed"] / (cpu or costs["speed"])
    speeds = slower, costs["speed"] / device if device else slower
    try:
        return _estimate(_voxels(size, spacing, method), resolve(settings, method), method, costs, speeds)
    except KeyError:
        return None


def _voxels(size: Sequence[int], spacing: Sequence[float], method: Method | None) -> dict[str, int]:
    """Return the voxels of each grid, and "axes", how many of them are spatial."""
    axes = len(used_axes(size))
    policy = REFINEMENT_ALONE if method is None else method.grid[axes]
    working = math.prod(policy.working_size(size, spacing))
    grids = {"fixed": math.prod(size), "working": working, "network": min(working, policy.network_voxels)}
    return {**grids, "axes": axes}


def _estimate(
    voxels: dict[str, int],
    settings: Settings,
    method: Method | None,
    costs: dict[str, Any],
    slower: tuple[float, float],
) -> Estimate:
    """Add up the stages.

    Args:
        voxels: From `_voxels`.
        settings: With no number left open.
        method: The method; None for refinement alone.
        costs: From `load_costs`.
        slower: How many times longer than the reference machine this one's CPU takes, and the device that computes.
    """
    on_cpu, on_device = slower
    axes, job = str(voxels["axes"]), costs["job"][str(voxels["axes"])]
    aligned = voxels if settings.alignment != AUTOMATIC else {"fixed": min(voxels["fixed"], MOST_COMPARED_VOXELS)}
    alignment = evaluate(costs["alignment"][settings.alignment][axes], aligned)
    seconds = on_cpu * (evaluate(job["seconds"], voxels) + alignment)
    peaks = [evaluate(job["bytes"], voxels)]
    if method is not None:
        law = costs["methods"][method.name][axes]
        recursions = (settings.recursions or 0) * evaluate(law["recursion"], voxels)
        seconds += on_device * (evaluate(law["setup"], voxels) + recursions)
        peaks.append(evaluate(law["bytes"], voxels))
    if settings.refinement_steps:
        law = costs["refinement"][settings.similarity + ("-velocity" if settings.velocity else "")][axes]
        seconds += on_device * (
            evaluate(law["setup"], voxels) + settings.refinement_steps * evaluate(law["step"], voxels)
        )
        peaks.append(evaluate(law["bytes"], voxels))
    return Estimate(seconds, costs["process_bytes"] + max(peaks))
