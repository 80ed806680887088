"""Regional adaptive attention: where two images are worth comparing, and with which features.

Source: the idea of AD-RegNet (Iqbal et al., arXiv 2602.07088), whose operator is not public; soft regions as in OCR
(Yuan et al. 2020) and double attention (Chen et al. 2018), the gate as in the attention U-Net (Oktay et al. 2018).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import CONVOLUTIONS
from .cross_attention import at_least_single

SLOPE = 0.1
FLOOR = 0.1  # least relevance, so that no region can go still for good
START_LOGIT = 2.0
START_RELEVANCE = FLOOR + (1 - FLOOR) * 0.880797  # sigmoid(2)


class RegionalAttention(nn.Module):
    """Gains per soft region and channel, and a relevance map that also scales the motion; identity at the start.

    Regions `P = softmax_k(conv(b))` with tokens `t_k = sum_x P_k f / sum_x P_k` of both images have gains
    `r_k = 2 sigmoid(MLP[t_k^b, t_k^a, |t_k^b - t_k^a|])`. Both maps are multiplied by `sum_k P_k(x) r_k` and by the
    relevance S relative to its starting value.
    """

    def __init__(self, nd: int, channels: int, *, regions: int = 8, coarser: bool = True) -> None:
        """Build the module; `coarser` tells whether the relevance of the next coarser level is given to `forward`."""
        super().__init__()
        layer = CONVOLUTIONS[nd]
        self.assignment = layer(channels, regions, 1)
        self.hidden = nn.Linear(3 * channels, channels)
        self.gain = nn.Linear(channels, channels)
        self.comparison = layer(3 * channels + coarser, channels // 2, 1)
        self.relevance = layer(channels // 2, 1, 3, padding=1)
        for last in (self.gain, self.relevance):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        nn.init.constant_(self.relevance.bias, START_LOGIT)

    def regions(self, b: Tensor) -> Tensor:
        """Return P `(B, K, *spatial)`, the share of each region at each voxel."""
        return torch.softmax(at_least_single(self.assignment(b)), 1)

    def region_gains(self, shares: Tensor, b: Tensor, a: Tensor) -> Tensor:
        """Return r `(B, K, C)` in (0, 2) for shares of regions `(B, K, *spatial)`."""
        shares = shares.flatten(2)
        shares = shares / shares.sum(2, keepdim=True).clamp_min(1e-6)
        with torch.autocast(b.device.type, enabled=False):  # sums over a whole image
            token_b, token_a = (torch.einsum("bkn,bcn->bkc", shares, x.flatten(2).to(shares.dtype)) for x in (b, a))
            tokens = torch.cat([token_b, token_a, (token_b - token_a).abs()], -1)
            return 2 * torch.sigmoid(self.gain(F.leaky_relu(self.hidden(tokens), SLOPE)))

    def forward(self, b: Tensor, a: Tensor, coarser: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Weight the features of both images.

        Args:
            b: `(B, C, *spatial)`, fixed image.
            a: Same shape, warped moving image.
            coarser: Relevance of the next coarser level, `(B, 1, *spatial)` at the size of `b`.

        Returns:
            Both weighted maps, and the relevance S `(B, 1, *spatial)` in (`FLOOR`, 1), single precision at least.
        """
        shares = self.regions(b)
        gains = torch.einsum("bk...,bkc->bc...", shares, self.region_gains(shares, b, a))
        inputs = [b, a, (b - a).abs()] if coarser is None else [b, a, (b - a).abs(), coarser.to(b.dtype)]
        logit = self.relevance(F.leaky_relu(self.comparison(torch.cat(inputs, 1)), SLOPE)).to(shares.dtype)
        relevance = FLOOR + (1 - FLOOR) * torch.sigmoid(logit)
        factor = (gains * (relevance / START_RELEVANCE)).to(b.dtype)
        return b * factor, a * factor, relevance
