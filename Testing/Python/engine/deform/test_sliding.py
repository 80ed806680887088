"""Displacements that jump along a boundary: what they find that smooth ones cannot, and what they leave alone."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch import Tensor

from DeepAttentionRegEngine.deform.folds import folds
from DeepAttentionRegEngine.deform.pairs import ImagePair
from DeepAttentionRegEngine.deform.refine import refine, usual_settings
from DeepAttentionRegEngine.deform.sliding import LAYER, Sliding
from DeepAttentionRegEngine.deform.warp import identity_grid, resize_displacement, sample
from engine_cases import smooth_displacement, smooth_noise

pytestmark = pytest.mark.torch

SIZES = ((72, 64), (48, 48, 48))
sizes = pytest.mark.parametrize("spatial", SIZES, ids=["2d", "3d"])
MARGIN = 6  # voxels at the edges, where what moves leaves the image


class Rod:
    """A rod across the image, along an oblique direction, that slides through what surrounds it."""

    def __init__(self, spatial: tuple[int, ...], by: float) -> None:
        axes = len(spatial)
        self.spatial, self.grid = spatial, identity_grid(spatial, torch.zeros(1))
        along = torch.tensor([0.9, 0.35, 0.25][:axes])
        self.along = (along / along.norm()).view(1, axes, *[1] * axes)
        middle = (torch.tensor(spatial) - 1).view(1, axes, *[1] * axes) / 2
        arms = self.grid - middle
        self.radius = (arms - (arms * self.along).sum(1, keepdim=True) * self.along).square().sum(1).sqrt()[0]
        self.mask = (self.radius < 11).float()[None, None]
        self.truth = by * self.along * self.mask
        self.pair = ImagePair(self._image(0.0), self._image(-by))

    def _image(self, shift: float) -> Tensor:
        inside = smooth_noise(tuple(n + 40 for n in self.spatial), seed=1, sigma=2.0)
        outside = smooth_noise(self.spatial, seed=2, sigma=2.0)
        return torch.where(
            self.mask > 0, 0.3 + 0.5 * sample(inside, self.grid + 20 + shift * self.along), 0.5 * outside
        )

    def found(self, *, slides: bool) -> Tensor:
        pair = ImagePair(self.pair.fixed, self.pair.moving, sliding=Sliding.of(self.mask) if slides else None)
        still = torch.zeros(1, len(self.spatial), *self.spatial)
        return refine(pair, still, usual_settings(len(self.spatial), "ncc", 25))

    def missed(self, displacement: Tensor) -> Tensor:
        """Return by how much, where the image shows enough to tell."""
        core = (slice(MARGIN, -MARGIN),) * len(self.spatial)
        return (displacement - self.truth)[0].square().sum(0).sqrt()[core]


class TestRefinement:
    @sizes
    def test_a_rod_slides_through_what_surrounds_it(self, spatial: tuple[int, ...]) -> None:
        rod = Rod(spatial, 6.0)
        smooth, sliding = (rod.found(slides=slides) for slides in (False, True))
        away = ((rod.radius - 11).abs() > LAYER / 2)[(slice(MARGIN, -MARGIN),) * len(spatial)]
        assert rod.missed(sliding)[away].mean() < 0.5 * rod.missed(smooth)[away].mean()
        assert rod.missed(sliding)[~away].mean() < 0.8 * rod.missed(smooth)[~away].mean()
        assert not folds(sliding).any()

    @sizes
    def test_what_does_not_slide_is_registered_as_without(self, spatial: tuple[int, ...]) -> None:
        still = torch.zeros(1, len(spatial), *spatial)
        image, truth = smooth_noise(spatial, sigma=2.0), smooth_displacement(spatial, peak=2.0, sigma=6.0)
        moved = sample(image, identity_grid(spatial, still) + truth)
        rod = Rod(spatial, 0.0)
        found = [
            refine(ImagePair(moved, image, sliding=sliding), still, usual_settings(len(spatial), "ncc", 25))
            for sliding in (None, Sliding.of(rod.mask))
        ]
        missed = [(displacement - truth)[0].square().sum(0).sqrt().mean() for displacement in found]
        assert missed[1] < missed[0] + 0.05
        assert not folds(found[1]).any()

    def test_nothing_opens_where_images_would_have_it_open(self) -> None:
        rod = Rod(SIZES[0], 0.0)
        across = rod.grid - rod.along * (rod.grid * rod.along).sum(1, keepdim=True)
        moving = sample(rod.pair.fixed, rod.grid + 3 * across / across.norm(dim=1, keepdim=True).clamp_min(1))
        sliding = Sliding.of(rod.mask)
        still = torch.zeros(1, 2, *SIZES[0])
        found = refine(ImagePair(rod.pair.fixed, moving, sliding=sliding), still, usual_settings(2, "ncc", 25))
        assert not folds(found).any()


class TestSliding:
    @sizes
    def test_two_equal_fields_are_one(self, spatial: tuple[int, ...]) -> None:
        sliding = Sliding.of(Rod(spatial, 0.0).mask)
        field = smooth_displacement(spatial, peak=3.0)
        both = field.expand(2, *field.shape[1:])
        assert torch.allclose(sliding.joined(both), field, atol=1e-5)
        assert [float(cost) for cost in sliding.apart(both)] == [0, 0]

    @sizes
    def test_what_slides_along_opens_nothing_what_moves_across_does(self, spatial: tuple[int, ...]) -> None:
        rod = Rod(spatial, 1.0)
        sliding = Sliding.of(rod.mask)
        along = rod.along.expand(1, len(spatial), *spatial)
        across = torch.ones_like(along) - (torch.ones_like(along) * along).sum(1, keepdim=True) * along
        still = torch.zeros_like(along)
        (opened, slid), (opened_across, _) = (sliding.apart(torch.cat([3 * field, still])) for field in (along, across))
        assert opened < 0.02 * opened_across
        assert float(slid) == pytest.approx(3, abs=0.2)

    def test_a_layer_takes_nine_tenths_of_the_jump(self) -> None:
        mask = torch.zeros(1, 1, 60, 8)
        mask[..., 30:, :] = 1
        share = Sliding.of(mask).inside[0, 0, :, 4]
        width = float(((share > 0.05) & (share < 0.95)).sum())
        assert width == pytest.approx(LAYER, abs=1)

    @sizes
    def test_the_layer_leaves_room_for_pieces_on_either_side(self, spatial: tuple[int, ...]) -> None:
        mask = torch.zeros(1, 1, *spatial)
        mask[:, :, 24:] = 1
        labels = torch.zeros_like(mask)
        labels[:, :, 20:24, :6] = 1  # outside, up to the boundary
        labels[:, :, 24:28, -6:] = 2  # inside
        usual = Sliding.of(mask)
        moved = usual.beside(labels)
        for number, share in ((1, 0.0), (2, 1.0)):
            piece = labels == number
            assert (usual.inside[piece] - share).abs().max() > 0.1
            assert (moved.inside[piece] - share).abs().max() < 1e-5
        middle = slice(22, 26)
        assert torch.equal(moved.inside[:, :, :, middle], usual.inside[:, :, :, middle])
        steps = [moved.inside.diff(dim=axis).abs().max() for axis in range(3, moved.inside.ndim)]
        assert max(steps) < 0.3  # it moves steadily along the boundary

    @sizes
    def test_fields_are_joined_on_a_finer_grid_if_their_segment_is(self, spatial: tuple[int, ...]) -> None:
        rod = Rod(spatial, 4.0)
        finer = torch.nn.functional.interpolate(rod.mask, scale_factor=2)
        pair = ImagePair(rod.pair.fixed, rod.pair.moving, sliding=Sliding.of(finer))
        still = torch.zeros(1, len(spatial), *spatial)
        found = refine(pair, still, usual_settings(len(spatial), "ncc", 25))
        assert found.shape == (1, len(spatial), *[2 * n for n in spatial])
        assert not folds(found).any()
        coarsely = resize_displacement(found, spatial)
        assert rod.missed(coarsely).mean() < 1.1 * rod.missed(rod.found(slides=True)).mean()

    def test_the_whole_image_and_nothing_are_no_boundary(self) -> None:
        field = smooth_displacement((20, 20), peak=2.0)
        for mask in (torch.ones(1, 1, 20, 20), torch.zeros(1, 1, 20, 20)):
            sliding = Sliding.of(mask)
            assert torch.isfinite(torch.stack(sliding.apart(torch.cat([field, -field])))).all()
            assert torch.allclose(sliding.inside, mask, atol=1e-6)
