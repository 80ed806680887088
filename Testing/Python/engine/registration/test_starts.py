"""The automatic start leaves images that lie well where they are, and finds those that do not, turned ones too."""

import numpy as np
import pytest
from scipy import ndimage

from DeepAttentionRegEngine import Settings, register
from DeepAttentionRegEngine.phantom.thorax import PhantomPair, default_geometry, make_phantom
from DeepAttentionRegEngine.protocol import errors
from DeepAttentionRegEngine.protocol.settings import AUTOMATIC
from DeepAttentionRegEngine.registration.preprocess import Source
from DeepAttentionRegEngine.registration.registered import Registered
from DeepAttentionRegEngine.registration.starts import Start, find_start
from DeepAttentionRegEngine.volume import images
from DeepAttentionRegEngine.volume.geometry import Geometry
from DeepAttentionRegEngine.volume.intensity import normalize
from engine_cases import CPU, blob_source, centered, matrix4, moved_grid, rotation, stored_otherwise

pytestmark = pytest.mark.torch

HERE = np.eye(4)
PRONE = matrix4(rotation(0, 0, 180))
HALF_TURN = "turned by 180 degrees about "
ORDERS = [((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1))]
BREATHING_MM = 12.0  # mean landmark error of the phantom in place, rounded up; the best rigid map leaves 8


@pytest.fixture(scope="module")
def thorax() -> PhantomPair:
    return make_phantom(default_geometry((56, 48, 56), (6, 5, 6)))


@pytest.fixture(scope="module")
def slices() -> PhantomPair:
    return make_phantom(centered((96, 80, 1), (3.5, 3.2, 5.0)))


def pair_of(phantom: PhantomPair, truth: np.ndarray = HERE) -> tuple[Source, Source]:
    """Return the fixed volume, and the moving one on a grid that a map moves."""
    moving = Source(phantom.moving, moved_grid(phantom.moving_geometry, truth))
    return Source(phantom.fixed, phantom.fixed_geometry), moving


def part(source: Source, first: int, last: int) -> Source:
    """Return slices of a volume along k where they lie."""
    grid = source.geometry
    i, j, _ = grid.size
    origin = grid.index_to_lps(np.array([[0, 0, first]]))[0]
    array = source.array[first:last]
    return Source(array, Geometry.from_arrays((i, j, len(array)), grid.spacing, origin, grid.direction))


def other_contrast(source: Source) -> Source:
    """Return a volume whose brightness goes up and down with that of another."""
    return Source(np.abs(np.sin(6 * normalize(source.array))), source.geometry)


def start_of(fixed: Source, moving: Source, mode: str = AUTOMATIC, initial: np.ndarray = HERE) -> Start:
    return find_start(fixed, moving, mode, initial, 0, CPU)


def mean_error(phantom: PhantomPair, matrix: np.ndarray, truth: np.ndarray = HERE) -> float:
    """Return the mean distance in mm of the landmarks from where they belong."""
    found, expected = (
        points @ linear[:3, :3].T + linear[:3, 3]
        for points, linear in ((phantom.fixed_points_lps, matrix), (phantom.moving_points_lps, truth))
    )
    return float(np.linalg.norm(found - expected, axis=1).mean())


class TestStoredPosition:
    def test_is_kept_where_the_images_lie_well(self, thorax: PhantomPair) -> None:
        start = start_of(*pair_of(thorax))
        assert start.chosen == "none"
        assert start.warnings == []
        np.testing.assert_array_equal(start.matrix, HERE)

    @pytest.mark.parametrize("cropped", ["fixed", "moving"])
    @pytest.mark.parametrize(("first", "last"), [(28, 56), (0, 28), (18, 40)])
    def test_is_kept_where_one_image_is_cropped(self, thorax: PhantomPair, cropped: str, first: int, last: int) -> None:
        fixed, moving = pair_of(thorax)
        pair = (part(fixed, first, last), moving) if cropped == "fixed" else (fixed, part(moving, first, last))
        assert start_of(*pair).chosen == "none"

    def test_is_kept_where_two_stations_share_a_third(self, thorax: PhantomPair) -> None:
        fixed, moving = pair_of(thorax)
        assert start_of(part(fixed, 20, 56), part(moving, 0, 34)).chosen == "none"

    @pytest.mark.parametrize("value", [-3024, -32768])
    def test_is_kept_where_padding_fills_half_of_an_image(self, thorax: PhantomPair, value: int) -> None:
        fixed, moving = pair_of(thorax)
        padded = fixed.array.copy()
        padded[:28] = value
        assert start_of(Source(padded, fixed.geometry), moving).chosen == "none"

    def test_is_kept_between_two_contrasts(self, thorax: PhantomPair) -> None:
        fixed, moving = pair_of(thorax)
        assert start_of(fixed, other_contrast(moving)).chosen == "none"
        assert start_of(part(fixed, 28, 56), other_contrast(moving)).chosen == "none"

    def test_is_that_of_the_initial_map(self, thorax: PhantomPair) -> None:
        truth = matrix4(rotation(0, 0, 20), (40.0, -30.0, 20.0))
        start = start_of(*pair_of(thorax, truth), initial=truth)
        assert start.chosen == "none"
        np.testing.assert_array_equal(start.matrix, truth)

    def test_is_kept_for_a_slice_in_a_volume(self, thorax: PhantomPair) -> None:
        fixed, moving = pair_of(thorax)
        assert start_of(part(fixed, 24, 25), moving).chosen == "none"

    def test_is_kept_for_slices_that_lie_well(self, slices: PhantomPair) -> None:
        assert start_of(*pair_of(slices)).chosen == "none"


class TestOtherPosition:
    def test_center_is_taken_where_coordinates_are_unrelated(self, thorax: PhantomPair) -> None:
        truth = matrix4(np.eye(3), (900.0, -400.0, 100.0))
        start = start_of(*pair_of(thorax, truth))
        assert start.chosen in ("center", "mass")
        assert mean_error(thorax, start.matrix, truth) < BREATHING_MM

    def test_mass_is_taken_where_the_fields_of_view_differ(self) -> None:
        fixed = blob_source(centered((40, 40, 40), (3.0, 3.0, 3.0)))
        moving = blob_source(centered((60, 60, 60), (3.0, 3.0, 3.0), center=(30.0, -25.0, 20.0)))
        away = matrix4(np.eye(3), (200.0, 0.0, 0.0))
        start = start_of(fixed, Source(moving.array, moved_grid(moving.geometry, away)))
        assert start.chosen == "mass"
        np.testing.assert_allclose(start.matrix, away, atol=4.0)

    @pytest.mark.parametrize(("order", "signs"), ORDERS)
    @pytest.mark.parametrize(
        ("truth", "axis"),
        [
            (PRONE, "S"),
            (matrix4(rotation(180, 0, 0)), "L"),
            (matrix4(rotation(12, -9, 170), (40.0, -70.0, 30.0)), "S"),
        ],
        ids=["prone", "feet first", "prone and tilted"],
    )
    def test_turned_body_is_turned_back(
        self, thorax: PhantomPair, truth: np.ndarray, axis: str, order: tuple, signs: tuple
    ) -> None:
        fixed, moving = pair_of(thorax, truth)
        start = start_of(fixed, stored_otherwise(moving, order, signs))
        assert start.chosen == HALF_TURN + axis
        assert mean_error(thorax, start.matrix, truth) < BREATHING_MM
        assert "turned by 180 degrees" in start.warnings[0]

    def test_turned_body_of_another_contrast_is_turned_back(self, thorax: PhantomPair) -> None:
        fixed, moving = pair_of(thorax, PRONE)
        start = start_of(fixed, other_contrast(moving))
        assert mean_error(thorax, start.matrix, PRONE) < BREATHING_MM

    def test_tilted_body_is_aligned_rigidly(self, thorax: PhantomPair) -> None:
        truth = matrix4(rotation(8, 5, -20), (20.0, 10.0, -30.0))
        start = start_of(*pair_of(thorax, truth))
        assert (start.chosen, start.warnings) == ("rigid", [])
        assert mean_error(thorax, start.matrix, truth) < BREATHING_MM

    @pytest.mark.parametrize("degrees", [90, 180, 270])
    def test_turned_slice_is_turned_back(self, slices: PhantomPair, degrees: int) -> None:
        truth = matrix4(rotation(0, 0, degrees), (10.0, 15.0, 0.0))
        start = start_of(*pair_of(slices, truth))
        assert start.chosen.startswith("turned")
        assert mean_error(slices, start.matrix, truth) < BREATHING_MM

    def test_map_is_rigid_and_the_same_every_time(self, thorax: PhantomPair) -> None:
        first, second = (start_of(*pair_of(thorax, PRONE)).matrix for _ in range(2))
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(first[:3, :3] @ first[:3, :3].T, np.eye(3), atol=1e-5)
        assert np.linalg.det(first[:3, :3]) > 0

    def test_masked_artefact_does_not_decide(self, thorax: PhantomPair) -> None:
        fixed, moving = pair_of(thorax, matrix4(np.eye(3), (0.0, 0.0, 90.0)))
        bright, mask = moving.array.copy(), np.ones(moving.array.shape, np.uint8)
        bright[:, :14], mask[:, :14] = 3000.0, 0
        start = start_of(fixed, Source(bright, moving.geometry, mask))
        assert mean_error(thorax, start.matrix, matrix4(np.eye(3), (0.0, 0.0, 90.0))) < BREATHING_MM


class TestWarnings:
    def test_choice_that_is_worse_than_the_stored_position_is_told_with_both_numbers(self, thorax: PhantomPair) -> None:
        fixed, moving = pair_of(thorax)
        start = start_of(part(fixed, 28, 56), moving, "center")
        assert start.chosen == "center"
        chosen, stored = start.similarities["center"], start.similarities["none"]
        assert f"{chosen:.2f} instead of {stored:.2f}" in start.warnings[0]

    @pytest.mark.parametrize("mode", ["none", "center", "mass"])
    def test_choice_that_is_as_good_is_not(self, thorax: PhantomPair, mode: str) -> None:
        assert start_of(*pair_of(thorax), mode).warnings == []

    def test_images_of_different_things_are_told(self, thorax: PhantomPair) -> None:
        noise = np.random.default_rng(0).random((40, 40, 40)).astype(np.float32)
        start = start_of(pair_of(thorax)[0], Source(noise, centered((40, 40, 40), (6.0, 6.0, 6.0))))
        assert "look alike" in start.warnings[0]

    def test_constant_image_is_refused_by_its_name(self, thorax: PhantomPair) -> None:
        fixed, moving = pair_of(thorax)
        with pytest.raises(errors.EngineError, match="moving image is constant"):
            start_of(fixed, Source(np.zeros_like(moving.array), moving.geometry))

    def test_empty_mask_is_refused_as_such(self, thorax: PhantomPair) -> None:
        fixed, moving = pair_of(thorax)
        with pytest.raises(errors.EngineError) as caught:
            start_of(Source(fixed.array, fixed.geometry, np.zeros(fixed.array.shape, np.uint8)), moving)
        assert caught.value.code == errors.MASK_OUTSIDE


class TestRegistration:
    def registered(self, fixed: Source, moving: Source, alignment: str = AUTOMATIC, steps: int = 0) -> Registered:
        pair = (images.to_sitk(source.array, source.geometry) for source in (fixed, moving))
        return register(*pair, Settings(method="none", refinement_steps=steps, device="cpu", alignment=alignment))

    def test_tells_what_it_started_from(self, thorax: PhantomPair) -> None:
        measures = self.registered(*pair_of(thorax, PRONE)).measures
        assert measures["start"] == HALF_TURN + "S"
        assert measures["start_similarity"][HALF_TURN + "S"] > measures["start_similarity"]["none"] + 0.1

    def test_thin_slab_is_registered(self) -> None:
        grid = centered((128, 128, 3), (0.5, 0.5, 0.5))
        texture = np.random.default_rng(2).normal(size=(1, 128, 128))
        fixed = np.repeat(ndimage.gaussian_filter(texture, (0, 4, 4)), 3, axis=0)
        found = self.registered(Source(fixed, grid), Source(np.roll(fixed, 3, axis=2), grid), steps=20)
        inner = found.displacement_lps_mm[:, 20:-20, 20:-20]
        np.testing.assert_allclose(inner.mean((0, 1, 2)), [1.5, 0, 0], atol=0.2)

    def test_passes_the_warning_on(self, thorax: PhantomPair) -> None:
        fixed, moving = pair_of(thorax)
        found = self.registered(part(fixed, 28, 56), moving, alignment="center")
        assert any("less alike than their stored position" in warning for warning in found.warnings)
