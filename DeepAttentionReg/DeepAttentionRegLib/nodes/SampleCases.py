"""Pairs to try the module with, in the Sample Data module: a phantom made on the spot, and Slicer's own samples.

What a case needs is imported when it is asked for, so that registering them costs nothing when Slicer starts.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import slicer
from slicer.i18n import tr as _

if TYPE_CHECKING:
    import numpy as np

    from DeepAttentionRegEngine.phantom.thorax import PhantomPair
    from DeepAttentionRegEngine.volume.geometry import Geometry

    from .InputNodes import InputNodes

CATEGORY = "Deep Attention Registration"
PHANTOMS = {
    "Breathing phantom": False,
    "Breathing phantom, single slice": True,
}  # name, and whether it is a single slice
# Samples of Slicer that make a case together; the first volume is the fixed one.
SAMPLES = {
    "Brain tumor MR, two scans": ("MRBrainTumor1", "MRBrainTumor2"),
    "Dental surgery CBCT, before and after": ("CBCTDentalSurgery",),
    "Head CBCT and MR": ("CBCTMRHead",),
}
# Okabe and Ito's colors, which the color-blind can tell apart.
COLORS = ("E69F00", "56B4E9", "009E73", "F0E442", "0072B2", "D55E00", "CC79A7", "999999")
OUTLINE_PIXELS = 2
WINDOW_HU, LEVEL_HU = 1400.0, -300.0  # shows lung and soft tissue
FOREGROUND_OPACITY = 0.5


def registerSampleData(thumbnail: str) -> None:
    """List the cases in the Sample Data module; to be called when Slicer has started.

    :param thumbnail: path of a picture of the phantoms.
    """
    import SampleData

    openers = {name: functools.partial(_openPhantom, flat) for name, flat in PHANTOMS.items()}
    openers.update({name: functools.partial(_openSamples, names) for name, names in SAMPLES.items()})
    for name, opener in openers.items():
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=name,
            # Nothing is downloaded by Sample Data itself.
            uris=[],
            fileNames=[],
            nodeNames=[],
            thumbnailFileName=thumbnail if name in PHANTOMS else None,
            customDownloader=opener,
        )


def addPhantom(geometry: Geometry | None = None, *, flat: bool = False) -> InputNodes:
    """Add a breathing thorax to the scene: two volumes with segmentations and landmarks.

    :param geometry: grid of both volumes; None takes one that is registered in half a minute.
    :param flat: make a single slice instead of a volume.
    :return: what was added, as a registration takes it.
    """
    from DeepAttentionRegEngine.phantom import thorax

    from .InputNodes import InputNodes

    pair = thorax.make_phantom(geometry or thorax.default_geometry(flat=flat))
    names = {"fixed": _("Phantom breathed in"), "moving": _("Phantom breathed out")}
    nodes = {}
    for side, name in names.items():
        name = slicer.mrmlScene.GenerateUniqueName(name)
        nodes[f"{side}Volume"] = _addVolume(pair, side, name)
        nodes[f"{side}Segmentation"] = _addSegmentation(pair, side, name, nodes[f"{side}Volume"])
        nodes[f"{side}Landmarks"] = _addLandmarks(getattr(pair, f"{side}_points_lps"), name)
    return InputNodes(**nodes)


def _openPhantom(flat: bool, _source: Any = None) -> list[slicer.vtkMRMLNode]:
    """Add a phantom and show it; called by the Sample Data module."""
    inputs = addPhantom(flat=flat)
    _show(inputs.fixedVolume, inputs.movingVolume)
    return inputs.nodes


def _openSamples(names: tuple[str, ...], _source: Any = None) -> list[slicer.vtkMRMLNode]:
    """Load samples of Slicer and show them over each other; called by the Sample Data module, which logs failures."""
    import SampleData

    logic = SampleData.SampleDataLogic()
    loaded = [item for name in names for item in logic.downloadSamples(name)]
    # What could not be loaded is missing, or there is the name of its file instead.
    volumes = [item for item in loaded if isinstance(item, slicer.vtkMRMLScalarVolumeNode)]
    if len(volumes) < 2:
        slicer.util.errorDisplay(
            _("{names} could not be loaded; check the connection to the Internet and try again.").format(
                names=", ".join(names)
            )
        )
        return volumes
    _show(*volumes[:2])
    return volumes


def _show(fixed: slicer.vtkMRMLVolumeNode, moving: slicer.vtkMRMLVolumeNode) -> None:
    slicer.util.setSliceViewerLayers(
        background=fixed, foreground=moving, foregroundOpacity=FOREGROUND_OPACITY, fit=True
    )


def _addVolume(pair: PhantomPair, side: str, name: str) -> slicer.vtkMRMLScalarVolumeNode:
    from . import Volumes

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    Volumes.fillVolume(node, Volumes.makeImage(getattr(pair, side)), getattr(pair, f"{side}_geometry"))
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevel(WINDOW_HU, LEVEL_HU)
    return node


def _addSegmentation(
    pair: PhantomPair, side: str, name: str, volume: slicer.vtkMRMLScalarVolumeNode
) -> slicer.vtkMRMLSegmentationNode:
    """Add the organs, to be shown as outlines."""
    from DeepAttentionRegEngine.phantom import anatomy

    from . import Volumes

    descriptions = {}
    for (value, organ), color in zip(anatomy.LABEL_NAMES.items(), COLORS, strict=True):
        descriptions[value] = slicer.vtkSegment()
        descriptions[value].SetName(organ)
        descriptions[value].SetColor(*(int(color[start : start + 2], 16) / 255 for start in (0, 2, 4)))
    labels, geometry = getattr(pair, f"{side}_labels"), getattr(pair, f"{side}_geometry")
    made = Volumes.makeSegmentation(labels, geometry, descriptions)
    node = Volumes.createSegmentation(made, _("{name} organs").format(name=name), volume)
    display = node.GetDisplayNode()
    display.SetVisibility2DFill(False)
    display.SetSliceIntersectionThickness(OUTLINE_PIXELS)
    display.SetVisibility(False)
    return node


def _addLandmarks(pointsLps: np.ndarray, name: str) -> slicer.vtkMRMLMarkupsFiducialNode:
    """Add points (N, 3) in LPS mm, hidden, because they are many."""
    from DeepAttentionRegEngine.volume.geometry import flip_lps_ras

    text = _("{name} landmarks").format(name=name)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", text)
    slicer.util.updateMarkupsControlPointsFromArray(node, flip_lps_ras(pointsLps))
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetVisibility(False)
    node.SetLocked(True)
    return node
