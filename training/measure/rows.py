"""How trained networks are measured: rows of figures, per data set and setting."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from DeepAttentionRegEngine.deform.gaussians import numbers_each
from DeepAttentionRegEngine.deform.losses import ssim
from DeepAttentionRegEngine.deform.warp import resize, resize_displacement, warp
from DeepAttentionRegEngine.networks.base import ImagePair
from DeepAttentionRegEngine.networks.bspline import Bspline
from DeepAttentionRegEngine.networks.r2n2 import R2n2

from ..configs.schema import ConfigError
from ..data.batches import PAIR_SEED, PairSampler, case_channels, pair_batch, pair_channels
from ..data.cases import CaseSet, ImageCase
from ..objectives.multiclass import MulticlassSegmentation
from ..objectives.registration import Registration, image_pair
from ..objectives.tasks import Autoencoding, Segmentation, reconstruction_target, structure_channels
from .medpy import MedpySurfaces, medpy_figures
from .scoring import (
    Figures,
    Summary,
    determinants,
    dice,
    fold_figures,
    landmark_errors,
    summarized,
    warped_map,
)

TIMED_PAIRS = 5
Row = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """What a registration is measured on.

    Attributes:
        task: The trained task, in evaluation mode.
        seen: Cases on the network's grid.
        whole: The same cases on their own grid, on which everything is scored.
        device: Where the network runs.

    Raises:
        ConfigError: If a case has no image.
    """

    task: Registration
    seen: CaseSet
    whole: CaseSet
    device: torch.device

    def __post_init__(self) -> None:
        if not self.seen.shown:
            msg = "its validation cases are label maps without images; measure its weights by `transfer`"
            raise ConfigError(msg)


def by_subset(measured: Measured) -> Iterator[tuple[str, Measured]]:
    """Yield the data sets that the cases come from, each by itself."""
    for subset in dict.fromkeys(case.subset for case in measured.seen.cases):
        keep = [index for index, case in enumerate(measured.seen.cases) if case.subset == subset]
        place = {old: new for new, old in enumerate(keep)}
        parts = []
        for found in (measured.seen, measured.whole):
            listed = None
            if found.pairs is not None:
                listed = [(place[a], place[b]) for a, b in found.pairs if a in place and b in place]
            parts.append(CaseSet([found.cases[index] for index in keep], listed))
        yield subset, replace(measured, seen=parts[0], whole=parts[1])


@torch.no_grad()
def registration_rows(measured: Measured) -> list[Row]:
    """Return a row for the identity and one for each number of recursions, per data set."""
    rows = []
    for subset, part in by_subset(measured):
        config = measured.task.config
        pairs = PairSampler(part.seen, config.data.pairing).sampled(config.evaluation.pairs, PAIR_SEED)
        scorer = PairScorer(part.whole, config.data.labels)
        figures: dict[str, list[Figures]] = {}
        for start in range(0, len(pairs), config.evaluation.batch):
            chunk = pairs[start : start + config.evaluation.batch]
            for setting, fields in fields_of(part, chunk):
                scored = [scorer(pair, field[None]) for pair, field in zip(chunk, fields, strict=True)]
                figures.setdefault(setting, []).extend(scored)
        times = _times(part, pairs[:TIMED_PAIRS])
        for setting, scored in figures.items():
            summary = summarized(scored)
            if setting in times:
                summary |= {"seconds": times[setting], "numbers": _numbers(part, setting)}
            rows.append({"subset": subset, "setting": setting, "pairs": len(pairs), "figures": summary})
    return rows


def fields_of(measured: Measured, pairs: list[tuple[int, int]]) -> Iterator[tuple[str, Tensor]]:
    """Yield setting and displacements `(B, nd, *whole)` in voxels of the whole grid, on the CPU."""
    config, cases = measured.task.config, measured.seen.cases
    whole = measured.whole.cases[pairs[0][0]].image.shape[1:]
    chunk = [pair_channels(cases, pair, config.data.labels) for pair in pairs]
    batch = {name: value.to(measured.device) for name, value in pair_batch(chunk).items()}
    yield "identity", torch.zeros(len(pairs), len(whole), *whole)
    given = {"": image_pair(batch)}
    if config.evaluation.true_masks:
        structures = measured.task.network.settings.structures
        fixed, moving = (structure_channels(batch[f"{side}_labels"], structures) for side in ("fixed", "moving"))
        given[", true masks"] = ImagePair(batch["fixed_image"], batch["moving_image"], fixed, moving)
    wanted = config.evaluation.recursions
    for told, pair in given.items():
        for number, state in enumerate(measured.task.network.recurse(pair, max(wanted)), start=1):
            if number in wanted:
                yield f"K={number}{told}", resize_displacement(state.displacement, whole).cpu()


def _times(measured: Measured, pairs: list[tuple[int, int]]) -> dict[str, Summary]:
    """Return seconds a pair, one pair at a time, from the images on the network's grid to the field on the whole."""
    figures: dict[str, list[Figures]] = {}
    for pair in [pairs[0], *pairs]:  # the first is a warm-up
        started = time.perf_counter()
        for setting, _ in fields_of(measured, [pair]):
            figures.setdefault(setting, []).append({"seconds": time.perf_counter() - started})
    return {name: summarized(rows[1:])["seconds"] for name, rows in figures.items() if name != "identity"}


def _numbers(measured: Measured, setting: str) -> Summary:
    """Return how many numbers describe a deformation: of the Gaussians, of the finest spline, or of the field."""
    network, grid = measured.task.network, measured.seen.cases[0].image.shape[1:]
    count = len(grid) * math.prod(grid)
    if isinstance(network, R2n2):
        count = int(setting.removeprefix("K=")) * network.settings.gaussians * numbers_each(len(grid))
    elif isinstance(network, Bspline):
        count = network.control_values(tuple(grid))
    return summarized([{"numbers": count}])["numbers"]


class PairScorer:
    """Scores displacements of pairs of cases on the cases' own grid."""

    def __init__(self, found: CaseSet, labels: int) -> None:
        self.cases, self.labels = found.cases, labels
        self.surfaces: dict[int, MedpySurfaces] = {}

    def __call__(self, pair: tuple[int, int], displacement: Tensor) -> Figures:
        """Return the figures of one pair.

        Args:
            pair: Indices (fixed, moving).
            displacement: `(1, nd, *spatial)` voxels.
        """
        fixed, moving = (self.cases[index] for index in pair)
        warped = warp(moving.image[None], displacement)
        figures = {
            **fold_figures(determinants(displacement)),
            "ssim": float(ssim(warped, fixed.image[None])),
            "mse": float((warped - fixed.image[None]).square().mean()),
        }
        if fixed.points is not None and moving.points is not None:
            errors = landmark_errors(displacement, fixed.points, moving.points, fixed.spacing)
            figures["tre_mm"] = float(errors.mean())
        if fixed.labels is None or moving.labels is None:
            return figures
        channels = case_channels(moving, self.labels)["labels"][None]
        labels = warped_map(channels, displacement)[0].numpy()
        return {**self._overlap(labels, pair[0], fixed), **figures}

    def _overlap(self, labels: Any, index: int, fixed: ImageCase) -> Figures:
        if index not in self.surfaces:
            self.surfaces[index] = MedpySurfaces(fixed.label_map.numpy(), self.labels, fixed.spacing)
        target = self.surfaces[index]
        found = MedpySurfaces(labels, self.labels, fixed.spacing)
        return {"dice": dice(labels, target.labels, self.labels), **medpy_figures(found, target)}


@torch.no_grad()
def segmentation_rows(task: Segmentation, seen: CaseSet, whole: CaseSet, device: torch.device) -> list[Row]:
    """Return a row per data set: masks predicted on the network's grid, enlarged, cut at one half.

    Of several structures each voxel belongs to the likeliest.
    """
    figures: dict[str, list[Figures]] = {}
    for small, case in zip(seen.cases, whole.cases, strict=True):
        probability = task.network(small.image[None].to(device)).sigmoid().cpu()
        likeliest, label = resize(probability, case.image.shape[1:])[0].max(0)
        mask = ((likeliest >= 0.5) * (label + 1)).numpy().astype("uint8")
        target = case.label_map.clamp(max=task.structures).numpy().astype("uint8")
        surfaces = (MedpySurfaces(labels, task.structures, case.spacing) for labels in (mask, target))
        scores = {"dice": dice(mask, target, task.structures), **medpy_figures(*surfaces)}
        figures.setdefault(case.subset, []).append(scores)
    return _rows(figures, "mask")


def multiclass_rows(task: MulticlassSegmentation, seen: CaseSet, device: torch.device) -> list[Row]:
    """Return a row per data set: mean Dice and that of each structure, on the network's grid.

    Of images with none of the structures, the percentage of voxels that are taken for one.
    """
    figures: dict[str, list[Figures]] = {}
    for case, labels in task.answers(seen, device):
        scores = task.figures(case, labels)
        if len(scores) == 1:
            scored = {"found_percent": 100 * float(scores)}
        else:
            named = {f"dice {name}": float(score) for name, score in zip(task.names, scores, strict=True)}
            scored = {"dice": float(scores.nanmean()), **named}
        figures.setdefault(case.subset, []).append(scored)
    return _rows(figures, "labels")


@torch.no_grad()
def autoencoder_rows(task: Autoencoding, seen: CaseSet, device: torch.device) -> list[Row]:
    """Return a row per data set: reconstructions of clean label maps, on the cube of the auto-encoder."""
    figures: dict[str, list[Figures]] = {}
    count = task.config.data.labels
    for case in seen.cases:
        target = reconstruction_target(task.network, case, count, device)
        spacing = tuple(
            mm * old / new for mm, old, new in zip(case.spacing, case.image.shape[1:], target.shape[2:], strict=True)
        )
        maps = [x.argmax(1)[0].to(torch.uint8).cpu().numpy() for x in (task.network(target), target)]
        made, wanted = (MedpySurfaces(labels, count, spacing) for labels in maps)
        scores = {"dice": dice(made.labels, wanted.labels, count), **medpy_figures(made, wanted)}
        figures.setdefault(case.subset, []).append(scores)
    return _rows(figures, "reconstruction")


def _rows(figures: dict[str, list[Figures]], setting: str) -> list[Row]:
    return [
        {"subset": subset, "setting": setting, "cases": len(scored), "figures": summarized(scored)}
        for subset, scored in figures.items()
    ]
