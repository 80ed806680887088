"""What has no counterpart is found, and nothing else, where the truth is known."""

from dataclasses import replace

import numpy as np
import pytest

from DeepAttentionRegEngine.maps import change as change_map
from DeepAttentionRegEngine.maps.change import BRIGHTER, CANNOT_TELL, CONSTANT, DARKER, Changes, find_changes
from DeepAttentionRegEngine.phantom.thorax import PhantomPair, default_geometry, make_phantom
from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.volume.geometry import Geometry

LIVER, TUMOR = 5, 8
NOISE_HU = 8.0


def changes_of(fixed: np.ndarray, pair: PhantomPair) -> Changes:
    """Return what of an image has no counterpart in the phantom as it is, with other noise."""
    noise = np.random.default_rng(1).normal(0, NOISE_HU, fixed.shape)
    return find_changes(fixed, pair.fixed + noise, pair.fixed_geometry)


def overlap(found: Changes, mask: np.ndarray) -> float:
    """Return the Dice overlap of what is sure with a mask."""
    assert found.certainty is not None
    sure = found.certainty >= change_map.SURE
    return 2 * float((sure & mask).sum()) / float(sure.sum() + mask.sum())


def ball(geometry: Geometry, center_lps: np.ndarray, radius_mm: float) -> np.ndarray:
    indices = np.indices(geometry.shape).reshape(3, -1)[::-1].T
    distances = np.linalg.norm(geometry.index_to_lps(indices.astype(float)) - center_lps, axis=1)
    return (distances < radius_mm).reshape(geometry.shape)


def middle_of(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    return geometry.index_to_lps(np.argwhere(mask)[:, ::-1].mean(axis=0, keepdims=True))[0]


@pytest.fixture(scope="module")
def pair() -> PhantomPair:
    return make_phantom(default_geometry((64, 54, 64), (5.25, 4.45, 5.25)))


@pytest.fixture(scope="module")
def slices() -> PhantomPair:
    return make_phantom(default_geometry(flat=True))


@pytest.fixture(scope="module")
def oblique() -> PhantomPair:
    """A phantom with slices more than twice as thick as their pixels, turned about all axes."""
    grid = default_geometry((64, 54, 30), (5.25, 4.45, 11.2))
    turned = np.linalg.qr(np.array([[0.9, -0.3, 0.2], [0.3, 0.9, -0.1], [-0.2, 0.2, 0.95]]))[0]
    turned *= np.sign(np.diag(turned))
    return make_phantom(replace(grid, direction=tuple(turned.ravel().tolist())))


def bias(shape: tuple[int, ...]) -> np.ndarray:
    k, j, i = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    return np.exp(0.25 * i - 0.2 * k + 0.15 * i * j)


class TestQuiet:
    @pytest.mark.parametrize(
        "change",
        [
            lambda image: image,
            lambda image: image + np.random.default_rng(2).normal(0, 3 * NOISE_HU, image.shape),
            lambda image: (image + 1000) * bias(image.shape),
            lambda image: 2.5 * image - 300,
            lambda image: image.clip(-1000) + 1000.0,
            lambda image: ((image.clip(-1100) + 1100) / 1500) ** 0.7,
            lambda image: -image,
        ],
        ids=["same", "noise", "bias field", "gain", "brightness", "gamma", "inverted"],
    )
    @pytest.mark.parametrize("which", ["pair", "slices", "oblique"])
    def test_nothing_is_found_without_a_change(self, change, which, request):
        phantom = request.getfixturevalue(which)
        found = changes_of(change(phantom.fixed.astype(float)), phantom)
        assert (found.reason, found.regions) == ("", [])
        assert found.certainty is not None
        assert found.certainty.max() < change_map.SURE

    @pytest.mark.parametrize("axis", [0, 1, 2])
    @pytest.mark.parametrize("voxels", [1, 2])
    def test_boundaries_that_are_off_are_no_change(self, pair, axis, voxels):
        known = np.zeros(pair.fixed.shape, bool)
        known[3:-3, 3:-3, 3:-3] = True  # what is rolled in at the border is another place
        found = find_changes(np.roll(pair.fixed, voxels, axis), pair.fixed, pair.fixed_geometry, known)
        assert found.regions == []

    def test_constant_images_say_so(self, pair):
        flat = np.ones_like(pair.fixed)
        for images in ((flat, pair.fixed), (pair.fixed, flat), (flat, flat)):
            found = find_changes(*images, pair.fixed_geometry)
            assert (found.certainty, found.regions, found.reason) == (None, [], CONSTANT)

    def test_nothing_known_says_so(self, pair):
        nowhere = np.zeros(pair.fixed.shape, bool)
        assert find_changes(pair.fixed, pair.fixed, pair.fixed_geometry, nowhere).reason == CONSTANT


class TestCannotTell:
    def test_of_two_contrasts(self, pair):
        values = np.array([0.0, 0.9, 0.3, 0.3, 0.3, 0.5, 0.9, 0.1, 0.6])
        other = values[pair.fixed_labels] + np.random.default_rng(0).normal(0, 0.02, pair.fixed.shape)
        found = changes_of(other, pair)
        assert (found.certainty, found.regions, found.reason) == (None, [], CANNOT_TELL)

    def test_of_images_that_have_nothing_in_common(self, pair):
        assert changes_of(np.random.default_rng(0).random(pair.fixed.shape), pair).reason == CANNOT_TELL


class TestFound:
    @pytest.mark.parametrize("which", ["pair", "slices", "oblique"])
    def test_new_lesion_in_a_lung(self, which, request):
        phantom = request.getfixturevalue(which)
        geometry = phantom.fixed_geometry
        center = middle_of(phantom.fixed_labels == 2, geometry)
        lesion = ball(geometry, center, 24.0)
        found = changes_of(np.where(lesion, 40.0, phantom.fixed), phantom)
        (region,) = found.regions
        assert region.kind == BRIGHTER
        assert np.linalg.norm(region.center_lps - middle_of(lesion, geometry)) < 5
        assert overlap(found, lesion) > 0.8

    @pytest.mark.parametrize("which", ["pair", "slices", "oblique"])
    def test_enhanced_organ(self, which, request):
        phantom = request.getfixturevalue(which)
        liver = phantom.fixed_labels == LIVER
        found = changes_of(phantom.fixed + 80.0 * liver, phantom)
        assert found.regions[0].kind == BRIGHTER
        assert overlap(found, liver) > 0.8

    def test_resection(self, pair):
        tumor = pair.fixed_labels == TUMOR
        grown = ball(pair.fixed_geometry, middle_of(tumor, pair.fixed_geometry), 20.0)
        before = np.where(grown, 40.0, pair.fixed)
        noise = np.random.default_rng(1).normal(0, NOISE_HU, before.shape)
        found = find_changes(np.where(grown, -810.0, pair.fixed) + noise, before, pair.fixed_geometry)
        assert found.regions[0].kind == DARKER
        assert overlap(found, grown) > 0.6

    def test_size_is_that_of_what_is_marked(self, pair, slices):
        for phantom in (pair, slices):
            geometry, liver = phantom.fixed_geometry, phantom.fixed_labels == LIVER
            found = changes_of(phantom.fixed + 80.0 * liver, phantom)
            marked = float((found.certainty >= change_map.SURE).sum())
            in_plane = geometry.voxel_volume / geometry.spacing[2]
            unit = in_plane if geometry.is_flat else geometry.voxel_volume / 1000
            assert sum(region.size for region in found.regions) == pytest.approx(marked * unit)

    def test_nothing_is_said_where_the_moving_image_is_not_known(self, pair):
        known = np.ones(pair.fixed.shape, bool)
        known[:, :, :32] = False
        warped = np.where(known, pair.fixed, np.nan)
        liver = pair.fixed_labels == LIVER
        for given in (known, None):
            found = find_changes(pair.fixed + 80.0 * liver, warped, pair.fixed_geometry, given)
            assert found.certainty is not None
            assert (found.certainty[:, :, :32] == 0).all()
            assert all(region.size < liver.sum() * pair.fixed_geometry.voxel_volume / 1000 for region in found.regions)

    def test_padding_of_the_fixed_image_is_not_known(self, pair):
        fixed = pair.fixed.copy()
        fixed[:12] = -3000.0
        found = changes_of(fixed, pair)
        assert found.regions == []


def test_sentence_has_place_size_and_kind():
    piece = change_map.Change((-12.2, -3.0, 40.4), 2.104, 0.0, BRIGHTER)
    assert piece.sentence == (
        "What is at R 12, A 3, S 40 (2.1 ml, brighter) has no counterpart in the moving image; "
        "the deformation means nothing there."
    )
    assert "L 12, P 3, I 40 (55 mm2, darker)" in change_map.Change((12.0, 3.0, -40.0), 0.0, 55.2, DARKER).sentence


def test_another_size_than_the_grid_is_refused(pair):
    with pytest.raises(EngineError):
        find_changes(pair.fixed[1:], pair.fixed, pair.fixed_geometry)


def test_slabs_make_up_the_whole(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    liver = pair.fixed_labels == LIVER
    whole = changes_of(pair.fixed + 80.0 * liver, pair)
    monkeypatch.setattr(change_map, "SLAB_VOXELS", 6 * pair.fixed[0].size)
    slabs = changes_of(pair.fixed + 80.0 * liver, pair)
    # Other voxels are sampled, so that the brightness that is expected is another one, if only just.
    np.testing.assert_allclose(slabs.regions[0].size, whole.regions[0].size, rtol=0.02)
