"""Units of length that headers name."""

from collections.abc import Iterable

MILLIMETRES = {
    "nm": 1e-6,
    "nanometer": 1e-6,
    "um": 1e-3,
    "\u00b5m": 1e-3,
    "\u03bcm": 1e-3,
    "micron": 1e-3,
    "micrometer": 1e-3,
    "mm": 1.0,
    "millimeter": 1.0,
    "cm": 10.0,
    "centimeter": 10.0,
    "m": 1e3,
    "meter": 1e3,
}


def millimetres(unit: str) -> float | None:
    """Return how many mm a unit of length is; None for one that is not known.

    Examples:
        >>> [millimetres(unit) for unit in ("mm", "Micrometres", "m", "pixel")]
        [1.0, 0.001, 1000.0, None]
    """
    name = unit.strip()
    return MILLIMETRES.get(name, MILLIMETRES.get(name.lower().replace("metre", "meter").removesuffix("s")))


def common_unit(units: Iterable[str]) -> tuple[float, str]:
    """Return how many mm the one unit of all axes is, and what to tell of it.

    Args:
        units: One per axis; empty texts say nothing.

    Raises:
        ValueError: If they differ.
    """
    named = {unit.strip() for unit in units} - {"", "?"}
    factors = {millimetres(unit) for unit in named}
    if len(factors) > 1:
        msg = f"measures its axes in different units ({', '.join(sorted(named))})"
        raise ValueError(msg)
    factor = next(iter(factors), 1.0)
    if factor is None:
        return 1.0, f'measures in "{", ".join(sorted(named))}", which was taken as mm'
    if factor != 1:
        return factor, f"measures in {named.pop()}, which Slicer takes as mm; all results are in mm"
    return factor, ""
