"""What the module does in Slicer. Scripts import its tools from here: `from DeepAttentionRegLib import Report`."""

import importlib
from types import ModuleType

_HOMES = {
    "nodes": ("Deformation", "InputNodes", "Overlays", "Record", "Transforms", "Volumes", "Warping"),
    "tasks": ("Batch", "Registration", "Results", "Sequences"),
    "views": ("Comparison", "MapView", "Mixing"),
    "evidence": (
        *("Attention", "Landmarks", "Maps", "Pictures", "Readout", "RecursionEvidence"),
        *("Scrubber", "SegmentNodes", "Segments", "Uncertainty"),
    ),
    "report": ("Report",),
}
_PACKAGE_OF = {name: package for package, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> ModuleType:
    """Import a tool when it is asked for, so that Slicer's start does not wait for all of them."""
    if name not in _PACKAGE_OF:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return importlib.import_module(f".{_PACKAGE_OF[name]}.{name}", __name__)
