"""The network that segments what AGF attends to: sizes, padding, and that it can learn."""

import pytest
import torch
import torch.nn.functional as F

from DeepAttentionRegEngine.deform.overlap_losses import contour
from DeepAttentionRegEngine.deform.warp import resize, shrink
from DeepAttentionRegEngine.networks.intensities import sharpened
from DeepAttentionRegEngine.networks.segmentation import Segmenter, log_odds, with_none
from engine_cases import count_weights, smooth_noise

pytestmark = pytest.mark.torch


def make_segmenter(nd: int, norm: str = "batch") -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(nd, width=4, norm=norm)


class TestSize:
    @pytest.mark.parametrize(("nd", "width", "count"), [(2, 16, 1_942_289), (2, 32, 7_762_465), (3, 16, 5_646_385)])
    def test_number_of_weights(self, nd: int, width: int, count: int) -> None:
        # The paper states 1.9 and 7.7 million; a change means that published weight files no longer fit.
        assert count_weights(Segmenter(nd, width)) == count

    @pytest.mark.parametrize("norm", ["batch", "instance"])
    def test_both_norms_have_as_many_weights(self, norm: str) -> None:
        assert count_weights(make_segmenter(2, norm)) == count_weights(make_segmenter(2))

    def test_unknown_norm_is_refused(self) -> None:
        with pytest.raises(ValueError, match="group"):
            make_segmenter(2, "group")

    @pytest.mark.parametrize("norm", ["batch", "instance"])
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("spatial", [(16, 16), (17, 45), (48, 32), (16, 16, 16), (19, 32, 33)])
    def test_output_has_the_size_of_the_input(self, spatial: tuple[int, ...], training: bool, norm: str) -> None:
        network = make_segmenter(len(spatial), norm).train(training)
        with torch.no_grad():
            logits = network(smooth_noise(spatial))
        assert logits.shape == (1, 1, *spatial)
        assert bool(torch.isfinite(logits).all())

    def test_structures_have_a_channel_each(self) -> None:
        assert Segmenter(2, 4, "instance", structures=3)(smooth_noise((32, 32))).shape == (1, 3, 32, 32)

    def test_widths_may_be_given_one_by_one(self) -> None:
        network = Segmenter(2, norm="instance", structures=3, widths=[4, 8, 16, 32, 64])
        assert count_weights(network) == count_weights(Segmenter(2, 4, "instance", structures=3))
        assert Segmenter(2, widths=[2, 3, 3, 4, 6])(smooth_noise((32, 32))).shape == (1, 1, 32, 32)

    def test_padding_continues_the_image(self) -> None:
        network, image = make_segmenter(2).eval(), smooth_noise((33, 45))
        with torch.no_grad():
            padded = network(F.pad(image, [0, 3, 0, 15], mode="replicate"))[..., :33, :45]
            assert torch.equal(network(image), padded)


class TestStep:
    """A U-Net that sees fewer voxels than the image has."""

    @pytest.mark.parametrize("spatial", [(33, 50), (64, 48), (33, 35, 40)])
    def test_output_is_that_of_the_smaller_image(self, spatial: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        network, image = Segmenter(len(spatial), 4, "instance", structures=2, step=2), smooth_noise(spatial)
        logits = network(image)
        assert logits.shape == (1, 2, *spatial)
        network.step = 1
        smaller = network(shrink(image, [-(-n // 2) for n in spatial]))
        torch.testing.assert_close(logits, resize(smaller, spatial))


class TestExclusive:
    def test_probabilities_are_those_of_a_softmax_with_background(self) -> None:
        scores = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
        expected = torch.cat([torch.zeros(2, 1, 5, 6), scores], 1).softmax(1)[:, 1:]
        torch.testing.assert_close(log_odds(with_none(scores).log_softmax(1)[:, 1:]).sigmoid(), expected)

    @pytest.mark.parametrize("score", [-100.0, 0.0, 100.0])
    def test_certainty_stays_finite(self, score: float) -> None:
        scores = torch.full((1, 1, 2, 2), score)
        assert bool(log_odds(with_none(scores).log_softmax(1)[:, 1:]).isfinite().all())

    def test_network_answers_with_them(self) -> None:
        torch.manual_seed(0)
        network, image = Segmenter(2, 4, "instance", structures=3, exclusive=True), smooth_noise((32, 32))
        with torch.no_grad():
            expected = with_none(network.scores(image)).softmax(1)[:, 1:]
            torch.testing.assert_close(network(image).sigmoid(), expected)
            assert float(network(image).sigmoid().sum(1).max()) < 1

    def test_intensities_need_them(self) -> None:
        with pytest.raises(ValueError, match="only if these are exclusive"):
            Segmenter(2, 4, "instance", structures=3, intensities=True)

    def test_intensities_come_after_what_was_learned(self) -> None:
        torch.manual_seed(0)
        network = Segmenter(2, 4, "instance", structures=3, exclusive=True, intensities=True)
        image = smooth_noise((32, 32))
        with torch.no_grad():
            expected = sharpened(image, with_none(network.scores(image)).softmax(1))
            torch.testing.assert_close(network.memberships(image), expected, atol=1e-5, rtol=1e-4)


class Stated(Segmenter):
    """Says what it is told."""

    def __init__(self, scores: list[float], *, exclusive: bool) -> None:
        super().__init__(2, 2, "instance", structures=len(scores), exclusive=exclusive)
        self.told = torch.tensor(scores).view(1, -1, 1, 1)

    def scores(self, image: torch.Tensor) -> torch.Tensor:
        return self.told.expand(1, -1, *image.shape[2:])


class TestMembership:
    @staticmethod
    def belongs(scores: list[float], *, exclusive: bool) -> int:
        with torch.no_grad():
            found = Stated(scores, exclusive=exclusive).memberships(torch.zeros(1, 1, 2, 2))
        assert found.shape == (1, 1 + len(scores), 2, 2)
        return int(found.argmax(1)[0, 0, 0])

    @pytest.mark.parametrize(("scores", "wanted"), [([-0.1, -0.2], 0), ([-0.1, 0.2], 2), ([0.3, 0.2], 1)])
    def test_what_may_overlap_belongs_from_one_half_on(self, scores: list[float], wanted: int) -> None:
        assert self.belongs(scores, exclusive=False) == wanted

    @pytest.mark.parametrize(("scores", "wanted"), [([-0.1, -0.2], 0), ([-0.1, 0.2], 2), ([0.3, 0.2], 1)])
    def test_what_excludes_each_other_belongs_to_the_most_probable(self, scores: list[float], wanted: int) -> None:
        assert max(torch.tensor([0.0, *scores]).softmax(0)) < 0.5  # so that one half is not what decides
        assert self.belongs(scores, exclusive=True) == wanted


@pytest.mark.slow
class TestLearning:
    def test_a_bright_disc_is_found(self) -> None:
        network = make_segmenter(2).train()
        row, column = torch.meshgrid(torch.arange(32.0), torch.arange(40.0), indexing="ij")
        centers = ((12, 14), (18, 24), (15, 20), (20, 15))
        disc = torch.stack([((row - i) ** 2 + (column - j) ** 2 < 49).float()[None] for i, j in centers])
        image = 0.3 + 0.4 * disc + 0.3 * torch.cat([smooth_noise((32, 40), seed=n) for n in range(4)])
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            logits = network(image)
            loss = F.binary_cross_entropy_with_logits(logits, disc) + 1.75 * contour(logits.sigmoid(), disc)
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            found = (network.eval()(image) > 0).float()
        assert float(2 * (found * disc).sum() / (found.sum() + disc.sum())) > 0.95
