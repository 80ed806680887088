"""What can be chosen about a registration: the one definition of every setting.

The JSON contract, the command line, the arguments of the module's logic, its parameter node and its reports are made
from the fields of `Settings`: name, type, default, range or choices, unit, help and label stand here and nowhere else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


def _(text: str) -> str:
    """Mark a text that people see; it is translated where it is shown."""
    return text


AUTOMATIC = "automatic"
ALIGNMENTS = {
    AUTOMATIC: _("Automatic"),
    "none": _("None"),
    "center": _("Centers of the volumes"),
    "mass": _("Centers of mass"),
    "rigid": _("Rigid"),
    "affine": _("Affine"),
}
SIMILARITIES = {
    "ncc": _("Local correlation"),
    "mse": _("Mean squares"),
    "mind": _("MIND (different modalities)"),
}
QUALITIES = {"fast": _("Fast"), "balanced": _("Balanced"), "best": _("Best")}
AS_FOUND, AS_FIXED = "found", "fixed"
TRANSFORM_GRIDS = {AS_FOUND: _("As found"), AS_FIXED: _("Fixed volume")}


def option(
    default: Any,
    *,
    label: str = "",
    help: str = "",  # noqa: A002 - as argparse calls it
    choices: Mapping[str, str] | tuple[str, ...] = (),
    at_least: float | None = None,
    at_most: float | None = None,
    shown: tuple[float, float] | None = None,
    unit: str = "",
    group: str = "",
) -> Any:
    """Return a field of a job.

    Args:
        default: Value of who does not choose.
        label: What people see beside it.
        help: What it does, in one sentence without a full stop.
        choices: Values that it can take, with the text of each where people choose among them.
        at_least: Smallest value that makes sense.
        at_most: Largest value that makes sense.
        shown: Range of a slider, within these; None for all of them.
        unit: What a number counts or measures; "K" and the like stand for it on the command line.
        group: Heading below which the command line lists it.
    """
    limits = {"choices": choices, "at_least": at_least, "at_most": at_most, "shown": shown or (at_least, at_most)}
    return field(default=default, metadata={**limits, "label": label, "help": help, "unit": unit, "group": group})


_REFINEMENT = "refinement on this pair"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to register; none of it depends on the images.

    Explicit numbers win over `quality`, which decides the effort wherever they are None: see quality.py.

    Examples:
        >>> Settings(method="none", smoothness=2.0).quality
        'balanced'
    """

    method: str = option(
        "rman",
        label=_("Method"),
        help="registration method by name, or a method file (.json) of your own; none: alignment and refinement alone",
        unit="NAME|FILE",
    )
    quality: str = option(
        "balanced",
        label=_("Quality"),
        help="effort: recursions, refinement steps and precision, unless they are given",
        choices=QUALITIES,
    )
    recursions: int | None = option(
        None,
        label=_("Recursions"),
        help="passes of the network; without it as many as the quality takes",
        at_least=1,
        at_most=100,
        unit="K",
    )
    weights: str | None = option(
        None,
        label=_("Weights"),
        help="trained weights by id, or a .pt file, to use instead of the method's first",
        unit="ID|FILE",
    )
    device: str = option("auto", label=_("Device"), help="auto, cpu, cuda or cuda:N", unit="NAME")
    half_precision: bool | None = option(
        None,
        label=_("Half precision"),
        help="run the network in 16 bits, faster on GPUs and with less memory; without it as the quality says",
    )
    seed: int = option(0, label=_("Seed"), help="seed of everything random", at_least=0, at_most=2**32 - 2)
    alignment: str = option(
        AUTOMATIC,
        label=_("Alignment"),
        help="where to start: what makes the images most alike (automatic), as the coordinates say (none), centers of "
        "the fields of view, centers of mass, or an optimized rigid or affine map",
        choices=ALIGNMENTS,
    )
    transform_grid: str = option(
        AS_FOUND,
        label=_("Transform grid"),
        help="where the vectors of the transform lie: where they were found, or closer together if Slicer would else "
        "differ by more than 0.05 mm and 5 million are enough (found), or at the voxels of the fixed volume (fixed)",
        choices=TRANSFORM_GRIDS,
    )
    refinement_steps: int | None = option(
        None,
        label=_("Refinement steps"),
        help="iterations at each resolution, three tenths of them at the finest, 0: no refinement; without it as many "
        "as the quality takes",
        at_least=0,
        at_most=1000,
        shown=(1, 500),
        unit="N",
        group=_REFINEMENT,
    )
    similarity: str = option(
        "ncc",
        label=_("Similarity"),
        help="local correlation, mean squares (same scanner), or MIND-SSC (two modalities)",
        choices=SIMILARITIES,
        group=_REFINEMENT,
    )
    smoothness: float = option(
        1.0,
        label=_("Smoothness"),
        help="factor of the usual smoothness, 0.3 (loose) to 4 (stiff)",
        at_least=0.0,
        at_most=1000.0,
        shown=(0.0, 10.0),
        unit="FACTOR",
        group=_REFINEMENT,
    )
    velocity: bool = option(
        False,
        label=_("Velocity field"),
        help="refine a stationary velocity field, which hardly folds, instead of a displacement",
        group=_REFINEMENT,
    )
    samples: int = option(
        8,
        label=_("Samples"),
        help="registrations of slightly changed images, this one among them, whose spread is the uncertainty",
        at_least=2,
        at_most=100,
        shown=(2, 50),
        unit="N",
        group="uncertainty",
    )

    def __post_init__(self) -> None:
        # Scripts often compute them with NumPy, whose numbers are not those of JSON.
        for item in fields(Settings):
            value = getattr(self, item.name)
            if hasattr(value, "item"):
                object.__setattr__(self, item.name, value.item())


def choices_of(name: str) -> Mapping[str, str]:
    """Return the values that a setting can take, and the text of each."""
    return _field(name).metadata["choices"]


def label_of(name: str) -> str:
    """Return what a setting is called; its own name if there is no such setting."""
    known = {item.name: item.metadata["label"] for item in fields(Settings)}
    return known.get(name, name)


def range_of(name: str) -> tuple[float, float]:
    """Return the range of a setting that people are offered."""
    return _field(name).metadata["shown"]


def default_of(name: str) -> Any:
    """Return the default of a setting."""
    return _field(name).default


def _field(name: str) -> Any:
    return next(item for item in fields(Settings) if item.name == name)


def settings_of(values: Any) -> Settings:
    """Return the settings alone of something that has them all as attributes, such as a job."""
    return Settings(**{item.name: getattr(values, item.name) for item in fields(Settings)})
