"""Networks, images and losses that the tests of AGF share."""

import torch
from torch import Tensor, nn

from DeepAttentionRegEngine.deform.losses import global_ncc, ssim, total_variation
from DeepAttentionRegEngine.deform.overlap_losses import code_distance, logit_cross_entropy
from DeepAttentionRegEngine.deform.warp import warp
from DeepAttentionRegEngine.networks.agf import Agf, AgfSettings
from DeepAttentionRegEngine.networks.autoencoder import Autoencoder
from DeepAttentionRegEngine.networks.base import ImagePair, Recursion
from engine_cases import smooth_noise

FLAT, VOLUME = (33, 50), (20, 17, 26)


class Bright(nn.Module):
    """Takes what is brighter than a level for the structure."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, image: Tensor) -> Tensor:
        return 100 * (image - self.level)


def make_agf(nd: int, *, flow: float = 1.0, level: float | None = 0.3, seed: int = 0, **arguments: object) -> Agf:
    """Return an untrained network in evaluation mode.

    Args:
        nd: Spatial axes.
        flow: Scales what it predicts at the start.
        level: Brightness from which it attends; None keeps the untrained segmenter.
        seed: Of the weights.
        arguments: Other settings.
    """
    torch.manual_seed(seed)
    network = Agf(AgfSettings(**{"nd": nd, "widths": "tiny", "segmenter_width": 2, **arguments})).eval()
    for head in network.flows.values():
        head.weight.data *= flow
    if level is not None and network.settings.attention:
        network.segmenter = Bright(level)
    return network


def image_pair(spatial: tuple[int, ...], sigma: float = 1.5) -> ImagePair:
    return ImagePair(smooth_noise(spatial, seed=1, sigma=sigma), smooth_noise(spatial, seed=2, sigma=sigma))


def halves(spatial: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return masks of the first and of the last half along the last axis."""
    first = torch.zeros(1, 1, *spatial)
    first[..., : spatial[-1] // 2] = 1
    return first, 1 - first


@torch.no_grad()
def states(network: Agf, pair: ImagePair, recursions: int = 1, *, attend: bool = False) -> list[Recursion]:
    return list(network.recurse(pair, recursions, attend=attend))


@torch.no_grad()
def scales_of(network: Agf, pair: ImagePair) -> dict[int, Tensor]:
    return network.scales_of(pair.moving, pair.fixed)


def loss_terms(
    seen: ImagePair, displacement: Tensor, moving: Tensor, fixed: Tensor, shape: Autoencoder
) -> list[Tensor]:
    """Return correlation, structural similarity, cross-entropy, code distance and total variation of a field."""
    image, labels = warp(seen.moving, displacement), warp(moving, displacement)
    return [
        global_ncc(image, seen.fixed),
        ssim(image, seen.fixed),
        logit_cross_entropy(labels, fixed),
        code_distance(shape.encode, labels, fixed),
        total_variation(displacement),
    ]
