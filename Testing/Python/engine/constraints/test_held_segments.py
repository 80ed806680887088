"""Segments that keep their shape or volume, from their names to what is stored and told, on oblique uneven grids."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from DeepAttentionRegEngine import EngineError, Settings, register
from DeepAttentionRegEngine.constraints.held_segments import HeldSegments, missed
from DeepAttentionRegEngine.evidence.uncertainty import uncertainty
from DeepAttentionRegEngine.file_jobs import KeepGaussians
from DeepAttentionRegEngine.phantom.thorax import PhantomSettings, default_geometry, make_phantom
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegEngine.volume.segment_pairs import Segment
from DeepAttentionRegEngine.volume.segments import Segments
from engine_cases import blob_image, centered, positions, rotation

pytestmark = pytest.mark.torch

GRID = centered((40, 36, 24), (2.0, 2.5, 3.5), rotation(10, -20, 30))
FLAT = centered((48, 44, 1), (1.5, 2.0, 4.0), rotation(0, 0, 25))
QUICK = Settings(method="none", alignment="none", refinement_steps=15, similarity="mse", device="cpu")
grids = pytest.mark.parametrize("geometry", [GRID, FLAT], ids=["3d", "2d"])
BONES = {"Bone A": (14.0, 0.0, 0.0), "Bone B": (-14.0, 4.0, 0.0)}


def bones(geometry: Geometry, *, turned: float = 0.0, half: float = 6.0) -> tuple[np.ndarray, Segments]:
    """Return an image with two bones in soft tissue, turned against each other by degrees, and the bones."""
    places, labels = positions(geometry), np.zeros(geometry.shape, np.uint8)
    axes = np.reshape(geometry.direction, (3, 3))
    for number, (middle, degrees) in enumerate(zip(BONES.values(), (turned, -turned), strict=True), start=1):
        local = (places - axes @ middle) @ axes @ rotation(0, 0, degrees)
        labels[(np.abs(local) < (half, 12, 9)).all(-1)] = number
    image = 0.3 * blob_image(places) + 0.5 * (labels > 0)
    items = [Segment(name, number) for number, name in enumerate(BONES, start=1)]
    return image.astype(np.float32), Segments([labels], geometry, items)


def run(geometry: Geometry, sides: str = "both", **options: Any) -> Any:
    """Register turned bones; the bones are given on the fixed image, on the moving one, or on both."""
    (fixed, here), (moving, there) = bones(geometry), bones(geometry, turned=15.0)
    given = {"fixed_labels": here, "moving_labels": there}
    given = {name: labels for name, labels in given.items() if sides == "both" or name.startswith(sides)}
    return register((fixed, geometry), (moving, geometry), replace(QUICK, **options), **given)


class TestRigid:
    @grids
    @pytest.mark.parametrize("sides", ["both", "fixed", "moving"])
    def test_bones_turn_apart_as_bodies(self, geometry: Geometry, sides: str) -> None:
        found = run(geometry, sides, rigid="Bone *")
        told = found.measures["held_segments"]
        assert [one["name"] for one in told] == list(BONES)
        for one in told:
            assert one["bent_mm"] < 0.05
            assert abs(one["volume_change"]) < 0.002
            assert one["turned_deg"] == pytest.approx(15, abs=5)
        assert found.measures["jacobian"]["folds"] == 0
        assert "Moved as rigid bodies: Bone A, Bone B." in found.warnings
        if sides == "both":
            after, before = (found.measures[when]["dice"]["mean"] for when in ("after", "before"))
            assert after > before + 0.05

    @grids
    def test_without_refinement_they_are_rigid_too(self, geometry: Geometry) -> None:
        found = run(geometry, rigid="bone a; BONE B", refinement_steps=0)
        assert max(one["bent_mm"] for one in found.measures["held_segments"]) < 0.05

    def test_an_alignment_that_stretches_does_not_stretch_them(self) -> None:
        stretch = np.eye(4)
        stretch[0, 0] = 1.1
        (fixed, here), (moving, _there) = bones(GRID), bones(GRID, turned=15.0)
        settings = replace(QUICK, rigid="Bone A", volume_keeping="Bone B")
        found = register((fixed, GRID), (moving, GRID), settings, fixed_labels=here, initial=stretch)
        first, second = found.measures["held_segments"]
        assert first["bent_mm"] < 0.05
        assert abs(second["volume_change"]) < 0.002

    @grids
    def test_on_the_fixed_grid_even_two_that_touch_are_held(self, geometry: Geometry) -> None:
        (fixed, here), (moving, there) = (bones(geometry, turned=degrees, half=15.0) for degrees in (0.0, 15.0))
        given = {"fixed_labels": here, "moving_labels": there}
        settings = replace(QUICK, rigid="Bone A", volume_keeping="Bone B")
        images = (fixed, geometry), (moving, geometry)
        coarse, fine = (
            register(*images, replace(settings, transform_grid=grid), **given).measures["held_segments"]
            for grid in ("found", "fixed")
        )
        assert coarse[0]["bent_mm"] > 0.1
        assert fine[0]["bent_mm"] < 0.001
        assert abs(fine[1]["volume_change"]) < 0.001

    def test_learned_fields_and_landmarks_give_way(self) -> None:
        points = np.array([[14.0, 0, 0], [14, 6, 3], [-14, 4, 0], [20, -20, 10]])
        partners = points + np.array([[0, 0, 0], [3, 0, 0], [0, 0, 0], [0, 2, 0]])
        (fixed, here), (moving, _there) = bones(GRID), bones(GRID, turned=15.0)
        settings = replace(QUICK, method="rman", rigid="Bone *", guided=True)
        images, given = ((fixed, GRID), (moving, GRID)), {"fixed_points": points, "moving_points": partners}
        found = register(*images, settings, fixed_labels=here, **given)
        assert max(one["bent_mm"] for one in found.measures["held_segments"]) < 0.05


class TestVolumeKeeping:
    @grids
    def test_a_segment_that_shrinks_keeps_its_volume(self, geometry: Geometry) -> None:
        (fixed, here), (moving, there) = bones(geometry), bones(geometry)
        places = positions(geometry)
        near = np.linalg.norm(places - np.reshape(geometry.direction, (3, 3)) @ BONES["Bone A"], axis=-1) < 5
        moving = np.where((there.layers[0] == 1) & ~near, 0.3 * blob_image(places), moving).astype(np.float32)
        images, given = ((fixed, geometry), (moving, geometry)), {"fixed_labels": here}
        free, kept = (register(*images, replace(QUICK, volume_keeping=name), **given) for name in ("Bone B", "Bone A"))
        shrunk = HeldSegments.of(here, None, "", "Bone A").told(free.deformation)
        assert shrunk[0]["volume_change"] < -0.05
        assert abs(kept.measures["held_segments"][0]["volume_change"]) < 0.002
        assert kept.measures["jacobian"]["folds"] == 0


class TestPhantom:
    def test_spine_and_tumor_are_kept_and_landmarks_are_no_worse(self) -> None:
        geometry = default_geometry((56, 48, 56), (6.0, 5.0, 6.0))
        pair = make_phantom(geometry, settings=PhantomSettings(seed=3))
        points = {"fixed_points": pair.fixed_points_lps, "moving_points": pair.moving_points_lps}
        images = (pair.fixed, geometry), (pair.moving, pair.moving_geometry)
        sides = {"fixed": (pair.fixed_labels, geometry), "moving": (pair.moving_labels, pair.moving_geometry)}
        given = {**{f"{side}_labels": labels for side, labels in sides.items()}, **points}
        free, kept = (
            register(*images, replace(QUICK, rigid=spine, volume_keeping=tumor), **given)
            for spine, tumor in (("", ""), ("6", "8"))
        )
        spine, tumor = kept.measures["held_segments"]
        assert spine["bent_mm"] < 0.1
        assert abs(tumor["volume_change"]) < 0.01
        assert kept.measures["jacobian"]["folds"] == 0
        errors = [found.measures["after"]["tre_mm"]["mean"] for found in (free, kept)]
        assert errors[1] < errors[0] + 0.05


class TestNames:
    @pytest.mark.parametrize(("names", "sides"), [("Femur", "both"), ("Bone C", "fixed"), ("1", "moving")])
    def test_an_unknown_one_is_refused_with_those_that_are_there(self, names: str, sides: str) -> None:
        with pytest.raises(EngineError, match="no segment") as error:
            run(FLAT, sides, rigid=names)
        assert "Bone A, Bone B" in error.value.hint

    def test_without_segmentations_they_are_refused(self) -> None:
        image, _labels = bones(FLAT)
        with pytest.raises(EngineError, match="no segment") as error:
            register((image, FLAT), (image, FLAT), replace(QUICK, volume_keeping="Tumor"))
        assert "none" in error.value.hint

    def test_label_values_are_names_where_there_are_none(self) -> None:
        image, labels = bones(FLAT)
        given = {"fixed_labels": (labels.layers[0], FLAT)}
        found = register((image, FLAT), (image, FLAT), replace(QUICK, rigid="2"), **given)
        assert [one["name"] for one in found.measures["held_segments"]] == ["2"]

    def test_one_that_is_both_is_rigid(self) -> None:
        labels = bones(FLAT)[1]
        held = HeldSegments.of(labels, None, "Bone A", "*")
        assert held.sentence == "Moved as rigid bodies: Bone A. Kept their volume: Bone B."


class TestTold:
    def test_what_could_not_be_kept_is_said(self) -> None:
        told = [
            {"name": "a", "rigid": True, "bent_mm": 0.4, "volume_change": 0.0},
            {"name": "b", "rigid": False, "bent_mm": 0.0, "volume_change": -0.03},
            {"name": "c", "rigid": True},
            {"name": "d", "rigid": True, "bent_mm": 0.01, "volume_change": 0.0},
        ]
        text = " ".join(missed(told))
        assert "a (0.4 mm)" in text
        assert "b (-3.0 %)" in text
        assert "out of view to be held: c." in text
        assert "d" not in text.replace("held", "").replace("rigid", "").replace("grid", "").split()

    def test_an_empty_segment_does_no_harm(self) -> None:
        image, labels = bones(GRID)
        labels.items.append(Segment("Empty", 9))
        found = register((image, GRID), (image, GRID), replace(QUICK, rigid="Empty"), moving_labels=labels)
        assert any("out of view to be held: Empty" in warning for warning in found.warnings)

    def test_a_sequence_of_gaussians_says_that_it_cannot(self) -> None:
        (fixed, labels), (moving, _there) = bones(FLAT), bones(FLAT, turned=15.0)
        settings = replace(QUICK, method="r2n2", rigid="Bone A")
        images = (fixed, FLAT), (moving, FLAT)
        found = register(*images, settings, fixed_labels=labels, observer=KeepGaussians())
        assert any("can neither hold segments" in warning for warning in found.warnings)
        assert "held_segments" not in found.measures

    def test_samples_keep_them_too(self) -> None:
        inside = bones(GRID)[1].layers[0] == 1
        ragged = []
        for name in ("", "Bone A"):
            spread = uncertainty(run(GRID, rigid=name, samples=2, refinement_steps=3))
            bent = np.abs(np.diff(np.where(inside, spread, np.nan), 2, axis=2))
            ragged.append(np.nanmean(bent))
        assert ragged[1] < 0.5 * ragged[0]
