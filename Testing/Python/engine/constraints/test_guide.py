"""Landmarks guide a registration: far motions, single slices, tolerances, wrong ones, and what is told of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from DeepAttentionRegEngine import EngineError, Settings, register
from DeepAttentionRegEngine.deform.pairs import Landmarks
from DeepAttentionRegEngine.evidence.uncertainty import measure_spread
from DeepAttentionRegEngine.protocol.reporting import Reporter
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegEngine.volume.metrics import target_registration_error
from engine_cases import blob_image, centered, moved_grid, positions, rotation

pytestmark = pytest.mark.torch

GRID = centered((40, 36, 24), (2.0, 2.5, 3.5), rotation(10, -20, 30))
FLAT = centered((48, 44, 1), (1.5, 2.0, 4.0), rotation(0, 0, 25))
grids = pytest.mark.parametrize("geometry", [GRID, FLAT], ids=["3d", "2d"])


def landmarks(geometry: Geometry, count: int = 12) -> np.ndarray:
    """Return points `(N, 3)` LPS within the image."""
    places = positions(geometry).reshape(-1, 3)
    inside = np.flatnonzero(np.linalg.norm(places, axis=1) < 28)
    return places[np.random.default_rng(4).choice(inside, count, replace=False)]


class TestGuided:
    @staticmethod
    def shifted(geometry: Geometry, by_mm: float) -> tuple[Geometry, np.ndarray]:
        """Return the grid of the same image at another place, along its first axis, and that shift."""
        shift = np.reshape(geometry.direction, (3, 3))[:, 0] * by_mm
        matrix = np.eye(4)
        matrix[:3, 3] = shift
        return moved_grid(geometry, matrix), shift

    def run(self, geometry: Geometry, shift_mm: float = 45.0, wrong: float = 0.0, **options: Any) -> Any:
        """Register an image to itself at another place, and return the result with landmarks and their partners."""
        array = blob_image(positions(geometry)).astype(np.float32)
        there, shift = self.shifted(geometry, shift_mm)
        points = landmarks(geometry)
        partners = points + shift
        partners[4] += wrong * np.reshape(geometry.direction, (3, 3))[:, 1]
        settings = Settings(method="none", alignment="none", refinement_steps=10, device="cpu", guided=True)
        given = {"fixed_points": points, "moving_points": partners}
        return register((array, geometry), (array, there), replace(settings, **options), **given), points, partners

    @staticmethod
    def errors(found: Any, points: np.ndarray, partners: np.ndarray) -> np.ndarray:
        deformation = found.deformation
        return target_registration_error(points, partners, deformation.displacement_lps_mm, deformation.geometry)

    @grids
    def test_far_motion_is_found(self, geometry: Geometry) -> None:
        found, points, partners = self.run(geometry)
        lost = self.run(geometry, guided=False)[0]
        assert self.errors(lost, points, partners).mean() > 20
        assert self.errors(found, points, partners).max() < 0.3
        # Elsewhere, too: the whole image moved.
        others = landmarks(geometry, 60)
        assert self.errors(found, others, others + partners[0] - points[0]).mean() < 2
        assert found.measures["jacobian"]["folds"] == 0

    @grids
    def test_without_refinement_they_still_guide(self, geometry: Geometry) -> None:
        found, points, partners = self.run(geometry, refinement_steps=0)
        assert self.errors(found, points, partners).max() < 0.3

    def test_tolerance_leaves_them_room_and_no_more(self) -> None:
        found, points, partners = self.run(GRID, landmark_tolerance=3.0)
        assert self.errors(found, points, partners).max() < 3.2

    def test_a_wrong_one_is_told_and_does_not_guide(self) -> None:
        found, points, partners = self.run(GRID, wrong=40.0)
        assert any(warning.startswith("Landmark 5 contradicts") for warning in found.warnings)
        errors = self.errors(found, points, partners)
        assert errors[4] > 30
        assert np.delete(errors, 4).max() < 0.3
        assert found.measures["landmarks"]["guided"] == 11

    def test_what_guided_does_not_measure(self) -> None:
        found = self.run(GRID)[0]
        assert "tre_mm" in found.measures["before"]
        assert "tre_mm" not in found.measures["after"]
        assert found.measures["landmarks"]["left_out_mm"]["mean"] < 1
        assert any("does not measure it" in warning for warning in found.warnings)

    def test_a_single_one_guides_and_nothing_foretells_it(self) -> None:
        array, point = blob_image(positions(GRID)).astype(np.float32), landmarks(GRID, 1)
        settings = Settings(method="none", alignment="none", refinement_steps=5, device="cpu", guided=True)
        found = register((array, GRID), (array, GRID), settings, fixed_points=point, moving_points=point + 4)
        assert self.errors(found, point, point + 4).max() < 0.3
        assert found.measures["landmarks"]["left_out_mm"] is None
        assert not any("foretold" in warning for warning in found.warnings)

    def test_samples_are_guided_too(self) -> None:
        found = self.run(GRID, samples=3)[0]
        places = tuple(np.round(found.deformation.geometry.lps_to_index(landmarks(GRID))).astype(int).T[::-1])
        spread = measure_spread(found, Reporter()).millimetres()
        # The changed images are bent by up to 6 mm, their landmarks with them.
        assert spread[places].max() < 1.5

    def test_no_landmarks_are_refused(self) -> None:
        image = np.ones((8, 8, 8), np.float32), centered((8, 8, 8), (1.0, 1.0, 1.0))
        array = np.random.default_rng(0).random((8, 8, 8), np.float32)
        with pytest.raises(EngineError, match="no landmarks that could guide"):
            register((array, image[1]), (array, image[1]), Settings(method="none", alignment="none", guided=True))

    def test_one_point_may_be_missed_by_more_than_the_others(self, tmp_path: Path) -> None:
        array = blob_image(positions(GRID)).astype(np.float32)
        points = np.array([[20.0, 15, 10], [-20, 15, 10], [20, -15, -10], [-20, -15, 10], [0, 0, 0]])
        files = [str(tmp_path / f"{side}.csv") for side in ("fixed", "moving")]
        images.write_points(files[0], points, ["tolerance 2.5 mm", "", "", "", ""])
        images.write_points(files[1], points + np.array([0.0, 0.0, 4.0]))  # the images say that nothing has moved
        settings = Settings(method="none", alignment="none", refinement_steps=60, device="cpu", guided=True)
        given = {"fixed_points": files[0], "moving_points": files[1]}
        found = register((array, GRID), (array, GRID), settings, **given)
        errors = self.errors(found, points, points + np.array([0.0, 0.0, 4.0]))
        assert errors[0] == pytest.approx(2.5, abs=0.3)
        assert errors[1:].max() < 0.2
        assert found.measures["landmarks"]["tolerance_mm"] == pytest.approx(2.5)

    def test_a_curve_guides_as_points_do(self, tmp_path: Path) -> None:
        array = blob_image(positions(GRID)).astype(np.float32)
        there, shift = self.shifted(GRID, 30.0)
        along = np.linspace(-20, 20, 6)[:, None] * [[0.8, 0.5, 0.3]]
        files = [str(tmp_path / f"{side}.mrk.json") for side in ("fixed", "moving")]
        images.write_curve(files[0], along, closed=False)
        images.write_curve(files[1], along[::-1] + shift, closed=False)
        settings = Settings(method="none", alignment="none", refinement_steps=5, device="cpu", guided=True)
        given = {"fixed_points": files[0], "moving_points": files[1]}
        found = register((array, GRID), (array, there), settings, **given)
        assert self.errors(found, along, along + shift).max() < 0.5


@pytest.mark.parametrize("spatial", [(20, 26), (12, 16, 14)])
def test_what_is_missed_does_not_depend_on_the_grid(spatial: tuple[int, ...]) -> None:
    nd = len(spatial)
    places = torch.full((1, nd), 5.0)
    found = Landmarks(places, places + 2, spatial, torch.full((1,), 0.5))
    for factor in (1, 2):
        coarse = [n // factor for n in spatial]
        moved = torch.ones(1, nd, *coarse) / factor  # a voxel of the landmarks' grid
        torch.testing.assert_close(found.missed(moved), torch.ones(1, nd))
        assert float(found.distance(moved)) == pytest.approx((nd**0.5 - 0.5) ** 2, rel=1e-4)
