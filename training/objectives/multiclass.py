"""The multiclass segmentation task: structures that exclude each other, learned from drawn images."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from DeepAttentionRegEngine.networks.segmentation import Segmenter, with_none

from ..configs.schema import Config, ConfigError
from ..data.batches import Batch
from ..data.cases import CaseSet, ImageCase
from ..data.drawing import ABSENT, DRAWN, drawn_cases
from .tasks import Score, Terms, TrainingTask, middle, trained_part

RARE = -3.0  # score of each structure at the start, for most of an image is none


class MulticlassSegmentation(TrainingTask):
    """Tells structures apart from each other and from all else.

    Source: Billot et al. 2023 (SynthSeg) for drawn images and overlap; cross-entropy is this project's addition.
    """

    losses = ("cross_entropy", "soft_dice")

    def __init__(self, config: Config, runs: Path | None = None) -> None:
        """Build the network.

        Args:
            config: The experiment.
            runs: Folder of the run whose weights it starts from, as far as they fit; None starts from none.
        """
        super().__init__(config)
        self.network = Segmenter(**config.network)
        nn.init.constant_(self.network.output.bias, RARE)
        if runs is not None and config.start is not None:
            own, given = self.network.state_dict(), trained_part(config.start, runs)["average"]
            fitting = {name: part for name, part in given.items() if name in own and part.shape == own[name].shape}
            self.network.load_state_dict(fitting, strict=False)
        self.structures = config.data.labels
        if not self.network.exclusive or config.network.get("structures") != self.structures:
            msg = f"network: must be exclusive, with the {self.structures} structures of the labels"
            raise ConfigError(msg)
        names = list(config.data.options["structures"])
        if len(names) != self.structures:
            msg = f"data: {len(names)} structures have a name, not {self.structures}"
            raise ConfigError(msg)
        self.names = names

    def forward(self, batch: Batch, recursions: int) -> Terms:
        """Return cross-entropy and overlap."""
        scores = self.network.scores(batch["image"]).float()
        logarithms = with_none(scores).log_softmax(1)
        target = batch["labels"].long()
        terms = {
            "cross_entropy": lambda: F.nll_loss(logarithms, target),
            "soft_dice": lambda: 1 - overlap(logarithms.exp(), target),
        }
        return self.total({name: terms[name]() for name in self.weights})

    @torch.no_grad()
    def answers(self, found: CaseSet, device: torch.device) -> Iterator[tuple[ImageCase, Tensor]]:
        """Yield cases, those of label maps alone as drawn images, and the labels `(*spatial)` that are found."""
        for case in drawn_cases(self.config, found):
            yield case, with_none(self.network.scores(case.image[None].to(device)).float()).argmax(1)[0].cpu()

    def validate(self, found: CaseSet, device: torch.device) -> Score:
        """Return the mean Dice on images drawn from held-out label maps.

        Beside it stand the Dice of each structure, the same on real images, and of images with none of the structures
        the share of voxels that are taken for one.
        """
        tables: dict[str, list[Tensor]] = defaultdict(list)
        images = []
        for case, labels in self.answers(found, device):
            table = tables[case.subset]
            table.append(self.figures(case, labels))
            if len(table) <= 2:
                shown = (labels, case.label_map)
                images.append([middle(case.image[None]), *(middle(one[None, None] / self.structures) for one in shown)])
        details = {}
        for subset, rows in tables.items():
            means = torch.stack(rows).nanmean(0)
            details[subset] = float(means.nanmean())
            if subset != ABSENT:
                details |= {f"{subset}/{name}": float(x) for name, x in zip(self.names, means, strict=True)}
        return Score(details[DRAWN], images, details)

    def figures(self, case: ImageCase, labels: Tensor) -> Tensor:
        """Return the Dice of each structure, NaN for those that a case lacks; of one without any the share found."""
        if case.subset == ABSENT:
            return labels.gt(0).float().mean()[None]
        return label_dice(labels, case.label_map, self.structures)


def overlap(probabilities: Tensor, target: Tensor) -> Tensor:
    """Return the mean Dice of structures, of absent ones how nearly nothing is found.

    Args:
        probabilities: `(B, C + 1, *spatial)`, background first.
        target: `(B, *spatial)`, whole numbers.
    """
    count = probabilities.shape[1]
    flat, wanted = probabilities.flatten(2), target.flatten(1)
    hit = flat.gather(1, wanted[:, None])[:, 0]
    shared = torch.zeros_like(flat[:, :, 0]).scatter_add(1, wanted, hit)
    volume = torch.stack([one.bincount(minlength=count) for one in wanted]).to(flat.dtype)
    dice = (2 * shared + 1) / (flat.sum(2) + volume + 1)
    return dice[:, 1:].mean()


def label_dice(found: Tensor, target: Tensor, structures: int) -> Tensor:
    """Return the Dice of each structure in two label maps of whole numbers, NaN for those that the target lacks."""
    size = structures + 1
    both = (found.long() * size + target.long()).flatten().bincount(minlength=size**2).view(size, size).float()
    wanted = both.sum(0)[1:]
    dice = 2 * both.diagonal()[1:] / (both.sum(1)[1:] + wanted).clamp_min(1)
    return torch.where(wanted > 0, dice, torch.nan)
