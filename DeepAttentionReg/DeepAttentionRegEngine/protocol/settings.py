"""What can be chosen about a registration: the one definition of every setting.

The JSON contract, the command line, the arguments of the module's logic, its parameter node and its reports are made
from the fields of `Settings`: name, type, default, range or choices, unit, help and label stand here and nowhere else.
`option` says what a field may be, and `build` holds whatever comes from outside to it.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from . import errors
from .errors import shown

T = TypeVar("T")


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
    wide_search: bool = option(
        False,
        label=_("Wide search"),
        help="look for motions of up to a quarter of the field of view before the refinement, in any contrast: a few "
        "seconds for what is out of reach else",
        group=_REFINEMENT,
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
    steered: str = option(
        "",
        label=_("Steering segments"),
        help="segments that steer the registration: in the place of what the network sees where they are named like "
        "its structures, else where both images have them, by their overlap in the refinement; names or label values, "
        '";" between them, * for any text or all',
        unit="NAMES",
        group=_REFINEMENT,
    )
    steering_weight: float = option(
        1.0,
        label=_("Pull of segments"),
        help="factor by which segments and structures that steer pull more than usual",
        at_least=0.0,
        at_most=1000.0,
        shown=(0.0, 10.0),
        unit="FACTOR",
        group=_REFINEMENT,
    )
    guided: bool = option(
        False,
        label=_("Guide by landmarks"),
        help="landmarks lead the registration: each point of the fixed list to its partner in the moving list, but for "
        "those that contradict the others; then they no longer measure it",
        group=_REFINEMENT,
    )
    landmark_tolerance: float = option(
        0.0,
        label=_("Tolerance of landmarks"),
        help="how far a landmark that guides may end from its partner",
        at_least=0.0,
        at_most=100.0,
        shown=(0.0, 10.0),
        unit="MM",
        group=_REFINEMENT,
    )
    rigid: str = option(
        "",
        label=_("Rigid segments"),
        help="segments that move as rigid bodies, such as bones and implants, of either segmentation: names as of "
        "steering ones",
        unit="NAMES",
        group=_REFINEMENT,
    )
    volume_keeping: str = option(
        "",
        label=_("Volume-keeping segments"),
        help="segments that keep their volume, such as tumors: names as of steering ones; each moves by one linear map",
        unit="NAMES",
        group=_REFINEMENT,
    )
    sliding: str = option(
        "",
        label=_("Sliding segments"),
        help="segments of the fixed image along whose boundary tissue may slide, such as lungs: names as of "
        "steering ones",
        unit="NAMES",
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

    @property
    def holds_segments(self) -> bool:
        """Whether any segments are to keep their shape or volume."""
        return bool(self.rigid.strip() or self.volume_keeping.strip())

    @property
    def led_by_segments(self) -> bool:
        """Whether segments do more than measure, so that those of one image may do."""
        return self.holds_segments or bool(self.steered.strip() or self.sliding.strip())


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


def build(kind: type[T], values: dict[str, Any]) -> T:
    """Return a job, an event or another dataclass from its fields, checked for type, range and choice.

    Fields that are dataclasses come from objects, tuples from lists, at any depth. Limits are what a field's metadata
    says: "choices", "at_least", "at_most".

    Raises:
        EngineError: Naming the field that is unknown, missing or wrong.
    """
    if not isinstance(values, dict):
        raise refusal(f"{kind.__name__} is {shown(repr(values))}, but must be an object.", "Write its fields as one.")
    known = {item.name: item for item in dataclasses.fields(typing.cast(Any, kind))}
    unknown = sorted(map(str, set(values) - set(known)))
    if unknown:
        raise refusal(
            f"{kind.__name__} does not know the field {shown(repr(unknown[0]))}.", f"Known: {', '.join(known)}."
        )
    for name, item in known.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise refusal(f"{kind.__name__} lacks the field {name!r}.", "Add it.")
    hints = typing.get_type_hints(kind)
    checked = {
        name: _checked(f"{kind.__name__}.{name}", value, hints[name], known[name].metadata)
        for name, value in values.items()
    }
    return kind(**checked)


def _checked(name: str, value: Any, hint: Any, limits: typing.Mapping[str, Any]) -> Any:
    """Return a value in its own type where JSON has none for it, its items in theirs."""
    _check_value(name, value, hint, limits)
    hint = next((kind for kind in _alternatives(hint) if kind is not type(None)), hint)
    if isinstance(value, dict) and dataclasses.is_dataclass(hint):
        return build(typing.cast(Any, hint), value)
    plain = typing.get_origin(hint)
    if value is None or plain not in (dict, list, tuple):
        return value
    items = value if plain is dict else dict(enumerate(value))
    kinds = _item_types(hint, len(items))
    if len(kinds) != len(items):
        raise refusal(f"{name} is {shown(repr(value))}, but must have {len(kinds)} items.", "Correct the value.")
    checked = {
        key: _checked(f"{name}[{key!r}]", item, kind, {})
        for (key, item), kind in zip(items.items(), kinds, strict=True)
    }
    return checked if plain is dict else plain(checked.values())


def _item_types(hint: Any, count: int) -> list[Any]:
    """Return the types of the items of a dict, list or tuple; a tuple may be of a number of its own."""
    inner = [kind for kind in typing.get_args(hint) if kind is not Ellipsis]
    if typing.get_origin(hint) is tuple and Ellipsis not in typing.get_args(hint):
        return inner
    return [inner[-1]] * count


def _check_value(name: str, value: Any, hint: Any, limits: typing.Mapping[str, Any]) -> None:
    if hint is Any:
        return
    plain = tuple(accepted for kind in _alternatives(hint) for accepted in _accepted(kind))
    if not isinstance(value, plain) or (isinstance(value, bool) and bool not in plain):
        wanted = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in plain)
        raise refusal(f"{name} is {shown(repr(value))}, but must be {wanted}.", "Correct the value.")
    choices = limits.get("choices")
    if choices and value not in choices:
        listed = ", ".join(choices)
        raise refusal(f"{name} is {shown(repr(value))}, but must be one of {listed}.", "Correct the value.")
    if value is None:
        return
    low, high = limits.get("at_least"), limits.get("at_most")
    # Written so that NaN, which compares false with everything, is refused too.
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = f"at least {low:.12g}" if high is None else f"between {low:.12g} and {high:.12g}"
        raise refusal(f"{name} is {shown(value)}, but must be {bounds}.", "Correct the value.")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _accepted(kind: Any) -> tuple[type, ...]:
    """Return what may stand for a value of a type, as JSON has no dataclasses and tuples, and one kind of number."""
    if dataclasses.is_dataclass(kind):
        return (dict,)
    plain = typing.get_origin(kind) or kind
    return {tuple: (list, tuple), float: (float, int)}.get(plain, (plain,))


def refusal(message: str, hint: str) -> errors.EngineError:
    """Return the error of a job or an event that makes no sense."""
    return errors.EngineError(errors.CONTRACT, message, hint)
