"""The demons force against ramps, whose displacement is known, and R2N2 that looks at it where its Gaussians lie."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from DeepAttentionRegEngine.gaussians import grid_coordinates
from DeepAttentionRegEngine.networks.forces import NOISE, demons_force, gradient
from DeepAttentionRegEngine.networks.r2n2 import INNER, _at
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
        found = inner(gradient(ramp(size, slopes)))
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
    network = make_network(nd, awake=0.3, gaussians=4, spread=0.2, local=True, forces=True, norm="none").train()
    *_, last = network.recurse(image_pair((16,) * nd), 2)
    last.displacement.square().sum().backward()
    assert not [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
