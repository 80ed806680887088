"""Segments of the user's steer a registration: in the place of what a network sees, or by their overlap."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from DeepAttentionRegEngine import EngineError, Settings, register
from DeepAttentionRegEngine.protocol.grid import REFINEMENT_ALONE
from DeepAttentionRegEngine.registration.evaluation import Reference
from DeepAttentionRegEngine.registration.guidance import Guidance, joined
from DeepAttentionRegEngine.registration.preprocess import Source, WorkingPair, prepare
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegEngine.volume.segment_pairs import Segment
from DeepAttentionRegEngine.volume.segments import Segments
from engine_cases import CPU, blob_source, centered, positions, rotation

pytestmark = pytest.mark.torch

GRID = centered((40, 36, 20), (2.0, 2.0, 3.5), rotation(10, -20, 30))
FLAT = centered((48, 44, 1), (1.5, 2.0, 4.0), rotation(0, 0, 25))
LEFT, RIGHT = np.array([-16.0, 2.0, 0.0]), np.array([17.0, -4.0, 0.0])
RADIUS = 11.0


def ball(geometry: Geometry, center: np.ndarray, radius: float = RADIUS) -> np.ndarray:
    """Return a label map of a ball."""
    return (np.linalg.norm(positions(geometry) - center, axis=-1) < radius).astype(np.uint8)


def segments(geometry: Geometry, shift: float = 0.0, **centers: np.ndarray) -> Segments:
    """Return balls by name, each in a layer of its own."""
    layers = [ball(geometry, center + np.array([0, shift, 0])) for center in centers.values()]
    return Segments(layers, geometry, [Segment(name, 1, layer) for layer, name in enumerate(centers)])


def working_pair(geometry: Geometry) -> WorkingPair:
    """Return an image and itself on the working grid."""
    source = blob_source(geometry)
    return prepare(source, Source(source.array, geometry), np.eye(4), REFINEMENT_ALONE, CPU)


def dull(geometry: Geometry) -> tuple[np.ndarray, Geometry]:
    """Return an image that shows nothing of what is segmented."""
    return ball(geometry, np.zeros(3), 30.0).astype(np.float32), geometry


class TestMasks:
    @pytest.mark.parametrize("geometry", [GRID, FLAT], ids=["3d", "2d"])
    def test_structures_that_nobody_segmented_stay_open(self, geometry: Geometry) -> None:
        view, drawn = working_pair(geometry), segments(geometry, Left=LEFT)
        fixed, moving = Guidance(drawn, None).known(view, ("right", "left "))
        assert bool(fixed[:, 0].isnan().all())
        assert bool(moving.isnan().all())
        assert fixed.shape == (1, 2, *view.fixed.shape[2:])
        # As many voxels as the segment has, in mm.
        expected = float(drawn.layers[0].sum()) * geometry.voxel_volume
        assert float(fixed[:, 1].sum()) * view.geometry.voxel_volume == pytest.approx(expected, rel=0.03)

    def test_mask_lies_where_the_segment_does(self) -> None:
        view = working_pair(GRID).at((10, 18, 20))
        fixed, moving = Guidance(segments(GRID, left=LEFT), segments(GRID, left=RIGHT)).known(view, ("left",))
        points = torch.from_numpy(positions(view.geometry)).float()
        for mask, center in ((fixed, LEFT), (moving, RIGHT)):
            found = (mask[0, 0, ..., None] * points).sum((0, 1, 2)) / mask.sum()
            np.testing.assert_allclose(found.numpy(), center, atol=0.5)

    def test_what_is_no_structure_stands_beside(self) -> None:
        view, both = working_pair(GRID), segments(GRID, left=LEFT, tumor=RIGHT)
        guidance = Guidance(both, both)
        fixed, moving = guidance.beside(view, ("Left",))
        assert fixed.shape[1] == 1
        assert torch.equal(fixed, moving)
        assert torch.equal(fixed, guidance.known(view, ("tumor",))[0])

    def test_nothing_is_known_of_other_names(self) -> None:
        view, both = working_pair(GRID), segments(GRID, left=LEFT)
        assert Guidance(both, both).known(view, ("liver",)) is None
        assert Guidance(both, both).beside(view, ("left",)) is None
        assert Guidance(both, None).beside(view, ()) is None

    def test_joined_masks_are_all(self) -> None:
        one, two = torch.zeros(1, 1, 4, 4), torch.ones(1, 2, 4, 4)
        assert joined(None, None) is None
        assert joined((one, one), None) == (one, one)
        assert joined((one, one), (two, two))[1].shape[1] == 3


class TestSteering:
    @staticmethod
    def run(geometry: Geometry, **options: Any) -> Any:
        settings = Settings(method="none", alignment="none", refinement_steps=20, device="cpu")
        labels = {"fixed_labels": segments(geometry, organ=LEFT), "moving_labels": segments(geometry, 5.0, organ=LEFT)}
        image = dull(geometry)
        return register(image, image, replace(settings, **options), **labels)

    @pytest.mark.parametrize("geometry", [GRID, FLAT], ids=["3d", "2d"])
    def test_segments_are_brought_to_overlap(self, geometry: Geometry) -> None:
        unsteered, steered = self.run(geometry), self.run(geometry, steered="*")
        before, after = (found.measures["after"]["dice"]["organ"] for found in (unsteered, steered))
        assert after > before + 0.1
        assert steered.measures["jacobian"]["folds"] == 0
        assert any("does not prove it right" in warning for warning in steered.warnings)

    def test_those_that_are_not_named_do_not_steer(self) -> None:
        with pytest.raises(EngineError, match="no segment 'rib' that could steer"):
            self.run(GRID, steered="Rib")
        named = self.run(GRID, steered="Org*")
        assert named.measures["after"]["dice"] == self.run(GRID, steered="*").measures["after"]["dice"]

    def test_the_pull_is_as_strong_as_it_is_chosen(self) -> None:
        dice = [
            self.run(GRID, steered="*", steering_weight=pull).measures["after"]["dice"]["organ"]
            for pull in (0.0, 0.05, 1.0)
        ]
        assert dice == sorted(dice)
        assert dice[0] == self.run(GRID).measures["after"]["dice"]["organ"] < dice[-1] - 0.1

    def test_nothing_to_steer_by_is_said(self) -> None:
        with pytest.raises(EngineError, match="could steer the registration"):
            register(dull(GRID), dull(GRID), Settings(method="none", alignment="none", steered="*"))

    def test_one_side_steers_only_a_network_that_knows_it(self) -> None:
        reference = Reference(fixed_labels=segments(GRID, left=LEFT))
        assert Guidance.of(reference, ("left",), "*").moving is None
        with pytest.raises(EngineError, match="could steer the registration"):
            Guidance.of(reference, (), "*")
