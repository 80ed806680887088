"""Landmarks that are wrong or exchanged among many that are right."""

import numpy as np
import pytest

from DeepAttentionRegEngine.landmarks.contradictions import contradictions

EXTENT = 200.0


def moved(seed: int, count: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Return landmarks and how they move: an affine map, a smooth wave, half a millimetre of noise."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-90, 90, (count, 3))
    vectors = points @ rng.normal(0, 0.04, (3, 3)) + 5 * np.sin(points / 60 + seed) + rng.normal(0, 0.5, (count, 3))
    return points, vectors + np.array([5.0, 20.0, -8.0])


@pytest.mark.parametrize("seed", range(5))
class TestContradictions:
    def test_right_landmarks_contradict_nobody(self, seed: int) -> None:
        assert contradictions(*moved(seed), EXTENT) == []

    def test_a_wrong_one_is_named(self, seed: int) -> None:
        points, vectors = moved(seed)
        vectors[6] += [0.0, 25.0, 0.0]
        (found,) = contradictions(points, vectors, EXTENT)
        assert (found.number, found.partner) == (7, None)
        assert found.error_mm == pytest.approx(25, abs=8)
        assert found.sentence.startswith("Landmark 7 contradicts its neighbours by")

    def test_three_wrong_ones_among_thirty_are_named(self, seed: int) -> None:
        points, vectors = moved(seed)
        for index, axis in ((3, 0), (11, 1), (25, 2)):
            vectors[index, axis] += 40
        assert {one.number for one in contradictions(points, vectors, EXTENT)} == {4, 12, 26}

    def test_exchanged_ones_are_named_together(self, seed: int) -> None:
        points, vectors = moved(seed)
        partners = points + vectors
        partners[[2, 8]] = partners[[8, 2]]
        (found,) = contradictions(points, partners - points, EXTENT)
        assert (found.number, found.partner) == (3, 9)
        assert found.sentence.startswith("Landmarks 3 and 9 seem to be exchanged")


def test_few_landmarks_are_believed() -> None:
    points, vectors = moved(0, count=4)
    vectors[1] += 50
    assert contradictions(points, vectors, EXTENT) == []


class TestForeseen:
    def test_one_that_slides_is_believed_and_a_wrong_one_is_not(self) -> None:
        rng = np.random.default_rng(3)
        points = rng.uniform(0, 200, (20, 3))
        vectors = np.tile([10.0, 0.0, 0.0], (20, 1)) + rng.normal(0, 0.3, (20, 3))
        vectors[4] -= [25.0, 0.0, 0.0]  # it lies beside the sliding lung, which the images know, too
        foreseen = vectors + rng.normal(0, 0.2, (20, 3))
        vectors[9] += [0.0, 30.0, 0.0]
        assert {one.number for one in contradictions(points, vectors, 300.0)} == {5, 10}
        assert [one.number for one in contradictions(points, vectors, 300.0, foreseen)] == [10]

    def test_images_that_are_out_of_reach_are_not_asked(self) -> None:
        points, vectors = moved(0)
        vectors[7] += [0.0, 40.0, 0.0]
        foreseen = np.random.default_rng(1).normal(0, 20, points.shape)
        told = contradictions(points, vectors, EXTENT, foreseen)
        assert told == contradictions(points, vectors, EXTENT)
        assert [one.number for one in told] == [8]
