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
from .registry import GridPolicy, load_method, resources

FILE = "costs.json"
REFINEMENT_POLICY = GridPolicy(minimum_size=32, maximum_voxels=4_100_000, network_voxels=4_100_000)

Law = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """What is to be registered and how; the other fields as in `contract.RegisterJob`.

    Attributes:
        size: Voxels of the fixed volume along i, j, k.
        spacing: Its voxel size in mm along i, j, k.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    method: str = "rman"
    recursions: int | None = None
    alignment: str = "center"
    refinement_steps: int = 0
    similarity: str = "ncc"
    velocity: bool = False


@dataclass(frozen=True)
class Estimate:
    """What a registration needs.

    Attributes:
        seconds: From the start of the engine to its end.
        bytes: Most memory at any time.
    """

    seconds: float
    bytes: float


def working_size(size: Sequence[int], spacing: Sequence[float], policy: GridPolicy) -> tuple[int, ...]:
    """Return the size of the working grid over a volume, its axes in the order of the volume's.

    Args:
        size: Voxels along i, j, k.
        spacing: Voxel size in mm along i, j, k.
        policy: Size policy of the method.

    Returns:
        Three numbers, two for a single slice, whose own axis is left out.
    """
    flat = list(size).index(1) if list(size).count(1) == 1 else None
    axes = [axis for axis in range(3) if axis != flat]
    edge = math.prod(spacing[axis] for axis in axes) ** (1 / len(axes))
    extent = [size[axis] * spacing[axis] for axis in axes]
    edge *= max(1.0, (math.prod(extent) / edge ** len(axes) / policy.maximum_voxels) ** (1 / len(axes)))
    around = 2 * policy.margin
    return tuple(max(policy.minimum_size, math.ceil(length / edge - 1e-6) + around) for length in extent)


def evaluate(law: Law, voxels: dict[str, int]) -> float:
    """Return the value of a law for the voxels of each grid."""
    return law["constant"] + sum(slope * voxels[grid] for grid, slope in law.items() if grid != "constant")


def load_costs() -> dict[str, Any] | None:
    """Return the measured costs; None if there are none or they cannot be read, for nothing depends on them."""
    try:
        return json.loads((resources() / FILE).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def estimate(plan: Plan, *, cpu: float | None = None, device: float | None = None) -> Estimate | None:
    """Return what a registration will need.

    Args:
        plan: What is to be done.
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
    slower = costs["speed"] / (cpu or costs["speed"])
    try:
        return _estimate(plan, costs, slower, costs["speed"] / device if device else slower)
    except KeyError:
        return None


def _estimate(plan: Plan, costs: dict[str, Any], on_cpu: float, on_device: float) -> Estimate:
    """Add up the stages.

    Args:
        plan: What is to be done.
        costs: From `load_costs`.
        on_cpu: How many times longer than the reference machine this one's CPU takes.
        on_device: The same of the device that computes.
    """
    axes = "2" if plan.size.count(1) == 1 else "3"
    method = None if plan.method == METHOD_NONE else load_method(plan.method)
    policy = REFINEMENT_POLICY if method is None else method.grid[int(axes)]
    working = math.prod(working_size(plan.size, plan.spacing, policy))
    voxels = {"fixed": math.prod(plan.size), "working": working, "network": min(working, policy.network_voxels)}
    job = costs["job"][axes]
    seconds = on_cpu * (evaluate(job["seconds"], voxels) + evaluate(costs["alignment"][plan.alignment][axes], voxels))
    peaks = [evaluate(job["bytes"], voxels)]
    if method is not None:
        law = costs["methods"][method.name][axes]
        count = plan.recursions or method.recursions.default
        seconds += on_device * (evaluate(law["setup"], voxels) + count * evaluate(law["recursion"], voxels))
        peaks.append(evaluate(law["bytes"], voxels))
    if plan.refinement_steps:
        law = costs["refinement"][plan.similarity + ("-velocity" if plan.velocity else "")][axes]
        seconds += on_device * (evaluate(law["setup"], voxels) + plan.refinement_steps * evaluate(law["step"], voxels))
        peaks.append(evaluate(law["bytes"], voxels))
    return Estimate(seconds, costs["process_bytes"] + max(peaks))
