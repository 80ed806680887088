"""The document that pareto.py writes."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field

from comparison import tables
from comparison.methods import OURS, title
from comparison.process import Numbers
from comparison.tables import Rows

NAME, PICTURE, GROWTH_PICTURE = "performance.md", "performance.png", "performance-growth.png"
WIDTH = 120
HEADING = """`make pareto` wrote this document. {when}{computer} Each method registered each pair once, in a process of
its own, one after another."""
EXPLANATION = """Time and CPU seconds are those from two volumes in memory to a displacement in memory, without the
start of the program (ours takes {start:.1f} CPU seconds); memory is the peak of the process. All methods got the same
moving image, aligned linearly and resampled once beforehand, and none aligned again. Dice (mean over the structures),
landmark error (mean over the landmarks) and folded voxels are the engine's definitions, measured on the whole grid of
the fixed volume. Figures are medians over the pairs; the multiples are those of {reference}. The others are called with
the settings that their package or documentation gives; their users may find better ones."""
FRONT = "The gray line joins the methods that no other one beats in both accuracy and time."
GROWTH = """Phantoms of several sizes; the network alone with more recursions, and pairs registered one after another in
one process at the quality "fast", its start included, both on {voxels} voxels."""
CHECKS = """The estimate of time and memory that the panel shows before a run, and what whole jobs took then, from the
start of their process to its end, on phantoms and, for weights for small fields of view, on a real pair where one is at
hand. Where a network's field made a pair much less similar it was left out, and the usual refinement ran. The worst
estimate of a time is {worst:.0f} % off."""


@dataclass(frozen=True)
class SetFindings:
    """What is told of a set of pairs.

    Attributes:
        title: Of the set.
        note: What it is, how it was aligned, and what it validates.
        size: Voxels of the first pair along i, j, k.
        found: What was measured, by method, a row a pair.
    """

    title: str
    note: str
    size: tuple[int, ...]
    found: dict[str, list[Numbers]]

    @property
    def rows(self) -> Rows:
        """The medians by method."""
        return tables.summarize(self.found)


@dataclass
class Findings:
    """All that was measured.

    Attributes:
        computer: Hardware, threads and versions, in sentences.
        date: Of the measurement, as the user gave it; empty to leave it out.
        reference: Method whose multiples are told.
        sets: By name.
        growth: Voxels of the phantoms that recursions and pairs were measured on; None if growth was not.
        checks: Estimates beside what was measured.
        left_out: Sets and methods that took no part, and why.
    """

    computer: str
    date: str
    reference: str
    sets: list[SetFindings] = field(default_factory=list)
    growth: str | None = None
    checks: list[Numbers] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def write(found: Findings) -> str:
    """Return the document."""
    return "\n".join(_parts(found))


def _parts(found: Findings) -> Iterator[str]:
    yield "# What a registration costs, and what it is worth\n"
    yield _text(HEADING, when=f"Measured {found.date}. " if found.date else "", computer=found.computer)
    if found.sets:
        ours = [row for told in found.sets for name in OURS for row in told.found.get(name, [])]
        starts = [row["start_cpu_seconds"] for row in ours]
        yield _text(EXPLANATION, reference=title(found.reference), start=min(starts, default=0.0))
        yield f"![Accuracy against time]({PICTURE})\n"
        yield _text(FRONT)
    for told in found.sets:
        pairs = max(len(rows) for rows in told.found.values())
        size = " x ".join(map(str, told.size))
        yield f"## {told.title}\n"
        yield _text(f"{told.note} {pairs} pair{'s' * (pairs > 1)}, the first of {size} voxels.")
        yield tables.comparison(told.rows, tables.aligned(told.found), found.reference) + "\n"
    if found.growth:
        yield "## How costs grow\n"
        yield _text(GROWTH, voxels=found.growth)
        yield f"![Time against voxels, recursions and pairs]({GROWTH_PICTURE})\n"
    if found.checks:
        yield "## What the panel foretells\n"
        yield _text(CHECKS, worst=max(abs(row["error"]) for row in found.checks))
        yield tables.checks(found.checks) + "\n"
    if found.left_out:
        yield "## What took no part\n"
        yield "\n".join(textwrap.fill(f"- {name}: {why}.", WIDTH) for name, why in found.left_out.items()) + "\n"


def _text(text: str, **values: object) -> str:
    return textwrap.fill(text.format(**values), WIDTH, break_on_hyphens=False) + "\n"
