"""A transform on the grid on which it was found, coarser than the fixed volume and with other axes, is seen as it is.

Its truth is a linear map and waves, known at every point; the fixed volume is oblique, its voxels are not cubes.
"""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import vtk

import grid_cases
import inspection_cases
import mrml_scene
from DeepAttentionRegEngine.volume import fields
from DeepAttentionRegEngine.volume.geometry import Geometry, flip_lps_ras
from DeepAttentionRegLib.evidence import Landmarks, Maps, Readout, Segments
from DeepAttentionRegLib.nodes import Deformation, Record, Transforms, Warping
from DeepAttentionRegLib.nodes.Overlays import Map
from DeepAttentionRegLib.report import Content
from DeepAttentionRegLib.views.Comparison import Comparison
from DeepAttentionRegLib.views.ComparisonModes import ComparedVolume

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

LINEAR = np.array([[1.05, 0.04, -0.02], [-0.03, 0.94, 0.05], [0.02, -0.03, 1.08]])
OFFSET_MM = np.array([4.0, -3.0, 2.5])
WAVE_MM, WAVELENGTH_MM = 1.0, 50.0
RATE = 2 * np.pi / WAVELENGTH_MM
# Of linear interpolation: three axes, h^2 / 8 of the second derivative, at nodes 1.8 mm apart; Slicer's is cubic.
BETWEEN_NODES_MM = 0.03


def truth(points_lps: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Return the displacement (N, 3) in LPS mm at points (N, 3)."""
    x, y, z = (points_lps - center).T
    waves = WAVE_MM * np.stack([np.sin(RATE * y), np.sin(RATE * z + 0.7), np.sin(RATE * x - 0.4)], 1)
    return (points_lps - center) @ (LINEAR - np.eye(3)).T + OFFSET_MM + waves


def true_jacobian(points_lps: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Return the determinant (N,) at points (N, 3)."""
    x, y, z = (points_lps - center).T
    gradient = np.broadcast_to(LINEAR, (len(points_lps), 3, 3)).copy()
    gradient[:, 0, 1] += WAVE_MM * RATE * np.cos(RATE * y)
    gradient[:, 1, 2] += WAVE_MM * RATE * np.cos(RATE * z + 0.7)
    gradient[:, 2, 0] += WAVE_MM * RATE * np.cos(RATE * x - 0.4)
    return np.linalg.det(gradient)


def engines_jacobian(found: tuple[np.ndarray, Geometry], fixed: Geometry) -> np.ndarray:
    """Return the determinant (k, j, i) of a field that is sampled at the voxels of the fixed volume."""
    return fields.jacobian_determinant(fields.resize(*found, fixed), fixed)


def volume_of_coordinates(geometry: Geometry) -> slicer.vtkMRMLScalarVolumeNode:
    """Add a moving volume that reaches beyond all points of a grid, whose values are L coordinates in mm."""
    half = np.linalg.norm(geometry.extent_mm)
    size = int(half) + 2
    own = Geometry.from_arrays((size,) * 3, (2.0,) * 3, geometry.center_lps - size + 1, np.eye(3))
    values = own.origin[0] + own.spacing[0] * np.arange(size, dtype=np.float32)
    return mrml_scene.add_volume(np.broadcast_to(values, own.shape).copy(), own, "Moving")


@pytest.fixture
def fixed_points(any_geometry, grid_points) -> np.ndarray:
    """The voxels (N, 3) of the fixed volume, LPS mm."""
    return grid_points(any_geometry).reshape(-1, 3)


@pytest.fixture
def found(any_geometry, grid_points) -> tuple[np.ndarray, Geometry]:
    """The field on its own grid, and that grid."""
    grid = grid_cases.found_grid(any_geometry)
    points = grid_points(grid).reshape(-1, 3)
    return truth(points, any_geometry.center_lps).reshape(*grid.shape, 3).astype(np.float32), grid


@pytest.fixture
def deformation(any_geometry, found) -> Deformation.Deformation:
    """The deformation as a registration leaves it."""
    noise = np.random.default_rng(0).random(any_geometry.shape, dtype=np.float32)
    fixed = mrml_scene.add_volume(noise, any_geometry, "Fixed")
    node = Transforms.createGridTransform(
        Transforms.makeGridTransform(*found), "T", fixed, volume_of_coordinates(any_geometry)
    )
    Record.remember(node, Record.Record())
    return Deformation.ofTransform(node)


class TestField:
    def test_reads_back_on_its_grid(self, deformation, found):
        displacement, geometry = Transforms.readGrid(deformation.transformNode)
        np.testing.assert_array_equal(displacement, found[0])
        assert geometry.matches(found[1])

    def test_slicer_and_engine_lead_alike(self, deformation, found, fixed_points, any_geometry):
        transform = deformation.transformNode.GetTransformFromParent()
        slicers = flip_lps_ras(np.array([transform.TransformPoint(point) for point in flip_lps_ras(fixed_points)]))
        engines = fields.transform_points(*found, fixed_points)
        true = fixed_points + truth(fixed_points, any_geometry.center_lps)
        for where in (slicers, engines):
            np.testing.assert_allclose(where, true, atol=BETWEEN_NODES_MM)

    def test_part_of_it_is_the_same_there(self, deformation, found, oblique_geometry):
        near = oblique_geometry.cropped(np.array([3, 2, 4]), np.array([9, 5, 8]))
        field = deformation.transformNode.GetTransformFromParent()
        part, grid = Transforms.partAround(field, near)
        assert part.size < found[0].size
        np.testing.assert_allclose(fields.resize(part, grid, near), fields.resize(*found, near), atol=1e-6)


class TestMaps:
    @pytest.mark.parametrize("kind", [Map.JACOBIAN, Map.LOG_JACOBIAN, Map.MAGNITUDE])
    def test_lie_on_the_fixed_volume(self, deformation, any_geometry, kind):
        array, geometry = Maps.compute(deformation, kind)
        assert array.shape == any_geometry.shape
        assert geometry.matches(any_geometry)

    def test_jacobian_is_the_engines(self, deformation, found, any_geometry):
        engines = engines_jacobian(found, any_geometry)
        np.testing.assert_array_equal(Maps.compute(deformation, Map.JACOBIAN)[0], engines)

    def test_jacobian_is_true(self, deformation, fixed_points, any_geometry):
        if any_geometry.size.count(1):
            pytest.skip("the determinant of a single slice is that within its plane")
        array, _geometry = Maps.compute(deformation, Map.JACOBIAN)
        # A derivative between nodes is off by h / 2 of the second one: 1.8 / 2 * 0.016 in each of three.
        wanted = true_jacobian(fixed_points, any_geometry.center_lps).reshape(array.shape)
        np.testing.assert_allclose(array, wanted, atol=0.05)
        assert np.abs(array - wanted).mean() < 0.01

    def test_magnitude_is_true(self, deformation, fixed_points, any_geometry):
        array, _geometry = Maps.compute(deformation, Map.MAGNITUDE)
        wanted = np.linalg.norm(truth(fixed_points, any_geometry.center_lps), axis=1)
        np.testing.assert_allclose(array.ravel(), wanted, atol=BETWEEN_NODES_MM)

    def test_way_there_and_back_meets(self, deformation, any_geometry, grid_points):
        """The way back is on a grid of its own, which reaches wherever the field leads."""
        center = any_geometry.center_lps
        there, back = np.diag([0.8, 0.9, 0.85]), np.linalg.inv(np.diag([0.8, 0.9, 0.85]))
        grids = grid_cases.found_grid(any_geometry), grid_cases.found_grid(any_geometry.resized((12, 12, 12)))
        nodes = []
        for matrix, grid in zip((there, back), grids, strict=True):
            field = ((grid_points(grid) - center) @ (matrix - np.eye(3)).T).astype(np.float32)
            transform = Transforms.makeGridTransform(field, grid)
            nodes.append(Transforms.createGridTransform(transform, "T", deformation.fixed, deformation.moving))
        Record.attach(nodes[0], Maps.BACKWARD, nodes[1])
        array, _geometry = Maps.compute(Deformation.ofTransform(nodes[0]), Map.INCONSISTENCY)
        if any_geometry.size.count(1) == 0:
            np.testing.assert_allclose(array, 0, atol=1e-4)
        assert array.shape == any_geometry.shape

    def test_fixed_volume_without_a_place_is_refused_by_a_sentence(self, deformation):
        deformation.fixed.SetAndObserveTransformNodeID(deformation.transformNode.GetID())
        with pytest.raises(ValueError, match="Fixed is under a non-linear transform"):
            Maps.compute(deformation, Map.JACOBIAN)


class TestReadout:
    def test_says_what_the_maps_say(self, deformation, any_geometry):
        k, j, i = (size // 2 for size in any_geometry.shape)
        point = any_geometry.index_to_lps(np.array([[i, j, k]]))[0]
        reading = Readout.read(deformation, flip_lps_ras(point))
        maps = {kind: Maps.compute(deformation, kind)[0][k, j, i] for kind in (Map.JACOBIAN, Map.MAGNITUDE)}
        assert reading.jacobian == pytest.approx(maps[Map.JACOBIAN], abs=1e-5)
        true = truth(point[None], any_geometry.center_lps)[0]
        np.testing.assert_allclose(reading.origin, flip_lps_ras(point + true), atol=BETWEEN_NODES_MM)
        assert np.linalg.norm(true) == pytest.approx(maps[Map.MAGNITUDE], abs=BETWEEN_NODES_MM)

    def test_ends_with_the_fixed_volume_not_with_the_field(self, deformation, any_geometry):
        beyond = flip_lps_ras(any_geometry.index_to_lps(np.array([[-0.6, 0.0, 0.0]]))[0])
        assert Readout.read(deformation, beyond) is None

    def test_folds_are_those_of_the_map(self, oblique_geometry, grid_points):
        grid = grid_cases.found_grid(oblique_geometry)
        folding = np.zeros((*grid.shape, 3), np.float32)
        folding[..., 0] = 3 * np.sin(grid_points(grid)[..., 0] / 1.5)
        noise = np.random.default_rng(0).random(oblique_geometry.shape, dtype=np.float32)
        volumes = [mrml_scene.add_volume(noise, oblique_geometry, name) for name in ("Fixed", "Moving")]
        made = Transforms.createGridTransform(Transforms.makeGridTransform(folding, grid), "T", *volumes)
        deformation = Deformation.ofTransform(made)
        folds = Maps.compute(deformation, Map.JACOBIAN)[0] <= 0
        places = oblique_geometry.index_to_lps(np.argwhere(folds)[:, ::-1])
        distances = np.linalg.norm(places - oblique_geometry.center_lps, axis=1)
        reading = Readout.read(deformation, flip_lps_ras(oblique_geometry.center_lps))
        assert reading.folds == (distances <= reading.radiusMm).sum() > 0


class TestWarping:
    def test_voxels_come_from_where_the_engine_takes_them(self, deformation, found, fixed_points):
        warped = slicer.util.arrayFromVolume(Warping.warp(deformation.moving, deformation.transformNode).node)
        wanted = fields.transform_points(*found, fixed_points)[:, 0]
        np.testing.assert_allclose(warped.ravel(), wanted, atol=2e-3)  # float32 of some 100 mm, and VTK's own rounding

    def test_comparison_shows_the_same(self, deformation, found, fixed_points):
        values = Comparison(deformation)._valuesOf(ComparedVolume.AFTER)
        np.testing.assert_allclose(values.ravel(), fields.transform_points(*found, fixed_points)[:, 0], atol=2e-3)

    def test_transform_of_another_origin_leads_as_in_slicer(self, deformation, fixed_points):
        node = deformation.transformNode
        node.RemoveAttribute(Record.ATTRIBUTE)
        warped = slicer.util.arrayFromVolume(Warping.warp(deformation.moving, node).node)
        slicers = [node.GetTransformFromParent().TransformPoint(point) for point in flip_lps_ras(fixed_points)]
        np.testing.assert_allclose(warped.ravel(), -np.array(slicers)[:, 0], atol=2e-3)

    def test_points_come_back(self, deformation, fixed_points, any_geometry):
        fixed = fixed_points[:: max(1, len(fixed_points) // 20)]
        moving = flip_lps_ras(fixed + truth(fixed, any_geometry.center_lps))
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "P")
        for point in moving:
            node.AddControlPoint(vtk.vtkVector3d(*point))
        warped = Warping.warp(node, deformation.transformNode)
        assert not warped.warning
        positions = slicer.util.arrayFromMarkupsControlPoints(warped.node)
        np.testing.assert_allclose(positions, flip_lps_ras(fixed), atol=BETWEEN_NODES_MM + 0.01)


class TestMeasures:
    def test_jacobian_within_a_segment_is_the_engines(self, deformation, found, any_geometry):
        mask = inspection_cases.box(any_geometry, (0, 0, 0), tuple((size + 1) // 2 for size in any_geometry.size))
        fixed = inspection_cases.add_segments(deformation.fixed, {"Liver": mask}, "Fixed organs")
        moving = inspection_cases.add_segments(deformation.fixed, {"Liver": mask}, "Moving organs")
        (structure,) = Segments.compare(deformation, fixed, moving).structures
        jacobian = engines_jacobian(found, any_geometry)
        assert structure.jacobian == fields.summarize_jacobian(jacobian, mask)

    def test_landmarks_are_carried_as_true(self, deformation, fixed_points, any_geometry):
        fixed = fixed_points[[0, len(fixed_points) // 2, -1]]
        nodes = []
        for name, points in (("F", fixed), ("M", fixed + truth(fixed, any_geometry.center_lps))):
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
            for point in flip_lps_ras(points):
                node.AddControlPoint(vtk.vtkVector3d(*point))
            nodes.append(node)
        measurement = Landmarks.measure(deformation, *nodes)
        assert measurement.errorsMm["after"].max() < BETWEEN_NODES_MM
        assert not measurement.warnings

    def test_landmark_beyond_the_fixed_volume_is_told_though_the_field_reaches_it(self, deformation, any_geometry):
        beyond = flip_lps_ras(any_geometry.index_to_lps(np.array([[-0.6, 0.0, 0.0]]))[0])
        nodes = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name) for name in ("F", "M")]
        for node in nodes:
            node.AddControlPoint(vtk.vtkVector3d(*beyond), "tip")
        assert "Outside of the fixed volume" in Landmarks.measure(deformation, *nodes).warnings[0]

    def test_report_has_the_engines_figures(self, deformation, found, any_geometry):
        numbers = Content.gather(deformation).numbers
        summary = fields.summarize_jacobian(engines_jacobian(found, any_geometry))
        lengths = fields.magnitude(fields.resize(*found, any_geometry))
        assert numbers["jacobian"]["mean"] == pytest.approx(summary.mean)
        assert numbers["jacobian"]["folds"] == summary.folds
        assert numbers["displacement_mm"]["max"] == pytest.approx(float(lengths.max()))
