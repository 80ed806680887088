"""MIND-SSC: a self-similarity descriptor that compares images of different modalities."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .losses import box_mean

NOISE_FLOOR = 1e-3  # of the mean variance; bounds the local variance from both sides


def _offset_pairs(nd: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return the pairs of face neighbours at distance sqrt(2): 12 in 3D, 4 in 2D."""
    faces = [tuple(sign * int(axis == d) for d in range(nd)) for axis in range(nd) for sign in (-1, 1)]
    return [
        (a, b)
        for i, a in enumerate(faces)
        for b in faces[i + 1 :]
        if sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) == 2
    ]


def _shifted(image: Tensor, offset: tuple[int, ...], dilation: int) -> Tensor:
    pad = [dilation, dilation] * len(offset)
    padded = F.pad(image, pad, mode="replicate")
    for axis, (step, size) in enumerate(zip(offset, image.shape[2:], strict=True), start=2):
        padded = padded.narrow(axis, dilation * (1 + step), size)
    return padded


def mind_ssc(image: Tensor, *, window: int = 3, dilation: int = 2) -> Tensor:
    """Return the descriptor of an image.

    Args:
        image: `(B, 1, *spatial)`.
        window: Odd patch edge in voxels.
        dilation: Distance of the compared neighbours from the centre, in voxels.

    Returns:
        `(B, 12, *spatial)` in 3D, `(B, 4, *spatial)` in 2D, values in (0, 1].

    Source: Heinrich et al., MICCAI 2013 (self-similarity context).
    """
    pairs = _offset_pairs(image.ndim - 2)
    distances = [box_mean((_shifted(image, a, dilation) - _shifted(image, b, dilation)) ** 2, window) for a, b in pairs]
    distance = torch.cat(distances, 1)
    distance = distance - distance.min(1, keepdim=True).values
    variance = distance.mean(1, keepdim=True)
    mean = variance.detach().mean(tuple(range(1, image.ndim)), keepdim=True)
    variance = variance.clamp(mean * NOISE_FLOOR, mean / NOISE_FLOOR).clamp_min(1e-12)
    return torch.exp(-distance / variance)
