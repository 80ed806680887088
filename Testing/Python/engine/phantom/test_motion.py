"""The thorax whose organs slide: a wall at rest, a cavity that keeps its shape, a tumor that moves as a body."""

import numpy as np
import pytest

from DeepAttentionRegEngine.phantom.anatomy import LABEL_NAMES, REFERENCE_HALF_MM, labels_of, shapes_at, to_cavity
from DeepAttentionRegEngine.phantom.motion import breathe, slide
from DeepAttentionRegEngine.phantom.thorax import PhantomSettings, default_geometry, make_phantom

AMPLITUDE = 0.07
LABEL = {name: value for value, name in LABEL_NAMES.items()}


@pytest.fixture(scope="module")
def places() -> np.ndarray:
    """Positions (3, N) all over the body, reference mm."""
    return np.random.default_rng(0).uniform(-1, 1, (60000, 3)).T * REFERENCE_HALF_MM[:, None]


def labels_before(places: np.ndarray) -> np.ndarray:
    """Return what the fixed image shows at some positions."""
    return labels_of(shapes_at(places + slide(places, AMPLITUDE)))


class TestSlide:
    def test_what_slides_stays_in_the_cavity(self, places: np.ndarray) -> None:
        there = places + slide(places, AMPLITUDE)
        inside, after = to_cavity(places) < 0, to_cavity(there) < 1e-6
        assert np.array_equal(inside, after & inside)
        assert not (after & ~inside).any()

    def test_cross_sections_reach_the_wall_as_far_as_before(self, places: np.ndarray) -> None:
        near = places[:, np.abs(to_cavity(places)) < 1.0]
        inside = near[:, (to_cavity(near) < 0) & (np.abs(near[2]) < 110)]
        assert np.abs(to_cavity(inside + slide(inside, AMPLITUDE))).max() < 1.5

    @pytest.mark.parametrize("name", ["Spine", "Ribs and sternum"])
    def test_bones_rest(self, places: np.ndarray, name: str) -> None:
        bones = labels_before(places) == LABEL[name]
        assert bones.sum() > 100
        assert not slide(places, AMPLITUDE)[:, bones].any()

    def test_tumor_moves_as_a_body(self, places: np.ndarray) -> None:
        around = np.random.default_rng(1).uniform(-40, 40, (20000, 3)).T + np.array([[-76.0], [4.0], [-15.0]])
        tumor = slide(around, AMPLITUDE)[:, labels_before(around) == LABEL["Tumor"]]
        assert tumor.shape[1] > 100
        assert np.ptp(tumor, axis=1).max() < 1e-6
        assert tumor[2, 0] > 10

    def test_motion_jumps_at_the_wall_and_nowhere_inside(self, places: np.ndarray) -> None:
        step = np.array([[0.5], [0.0], [0.0]])
        jump = np.abs(slide(places + step, AMPLITUDE) - slide(places, AMPLITUDE)).max(0)
        crosses = (to_cavity(places + step) < 0) != (to_cavity(places) < 0)
        assert jump[crosses].max() > 10
        assert jump[~crosses].max() < 1.0


def test_usual_motion_has_no_jump(places: np.ndarray) -> None:
    step = np.array([[0.5], [0.0], [0.0]])
    assert np.abs(breathe(places + step, AMPLITUDE) - breathe(places, AMPLITUDE)).max() < 1.0


def test_settings_choose_it() -> None:
    grid = default_geometry((24, 20, 24), (14.0, 12.0, 14.0))
    pairs = [make_phantom(grid, settings=PhantomSettings(sliding=sliding)) for sliding in (False, True)]
    assert np.array_equal(pairs[0].moving_labels, pairs[1].moving_labels)
    assert not np.array_equal(pairs[0].displacement_lps_mm, pairs[1].displacement_lps_mm)
