"""AGF: masks, fusion of scales, start, sizes, recursion and evidence."""

from dataclasses import replace

import pytest
import torch

from agf_cases import FLAT, VOLUME, halves, image_pair, loss_terms, make_agf, scales_of, states
from DeepAttentionRegEngine.deform.losses import global_ncc, mean_squared, ssim
from DeepAttentionRegEngine.deform.overlap_losses import code_distance, logit_cross_entropy
from DeepAttentionRegEngine.deform.warp import compose, jacobian_determinant, resize, resize_displacement, warp
from DeepAttentionRegEngine.networks import build
from DeepAttentionRegEngine.networks.agf import Agf, AgfSettings
from DeepAttentionRegEngine.networks.autoencoder import Autoencoder
from DeepAttentionRegEngine.networks.base import ImagePair
from engine_cases import count_weights, ellipses, smooth_noise

pytestmark = pytest.mark.torch

sizes = pytest.mark.parametrize("spatial", [FLAT, VOLUME], ids=["2d", "3d"])


def open_gates(network: Agf, bias: float) -> None:
    """Make every gate sigmoid(bias) everywhere."""
    for gate in network.gates.values():
        for branch in gate.branches:
            branch[-1].bias.data.fill_(bias)


def only_scale(network: Agf, scale: int, displacement: list[float]) -> None:
    """Make one scale predict a constant displacement in its voxels and the others nothing."""
    for k, head in network.flows.items():
        head.weight.data.zero_()
        if int(k) == scale:
            head.bias.data = torch.tensor(displacement)


class TestSize:
    @pytest.mark.parametrize(
        ("arguments", "count"),
        [
            ({"nd": 2}, 561_150),
            ({"nd": 3}, 1_708_501),
            ({"nd": 2, "image_pyramid": False}, 557_118),
            ({"nd": 2, "scales": 1}, 541_362),
            ({"nd": 2, "norm": "batch"}, 561_150),
            ({"nd": 2, "fusion": "compose", "velocity_steps": 7}, 561_150),
        ],
    )
    def test_number_of_weights(self, arguments: dict[str, object], count: int) -> None:
        # Counted once; a change means that published weight files no longer fit.
        assert count_weights(Agf(AgfSettings(**arguments))) == count

    def test_one_state_holds_both_networks(self) -> None:
        state = build("agf", {"nd": 2, "segmenter_width": 2}).state_dict()
        assert {name.split(".")[0] for name in state} == {"down", "up", "merge", "flows", "gates", "segmenter"}

    def test_attention_can_be_left_out(self) -> None:
        assert make_agf(2, attention=False).segmenter is None

    @pytest.mark.parametrize("arguments", [{"scales": 0}, {"scales": 5}, {"fusion": "mean"}, {"norm": "layer"}])
    def test_senseless_settings_are_refused(self, arguments: dict[str, object]) -> None:
        with pytest.raises(ValueError, match=str(next(iter(arguments.values())))):
            make_agf(2, **arguments)

    @pytest.mark.parametrize("spatial", [(16, 16), (17, 45), (64, 24), (16, 16, 16), (19, 24, 33)])
    @pytest.mark.parametrize("scales", [1, 2, 3, 4])
    def test_every_scale_covers_the_image(self, spatial: tuple[int, ...], scales: int) -> None:
        fields = scales_of(make_agf(len(spatial), scales=scales), image_pair(spatial))
        expected = {k: (1, len(spatial), *(-(-n // 2 ** (k - 1)) for n in spatial)) for k in range(scales, 0, -1)}
        assert {k: tuple(field.shape) for k, field in fields.items()} == expected

    @pytest.mark.parametrize("norm", ["batch", "instance"])
    @pytest.mark.parametrize("spatial", [(16, 19), (16, 17, 16)])
    def test_smallest_images_work_with_every_norm(self, spatial: tuple[int, ...], norm: str) -> None:
        network = make_agf(len(spatial), flow=1000.0, level=None, norm=norm).train()
        assert bool(torch.isfinite(states(network, image_pair(spatial), 2)[-1].displacement).all())

    def test_short_axis_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"15.*16"):
            states(make_agf(2), image_pair((15, 40)))

    @pytest.mark.slow
    @sizes
    @pytest.mark.parametrize("norm", ["batch", "instance"])
    def test_batch_of_two_gives_what_two_single_pairs_give(self, spatial: tuple[int, ...], norm: str) -> None:
        network, pair = make_agf(len(spatial), flow=1000.0, norm=norm), image_pair(spatial)
        swapped = ImagePair(pair.moving, pair.fixed)
        both = ImagePair(torch.cat([pair.fixed, pair.moving]), torch.cat([pair.moving, pair.fixed]))
        apart = torch.cat([states(network, one, 2)[-1].displacement for one in (pair, swapped)])
        # Displacements of about a voxel, summed in another order.
        torch.testing.assert_close(states(network, both, 2)[-1].displacement, apart, atol=1e-3, rtol=0)


class TestStart:
    @sizes
    @pytest.mark.parametrize("fusion", ["add", "compose"])
    def test_untrained_network_moves_nothing(self, spatial: tuple[int, ...], fusion: str) -> None:
        network = make_agf(len(spatial), widths="default", fusion=fusion, velocity_steps=4)
        assert float(states(network, image_pair(spatial), 2)[-1].displacement.abs().max()) < 1e-2

    @sizes
    def test_no_displacement_keeps_the_moving_image(self, spatial: tuple[int, ...]) -> None:
        pair = image_pair(spatial)
        state = states(make_agf(len(spatial), flow=0.0), pair)[-1]
        # Coordinates in single precision over 50 voxels.
        torch.testing.assert_close(state.warped, pair.moving, atol=1e-4, rtol=0)

    def test_loss_is_that_of_the_images_as_they_are(self) -> None:
        network, labels = make_agf(2, flow=0.0), ellipses((32, 40), 2)
        pair = ImagePair(0.5 * labels[:1, 1:], 0.8 * labels[1:, 1:])
        seen, displacement = network.masked(pair), states(network, pair)[-1].displacement
        torch.manual_seed(0)
        shape = Autoencoder(2, 2, 32).eval()
        with torch.no_grad():
            terms = loss_terms(seen, displacement, labels[1:], labels[:1], shape)
            start = [global_ncc(pair.moving, pair.fixed), ssim(pair.moving, pair.fixed)]
            start.append(logit_cross_entropy(labels[1:], labels[:1]))
            start.append(code_distance(shape.encode, labels[1:], labels[:1]))
        assert [float(x) for x in terms] == pytest.approx([*(float(x) for x in start), 0.0], abs=1e-4)

    def test_equal_seeds_give_equal_fields(self) -> None:
        pair = image_pair(FLAT)
        first, second = (states(make_agf(2, flow=1000.0), pair, 2)[-1].displacement for _ in range(2))
        assert torch.equal(first, second)


class TestMasks:
    @sizes
    def test_network_sees_what_the_segmenter_finds(self, spatial: tuple[int, ...]) -> None:
        pair = image_pair(spatial)
        seen = make_agf(len(spatial), level=0.4).masked(pair)
        assert torch.equal(seen.fixed, pair.fixed * (pair.fixed >= 0.4))
        assert torch.equal(seen.moving, pair.moving * (pair.moving >= 0.4))

    @pytest.mark.parametrize(("threshold", "level"), [(0.5, 0.4), (1 / (1 + torch.e), 0.39)])
    def test_threshold_is_a_probability(self, threshold: float, level: float) -> None:
        network, pair = make_agf(2, level=0.4), image_pair(FLAT)
        network.settings = replace(network.settings, threshold=threshold)
        assert torch.equal(network.masked(pair).fixed_mask, (pair.fixed >= level).float())

    @sizes
    def test_soft_masks_weight_by_probabilities(self, spatial: tuple[int, ...]) -> None:
        network, pair = make_agf(len(spatial), level=0.4), image_pair(spatial)
        network.settings = replace(network.settings, soft_mask=True)
        seen = network.masked(pair)
        assert torch.equal(seen.fixed_mask, network.segmenter(pair.fixed).sigmoid())
        assert torch.equal(seen.fixed, pair.fixed * seen.fixed_mask)
        assert seen.fixed_mask.unique().numel() > 2

    @pytest.mark.parametrize("soft", [False, True])
    def test_faint_probabilities_count_as_no_mask(self, soft: bool) -> None:
        network, pair = make_agf(2), image_pair(FLAT)
        network.settings = replace(network.settings, soft_mask=soft)
        seen = network.masked(replace(pair, fixed_mask=torch.full_like(pair.fixed, 0.4)))
        assert torch.equal(seen.fixed, pair.fixed)

    @sizes
    def test_given_masks_replace_the_segmenter(self, spatial: tuple[int, ...]) -> None:
        pair, (first, last) = image_pair(spatial), halves(spatial)
        seen = make_agf(len(spatial), level=0.4).masked(replace(pair, fixed_mask=first, moving_mask=last))
        assert torch.equal(seen.fixed, pair.fixed * first)
        assert torch.equal(seen.moving, pair.moving * last)

    def test_one_given_mask_leaves_the_other_to_the_segmenter(self) -> None:
        pair, (first, _) = image_pair(FLAT), halves(FLAT)
        seen = make_agf(2, level=0.4).masked(replace(pair, fixed_mask=first))
        assert torch.equal(seen.fixed_mask, first)
        assert torch.equal(seen.moving_mask, (pair.moving >= 0.4).float())

    def test_what_lies_outside_the_masks_does_not_matter(self) -> None:
        network, pair, (first, last) = make_agf(2, flow=1000.0), image_pair(FLAT), halves(FLAT)
        masks = {"fixed_mask": first, "moving_mask": first}
        changed = ImagePair(pair.fixed * first + 0.7 * last, pair.moving * first, **masks)
        before, after = (states(network, p, 2)[-1].displacement for p in (replace(pair, **masks), changed))
        assert torch.equal(before, after)

    @sizes
    def test_empty_mask_counts_as_none_for_its_image_alone(self, spatial: tuple[int, ...]) -> None:
        network, pair = make_agf(len(spatial), flow=1000.0, level=0.4), image_pair(spatial)
        both = ImagePair(torch.cat([0.3 * pair.fixed, pair.fixed]), torch.cat([pair.moving, pair.moving]))
        seen = network.masked(both)
        assert torch.equal(seen.fixed[:1], both.fixed[:1])
        assert torch.equal(seen.fixed[1:], pair.fixed * (pair.fixed >= 0.4))
        assert bool(torch.isfinite(states(network, both, 2)[-1].displacement).all())

    def test_empty_images_give_a_field(self) -> None:
        network, empty = make_agf(2, flow=1000.0), torch.zeros(1, 1, *FLAT)
        assert bool(torch.isfinite(states(network, ImagePair(empty, empty, empty, empty), 2)[-1].displacement).all())

    def test_without_attention_masks_do_nothing(self) -> None:
        network, pair, (first, last) = make_agf(2, flow=1000.0, attention=False), image_pair(FLAT), halves(FLAT)
        before, after = (states(network, p)[-1] for p in (pair, ImagePair(pair.fixed, pair.moving, first, last)))
        assert torch.equal(before.displacement, after.displacement)

    @pytest.mark.parametrize("norm", ["batch", "instance"])
    def test_segmenter_stays_as_it_is_while_the_rest_trains(self, norm: str) -> None:
        network, pair = make_agf(2, flow=1000.0, level=None, norm=norm).train(), image_pair(FLAT)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2, weight_decay=0.1)
        *_, last = network.recurse(pair, 1)
        mean_squared(last.warped, pair.fixed).backward()
        optimizer.step()
        same = {name: torch.equal(value, before[name]) for name, value in network.state_dict().items()}
        assert all(unchanged for name, unchanged in same.items() if name.startswith("segmenter"))
        assert not same["down.0.0.0.weight"]
        assert not network.segmenter.training


class TestFusion:
    @sizes
    @pytest.mark.parametrize("fusion", ["add", "compose"])
    def test_half_open_gates_follow_the_formula(self, spatial: tuple[int, ...], fusion: str) -> None:
        network, pair = make_agf(len(spatial), flow=1000.0, fusion=fusion), image_pair(spatial)
        with torch.no_grad():
            features = network._features(torch.cat([pair.moving, pair.fixed], 1))
            own = {k: network.flows[str(k)](features[k]) for k in (1, 2, 3, 4)}
        expected = own[4]
        for k in (3, 2, 1):
            coarser = 0.5 * resize_displacement(expected, own[k].shape[2:])
            expected = own[k] + coarser if fusion == "add" else compose(coarser, own[k])
        torch.testing.assert_close(scales_of(network, pair)[1], expected, atol=1e-5, rtol=0)

    @sizes
    def test_open_gates_give_the_plain_sum(self, spatial: tuple[int, ...]) -> None:
        network, pair = make_agf(len(spatial), flow=1000.0), image_pair(spatial)
        open_gates(network, 20.0)
        fields = scales_of(network, pair)
        with torch.no_grad():
            features = network._features(torch.cat([pair.moving, pair.fixed], 1))
            own = network.flows["1"](features[1])
        expected = own + resize_displacement(fields[2], spatial)
        torch.testing.assert_close(fields[1], expected, atol=1e-5, rtol=0)

    @sizes
    @pytest.mark.parametrize("fusion", ["add", "compose"])
    def test_closed_gates_leave_the_finest_scale_alone(self, spatial: tuple[int, ...], fusion: str) -> None:
        network, pair = make_agf(len(spatial), flow=1000.0, fusion=fusion), image_pair(spatial)
        open_gates(network, -50.0)
        alone = make_agf(len(spatial), flow=1000.0, fusion=fusion, scales=1)
        alone.load_state_dict(network.state_dict(), strict=False)
        torch.testing.assert_close(scales_of(network, pair)[1], scales_of(alone, pair)[1], atol=1e-6, rtol=0)

    @pytest.mark.parametrize("scale", [1, 2, 3, 4])
    def test_channels_follow_the_array_axes_at_every_scale(self, scale: int) -> None:
        network, pair = make_agf(3, attention=False), image_pair((16, 24, 32))
        only_scale(network, scale, [n / 2 ** (scale - 1) for n in (1.0, 2.0, 3.0)])
        open_gates(network, 20.0)
        warped = states(network, pair)[-1].warped
        # 1e-4: an image of contrast 1, coordinates in single precision over 32 voxels.
        torch.testing.assert_close(warped[..., :-1, :-2, :-3], pair.moving[..., 1:, 2:, 3:], atol=1e-4, rtol=0)

    def test_field_of_the_small_image_moves_the_large_one(self) -> None:
        network, large = make_agf(2, attention=False), smooth_noise((256, 192), sigma=4.0)
        small = resize(large, (64, 48))
        only_scale(network, 2, [1.0, -0.5])
        open_gates(network, 20.0)
        displacement = resize_displacement(states(network, ImagePair(small, small))[-1].displacement, (256, 192))
        # 2 and -1 voxels of 64 x 48 are 8 and -4 of 256 x 192.
        torch.testing.assert_close(warp(large, displacement)[..., :-8, 4:], large[..., 8:, :-4], atol=1e-3, rtol=0)

    def test_integrated_and_composed_scales_fold_less(self) -> None:
        pair, folded = image_pair((48, 56)), {}
        for name, arguments in (("add", {}), ("diffeo", {"fusion": "compose", "velocity_steps": 7})):
            network = make_agf(2, flow=6000.0, **arguments)
            folded[name] = float(jacobian_determinant(scales_of(network, pair)[1]).min())
        assert folded["add"] < 0 < folded["diffeo"]

    def test_runaway_prediction_is_held_to_half_the_image(self) -> None:
        network = make_agf(2)
        only_scale(network, 1, [1e4, 1e4])
        increment = states(network, image_pair(FLAT))[-1].increment
        assert [float(channel.max()) for channel in increment[0]] == [FLAT[0] / 2, FLAT[1] / 2]


class TestRecursion:
    @sizes
    def test_two_recursions_are_two_passes_on_the_masked_images(self, spatial: tuple[int, ...]) -> None:
        network, pair = make_agf(len(spatial), flow=1000.0), image_pair(spatial)
        seen = network.masked(pair)
        with torch.no_grad():
            first = network(seen.moving, seen.fixed)
            second = network(warp(seen.moving, first), seen.fixed)
        last = states(network, pair, 2)[-1]
        torch.testing.assert_close(last.displacement, compose(first, second), atol=1e-6, rtol=0)
        assert torch.equal(last.increment, second)

    def test_every_state_warps_the_whole_image_once(self) -> None:
        network, pair = make_agf(2, flow=1000.0), image_pair(FLAT)
        for state in states(network, pair, 3):
            assert torch.equal(state.warped, warp(pair.moving, state.displacement))

    def test_exchanged_images_give_another_field(self) -> None:
        network, pair = make_agf(2, flow=1000.0), image_pair(FLAT)
        there, back = (states(network, p)[-1] for p in (pair, ImagePair(pair.moving, pair.fixed)))
        assert float((there.displacement - back.displacement).abs().max()) > 0.1


class TestEvidence:
    @sizes
    def test_masks_and_gates_are_kept(self, spatial: tuple[int, ...]) -> None:
        network, pair = make_agf(len(spatial), flow=1000.0), image_pair(spatial)
        axes = "kji"[-len(spatial) :]
        gates = [(f"gate, scale {k}, axis {axis}", "fixed") for k in (3, 2, 1) for axis in axes]
        expected = [*gates, ("attention mask", "fixed"), ("attention mask", "moving")]
        for state in states(network, pair, 2, attend=True):
            assert [(shown.name, shown.image) for shown in state.evidence.maps] == expected

    def test_masks_are_those_of_the_images_as_they_are(self) -> None:
        network, pair = make_agf(2, flow=1000.0, level=0.4), image_pair(FLAT)
        *_, fixed, moving = states(network, pair, 2, attend=True)[-1].evidence.maps
        assert torch.equal(fixed.values, (pair.fixed >= 0.4).float())
        assert torch.equal(moving.values, (pair.moving >= 0.4).float())

    def test_gates_are_those_of_each_axis(self) -> None:
        network = make_agf(2, flow=1000.0)
        network.gates["2"].branches[1][-1].bias.data.fill_(2.0)
        maps = {shown.name: shown.values for shown in states(network, image_pair(FLAT), attend=True)[-1].evidence.maps}
        assert maps["gate, scale 2, axis i"].shape == (1, 1, 17, 25)
        assert float(maps["gate, scale 2, axis i"].mean()) == pytest.approx(0.8808, abs=1e-4)
        assert float(maps["gate, scale 2, axis j"].mean()) == 0.5

    def test_without_attention_there_are_gates_only(self) -> None:
        maps = states(make_agf(2, attention=False), image_pair(FLAT), attend=True)[-1].evidence.maps
        assert {shown.name.split(",")[0] for shown in maps} == {"gate"}

    def test_nothing_is_kept_unless_asked_for(self) -> None:
        assert states(make_agf(2), image_pair(FLAT))[-1].evidence is None

    def test_watching_changes_nothing(self) -> None:
        network, pair = make_agf(2, flow=1000.0), image_pair(FLAT)
        seen, unseen = (states(network, pair, 2, attend=attend)[-1].displacement for attend in (True, False))
        assert torch.equal(seen, unseen)
