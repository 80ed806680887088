"""What is on images, as far as headers, names and the field of view tell at once, and the weights that suit it.

What the weights are for is told by the methods' files and beside imported weights; `_known` says by which words an
anatomy is recognized. Nothing is computed from voxels, and nothing is certain: a proposal comes with its reason.
"""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.protocol import contract, errors, registry

from . import Methods, Weights

INSTANCES = "DICOM.instanceUIDs"  # attribute of volumes that were loaded from Slicer's DICOM database
MODALITY, BODY_PART, SERIES, STUDY = "0008,0060", "0018,0015", "0008,103E", "0008,1030"
# Words in names of what no weights are for; a small field of view is then no hippocampus.
ELSEWHERE = frozenset(
    [
        "ankle",
        "breast",
        "elbow",
        "eye",
        "finger",
        "foot",
        "hand",
        "hip",
        "knee",
        "mouse",
        "neck",
        "pelvis",
        "phantom",
        "prostate",
        "rat",
        "shoulder",
        "spine",
        "tooth",
        "wrist",
        "aorta",
        "vessel",
    ]
)


@dataclass(frozen=True)
class Signs:
    """How the images of an anatomy are told from others.

    :param label: what users read.
    :param words: name it, lower case, separated by spaces.
    :param hints: kinds of images that are mostly made of it; they count where nothing else tells.
    :param modalities: those of DICOM that its images can have, separated by spaces; empty for any.
    :param size: the reason where the field of view {extent} alone tells it; empty if it never does.
    """

    label: str
    words: str
    hints: str = ""
    modalities: str = ""
    size: str = ""


def _known() -> dict[str, Signs]:
    """Return what tells each anatomy, by its name in the methods' files in lower case; texts in the user's language."""
    return {
        "brain": Signs(_("Brain"), "brain head skull cranial cerebral neuro", hints="t1 t1w mprage mp2rage flair"),
        "abdomen": Signs(_("Abdomen"), "abdomen abdominal liver spleen kidney kidneys pancreas", modalities="CT MR"),
        "hippocampus": Signs(
            _("Hippocampus"),
            "hippocampus hippocampi hippocampal",
            modalities="MR",
            size=_("the field of view of {extent} mm is that of a hippocampus"),
        ),
        "chest x-ray": Signs(_("Chest X-ray"), "chest cxr", modalities="CR DX RG"),
        "heart, cine": Signs(_("Heart, cine"), "heart cardiac cine", modalities="MR"),
    }


@dataclass(frozen=True)
class ProposedWeights:
    """The weights of a method that suit images.

    :param entry: the weights; None if the method has none for so many axes.
    :param anatomy: what the images seem to show, as the methods' files call it; empty if nothing tells.
    :param reason: what tells so, as a part of a sentence; empty if nothing does.
    :param others: titles of the methods that have weights for this anatomy where the method itself has none.
    :param hasImages: whether there were any images to look at.
    """

    entry: Weights.Entry | None
    anatomy: str = ""
    reason: str = ""
    others: tuple[str, ...] = ()
    hasImages: bool = True

    @property
    def weights(self) -> str | None:
        """The weights as a registration takes them; None if there are none."""
        return None if self.entry is None else self.entry.id

    def textFor(self, chosen: Weights.Entry | None) -> str:
        """Return a line on what is proposed and why; empty if there is nothing to say.

        :param chosen: the weights that will be used; None if there are none.
        """
        anatomy = labelOf(self.anatomy)
        if self.others:
            text = _("This method has no weights for the anatomy {anatomy}, though {reason}. These have: {methods}.")
            return text.format(anatomy=anatomy, reason=self.reason, methods=", ".join(self.others))
        if self.entry is None or chosen is None or not self.hasImages:
            return ""
        if chosen.id != self.entry.id:
            text = _("{anatomy} would be proposed: {reason}.")
            return text.format(anatomy=anatomy, reason=self.reason) if self.reason else ""
        if self.reason:
            return _("Proposed: {reason}.").format(reason=self.reason)
        if self.entry.anatomy:
            text = _("Nothing tells what the images show; these weights are for the anatomy {anatomy} alone.")
            return text.format(anatomy=labelOf(self.entry.anatomy))
        return _("Proposed: nothing tells what the images show.")


def propose(
    method: str,
    fixedVolume: slicer.vtkMRMLScalarVolumeNode | None,
    movingVolume: slicer.vtkMRMLScalarVolumeNode | None = None,
) -> ProposedWeights:
    """Return the weights of a method that suit two volumes: those for what they show, else those for anything.

    :param method: its name, as `register` takes it.
    :param fixedVolume: decides on single slices or volumes, and on the field of view; None takes volumes.
    :param movingVolume: names and headers of both count.
    """
    axes = Methods.axesOf(fixedVolume)
    listed = [entry for entry in Weights.listWeights() if any(axis == axes for _name, axis in entry.serves)]
    own = [entry for entry in listed if (method, axes) in entry.serves]
    extent = Methods.extentOf(fixedVolume)
    usual = _usualOf(method, axes)
    fallback = min(
        own,
        key=lambda entry: (bool(entry.anatomy), not _suits(entry, extent), entry.id != usual),
        default=None,
    )
    volumes = [volume for volume in (fixedVolume, movingVolume) if volume is not None]
    if not volumes:
        return ProposedWeights(fallback, hasImages=False)
    suiting = [entry for entry in listed if entry.anatomy and _suits(entry, extent)]
    shown, reason = _look(volumes, {entry.anatomy.casefold() for entry in suiting}, extent)
    having = [entry for entry in suiting if entry.anatomy.casefold() == shown]
    if not having:
        return ProposedWeights(fallback)
    entry = next((entry for entry in own if entry in having), None)
    if entry is not None:
        return ProposedWeights(entry, entry.anatomy, reason)
    names = dict.fromkeys(name for entry in having for name, axis in entry.serves if axis == axes)
    return ProposedWeights(fallback, having[0].anatomy, reason, tuple(map(_titleOf, names)))


def usableWeights(
    method: str,
    wanted: str,
    fixedVolume: slicer.vtkMRMLScalarVolumeNode | None,
    movingVolume: slicer.vtkMRMLScalarVolumeNode | None = None,
) -> str | None:
    """Return the weights of a registration as `contract.RegisterJob` takes them; None leaves them to the engine.

    :param method: its name, or "none".
    :param wanted: id of the weights that the user chose; empty takes the proposed ones.
    :param fixedVolume: as in `propose`.
    :param movingVolume: as in `propose`.
    """
    if method == contract.METHOD_NONE:
        return None
    if wanted:
        return wanted
    proposed = propose(method, fixedVolume, movingVolume).weights
    return None if proposed == _usualOf(method, Methods.axesOf(fixedVolume)) else proposed


def _usualOf(method: str, axes: int) -> str | None:
    """Return the weights that the engine takes by itself; None if there are none, or the method's file is damaged."""
    try:
        first = registry.find_variant(registry.load_method(method), axes, None)
    except errors.EngineError:
        return None
    return None if first is None else first.weights


def labelOf(anatomy: str) -> str:
    """Return what users read of an anatomy.

    :param anatomy: as the methods' files call it; empty for anything.
    """
    known = _known().get(anatomy.casefold())
    return known.label if known is not None else anatomy or _(registry.ANYTHING)


def labelsOf(entries: Sequence[Weights.Entry]) -> list[str]:
    """Return by what users choose among weights: the anatomy, or the title of imported ones and of any two alike."""
    texts = [entry.title if entry.isImported else labelOf(entry.anatomy) for entry in entries]
    pairs = zip(texts, entries, strict=True)
    return [
        _("{anatomy} ({title})").format(anatomy=text, title=entry.title)
        if texts.count(text) > 1 and text != entry.title
        else text
        for text, entry in pairs
    ]


def _suits(entry: Weights.Entry, extent: float | None) -> bool:
    """Return whether weights know a field of view; one that is not known suits all."""
    return entry.extentMm is None or extent is None or entry.extentMm[0] <= extent <= entry.extentMm[1]


def _titleOf(method: str) -> str:
    return Methods.describe(method).get("title", method)


def _look(
    volumes: Sequence[slicer.vtkMRMLScalarVolumeNode], anatomies: Iterable[str], extent: float | None
) -> tuple[str, str]:
    """Return which of these anatomies volumes show, and what tells so; both are empty if nothing speaks for one.

    The surest comes first: words that name it, the field of view, kinds of images that are mostly made of it.
    """
    headers = [_headerOf(volume) for volume in volumes]
    texts, signs = _texts(volumes, headers), _signsOf(anatomies, headers)
    named = _named(texts, {name: sign.words for name, sign in signs.items()})
    if named is None and not any(header.get(BODY_PART) for header in headers):
        named = _sized(texts, signs, extent)
    return named or _named(texts, {name: sign.hints for name, sign in signs.items()}) or ("", "")


def _signsOf(anatomies: Iterable[str], headers: Sequence[Mapping[str, str]]) -> dict[str, Signs]:
    """Return what tells each of these anatomies, but for those that are not taken with the modalities of headers."""
    known, told = _known(), {header[MODALITY] for header in headers if header.get(MODALITY)}
    signs = {name: known.get(name, Signs(name, " ".join(_words(name)))) for name in sorted(anatomies)}
    return {name: sign for name, sign in signs.items() if not sign.modalities or told <= {*sign.modalities.split()}}


def _named(texts: Iterable[tuple[str, str]], words: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the anatomy that the first text to speak for one alone names, and the reason; None if none does."""
    for why, text in texts:
        spoken = [anatomy for anatomy, own in words.items() if _words(text) & {*own.split()}]
        if len(spoken) == 1:
            return spoken[0], why.format(text=text)
    return None


def _sized(
    texts: Iterable[tuple[str, str]], signs: Mapping[str, Signs], extent: float | None
) -> tuple[str, str] | None:
    """Return the anatomy that the field of view alone tells, and the reason; None if texts name another one."""
    parts = ELSEWHERE.union(*(sign.words.split() for sign in _known().values()))
    sized = [name for name, sign in signs.items() if sign.size]
    if extent is None or len(sized) != 1 or any(parts & _words(text) for _why, text in texts):
        return None
    return sized[0], signs[sized[0]].size.format(extent=f"{extent:.0f}")


def _texts(
    volumes: Iterable[slicer.vtkMRMLScalarVolumeNode], headers: Sequence[Mapping[str, str]]
) -> list[tuple[str, str]]:
    """Return what names the images, the surest first, each with a reason that has a place for it."""
    kinds = {
        BODY_PART: _('the header tells the body part "{text}"'),
        SERIES: _('the series is named "{text}"'),
        STUDY: _('the study is named "{text}"'),
    }
    told = [(why, header[tag]) for tag, why in kinds.items() for header in headers if header.get(tag)]
    return [*told, *((_('a volume is named "{text}"'), volume.GetName()) for volume in volumes)]


def _words(text: str) -> set[str]:
    """Return the words of a name in lower case, those that are joined or numbered as well."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text)
    words = re.findall(r"[^\W_]+", apart.casefold())
    return {*words, *(word.rstrip("0123456789") for word in words)}


def _headerOf(volume: slicer.vtkMRMLScalarVolumeNode) -> dict[str, str]:
    """Return values of the DICOM header of a volume by tag; nothing where Slicer's database does not know it."""
    database = getattr(slicer, "dicomDatabase", None)
    instances = (volume.GetAttribute(INSTANCES) or "").split()
    if database is None or not database.isOpen or not instances:
        return {}
    return _readHeader(instances[0])


@functools.lru_cache(maxsize=64)
def _readHeader(instance: str) -> dict[str, str]:
    try:
        return {tag: slicer.dicomDatabase.instanceValue(instance, tag) for tag in (MODALITY, BODY_PART, SERIES, STUDY)}
    except RuntimeError:  # its file is gone
        return {}
