"""The AD-RegNet-style network: sizes, start, pyramid, what it attended to, precision, and that it can learn."""

import pytest
import torch
from torch import Tensor

from DeepAttentionRegEngine.deform.losses import diffusion, local_ncc, mean_squared
from DeepAttentionRegEngine.deform.warp import (
    compose,
    identity_grid,
    jacobian_determinant,
    resize,
    resize_displacement,
    warp,
)
from DeepAttentionRegEngine.networks import build
from DeepAttentionRegEngine.networks.adregnet import Adregnet, AdregnetSettings
from DeepAttentionRegEngine.networks.base import Evidence, ImagePair
from DeepAttentionRegEngine.networks.regional import FLOOR
from engine_cases import count_weights, smooth_displacement, smooth_noise

pytestmark = pytest.mark.torch

FLAT, VOLUME = (37, 50), (32, 37, 32)
sizes = pytest.mark.parametrize("spatial", [FLAT, VOLUME], ids=["2d", "3d"])


def make_network(nd: int, *, flow: float = 1.0, seed: int = 0, **arguments: object) -> Adregnet:
    """Return an untrained network in evaluation mode; `flow` scales what it predicts at the start."""
    torch.manual_seed(seed)
    network = Adregnet(AdregnetSettings(**{"nd": nd, "widths": "tiny", **arguments})).eval()
    for level in network.decoder.values():
        if level.flow is not None:
            level.flow.weight.data *= flow
    return network


def image_pair(spatial: tuple[int, ...], sigma: float = 1.5) -> tuple[Tensor, Tensor]:
    return smooth_noise(spatial, seed=1, sigma=sigma), smooth_noise(spatial, seed=2, sigma=sigma)


class TestSize:
    @pytest.mark.parametrize(
        ("nd", "widths", "count"),
        [(3, "default", 4_909_654), (2, "default", 1_889_070), (3, "light", 1_925_310), (2, "light", 730_214)],
    )
    def test_number_of_weights(self, nd: int, widths: str, count: int) -> None:
        # Counted once; a change means that published weight files no longer fit.
        assert count_weights(Adregnet(AdregnetSettings(nd=nd, widths=widths))) == count

    @pytest.mark.parametrize(("part", "word"), [("cross_attention", "exchange"), ("regional_attention", "regional")])
    def test_attention_can_be_left_out(self, part: str, word: str) -> None:
        assert [name for name, _ in make_network(2).named_parameters() if word in name]
        assert not [name for name, _ in make_network(2, **{part: False}).named_parameters() if word in name]

    @pytest.mark.slow
    @pytest.mark.parametrize("spatial", [(37, 37, 37), (50, 33, 41), (32, 32, 32), (37, 37), (32, 65), (48, 64)])
    @pytest.mark.parametrize("flow_level", [0, 1])
    @torch.no_grad()
    def test_output_has_the_size_of_the_input(self, spatial: tuple[int, ...], flow_level: int) -> None:
        fixed, moving = image_pair(spatial)
        assert make_network(len(spatial), flow_level=flow_level)(moving, fixed).shape == (1, len(spatial), *spatial)

    def test_short_axis_is_refused(self) -> None:
        image = torch.zeros(1, 1, 31, 40)
        with pytest.raises(ValueError, match=r"31.*32"):
            next(make_network(2).recurse(ImagePair(image, image), 1))

    @pytest.mark.parametrize("wrong", [{"levels": 0}, {"levels": 5}, {"flow_level": 2}, {"neighbourhood_levels": [3]}])
    def test_level_that_there_is_not_is_refused(self, wrong: dict[str, object]) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build("adregnet", wrong)


class TestStart:
    @pytest.mark.parametrize("nd", [2, 3])
    @pytest.mark.parametrize("widths", ["tiny", "default"])
    @torch.no_grad()
    def test_untrained_network_moves_nothing(self, nd: int, widths: str) -> None:
        fixed, moving = image_pair((37, 32, 34)[:nd], sigma=2.5)
        displacement = make_network(nd, widths=widths)(moving, fixed)
        assert float(displacement.abs().max()) < 0.05
        torch.testing.assert_close(warp(moving, displacement), moving, atol=1e-2, rtol=0)
        assert float(diffusion(displacement)) < 1e-5

    @sizes
    @pytest.mark.parametrize("value", [0.0, 0.7])
    def test_flat_images_give_finite_fields_and_gradients(self, spatial: tuple[int, ...], value: float) -> None:
        network, flat = make_network(len(spatial), flow=1000.0), torch.full((1, 1, *spatial), value)
        displacement = network(flat, flat)
        (1 - local_ncc(warp(flat, displacement), flat) + diffusion(displacement)).backward()
        assert torch.isfinite(displacement).all()
        assert all(torch.isfinite(weight.grad).all() for weight in network.parameters() if weight.grad is not None)

    @torch.no_grad()
    def test_same_seed_gives_the_same_field(self) -> None:
        fixed, moving = image_pair(FLAT)
        first, second = (make_network(2, flow=1000.0)(moving, fixed) for _ in range(2))
        assert torch.equal(first, second)

    @torch.no_grad()
    def test_runaway_prediction_is_held_to_half_the_image(self) -> None:
        network = make_network(2)
        network.decoder["1"].flow.bias.data += 1e4
        displacement = network(*image_pair(FLAT))
        assert [float(channel.max()) for channel in displacement[0]] == [FLAT[0] / 2, FLAT[1] / 2]


class TestPyramid:
    @sizes
    @pytest.mark.parametrize("flow_level", [0, 1])
    @torch.no_grad()
    def test_every_level_covers_the_whole_image(self, spatial: tuple[int, ...], flow_level: int) -> None:
        fixed, moving = image_pair(spatial)
        pyramid = make_network(len(spatial), flow_level=flow_level).pyramid(moving, fixed)
        expected = {level: tuple(-(-n // 2**level) for n in spatial) for level in range(4, flow_level - 1, -1)}
        assert {level: tuple(u.shape[2:]) for level, u in pyramid.displacements.items()} == expected
        assert {level: tuple(s.shape[2:]) for level, s in pyramid.relevances.items()} == expected

    @torch.no_grad()
    def test_forward_is_the_top_of_the_pyramid(self) -> None:
        network, (fixed, moving) = make_network(2, flow=1000.0), image_pair(FLAT)
        pyramid = network.pyramid(moving, fixed)
        assert torch.equal(network(moving, fixed), pyramid.displacement)
        assert float(pyramid.displacement.abs().max()) > 0.5

    @sizes
    @pytest.mark.parametrize("level", [1, 2, 3, 4])
    @torch.no_grad()
    def test_translation_predicted_at_one_level_arrives_everywhere(self, spatial: tuple[int, ...], level: int) -> None:
        nd = len(spatial)
        network, (fixed, moving) = make_network(nd, flow=0.0, regional_attention=False), image_pair(spatial)
        shift = torch.tensor([1.0, -2.0, 3.0][:nd])
        network.decoder[str(level)].flow.bias.data = shift / 2**level
        pyramid = network.pyramid(moving, fixed)
        expected = shift.view(1, -1, *[1] * nd)
        torch.testing.assert_close(pyramid.displacement, expected.expand(1, nd, *spatial), atol=1e-4, rtol=0)
        for finer in range(1, level + 1):
            field = pyramid.displacements[finer]
            ratio = torch.tensor([n / m for n, m in zip(spatial, field.shape[2:], strict=True)]).view_as(expected)
            torch.testing.assert_close(field * ratio, expected.expand_as(field), atol=1e-4, rtol=0)

    @torch.no_grad()
    def test_translations_of_all_levels_add_up(self) -> None:
        network, (fixed, moving) = make_network(2, flow=0.0, regional_attention=False), image_pair(FLAT)
        for level, step in network.decoder.items():
            step.flow.bias.data = torch.tensor([1.0, 0.5]) / 2 ** int(level)
        expected = torch.tensor([4.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, *FLAT)
        torch.testing.assert_close(network(moving, fixed), expected, atol=1e-4, rtol=0)

    @torch.no_grad()
    def test_finer_step_acts_first(self) -> None:
        network, (fixed, moving) = make_network(2, flow=2000.0, regional_attention=False), image_pair((48, 64))
        before = network.pyramid(moving, fixed).displacements
        network.decoder["1"].flow.weight.data.zero_()
        network.decoder["1"].flow.bias.data = torch.tensor([1.5, -0.5])
        step = torch.tensor([1.5, -0.5]).view(1, 2, 1, 1).expand_as(before[1])
        expected = compose(resize_displacement(before[2], (24, 32)), step)
        torch.testing.assert_close(network.pyramid(moving, fixed).displacements[1], expected, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("levels", [1, 2, 3, 4])
    @torch.no_grad()
    def test_only_the_levels_asked_for_add_to_the_field(self, levels: int) -> None:
        fixed, moving = image_pair(FLAT)
        pyramid = make_network(2, levels=levels).pyramid(moving, fixed)
        assert list(pyramid.displacements) == list(range(levels, 0, -1))

    @sizes
    @torch.no_grad()
    def test_integrated_steps_do_not_fold(self, spatial: tuple[int, ...]) -> None:
        fixed, moving = image_pair(spatial)
        folds = {}
        for steps in (0, 5):
            network = make_network(len(spatial), flow=6000.0, velocity_steps=steps)
            folds[steps] = float((jacobian_determinant(network(moving, fixed)) <= 0).float().mean())
        assert folds[0] > 10 * folds[5]

    @sizes
    def test_linear_field_has_the_determinant_of_its_matrix(self, spatial: tuple[int, ...]) -> None:
        field = 0.1 * identity_grid(spatial, torch.zeros(1, dtype=torch.float64))
        expected = torch.full_like(jacobian_determinant(field), 1.1 ** len(spatial))
        torch.testing.assert_close(jacobian_determinant(field), expected)

    @sizes
    def test_gradient_through_warp_and_composition_is_the_numeric_one(self, spatial: tuple[int, ...]) -> None:
        size = (6,) * len(spatial)
        fields = [smooth_displacement(size, peak=0.7, seed=seed, sigma=1.0).double() for seed in (1, 2)]
        inputs = [field.requires_grad_() for field in fields]
        image = smooth_noise(size).double()
        assert torch.autograd.gradcheck(lambda u, d: warp(image, compose(u, d)), inputs, fast_mode=True)


class TestEvidence:
    @sizes
    @torch.no_grad()
    def test_relevance_is_shown_on_the_fixed_image(self, spatial: tuple[int, ...]) -> None:
        fixed, moving = image_pair(spatial)
        (state,) = make_network(len(spatial)).recurse(ImagePair(fixed, moving), 1, attend=True)
        assert [shown.name for shown in state.evidence.maps] == [f"relevance, level {n}" for n in (4, 3, 2, 1)]
        assert {shown.image for shown in state.evidence.maps} == {"fixed"}
        assert all(float(shown.values.min()) >= FLOOR and shown.values.shape[1] == 1 for shown in state.evidence.maps)

    @torch.no_grad()
    def test_relevance_lies_where_it_was_computed(self) -> None:
        network = make_network(2)
        # A relevance that falls along the last axis, on the grid of 48 x 64 voxels that 37 x 50 are continued to.
        ramp = torch.linspace(-2, 2, 32).expand(1, 1, 24, 32)
        network.decoder["1"].regional.relevance.register_forward_hook(lambda *_: ramp)
        relevance = network.pyramid(*image_pair(FLAT)).relevances[1]
        whole = resize(FLOOR + (1 - FLOOR) * torch.sigmoid(ramp), (48, 64))[..., :37, :50]
        # 0.01: interpolated twice.
        torch.testing.assert_close(resize(relevance, FLAT)[..., 1:-1], whole[..., 1:-1], atol=0.01, rtol=0)

    @sizes
    @torch.no_grad()
    def test_attention_of_the_global_levels_is_kept(self, spatial: tuple[int, ...]) -> None:
        evidence, (fixed, moving) = Evidence(), image_pair(spatial)
        make_network(len(spatial))(moving, fixed, evidence)
        assert [(seen.name, seen.query_stride) for seen in evidence.attention] == [("level 4", 16), ("level 3", 8)]
        for seen in evidence.attention:
            assert seen.query_size == tuple(-(-n // 16) * 16 // seen.query_stride for n in spatial)
            rows = torch.softmax(seen.query @ seen.key.transpose(1, 2) / seen.query.shape[2] ** 0.5, -1)
            torch.testing.assert_close(rows.sum(-1), torch.ones_like(rows[..., 0]))

    @torch.no_grad()
    def test_looking_changes_nothing(self) -> None:
        network, (fixed, moving) = make_network(2, flow=1000.0), image_pair(FLAT)
        assert torch.equal(network(moving, fixed), network(moving, fixed, Evidence()))


class TestPrecision:
    @sizes
    @torch.no_grad()
    def test_half_precision_moves_voxels_hardly_differently(self, spatial: tuple[int, ...]) -> None:
        network, (fixed, moving) = make_network(len(spatial), flow=300.0), image_pair(spatial, sigma=2.5)
        exact = list(network.recurse(ImagePair(fixed, moving), 2))[-1].displacement
        network.half_precision = True
        rounded = list(network.recurse(ImagePair(fixed, moving), 2))[-1].displacement
        assert float(exact.abs().max()) > 1
        assert rounded.dtype == torch.float32
        # Less than a twentieth of a voxel, as for all networks.
        assert float((rounded - exact).abs().max()) < 0.05

    @sizes
    @torch.no_grad()
    def test_batch_of_two_gives_what_two_single_pairs_give(self, spatial: tuple[int, ...]) -> None:
        network, (fixed, moving) = make_network(len(spatial), flow=1000.0), image_pair(spatial)
        both = network(torch.cat([fixed, moving]), torch.cat([moving, fixed]))
        apart = torch.cat([network(fixed, moving), network(moving, fixed)])
        # Displacements of about a voxel, summed in another order.
        torch.testing.assert_close(both, apart, atol=1e-3, rtol=0)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    @sizes
    @torch.no_grad()
    def test_gpu_gives_the_field_of_the_cpu(self, spatial: tuple[int, ...]) -> None:
        network, (fixed, moving) = make_network(len(spatial), flow=1000.0), image_pair(spatial)
        expected = network(moving, fixed)
        found = network.cuda()(moving.cuda(), fixed.cuda()).cpu()
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def gradients(network: Adregnet, spatial: tuple[int, ...]) -> dict[str, Tensor]:
    """Return the gradients of the dissimilarity after two recursions."""
    fixed, moving = image_pair(spatial)
    network.zero_grad()
    *_, last = network.recurse(ImagePair(fixed, moving), 2)
    mean_squared(last.warped, fixed).backward()
    return {name: weight.grad.clone() for name, weight in network.named_parameters()}


INSIDE = (..., slice(4, -4), slice(4, -4))


def known_pair() -> tuple[Tensor, Tensor, Tensor]:
    """Return a fixed and a moving image and the displacement between them."""
    truth = smooth_displacement((48, 48), peak=4.0, seed=3, sigma=8.0)
    moving = smooth_noise((48, 48), seed=1, sigma=2.0)
    return warp(moving, truth), moving, truth


def overfit(network: Adregnet, steps: int) -> float:
    """Train on one pair and return the mean error that is left, in voxels."""
    fixed, moving, truth = known_pair()
    optimizer = torch.optim.Adam(network.train().parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        displacement = network(moving, fixed)
        warped = warp(moving, displacement)
        loss = 1 - local_ncc(warped, fixed, 9) + 20 * mean_squared(warped, fixed) + diffusion(displacement)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return float((displacement - truth).detach()[INSIDE].norm(dim=1).mean())


@pytest.fixture(scope="module")
def learned() -> tuple[Adregnet, float]:
    """Return a network that learned one pair, and the error that is left."""
    network = make_network(2)
    return network, overfit(network, steps=40)


@pytest.mark.slow
class TestLearning:
    @pytest.mark.parametrize(("spatial", "flow_level"), [(FLAT, 0), (FLAT, 1), (VOLUME, 1)])
    def test_every_weight_learns_by_the_second_step(self, spatial: tuple[int, ...], flow_level: int) -> None:
        network = make_network(len(spatial), flow_level=flow_level).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        gradients(network, spatial)
        optimizer.step()
        found = gradients(network, spatial)
        assert not [name for name, g in found.items() if not torch.isfinite(g).all() or float(g.abs().max()) == 0]

    def test_recomputed_gradients_are_the_same(self) -> None:
        network = make_network(2, flow=1000.0).train()
        expected = gradients(network, FLAT)
        network.checkpointed = True
        found = gradients(network, FLAT)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)

    def test_one_pair_is_learned(self, learned: tuple[Adregnet, float]) -> None:
        network, after = learned
        fixed, moving, truth = known_pair()
        with torch.no_grad():
            displacement = network(moving, fixed)
        assert float(truth[INSIDE].norm(dim=1).mean()) > 1.9
        assert after < 0.5  # reaches 0.2
        assert float(jacobian_determinant(displacement).min()) > 0

    @torch.no_grad()
    def test_what_was_learned_stays_in_half_precision(self, learned: tuple[Adregnet, float]) -> None:
        fixed, moving, _ = known_pair()
        found = []
        for half in (False, True):
            learned[0].half_precision = half
            found.append(next(learned[0].recurse(ImagePair(fixed, moving), 1)).displacement)
        assert float((found[0] - found[1]).abs().max()) < 0.05

    @pytest.mark.parametrize(
        "change",
        [
            {"cross_attention": False},
            {"regional_attention": False},
            {"cross_attention": False, "regional_attention": False},
            {"levels": 1},
            {"levels": 2},
            {"levels": 3},
            {"flow_level": 0},
            {"velocity_steps": 5},
            {"neighbourhood_levels": (1, 2)},
            {"neighbourhood_radius": 2},
            {"folded": True},
            {"guides": ((1, 5), (2, 5))},
        ],
        ids=str,
    )
    def test_every_variant_learns(self, change: dict[str, object]) -> None:
        before = float(known_pair()[2][INSIDE].norm(dim=1).mean())
        assert overfit(make_network(2, **change), steps=15) < 0.85 * before
