"""Fields through scattered displacements: where they pass, what they continue, and the errors of leaving one out."""

import numpy as np
import pytest

from DeepAttentionRegEngine.landmarks.interpolation import Interpolation, interpolate

EXTENT = 200.0


def scattered(nd: int, count: int = 25) -> np.ndarray:
    """Return points in the middle of the extent."""
    return np.random.default_rng(nd).uniform(-80, 80, (count, nd))


def waves(points: np.ndarray) -> np.ndarray:
    """Return a smooth field."""
    return 6 * np.sin(points[:, ::-1] / 60 + 1)


@pytest.mark.parametrize("nd", [2, 3])
class TestInterpolation:
    @pytest.mark.parametrize("trend", ["none", "shift", "affine"])
    def test_field_passes_through_the_points(self, nd: int, trend: str) -> None:
        points = scattered(nd)
        field = Interpolation(points, waves(points), trend, 30.0)
        np.testing.assert_allclose(field.at(points), waves(points), atol=0.1)

    def test_affine_trend_continues_an_affine_map(self, nd: int) -> None:
        points, far = scattered(nd), np.full((1, nd), 500.0)
        matrix = np.random.default_rng(0).normal(0, 0.1, (nd, nd))
        field = Interpolation(points, points @ matrix + 4, "affine", 30.0)
        np.testing.assert_allclose(field.at(far), far @ matrix + 4, atol=1e-3)

    def test_without_a_trend_nothing_moves_far_away(self, nd: int) -> None:
        field = Interpolation(np.zeros((1, nd)), np.full((1, nd), 7.0), "none", 10.0)
        np.testing.assert_allclose(field.at(np.full((1, nd), 90.0)), 0, atol=1e-6)

    @pytest.mark.parametrize("trend", ["none", "shift", "affine"])
    def test_left_out_is_what_the_others_foretell(self, nd: int, trend: str) -> None:
        points = scattered(nd)
        vectors = waves(points)
        field = Interpolation(points, vectors, trend, 40.0)
        for index in (0, 7):
            others = np.arange(len(points)) != index
            rest = Interpolation(points[others], vectors[others], trend, 40.0)
            # The trend's unit is the reach, its origin the middle of the points; neither changes what it can explain.
            expected = vectors[index] - rest.at(points[index : index + 1])[0]
            np.testing.assert_allclose(field.left_out[index], expected, atol=1e-6)

    def test_chosen_field_foretells_what_lies_between(self, nd: int) -> None:
        points, between = scattered(nd, 60), scattered(nd + 10, 40)[:, :nd] * 0.7
        found = interpolate(points, waves(points), EXTENT).at(between)
        assert np.linalg.norm(found - waves(between), axis=1).mean() < 0.8

    @pytest.mark.parametrize("trend", ["none", "shift", "affine"])
    def test_grid_is_what_its_places_are(self, nd: int, trend: str) -> None:
        field = Interpolation(scattered(nd), waves(scattered(nd)), trend, 30.0)
        axes = [np.linspace(-50, 70, n) for n in (5, 7, 4)[:nd]]
        places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, nd)
        np.testing.assert_allclose(field.on_grid(axes).reshape(nd, -1).T, field.at(places), atol=1e-9)

    def test_one_point_moves_its_surroundings(self, nd: int) -> None:
        field = interpolate(np.zeros((1, nd)), np.full((1, nd), 5.0), EXTENT)
        assert field.trend == "none"
        np.testing.assert_allclose(field.at(np.zeros((1, nd))), 5, atol=0.01)

    def test_points_that_coincide_do_no_harm(self, nd: int) -> None:
        points = np.repeat(scattered(nd, 6), 2, axis=0)
        field = interpolate(points, waves(points), EXTENT)
        np.testing.assert_allclose(field.at(points), waves(points), atol=0.2)
