"""Which segment of the fixed image is which of the moving one: by name, and by label value where names do not tell."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from ..protocol import errors

BETWEEN = ";"  # names in one text


@dataclass(frozen=True)
class Segment:
    """A structure within one of several label maps.

    Attributes:
        name: What people call it; empty for a value of a label map, which has no name.
        value: Its label value.
        layer: Index of the label map that it lies in.
        details: What else a segmentation file says of it, such as its color, by the end of the key.
    """

    name: str
    value: int
    layer: int = 0
    details: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def title(self) -> str:
        """Name, or label value where there is none."""
        return self.name or str(self.value)


@dataclass(frozen=True)
class SegmentPair:
    """Two segments that belong together, and the text by which their measures are listed."""

    key: str
    fixed: Segment
    moving: Segment


@dataclass(frozen=True)
class SegmentPairing:
    """What belongs together.

    Attributes:
        pairs: In the order of the fixed segments.
        unpaired: Names of those without a partner, of "fixed" and "moving"; a side that has none is left out.
        forgiven: Sentences on what belongs together though names do not agree.
    """

    pairs: list[SegmentPair]
    unpaired: dict[str, list[str]]
    forgiven: list[str]

    @property
    def warnings(self) -> list[str]:
        """What users must know: what was forgiven, and what is left out."""
        listed = [f"{', '.join(titles)} ({side})" for side, titles in self.unpaired.items()]
        lonely = [f"Without a partner, so not measured: {'; '.join(listed)}."] if listed else []
        return [*self.forgiven, *lonely]


def pair_up(fixed: Sequence[Segment], moving: Sequence[Segment]) -> SegmentPairing:
    """Pair segments by name, then by name but for case and spaces, then, where one has no name, by label value.

    Label maps have no names. A value tells only if it is that of one segment alone on each side. Of several segments of
    one name the first belongs to the first.

    Examples:
        >>> pair_up([Segment("Liver", 1), Segment("Rib", 2)], [Segment("liver ", 7)]).warnings[0]
        'Paired though case or spaces differ: Liver with liver .'
    """
    found = _match(fixed, moving, lambda segment: segment.name, {})
    forgiven = _match(fixed, moving, lambda segment: plain(segment.name), found)
    named = {**found, **forgiven}
    alike = {**named, **_match_values(fixed, moving, named)}
    keys = unique_keys([_title(fixed[a], moving[alike[a]]) for a in sorted(alike)])
    pairs = [SegmentPair(key, fixed[a], moving[alike[a]]) for key, a in zip(keys, sorted(alike), strict=True)]
    lonely = {
        "fixed": [segment.title for index, segment in enumerate(fixed) if index not in alike],
        "moving": [segment.title for index, segment in enumerate(moving) if index not in alike.values()],
    }
    told = _tell("Paired though case or spaces differ", [(fixed[a], moving[b]) for a, b in forgiven.items()])
    by_value = [(fixed[a], moving[b]) for a, b in alike.items() if a not in named]
    told += _tell("Paired by label value, not by name", [pair for pair in by_value if any(s.name for s in pair)])
    return SegmentPairing(pairs, {side: titles for side, titles in lonely.items() if titles}, told)


def require_pairs(pairing: SegmentPairing) -> SegmentPairing:
    """Return a pairing in which something belongs together.

    Raises:
        EngineError: If nothing does.
    """
    if pairing.pairs:
        return pairing
    listed = {side: ", ".join(pairing.unpaired.get(side, ["none"])) for side in ("fixed", "moving")}
    raise errors.EngineError(
        errors.INPUT_INVALID,
        f"No segment of the fixed image ({listed['fixed']}) has the name, or a label value of its own,"
        f" of one of the moving image ({listed['moving']}).",
        "Give those that belong together the same name.",
    )


def unique_keys(titles: Sequence[str]) -> list[str]:
    """Return texts that differ: what occurs again, or is kept for the mean, gets a number."""
    counts, keys = Counter(["mean"]), []
    for title in titles:
        counts[title] += 1
        keys.append(title if counts[title] == 1 else f"{title} ({counts[title]})")
    return keys


def plain(name: str) -> str:
    """Return a name without what does not tell segments apart: case and spaces."""
    return "".join(name.casefold().split())


def patterns(names: str) -> list[str]:
    """Return the single names of a text of several.

    Examples:
        >>> patterns("Vertebra *; Femur;")
        ['vertebra*', 'femur']
    """
    return [name for name in map(plain, names.split(BETWEEN)) if name]


def fits(segment: Segment, pattern: str) -> bool:
    """Return whether a segment is meant by one of `patterns`, in which * stands for any text."""
    return fnmatchcase(plain(segment.title), pattern)


def find_named(segments: Sequence[Segment], names: str, purpose: str) -> list[Segment]:
    """Return the segments that names mean, in the order of the names.

    Args:
        segments: All there are.
        names: A text of several, as of `patterns`.
        purpose: What they are wanted for, to follow "that could".

    Raises:
        EngineError: If there are none of a name.
    """
    found = []
    for pattern in patterns(names):
        meant = [segment for segment in segments if fits(segment, pattern)]
        if not meant:
            known = ", ".join(dict.fromkeys(segment.title for segment in segments)) or "none"
            raise errors.EngineError(
                errors.INPUT_INVALID,
                f"There is no segment {errors.shown(repr(pattern))} that could {purpose}.",
                f"There are: {known}. Write {BETWEEN!r} between names.",
            )
        found += meant
    return found


def _title(fixed: Segment, moving: Segment) -> str:
    return fixed.name or moving.name or fixed.title


def _match(
    fixed: Sequence[Segment], moving: Sequence[Segment], key: Callable[[Segment], Hashable], taken: dict[int, int]
) -> dict[int, int]:
    """Return for indices of fixed segments those of moving ones of the same key, which is not empty; in order."""
    free: dict[Hashable, list[int]] = {}
    for index, segment in enumerate(moving):
        if key(segment) and index not in taken.values():
            free.setdefault(key(segment), []).append(index)
    found = {}
    for index, segment in enumerate(fixed):
        if index not in taken and free.get(key(segment)):
            found[index] = free[key(segment)].pop(0)
    return found


def _match_values(fixed: Sequence[Segment], moving: Sequence[Segment], named: dict[int, int]) -> dict[int, int]:
    """Return pairs of equal values, one of whom has no name at least, by indices."""
    counts = [Counter(segment.value for segment in side) for side in (fixed, moving)]

    def value(segment: Segment) -> Hashable:
        return all(count[segment.value] == 1 for count in counts) and ("value", segment.value)

    found = _match(fixed, moving, value, named)
    return {a: b for a, b in found.items() if not (fixed[a].name and moving[b].name)}


def _tell(what: str, pairs: list[tuple[Segment, Segment]]) -> list[str]:
    listed = ", ".join(f"{fixed.title} with {moving.title}" for fixed, moving in pairs)
    return [f"{what}: {listed}."] if pairs else []
