"""Two images to be brought together, and how far apart they are under a displacement."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from .bodies import Bodies
from .losses import inside_image, local_ncc, mean_squared
from .sliding import Sliding
from .warp import sample_points, shrink, warp, warp_evenly

Masks = tuple[Tensor, Tensor]  # of structures on the fixed and on the moving image
OnStep = Callable[[int, int, float], bool]  # told (done, of, loss); returns whether that is enough, may raise
P = TypeVar("P", bound="ImagePair")


@dataclass(frozen=True)
class Landmarks:
    """Points of the fixed image whose partners on the moving image are known.

    Attributes:
        places: `(N, nd)` in voxels of a grid.
        partners: The same of the partners.
        spatial: Size of that grid.
        tolerances: `(N,)`, how far in its voxels each point may end from its partner.
    """

    places: Tensor
    partners: Tensor
    spatial: tuple[int, ...]
    tolerances: Tensor

    def to(self, device: torch.device) -> "Landmarks":
        """Return them on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("places", "partners", "tolerances")}
        return replace(self, **moved)

    def among(self, indices: Sequence[int]) -> "Landmarks":
        """Return some of them."""
        chosen = {name: getattr(self, name)[list(indices)] for name in ("places", "partners", "tolerances")}
        return replace(self, **chosen)

    def missed(self, displacement: Tensor) -> Tensor:
        """Return by how much `(N, nd)`, in voxels of their grid, a displacement misses the partners.

        Args:
            displacement: `(1, nd, *any)` in voxels of any grid over the same field of view.
        """
        factor = [there / here for there, here in zip(displacement.shape[2:], self.spatial, strict=True)]
        scale = self.places.new_tensor(factor)
        places = (self.places + 0.5) * scale - 0.5
        return self.partners - self.places - sample_points(displacement, places[None])[0] / scale

    def distance(self, displacement: Tensor) -> Tensor:
        """Return the mean square of what is missed beyond the tolerance; arguments as of `missed`."""
        lengths = self.missed(displacement).square().sum(1).clamp_min(1e-12).sqrt()
        return torch.relu(lengths - self.tolerances).square().mean()


@dataclass(frozen=True)
class ImagePair:
    """Two images on one grid, and what is known of them there.

    Attributes:
        fixed: `(B, C, *spatial)` in [0, 1], or features of such an image.
        moving: Same shape, not warped.
        fixed_mask: `(B, 1, *spatial)`, 1 inside what the user segmented on the fixed image; None if nothing.
        moving_mask: The same on the moving image.
        weight: `(B, 1, *spatial)`, not negative: where the similarity counts; None: everywhere.
        structures: Masks `(B, S, *any)` in [0, 1] of structures on either image, which are to overlap, on any grid over
            the same field of view.
        known: Masks `(B, S, *spatial)` in [0, 1] of the structures that a network looks for, as somebody segmented them
            on either image; NaN where nobody did.
        landmarks: Points that are to meet their partners, on any grid over the same field of view.
        bodies: Segments that are to move as one piece each, likewise.
        sliding: Where the displacement may jump, likewise.
    """

    fixed: Tensor
    moving: Tensor
    fixed_mask: Tensor | None = None
    moving_mask: Tensor | None = None
    weight: Tensor | None = None
    structures: Masks | None = None
    known: Masks | None = None
    landmarks: Landmarks | None = None
    bodies: Bodies | None = None
    sliding: Sliding | None = None

    @cached_property
    def contrast(self) -> Tensor:
        """Variance of the fixed image, in units of which squared differences count."""
        return self.fixed.var().clamp_min(1e-8)

    def at(self: P, spatial: Sequence[int]) -> P:
        """Return the pair on a grid of another size over the same field of view, area-averaged against aliasing.

        What lies on any grid stays on it.
        """

        def resized(image: Tensor | None) -> Tensor | None:
            return None if image is None else shrink(image, spatial)

        return replace(
            self,
            fixed=shrink(self.fixed, spatial),
            moving=shrink(self.moving, spatial),
            fixed_mask=resized(self.fixed_mask),
            moving_mask=resized(self.moving_mask),
            weight=resized(self.weight),
            known=self.known and (shrink(self.known[0], spatial), shrink(self.known[1], spatial)),
        )


def image_distance(
    pair: ImagePair, warped: Tensor, similarity: str, window: int, weight: Tensor | None = None
) -> Tensor:
    """Return how unlike a warped moving image is to the fixed one, 0 for a perfect match.

    Args:
        pair: The images.
        warped: The moving image, warped.
        similarity: "ncc" for local correlation, else squared difference in units of the fixed image's variance.
        window: Edge of the correlation window in voxels.
        weight: Where it counts; None: everywhere.
    """
    if similarity == "ncc":
        return 1 - local_ncc(warped, pair.fixed, window, weight)
    return mean_squared(warped, pair.fixed, weight) / pair.contrast


def masked_distance(pair: ImagePair, displacement: Tensor, similarity: str, window: int) -> Tensor:
    """Return how unlike the images are under a displacement; what is outside of them or of their masks does not count.

    Args:
        pair: The images.
        displacement: `(B, nd, *spatial)` in voxels.
        similarity: As in `image_distance`.
        window: As in `image_distance`.
    """
    weight = inside_image(displacement)
    if pair.fixed_mask is not None:
        weight = weight * pair.fixed_mask
    if pair.moving_mask is not None:
        weight = weight * warp(pair.moving_mask, displacement.detach())
    return image_distance(pair, warp_evenly(pair.moving, displacement), similarity, window, weight)
