"""A deformation on the grid on which it is stored: what it covers, that it is what was found, and how fine it is."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from DeepAttentionRegEngine.protocol.grid import GridPolicy
from DeepAttentionRegEngine.protocol.settings import AS_FIXED, AS_FOUND, Settings
from DeepAttentionRegEngine.registration import registrar as registrar_module
from DeepAttentionRegEngine.registration import transform_grid
from DeepAttentionRegEngine.registration.deformation import StoredDeformation
from DeepAttentionRegEngine.registration.method_run import Observer
from DeepAttentionRegEngine.registration.preprocess import Source, WorkingPair, field_on, warp_volume
from DeepAttentionRegEngine.registration.registered import Registered
from DeepAttentionRegEngine.registration.registrar import Registrar
from DeepAttentionRegEngine.registration.search import Search
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


POINTS = points_within(FINE, -3.0)


def registered(choice: str) -> Registered:
    """Register a volume with itself, bent a little on a grid that is coarser than its own."""
    image = np.random.default_rng(0).random(FINE.shape, np.float32)
    labels = (image > 0.5).astype(np.uint8)
    given = {"fixed_labels": (labels, FINE), "moving_labels": (labels, FINE), "initial": ALIGNMENT}
    settings = Settings(method="none", alignment="none", refinement_steps=0, device="cpu", transform_grid=choice)
    registrar = Registrar(settings)

    def bend(search: Search, _observer: Observer) -> None:
        search.displacement = waves(search.pair, FLAT, 12)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registrar_module, "REFINEMENT_ALONE", GridPolicy(minimum_size=4, maximum_voxels=4000))
        patch.setattr(registrar, "find", bend)
        return registrar.register((image, FINE), (image, FINE), fixed_points=POINTS, moving_points=POINTS, **given)


@pytest.fixture(scope="module")
def found() -> Registered:
    return registered(AS_FOUND)


class TestRegistration:
    """A fine fixed volume, over which the field is found on a coarser grid."""

    def test_choice_decides_on_the_grid(self, found: Registered) -> None:
        assert found.deformation.displacement_lps_mm[..., 0].size < 0.1 * FINE.shape[0] * FINE.shape[1] * FINE.shape[2]
        assert found.measures["transform_grid"] == described(found.deformation)
        assert registered(AS_FIXED).deformation.geometry.matches(FINE)

    def test_both_choices_are_the_same_deformation(self, found: Registered) -> None:
        fixed = registered(AS_FIXED)
        np.testing.assert_allclose(found.displacement_lps_mm, fixed.displacement_lps_mm, atol=ROUNDED_MM)
        told, expected = (item.measures for item in (found, fixed))
        assert told["displacement_mm"] == pytest.approx(expected["displacement_mm"], abs=ROUNDED_MM)
        # Between the voxels of the fixed volume its field cuts off the corners that the other one has at its nodes.
        assert told["after"]["tre_mm"]["points"] == pytest.approx(expected["after"]["tre_mm"]["points"], abs=BOUND_MM)
        assert told["after"]["dice"]["mean"] == pytest.approx(expected["after"]["dice"]["mean"], abs=1e-3)
        assert told["aligned"] == expected["aligned"]

    def test_what_is_told_is_of_the_field_that_is_written(self, found: Registered, tmp_path: Path) -> None:
        files = {name: str(tmp_path / f"{name}.nrrd") for name in ("transform", "warped", "jacobian")}
        found.write(files)
        stored = StoredDeformation(*images.read_displacement(files["transform"]))
        jacobian, warped = (images.read_volume(files[name]) for name in ("jacobian", "warped"))
        assert jacobian.geometry.matches(FINE)
        np.testing.assert_array_equal(jacobian.array, stored.jacobian(FINE))
        np.testing.assert_array_equal(warped.array, warp_volume(found.inputs.moving, stored, FINE, CPU))
        assert found.measures["jacobian"]["maximum"] == jacobian.array.max()
        error = np.linalg.norm(stored.at(POINTS), axis=1)
        np.testing.assert_allclose(found.measures["after"]["tre_mm"]["points"], error, atol=1e-6)
        np.testing.assert_allclose(itk_displacement(found.transform, POINTS), stored.at(POINTS), atol=1e-9)

    def test_inverse_leads_back_on_the_fixed_grid(self, found: Registered) -> None:
        inverse = found.inverse()
        assert inverse.displacement.shape == (*FINE.shape, 3)
        assert inverse.residual_mm_max < 2e-3
