"""Whether the panel's estimate before a run is what the run then takes, for every method that ships weights."""

import re
from dataclasses import replace
from typing import Any

from comparison.process import Cache, Numbers
from comparison.tables import error_percent
from DeepAttentionRegEngine.protocol import contract, estimate, registry
from DeepAttentionRegEngine.protocol.settings import Settings

QUALITIES = ("fast", "balanced")
SLICE, VOLUME, LARGE = "phantom-256x256x1", "phantom-96x80x96", "phantom-168x120x168"
SMALL = "phantom-60x50x60@1"  # a field of view as some weights were trained on
REAL_SMALL = "hippocampus"  # what they are for, where it is at hand
LEFT_OUT = "was left out"  # what the engine says of a network's field that makes things worse


def forms() -> list[tuple[str, registry.Method, registry.Variant]]:
    """Return every form of a method that can be run, by the name of its weights or, without any, of the method."""
    methods = map(registry.load_method, registry.method_names())
    return [(item.weights or method.name, method, item) for method in methods for item in method.variants]


def cases() -> list[tuple[str, Settings, str]]:
    """Return names, settings and phantoms: every form of a method at every quality, the usual one on a large pair."""
    found = []
    for quality in QUALITIES:
        for name, method, variant in forms():
            settings = Settings(method=method.name, weights=variant.weights, quality=quality, device="cpu")
            volume = VOLUME if variant.extent_mm is None else SMALL
            found.append((name, settings, SLICE if variant.dimensions == 2 else volume))
        alone = Settings(method=contract.METHOD_NONE, quality=quality, device="cpu")
        found += [("refinement alone", alone, phantom) for phantom in (VOLUME, SLICE)]
    usual = Settings(device="cpu")
    return [*found, (f"{usual.method}, first weights", usual, LARGE), ("refinement alone", alone, LARGE)]


def check(cache: Cache, phantoms: dict[str, Numbers], speed: float | None, *, busy: bool = False) -> list[Numbers]:
    """Return what was estimated and what was measured.

    Args:
        cache: Of the children.
        phantoms: A pair by name; what takes the place of `SMALL` may be real.
        speed: Of this computer's CPU, as the engine's probe measures it; None for the reference's.
        busy: Count what the main thread computed instead of what passed: on a computer that does other things, too.
    """
    rows = []
    for name, settings, phantom in (case for case in cases() if case[2] in phantoms):
        pair = phantoms[phantom]
        job: dict[str, Any] = {key: value for key, value in vars(settings).items() if value is not None}
        files = {side: pair["files"][side] for side in ("fixed", "moving")}
        label = re.sub(r"\W+", "-", f"{name}-{phantom}-{settings.quality}")
        numbers = cache.get(f"estimate/{label}", {"job": {**job, **files}}, pair=pair["hash"])
        told = estimate.estimate(pair["size"], pair["spacing"], replace(settings), cpu=speed)
        if numbers is None or told is None:
            continue
        measured = numbers["thread_seconds" if busy else "process_seconds"]
        size = "x".join(map(str, pair["size"]))
        row = {"name": name, "quality": settings.quality, "size": size, "measured": measured}
        row["left_out"] = any(LEFT_OUT in warning for warning in numbers["warnings"])
        errors = {"error": error_percent(told.seconds, measured)}
        errors["memory_error"] = error_percent(told.bytes, numbers["bytes"])
        rows.append({**row, "estimated": told.seconds, **errors})
    return rows
