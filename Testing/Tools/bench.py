"""Measure time and memory of every method, for people as a table and for estimates as Resources/costs.json.

    python Testing/Tools/bench.py                          every method, on random images of the usual sizes
    python Testing/Tools/bench.py --methods rman --sizes 96x96x96 256x256
    python Testing/Tools/bench.py --write                  also what the panel's estimate is made of

Every number comes from a process of its own (bench_measure.py). A method takes the weights that it takes first, or is
untrained if it has none; weights can be named, too. Peers in the same run are a U-Net as large as VoxelMorph's, in one
pass, and SimpleITK's demons. What --write measured is kept in runs/bench, and a run that was interrupted goes on;
--fresh measures all anew.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "DeepAttentionReg"))

import bench_costs
from bench_costs import PEER, Numbers
from comparison import process
from DeepAttentionRegEngine.protocol import estimate, registry
from DeepAttentionRegEngine.protocol.settings import ALIGNMENTS, SIMILARITIES

COSTS = registry.resources() / estimate.FILE
SIZES = ("96x96x96", "128x128x128", "160x192x224", "256x256")
# A law needs grids of several sizes; what costs little can be measured on few.
FIT_SIZES = ("48x48x48", "128x128", "512x512")
FEW_SIZES = ("48x48x48", "96x96x96", "160x160x160", "256x256", "512x512")
NO_SIZE = "1x1"
KEPT = ROOT / "runs" / "bench"
TIMEOUT_S = 1800

Case = tuple[str, str, str]
Measure = Callable[[Case], Numbers]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    names = subjects()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sizes", nargs="+", default=SIZES, metavar="IxJxK", help="voxels of the volumes, IxJ for a single slice")
    add("--methods", nargs="+", choices=names, default=names, metavar="NAME", help="methods and weights to measure")
    add("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    add("--fresh", action="store_true", help="measure anew what runs/bench keeps")
    add("--date", default="", help="date to put into the table")
    add("--write", action="store_true", help=f"measure what the estimate needs and write Resources/{estimate.FILE}")
    options = parser.parse_args(arguments)
    options.methods = [*options.methods, *([PEER] if PEER in names and PEER not in options.methods else [])]
    if options.write and (options.device != "cpu" or set(options.methods) != set(names) or options.sizes != SIZES):
        parser.error("--write measures all methods at all sizes on the CPU; leave the other options out")
    return options


def subjects() -> list[str]:
    """Return the names of all methods, and of the weights that a method does not take by itself."""
    names = registry.method_names()
    others = []
    for method in map(registry.load_method, names):
        firsts = {variant.dimensions: variant.weights for variant in reversed(method.variants)}
        others += [variant.weights for variant in method.variants if variant.weights != firsts[variant.dimensions]]
    return names + others


def variants(name: str) -> dict[str, registry.Variant]:
    """Return the forms of a method, or the one of weights, by "2" and "3", its spatial axes."""
    methods = map(registry.load_method, registry.method_names())
    found = [item for method in methods for item in method.variants if name in (method.name, item.weights)]
    return {str(item.dimensions): item for item in reversed(found)}


def is_measured(name: str, size: str) -> bool:
    """Return whether methods and weights run on volumes, or single slices, of a size; untrained methods do on both."""
    return name in registry.method_names() or bench_costs.axes_of(size) in variants(name)


def cases_of(options: argparse.Namespace) -> list[Case]:
    """Return what is to be measured: kind, name and size."""
    cases = [("machine", "machine", NO_SIZE)]
    for size in options.sizes:
        cases += [("method", name, size) for name in options.methods if is_measured(name, size)]
        cases += [("demons", "demons", size)]
    if not options.write:
        return cases
    cases += [("method", name, size) for name in options.methods for size in FIT_SIZES if is_measured(name, size)]
    refinements = [name + ending for name in SIMILARITIES for ending in ("", "-velocity")]
    for size in FEW_SIZES:
        cases += [("job", "job", size)] + [("alignment", mode, size) for mode in ALIGNMENTS]
        cases += [("refinement", name, size) for name in refinements]
        refined = {name: variants(name).get(bench_costs.axes_of(size)) for name in options.methods}
        cases += [("own", name, size) for name, variant in refined.items() if variant and variant.refinement]
    return cases


def measure_all(cases: Sequence[Case], measure: Measure) -> dict[str, dict[str, dict[str, Numbers]]]:
    """Return the measurements by kind, name and size."""
    results: dict[str, dict[str, dict[str, Numbers]]] = {}
    for index, case in enumerate(cases, start=1):
        kind, name, size = case
        sys.stderr.write(f"[{index}/{len(cases)}] {name} {size}\n")
        results.setdefault(kind, {}).setdefault(name, {})[size] = measure(case)
    return results


def in_child(case: Case, device: str) -> Numbers:
    """Return one measurement from a process of its own.

    Raises:
        RuntimeError: If it failed; says how.
    """
    command = [sys.executable, str(ROOT / "Testing" / "Tools" / "bench_measure.py"), *case, device]
    # As the panel starts the engine: threads that spin while they wait would count as work.
    surroundings = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0:
        msg = f"{' '.join(case)} ended with code {done.returncode}:\n{done.stderr}"
        raise RuntimeError(msg)
    return json.loads(done.stdout.splitlines()[-1])


def kept(case: Case, options: argparse.Namespace) -> Numbers:
    """Return one measurement, which a run that is to write the costs keeps for the case that it is interrupted."""
    if not options.write:
        return in_child(case, options.device)
    file = KEPT / process.digest_of_engine() / f"{'-'.join(case)}.json"
    if options.fresh or not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(in_child(case, options.device)), encoding="ascii")
    return json.loads(file.read_text(encoding="ascii"))


def describe(machine: Numbers, options: argparse.Namespace) -> str:
    """Return what the numbers were measured on, in a sentence."""
    parts = [options.date, f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"]
    parts += [f"{machine['threads']} threads, torch {machine['torch']}, SimpleITK {machine['SimpleITK']}"]
    parts += [f"device {options.device}, {machine['speed']:.0f} G operations/s of the speed probe"]
    return ", ".join(part for part in parts if part) + "."


def dump(costs: Numbers) -> str:
    """Return costs as JSON, a law in each line."""
    text = json.dumps(costs, indent=2)
    return re.sub(r'\{\s+("constant"[^}]*?)\s+\}', lambda law: f"{{{' '.join(law[1].split())}}}", text) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    options = parse(arguments)
    results = measure_all(cases_of(options), lambda case: kept(case, options))
    print(describe(results["machine"]["machine"][NO_SIZE], options) + "\n")
    print(bench_costs.table(results, options.sizes))
    if options.write:
        costs = bench_costs.make_costs(results)
        COSTS.write_text(dump(costs), encoding="ascii")
        print(f"\nWrote {COSTS.name}. Largest errors of its laws over the sizes measured, in seconds and bytes:")
        for name, measured in results["method"].items():
            seconds, size = bench_costs.errors(measured, costs["methods"][name])
            print(f"{name}: {100 * seconds:.0f} %, {100 * size:.0f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
