"""What a training step computes, by task: `forward` returns the loss terms, `validate` a score of validation cases."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from DeepAttentionRegEngine.deform import losses, overlap_losses
from DeepAttentionRegEngine.networks.autoencoder import Autoencoder, swap_pairs
from DeepAttentionRegEngine.networks.segmentation import Segmenter

from ..configs.schema import Config, ConfigError
from ..data.batches import Batch
from ..data.cases import CaseSet, ImageCase, one_hot, with_background

Terms = dict[str, Tensor]
Draw = Callable[[int], int]


@dataclass(frozen=True)
class Score:
    """Result of a validation.

    Attributes:
        value: Higher is better.
        images: Rows of `(1, height, width)` in [0, 1] to look at.
        details: Further figures by name, to look at alone.
    """

    value: float
    images: list[list[Tensor]]
    details: dict[str, float] = field(default_factory=dict)


class TrainingTask(nn.Module):
    """A network and its loss."""

    losses: tuple[str, ...] = ()

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.weights = config.weighted_losses()
        unknown = set(self.weights) - set(self.known_losses())
        if unknown:
            known = ", ".join(self.known_losses())
            msg = f"losses: {', '.join(sorted(unknown))} unknown for {config.task} (known: {known})"
            raise ConfigError(msg)
        self.network: Any = None

    def known_losses(self) -> tuple[str, ...]:
        """Return the names of the losses that the task offers."""
        return self.losses

    def prepare(self, found: CaseSet) -> CaseSet:
        """Return training cases with what can be computed once for all steps."""
        return found

    def total(self, terms: Terms) -> Terms:
        """Return the terms, each times its weight, and their sum as "loss"."""
        weighted = {name: self.weights[name][0] * value for name, value in terms.items()}
        return {"loss": torch.stack(list(weighted.values())).sum(), **weighted}

    def forward(self, batch: Batch, recursions: int) -> Terms:
        """Return the weighted terms of a batch and their sum, "loss"."""
        raise NotImplementedError

    def validate(self, found: CaseSet, device: torch.device) -> Score:
        """Score the network on validation cases."""
        raise NotImplementedError


class Segmentation(TrainingTask):
    """Finds what AGF attends to: any label of the cases, or each of them where the network tells structures apart.

    Source: He, He, Cao 2022 (AGF), eq. 3; the overlap, without which small structures may stay unlearned, is this
    project's choice.
    """

    losses = ("cross_entropy", "contour", "soft_dice")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.network = Segmenter(**config.network)
        self.structures: int = config.network.get("structures", 1)
        if self.structures not in (1, config.data.labels):
            msg = f"network: structures must be 1 or the {config.data.labels} of the labels, not {self.structures}"
            raise ConfigError(msg)

    def forward(self, batch: Batch, recursions: int) -> Terms:
        """Return cross-entropy, contour loss and overlap of the probabilities."""
        target = structure_channels(batch["labels"], self.structures)
        logits = self.network(batch["image"]).float()
        terms = {
            "cross_entropy": lambda: F.binary_cross_entropy_with_logits(logits, target),
            "contour": lambda: overlap_losses.contour(logits.sigmoid(), target),
            "soft_dice": lambda: 1 - losses.soft_dice(logits.sigmoid(), target),
        }
        return self.total({name: terms[name]() for name in self.weights})

    @torch.no_grad()
    def validate(self, found: CaseSet, device: torch.device) -> Score:
        """Return the mean Dice of the masks at a probability of one half."""
        scores, images = [], []
        for case in found.cases[: self.config.validation.pairs]:
            mask = (self.network(case.image[None].to(device)) >= 0).float().cpu()
            target = structure_channels(one_hot(case.label_map, self.config.data.labels)[None], self.structures)
            scores.append(float(losses.soft_dice(mask, target)))
            images.append([middle(case.image[None]), middle(mask), middle(target)])
        return Score(sum(scores) / len(scores), images[:4])


def structure_channels(labels: Tensor, structures: int) -> Tensor:
    """Return labels `(B, L, *spatial)` as what a segmenter finds: all of them as one structure, or each."""
    return labels.sum(1, keepdim=True) if structures == 1 else labels


class Autoencoding(TrainingTask):
    """Learns the codes of label maps.

    Source: Mansilla et al. 2020 (noise, cross-entropy); He, He, Cao 2022 (AGF), eq. 4 (contour).
    """

    losses = ("cross_entropy", "contour")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.network = Autoencoder(**config.network)

    def forward(self, batch: Batch, recursions: int) -> Terms:
        """Return cross-entropy and contour loss of the reconstruction of a noisy label map."""
        target = self.network.on_cube(with_background(batch["labels"]))
        logits = self.network(swap_pairs(target)).float()
        terms = {
            "cross_entropy": lambda: F.cross_entropy(logits, target),
            "contour": lambda: overlap_losses.contour(logits.softmax(1), target),
        }
        return self.total({name: terms[name]() for name in self.weights})

    @torch.no_grad()
    def validate(self, found: CaseSet, device: torch.device) -> Score:
        """Return the mean Dice of the reconstruction of clean label maps."""
        scores, images = [], []
        for case in found.cases[: self.config.validation.pairs]:
            target = reconstruction_target(self.network, case, self.config.data.labels, device)
            found_labels = F.one_hot(self.network(target).argmax(1), target.shape[1]).movedim(-1, 1).float()
            scores.append(float(losses.soft_dice(found_labels[:, 1:], target[:, 1:])))
            images.append([middle(1 - labels[:, :1]) for labels in (target.cpu(), found_labels.cpu())])
        return Score(sum(scores) / len(scores), images[:4])


def reconstruction_target(network: Autoencoder, case: ImageCase, labels: int, device: torch.device) -> Tensor:
    """Return the label channels `(1, L + 1, *cube)` of a case, background first."""
    found = case.label_map
    values = torch.arange(labels + 1, dtype=found.dtype).view(-1, *[1] * found.ndim)
    return network.on_cube((found[None] == values).float()[None].to(device))


def middle(image: Tensor) -> Tensor:
    """Return the slice `(1, height, width)` to look at of `(1, C, *spatial)`: across the first axis of a volume."""
    flat = image[0, :1].float().cpu()
    return flat[:, flat.shape[1] // 2] if flat.ndim == 4 else flat


def trained_part(name: str, runs: Path) -> dict[str, Any]:
    """Return the checkpoint of a run: its "config" and, as "average", its weights.

    Args:
        name: Of its configuration.
        runs: Folder that holds a folder per run.

    Raises:
        ConfigError: If there is no such run.
    """
    path = runs / name / "checkpoint.pt"
    if not path.exists():
        msg = f"{path} is missing: first run python -m training train {name} --output {runs / name}"
        raise ConfigError(msg)
    return torch.load(path, map_location="cpu", weights_only=True)


def with_masks(found: CaseSet, segment: Callable[[Tensor], Tensor]) -> CaseSet:
    """Return cases with the mask that a network attends to, for those that have none."""
    cases = [
        case if case.mask is not None else replace(case, mask=segment(case.image[None])[0]) for case in found.cases
    ]
    return replace(found, cases=cases)
