"""Deformable registration of medical images, in any Python with NumPy, SimpleITK and PyTorch.

    from DeepAttentionRegEngine import Settings, register

    registered = register("fixed.nrrd", "moving.nrrd", Settings(quality="fast"))
    registered.save("results")

PyTorch is loaded when something is asked for that needs it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .evidence.changes import changes as changes
    from .evidence.expected_error import ExpectedError as ExpectedError
    from .evidence.expected_error import expected_error as expected_error
    from .evidence.percentiles import segment_percentiles as segment_percentiles
    from .evidence.percentiles import volume_percentiles as volume_percentiles
    from .evidence.structures import predicted_structures as predicted_structures
    from .evidence.structures import structures as structures
    from .evidence.uncertainty import uncertainty as uncertainty
    from .protocol.errors import EngineError as EngineError
    from .protocol.settings import Settings as Settings
    from .registration.method_run import Observer as Observer
    from .registration.registered import Registered as Registered
    from .registration.registrar import Registrar as Registrar
    from .registration.registrar import register as register
    from .volume.geometry import Geometry as Geometry
    from .volume.images import Volume as Volume
    from .volume.images import read as read
    from .volume.images import save as save
    from .volume.segments import Segments as Segments
    from .volume.segments import write_segments as write_segments

__version__ = "0.1.0"

_HOMES = {
    "EngineError": "protocol.errors",
    "Settings": "protocol.settings",
    "Geometry": "volume.geometry",
    "Volume": "volume.images",
    "read": "volume.images",
    "save": "volume.images",
    "Observer": "registration.method_run",
    "Registered": "registration.registered",
    "Registrar": "registration.registrar",
    "register": "registration.registrar",
    "Segments": "volume.segments",
    "write_segments": "volume.segments",
    "changes": "evidence.changes",
    "segment_percentiles": "evidence.percentiles",
    "volume_percentiles": "evidence.percentiles",
    "ExpectedError": "evidence.expected_error",
    "expected_error": "evidence.expected_error",
    "predicted_structures": "evidence.structures",
    "structures": "evidence.structures",
    "uncertainty": "evidence.uncertainty",
}
__all__ = [*_HOMES, "__version__"]


def __dir__() -> list[str]:
    """Return what can be asked for."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
