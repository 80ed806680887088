"""Draw who imports whom among the packages, from the source alone, to Resources/Documentation/architecture.svg.

Packages stand on a diagonal, each above all that it imports. A line leaves a package to the right and turns down in the
column of each package it imports; the number at the turn counts the imports: pairs of a module and another that it
imports, at any depth of the file. All arrows lead downwards, or there is no picture: then an error names the cycle.
"""

import ast
import graphlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "Resources" / "Documentation" / "architecture.svg"

Arrows = Mapping[tuple[str, str], int]


@dataclass(frozen=True)
class Group:
    """Packages that belong together.

    Attributes:
        style: Class of its boxes in the picture.
        title: What it is.
        note: What holds for it.
        names: The first names of its modules.
    """

    style: str
    title: str
    note: str
    names: tuple[str, ...]


# From top to bottom; no arrow leads upwards between them either.
GROUPS = (
    Group(
        "slicer",
        "Slicer's process",
        "DeepAttentionRegLib: never imports PyTorch",
        ("DeepAttentionReg", "DeepAttentionRegLib"),
    ),
    Group("training", "training", "made the weights; not shipped", ("training",)),
    Group(
        "engine",
        "The engine's process",
        "DeepAttentionRegEngine: never imports Slicer",
        ("Scripts", "DeepAttentionRegEngine"),
    ),
)
SHARED = "shared"  # the style of what both processes import


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Return the files of the project by dotted name; a package's `__init__` has the name of the package."""
    shipped = root / "DeepAttentionReg"
    found = {}
    for start, paths in ((shipped, shipped.rglob("*.py")), (root, (root / "training").rglob("*.py"))):
        for path in paths:
            found[".".join(path.relative_to(start).with_suffix("").parts).removesuffix(".__init__")] = path
    return dict(sorted(found.items()))


def imports(name: str, known: Mapping[str, Path]) -> set[str]:
    """Return which known modules a known module imports, at any depth."""
    path = known[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            wanted = {alias.name for alias in node.names if not alias.name.startswith("__")}  # not the mere version
            # What is imported from a package is a module of it, or a name in its `__init__`.
            names |= {full if (full := f"{module}.{item}") in known else module for item in wanted}
    return names & known.keys() - {name}


def package_of(name: str) -> str:
    """Return the package just below the top to which a module belongs; a module at the top stands for itself."""
    return ".".join(name.split(".")[:2])


def arrows(known: Mapping[str, Path]) -> Counter[tuple[str, str]]:
    """Return the number of imports from package to package."""
    found: Counter[tuple[str, str]] = Counter()
    for name in known:
        for other in imports(name, known):
            found[package_of(name), package_of(other)] += 1
    return Counter({pair: count for pair, count in sorted(found.items()) if pair[0] != pair[1]})


def group_of(package: str) -> Group:
    """Return the group of a package."""
    return next(group for group in GROUPS if package.split(".")[0] in group.names)


def ordered(packages: set[str], between: Arrows) -> list[str]:
    """Return the packages from top to bottom, each above all that it imports, groups together.

    Raises:
        ValueError: If that is impossible; names the packages.
    """
    needs: dict[str, set[str]] = {package: set() for package in packages}
    for importer, target in between:
        needs[importer].add(target)
    height: dict[str, int] = {}
    try:
        for package in graphlib.TopologicalSorter(needs).static_order():
            height[package] = 1 + max((height[other] for other in needs[package]), default=0)
    except graphlib.CycleError as error:
        msg = f"Packages import each other: {' -> '.join(reversed(error.args[1]))}."
        raise ValueError(msg) from error
    order = sorted(packages, key=lambda package: (GROUPS.index(group_of(package)), -height[package], package))
    upwards = [pair for pair in between if order.index(pair[0]) > order.index(pair[1])]
    if upwards:
        msg = f"{upwards[0][0]} imports {upwards[0][1]}, which is above it."
        raise ValueError(msg)
    return order


# What is drawn

STEP_X, STEP_Y, WIDTH, HEIGHT = 38, 35, 146, 28  # from box to box, and of a box, in pixels
MARGIN, PAD, GAP, COLUMN = 18, 8, 14, 16  # around all, in a frame, between frames, of a column from its box's right end

STYLE = """
text { font: 13px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #1f2328 }
.small { font-size: 10.5px; fill: #59636e }
.title { font-size: 16px; font-weight: 600 }
.name { font-weight: 600 }
.count { font-size: 10px; font-weight: 600; text-anchor: middle; fill: #ffffff }
.end { text-anchor: end }
.paper { fill: #ffffff }
.frame { fill: #f6f8fa; stroke: #d1d9e0 }
.line { fill: none; stroke: #8c959f; stroke-width: 1.2 }
.head { fill: #8c959f }
.box { stroke-width: 1.4 }
.slicer { fill: #ddf4ff; stroke: #0969da } .dot.slicer { fill: #0969da }
.training { fill: #fbefff; stroke: #8250df } .dot.training { fill: #8250df }
.engine { fill: #fff1e5; stroke: #bc4c00 } .dot.engine { fill: #bc4c00 }
.shared { fill: #dafbe1; stroke: #1a7f37 } .dot.shared { fill: #1a7f37 }
circle.dot { stroke: none }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .small { fill: #9198a1 } .count { fill: #ffffff }
.paper { fill: #0d1117 } .frame { fill: #151b23; stroke: #3d444d } .line { stroke: #656c76 } .head { fill: #656c76 }
.slicer { fill: #0c2d6b; stroke: #4493f8 } .training { fill: #3c1e70; stroke: #ab7df8 }
.engine { fill: #5a1e02; stroke: #db6d28 } .shared { fill: #04260f; stroke: #3fb950 }
}
"""


@dataclass(frozen=True)
class Drawing:
    """The packages from top to bottom, and what is drawn of them.

    Attributes:
        order: Packages from top to bottom.
        between: Imports from package to package.
        members: Modules of each package, `__init__` left out.
    """

    order: Sequence[str]
    between: Arrows
    members: Mapping[str, Sequence[str]]

    def corner(self, package: str) -> tuple[int, int]:
        """Return the upper left corner of a box."""
        index, gap = self.order.index(package), GAP * GROUPS.index(group_of(package))
        return MARGIN + PAD + gap + index * STEP_X, MARGIN + PAD + gap + index * STEP_Y

    def style(self, package: str) -> str:
        """Return the class of a box: of its group, or of what both processes import."""
        group = group_of(package)
        importers = {group_of(importer).style for importer, target in self.between if target == package}
        return SHARED if group.style == "engine" and "slicer" in importers else group.style

    def label(self, package: str) -> str:
        """Return the name on a box: the last part, which for the `__init__` of a whole is that of the file."""
        is_file = "." in package or self.members[package]
        return package.split(".")[-1] if is_file else "__init__"

    def svg(self) -> str:
        """Return the picture."""
        x, y = self.corner(self.order[-1])
        width, height = x + WIDTH + PAD + MARGIN, y + HEIGHT + PAD + MARGIN
        size = f'width="{width}" height="{height}"'
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {size}>',
            "<title>Packages and the imports between them</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="paper" {size} rx="8"/>',
        ]
        for draw in (self._frames, self._lines, self._dots, self._boxes, self._legend):
            parts += draw()
        return "\n".join([*parts, "</svg>", ""])

    def _frames(self) -> Iterator[str]:
        for group in GROUPS:
            inside = [package for package in self.order if group_of(package) is group]
            if not inside:
                continue
            (left, top), (right, bottom) = self.corner(inside[0]), self.corner(inside[-1])
            size = f'width="{right - left + WIDTH + 2 * PAD}" height="{bottom - top + HEIGHT + 2 * PAD}"'
            yield f'<rect class="frame" x="{left - PAD}" y="{top - PAD}" {size} rx="10"/>'
            is_roomy = len(inside) > 4
            at, end = (left + PAD, "") if is_roomy else (left - 2 * PAD, " end")
            yield _text(f"title{end}", at, bottom + HEIGHT - 18, group.title)
            yield _text(f"small{end}", at, bottom + HEIGHT - 2, group.note)

    def _turn(self, importer: str, target: str) -> tuple[int, int]:
        return self.corner(target)[0] + WIDTH - COLUMN, self.corner(importer)[1] + HEIGHT // 2

    def _lines(self) -> Iterator[str]:
        for importer in self.order:
            turns = [self._turn(*pair)[0] for pair in self.between if pair[0] == importer]
            if turns:
                x, y = self.corner(importer)
                yield f'<path class="line" d="M{x + WIDTH} {y + HEIGHT // 2}H{max(turns)}"/>'
        for target in self.order:
            turns = [self._turn(*pair) for pair in self.between if pair[1] == target]
            if turns:
                x, y = turns[0][0], self.corner(target)[1]
                yield f'<path class="line" d="M{x} {min(turn[1] for turn in turns)}V{y - 6}"/>'
                yield f'<path class="head" d="M{x} {y - 1}l-4.5 -8h9z"/>'

    def _dots(self) -> Iterator[str]:
        for (importer, target), count in self.between.items():
            yield from _dot(self.style(importer), *self._turn(importer, target), count)

    def _boxes(self) -> Iterator[str]:
        for package in self.order:
            x, y = self.corner(package)
            yield f'<rect class="box {self.style(package)}" x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
            yield _text("name", x + 9, y + 18.5, self.label(package))
            if len(self.members[package]) > 1:
                yield _text("small end", x + WIDTH - 8, y + 18, str(len(self.members[package])))

    def _legend(self) -> Iterator[str]:
        x, y = MARGIN + PAD, self.corner(self.order[-1])[1] - 66
        yield f'<rect class="box shared" x="{x}" y="{y}" width="26" height="18" rx="4"/>'
        yield _text("small", x + 36, y + 13, "imported in both processes")
        yield _text("small end", x + 18, y + 39, "12")
        yield _text("small", x + 36, y + 39, "modules of a package")
        yield from _dot("slicer", x + 13, y + 61, 3)
        yield _text("small", x + 36, y + 65, "imports, from the package on the left to the one below")
        yield _text("small", x, y + 91, "All arrows lead downwards: nothing imports what stands above it.")


def _text(style: str, x: float, y: float, words: str) -> str:
    return f'<text class="{style}" x="{x}" y="{y}">{words}</text>'


def _dot(style: str, x: int, y: int, count: int) -> Iterator[str]:
    radius = 8 if count < 10 else 10 if count < 30 else 12
    yield f'<circle class="dot {style}" cx="{x}" cy="{y}" r="{radius}"/>'
    yield _text("count", x, y + 3.5, str(count))


def picture(root: Path = ROOT) -> Drawing:
    """Return the picture of a checkout.

    Raises:
        ValueError: If packages import each other.
    """
    known = modules(root)
    between = arrows(known)
    members: dict[str, list[str]] = {}
    for name, path in known.items():
        package = members.setdefault(package_of(name), [])
        package += [] if path.name == "__init__.py" else [name]
    used = {package for pair in between for package in pair}
    return Drawing(ordered(used, between), between, members)


if __name__ == "__main__":
    PICTURE.write_text(picture().svg(), encoding="ascii", newline="\n")
