"""Which segments of two nodes belong together, as registrations pair them."""

import itertools
from collections.abc import Iterable

import numpy as np
import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.volume.segment_pairs import Segment, fits, pair_up, patterns

SegmentNumbers = dict[str, int]


def numberSegments(nodes: Iterable[slicer.vtkMRMLNode | None]) -> list[SegmentNumbers]:
    """Give segments the label values by which segmentations are compared.

    Segments that belong together, as `pair_up` of the engine tells, get the same value, all others one of their own. A
    label map volume keeps its values.

    :param nodes: the fixed and the moving one, or only one.
    :return: for each node the label value by segment id; empty for what is no segmentation.
    """
    nodes = list(nodes)
    sides: list[dict[Segment, str]] = [*map(_listSegments, nodes), {}, {}][:2]
    pairs = pair_up(*map(list, sides)).pairs
    partners = [{pair.fixed: pair.moving for pair in pairs}, {pair.moving: pair.fixed for pair in pairs}]
    found = [{segment: segment.value for segment, segmentId in side.items() if not segmentId} for side in sides]
    fresh = itertools.count(max([0, *found[0].values(), *found[1].values()]) + 1)
    for side, segments in enumerate(sides):
        for segment in [segment for segment in segments if segment not in found[side]]:
            partner = partners[side].get(segment)
            number = None if partner is None else found[1 - side].get(partner)
            found[side][segment] = next(fresh) if number is None else number
    return [
        {segmentId: found[side][segment] for segment, segmentId in sides[side].items() if segmentId}
        for side in range(len(nodes))
    ]


def _listSegments(node: slicer.vtkMRMLNode | None) -> dict[Segment, str]:
    """Return ids by segments, which the engine pairs; those of a label map, its values, have an empty id."""
    if isinstance(node, slicer.vtkMRMLLabelMapVolumeNode) and node.GetImageData() is not None:
        values = np.unique(slicer.util.arrayFromVolume(node)).tolist()
        return {Segment("", int(value)): "" for value in values if value}
    # Segments of one name and value differ by their place.
    return {
        Segment(segment.GetName(), segment.GetLabelValue(), place): segmentId
        for place, (segmentId, segment) in enumerate(segmentsOf(node).items())
    }


def tellPairs(fixed: slicer.vtkMRMLNode, moving: slicer.vtkMRMLNode) -> list[str]:
    """Return sentences on segments of two nodes that belong together though their names do not agree."""
    return pair_up(list(_listSegments(fixed)), list(_listSegments(moving))).forgiven


def checkPairs(fixed: slicer.vtkMRMLNode | None, moving: slicer.vtkMRMLNode | None) -> str:
    """Return that no segments of two nodes belong together, as a sentence; empty if some do or a node is missing."""
    if fixed is None or moving is None or pair_up(list(_listSegments(fixed)), list(_listSegments(moving))).pairs:
        return ""
    text = _("No segment of {fixed} has the name or value of one of {moving}; let those that belong together agree.")
    return text.format(fixed=fixed.GetName(), moving=moving.GetName())


def checkNames(nodes: Iterable[slicer.vtkMRMLNode | None], names: str) -> str:
    """Return that one of some names is that of no segment of some nodes, as a sentence; empty if all are.

    The values of a label map are not looked for: that takes a while, and this is asked often.

    :param names: as those of rigid segments in the engine's settings.
    """
    chosen = [node for node in nodes if node is not None]
    if any(isinstance(node, slicer.vtkMRMLLabelMapVolumeNode) for node in chosen):
        return ""
    segments = [segment for node in chosen for segment in _listSegments(node)]
    unknown = [name for name in patterns(names) if not any(fits(segment, name) for segment in segments)]
    if not unknown:
        return ""
    known = ", ".join(dict.fromkeys(segment.title for segment in segments)) or _("none")
    return _("There is no segment {name}; there are: {known}.").format(name=unknown[0], known=known)


def offered(nodes: Iterable[slicer.vtkMRMLNode | None]) -> list[Segment]:
    """Return the segments of nodes, of those with one title the first."""
    segments = [segment for node in nodes if node is not None for segment in _listSegments(node)]
    found: dict[str, Segment] = {}
    for segment in segments:
        found.setdefault(segment.title, segment)
    return list(found.values())


def named(segments: Iterable[Segment], names: str) -> list[Segment]:
    """Return the segments that names mean, as those of rigid segments in the engine's settings."""
    return [segment for segment in segments if any(fits(segment, name) for name in patterns(names))]


def segmentsOf(node: slicer.vtkMRMLNode | None) -> dict[str, slicer.vtkSegment]:
    """Return the segments of a node by id; none for what is no segmentation."""
    if not isinstance(node, slicer.vtkMRMLSegmentationNode):
        return {}
    segmentation = node.GetSegmentation()
    return {segmentId: segmentation.GetSegment(segmentId) for segmentId in segmentation.GetSegmentIDs()}
