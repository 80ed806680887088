"""Warped volumes, segments and files at their percentiles, against errors whose effect can be calculated."""

import json
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from DeepAttentionRegEngine import EngineError, Geometry, Segments, Settings, Volume, cli, jobs, register
from DeepAttentionRegEngine.evidence.percentiles import (
    segment_percentiles,
    volume_percentiles,
    warp_segments_within,
    warp_volume_within,
)
from DeepAttentionRegEngine.maps import percentiles
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.protocol.contract import WarpJob
from DeepAttentionRegEngine.protocol.reporting import Reporter
from DeepAttentionRegEngine.registration.deformation import StoredDeformation
from DeepAttentionRegEngine.registration.preprocess import Source, warp_segments, warp_volume
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.segment_pairs import Segment
from DeepAttentionRegEngine.volume.segments import as_segments, write_segments
from engine_cases import CPU, centered, quiet, rotation
from grid_cases import found_grid

pytestmark = pytest.mark.torch

Z95 = NormalDist().inv_cdf(0.95)
SIGMAS = {2: 2.448, 3: 2.796}  # the bound that holds with 95 %, by standard deviations along each axis
STRAYS = 0.22  # of the finite samples, of the distance from the median
SLOPE = np.array([3.0, -1.0, 2.0])  # of dose a mm, LPS
MM = 1.5  # the bound


def dose_around(geometry: Geometry) -> Source:
    """Return a dose that changes linearly, with a margin around a grid, on axes of its own."""
    grid = centered((40, 40, 40), (1.3, 1.1, 1.5), rotation(10, 20, -15), tuple(geometry.center_lps))
    index = np.moveaxis(np.indices(grid.shape), 0, -1)[..., ::-1].reshape(-1, 3)
    return Source((grid.index_to_lps(index) @ SLOPE).reshape(grid.shape), grid)


def even(geometry: Geometry, mm: float = MM) -> Volume:
    return Volume(np.full(geometry.shape, mm, np.float32), geometry)


@pytest.fixture
def smooth(smooth_displacement):
    """The function from a grid to a smooth deformation that is stored on another one."""

    def make(geometry: Geometry) -> StoredDeformation:
        own = found_grid(geometry)
        return StoredDeformation(smooth_displacement(own), own)

    return make


class TestVolumes:
    def test_linear_dose_strays_by_its_slope(self, oblique_geometry, smooth):
        dose, deformation = dose_around(oblique_geometry), smooth(oblique_geometry)
        found = warp_volume_within(even(oblique_geometry), dose, deformation, oblique_geometry, CPU)
        usual = warp_volume(dose, deformation, oblique_geometry, CPU)
        strays = Z95 * MM / SIGMAS[3] * np.linalg.norm(SLOPE)
        np.testing.assert_allclose(found["median"], usual, atol=1e-4)
        np.testing.assert_allclose(usual - found["low"], strays, rtol=STRAYS)
        np.testing.assert_allclose(found["high"] - usual, usual - found["low"], atol=1e-4)

    def test_error_grows_where_its_map_does(self, oblique_geometry, smooth, grid_points):
        dose, deformation = dose_around(oblique_geometry), smooth(oblique_geometry)
        own = centered((30, 30, 30), (2.0, 2.0, 2.0), rotation(5, 0, 30), tuple(oblique_geometry.center_lps))

        def growing(grid: Geometry) -> np.ndarray:
            return 2 + 0.03 * (grid_points(grid) - oblique_geometry.center_lps)[..., 0]

        error = Volume(growing(own).astype(np.float32), own)
        found = warp_volume_within(error, dose, deformation, oblique_geometry, CPU)
        wide = (found["high"] - found["low"]) / growing(oblique_geometry)
        np.testing.assert_allclose(wide, wide.mean(), rtol=1e-4)

    def test_slice_errs_in_its_plane_alone(self, flat_geometry, smooth):
        dose, deformation = dose_around(flat_geometry), smooth(flat_geometry)
        found = warp_volume_within(even(flat_geometry), dose, deformation, flat_geometry, CPU)
        normal = flat_geometry.normal_lps
        within = SLOPE - (SLOPE @ normal) * normal
        strays = Z95 * MM / SIGMAS[2] * np.linalg.norm(within)
        np.testing.assert_allclose((found["high"] - found["low"]) / 2, strays, rtol=STRAYS)

    @pytest.mark.parametrize("kind", ["float32", "int16"])
    def test_without_error_all_are_the_usual_one(self, any_geometry, smooth, kind):
        moving = Source((100 * np.random.default_rng(0).random(any_geometry.shape)).astype(kind), any_geometry)
        deformation = smooth(any_geometry)
        usual = warp_volume(moving, deformation, any_geometry, CPU)
        for array in warp_volume_within(even(any_geometry, 0.0), moving, deformation, any_geometry, CPU).values():
            assert array.dtype == usual.dtype
            np.testing.assert_allclose(array, usual, rtol=1e-4, atol=1 if kind == "int16" else 1e-3)

    def test_whole_numbers_are_rounded_as_usual(self, oblique_geometry, smooth):
        dose, deformation = dose_around(oblique_geometry), smooth(oblique_geometry)
        whole = Source(np.rint(dose.array).astype(np.int16), dose.geometry)
        exact = Source(np.rint(dose.array), dose.geometry)
        for name, array in warp_volume_within(
            even(oblique_geometry), whole, deformation, oblique_geometry, CPU
        ).items():
            wanted = warp_volume_within(even(oblique_geometry), exact, deformation, oblique_geometry, CPU)[name]
            assert np.abs(array - wanted).max() <= 0.5


class TestSegments:
    GRID = centered((44, 44, 44), (1.0, 1.0, 1.0), rotation(10, -20, 15))
    RADIUS = 15.0
    BOUND = 5.0

    def ball(self, radius: float = RADIUS) -> Segments:
        index = np.moveaxis(np.indices(self.GRID.shape), 0, -1).reshape(*self.GRID.shape, 3)
        far = np.linalg.norm(index - (np.array(self.GRID.shape) - 1) / 2, axis=-1)
        return Segments([(far < radius).astype(np.uint8)], self.GRID, [Segment("Ball", 1)])

    def still(self) -> StoredDeformation:
        return StoredDeformation(np.zeros((*self.GRID.shape, 3), np.float32), self.GRID)

    def test_contours_of_a_ball_are_nested_and_apart_by_the_error(self):
        error = even(self.GRID, self.BOUND)
        found = warp_segments_within(error, self.ball(), self.still(), self.GRID, CPU)
        low, median, high = (found[name].marked > 0 for name in ("low", "median", "high"))
        assert (low <= median).all()
        assert (median <= high).all()
        radii = [(3 * mask.sum() / (4 * np.pi)) ** (1 / 3) for mask in (low, median, high)]
        shift = Z95 * self.BOUND / SIGMAS[3]
        # A ball is not flat: the error moves its border inwards by sigma^2 / radius, 0.2 mm.
        np.testing.assert_allclose(radii, [self.RADIUS - shift, self.RADIUS, self.RADIUS + shift], atol=0.35)

    def test_without_error_all_are_the_usual_one(self, any_geometry, smooth):
        labels = np.random.default_rng(0).integers(0, 3, any_geometry.shape).astype(np.uint8)
        moving, deformation = Segments([labels], any_geometry, [Segment("", 1), Segment("", 2)]), smooth(any_geometry)
        usual = warp_segments(moving, deformation, any_geometry, CPU)
        for found in warp_segments_within(even(any_geometry, 0.0), moving, deformation, any_geometry, CPU).values():
            np.testing.assert_array_equal(found.layers, usual.layers)

    def test_parts_make_up_the_whole(self, monkeypatch):
        monkeypatch.setattr(percentiles, "BLOCK_VOXELS", 30000)
        error, ball = even(self.GRID, self.BOUND), self.ball()
        parts = warp_segments_within(error, ball, self.still(), self.GRID, CPU)
        monkeypatch.setattr(percentiles, "BLOCK_VOXELS", 10**6)
        whole = warp_segments_within(error, ball, self.still(), self.GRID, CPU)
        for name, found in parts.items():
            # Places that lie half way between voxels may be rounded to either side.
            assert (found.layers[0] != whole[name].layers[0]).mean() < 1e-3


class TestRegistered:
    def test_volumes_and_labels_come_with_their_percentiles(self):
        grid = centered((24, 24, 24), (2.0, 2.0, 2.0))
        image = np.random.default_rng(0).random(grid.shape).astype(np.float32)
        still = Settings(method="none", alignment="none", refinement_steps=0, device="cpu")
        labels = np.zeros(grid.shape, np.uint8)
        labels[6:18, 6:18, 6:18] = 1
        registered = register((image, grid), (image, grid), still, moving_labels=(labels, grid))
        doses = volume_percentiles(registered, even(grid))
        low, median, high = (images.as_volume(doses[name]).array for name in ("low", "median", "high"))
        assert (low <= median).all()
        assert (median <= high).all()
        sizes = [int(segments.marked.sum()) for segments in segment_percentiles(registered, even(grid, 6.0)).values()]
        assert sizes[0] < sizes[1] < sizes[2]

    def test_without_labels_is_a_sentence(self):
        grid = centered((24, 24, 24), (2.0, 2.0, 2.0))
        image = np.random.default_rng(0).random(grid.shape).astype(np.float32)
        still = Settings(method="none", alignment="none", refinement_steps=0, device="cpu")
        registered = register((image, grid), (image, grid), still)
        with pytest.raises(EngineError, match="no labels to warp"):
            segment_percentiles(registered, even(grid))


class TestJob:
    GRID = centered((16, 14, 12), (2.0, 2.0, 3.0))

    @pytest.fixture
    def files(self, tmp_path: Path) -> dict[str, str]:
        """Return files: a field without motion, an error map, and what to warp."""
        labels = np.zeros(self.GRID.shape, np.uint8)
        labels[2:10, 2:12, 2:8], labels[2:10, 2:12, 8:14] = 1, 2
        arrays = {
            "dose": np.random.default_rng(0).random(self.GRID.shape).astype(np.float32),
            "error": even(self.GRID, 3.0).array,
            "negative": -even(self.GRID).array,
            "labels": labels,
        }
        names = {name: str(tmp_path / f"{name}.nrrd") for name in (*arrays, "field", "warped", "low", "median", "high")}
        for name, array in arrays.items():
            images.write_volume(names[name], array, self.GRID)
        images.write_displacement(names["field"], np.zeros((*self.GRID.shape, 3), np.float32), self.GRID)
        return names

    @staticmethod
    def job(files: dict[str, str], **changes: object) -> WarpJob:
        outputs = {f"output_{name}": files[name] for name in ("low", "median", "high")}
        usual = {"moving": files["dose"], "transform": files["field"], "output": files["warped"]}
        return WarpJob(**{**usual, "error": files["error"], **outputs, **changes})

    def test_writes_what_is_asked_for_beside_the_usual_output(self, files):
        result = jobs.run(self.job(files, output_median=None), quiet())
        assert result.outputs == {"warped": files["warped"], "low": files["low"], "high": files["high"]}
        usual, low, high = (images.read_volume(files[name]).array for name in ("warped", "low", "high"))
        np.testing.assert_allclose(usual, images.read_volume(files["dose"]).array, atol=1e-6)
        assert (low < high).all()
        assert not Path(files["median"]).exists()

    def test_labels_may_overlap_in_a_segmentation(self, files, tmp_path):
        high = str(tmp_path / "high.seg.nrrd")
        jobs.run(self.job(files, moving=files["labels"], labels=True, output_high=high), quiet())
        sizes = []
        for file in (files["low"], files["median"], high):
            found = as_segments(file)
            sizes.append([int((found.layers[item.layer] == item.value).sum()) for item in found.items])
        assert len(as_segments(high).layers) == 2
        assert (np.diff(sizes, axis=0) > 0).all()

    def test_label_map_that_cannot_hold_what_overlaps_is_refused_before_the_work(self, files):
        with pytest.raises(EngineError, match=r"several segments.*Give it a name that ends in \.seg\.nrrd"):
            jobs.run(self.job(files, moving=files["labels"], labels=True), quiet())

    def test_one_structure_fits_into_a_label_map(self, files):
        one = Segments([images.read_volume(files["labels"]).array], self.GRID, [Segment("", 1), Segment("", 2)])
        one.layers[0][one.layers[0] == 2] = 0
        write_segments(files["labels"], one)
        jobs.run(self.job(files, moving=files["labels"], labels=True), quiet())
        assert images.read_volume(files["high"]).array.any()

    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"error": None}, "Percentiles need an error map"),
            (dict.fromkeys(("output_low", "output_median", "output_high")), "of use for percentiles alone"),
            ({"error": "missing.nrrd"}, "missing.nrrd"),
            ({"error": "negative"}, "negative or no number"),
        ],
        ids=["no map", "no output", "no file", "negative"],
    )
    def test_what_does_not_go_together_is_a_sentence(self, files, changes, complaint):
        changes = {name: files.get(value, value) for name, value in changes.items()}
        with pytest.raises(EngineError, match=complaint):
            jobs.run(self.job(files, **changes), quiet())
        assert not Path(files["warped"]).exists()

    def test_can_be_canceled(self, files):
        with pytest.raises(EngineError) as caught:
            jobs.run(self.job(files), Reporter(cancelled=lambda: True))
        assert caught.value.code == errors.CANCELLED
        assert not Path(files["low"]).exists()

    def test_command_line_takes_the_same(self, files, capsys):
        names = ["--error", files["error"], "--output-high", files["high"], "--reference", files["dose"]]
        assert cli.main(["warp", files["dose"], files["field"], files["warped"], *names, "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["outputs"].keys() == {"warped", "high"}
