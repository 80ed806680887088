"""Percentiles of what is looked up with an error, against distributions that are known."""

from statistics import NormalDist

import numpy as np
import pytest

from DeepAttentionRegEngine.maps import percentiles
from DeepAttentionRegEngine.maps.percentiles import RANKS, SAMPLES, error_vectors, require_bound
from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegEngine.volume.images import Volume
from DeepAttentionRegEngine.volume.segment_pairs import Segment
from DeepAttentionRegEngine.volume.segments import Segments

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
CUBE = Geometry((8, 8, 8), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), AXIAL)
# Bound that holds with 95 %, by standard deviations of a normal error along each axis: from tables of chi.
SIGMAS = {2: 2.448, 3: 2.796}
Z95 = NormalDist().inv_cdf(0.95)


def directions(count: int = 1000) -> np.ndarray:
    found = np.random.default_rng(0).normal(size=(count, 3))
    return found / np.linalg.norm(found, axis=1)[:, None]


def bound(value: float, geometry: Geometry = CUBE) -> Volume:
    return Volume(np.full(geometry.shape, value, np.float32), geometry)


class TestErrors:
    def test_every_one_has_its_opposite_and_one_is_none(self):
        errors = error_vectors(CUBE)
        half = SAMPLES // 2
        np.testing.assert_array_equal(errors[:half], -errors[half:-1])
        assert not errors[-1].any()

    def test_95_percent_are_within_the_bound(self, oblique_geometry):
        within = np.linalg.norm(error_vectors(oblique_geometry), axis=1) <= 1
        assert within.mean() == pytest.approx(0.95, abs=2 / SAMPLES)  # they come in pairs

    def test_are_as_long_as_normal_ones_along_every_axis(self):
        # Finite samples lack the ends of the distribution, and with them 1 % of its width.
        spread = np.sqrt((error_vectors(CUBE) ** 2).mean(0)) * SIGMAS[3]
        np.testing.assert_allclose(spread, 1, atol=0.06)
        assert np.sqrt((spread**2).mean()) == pytest.approx(0.99, abs=0.01)

    @pytest.mark.parametrize("name", RANKS)
    def test_projections_have_the_percentiles_of_a_normal_distribution(self, name):
        wanted = {"low": -Z95, "median": 0.0, "high": Z95}[name]
        found = np.sort(directions() @ error_vectors(CUBE).T, axis=1)[:, RANKS[name]] * SIGMAS[3]
        assert found.mean() == pytest.approx(wanted, abs=0.02)
        assert np.abs(found - wanted).max() < 0.22 * Z95  # by the finite number of samples

    def test_of_a_slice_lie_in_its_plane(self, flat_geometry):
        errors = error_vectors(flat_geometry)
        np.testing.assert_allclose(errors @ flat_geometry.normal_lps, 0, atol=1e-12)
        axis = np.reshape(flat_geometry.direction, (3, 3))[:, flat_geometry.size.index(1) - 1]
        found = np.sort(errors @ axis)[RANKS["high"]] * SIGMAS[2]
        assert found == pytest.approx(Z95, rel=0.12)


class TestBound:
    @pytest.mark.parametrize("wrong", [np.nan, -1.0, np.inf, -np.inf])
    def test_what_is_none_is_refused_in_a_sentence(self, wrong):
        error = bound(1.0)
        error.array[2, 3, 4] = wrong
        with pytest.raises(EngineError, match="negative or no number at 1 of 512 voxels"):
            require_bound(error, CUBE)

    def test_elsewhere_is_refused(self):
        far = Geometry(CUBE.size, CUBE.spacing, (100.0, 0.0, 0.0), AXIAL)
        with pytest.raises(EngineError, match="shows nothing of the grid"):
            require_bound(bound(1.0, far), CUBE)

    def test_on_a_small_part_of_a_large_grid_is_welcome(self):
        large = Geometry((400, 400, 400), (1.0, 1.0, 1.0), (-200.3, -200.3, -200.3), AXIAL)
        require_bound(bound(1.0, CUBE), large)
        require_bound(bound(1.0, Geometry((1, 8, 8), CUBE.spacing, CUBE.origin, AXIAL)), large)


def ramp(slope: np.ndarray):
    """Return a view of a volume that changes linearly by so much a mm (LPS)."""

    def view(part: Geometry):
        index = np.moveaxis(np.indices(part.shape), 0, -1)[..., ::-1].reshape(-1, 3)
        points = part.index_to_lps(index).reshape(*part.shape, 3)
        return lambda error_lps_mm: (points + error_lps_mm) @ slope

    return view


class TestVolumes:
    def test_parts_make_up_the_whole(self, monkeypatch, any_geometry):
        slope = np.array([1.0, -2.0, 0.5])
        error = Volume(np.random.default_rng(0).random(any_geometry.shape), any_geometry)
        whole = percentiles.of_volume(ramp(slope), np.dtype(float), error, any_geometry)
        monkeypatch.setattr(percentiles, "BLOCK_VOXELS", 30)
        parts = percentiles.of_volume(ramp(slope), np.dtype(float), error, any_geometry)
        for name, array in whole.items():
            np.testing.assert_allclose(parts[name], array, atol=1e-5)  # error maps have single precision

    def test_no_part_is_larger_than_the_memory_for_it(self, monkeypatch):
        sizes = []

        def view(part: Geometry):
            sizes.append(np.prod(part.size))
            return lambda error_lps_mm: error_lps_mm[..., 0]

        monkeypatch.setattr(percentiles, "BLOCK_VOXELS", 64)
        for size in ((20, 30, 10), (50, 30, 1), (200, 1, 1)):
            grid = Geometry(size, CUBE.spacing, CUBE.origin, AXIAL)
            sizes.clear()
            percentiles.of_volume(view, np.dtype(float), bound(1.0), grid)
            assert max(sizes) <= 64
            assert sum(sizes) == np.prod(size)

    def test_pause_comes_before_every_look(self):
        pauses = []
        percentiles.of_volume(ramp(np.ones(3)), np.dtype(float), bound(1.0), CUBE, lambda: pauses.append(1))
        assert len(pauses) == SAMPLES


class TestSegments:
    @staticmethod
    def halves() -> Segments:
        """Return two segments that touch in the middle along i."""
        labels = np.ones(CUBE.shape, np.uint8)
        labels[..., 4:] = 2
        return Segments([labels], CUBE, [Segment("Left", 1), Segment("Right", 2)])

    @staticmethod
    def view(part: Geometry):
        """Look up two segments that touch where the voxels with i = 4 begin."""
        i = np.arange(part.size[0]) + part.origin[0]
        return lambda error_lps_mm: np.where(i + error_lps_mm[..., 0] < 3.5, 1, 2).astype(np.uint8)

    @pytest.fixture
    def found(self) -> dict[str, Segments]:
        return percentiles.of_segments(self.halves(), [self.view], bound(2.0), CUBE)

    def test_that_are_possible_overlap_where_the_others_do_not(self, found):
        assert [len(found[name].layers) for name in RANKS] == [1, 1, 2]
        widths = {
            name: [int((part.layers[item.layer][0, 0] == item.value).sum()) for item in part.items]
            for name, part in found.items()
        }
        # 1.645 standard deviations of 2 mm / 2.796 are 1.18 mm: the voxels at 3 and 4 are half a mm from the border.
        assert widths == {"low": [3, 3], "median": [4, 4], "high": [5, 5]}

    def test_keep_names_values_and_order(self, found):
        for part in found.values():
            assert [(item.name, item.value) for item in part.items] == [("Left", 1), ("Right", 2)]

    def test_parts_make_up_the_whole(self, found, monkeypatch):
        monkeypatch.setattr(percentiles, "BLOCK_VOXELS", 30)
        parts = percentiles.of_segments(self.halves(), [self.view], bound(2.0), CUBE)
        for name, whole in found.items():
            np.testing.assert_array_equal(parts[name].layers, whole.layers)
