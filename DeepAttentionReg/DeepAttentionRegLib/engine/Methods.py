"""What the panel says about methods: their range of recursions, what they lack, how long they will take."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace

import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import contract, errors, estimate, registry
from DeepAttentionRegEngine.protocol.quality import resolve
from DeepAttentionRegEngine.protocol.settings import Settings


@dataclass(frozen=True)
class Form:
    """A method as it runs on images.

    :param method: its name, or "none".
    :param weights: as in `contract.RegisterJob`; None takes the method's first for these images.
    :param axes: of the images: 2 of single slices, 3 of volumes.
    """

    method: str
    weights: str | None
    axes: int

    @property
    def isNetwork(self) -> bool:
        """Whether there is a method at all."""
        return self.method != contract.METHOD_NONE

    def resolved(self, settings: Settings, onGpu: bool = False) -> Settings:
        """Return settings with no number left open, as the engine does for this form.

        :param settings: whose method and weights do not matter.
        :param onGpu: whether a graphics card computes.
        :raises EngineError: if there is no such method, its file is damaged, or it takes no such settings.
        """
        settings = replace(settings, method=self.method, weights=self.weights)
        if not self.isNetwork:
            return resolve(settings, None, on_gpu=onGpu)
        method = registry.load_method(self.method)
        try:
            variant = registry.find_variant(method, self.axes, self.weights)
        except errors.EngineError:  # the panel tells what is wrong with weights, and has a number all the same
            variant = None
        return resolve(settings, method, variant, on_gpu=onGpu)


@dataclass(frozen=True)
class RecursionChoice:
    """What the slider of the recursions offers for a method with weights.

    :param minimum: fewest recursions.
    :param maximum: most recursions.
    :param value: number to show.
    :param toolTip: what a recursion is.
    """

    minimum: int
    maximum: int
    value: int
    toolTip: str


def usualRecursions(form: Form) -> int:
    """Return the usual number of recursions of a network, which belongs to its weights.

    :raises EngineError: if there is no such method, or its file is damaged.
    """
    return form.resolved(Settings()).recursions or 0


def recursionChoice(form: Form, value: int, previous: Form | None = None) -> RecursionChoice:
    """Return what the slider offers once a method or its weights are chosen.

    :param form: the method and its weights.
    :param value: number of recursions so far; kept if it fits, unless it is only what was usual so far.
    :param previous: what was chosen before; None if there was nothing.
    """
    limits, usual = registry.load_method(form.method).recursions, usualRecursions(form)
    wasUsual = previous is not None and value == usualRecursions(previous)
    text = _("{meaning} ({minimum} to {maximum}, usually {usual})")
    toolTip = f"<p>{text.format(**{**vars(limits), 'meaning': limits.meaning.rstrip('.'), 'usual': usual})}</p>"
    number = value if limits.holds(value) and not wasUsual else usual
    return RecursionChoice(limits.minimum, limits.maximum, number, toolTip)


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


def structuresOf(
    name: str, fixedVolume: slicer.vtkMRMLScalarVolumeNode | None, weights: str | None = None
) -> tuple[str, ...]:
    """Return the names of the structures that a method tells apart on a volume; arguments as of `checkMethod`."""
    if name == contract.METHOD_NONE:
        return ()
    try:
        return registry.choose_variant(registry.load_method(name), axesOf(fixedVolume), weights).structures
    except errors.EngineError:
        return ()


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


def extentOf(volume: slicer.vtkMRMLScalarVolumeNode | None) -> float | None:
    """Return the field of view along its longest axis in mm; None without a volume or its voxels."""
    size = _sizeOf(volume)
    return None if size is None or volume is None else max(map(operator.mul, size, volume.GetSpacing()))


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
