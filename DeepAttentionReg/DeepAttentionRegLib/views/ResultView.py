"""The outcome of a registration in Slicer's views, where it stays."""

import slicer

from ..nodes import Structures
from ..tasks.Results import WARPED_ATTRIBUTE, Outcome
from . import Layers

FOREGROUND_OPACITY = 0.5


def show(outcome: Outcome) -> None:
    """Show the warped over the fixed volume in all slice views, and no longer what was warped before."""
    transform = outcome.transformNode
    slicer.util.setSliceViewerLayers(
        background=transform.GetNodeReference(transform.GetFixedNodeReferenceRole()),
        foreground=outcome.warpedVolumeNode,
        foregroundOpacity=FOREGROUND_OPACITY,
        fit=True,
    )
    Layers.tellLegends()
    shown = outcome.warpedSegmentationNode, outcome.structureNodes.get(Structures.WARPED)
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        isFormer = node.GetAttribute(WARPED_ATTRIBUTE) and all(node is not other for other in shown)
        if isFormer and node.GetDisplayNode() is not None:
            node.GetDisplayNode().SetVisibility(False)
