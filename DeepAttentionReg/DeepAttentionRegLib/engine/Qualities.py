"""Which quality the numbers of the panel stand for."""

from dataclasses import replace
from typing import Any

from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import contract, registry
from DeepAttentionRegEngine.protocol.quality import resolve
from DeepAttentionRegEngine.protocol.settings import QUALITIES, Settings

CUSTOM = "custom"  # the numbers are the user's own
NUMBERS = ("recursions", "refinement_steps", "half_precision")


def labelOf(quality: str) -> str:
    """Return the text in the panel."""
    return _("Custom") if quality == CUSTOM else _(QUALITIES[quality])


def numbersOf(quality: str, method: str, onGpu: bool = False) -> dict[str, Any]:
    """Return what a quality means for a method: recursions, refinement steps and precision, as `Settings` has them.

    :param quality: any but `CUSTOM`.
    :param method: name of a method, or "none", which has no recursions.
    :param onGpu: whether a graphics card computes.
    :raises EngineError: if there is no such method, or its file is damaged.
    """
    described = None if method == contract.METHOD_NONE else registry.load_method(method)
    found = resolve(Settings(method=method, quality=quality), described, on_gpu=onGpu)
    return {name: getattr(found, name) for name in NUMBERS}


def qualityOf(settings: Settings, onGpu: bool = False) -> str:
    """Return the quality whose numbers the settings have; `CUSTOM` if there is none.

    :param settings: recursions and precision do not matter to the method "none".
    :param onGpu: as in `numbersOf`.
    :raises EngineError: as `numbersOf`.
    """
    if settings.method == contract.METHOD_NONE:
        settings = replace(settings, recursions=None, half_precision=False)
    chosen = {name: getattr(settings, name) for name in NUMBERS}
    matching = (quality for quality in QUALITIES if numbersOf(quality, settings.method, onGpu) == chosen)
    return next(matching, CUSTOM)
