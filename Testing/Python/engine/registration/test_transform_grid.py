"""A deformation on the grid on which it is stored: what it covers, that it is what was found, and how fine it is."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from DeepAttentionRegEngine.protocol.settings import AS_FIXED, AS_FOUND
from DeepAttentionRegEngine.registration import transform_grid
from DeepAttentionRegEngine.registration.deformation import StoredDeformation
from DeepAttentionRegEngine.registration.preprocess import Source, WorkingPair, field_on, warp_volume
from DeepAttentionRegEngine.registration.transform_grid import BOUND_MM, DIGIT_MM, described, store
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegEngine.volume.images import to_sitk
from engine_cases import centered, rotation
from stored_cases import ALIGNMENT, points_within, waves, working_pair

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")
ROUNDED_MM = DIGIT_MM  # half of it by rounding, and what single precision costs at coordinates of 100 mm
FINE = centered((60, 50, 40), (1.0, 1.2, 1.5), rotation(20, -35, 50), (-31.5, 12.25, 88.0))
FLAT = 0.05  # of a working voxel: a peak at which hardly anything bends


def everywhere(pair: WorkingPair, displacement: torch.Tensor, points: np.ndarray) -> np.ndarray:
    """Return what was found at points, each the only voxel of a grid."""
    grids = (Geometry((1, 1, 1), (1.0, 1.0, 1.0), tuple(point), tuple(np.eye(3).ravel())) for point in points)
    return np.stack([field_on(displacement, pair, grid)[0, 0, 0] for grid in grids])


def itk_displacement(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint(point) for point in points.tolist()]) - points


class TestAsFound:
    def test_nodes_reach_half_a_voxel_beyond_the_volume(self, any_geometry: Geometry) -> None:
        pair = working_pair(any_geometry)
        grid = store(waves(pair, FLAT, 12), pair, any_geometry, AS_FOUND).geometry
        ends = grid.index_to_lps(np.array([[0, 0, 0], np.array(grid.size) - 1]))
        first, last = any_geometry.lps_to_index(ends)
        assert (first <= -1 + 1e-6).all()
        assert (last >= np.array(any_geometry.size) - 1e-6).all()

    def test_nodes_are_those_of_the_working_grid(self, any_geometry: Geometry) -> None:
        pair = working_pair(any_geometry)
        grid = store(waves(pair, FLAT, 12), pair, any_geometry, AS_FOUND).geometry
        index = pair.geometry.lps_to_index(grid.index_to_lps(np.indices(grid.size).reshape(3, -1).T))
        np.testing.assert_allclose(index, np.rint(index), atol=1e-6)
        np.testing.assert_allclose(sorted(grid.spacing), sorted(pair.geometry.spacing))

    def test_it_is_what_was_found_to_the_edges_of_the_outermost_voxels(self, any_geometry: Geometry) -> None:
        pair = working_pair(any_geometry)
        displacement = waves(pair, FLAT, 12)
        stored, points = store(displacement, pair, any_geometry, AS_FOUND), points_within(any_geometry)
        np.testing.assert_allclose(stored.at(points), everywhere(pair, displacement, points), atol=ROUNDED_MM)

    def test_alignment_alone_goes_on_beyond_the_volume(self, any_geometry: Geometry) -> None:
        pair = working_pair(any_geometry)
        stored = store(waves(pair, 0.0, 12), pair, any_geometry, AS_FOUND)
        points = points_within(any_geometry, 0.95)
        expected = points @ ALIGNMENT[:3, :3].T + ALIGNMENT[:3, 3] - points
        np.testing.assert_allclose(stored.at(points), expected, atol=ROUNDED_MM)

    def test_itk_maps_all_of_the_volume_alike(self, any_geometry: Geometry) -> None:
        pair = working_pair(any_geometry)
        stored, points = store(waves(pair, FLAT, 12), pair, any_geometry, AS_FOUND), points_within(any_geometry, 0.95)
        field = to_sitk(stored.displacement_lps_mm.astype(np.float64), stored.geometry)
        found = itk_displacement(sitk.DisplacementFieldTransform(field), points)
        np.testing.assert_allclose(found, stored.at(points), atol=1e-9)

    def test_warped_image_is_that_of_itk_to_the_border(self) -> None:
        pair = working_pair(FINE, 4000)
        stored = store(waves(pair, FLAT, 12), pair, FINE, AS_FOUND)
        image = np.random.default_rng(0).random((50, 60, 70), np.float32)
        moving = Geometry(
            (70, 60, 50), (1.5, 1.5, 1.5), tuple(FINE.index_to_lps(np.full((1, 3), -8.0))[0]), FINE.direction
        )
        ours = warp_volume(Source(image, moving), stored, FINE, CPU)
        field = to_sitk(stored.displacement_lps_mm.astype(np.float64), stored.geometry)
        reference = to_sitk(np.zeros(FINE.shape, np.float32), FINE)
        transform = sitk.DisplacementFieldTransform(field)
        theirs = sitk.Resample(to_sitk(image, moving), reference, transform, sitk.sitkLinear, float(image.min()))
        np.testing.assert_allclose(ours, sitk.GetArrayFromImage(theirs), atol=1e-4)

    @pytest.mark.parametrize(("choice", "encoding"), [(AS_FOUND, b"gzip"), (AS_FIXED, b"raw")])
    def test_file_is_compressed_where_it_shrinks(self, choice: str, encoding: bytes, tmp_path: Path) -> None:
        pair = working_pair(FINE, 4000)
        stored, path = store(waves(pair, FLAT, 12), pair, FINE, choice), tmp_path / "t.nrrd"
        images.write_displacement(path, stored.displacement_lps_mm, stored.geometry)
        assert b"encoding: " + encoding in path.read_bytes()[:1000]
        read, grid = images.read_displacement(path)
        np.testing.assert_array_equal(read, stored.displacement_lps_mm)
        assert grid.matches(stored.geometry)


class TestAsFine:
    def test_field_that_bends_gets_nodes_in_between(self) -> None:
        pair = working_pair(FINE, 1000)
        displacement = waves(pair, 0.08, 6)
        stored, points = store(displacement, pair, FINE, AS_FOUND), points_within(FINE)
        own = store(0 * displacement, pair, FINE, AS_FOUND).geometry
        factor = (stored.geometry.size[0] - 1) // (own.size[0] - 1)
        assert factor > 1
        assert stored.geometry.size == tuple((n - 1) * factor + 1 for n in own.size)
        assert stored.bound_mm <= BOUND_MM
        np.testing.assert_allclose(stored.at(points), everywhere(pair, displacement, points), atol=ROUNDED_MM)

    @pytest.mark.parametrize("choice", [AS_FOUND, AS_FIXED])
    def test_fixed_grid_holds_what_bends_too_much_or_if_it_is_asked_for(self, choice: str) -> None:
        pair = working_pair(FINE, 4000)
        displacement = waves(pair, 0.8 if choice == AS_FOUND else FLAT, 5)
        stored = store(displacement, pair, FINE, choice)
        assert stored.geometry is FINE
        np.testing.assert_array_equal(stored.displacement_lps_mm, field_on(displacement, pair, FINE))

    def test_grid_that_would_be_too_large_stays_as_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pair = working_pair(FINE, 4000)
        monkeypatch.setattr(transform_grid, "MOST_NODES", 10_000)
        stored, points = store(waves(pair, 0.8, 5), pair, FINE, AS_FOUND), points_within(FINE)
        assert stored.geometry.spacing == pytest.approx([pair.geometry.spacing[0]] * 3)
        np.testing.assert_allclose(stored.at(points), everywhere(pair, waves(pair, 0.8, 5), points), atol=ROUNDED_MM)
        assert described(stored)["bound_mm"] > BOUND_MM

    def test_description_is_of_what_is_stored(self) -> None:
        pair = working_pair(FINE, 4000)
        told = described(store(waves(pair, 0.0, 5), pair, FINE, AS_FIXED))
        assert (told["size"], told["spacing_mm"]) == (list(FINE.size), list(FINE.spacing))
        assert told["bound_mm"] == pytest.approx(0, abs=1e-4)


class TestStoredDeformation:
    def test_linear_map_is_exact_around_a_volume(self, any_geometry: Geometry) -> None:
        points = points_within(any_geometry, 1.0)
        found = StoredDeformation.linear(ALIGNMENT, any_geometry).at(points)
        np.testing.assert_allclose(found, points @ ALIGNMENT[:3, :3].T + ALIGNMENT[:3, 3] - points, atol=1e-5)

    def test_bound_of_a_parabola_is_what_cubic_interpolation_adds_half_way(self) -> None:
        grid = Geometry((9, 8, 7), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
        field = np.zeros((*grid.shape, 3), np.float32)
        field[..., 1] = 0.5 * np.arange(9) ** 2
        # A cubic through points of a parabola is the parabola, 1/8 of the second difference below the chord.
        assert StoredDeformation(field, grid).bound_mm == pytest.approx(1 / 8)

    def test_bound_is_found_slab_by_slab(self, any_geometry: Geometry, monkeypatch: pytest.MonkeyPatch) -> None:
        field = np.random.default_rng(0).normal(size=(*any_geometry.shape, 3)).astype(np.float32)
        whole = StoredDeformation(field, any_geometry).bound_mm
        monkeypatch.setattr("DeepAttentionRegEngine.volume.fields.CHUNK_VOXELS", 1)
        assert StoredDeformation(field, any_geometry).bound_mm == whole
