"""Local Gaussian deformations, the building blocks of R2N2."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Gaussians:
    """Bumps added in one step, in units of a grid's half extent.

    Attributes:
        center: `(B, G, nd)`.
        sigma: `(B, G, nd)`, standard deviations along the turned axes.
        rotation: `(B, G, nd, nd)`.
        vector: `(B, G, nd)`, displacement at the center.
    """

    center: Tensor
    sigma: Tensor
    rotation: Tensor
    vector: Tensor
