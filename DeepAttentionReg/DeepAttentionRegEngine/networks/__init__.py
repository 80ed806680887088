"""Registration networks, one architecture per file, all with the interface of `base`."""

import pickle
import runpy
import struct
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch

from ..protocol import errors
from ..protocol.registry import Variant, weight_file
from .acregnet import Acregnet, AcregnetSettings
from .adregnet import Adregnet, AdregnetSettings
from .agf import Agf, AgfSettings
from .base import RegistrationNetwork
from .bspline import Bspline, BsplineSettings
from .packing import unpack
from .r2n2 import R2n2, R2n2Settings
from .rman import Rman, RmanSettings
from .voxelmorph import Voxelmorph, VoxelmorphSettings

ARCHITECTURES: dict[str, tuple[type[Any], Callable[[Any], RegistrationNetwork]]] = {
    "acregnet": (AcregnetSettings, Acregnet),
    "adregnet": (AdregnetSettings, Adregnet),
    "agf": (AgfSettings, Agf),
    "r2n2": (R2n2Settings, R2n2),
    "bspline": (BsplineSettings, Bspline),
    "rman": (RmanSettings, Rman),
    "voxelmorph": (VoxelmorphSettings, Voxelmorph),
}


# What torch.load raises where a file holds something else, and a network for the arguments or state of another one.
DAMAGED = (
    *(RuntimeError, AttributeError, TypeError, ValueError, LookupError, EOFError),
    *(pickle.UnpicklingError, struct.error),
)


def build(architecture: str, arguments: dict[str, Any]) -> RegistrationNetwork:
    """Return an untrained network.

    Args:
        architecture: Name in `ARCHITECTURES`, or "FILE:CLASS" for the user's own subclass of `RegistrationNetwork`.
        arguments: Fields of the architecture's settings, or arguments of the user's class; lists become tuples.

    Raises:
        ValueError: For an unknown architecture or argument.
        EngineError: If the user's class cannot be loaded.
    """
    if ":" in architecture:
        return _own_class(architecture)(**arguments)
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


def _own_class(architecture: str) -> type[RegistrationNetwork]:
    """Return the class that "FILE:CLASS" names; runs the file."""
    file, _, name = architecture.rpartition(":")
    try:
        found = runpy.run_path(file)[name]
    except Exception as error:
        raise errors.EngineError(
            errors.METHOD_UNKNOWN,
            f"The network {name} cannot be loaded from {file} ({type(error).__name__}: {error}).",
            "Correct the file, or what the method file says of it.",
        ) from error
    if not (isinstance(found, type) and issubclass(found, RegistrationNetwork)):
        raise errors.EngineError(
            errors.METHOD_UNKNOWN,
            f"{name} in {file} is no RegistrationNetwork.",
            "Derive it from DeepAttentionRegEngine.networks.base.RegistrationNetwork or StepNetwork.",
        )
    return found


def load_network(architecture: str, variant: Variant) -> RegistrationNetwork:
    """Return a trained network in evaluation mode, on the CPU; untrained if the method needs no weights.

    Args:
        architecture: Name in `ARCHITECTURES`.
        variant: Its arguments and weights.

    Raises:
        EngineError: If the weight file is missing, damaged or of another network.
    """
    try:
        network = build(architecture, variant.network)
        if variant.weights is not None:
            state = torch.load(weight_file(variant.weights), map_location="cpu", weights_only=True)
            network.load_state_dict(unpack(state))
    except DAMAGED as error:
        if variant.weights is None:
            raise errors.EngineError(
                errors.METHOD_UNKNOWN,
                f"The network {architecture!r} cannot be built ({error}).",
                "Correct its arguments in the method file, or install the extension again.",
            ) from error
        raise errors.EngineError(
            errors.WEIGHTS_CORRUPT,
            f"The weights {variant.weights!r} do not fit the network {architecture!r}.",
            "Install the extension again, or choose other weights.",
        ) from error
    return network.eval()
