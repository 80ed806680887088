"""Compare this registration with others on the same pairs: time, memory and accuracy, as tables and as a picture.

    python Testing/Tools/pareto.py                         all, to runs/pareto/
    python Testing/Tools/pareto.py --write --date 2026-11-30   and to Resources/Documentation/performance.md
    python Testing/Tools/pareto.py --sets hippocampus --methods balanced demons --parts pairs

Real pairs are used where they are at hand (training/README.md), phantoms always. Every method registers every pair in a
process of its own (comparison/child.py). What was measured is kept in runs/pareto/, so that a run that was interrupted
goes on, and what depends on the engine is measured anew when that has changed; --fresh measures all anew.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "DeepAttentionReg")]

from comparison import checks, document, growth, methods, pairs
from comparison.document import Findings, SetFindings
from comparison.peers import NOT_AT_HAND, PEERS
from comparison.process import Cache, Numbers, run_child

DOCUMENTATION = ROOT / "Resources" / "Documentation"
KEPT = ROOT / "runs" / "pareto"
PARTS = ("pairs", "growth", "estimate")
THREADS = 2
# Name of each set in comparison/sets.py: how many pairs, title, and what to know of it.
SETS = {
    "hippocampus": (
        3,
        "Hippocampus MR",
        "Validation cases, which trained no weights; two structures; centers of the volumes aligned.",
    ),
    "brain": (1, "Brain MR", "Two heads that trained no weights; 45 structures; aligned by an affine map of ours."),
    "phantom-96x80x96": (
        1,
        "Thorax phantom",
        "Drawn, not real: breathing with a known displacement; eight structures and 96 landmarks; seeds from 0; "
        "nothing to align.",
    ),
    "phantom-168x120x168": (1, "Thorax phantom of 2 mm", "As above, with the voxels of a CT of the lungs."),
}
USUAL_SETS = [name for name in SETS if name != "phantom-168x120x168"]
# What takes many minutes there; --methods brings it back.
TOO_SLOW = {"brain": ["ants-script", "fireants"], "phantom-168x120x168": ["ants-script"]}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sets", nargs="+", choices=SETS, default=USUAL_SETS, metavar="NAME", help=f"pairs: {', '.join(SETS)}")
    add("--methods", nargs="+", choices=methods.NAMES, metavar="NAME", help=f"of {', '.join(methods.NAMES)}")
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all of them)")
    add("--pairs", type=int, help="pairs of a set at most")
    add("--reference", choices=methods.NAMES, default=methods.REFERENCE, help="whose multiples are told")
    add("--threads", type=int, default=THREADS, help="threads of every method (default: %(default)s)")
    add("--busy", action="store_true", help="compare estimates with what was computed, not with what passed")
    add("--fresh", action="store_true", help="measure anew what is kept")
    add("--date", default="", help="date to put into the document")
    add("--output", type=Path, default=KEPT, help="folder of what is kept and of the document (default: runs/pareto)")
    add("--write", action="store_true", help=f"write Resources/Documentation/{document.NAME} and its pictures, too")
    options = parser.parse_args(arguments)
    part = options.methods or options.pairs or options.busy or tuple(options.parts) != PARTS
    if options.write and (part or list(options.sets) != USUAL_SETS):
        parser.error("--write is for a whole comparison; leave the choice of sets, methods, pairs and parts out")
    return options


def measure_sets(options: argparse.Namespace, cache: Cache, absent: Sequence[str]) -> list[SetFindings]:
    """Return what the methods took and reached on each set.

    Args:
        options: Of the command line.
        cache: Of the children.
        absent: Methods that cannot take part.
    """
    found = []
    for name in options.sets:
        count, title, note = SETS[name]
        prepared = pairs.prepare(cache, name, min(count, options.pairs or count))
        left_out = [*absent, *([] if options.methods else TOO_SLOW.get(name, []))]
        chosen = [method for method in options.methods or methods.NAMES if method not in left_out]
        rows = {method: measure_method(cache, name, method, prepared) for method in chosen}
        if any(rows.values()):
            found.append(SetFindings(title, note, prepared[0]["size"], rows))
    return found


def measure_method(cache: Cache, name: str, method: str, prepared: Sequence[Numbers]) -> list[Numbers]:
    """Return what a method took and reached on each pair of a set that it could register."""
    spec = methods.spec(method)
    rows = (pairs.register(cache, f"{name}/{method}-{index}", spec, pair) for index, pair in enumerate(prepared))
    return [row for row in rows if row is not None]


def measure_checks(options: argparse.Namespace, cache: Cache, speed: float | None) -> list[Numbers]:
    """Return what was estimated and what it took then."""
    made = {name: pairs.prepare(cache, name, 1) for name in (checks.SLICE, checks.VOLUME, checks.LARGE)}
    made[checks.SMALL] = pairs.prepare(cache, checks.REAL_SMALL, 1) or pairs.prepare(cache, checks.SMALL, 1)
    return checks.check(cache, {name: pair[0] for name, pair in made.items() if pair}, speed, busy=options.busy)


def computer(probe: Numbers, threads: int) -> str:
    """Return what the numbers were measured on, in sentences."""
    parts = [f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores, {threads} threads a method"]
    parts += [f"Python {platform.python_version()}", f"{probe['speed']['cpu']:.0f} G operations/s of the speed probe"]
    packages = []
    for package in dict.fromkeys(["torch", "numpy", *(peer.package for peer in PEERS.values())]):
        try:
            packages.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return f"{', '.join(parts)}; {', '.join(packages)}."


def write(found: Findings, grown: tuple | None, folder: Path) -> None:
    """Write document and pictures to a folder, those that there is something to draw for."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / document.NAME).write_text(document.write(found), encoding="ascii")
    try:
        from comparison import pictures
    except ImportError:
        sys.stderr.write("There are no pictures, for matplotlib is not installed.\n")
        return
    if found.sets:
        pictures.accuracy_against_time({told.title: told.rows for told in found.sets}, folder / document.PICTURE)
    if grown is not None:
        pictures.growth(*grown, folder / document.GROWTH_PICTURE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    options = parse(arguments)
    cache = Cache(options.output.resolve(), options.threads, fresh=options.fresh)
    probe = run_child({"probe": True}, options.threads)
    missing = methods.left_out()
    absent = [name for name, peer in PEERS.items() if peer.missing()]
    found = Findings(computer(probe, options.threads), options.date, options.reference)
    grown = None
    if "pairs" in options.parts:
        found.sets = measure_sets(options, cache, absent)
    if "growth" in options.parts:
        names = [name for name in methods.NAMES if name not in absent]
        grown = growth.voxels(cache, names), growth.recursions(cache), growth.batch(cache)
        found.growth = growth.SIZES[1]
    if "estimate" in options.parts:
        # What else runs slows down the probe more than the main thread.
        found.checks = measure_checks(options, cache, None if options.busy else probe["speed"]["cpu"])
    found.left_out = {**missing, **NOT_AT_HAND, **cache.failures}
    for folder in [options.output, *([DOCUMENTATION] if options.write else [])]:
        write(found, grown, folder)
    print(document.write(found))
    (options.output / "performance.json").write_text(json.dumps(vars(found), default=vars, indent=1), encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
