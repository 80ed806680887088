"""Regional adaptive attention: it starts as the identity, its regions share out every voxel, and it learns."""

import pytest
import torch
from torch import Tensor

from DeepAttentionRegEngine.networks.regional import FLOOR, SLOPE, RegionalAttention

pytestmark = pytest.mark.torch

CHANNELS = 6
SIZE = {2: (6, 5), 3: (4, 5, 6)}
dimensions = pytest.mark.parametrize("nd", [2, 3])


def inputs(nd: int, channels: int = CHANNELS, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Return features of both images and a coarser relevance."""
    generator = torch.Generator().manual_seed(1)
    b, a = (torch.randn(batch, channels, *SIZE[nd], generator=generator) for _ in range(2))
    return b, a, torch.rand(batch, 1, *SIZE[nd], generator=generator)


def trained(nd: int, **arguments: int) -> RegionalAttention:
    """Return a module whose weights are all random, those that start at zero too."""
    torch.manual_seed(0)
    module = RegionalAttention(nd, CHANNELS, **arguments)
    for weight in module.parameters():
        weight.data += 0.3 * torch.randn_like(weight)
    return module.eval()


@dimensions
@torch.no_grad()
def test_start_is_the_identity(nd: int) -> None:
    b, a, coarser = inputs(nd)
    new_b, new_a, _ = RegionalAttention(nd, CHANNELS)(b, a, coarser)
    torch.testing.assert_close((new_b, new_a), (b, a), atol=1e-5, rtol=1e-5)


@dimensions
@torch.no_grad()
def test_regions_share_out_every_voxel(nd: int) -> None:
    shares = trained(nd).regions(inputs(nd)[0])
    assert shares.shape == (1, 8, *SIZE[nd])
    torch.testing.assert_close(shares.sum(1), torch.ones_like(shares[:, 0]))


@dimensions
@torch.no_grad()
def test_relevance_lies_between_its_floor_and_one(nd: int) -> None:
    module, (b, a, coarser) = trained(nd), inputs(nd)
    relevance = module(100 * b, 100 * a, coarser)[2]
    assert relevance.shape == (1, 1, *SIZE[nd])
    assert float(relevance.min()) >= FLOOR
    assert float(relevance.max()) <= 1
    assert float(relevance.std()) > 0


@dimensions
@torch.no_grad()
def test_one_region_is_channel_attention(nd: int) -> None:
    module, (b, a, _) = trained(nd, regions=1, coarser=False), inputs(nd)
    means = [x.flatten(2).mean(2) for x in (b, a)]
    hidden = torch.nn.functional.leaky_relu(module.hidden(torch.cat([*means, (means[1] - means[0]).abs()], 1)), SLOPE)
    gain = 2 * torch.sigmoid(module.gain(hidden)).view(1, -1, *[1] * nd)
    new_b, new_a, relevance = module(b, a)
    start = FLOOR + (1 - FLOOR) * float(torch.sigmoid(torch.tensor(2.0)))
    torch.testing.assert_close((new_b, new_a), (b * gain * relevance / start, a * gain * relevance / start))


@dimensions
@torch.no_grad()
def test_every_region_has_its_own_gain(nd: int) -> None:
    module, (b, a, coarser) = trained(nd), inputs(nd)
    shares = module.regions(b)
    gains = module.region_gains(shares, b, a)
    expected = torch.einsum("bk...,bkc->bc...", shares, gains)
    new_b, _, relevance = module(b, a, coarser)
    factor = new_b / b / relevance
    torch.testing.assert_close(factor / factor.mean(), expected / expected.mean(), atol=1e-4, rtol=1e-4)
    assert bool(((gains > 0) & (gains < 2)).all())
    assert float(gains.std(1).max()) > 0.01


@dimensions
def test_gradient_is_the_numeric_one(nd: int) -> None:
    module = trained(nd).double()
    maps = [x.double().requires_grad_() for x in inputs(nd)]
    assert torch.autograd.gradcheck(module, maps, fast_mode=True)


@dimensions
def test_every_weight_learns_by_the_second_step(nd: int) -> None:
    torch.manual_seed(0)
    module, maps = RegionalAttention(nd, CHANNELS), inputs(nd)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        new_b, new_a, relevance = module(*maps)
        (new_b.square().mean() + (new_a * maps[1]).abs().mean() + relevance.square().mean()).backward()
        optimizer.step()
    assert not [name for name, weight in module.named_parameters() if float(weight.grad.abs().max()) == 0]


@torch.no_grad()
def test_volume_without_change_along_an_axis_gives_what_its_slice_gives() -> None:
    flat, volume = trained(2), RegionalAttention(3, CHANNELS)
    # The convolution of kernel 3 acts in its middle slice; a kernel of 1 has one only.
    state = {
        name: torch.stack([0 * w, w, 0 * w], -1) if w.shape[2:] == (3, 3) else w[..., None] if w.ndim == 4 else w
        for name, w in flat.state_dict().items()
    }
    volume.load_state_dict(state)
    found = volume(*(x[..., None].expand(-1, -1, -1, -1, 4) for x in inputs(2)))
    for output, expected in zip(found, flat(*inputs(2)), strict=True):
        torch.testing.assert_close(output, expected[..., None].expand_as(output))


@dimensions
@torch.no_grad()
def test_batch_of_two_gives_what_two_single_pairs_give(nd: int) -> None:
    module, maps = trained(nd), inputs(nd, batch=2)
    apart = [module(*(x[i : i + 1] for x in maps)) for i in range(2)]
    for whole, *parts in zip(module(*maps), *apart, strict=True):
        torch.testing.assert_close(whole, torch.cat(parts))
