"""Where structures end, by the intensities that they have in this very image.

Source: Van Leemput et al. 1999: expectation maximisation between the intensities of classes and the class of each
voxel, with a prior at every voxel and a Markov random field. Here a network tells the prior, and histograms take the
place of Gaussians, because outside of the structures there are many tissues; both are this project's choice.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..deform.losses import box_sum

ITERATIONS = 3
BINS = 64
BLUR = torch.exp(-0.125 * torch.arange(-6.0, 7.0) ** 2)  # of the histograms, for two bins
FLAT = 1e-3  # of all intensities, at any structure
BELIEF = 0.5  # power of the prior, for networks are surer than they should be
TRUST = 0.7  # power of the likelihood, for the noise of neighbours is not independent
SEEN = 0.01  # probability of any structure where one is looked for
MARGIN = 2  # voxels around that
LEAST = 1e-6  # probability that remains for every class, so that logarithms stay finite
STRIDE = 2  # of the voxels that a histogram counts


@torch.no_grad()
def sharpened(image: Tensor, prior: Tensor) -> Tensor:
    """Return the probability of each class at each voxel after a look at the intensities that the classes have.

    Args:
        image: `(B, 1, *spatial)` in [0, 1].
        prior: `(B, C, *spatial)`, whose sum over the classes is 1; the first class is none of the structures.

    Returns:
        As `prior`. Where that sees no structure, it stays.
    """
    return torch.cat([_one(*sides) for sides in zip(image.split(1), prior.split(1), strict=True)])


def _one(image: Tensor, prior: Tensor) -> Tensor:
    box = _box_of(1 - prior[0, 0])
    if box is None:
        return prior
    whole = slice(None), slice(None)
    within = prior[whole + box]
    bins = (image[whole + box][0, 0].clamp(0, 1) * (BINS - 1)).round().long()
    believed, found = BELIEF * within.clamp_min(LEAST).log(), within
    for _ in range(ITERATIONS):
        likelihood = _histograms(bins, found[0]).log()[:, bins][None]
        agreed = box_sum(found, 3).clamp_min(LEAST).log()
        found = (believed + agreed + TRUST * likelihood).softmax(1)
    result = prior.clone()
    result[whole + box] = found
    return result


def _box_of(seen: Tensor) -> tuple[slice, ...] | None:
    """Return where something `(*spatial)` is seen, with a margin."""
    places = (seen > SEEN).nonzero()
    if not len(places):
        return None
    ends = zip(places.amin(0).tolist(), places.amax(0).tolist(), strict=True)
    return tuple(slice(max(0, low - MARGIN), high + 1 + MARGIN) for low, high in ends)


def _histograms(bins: Tensor, found: Tensor) -> Tensor:
    """Return the share of intensities `(C, BINS)` of each class.

    Args:
        bins: `(*spatial)`, whole numbers.
        found: `(C, *spatial)`, the probability of each class.
    """
    some = (slice(None, None, STRIDE),) * bins.ndim
    counts = found[(slice(None), *some)].flatten(1) @ F.one_hot(bins[some].flatten(), BINS).to(found.dtype)
    kernel = BLUR.to(counts).view(1, 1, -1)
    counts = F.conv1d(F.pad(counts[:, None], (len(BLUR) // 2,) * 2, mode="replicate"), kernel)[:, 0]
    total = counts.sum(1, keepdim=True)
    return (counts + FLAT * total / BINS + LEAST) / (total + 1)
