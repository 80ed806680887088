"""Batches of cases or pairs; each follows from seed, rank and step alone, so that runs resume exactly."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..configs.schema import Config, Synthesis
from .augmentation import Augmenter, cut
from .cases import CaseSet, ImageCase, one_hot
from .drawing import Drawer, model
from .synthesis import Synthesiser, anatomies

Batch = dict[str, Tensor]
PAIR_SEED = 1  # of the pairs on which trained networks are measured


@dataclass(frozen=True)
class CaseSource:
    """What batches are made of.

    Attributes:
        config: The experiment.
        cases: Training cases.
        rank: Number of this process among those that train together.
    """

    config: Config
    cases: CaseSet
    rank: int = 0


def generator(config: Config, step: int, rank: int) -> np.random.Generator:
    """Return the source of chance of one step of one process."""
    return np.random.default_rng([config.seed, rank, step])


class PairSampler:
    """Which pairs of cases make sense, by the rule of the configuration."""

    def __init__(self, found: CaseSet, rule: str, *, self_pairs: bool = False) -> None:
        self.cases, self.rule, self.self_pairs, self.listed = found.cases, rule, self_pairs, found.pairs
        self.groups: dict[str, list[int]] = {}
        for index, case in enumerate(found.cases):
            self.groups.setdefault(case.group if rule in ("group", "reference") else "", []).append(index)
        self.reference = {name: self._reference(members) for name, members in self.groups.items()}
        if rule == "listed" and not found.pairs:
            msg = "the data set lists no pairs"
            raise ValueError(msg)

    def _reference(self, members: list[int]) -> int:
        """Return the member whose mean intensity is closest to the mean of all (Sandkuehler et al. 2019)."""
        means = np.array([float(self.cases[index].image.mean()) for index in members])
        return members[int(np.abs(means - means.mean()).argmin())]

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """Return a random pair (fixed, moving) of indices."""
        if self.rule == "listed" and self.listed:
            return self.listed[rng.integers(len(self.listed))]
        moving = int(rng.integers(len(self.cases)))
        members = self._partners(moving)
        return int(members[rng.integers(len(members))]), moving

    def _partners(self, moving: int) -> list[int]:
        name = self.cases[moving].group if self.rule in ("group", "reference") else ""
        members = self.groups[name]
        if self.rule == "reference":
            return [self.reference[name]]
        return members if self.self_pairs else [index for index in members if index != moving] or [moving]

    def all(self) -> list[tuple[int, int]]:
        """Return the pairs that the data set lists, else all of different cases, both directions."""
        if self.listed is not None:
            return list(self.listed)
        return [
            (fixed, moving) for moving in range(len(self.cases)) for fixed in self._partners(moving) if fixed != moving
        ]

    def sampled(self, count: int | None, seed: int) -> list[tuple[int, int]]:
        """Return `count` different pairs drawn with a seed; all for None."""
        pairs = self.all()
        if count is None or count >= len(pairs):
            return pairs
        return [pairs[index] for index in np.random.default_rng(seed).choice(len(pairs), count, replace=False)]


class Batches(Dataset[Batch]):
    """The batches of a run by step."""

    def __init__(self, source: CaseSource) -> None:
        self.source = source
        data = source.config.data
        self.pairing = PairSampler(source.cases, data.pairing, self_pairs=data.self_pairs)
        self.anatomies = {} if source.config.synthesis is None else anatomies(source.cases)
        drawn = source.cases.cases if source.config.drawing is not None else []
        self.models = [model(case, data.labels) for case in drawn]

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step; see `pair_batch` and `case_batch`."""
        config, cases = self.source.config, self.source.cases.cases
        rng = generator(config, step, self.source.rank)
        if config.synthesis is not None:
            return self._synthesised(config.synthesis, rng)
        if config.drawing is not None:
            draw = Drawer(config, self.models, rng)
            if config.task == "registration":
                return pair_batch([draw.pair() for _ in range(config.run.batch)])
            return case_batch([draw.image() for _ in range(config.run.batch)])
        augment = Augmenter(config.augmentation, rng)
        if config.task != "registration":
            drawn = [cases[index] for index in rng.integers(len(cases), size=config.run.batch)]
            channels = [augment(case_channels(case, config.data.labels)) for case in drawn]
            batch = case_batch([augment.flipped(case)[0] for case in channels])
        else:
            pairs = []
            for _ in range(config.run.batch):
                fixed, moving = pair_channels(cases, self.pairing.draw(rng), config.data.labels)
                pairs.append(self._augmented(fixed, moving, augment, rng))
            batch = pair_batch(pairs)
        return cut(batch, config.augmentation.cut, rng)

    def _synthesised(self, settings: Synthesis, rng: np.random.Generator) -> Batch:
        config = self.source.config
        spatial = tuple(settings.shapes[rng.integers(len(settings.shapes))])
        draw = Synthesiser(settings, self.anatomies, config.data.labels, rng)
        pairs = []
        for _ in range(config.run.batch):
            fixed, moving = draw.pair(spatial)
            same = rng.random() < config.identity_share
            pairs.append((moving, moving) if same else (fixed, moving))
        return pair_batch(pairs)

    def _augmented(
        self, fixed: Batch, moving: Batch, augment: Augmenter, rng: np.random.Generator
    ) -> tuple[Batch, Batch]:
        fixed = augment(fixed)
        if rng.random() < self.source.config.identity_share:
            return fixed, fixed
        first, second = augment.flipped(fixed, augment(moving))
        return first, second

    def after(self, step: int) -> Iterator[Batch]:
        """Yield the batches from a step on, prepared by the configured number of processes."""
        run = self.source.config.run
        return iter(DataLoader(self, batch_size=None, sampler=range(step, run.steps), num_workers=run.workers))


def case_channels(case: ImageCase, labels: int) -> Batch:
    """Return what of a case goes into a batch.

    Args:
        case: The case.
        labels: L.

    Returns:
        "image" `(1, *spatial)`, and as far as known "labels" `(L, *spatial)` without background, "mask"
        `(structures, *spatial)`, "points" `(nd, N)` in voxels and with them "spacing" `(nd,)` in mm.
    """
    channels = {"image": case.image}
    if case.labels is not None:
        channels["labels"] = one_hot(case.labels, labels) if case.shares is None else case.shares
    if case.mask is not None:
        channels["mask"] = case.mask
    if case.points is not None:
        channels |= {"points": case.points.T, "spacing": torch.tensor(case.spacing)}
    return channels


def pair_channels(cases: list[ImageCase], pair: tuple[int, int], labels: int) -> tuple[Batch, Batch]:
    """Return what of the fixed and the moving case of a pair of indices goes into a batch."""
    fixed, moving = pair
    return case_channels(cases[fixed], labels), case_channels(cases[moving], labels)


def case_batch(cases: list[Batch]) -> Batch:
    """Stack what all cases have: "image" `(B, 1, *spatial)`, "labels" `(B, L, *spatial)`, and so on."""
    shared = set(cases[0]).intersection(*cases[1:])
    return {key: torch.stack([case[key] for case in cases]) for key in sorted(shared)}


def pair_batch(pairs: list[tuple[Batch, Batch]]) -> Batch:
    """Stack pairs: keys "fixed_image", "moving_labels" and so on, and "same" `(B,)`: pairs of an image with itself."""
    stacked = {"same": torch.tensor([fixed is moving for fixed, moving in pairs])}
    for side, name in enumerate(("fixed", "moving")):
        cases = case_batch([pair[side] for pair in pairs])
        stacked |= {f"{name}_{key}": value for key, value in cases.items()}
    return stacked


def recursions_at(config: Config, step: int) -> int:
    """Return how many recursions a step trains with, the same in all processes."""
    rule, rng = config.recursions, np.random.default_rng([config.seed, 1 << 20, step])
    if rule.schedule == "fixed":
        return rule.maximum
    if rule.schedule == "random":
        return int(rng.integers(1, rule.maximum + 1))
    allowed = 1 + min(rule.maximum - 1, math.floor(step / config.run.steps * 2 * rule.maximum))
    return int(max(rng.integers(1, allowed + 1, 2)))
