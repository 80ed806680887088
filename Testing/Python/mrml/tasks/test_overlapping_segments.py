"""Segments that overlap, registered in the scene by the engine itself: each comes out as if it were alone."""

import sys
from dataclasses import replace

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)
pytest.importorskip("torch", reason="PyTorch is not installed")

from vtk.util.numpy_support import vtk_to_numpy

import mrml_scene
from DeepAttentionRegEngine.phantom import thorax
from DeepAttentionRegEngine.protocol.settings import Settings
from DeepAttentionRegLib.engine.Engine import Engine
from DeepAttentionRegLib.nodes import Metrics, Volumes
from DeepAttentionRegLib.nodes.InputNodes import InputNodes
from DeepAttentionRegLib.tasks import Registration, Results
from DeepAttentionRegLib.tasks.Request import Request
from inspection_cases import add_segments

pytestmark = [pytest.mark.mrml, pytest.mark.torch, pytest.mark.slow, pytest.mark.usefixtures("scene")]

QUICK = Settings(method="none", refinement_steps=3, device="cpu")
ORGANS = {"Liver": 5, "Heart": 4}


@pytest.fixture
def pair() -> thorax.PhantomPair:
    return thorax.make_phantom(thorax.default_geometry((32, 28, 32), (10, 9, 10)))


def masks_of(labels: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {name: labels == ORGANS[name] if name in ORGANS else labels > 0 for name in names}


def volumes_of(pair: thorax.PhantomPair) -> list[slicer.vtkMRMLScalarVolumeNode]:
    return [
        mrml_scene.add_volume(getattr(pair, side), getattr(pair, f"{side}_geometry"), side)
        for side in ("fixed", "moving")
    ]


def register(volumes: list, segmentations: list, **options: str) -> Results.Outcome:
    inputs = InputNodes(*volumes, fixedSegmentation=segmentations[0], movingSegmentation=segmentations[1])
    request = Request(inputs, replace(QUICK, **options))
    registration = Registration.PairRegistration(request, engine=Engine(sys.executable))
    registration.start()
    return registration.wait()


def register_masks(pair: thorax.PhantomPair, names: tuple[str, ...]) -> Results.Outcome:
    volumes = volumes_of(pair)
    labels = (pair.fixed_labels, pair.moving_labels)
    nodes = [
        add_segments(volume, masks_of(array, names), volume.GetName() + " organs")
        for volume, array in zip(volumes, labels, strict=True)
    ]
    return register(volumes, nodes)


def dice_of(outcome: Results.Outcome) -> dict[str, tuple[float, float]]:
    rows = Metrics.rowsOf(outcome.tableNode)
    return {row["Structure"]: (row["Before"], row["After"]) for row in rows if row["Measure"] == "Dice overlap"}


def voxels_of(outcome: Results.Outcome) -> dict[str, int]:
    segmentation, found = outcome.warpedSegmentationNode.GetSegmentation(), {}
    for segment in map(segmentation.GetNthSegment, range(segmentation.GetNumberOfSegments())):
        labels = vtk_to_numpy(segment.GetRepresentation(Volumes.BINARY_LABELMAP).GetPointData().GetScalars())
        found[segment.GetName()] = int((labels == segment.GetLabelValue()).sum())
    return found


def test_organs_come_out_alike_whether_the_body_around_them_is_a_segment_or_not(pair):
    alone, overlapped = (register_masks(pair, names) for names in (("Liver", "Heart"), ("Liver", "Heart", "Body")))
    assert {name: dice_of(overlapped)[name] for name in ORGANS} == {name: dice_of(alone)[name] for name in ORGANS}
    assert {name: voxels_of(overlapped)[name] for name in ORGANS} == voxels_of(alone)
    assert voxels_of(overlapped)["Body"] > sum(voxels_of(alone).values()) > 0
    assert dice_of(overlapped)["Liver"][1] > 0.5


def test_segments_drawn_in_another_order_are_the_same(pair):
    first, second = (register_masks(pair, names) for names in (("Body", "Liver"), ("Liver", "Body")))
    assert dice_of(first) == dice_of(second)
    assert voxels_of(first) == voxels_of(second)


def add_labels(pair: thorax.PhantomPair, values: dict[str, int]) -> slicer.vtkMRMLLabelMapVolumeNode:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Fixed labels")
    array = sum(value * (pair.fixed_labels == ORGANS[name]) for name, value in values.items()).astype(np.uint8)
    Volumes.fillVolume(node, Volumes.makeImage(array), pair.fixed_geometry)
    node.CreateDefaultDisplayNodes()
    return node


def test_label_map_against_layers_of_one_value_is_refused(pair):
    volumes = volumes_of(pair)
    moving = add_segments(volumes[1], masks_of(pair.moving_labels, ("Liver", "Heart")))
    with pytest.raises(RuntimeError, match=r"No segment of the fixed image \(1, 2\).*\(Liver, Heart\)"):
        register(volumes, [add_labels(pair, {"Liver": 1, "Heart": 2}), moving])


def test_label_map_against_layers_of_its_values_is_paired_by_them(pair):
    volumes = volumes_of(pair)
    moving = add_segments(volumes[1], masks_of(pair.moving_labels, ("Liver", "Heart")))
    segments = moving.GetSegmentation()
    for name, value in (("Liver", 1), ("Heart", 2)):
        image = segments.GetSegment(name).GetRepresentation(Volumes.BINARY_LABELMAP)
        vtk_to_numpy(image.GetPointData().GetScalars())[:] *= value
        segments.GetSegment(name).SetLabelValue(value)
    outcome = register(volumes, [add_labels(pair, {"Liver": 1, "Heart": 2}), moving])
    wanted = dice_of(register_masks(pair, ("Liver", "Heart")))
    assert {name: dice_of(outcome)[name] for name in ORGANS} == {name: wanted[name] for name in ORGANS}
    assert "Paired by label value, not by name: 1 with Liver, 2 with Heart." in outcome.result.warnings


def test_segments_of_one_segmentation_alone_can_be_held(pair):
    volumes = volumes_of(pair)
    node = add_segments(volumes[0], masks_of(pair.fixed_labels, ("Liver", "Heart")), "organs")
    outcome = register(volumes, [node, None], rigid="hea*")
    rows = {(row["Measure"], row["Structure"]): row["After"] for row in Metrics.rowsOf(outcome.tableNode)}
    assert rows["Held segment, bent by at most", "Heart"] < 0.1
    assert abs(rows["Held segment, change of volume", "Heart"]) < 1
    assert any("rigid bodies: Heart" in warning for warning in outcome.result.warnings)


def test_names_that_no_segment_has_are_told_before_anything_runs(pair):
    volumes = volumes_of(pair)
    node = add_segments(volumes[0], masks_of(pair.fixed_labels, ("Liver", "Heart")), "organs")
    inputs = InputNodes(*volumes, fixedSegmentation=node)
    assert Registration.checkAll(Request(inputs, replace(QUICK, rigid="Liver"))) == []
    problems = Registration.checkAll(Request(inputs, replace(QUICK, volume_keeping="Heart; Femur")))
    assert problems == ["There is no segment femur; there are: Liver, Heart."]
