"""What the panel says about methods: their range of recursions, what they lack, how long they will take."""

from collections.abc import Mapping
from dataclasses import dataclass

import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import contract, errors, estimate, registry
from DeepAttentionRegEngine.protocol.settings import Settings

from . import Weights


@dataclass(frozen=True)
class RecursionChoice:
    """What the slider of the recursions offers for a method.

    :param minimum: fewest recursions.
    :param maximum: most recursions.
    :param value: number to show.
    :param toolTip: what a recursion is.
    """

    minimum: int
    maximum: int
    value: int
    toolTip: str


def recursionChoice(name: str, value: int, previous: str | None = None) -> RecursionChoice:
    """Return what the slider offers once a method is chosen.

    :param name: the method.
    :param value: number of recursions so far; kept if it fits, unless it is only what was usual so far.
    :param previous: the method chosen before; None if there was none.
    """
    limits = registry.load_method(name).recursions
    wasUsual = previous is not None and value == registry.load_method(previous).recursions.default
    isKept = limits.minimum <= value <= limits.maximum and not wasUsual
    text = _("{meaning} ({minimum} to {maximum}, usually {default})")
    toolTip = f"<p>{text.format(**{**vars(limits), 'meaning': limits.meaning.rstrip('.')})}</p>"
    return RecursionChoice(limits.minimum, limits.maximum, value if isKept else limits.default, toolTip)


def checkMethod(name: str, fixedVolume: slicer.vtkMRMLScalarVolumeNode | None, weights: str | None = None) -> list[str]:
    """Return why a method cannot register a volume, as sentences.

    :param name: the method, or "none".
    :param fixedVolume: tells whether single slices are registered; without one nothing is wrong.
    :param weights: as in `contract.RegisterJob`.
    """
    size = _sizeOf(fixedVolume)
    if name == contract.METHOD_NONE or size is None:
        return []
    try:
        method = registry.load_method(name)
    except errors.EngineError as error:
        return [str(error)]
    axes = axesOf(fixedVolume)
    try:
        registry.choose_variant(method, axes, weights)
    except errors.EngineError:
        text = _("{method} has no trained weights for {kind}; choose another method or the refinement only.")
        return [text.format(method=method.title, kind=_("single slices") if axes == 2 else _("volumes"))]
    return []


def describe(name: str | None) -> dict[str, str]:
    """Return title, summary and citation of a method; nothing for the refinement alone and what is not known.

    :param name: the method, as in `contract.RegisterJob`; None if there was none.
    """
    if name is None or name == contract.METHOD_NONE:
        return {}
    try:
        method = registry.load_method(name)
    except errors.EngineError:
        return {}
    return {part: getattr(method, part) for part in ("title", "summary", "citation")}


def axesOf(volume: slicer.vtkMRMLScalarVolumeNode | None) -> int:
    """Return whether a single slice (2) or a volume (3) is registered; 3 without one."""
    return 2 if (_sizeOf(volume) or ()).count(1) == 1 else 3


def usableWeights(name: str, wanted: str, volume: slicer.vtkMRMLScalarVolumeNode | None) -> str | None:
    """Return the weights of a registration as `contract.RegisterJob` takes them.

    :param name: the method, or "none".
    :param wanted: id of the chosen weights; empty takes those of the extension, else the first imported ones.
    :param volume: the fixed volume.
    """
    if name == contract.METHOD_NONE:
        return None
    first = None if wanted else next(iter(Weights.weightsFor(name, axesOf(volume))), None)
    return first.id if first is not None and first.isImported else wanted or None


def estimateText(
    volume: slicer.vtkMRMLScalarVolumeNode | None, settings: Settings, speeds: Mapping[str, float] | None
) -> str:
    """Return how long a registration will take and how much memory it needs, in a line; empty if that is unknown.

    :param volume: the fixed volume.
    :param settings: how it will be registered.
    :param speeds: of this computer's devices by name, as the engine measured them; None or empty if it has not.
    """
    size, speeds = _sizeOf(volume), speeds or {}
    device = _deviceOf(settings.device, speeds)
    if volume is None or size is None or device is None:
        return ""
    try:
        cpu, computing = speeds.get("cpu"), speeds.get(device)
        found = estimate.estimate(size, volume.GetSpacing(), settings, cpu=cpu, device=computing)
    except errors.EngineError:
        found = None
    if found is None:
        return ""
    measured = _("About {time} and {memory} on this computer's {device}")
    text = measured if speeds else _("Roughly {time} and {memory} on a {device}")
    unit = _("CPU") if device == "cpu" else _("GPU")
    return text.format(time=timeText(found.seconds), memory=f"{found.bytes / 1e9:.1f} GB", device=unit)


def timeText(seconds: float) -> str:
    """Return a duration in words, to about two digits.

    :param seconds: how long it takes.
    """
    if seconds < 99.5:
        return _("{count} s").format(count=max(1, round(seconds)))
    if seconds < 99.5 * 60:
        return _("{count} min").format(count=round(seconds / 60))
    return _("{count} h").format(count=round(seconds / 3600))


def _sizeOf(volume: slicer.vtkMRMLScalarVolumeNode | None) -> tuple[int, int, int] | None:
    image = volume.GetImageData() if volume is not None else None
    return image.GetDimensions() if image is not None else None


def _deviceOf(name: str, speeds: Mapping[str, float]) -> str | None:
    """Return the device that a job on "auto", "cpu" or "cuda" will use; None if that is not known to exist."""
    gpu = next((device for device in speeds if device.startswith("cuda")), None)
    return {"auto": gpu or "cpu", "cuda": gpu}.get(name, name)
