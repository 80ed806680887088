"""Segments of the user's that steer a registration: in the place of what a network sees, or beside it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..deform.pairs import Masks
from ..deform.sliding import LAYER, Sliding, finer_size
from ..protocol import errors
from ..volume.geometry import index_map
from ..volume.segment_pairs import Segment, SegmentPair, find_named, pair_up, plain
from ..volume.segments import Segments
from .evaluation import Reference
from .preprocess import WorkingPair
from .resampling import resample

WEIGHT = 5.0  # of the overlap of segments where weights name none of their own
BETWEEN_CONTRASTS = 3.0  # times that, for the distance of MIND is flatter than correlation is


@dataclass(frozen=True)
class Within:
    """Whether voxels belong to a segment, 1 or 0, made part by part."""

    labels: np.ndarray
    value: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of the label map."""
        return self.labels.shape

    def __getitem__(self, part: Any, /) -> np.ndarray:
        """Return a part of it."""
        return (self.labels[part] == self.value).astype(np.float32)


@dataclass(frozen=True)
class Guidance:
    """What the user segmented on both images; a side may have nothing.

    Attributes:
        fixed: Segments of the fixed image.
        moving: Those of the moving image.
    """

    fixed: Segments | None
    moving: Segments | None

    @classmethod
    def of(cls, reference: Reference, names: Sequence[str], wanted: str) -> "Guidance":
        """Return that of what is measured with.

        Args:
            reference: Its segments steer.
            names: Of the structures that the network sees; none if it sees none.
            wanted: Which segments, as in the setting `steered`.

        Raises:
            EngineError: If there is nothing that could steer.
        """
        known = (reference.fixed_labels, reference.moving_labels)
        every = [item for segments in known if segments is not None for item in segments.items]
        chosen = find_named(every, wanted, "steer the registration")
        found = cls(*(segments and replace(segments, items=_among(segments.items, chosen)) for segments in known))
        sides = [found._chosen(segments, names) for segments in (found.fixed, found.moving)]
        if not found._pairs() and not any(item is not None for side in sides for item in side):
            raise errors.EngineError(
                errors.INPUT_INVALID,
                "There are no segments that could steer the registration.",
                "Give segmentations of both images with the same names, or with names of structures of the weights.",
            )
        return found

    def known(self, view: WorkingPair, names: Sequence[str]) -> Masks | None:
        """Return masks `(1, S, *spatial)` of the structures of a network, NaN of those that nobody segmented.

        Args:
            view: The pair as the network sees it.
            names: Of its structures, in their order.
        """
        sides = [
            (segments, matrix, self._chosen(segments, names))
            for segments, matrix in ((self.fixed, np.eye(4)), (self.moving, view.alignment))
        ]
        if not any(item is not None for *_, items in sides for item in items):
            return None
        fixed, moving = (_masks(view, segments, matrix, items) for segments, matrix, items in sides)
        return fixed, moving

    def beside(self, view: WorkingPair, names: Sequence[str]) -> Masks | None:
        """Return masks `(1, N, *spatial)` of the segments of both images that are no structures of the network."""
        taken = {plain(name) for name in names}
        pairs = [pair for pair in self._pairs() if not {plain(pair.fixed.name), plain(pair.moving.name)} & taken]
        if not pairs:
            return None
        fixed = _masks(view, self.fixed, np.eye(4), [pair.fixed for pair in pairs])
        return fixed, _masks(view, self.moving, view.alignment, [pair.moving for pair in pairs])

    def _pairs(self) -> list[SegmentPair]:
        """Return the segments that both images have."""
        if self.fixed is None or self.moving is None:
            return []
        return pair_up(self.fixed.items, self.moving.items).pairs

    @staticmethod
    def _chosen(segments: Segments | None, names: Sequence[str]) -> list[Segment | None]:
        """Return the segment of each name, but for case and spaces; None where there is none."""
        by_name = {plain(item.name): item for item in reversed(segments.items if segments else []) if item.name}
        return [by_name.get(plain(name)) for name in names]


def _among(items: Sequence[Segment], chosen: Sequence[Segment]) -> list[Segment]:
    return [item for item in items if any(item is one for one in chosen)]


def let_slide(pair: WorkingPair, segments: Segments | None, names: str) -> tuple[WorkingPair, str]:
    """Return a pair that may slide along the boundary of segments, and a sentence that tells it.

    Args:
        pair: On the working grid.
        segments: Of the fixed image.
        names: Theirs, as in the setting `sliding`.

    Raises:
        EngineError: If there are none of a name.
    """
    known = [] if segments is None else segments.items
    found = find_named(known, names, "slide, on the fixed image")
    finer = pair.at(finer_size(tuple(pair.fixed.shape[2:])))
    mask = _masks(finer, segments, np.eye(4), found).amax(1, keepdim=True)
    layer_mm = LAYER * max(finer.geometry.spacing[: mask.ndim - 2])
    titles = ", ".join(dict.fromkeys(item.title for item in found))
    sentence = f"Tissue may slide along {titles}; in the transform it does so within a layer of {layer_mm:.0f} mm."
    return replace(pair, sliding=Sliding.of(mask)), sentence


def joined(first: Masks | None, second: Masks | None) -> Masks | None:
    """Return all masks of two sets on one grid."""
    if first is None or second is None:
        return first or second
    return torch.cat([first[0], second[0]], 1), torch.cat([first[1], second[1]], 1)


def _masks(view: WorkingPair, segments: Segments | None, matrix: np.ndarray, items: Sequence[Segment | None]) -> Tensor:
    """Return a mask `(1, N, *spatial)` in [0, 1] of each segment, NaN for None."""
    spatial, device = view.fixed.shape[2:], view.fixed.device
    result = torch.full((1, len(items), *spatial), torch.nan, device=device)
    if segments is None:
        return result
    to_labels = index_map(view.geometry, segments.geometry, matrix)
    for channel, item in enumerate(items):
        if item is not None:
            within = Within(segments.layers[item.layer], item.value)
            values, inside = resample(within, to_labels, view.geometry.shape, device)
            result[0, channel] = (values * inside).view(*spatial)
    return result
