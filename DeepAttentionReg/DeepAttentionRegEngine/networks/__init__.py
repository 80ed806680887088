"""Networks, one architecture per file; each maps (warped moving, fixed) to one recursion's displacement."""

from dataclasses import fields
from typing import Any

from torch import nn

from .rman import RmanSettings, RmanStep

ARCHITECTURES: dict[str, tuple[type[Any], type[nn.Module]]] = {"rman": (RmanSettings, RmanStep)}


def build(architecture: str, arguments: dict[str, Any]) -> nn.Module:
    """Return an untrained network.

    Args:
        architecture: Name in `ARCHITECTURES`.
        arguments: Fields of the architecture's settings; lists become tuples.

    Raises:
        ValueError: For an unknown architecture or argument.
    """
    if architecture not in ARCHITECTURES:
        msg = f"network {architecture!r} is unknown; known: {', '.join(ARCHITECTURES)}"
        raise ValueError(msg)
    settings, network = ARCHITECTURES[architecture]
    unknown = set(arguments) - {field.name for field in fields(settings)}
    if unknown:
        msg = f"unknown arguments for network {architecture!r}: {', '.join(sorted(unknown))}"
        raise ValueError(msg)
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    return network(settings(**values))
