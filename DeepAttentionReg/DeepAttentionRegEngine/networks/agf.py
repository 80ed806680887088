"""AGF: masked images in, one displacement per scale of a U-Net, fused from coarse to fine by self-attention.

Source: He, He, Cao 2022 (attention-guided fusion of multi-scale deformation fields). Its text settles the parts, the
four scales and their fusion (eq. 5); channels and layers are printed in figures alone and are this project's choice
after AC-RegNet, hence "AGF-style". Scale k has 2^(k - 1) voxels of the image per voxel: scale 1 is the finest.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..deform.pairs import Masks
from ..deform.warp import compose, integrate_velocity, resize_displacement, shrink, warp
from .acregnet import WIDTHS, Unit, enlarge, halve, run_stage
from .base import AttentionMap, Evidence, ImagePair, Recursion, StepNetwork
from .blocks import clamp_displacement, convolution, flow_head, single_precision
from .fusion import FieldAttention
from .segmentation import Segmenter

SCALES = 4
FUSIONS = ("add", "compose")
SIGHTS = ("images", "masks")
AXES = "kji"


@dataclass(frozen=True)
class AgfSettings:
    """Network arguments of an AGF-style method file.

    Attributes:
        nd: Spatial axes, 2 or 3.
        widths: Name in `WIDTHS`: channels at scales 1 to 4.
        scales: Finest scales that give a displacement, 1 to 4.
        fusion: "add" as published, or "compose": the gated coarser field follows that of the scale. Composed
            integrated velocities fold far less, but a gated field may still fold.
        velocity_steps: Squarings of each scale's stationary velocity; 0 predicts displacements directly.
        image_pyramid: Every scale also sees the images themselves.
        norm: "batch" as published or "instance", for batches of one or two volumes.
        attention: False leaves out segmentation and masks: the ablation that sees the whole images.
        segmenter_width: Channels of the segmentation network at full resolution.
        threshold: Probability from which a voxel is attended to.
        soft_mask: Weight voxels by their probabilities instead, which keeps where within a voxel a boundary lies.
        structures: That the segmenter tells apart. The paper has 1.
        segmenter_widths: Channels of the segmentation network at each of its resolutions, instead of `segmenter_width`.
        segmenter_step: Voxels of the images, along each axis, to one that the segmentation network sees.
        intensities: The structures end where the intensities say that they have in this very image.
        exclusive: The segmenter gives a voxel to one structure or to none.
        groups: Structures, numbered from 1, that share a mask, for what is far apart need not be told apart; none: each
            has its own.
        sight: The network sees "images", once within each mask, so that it knows the boundaries between them, too; or
            the "masks" alone, whatever the contrast.
        step: Voxels of the images, along each axis, to one of the grid on which the network works behind the segmenter.
    """

    nd: int = 3
    widths: str = "default"
    scales: int = SCALES
    fusion: str = "add"
    velocity_steps: int = 0
    image_pyramid: bool = True
    norm: str = "instance"
    attention: bool = True
    segmenter_width: int = 16
    threshold: float = 0.5
    soft_mask: bool = False
    structures: int = 1
    segmenter_widths: tuple[int, ...] | None = None
    segmenter_step: int = 1
    intensities: bool = False
    exclusive: bool = False
    groups: tuple[tuple[int, ...], ...] = ()
    sight: str = "images"
    step: int = 1

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: For `scales` outside 1 to 4, an unknown `fusion` or `sight`, or groups of other structures.
        """
        if not 1 <= self.scales <= SCALES or self.fusion not in FUSIONS or self.sight not in SIGHTS:
            msg = f"scales ({self.scales}) must be 1 to {SCALES}, fusion ({self.fusion!r}) one of {FUSIONS}, "
            msg += f"sight ({self.sight!r}) one of {SIGHTS}"
            raise ValueError(msg)
        numbers = {number for group in self.groups for number in group}
        if not numbers <= set(range(1, self.structures + 1)):
            msg = f"groups ({self.groups}) must be of structures 1 to {self.structures}"
            raise ValueError(msg)

    @property
    def masks(self) -> int:
        """How many masks there are of an image."""
        return len(self.groups) or self.structures


class Agf(StepNetwork):
    """The network of one recursion and, by `recurse`, its recursive application to the masked images.

    `segmenter` is a part of it, so that one weight file holds both, but never trains with it: without gradients and
    always in evaluation mode.
    """

    minimum_size = 16  # below this the 1/8 map has a single voxel and cannot be normalised

    def __init__(self, settings: AgfSettings) -> None:
        super().__init__()
        self.settings = settings
        nd, norm, widths = settings.nd, settings.norm, WIDTHS[settings.widths]
        seen = 2 * (settings.masks if settings.attention else 1)
        self.down, self.up, self.merge = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for scale, width in enumerate(widths, start=1):
            c_in = seen if scale == 1 else widths[scale - 2] + seen * settings.image_pyramid
            self.down.append(nn.Sequential(Unit(nd, c_in, width, norm), Unit(nd, width, width, norm)))
        for c_in, c_out in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.up.append(convolution(nd, c_in, c_out))
            self.merge.append(nn.Sequential(Unit(nd, 2 * c_out, c_out, norm), Unit(nd, c_out, c_out, norm)))
        self.flows = nn.ModuleDict({str(k): flow_head(nd, widths[k - 1]) for k in range(1, settings.scales + 1)})
        self.gates = nn.ModuleDict({str(k): FieldAttention(nd) for k in range(1, settings.scales)})
        self.segmenter: Segmenter | None = None
        if settings.attention:
            segmenter = Segmenter(
                nd,
                settings.segmenter_width,
                norm,
                settings.structures,
                settings.segmenter_widths,
                exclusive=settings.exclusive,
                step=settings.segmenter_step,
                intensities=settings.intensities,
            )
            self.segmenter = segmenter.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Agf":
        """Set the mode of all but the segmenter."""
        super().train(mode)
        if self.segmenter is not None:
            self.segmenter.eval()
        return self

    def recurse(self, pair: ImagePair, recursions: int, *, attend: bool = False) -> Iterator[Recursion]:
        """Yield the state after each recursion, as `StepNetwork.recurse` on the masked images.

        The warped image of a state is the whole one.
        """
        self.require_size(pair.fixed)
        masked = self.masked(pair)
        maps = self._mask_maps(masked)
        size = [max(self.minimum_size, -(-n // self.settings.step)) for n in pair.fixed.shape[2:]]
        seen = masked if self.settings.step == 1 else ImagePair(shrink(masked.fixed, size), shrink(masked.moving, size))
        for state in super().recurse(seen, recursions, attend=attend):
            if state.evidence is not None:
                state.evidence.maps += maps
            yield replace(_on_grid(state, pair.moving), structures=_shown(masked))

    def masked(self, pair: ImagePair) -> ImagePair:
        """Return what the network sees of the images, with the masks that were applied; unchanged without attention.

        Both get a channel per mask. Structures that the pair does not know come from the segmenter; where these may
        overlap, a mask of the whole is shared among them as the segmenter sees them. Masks that are empty of all
        structures count as none: the whole image is seen.
        """
        if self.segmenter is None:
            return replace(pair, fixed_mask=None, moving_mask=None)
        known = pair.known or (None, None)
        fixed_mask = self._mask(self.segmenter, pair.fixed, pair.fixed_mask, known[0])
        moving_mask = self._mask(self.segmenter, pair.moving, pair.moving_mask, known[1])
        if self.settings.sight == "masks":
            return ImagePair(fixed_mask, moving_mask, fixed_mask, moving_mask)
        return ImagePair(pair.fixed * fixed_mask, pair.moving * moving_mask, fixed_mask, moving_mask)

    @torch.no_grad()
    def memberships(self, image: Tensor) -> Tensor | None:
        """Return what the segmenter finds, as `RegistrationNetwork.memberships`."""
        return None if self.segmenter is None else self.segmenter.memberships(image)

    @torch.no_grad()
    def _mask(self, segmenter: Segmenter, image: Tensor, given: Tensor | None, known: Tensor | None) -> Tensor:
        settings = self.settings
        told = probability = self._probability(segmenter, image, given, known)
        if given is not None and given.shape[1] == 1:
            told = given
        empty = told.amax(tuple(range(1, told.ndim)), keepdim=True) < settings.threshold
        if settings.groups:
            members = [[number - 1 for number in group] for group in settings.groups]
            probability = torch.cat([probability[:, group].sum(1, keepdim=True) for group in members], 1).clamp(max=1)
        mask = probability if settings.soft_mask else probability >= settings.threshold
        return mask.to(image.dtype).masked_fill(empty, 1)

    def _probability(self, segmenter: Segmenter, image: Tensor, given: Tensor | None, known: Tensor | None) -> Tensor:
        """Return the probability of each structure."""
        structures = self.settings.structures
        if known is None and given is not None and given.shape[1] == structures:
            return given
        if known is not None and not known.isnan().any():
            return known
        logits = segmenter(image)
        probability = logits.sigmoid()
        if given is not None:
            probability = given * (probability if self.settings.exclusive else self._shares(logits))
        if known is None:
            return probability
        free = 1 - known.nan_to_num(0).sum(1, keepdim=True).clamp(max=1)
        return torch.where(known.isnan(), probability * free, known)

    def _shares(self, logits: Tensor) -> Tensor:
        """Return how structures share a voxel: by their probabilities, of hard masks the likeliest takes it all."""
        # By logarithms: where the segmenter sees nothing, the probabilities are too small to be divided.
        shares = F.logsigmoid(logits).softmax(1)
        return shares if self.settings.soft_mask else (shares == shares.amax(1, keepdim=True)).to(logits.dtype)

    def _mask_maps(self, masked: ImagePair) -> list[AttentionMap]:
        """Return the masks as maps, one of each structure."""
        count, kind = self.settings.masks, "group" if self.settings.groups else "structure"
        names = [f"attention mask, {kind} {n}" for n in range(1, count + 1)] if count > 1 else ["attention mask"]
        maps: list[AttentionMap] = []
        for image, mask in (("fixed", masked.fixed_mask), ("moving", masked.moving_mask)):
            if mask is not None:
                maps += [
                    AttentionMap(name, image, channel) for name, channel in zip(names, mask.split(1, 1), strict=True)
                ]
        return maps

    def forward(self, warped: Tensor, fixed: Tensor, evidence: Evidence | None = None) -> Tensor:
        """Predict one recursion's displacement from masked images, as `StepNetwork.forward`."""
        return clamp_displacement(self.scales_of(warped, fixed, evidence)[1])

    def scales_of(self, warped: Tensor, fixed: Tensor, evidence: Evidence | None = None) -> dict[int, Tensor]:
        """Predict one recursion's displacement at every scale, for deep supervision.

        Args:
            warped: `(B, masks, *spatial)`, what is seen of the moving image, warped by the displacement so far.
            fixed: Same shape, what is seen of the fixed image.
            evidence: Add to it how much of the coarser fields was taken over.

        Returns:
            By scale, coarsest first: the field fused so far, `(B, nd, *size)` in voxels of the scale's grid, which has
            `ceil(spatial / 2^(scale - 1))` voxels over the whole image.
        """
        features = self._features(torch.cat([warped, fixed], 1))
        with single_precision(fixed.device):
            return self._fuse({k: x.to(fixed.dtype) for k, x in features.items()}, evidence)

    def _features(self, images: Tensor) -> dict[int, Tensor]:
        """Return the decoder's features by scale, coarsest first."""
        x, skips = images, []
        for scale, stage in enumerate(self.down, start=1):
            if scale > 1:
                x, images = halve(x), halve(images)
                x = torch.cat([x, images.to(x.dtype)], 1) if self.settings.image_pyramid else x
            x = run_stage(stage, x, scale)
            skips.append(x)
        features = {SCALES: x}
        for scale, up, merge in zip((3, 2, 1), self.up, self.merge, strict=True):
            skip = skips[scale - 1]
            x = run_stage(up, enlarge(x, skip), scale)
            x = run_stage(merge, torch.cat([x, skip], 1), scale)
            features[scale] = x
        return features

    def _fuse(self, features: dict[int, Tensor], evidence: Evidence | None) -> dict[int, Tensor]:
        fields: dict[int, Tensor] = {}
        for k in range(self.settings.scales, 0, -1):
            field = integrate_velocity(self.flows[str(k)](features[k]), self.settings.velocity_steps)
            if k < self.settings.scales:
                coarser = resize_displacement(fields[k + 1], field.shape[2:])
                weights = self.gates[str(k)](coarser)
                if evidence is not None:
                    evidence.maps += _gate_maps(weights, k)
                gated = weights * coarser
                field = field + gated if self.settings.fusion == "add" else compose(gated, field)
            fields[k] = field
        return fields


def _shown(masked: ImagePair) -> Masks | None:
    """Return the masks that were applied; None unless both images show what they are of."""
    if masked.fixed_mask is None or masked.moving_mask is None:
        return None
    masks = masked.fixed_mask, masked.moving_mask
    return None if any(bool((mask == 1).all()) for mask in masks) else masks


def _on_grid(state: Recursion, moving: Tensor) -> Recursion:
    """Return a state on the grid of the moving image, which it warps; its evidence stays where it was made."""
    spatial = moving.shape[2:]
    displacement = resize_displacement(state.displacement, spatial)
    increment = resize_displacement(state.increment, spatial)
    return replace(state, displacement=displacement, increment=increment, warped=warp(moving, displacement))


def _gate_maps(weights: Tensor, scale: int) -> list[AttentionMap]:
    axes = AXES[-weights.shape[1] :]
    return [
        AttentionMap(f"gate, scale {scale}, axis {axis}", "fixed", weights[:, d : d + 1]) for d, axis in enumerate(axes)
    ]
