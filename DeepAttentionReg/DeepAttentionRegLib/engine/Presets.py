"""How much effort a registration takes, in one choice instead of several numbers."""

import enum
from dataclasses import dataclass

from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import contract, registry


class Preset(enum.Enum):
    """A level of effort, or that the numbers are the user's own."""

    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"
    CUSTOM = "custom"

    def label(self) -> str:
        """Return the text in the panel."""
        return {
            Preset.FAST: _("Fast"),
            Preset.BALANCED: _("Balanced"),
            Preset.BEST: _("Best"),
            Preset.CUSTOM: _("Custom"),
        }[self]


@dataclass(frozen=True)
class Choices:
    """What a preset decides; names and meaning as in `Registration.Settings`.

    What suits the images instead of the effort (similarity, smoothness, alignment) is not touched.
    """

    recursions: int | None
    refinementSteps: int
    halfPrecision: bool


@dataclass(frozen=True)
class _Effort:
    """A preset for any method.

    :param recursions: factor of the method's usual number of recursions.
    :param refinementSteps: iterations at each resolution.
    :param isHalfOnGpu: whether networks run in 16 bits where that is faster, which is on graphics cards.
    """

    recursions: float
    refinementSteps: int
    isHalfOnGpu: bool


_EFFORTS = {
    Preset.FAST: _Effort(1 / 2, 15, isHalfOnGpu=True),
    Preset.BALANCED: _Effort(1, 40, isHalfOnGpu=False),
    Preset.BEST: _Effort(4 / 3, 100, isHalfOnGpu=False),
}


def choicesOf(preset: Preset, method: str, onGpu: bool = False) -> Choices:
    """Return what a preset means for a method.

    :param preset: any but `Preset.CUSTOM`.
    :param method: name of a method, or "none", which has no recursions.
    :param onGpu: whether a graphics card computes.
    :raises EngineError: if there is no such method, or its file is damaged.
    """
    effort = _EFFORTS[preset]
    if method == contract.METHOD_NONE:
        return Choices(None, effort.refinementSteps, halfPrecision=False)
    described = registry.load_method(method)
    limits = described.recursions
    isNetwork = described.needs_weights
    # The levels of an iterative method are how far it reaches; fewer would spare no time.
    count = round(limits.default * effort.recursions) if isNetwork else limits.default
    count = min(max(count, limits.minimum), limits.maximum)
    return Choices(count, effort.refinementSteps, halfPrecision=effort.isHalfOnGpu and onGpu and isNetwork)


def presetOf(choices: Choices, method: str, onGpu: bool = False) -> Preset:
    """Return the preset that the present choices equal; `Preset.CUSTOM` if there is none.

    :param choices: the recursions and the precision do not matter to the method "none".
    :param method: as in `choicesOf`.
    :param onGpu: as in `choicesOf`.
    :raises EngineError: as `choicesOf`.
    """
    if method == contract.METHOD_NONE:
        choices = Choices(None, choices.refinementSteps, halfPrecision=False)
    matching = (preset for preset in _EFFORTS if choicesOf(preset, method, onGpu) == choices)
    return next(matching, Preset.CUSTOM)
