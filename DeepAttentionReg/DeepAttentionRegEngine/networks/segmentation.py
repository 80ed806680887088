"""Segments the structures that AGF attends to."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..deform.warp import resize, shrink
from .blocks import CONVOLUTIONS, SMALLEST_HALF, norm_layer, single_precision
from .intensities import LEAST, sharpened

POOLINGS = 4
STRIDE = 2**POOLINGS
BELONGS = 0.5  # probability from which a voxel is a structure's that may share it with others
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX_POOLS = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


class Segmenter(nn.Module):
    """U-Net of four poolings from an image to a logit per structure.

    Source: He, He, Cao 2022 (AGF), section 3.2. The paper gives a U-Net and its size alone; the layers are those of
    Buda's brain-segmentation U-Net, which has that size at 16 channels.
    """

    def __init__(
        self,
        nd: int,
        width: int = 16,
        norm: str = "batch",
        structures: int = 1,
        widths: Sequence[int] | None = None,
        *,
        exclusive: bool = False,
        step: int = 1,
        intensities: bool = False,
    ) -> None:
        """Build the network.

        Args:
            nd: Spatial axes, 2 or 3.
            width: Channels at full resolution; they double at each pooling.
            norm: "batch" or "instance".
            structures: Told apart; the paper has 1.
            widths: Channels at each of the five resolutions; None for those that follow from `width`.
            exclusive: A voxel belongs to one structure or to none, instead of to any number of them.
            step: Voxels of the image, along each axis, to one of the grid that the U-Net sees; most of the knowledge is
                coarse.
            intensities: What the network has learned is taken as a prior for the intensities of the image; exclusive
                structures alone (`intensities.sharpened`).

        Raises:
            ValueError: If intensities are to be looked at of structures that do not exclude each other.
        """
        super().__init__()
        if intensities and not exclusive:
            msg = "intensities tell structures apart only if these are exclusive"
            raise ValueError(msg)
        self.exclusive, self.step, self.intensities = exclusive, step, intensities
        widths = list(widths or (width * 2**level for level in range(POOLINGS + 1)))
        self.down = nn.ModuleList(
            _stage(nd, c_in, c_out, norm) for c_in, c_out in zip((1, *widths[:-1]), widths, strict=True)
        )
        self.pool = MAX_POOLS[nd](2)
        self.up, self.merge = nn.ModuleList(), nn.ModuleList()
        for below, channels in zip(reversed(widths[1:]), reversed(widths[:-1]), strict=True):
            self.up.append(TRANSPOSED[nd](below, channels, 2, stride=2))
            self.merge.append(_stage(nd, 2 * channels, channels, norm))
        self.output = CONVOLUTIONS[nd](widths[0], structures, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits `(B, structures, *spatial)` of an image `(B, 1, *spatial)` in [0, 1], of any size.

        Their sigmoid is the probability of each structure.
        """
        scores = self.scores(image)
        if not self.exclusive:
            return scores
        logarithms = with_none(scores).float().log_softmax(1)
        if self.intensities:
            logarithms = sharpened(image.float(), logarithms.exp()).clamp_min(LEAST).log()
        return log_odds(logarithms[:, 1:])

    def memberships(self, image: Tensor) -> Tensor:
        """Return how much of each voxel each structure has, `(B, 1 + structures, *spatial)`; arguments as of `forward`.

        A voxel belongs to the largest. The first stands for none of them: its probability where structures exclude each
        other, else `BELONGS`, which a structure has to reach.
        """
        probability = self(image).sigmoid()
        none = 1 - probability.sum(1, keepdim=True) if self.exclusive else torch.full_like(probability[:, :1], BELONGS)
        return torch.cat([none, probability], 1)

    def scores(self, image: Tensor) -> Tensor:
        """Return logits as `forward`; of structures that exclude each other, those of a softmax with background 0."""
        spatial = image.shape[2:]
        if self.step == 1:
            return self.output(self._features(image))
        coarse = shrink(image, [-(-n // self.step) for n in spatial])
        return resize(self.output(self._features(coarse)), spatial)

    def _features(self, image: Tensor) -> Tensor:
        """Return what the U-Net makes of an image, `(B, widths[0], *spatial)`."""
        spatial = image.shape[2:]
        # At least twice the stride: a map of one voxel cannot be normalised.
        padded = [max(2, -(-n // STRIDE)) * STRIDE for n in spatial]
        excess = [amount for new, n in zip(reversed(padded), reversed(spatial), strict=True) for amount in (0, new - n)]
        x = F.pad(image, excess, mode="replicate")
        skips = []
        for stage in self.down[:-1]:
            skips.append(_run(stage, x))
            x = self.pool(skips[-1])
        x = _run(self.down[-1], x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = _run(merge, torch.cat([_run(up, x), skip], 1))
        for axis, n in enumerate(spatial, start=2):
            x = x.narrow(axis, 0, n)
        return x


def with_none(scores: Tensor) -> Tensor:
    """Put a score of 0, which stands for none of the structures, ahead of theirs `(B, C, *spatial)`."""
    return torch.cat([scores.new_zeros(len(scores), 1, *scores.shape[2:]), scores], 1)


def log_odds(logarithms: Tensor) -> Tensor:
    """Return the log-odds of probabilities of which logarithms are given."""
    return logarithms - torch.log1p(-logarithms.exp().clamp(max=1 - LEAST))


def _run(stage: nn.Module, x: Tensor) -> Tensor:
    """Apply a stage, to small maps in single precision."""
    if min(x.shape[2:]) >= SMALLEST_HALF:
        return stage(x)
    with single_precision(x.device):
        return stage(x.float())


def _stage(nd: int, channels_in: int, channels_out: int, norm: str) -> nn.Sequential:
    return nn.Sequential(*_layer(nd, channels_in, channels_out, norm), *_layer(nd, channels_out, channels_out, norm))


def _layer(nd: int, channels_in: int, channels_out: int, norm: str) -> nn.Sequential:
    convolution = CONVOLUTIONS[nd](channels_in, channels_out, 3, padding=1, bias=False)
    return nn.Sequential(convolution, norm_layer(norm, nd, channels_out), nn.ReLU(inplace=True))
