"""Which quality the numbers of the panel stand for."""

from dataclasses import replace
from typing import Any

from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import contract
from DeepAttentionRegEngine.protocol.settings import QUALITIES, Settings

from .Methods import Form

CUSTOM = "custom"  # the numbers are the user's own
NUMBERS = ("recursions", "refinement_steps", "half_precision")


def labelOf(quality: str) -> str:
    """Return the text in the panel."""
    return _("Custom") if quality == CUSTOM else _(QUALITIES[quality])


def numbersOf(quality: str, form: Form, onGpu: bool = False) -> dict[str, Any]:
    """Return what a quality means for a method: recursions, refinement steps and precision, as `Settings` has them.

    :param quality: any but `CUSTOM`.
    :param form: the method and its weights; the method "none" has no recursions.
    :param onGpu: whether a graphics card computes.
    :raises EngineError: if there is no such method, or its file is damaged.
    """
    found = form.resolved(Settings(quality=quality), onGpu)
    return {name: getattr(found, name) for name in NUMBERS}


def qualityOf(settings: Settings, axes: int, onGpu: bool = False) -> str:
    """Return the quality whose numbers the settings have; `CUSTOM` if there is none.

    :param settings: recursions and precision do not matter to the method "none".
    :param axes: of the images: 2 of single slices, 3 of volumes.
    :param onGpu: as in `numbersOf`.
    :raises EngineError: as `numbersOf`.
    """
    if settings.method == contract.METHOD_NONE:
        settings = replace(settings, recursions=None, half_precision=False)
    chosen, form = {name: getattr(settings, name) for name in NUMBERS}, Form(settings.method, settings.weights, axes)
    matching = (quality for quality in QUALITIES if numbersOf(quality, form, onGpu) == chosen)
    return next(matching, CUSTOM)
