"""Registration networks, one architecture per file, all with the interface of `base`."""

import runpy
import zipfile
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from torch import Tensor

from ..protocol import errors
from ..protocol.errors import is_out_of_memory, shown
from ..protocol.fetching import weight_content
from ..protocol.files import MISSHAPEN
from ..protocol.registry import Variant
from .acregnet import Acregnet, AcregnetSettings
from .adregnet import Adregnet, AdregnetSettings
from .agf import Agf, AgfSettings
from .base import RegistrationNetwork
from .bspline import Bspline, BsplineSettings
from .packing import SCALE, unpack
from .r2n2 import R2n2, R2n2Settings
from .rman import Rman, RmanSettings
from .voxelmorph import Voxelmorph, VoxelmorphSettings
from .weight_files import read_state

ARCHITECTURES: dict[str, tuple[type[Any], Callable[[Any], RegistrationNetwork]]] = {
    "acregnet": (AcregnetSettings, Acregnet),
    "adregnet": (AdregnetSettings, Adregnet),
    "agf": (AgfSettings, Agf),
    "r2n2": (R2n2Settings, R2n2),
    "bspline": (BsplineSettings, Bspline),
    "rman": (RmanSettings, Rman),
    "voxelmorph": (VoxelmorphSettings, Voxelmorph),
}


# What a file that holds something else raises, and a network for the arguments or state of another one.
DAMAGED = (*MISSHAPEN, RuntimeError, EOFError, zipfile.BadZipFile)


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
    content = None if variant.weights is None else weight_content(variant.weights)
    try:
        network = build(architecture, variant.network)
        if content is not None:
            state = read_state(content)
            _require_alike(state, network)
            network.load_state_dict(unpack(state))
    except DAMAGED as error:
        if is_out_of_memory(error):
            raise
        if variant.weights is None:
            raise errors.EngineError(
                errors.METHOD_UNKNOWN,
                f"The network {shown(repr(architecture))} cannot be built ({shown(error)}).",
                "Correct its arguments in the method file, or install the extension again.",
            ) from error
        raise errors.EngineError(
            errors.WEIGHTS_CORRUPT,
            f"The weights {shown(repr(variant.weights))} do not fit the network {shown(repr(architecture))}"
            f" ({shown(error)}).",
            "Choose other weights, or save the state dict of this network again with torch.save.",
        ) from error
    return network.eval()


def _require_alike(state: dict[str, Tensor], network: RegistrationNetwork) -> None:
    """Refuse tensors whose names or sizes are not those of a network, before any is unpacked."""
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items() if not name.endswith(SCALE)}
    other = next((name for name in (*wanted, *found) if wanted.get(name) != found.get(name)), None)
    if other is not None:
        msg = f"{other} is {found.get(other, 'missing')} there and {wanted.get(other, 'missing')} in the network"
        raise ValueError(msg)
