"""Segments that slide, through a whole registration on oblique uneven grids: landmarks, and what is told."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from DeepAttentionRegEngine import EngineError, Settings, register
from DeepAttentionRegEngine.deform.sliding import FINER, LAYER
from DeepAttentionRegEngine.evidence.uncertainty import uncertainty
from DeepAttentionRegEngine.file_jobs import KeepGaussians
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegEngine.volume.segment_pairs import Segment
from DeepAttentionRegEngine.volume.segments import Segments
from engine_cases import centered, positions, rotation

pytestmark = pytest.mark.torch

GRID = centered((48, 44, 30), (2.0, 2.2, 3.0), rotation(10, -20, 30))
FLAT = centered((64, 60, 1), (1.5, 1.8, 4.0), rotation(0, 0, 25))
QUICK = Settings(method="none", alignment="none", refinement_steps=20, device="cpu")
grids = pytest.mark.parametrize("geometry", [GRID, FLAT], ids=["3d", "2d"])
RADIUS, SHIFT = 22.0, 9.0


def waves(places: np.ndarray, phase: float) -> np.ndarray:
    """Return texture in [-1, 1] at places `(..., 3)` mm."""
    turned = places @ rotation(20, 35, 50)
    return np.sin(turned / (4.0, 5.0, 6.0) + phase).prod(-1) + 0.7 * np.sin(places / (7.0, 9.0, 11.0) + phase).prod(-1)


def lung(geometry: Geometry, shift: float) -> tuple[np.ndarray, Segments, np.ndarray]:
    """Return an image whose middle, a rod along the second axis, is shifted by mm; the rod; its direction."""
    places, along = positions(geometry), np.reshape(geometry.direction, (3, 3))[:, 1]
    radius = np.linalg.norm(places - (places @ along)[..., None] * along, axis=-1)
    inside = radius < RADIUS
    image = np.where(inside, 0.2 + 0.3 * waves(places - shift * along, 0.3), 0.8 + 0.3 * waves(places, 1.2))
    items = [Segment("Lung", 1)]
    return image.astype(np.float32), Segments([inside.astype(np.uint8)], geometry, items), along


def landmarks(geometry: Geometry, *, inside: bool) -> np.ndarray:
    """Return points `(N, 3)` LPS inside or outside of the rod, near its boundary but beyond the layer."""
    places, along = positions(geometry).reshape(-1, 3), np.reshape(geometry.direction, (3, 3))[:, 1]
    along_mm = places @ along
    radius = np.linalg.norm(places - along_mm[:, None] * along, axis=1)
    beyond = radius - RADIUS
    chosen = (beyond < -4) & (beyond > -12) if inside else (beyond > 6) & (beyond < 14)
    chosen &= np.abs(along_mm) < 28
    return places[np.random.default_rng(2).choice(np.flatnonzero(chosen), 40)]


def run(geometry: Geometry, **options: Any) -> Any:
    (fixed, labels, _along), (moving, *_) = lung(geometry, 0.0), lung(geometry, SHIFT)
    given = {"fixed_labels": labels} if options.get("sliding") else {}
    return register((fixed, geometry), (moving, geometry), replace(QUICK, **options), **given)


def error(found: Any, geometry: Geometry, *, inside: bool) -> float:
    points, along = landmarks(geometry, inside=inside), np.reshape(geometry.direction, (3, 3))[:, 1]
    return float(np.linalg.norm(found.deformation.at(points) - (SHIFT * along if inside else 0), axis=1).mean())


@grids
def test_landmarks_in_what_slides_are_found_and_those_around_it_stay(geometry: Geometry) -> None:
    smooth, sliding = run(geometry), run(geometry, sliding="lung")
    before, after = (error(found, geometry, inside=True) for found in (smooth, sliding))
    assert after < 0.5 * before
    around = [error(found, geometry, inside=False) for found in (smooth, sliding)]
    assert around[1] < around[0] + 0.1
    assert sliding.measures["jacobian"]["folds"] == 0
    assert any("may slide along Lung" in warning for warning in sliding.warnings)


@grids
def test_the_transform_is_as_fine_as_the_layer_that_it_holds(geometry: Geometry) -> None:
    spacing = run(geometry).search.pair.geometry.spacing[0]
    found = run(geometry, sliding="Lung")
    stored = found.measures["transform_grid"]["spacing_mm"]
    used = [step for step, length in zip(stored, geometry.size, strict=True) if length > 1]
    np.testing.assert_allclose(used, spacing / FINER, rtol=1e-5)
    layer = f"within a layer of {LAYER * spacing / FINER:.0f} mm"
    assert any(layer in warning for warning in found.warnings)
    on_fixed = run(geometry, sliding="Lung", transform_grid="fixed")
    assert on_fixed.deformation.geometry.size == geometry.size
    assert error(on_fixed, geometry, inside=True) < error(found, geometry, inside=True) + 0.3


@grids
def test_landmarks_are_met_where_segments_slide(geometry: Geometry) -> None:
    (fixed, labels, along), (moving, *_) = lung(geometry, 0.0), lung(geometry, SHIFT)
    places = landmarks(geometry, inside=True)[:12]
    partners = places + SHIFT * along
    settings = replace(QUICK, sliding="Lung", guided=True)
    points = {"fixed_points": places, "moving_points": partners}
    found = register((fixed, geometry), (moving, geometry), settings, fixed_labels=labels, **points)
    missed = np.linalg.norm(places + found.deformation.at(places) - partners, axis=1)
    assert missed.max() < 0.2
    assert found.measures["jacobian"]["folds"] == 0


@grids
def test_a_bone_beside_what_slides_stays_rigid_and_is_left_room(geometry: Geometry) -> None:
    (fixed, labels, along), (moving, *_) = lung(geometry, 0.0), lung(geometry, SHIFT)
    places = positions(geometry)
    radius = np.linalg.norm(places - (places @ along)[..., None] * along, axis=-1)
    bone = (radius >= RADIUS) & (radius < RADIUS + 6) & (places[..., 0] > 0)
    layers = [labels.layers[0], bone.astype(np.uint8)]
    both = Segments(layers, geometry, [Segment("Lung", 1), Segment("Bone", 1, 1)])
    settings = replace(QUICK, sliding="Lung", rigid="Bone")
    found = register((fixed, geometry), (moving, geometry), settings, fixed_labels=both)
    (held,) = found.measures["held_segments"]
    assert held["bent_mm"] < 0.1
    assert held["moved_mm"] < 1.0
    assert found.measures["jacobian"]["folds"] == 0
    smooth = run(geometry)
    assert error(found, geometry, inside=True) < 0.5 * error(smooth, geometry, inside=True)


def test_samples_slide_too() -> None:
    found = run(FLAT, sliding="lung", samples=3)
    spread = uncertainty(found)
    assert float(np.median(spread)) < 2


def test_a_segment_that_the_fixed_image_lacks_is_refused() -> None:
    image, labels, _along = lung(FLAT, 0.0)
    for given in ({"moving_labels": labels}, {}):
        with pytest.raises(EngineError, match="no segment 'lung' that could slide"):
            register((image, FLAT), (image, FLAT), replace(QUICK, sliding="Lung"), **given)


def test_a_sequence_of_gaussians_says_that_it_cannot() -> None:
    (fixed, labels, _along), (moving, *_) = lung(FLAT, 0.0), lung(FLAT, 3.0)
    settings = replace(QUICK, method="r2n2", sliding="Lung")
    given = {"fixed_labels": labels, "observer": KeepGaussians()}
    found = register((fixed, FLAT), (moving, FLAT), settings, **given)
    assert any("nor let them slide" in warning for warning in found.warnings)
