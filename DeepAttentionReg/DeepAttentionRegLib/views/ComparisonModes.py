"""The ways to compare two volumes by eye: what the panel offers, apart from the code that does it.

The parameter node, which Slicer loads when it starts, needs no more than this.
"""

import enum

from slicer.i18n import tr as _


class Mode(enum.Enum):
    """How slice views show two volumes at once."""

    OFF = "off"
    FADE = "fade"
    ROCK = "rock"
    FLICKER = "flicker"
    CHECKERBOARD = "checkerboard"
    REVEAL = "reveal"
    FUSION = "fusion"
    DIFFERENCE = "difference"

    def label(self) -> str:
        """Return the text in the panel."""
        return {
            Mode.OFF: _("Off"),
            Mode.FADE: _("Fade"),
            Mode.ROCK: _("Rock"),
            Mode.FLICKER: _("Flicker"),
            Mode.CHECKERBOARD: _("Checkerboard"),
            Mode.REVEAL: _("Reveal"),
            Mode.FUSION: _("Color fusion"),
            Mode.DIFFERENCE: _("Difference"),
        }[self]


class ComparedVolume(enum.Enum):
    """What is compared with the fixed volume."""

    BEFORE = "before"
    AFTER = "after"

    def label(self) -> str:
        """Return the text in the panel."""
        return {ComparedVolume.BEFORE: _("Moving volume, before"), ComparedVolume.AFTER: _("Warped volume, after")}[
            self
        ]


class Divider(enum.Enum):
    """Direction in the patient along which a divider moves, as it runs in pictures: from the left, from the top."""

    RIGHT_LEFT = "right-left"
    FRONT_BACK = "front-back"
    TOP_DOWN = "top-down"

    def label(self) -> str:
        """Return the text in the panel."""
        return {
            Divider.RIGHT_LEFT: _("Right to left"),
            Divider.FRONT_BACK: _("Front to back"),
            Divider.TOP_DOWN: _("Head to foot"),
        }[self]


class Arrangement(enum.Enum):
    """Which views there are."""

    CURRENT = "current"
    SIDE_BY_SIDE = "side by side"
    SINGLE = "single"
    FOUR_UP = "four-up"

    def label(self) -> str:
        """Return the text in the panel."""
        return {
            Arrangement.CURRENT: _("As they are"),
            Arrangement.SIDE_BY_SIDE: _("Fixed, moving, warped"),
            Arrangement.SINGLE: _("One slice"),
            Arrangement.FOUR_UP: _("Three slices and 3D"),
        }[self]
