"""How costs grow: with the voxels of a pair, the recursions of a method, and the pairs of a batch."""

from comparison.methods import spec
from comparison.pairs import prepare, register
from comparison.process import Cache, Numbers

SIZES = ("48x40x48", "72x60x72", "108x90x108")
METHODS = ("network", "balanced", "refinement", "ants-syn", "demons")
MIDDLE = f"phantom-{SIZES[1]}"
RECURSIONS = (1, 2, 4, 8)
PAIRS = (1, 2, 4)

Curve = list[tuple[float, float]]


def voxels(cache: Cache, names: list[str]) -> dict[str, Curve]:
    """Return (voxels, seconds) of phantoms of several sizes, by method."""
    prepared = [pair for size in SIZES for pair in prepare(cache, f"phantom-{size}", 1)]
    curves = {name: _curve(cache, [(name, spec(name), pair) for pair in prepared]) for name in METHODS if name in names}
    return {name: [(row["voxels"], row["seconds"]) for row in rows] for name, rows in curves.items() if rows}


def recursions(cache: Cache) -> Curve:
    """Return (recursions, seconds) of the network alone."""
    prepared = prepare(cache, MIDDLE, 1)
    rows = [("recursions", spec("network", recursions=count), pair) for pair in prepared for count in RECURSIONS]
    return [(row["spec"]["settings"]["recursions"], row["seconds"]) for row in _curve(cache, rows)]


def batch(cache: Cache) -> Curve:
    """Return (pairs, seconds with the start of the program) of registering one pair after another in one process."""
    prepared = prepare(cache, MIDDLE, 1)
    rows = [("pairs", {**spec("fast"), "repeat": count}, pair) for pair in prepared for count in PAIRS]
    return [(row["spec"]["repeat"], row["start_cpu_seconds"] + row["seconds"]) for row in _curve(cache, rows)]


def _curve(cache: Cache, cases: list[tuple[str, Numbers, Numbers]]) -> list[Numbers]:
    """Return what was found for each name, spec and pair, and its spec; what failed is left out."""
    rows = []
    for index, (name, wanted, pair) in enumerate(cases):
        found = register(cache, f"growth/{name}-{index}", wanted, pair)
        rows += [] if found is None else [{**found, "spec": wanted}]
    return rows
