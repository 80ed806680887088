"""A registration method of one's own: move the moving image so that the centers of brightness agree."""

import torch
from torch import Tensor

from DeepAttentionRegEngine.networks.base import Evidence, StepNetwork


class CenterShift(StepNetwork):
    """Predicts one shift for all voxels; works in two and three dimensions, and has nothing to learn."""

    def __init__(self, nd: int, share: float = 1.0) -> None:
        """Prepare.

        Args:
            nd: Spatial axes, 2 or 3.
            share: How much of the distance between the centers one recursion goes.
        """
        super().__init__()
        self.nd, self.share = nd, share

    def forward(self, warped: Tensor, fixed: Tensor, evidence: Evidence | None = None) -> Tensor:
        """Return one recursion's displacement `(B, nd, *spatial)` in voxels; arguments as in `StepNetwork`."""
        shift = self.share * (center(warped) - center(fixed))
        return shift.view(-1, self.nd, *[1] * self.nd).expand(-1, -1, *fixed.shape[2:])


def center(image: Tensor) -> Tensor:
    """Return the center of brightness `(B, nd)` of images `(B, 1, *spatial)`, in voxels."""
    axes = [torch.arange(n, dtype=image.dtype, device=image.device) for n in image.shape[2:]]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
    mass = image.clamp_min(0) + 1e-9
    return (grid * mass).flatten(2).sum(2) / mass.flatten(2).sum(2)
