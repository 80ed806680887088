"""Voxels of two volumes on one grid, against what they must be on oblique and anisotropic grids."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core cannot be imported", exc_type=ImportError)

import mrml_scene
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegLib.nodes import Transforms
from DeepAttentionRegLib.views import Mixing
from DeepAttentionRegLib.views.ComparisonModes import Divider

pytestmark = [pytest.mark.mrml, pytest.mark.usefixtures("scene")]

GEOMETRY = Geometry((40, 40, 5), (2.0, 2.0, 3.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


class TestTiles:
    def test_tile_is_one_voxel_at_least(self):
        tiles = Mixing.tilesOf(GEOMETRY, 0.1)
        assert not tiles[0, 0, 0]
        assert tiles[0, 0, 1]
        assert tiles[1, 0, 0]

    def test_tiles_are_in_mm_along_every_axis(self):
        tiles = Mixing.tilesOf(GEOMETRY, 6.0)
        assert tiles[0, 0, :7].tolist() == [False] * 3 + [True] * 3 + [False]
        assert tiles[:5, 0, 0].tolist() == [False, False, True, True, False]


class TestDividers:
    def test_oblique_grid_has_an_axis_for_each_direction(self, any_geometry):
        axes = Mixing.axesOf(any_geometry)
        assert sorted(axis for axis, _isBack in axes.values()) == [0, 1, 2]
        ahead = {Divider.RIGHT_LEFT: (1, 0, 0), Divider.FRONT_BACK: (0, 1, 0), Divider.TOP_DOWN: (0, 0, -1)}
        for divider, (axis, is_back) in axes.items():
            run = np.reshape(any_geometry.direction, (3, 3))[:, axis] @ ahead[divider]
            assert abs(run) > 0.5
            assert is_back == (run < 0)

    def test_positions_run_from_one_end_to_the_other(self, any_geometry):
        for divider, (axis, is_back) in Mixing.axesOf(any_geometry).items():
            ends = [Mixing.splitAt(any_geometry, divider, position) for position in (0.0, 1.0)]
            assert ends == ([any_geometry.size[axis], 0] if is_back else [0, any_geometry.size[axis]])


class TestResample:
    """A volume whose values are a coordinate of its voxels, LPS mm, which linear interpolation reproduces."""

    @pytest.fixture
    def volume(self, oblique_geometry, grid_points):
        points = grid_points(oblique_geometry)
        return mrml_scene.add_volume(points[..., 0].astype(np.float32), oblique_geometry, "X")

    def test_field_is_followed(self, volume, oblique_geometry, grid_points, smooth_displacement):
        displacement = smooth_displacement(oblique_geometry)
        field = Transforms.makeGridTransform(displacement, oblique_geometry)
        values = Mixing.resample(volume, field, oblique_geometry)
        known = np.isfinite(values)
        assert 0.5 < known.mean() < 1
        wanted = grid_points(oblique_geometry)[..., 0] + displacement[..., 0]
        # Beyond the centers of the outermost voxels, by half a voxel at most, their value continues.
        inside = np.zeros_like(known)
        inside[2:-2, 3:-3, 3:-3] = True
        assert (known & inside).any()
        np.testing.assert_allclose(values[known & inside], wanted[known & inside], atol=1e-3)

    def test_matrix_is_followed(self, volume, oblique_geometry, grid_points):
        matrix = np.eye(4)
        matrix[0, 3] = -2.0  # RAS: 2 mm to the left
        values = Mixing.resample(volume, matrix, oblique_geometry)[2:-2, 4:-4, 3:-3]
        wanted = grid_points(oblique_geometry)[2:-2, 4:-4, 3:-3, 0] + 2.0
        np.testing.assert_allclose(values, wanted, atol=1e-3)

    def test_there_is_nothing_outside_of_the_volume(self, volume, oblique_geometry):
        matrix = np.eye(4)
        matrix[2, 3] = 500.0
        assert np.isnan(Mixing.resample(volume, matrix, oblique_geometry)).all()


class TestWindow:
    def test_is_that_of_the_display(self):
        volume = mrml_scene.add_volume(np.zeros(GEOMETRY.shape, np.float32), GEOMETRY, "V")
        volume.GetDisplayNode().SetAutoWindowLevel(False)
        volume.GetDisplayNode().SetWindowLevelMinMax(-3, 7)
        assert Mixing.windowOf(volume) == (-3, 7)

    def test_is_the_range_of_what_is_not_displayed(self):
        volume = mrml_scene.add_volume(np.linspace(2, 5, 8000, dtype=np.float32).reshape(5, 40, 40), GEOMETRY, "V")
        volume.SetAndObserveDisplayNodeID(None)
        assert Mixing.windowOf(volume) == (2, 5)
