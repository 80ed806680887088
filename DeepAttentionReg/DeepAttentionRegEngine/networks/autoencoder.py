"""Denoising auto-encoder of label maps: training compares shapes by its codes."""

import torch
from torch import Tensor, nn

from ..deform.warp import shrink
from .blocks import CONVOLUTIONS, norm_layer

SWAPPED = 0.1  # share of voxel pairs


class Autoencoder(nn.Module):
    """From label channels to a short code and back, on a cube of fixed size.

    Label maps of other sizes are resampled to it, so the code describes shape relative to the field of view.

    Source: Mansilla et al. 2020 (AC-RegNet, network and noise), He, He, Cao 2022 (AGF, section 3.3).
    """

    def __init__(self, nd: int, channels: int, size: int = 64, code: int = 32) -> None:
        """Build the network.

        Args:
            nd: Spatial axes, 2 or 3.
            channels: Labels including the background.
            size: Voxels along each axis of the cube, a multiple of 8.
            code: Numbers per label map.

        Raises:
            ValueError: If the size is not a multiple of 8.
        """
        super().__init__()
        if size % 8:
            msg = f"size {size} must be a multiple of 8"
            raise ValueError(msg)
        self.size, smallest = size, (size // 8,) * nd
        self.encoder = nn.Sequential(
            *_unit(nd, channels, 16, stride=2),
            *_unit(nd, 16, 16),
            *_unit(nd, 16, 32, stride=2),
            *_unit(nd, 32, 32),
            *_unit(nd, 32, 1, stride=2),
            nn.Flatten(),
            nn.Linear((size // 8) ** nd, code),
        )
        self.decoder = nn.Sequential(
            nn.Linear(code, (size // 8) ** nd),
            nn.ReLU(inplace=True),
            nn.Unflatten(1, (1, *smallest)),
            nn.Upsample(scale_factor=2),
            *_unit(nd, 1, 32),
            *_unit(nd, 32, 32),
            nn.Upsample(scale_factor=2),
            *_unit(nd, 32, 16),
            *_unit(nd, 16, 16),
            nn.Upsample(scale_factor=2),
            *_unit(nd, 16, 16),
            CONVOLUTIONS[nd](16, channels, 3, padding=1),
        )

    def on_cube(self, labels: Tensor) -> Tensor:
        """Resample label channels `(B, channels, *spatial)` to the cube, `(B, channels, size, size[, size])`."""
        return shrink(labels, [self.size] * (labels.ndim - 2))

    def encode(self, labels: Tensor) -> Tensor:
        """Return the codes `(B, code)` of label channels `(B, channels, *spatial)` in [0, 1]."""
        return self.encoder(self.on_cube(labels))

    def forward(self, labels: Tensor) -> Tensor:
        """Return the logits of the reconstruction on the cube, for label channels as in `encode`."""
        return self.decoder(self.encode(labels))


def _unit(nd: int, channels_in: int, channels_out: int, stride: int = 1) -> list[nn.Module]:
    convolution = CONVOLUTIONS[nd](channels_in, channels_out, 3, stride=stride, padding=1)
    return [convolution, norm_layer("batch", nd, channels_out), nn.ReLU(inplace=True)]


def swap_pairs(labels: Tensor, probability: float = SWAPPED, generator: torch.Generator | None = None) -> Tensor:
    """Return label channels with some voxels 2j and 2j + 1 along the last axis swapped.

    Args:
        labels: `(B, channels, *spatial)`; all channels of a voxel move together.
        probability: Of each pair.
        generator: Source of chance.

    Source: Mansilla et al. 2020, code of AC-RegNet.
    """
    end = labels.shape[-1] // 2 * 2
    left, right = labels[..., 0:end:2], labels[..., 1:end:2]
    chance = torch.rand(left[:, :1].shape, generator=generator, device=labels.device)
    swapped = chance < probability
    noisy = labels.clone()
    noisy[..., 0:end:2] = torch.where(swapped, right, left)
    noisy[..., 1:end:2] = torch.where(swapped, left, right)
    return noisy
