"""Pairs whose error is known: the truth holds, whatever was done to them, and each seed gives the same pair."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("scipy", reason="SciPy, which training needs, is not installed")

from DeepAttentionRegEngine.registration.deformation import StoredDeformation
from DeepAttentionRegEngine.registration.preprocess import Source, warp_volume
from training.calibration import pairs
from training.calibration.pairs import KnownPair, Recipe, draw
from training.data import motions
from training.data.painting import Chance

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")
# Faults that leave correspondence and contrast as they are.
MOVED = ("none", "out of reach", "turned", "flipped", "field of view cut", "too few steps")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw small pairs."""
    monkeypatch.setattr(pairs, "_sides", lambda nd, chance: (40, 44, 36)[:nd])


def chance(seed: int = 0) -> Chance:
    return Chance(np.random.default_rng(seed))


def agreement(pair: KnownPair) -> float:
    """Return the correlation of the fixed image and the moving one, moved by the truth, where both are seen."""
    truth = StoredDeformation(pair.truth, pair.geometry)
    moved = warp_volume(Source(pair.moving, pair.moving_geometry), truth, pair.geometry, CPU)
    whole = Source(np.ones_like(pair.moving), pair.moving_geometry)
    seen = warp_volume(whole, truth, pair.geometry, CPU) > 0.99
    inside = np.isfinite(pair.fixed) & seen & (moved > pair.moving.min() + 1e-3)
    if pair.lost is not None:
        inside &= ~pair.lost
    return float(np.corrcoef(pair.fixed[inside], moved[inside])[0, 1])


class TestTruth:
    @pytest.mark.parametrize("fault", MOVED)
    @pytest.mark.parametrize(("family", "nd"), [("shapes", 3), ("shapes", 2), ("thorax", 3), ("thorax", 2)])
    def test_leads_from_the_fixed_to_the_moving_image(self, family: str, nd: int, fault: str) -> None:
        # Noise, blur and shading are drawn anew on either image; motions that are wrong leave nothing in common.
        assert agreement(draw(Recipe(family, "smooth", fault, nd, 3))) > 0.75

    def test_of_another_body_is_not_known(self) -> None:
        assert draw(Recipe("shapes", "smooth", "another body", 3, 0)).truth is None

    def test_of_what_was_resected_is_lost(self) -> None:
        pair = draw(Recipe("thorax", "smooth", "resected", 3, 0))
        assert pair.lost is not None
        assert 0 < pair.lost.mean() < 0.2

    def test_artefact_and_other_modality_move_nothing(self) -> None:
        plain = draw(Recipe("shapes", "rough", "none", 3, 5))
        for fault in ("artefact", "other modality"):
            changed = draw(Recipe("shapes", "rough", fault, 3, 5))
            np.testing.assert_array_equal(changed.truth, plain.truth)
            assert not np.allclose(changed.moving, plain.moving)


class TestDrawing:
    def test_same_seed_gives_the_same_pair(self) -> None:
        recipe = Recipe("shapes", "growth", "resected", 3, 9)
        first, second = draw(recipe), draw(recipe)
        np.testing.assert_array_equal(first.fixed, second.fixed)
        np.testing.assert_array_equal(first.truth, second.truth)

    def test_other_seed_gives_another(self) -> None:
        recipe = Recipe("shapes", "growth", "none", 3, 9)
        assert not np.array_equal(draw(recipe).fixed, draw(replace(recipe, seed=10)).fixed)

    def test_cut_field_of_view_is_smaller(self) -> None:
        pair = draw(Recipe("shapes", "smooth", "field of view cut", 3, 0))
        assert pair.moving.size < 0.8 * pair.fixed.size


class TestMotion:
    @pytest.mark.parametrize("kind", motions.KINDS)
    @pytest.mark.parametrize("spatial", [(30, 34, 38), (50, 60)], ids=["volume", "slice"])
    def test_is_at_most_as_large_as_asked_for(self, kind: str, spatial: tuple[int, ...]) -> None:
        motion = motions.draw_motion(kind, spatial, 0.02, chance())
        assert motion.shape == (1, len(spatial), *spatial)
        size = float(motion.square().sum(1).mean().sqrt()) * len(spatial) / sum(spatial)
        assert 0.0 < size < 0.025

    def test_bodies_that_move_apart_are_rigid_within(self) -> None:
        motion = motions.draw_motion("articulated", (60, 60), 0.03, chance(2))[0]
        strain = [motion.diff(dim=axis)[axis - 1].abs() for axis in (1, 2)]
        assert all(float(part.median()) < 0.1 * float(part.max()) for part in strain)
