"""Laws fitted to measured costs, which estimate.py reads, and the table for people."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import nnls

from DeepAttentionRegEngine.protocol import estimate

MIB = 2**20
PEER, OUTSIDE_PEER = "voxelmorph", "demons"

Numbers = dict[str, Any]


def fit(rows: Sequence[Numbers], value: str, grids: tuple[str, ...]) -> estimate.Law:
    """Return the law of a measured value: non-negative coefficients that keep the relative errors small.

    Args:
        rows: Measurements, each with its "voxels".
        value: Name of the number.
        grids: Voxels of which grids it depends on.
    """
    values = np.array([row[value] for row in rows])
    if not values.all():
        return dict.fromkeys(("constant", *grids), 0.0)
    terms = np.array([[1.0, *(row["voxels"][grid] for grid in grids)] for row in rows])
    scale = terms.max(axis=0)
    coefficients = nnls(terms / scale / values[:, None], np.ones(len(rows)))[0] / scale
    return dict(zip(("constant", *grids), (float(f"{c:.4g}") for c in coefficients), strict=True))


def axes_of(size: str) -> str:
    """Return "2" or "3", the spatial axes of a size."""
    return "2" if size.count("x") == 1 else "3"


def by_axes(rows: dict[str, Numbers]) -> dict[str, list[Numbers]]:
    """Return measurements by size as lists by the number of spatial axes."""
    result: dict[str, list[Numbers]] = {}
    for size, row in rows.items():
        result.setdefault(axes_of(size), []).append(row)
    return result


def method_laws(rows: Sequence[Numbers]) -> dict[str, estimate.Law]:
    """Return the costs of a method."""
    return {
        "setup": fit(rows, "setup", ("network", "working")),
        "recursion": fit(rows, "recursion", ("network",)),
        "bytes": fit(rows, "bytes", ("network", "working")),
    }


def refinement_laws(measured: dict[str, Numbers]) -> dict[str, dict[str, estimate.Law]]:
    """Return the costs of a refinement by the number of spatial axes."""
    return {
        axes: {part: fit(rows, part, ("working",)) for part in ("setup", "step", "bytes")}
        for axes, rows in by_axes(measured).items()
    }


def method_seconds(row: Numbers) -> float:
    """Return the seconds of a method with its usual number of recursions, without the final warp."""
    return row["setup"] + row["recursions"] * row["recursion"]


def make_costs(results: dict[str, dict[str, dict[str, Numbers]]]) -> Numbers:
    """Return the content of costs.json.

    Args:
        results: Measurements by kind, name and size, as `bench.measure_all` returns them.
    """
    jobs = results["job"]["job"]
    machine = next(iter(results["machine"]["machine"].values()))
    return {
        "speed": round(machine["speed"], 1),
        "machine": {name: value for name, value in machine.items() if name != "speed"},
        "process_bytes": min(row["process_bytes"] for row in jobs.values()),
        "job": {
            axes: {"seconds": fit(rows, "seconds", ("fixed",)), "bytes": fit(rows, "bytes", ("fixed",))}
            for axes, rows in by_axes(jobs).items()
        },
        "alignment": {
            mode: {axes: fit(rows, "seconds", ("fixed",)) for axes, rows in by_axes(measured).items()}
            for mode, measured in results["alignment"].items()
        },
        "refinement": {name: refinement_laws(measured) for name, measured in results["refinement"].items()},
        "methods": {
            name: {
                axes: {**method_laws(rows), **({"refinement": own[axes]} if axes in own else {})}
                for axes, rows in by_axes(measured).items()
            }
            for name, measured in results["method"].items()
            for own in [refinement_laws(results.get("own", {}).get(name, {}))]
        },
    }


def errors(measured: dict[str, Numbers], laws: dict[str, dict[str, estimate.Law]]) -> tuple[float, float]:
    """Return the largest relative errors of a method's laws, in seconds and in bytes, over the sizes measured."""
    found = []
    for size, row in measured.items():
        law = laws[axes_of(size)]
        fitted = {name: estimate.evaluate(law[name], row["voxels"]) for name in ("setup", "recursion", "bytes")}
        seconds = method_seconds({**fitted, "recursions": row["recursions"]})
        found.append((abs(seconds / method_seconds(row) - 1), abs(fitted["bytes"] / row["bytes"] - 1)))
    return tuple(max(column) for column in zip(*found, strict=True))


def table(results: dict[str, dict[str, dict[str, Numbers]]], sizes: Sequence[str]) -> str:
    """Return seconds and memory of all methods as a Markdown table, also as multiples of the two peers'."""
    heads = ["Method", "Volume", "Network voxels", "Recursions", "Time (s)", f"x {PEER}", f"x {OUTSIDE_PEER}"]
    heads += ["Memory (MiB)", f"x {PEER}", f"x {OUTSIDE_PEER}"]
    lines = [heads, ["---", "---", *["---:"] * (len(heads) - 2)]]
    measured = {**results["method"], OUTSIDE_PEER: results["demons"]["demons"]}
    for size in sizes:
        peers = [_total(measured.get(name, {}).get(size)) for name in (PEER, OUTSIDE_PEER)]
        for name, rows in ((name, rows) for name, rows in measured.items() if size in rows):
            row, total = rows[size], _total(rows[size])
            seconds, memory = ([_ratio(mine, peer and peer[i]) for peer in peers] for i, mine in enumerate(total))
            network = f"{row['voxels']['network']:,}" if "voxels" in row else "-"
            cells = [name, size, network, str(row["recursions"]), f"{total[0]:.2f}", *seconds]
            lines.append([*cells, f"{total[1] / MIB:.0f}", *memory])
    shares = {name: next(iter(rows.values()))["share"] for name, rows in measured.items()}
    notes = [f"{name}: one of every {share} iterations was timed." for name, share in shares.items() if share > 1]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", *notes])


def _total(row: Numbers | None) -> tuple[float, float] | None:
    """Return seconds, final warp included, and bytes."""
    if row is None:
        return None
    return (row["seconds"] if "seconds" in row else method_seconds(row) + row["warp"]), row["bytes"]


def _ratio(mine: float, peer: float | None) -> str:
    return "-" if not peer else f"{mine / peer:.2g}" if mine < 10 * peer else f"{mine / peer:.0f}"
