"""The demons force against ramps and blobs, whose displacement is known, and the networks that are guided by it."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from DeepAttentionRegEngine.deform.gaussians import grid_coordinates
from DeepAttentionRegEngine.deform.warp import warp
from DeepAttentionRegEngine.networks import build
from DeepAttentionRegEngine.networks.base import ImagePair
from DeepAttentionRegEngine.networks.forces import (
    LONGEST,
    NOISE,
    START_GAIN,
    Flows,
    Guide,
    correlation,
    demons_force,
    described,
    descriptors,
    flows,
    gradient,
    lucas_kanade,
    normalized,
)
from DeepAttentionRegEngine.networks.r2n2 import INNER, _at
from engine_cases import smooth_noise
from r2n2_cases import image_pair, make_network, states

pytestmark = pytest.mark.torch
SIZES = [(9, 12), (8, 9, 10)]


def ramp(size: tuple[int, ...], slopes: tuple[float, ...]) -> torch.Tensor:
    """Return an image that grows by `slopes` per voxel."""
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in size), indexing="ij")
    return sum(slope * axis for slope, axis in zip(slopes, axes, strict=True))[None, None]


def inner(values: torch.Tensor) -> torch.Tensor:
    """Return the values two voxels and more from the border, where all neighbours are there."""
    for axis in range(2, values.ndim):
        values = values.narrow(axis, 2, values.shape[axis] - 4)
    return values


@pytest.mark.parametrize("size", SIZES)
class TestForce:
    def test_gradient_of_a_ramp_is_its_slopes_in_axis_order(self, size: tuple[int, ...]) -> None:
        slopes = (0.5, -0.25, 2.0)[: len(size)]
        found = inner(gradient(ramp(size, slopes))[:, 0])
        for axis, slope in enumerate(slopes):
            torch.testing.assert_close(found[:, axis], torch.full_like(found[:, axis], slope))

    def test_of_a_ramp_is_the_way_to_the_fixed_image(self, size: tuple[int, ...]) -> None:
        slope, shift = 1.0, 0.1
        moving = ramp(size, (slope,) + (0.0,) * (len(size) - 1))
        found = inner(demons_force(moving + shift * slope, moving))
        # The difference over the slope, damped by the difference itself.
        expected = shift * slope**2 / (slope**2 + (shift * slope) ** 2 + NOISE)
        torch.testing.assert_close(found[:, 0], torch.full_like(found[:, 0], expected))
        assert not found[:, 1:].any()

    def test_never_exceeds_half_a_voxel(self, size: tuple[int, ...]) -> None:
        generator = torch.Generator().manual_seed(0)
        fixed, moving = (torch.randn(2, 1, *size, generator=generator) for _ in range(2))
        assert demons_force(fixed, moving).norm(dim=1).max() <= 0.5

    def test_between_equal_images_is_nothing(self, size: tuple[int, ...]) -> None:
        image = ramp(size, (1.0,) * len(size))
        assert not demons_force(image, image).any()


@pytest.mark.parametrize("size", SIZES)
def test_features_are_read_where_a_gaussian_lies(size: tuple[int, ...]) -> None:
    full = tuple(2 * n for n in size)
    features = grid_coordinates(size, full, torch.zeros(1))
    center = torch.tensor([[[0.1, -0.2, 0.3], [-0.3, 0.0, 0.2]]])[..., : len(size)]
    torch.testing.assert_close(_at(features, center, full), center)


@pytest.mark.parametrize(("nd", "per_axis"), [(2, 4), (3, 2)])
def test_prior_spreads_the_gaussians_of_an_untrained_network(nd: int, per_axis: int) -> None:
    network = make_network(nd, gaussians=per_axis**nd, spread=0.05)
    (state,) = states(network, image_pair((32,) * nd), 1, attend=True)
    center = state.evidence.gaussians.center[0]
    places = torch.linspace(-INNER, INNER, per_axis)
    nearest = (center.unsqueeze(-1) - places).abs().amin(-1)
    assert nearest.max() < 0.1
    assert len({tuple(torch.bucketize(c, (places[:-1] + places[1:]) / 2).tolist()) for c in center}) == per_axis**nd


@pytest.mark.parametrize("nd", [2, 3])
def test_all_weights_of_a_local_network_with_forces_learn(nd: int) -> None:
    seen = {"forces": True, "flows": (5, 9)}
    network = make_network(nd, awake=0.3, gaussians=4, spread=0.2, local=True, norm="none", **seen).train()
    *_, last = network.recurse(image_pair((16,) * nd), 2)
    last.displacement.square().sum().backward()
    assert not [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]


def shifted_pair(size: tuple[int, ...], *, inverted: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a fixed and a moving image, two voxels apart along the first axis, of one contrast or of opposite ones."""
    moving = smooth_noise(size, seed=3, sigma=3.0)
    moving = (moving - moving.min()) / (moving.max() - moving.min())
    displacement = torch.zeros(1, len(size), *size)
    displacement[:, 0] = 2.0
    fixed = warp(moving, displacement)
    return (1 - fixed) ** 2 if inverted else fixed, moving


def found_untrained(architecture: str, settings: dict[str, object], pair: ImagePair) -> torch.Tensor:
    """Return what four recursions of an untrained network find, eight voxels and more from the border."""
    torch.manual_seed(0)
    network = build(architecture, settings).eval()
    with torch.no_grad():
        *_, last = network.recurse(pair, 4)
    return last.displacement[(..., *(slice(8, -8),) * (pair.fixed.ndim - 2))]


@pytest.mark.slow
class TestGuide:
    @pytest.mark.parametrize("inverted", [False, True], ids=["one contrast", "two contrasts"])
    @pytest.mark.parametrize("size", [(48, 52), (40, 36, 44)], ids=["2d", "3d"])
    def test_flow_is_the_shift_whatever_the_contrast(self, size: tuple[int, ...], inverted: bool) -> None:
        fixed, moving = (descriptors(image, (1,))[1] for image in shifted_pair(size, inverted=inverted))
        for flow in lucas_kanade(fixed, moving, (5, 9)):
            assert flow.shape == (1, len(size), *(n // 2 for n in size))
            inside = flow[(..., *(slice(4, -4),) * len(size))]
            assert 0.4 < float(inside[:, 0].mean()) < 1.2  # of one voxel at half resolution
            assert float(inside[:, 1:].mean((0, *range(2, flow.ndim))).abs().max()) < 0.2

    @pytest.mark.parametrize("size", [(14, 16), (13, 14, 15)])
    def test_flow_of_a_ramp_is_the_shift_but_no_longer_than_can_be_seen(self, size: tuple[int, ...]) -> None:
        # A ramp along every axis in a channel of its own, so that the shift has one solution.
        channels = [ramp(size, tuple(float(axis == other) for other in range(len(size)))) for axis in range(len(size))]
        moving = torch.cat(channels, 1)
        shift = torch.tensor([0.5, -0.25, 0.1][: len(size)]).view(1, -1, *[1] * len(size))
        (found,) = lucas_kanade(moving + shift, moving, (3,))
        damped = shift / (1 + 0.05 * len(size))
        inside = found[(..., *(slice(4, -4),) * len(size))]
        torch.testing.assert_close(inside, damped.expand_as(inside), rtol=1e-3, atol=1e-3)
        (far,) = lucas_kanade(moving + 100 * shift, moving, (3,))
        assert float(far.norm(dim=1).max()) == pytest.approx(LONGEST)

    @pytest.mark.parametrize("size", [(48, 53), (40, 36, 45)], ids=["2d", "3d"])
    def test_flow_between_normalised_images_is_the_shift_whatever_gain_and_offset(self, size: tuple[int, ...]) -> None:
        fixed, moving = shifted_pair(size, inverted=False)
        first, second = normalized(0.3 * fixed + 0.2), normalized(moving)
        for flow in lucas_kanade(first, second, (5, 9), halved=True):
            assert flow.shape == (1, len(size), *(n // 2 for n in size))
            inside = flow[(..., *(slice(4, -4),) * len(size))]
            assert 0.4 < float(inside[:, 0].mean()) < 1.2  # of one voxel at half resolution
            assert float(inside[:, 1:].mean((0, *range(2, flow.ndim))).abs().max()) < 0.2

    @pytest.mark.parametrize("size", [(48, 53), (40, 36, 45)], ids=["2d", "3d"])
    def test_halved_flow_is_that_of_the_images_in_larger_voxels(self, size: tuple[int, ...]) -> None:
        fixed, moving = (normalized(image) for image in shifted_pair(size, inverted=False))
        (whole,), (halved,) = lucas_kanade(fixed, moving, (9,)), lucas_kanade(fixed, moving, (5,), halved=True)
        assert float(halved[:, 0].mean()) == pytest.approx(float(whole[:, 0].mean()) / 2, rel=0.2)

    def test_correlation_tells_one_contrast_from_two(self) -> None:
        image = torch.rand(1, 1, 32, 36, 35, generator=torch.Generator().manual_seed(0))
        alike, opposite = (correlation(normalized(image), normalized(other)) for other in (2 * image, 1 - image))
        assert alike.shape == (1, 1, 16, 18, 17)
        assert float(alike.median()) > 0.8
        assert float(opposite.median()) < -0.8

    def test_flow_between_images_that_do_not_correlate_does_not_count(self) -> None:
        fixed, moving = shifted_pair((48, 52), inverted=False)
        known = described(fixed, (), (3,))
        (same,), (opposite,) = (
            flows(known, described(image, (), (3,)), (), (3,)).candidates for image in (moving, 1 - moving)
        )
        assert float(same.abs().mean()) > 0.1
        assert not opposite.any()

    def test_nothing_is_to_be_seen_in_flat_images(self) -> None:
        flat = normalized(torch.full((1, 1, 12, 14), 0.4))
        assert float(flat.abs().max()) < 1e-2

    def test_each_image_of_a_batch_has_its_own_descriptor(self) -> None:
        images = torch.cat(shifted_pair((32, 36), inverted=True))
        both = descriptors(images, (0, 1))
        for index in range(2):
            alone = descriptors(images[index : index + 1], (0, 1))
            for level in (0, 1):
                torch.testing.assert_close(both[level][index : index + 1], alone[level])

    def test_candidates_of_all_scales_add_up_in_voxels_of_the_features(self) -> None:
        guide = Guide(2, 4, 2)
        fine, coarse = torch.full((1, 2, 8, 8), 0.25), torch.full((1, 2, 4, 4), -0.5)
        found = guide(torch.randn(1, 4, 8, 8), Flows([fine, coarse]))
        torch.testing.assert_close(found, torch.full((1, 2, 8, 8), START_GAIN * (0.25 - 2 * 0.5)))

    @pytest.mark.parametrize("architecture", ["rman", "adregnet"])
    @pytest.mark.parametrize("size", [(64, 70), (48, 52, 49)], ids=["2d", "3d"])
    def test_guided_network_goes_the_right_way_untrained(self, size: tuple[int, ...], architecture: str) -> None:
        settings = {
            "nd": len(size),
            "widths": "tiny",
            "flow_level": 1,
            "guides": ((1, 5), (1, 9), (2, 9)),
            "velocity_steps": 5,
        }
        inside = found_untrained(architecture, settings, ImagePair(*shifted_pair(size, inverted=True)))
        assert 0.5 < float(inside[:, 0].mean()) < 3.0
        assert float(inside[:, 1:].mean((0, *range(2, inside.ndim))).abs().max()) < 0.5

    @pytest.mark.parametrize("architecture", ["rman", "adregnet"])
    @pytest.mark.parametrize("size", [(64, 71), (48, 52, 49)], ids=["2d", "3d"])
    def test_correlated_network_goes_the_right_way_untrained(self, size: tuple[int, ...], architecture: str) -> None:
        settings = {"nd": len(size), "widths": "tiny", "flow_level": 1, "correlated": (3, 5), "velocity_steps": 5}
        inside = found_untrained(architecture, settings, ImagePair(*shifted_pair(size, inverted=False)))
        assert 1.0 < float(inside[:, 0].mean()) < 2.5
        assert float(inside[:, 1:].mean((0, *range(2, inside.ndim))).abs().max()) < 0.3

    @pytest.mark.parametrize("architecture", ["rman", "adregnet"])
    def test_gain_learns(self, architecture: str) -> None:
        torch.manual_seed(0)
        guides = {"guides": ((1, 5), (1, 9), (2, 9)), "correlated": (3,)}
        network = build(architecture, {"nd": 2, "widths": "tiny", "flow_level": 1, **guides})
        *_, last = network.recurse(ImagePair(*shifted_pair((40, 44), inverted=True)), 2)
        last.displacement.square().mean().backward()
        gains = [value.grad for name, value in network.named_parameters() if "guide" in name]
        assert gains
        assert all(float(grad.abs().sum()) > 0 for grad in gains)
