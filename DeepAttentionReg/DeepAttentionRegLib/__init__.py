"""What the module does in Slicer. Scripts import its tools from here: `from DeepAttentionRegLib import Report`."""

import importlib
from types import ModuleType

_HOMES = {
    "engine": ("Anatomies", "Callbacks", "Engine", "Folders", "Install", "Interpreter", "Weights"),
    "nodes": (
        *("Deformation", "InputNodes", "Overlays", "Record", "SampleCases", "Structures"),
        *("Transforms", "Volumes", "Warping"),
    ),
    "tasks": ("Batch", "Registration", "Request", "Results", "Sequences"),
    "views": ("Comparison", "MapView", "Mixing", "SavedViews"),
    "evidence": (
        *("Attention", "Landmarks", "Maps", "Percentiles", "Pictures", "Readout", "RecursionEvidence"),
        *("Scrubber", "SegmentNodes", "Segments", "Uncertainty"),
    ),
    "report": ("Report",),
}
_PATH_OF = {name: f".{package}.{name}" for package, names in _HOMES.items() for name in names}
_PATH_OF["Parameters"] = ".Parameters"


def __getattr__(name: str) -> ModuleType:
    """Import a tool when it is asked for, so that Slicer's start does not wait for all of them."""
    if name not in _PATH_OF:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return importlib.import_module(_PATH_OF[name], __name__)
