"""Inject faults into the command line, drawn from a seed, and count what was not as promised (SECURITY.md).

    python Testing/Tools/faults.py                                    all kinds, in about ten minutes
    python Testing/Tools/faults.py --kinds damaged table --trials 500 --seed 7

The exit code is 1 if anything was; each such trial is listed with the numbers that repeat it (--seed, --kinds, --only).
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import fault_trials
from fault_trials import CHEAP, KINDS

TRIALS, CHEAP_FACTOR = 20, 20


@dataclass
class Count:
    """How the trials of a kind went.

    Attributes:
        kind: Its name.
        trials: How many there were.
        wrong: What was not as promised, by the number of the trial.
    """

    kind: str
    trials: int = 0
    wrong: dict[int, str] = field(default_factory=dict)


def count(kind: str, numbers: Sequence[int], seed: int, case: Path, seconds: float) -> Count:
    """Run the trials of a kind that have these numbers."""
    found = Count(kind)
    for number in numbers:
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            place = Path(folder).resolve() / "a" / "b"  # evil paths stay within the folder
            place.parent.mkdir()
            what = KINDS[kind](fault_trials.make_trial(case, place, seconds, [seed, number]))
        found.trials += 1
        if what:
            found.wrong[number] = what
            sys.stderr.write(f"{kind} {number}: {what}\n")
    return found


def run(kinds: Sequence[str], trials: int, seed: int = 0, only: int | None = None) -> list[Count]:
    """Run so many trials of each kind, of the cheap ones some times as many, or only the one with a number."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        case = Path(folder) / "case"
        seconds = fault_trials.make_case(case)
        counts = []
        for kind in kinds:
            sys.stderr.write(f"{kind} ...\n")
            every = range(trials * (CHEAP_FACTOR if kind in CHEAP else 1))
            counts.append(count(kind, every if only is None else [only], seed, case, seconds))
        return counts


def table(counts: Sequence[Count]) -> str:
    """Return the counts as a table."""
    lines = ["| Fault | Trials | Not as promised |", "| --- | ---: | ---: |"]
    lines += [f"| {one.kind} | {one.trials} | {len(one.wrong)} |" for one in counts]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Inject, print and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--trials", type=int, default=TRIALS, help="of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: %(default)s)")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="repeat the trial with this number")
    options = parser.parse_args(arguments)
    counts = run(options.kinds, options.trials, options.seed, options.only)
    print(table(counts))
    return int(any(one.wrong for one in counts))


if __name__ == "__main__":
    sys.exit(main())
