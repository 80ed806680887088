"""Cross-attention in both directions: symmetry, plain references, and the motion that it reads."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from DeepAttentionRegEngine.deform.warp import identity_grid
from DeepAttentionRegEngine.networks import cross_attention
from DeepAttentionRegEngine.networks.cross_attention import GlobalAttention, NeighbourhoodAttention, sinusoidal_code

pytestmark = pytest.mark.torch

CHANNELS = 12
SIZE = {2: (6, 5), 3: (4, 5, 6)}
both = pytest.mark.parametrize("kind", [GlobalAttention, NeighbourhoodAttention])
dimensions = pytest.mark.parametrize("nd", [2, 3])


def random_maps(spatial: tuple[int, ...], channels: int = CHANNELS, seed: int = 0, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, *spatial, generator=generator)


def maps_pair(nd: int, **shape: int) -> tuple[Tensor, Tensor]:
    return random_maps(SIZE[nd], seed=1, **shape), random_maps(SIZE[nd], seed=2, **shape)


def make(kind: type[nn.Module], nd: int, channels: int = CHANNELS, **arguments: int) -> nn.Module:
    """Return a module whose weights are all random, those that start at zero too."""
    torch.manual_seed(0)
    module = kind(nd, channels, **arguments)
    for weight in module.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    return module.eval()


class TestBoth:
    @both
    @dimensions
    @torch.no_grad()
    def test_swapped_inputs_swap_the_outputs(self, kind: type[nn.Module], nd: int) -> None:
        module, (a, b) = make(kind, nd), maps_pair(nd)
        (new_a, new_b, _), (other_b, other_a, _) = module(a, b), module(b, a)
        # 1e-6: the same sums at another place of the batch.
        torch.testing.assert_close((new_a, new_b), (other_a, other_b), atol=1e-6, rtol=1e-6)

    @both
    @dimensions
    @torch.no_grad()
    def test_batch_of_two_gives_what_two_single_pairs_give(self, kind: type[nn.Module], nd: int) -> None:
        module, (a, b) = make(kind, nd), maps_pair(nd, batch=2)
        together, apart = module(a, b), [module(a[i : i + 1], b[i : i + 1]) for i in range(2)]
        for whole, *parts in zip(together, *apart, strict=True):
            torch.testing.assert_close(whole, torch.cat(parts), atol=1e-5, rtol=0)

    @both
    @dimensions
    def test_gradient_is_the_numeric_one(self, kind: type[nn.Module], nd: int) -> None:
        module = make(kind, nd, channels=4, heads=2).double()
        maps = (random_maps((3, 2, 3)[:nd], 4, seed).double().requires_grad_() for seed in (1, 2))
        assert torch.autograd.gradcheck(module, tuple(maps), fast_mode=True)

    @both
    @dimensions
    def test_every_weight_learns(self, kind: type[nn.Module], nd: int) -> None:
        module = kind(nd, CHANNELS)
        sum(out.square().sum() for out in module(*maps_pair(nd))).backward()
        assert not [name for name, weight in module.named_parameters() if float(weight.grad.abs().max()) == 0]

    @both
    @dimensions
    @torch.no_grad()
    def test_flat_maps_give_finite_output(self, kind: type[nn.Module], nd: int) -> None:
        flat = torch.zeros(1, CHANNELS, *SIZE[nd])
        assert all(torch.isfinite(out).all() for out in make(kind, nd)(flat, flat))

    @both
    @torch.no_grad()
    def test_volume_without_change_along_an_axis_gives_what_its_slice_gives(
        self, kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The code of positions has other frequencies in 3D.
        monkeypatch.setattr(cross_attention, "sinusoidal_code", lambda p, c: torch.zeros(1, p[0, 0].numel(), c))
        flat, volume = make(kind, 2), kind(3, CHANNELS)
        state = {name: w[..., None] if w.ndim == 4 else w for name, w in flat.state_dict().items()}
        if "offset_bias" in state:
            state["offset_bias"] = state["offset_bias"][:, :, None].expand(-1, -1, 3).flatten(1)
        volume.load_state_dict(state)
        maps = maps_pair(2)
        expected = flat(*maps)
        found = volume(*(x[..., None].expand(-1, -1, -1, -1, 4) for x in maps))
        for index in range(2):
            torch.testing.assert_close(found[index], expected[index][..., None].expand_as(found[index]))


def plain_rows(module: GlobalAttention, asking: Tensor, asked: Tensor) -> Tensor:
    """Return the attention rows `(heads, n, n)` of full keys, written out for one image each."""

    def projected(maps: Tensor, layer: nn.Linear) -> Tensor:
        tokens = module.norm(maps.flatten(2).transpose(1, 2))
        code = sinusoidal_code(identity_grid(maps.shape[2:], maps), maps.shape[1])
        return layer(tokens + code).unflatten(2, (module.heads, -1))[0].transpose(0, 1)

    query, key = projected(asking, module.query), projected(asked, module.key)
    return torch.softmax(query @ key.transpose(1, 2) / math.sqrt(query.shape[-1]), -1)


class TestGlobal:
    @dimensions
    @torch.no_grad()
    def test_output_is_the_formula(self, nd: int) -> None:
        module, (a, b) = make(GlobalAttention, nd), maps_pair(nd)
        rows = plain_rows(module, b, a)
        tokens = [x.flatten(2).transpose(1, 2)[0] for x in (a, b)]
        values = module.value(module.norm(tokens[0])).unflatten(1, (module.heads, -1)).transpose(0, 1)
        read = module.output((rows @ values).transpose(0, 1).flatten(1))
        middle = tokens[1] + module.gains[0] * read
        expected = middle + module.gains[1] * module.feed_forward(middle)
        torch.testing.assert_close(module(a, b)[1].flatten(2)[0].T, expected, atol=1e-5, rtol=0)

    @dimensions
    @torch.no_grad()
    def test_motion_token_is_the_expected_displacement(self, nd: int) -> None:
        module, (a, b) = make(GlobalAttention, nd), maps_pair(nd)
        places = identity_grid(a.shape[2:], a).flatten(2)[0].T
        expected = plain_rows(module, b, a).mean(0) @ places - places
        torch.testing.assert_close(module(a, b)[2].flatten(2)[0].T, expected, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("shift", [(0, 3), (-2, 0), (2, -3)])
    @torch.no_grad()
    def test_motion_token_follows_a_shift(self, shift: tuple[int, int]) -> None:
        torch.manual_seed(0)
        module = GlobalAttention(2, 64, heads=1)
        for layer in (module.query, module.key):
            layer.weight.data *= 3  # sharp
        a = random_maps((10, 12), 64)
        b = torch.roll(a, [-s for s in shift], (2, 3))  # b(x) = a(x + shift)
        motion = module(a, b)[2][:, :, 3:-3, 3:-3]
        expected = torch.tensor(shift, dtype=torch.float32).view(1, 2, 1, 1).expand_as(motion)
        # A few thousandths of the weight stay with other places.
        torch.testing.assert_close(motion, expected, atol=0.05, rtol=0)

    @pytest.mark.parametrize(
        ("spatial", "edge"), [((20, 24, 28), 2), ((16, 16, 16), 2), ((12, 12, 12), 1), ((27, 27, 27), 3), ((64, 64), 2)]
    )
    def test_keys_are_pooled_just_enough(self, spatial: tuple[int, ...], edge: int) -> None:
        assert GlobalAttention(len(spatial), 8).pooling(spatial) == edge

    @dimensions
    @torch.no_grad()
    def test_pooled_keys_of_blocks_without_change_give_the_same_motion(
        self, nd: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Where the keys of a block are alike, pooling keeps each block's share of the attention.
        monkeypatch.setattr(cross_attention, "sinusoidal_code", lambda p, c: torch.zeros(1, p[0, 0].numel(), c))
        spatial = (4, 6, 4)[:nd]
        blocks = random_maps(tuple(n // 2 for n in spatial), seed=1)
        a, b = F.interpolate(blocks, scale_factor=2.0, mode="nearest"), random_maps(spatial, seed=2)
        full, pooled = (
            make(GlobalAttention, nd, most_keys=keys) for keys in (math.prod(spatial), blocks[0, 0].numel())
        )
        assert (full.pooling(spatial), pooled.pooling(spatial)) == (1, 2)
        for expected, found in zip(full(a, b)[1:], pooled(a, b)[1:], strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)

    @dimensions
    @torch.no_grad()
    def test_observed_attention_is_what_was_read(self, nd: int) -> None:
        module, (a, b) = make(GlobalAttention, nd), maps_pair(nd)
        seen = module.observed(a, b, "level 4", 16)
        rows = torch.softmax(seen.query @ seen.key.transpose(1, 2) / math.sqrt(seen.query.shape[-1]), -1)
        torch.testing.assert_close(rows, plain_rows(module, b, a), atol=1e-5, rtol=0)
        torch.testing.assert_close(rows.sum(-1), torch.ones_like(rows[..., 0]))
        assert (seen.query_size, seen.key_size, seen.query_stride, seen.key_stride) == (SIZE[nd], SIZE[nd], 16, 16)

    @torch.no_grad()
    def test_observed_pooled_keys_say_their_stride(self) -> None:
        seen = make(GlobalAttention, 2, most_keys=12).observed(*(random_maps((8, 6)) for _ in range(2)), "x", 8)
        assert (seen.key_size, seen.key_stride, tuple(seen.key.shape)) == ((4, 3), 16, (4, 12, 3))
        assert (seen.query_size, seen.query_stride) == ((8, 6), 8)


class TestPositionCode:
    @pytest.mark.parametrize(("nd", "channels"), [(2, 16), (3, 16), (3, 64), (3, 4)])
    def test_code_has_the_width_asked_for(self, nd: int, channels: int) -> None:
        code = sinusoidal_code(identity_grid(SIZE[nd], torch.zeros(1)), channels)
        assert code.shape == (1, math.prod(SIZE[nd]), channels)

    def test_places_differ(self) -> None:
        code = sinusoidal_code(identity_grid((12, 12), torch.zeros(1)), 32)[0]
        assert float((torch.cdist(code, code) + 9 * torch.eye(144)).min()) > 0.1


class TestNeighbourhood:
    @pytest.mark.parametrize("radius", [1, 2])
    @dimensions
    @torch.no_grad()
    def test_rows_sum_to_one(self, nd: int, radius: int) -> None:
        rows = make(NeighbourhoodAttention, nd, radius=radius).weights(*maps_pair(nd))
        assert rows.shape == (1, 2, (2 * radius + 1) ** nd, *SIZE[nd])
        torch.testing.assert_close(rows.sum(2), torch.ones_like(rows[:, :, 0]))

    @dimensions
    @torch.no_grad()
    def test_loop_over_slices_is_the_unfolded_reference(self, nd: int) -> None:
        module, spatial = make(NeighbourhoodAttention, nd), (5,) * nd
        a, b = random_maps(spatial, seed=1), random_maps(spatial, seed=2)

        def unfolded(maps: Tensor, value: float = 0.0) -> Tensor:
            """Return `(heads, d, n, offsets)` of every voxel's neighbours, the offsets in C order."""
            padded = F.pad(maps, [1, 1] * nd, value=value)
            for axis in range(2, nd + 2):
                padded = padded.unfold(axis, 3, 1)
            return padded.flatten(2 + nd).flatten(2, 1 + nd)[0].unflatten(0, (-1, min(16, maps.shape[1])))

        query = module.query(b).flatten(2)[0].unflatten(0, (2, 16))
        logits = torch.einsum("hdn,hdnk->hnk", query, unfolded(module.key(a))) / 4 + module.offset_bias[:, None]
        logits = logits + unfolded(torch.zeros(1, 1, *spatial), -math.inf)[:, 0]
        read = torch.einsum("hnk,hdnk->hdn", torch.softmax(logits, -1), unfolded(module.value(a)))
        gain = module.gain.view(-1, *[1] * nd)
        expected = b + gain * module.output(read.flatten(0, 1).unflatten(1, spatial)[None])
        torch.testing.assert_close(module(a, b)[1], expected, atol=1e-5, rtol=0)

    @dimensions
    @pytest.mark.parametrize("axis", [0, 1])
    @pytest.mark.parametrize("sign", [1, -1])
    @torch.no_grad()
    def test_motion_token_is_the_shift(self, nd: int, axis: int, sign: int) -> None:
        module = NeighbourhoodAttention(nd, 32)
        for layer in (module.query, module.key):
            layer.weight.data = 20 * torch.eye(32).view_as(layer.weight)
        # Unit vectors in each head, so that none resembles a place more than the place itself.
        a = F.normalize(random_maps((7, 6, 7)[:nd], 32).unflatten(1, (2, 16)), dim=2).flatten(1, 2)
        b = torch.roll(a, -sign, 2 + axis)  # b(x) = a(x + sign)
        motion = module(a, b)[2].unflatten(1, (2, nd))[(..., *[slice(1, -1)] * nd)]
        expected = torch.zeros_like(motion)
        expected[:, :, axis] = sign
        torch.testing.assert_close(motion, expected, atol=1e-3, rtol=0)

    @torch.no_grad()
    def test_offsets_outside_the_map_are_left_out(self) -> None:
        module, (a, b) = make(NeighbourhoodAttention, 2), maps_pair(2)
        rows = module.weights(b, a)
        corner = [o for o, offset in enumerate(module.offsets) if min(offset) < 0]
        assert float(rows[:, :, corner, 0, 0].abs().max()) == 0
