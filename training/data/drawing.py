"""Images of one anatomy, drawn from label maps with random contrast, to learn its structures on any scanner's images.

Source: Billot et al. 2023 (SynthSeg): a label map deformed at random, a random intensity of each label, bias field,
blur, noise and resolution, labels as the target. Partial volume by points within a voxel, tissues that look alike,
missing skulls, drawn bodies and images without the anatomy are this project's additions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from DeepAttentionRegEngine.deform.warp import identity_grid

from ..configs.schema import Config, ConfigError, DrawnImages
from .cases import CaseSet, ImageCase, looked_up, one_hot
from .motions import rotation
from .painting import Chance, Painter

WAVES = (16, 8)  # voxels between the knots of random displacements
FAT = 256  # its label, and of what else is drawn the ones behind it; those of label maps are below
MOST_SHAPES = 10
POINTS = (
    0.25 * torch.tensor([[-1, -1, -1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]]).float()
)  # of a voxel, that are averaged
DRAWN = "drawn"  # subset of images that are, from held-out label maps
ABSENT = "absent"  # subset of those that show none of the structures
OTHERS = 0.7  # share of images without the structures that show other anatomy
BLANK = 0.7  # share of stripped images that have no noise where nothing is left
SIDES = ("left ", "right ")


@dataclass(frozen=True)
class Model:
    """A label map to draw.

    Attributes:
        labels: `(*size)` with a border of background.
        spacing: `(3,)` mm.
        low: `(3,)` voxel, the first of the structures along each axis, of all labels if it shows none.
        high: The last.
        shows: There are structures.
    """

    labels: Tensor
    spacing: Tensor
    low: Tensor
    high: Tensor
    shows: bool


def model(case: ImageCase, structures: int) -> Model:
    """Return what is drawn of a case, whose first labels are structures."""
    labels = F.pad(case.label_map, (1,) * 6)
    inside = (labels > 0) & (labels <= structures)
    shows = bool(inside.any())
    shown = inside if shows else labels > 0
    ends = [shown.any(a).any(b).nonzero().flatten()[[0, -1]] for a, b in ((2, 1), (2, 0), (1, 0))]
    low, high = torch.stack(ends, 1).float()
    return Model(labels, torch.tensor(case.spacing), low, high, shows)


def mirrored(names: Sequence[str]) -> list[int]:
    """Return the label that each label, background first, has in a mirrored body.

    Args:
        names: Of the labels 1, 2, ...; those of a pair begin with "left " and "right ".

    Raises:
        ConfigError: If one side has no other.
    """
    table = [0]
    for name in names:
        other = name
        for side, opposite in (SIDES, SIDES[::-1]):
            if name.startswith(side):
                other = opposite + name.removeprefix(side)
        if other not in names:
            msg = f"structures: {name!r} needs {other!r} beside it"
            raise ConfigError(msg)
        table.append(names.index(other) + 1)
    return table


def without_side(name: str) -> str:
    """Return the name of a structure of both sides."""
    for side in SIDES:
        name = name.removeprefix(side)
    return name


class Drawer:
    """Draws images, all randomness from one generator."""

    def __init__(self, config: Config, models: Sequence[Model], rng: np.random.Generator) -> None:
        """Set up a source of images.

        Args:
            config: Its `drawing` says what to draw, its data's options name the structures.
            models: What there is to draw.
            rng: Source of chance.
        """
        self.settings = drawing_of(config)
        self.structures: int = config.data.labels
        options = config.data.options
        self.names = [*options["structures"], *options.get("outside", ())]
        self.mirror = torch.tensor(mirrored(self.names))
        self.shown = [one for one in models if one.shows]
        self.others = [one for one in models if not one.shows]
        self.rng, self.chance = rng, Chance(rng)
        self.painter = Painter(self.settings, self.chance)

    def image(self) -> dict[str, Tensor]:
        """Return an "image" `(1, *spatial)` in [0, 1] and its "labels" `(*spatial)`, whole numbers, 0 background."""
        spatial = tuple(self.settings.shapes[self.rng.integers(len(self.settings.shapes))])
        if self.rng.random() >= self.settings.absent:
            return self.portrait(self.shown[self.rng.integers(len(self.shown))], spatial)
        if self.others and self.rng.random() < OTHERS:
            return self.portrait(self.others[self.rng.integers(len(self.others))], spatial)
        return self.portrait(None, spatial)

    def pair(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return what a network that knows the structures sees of two people, of the same size as after an alignment.

        Both have an "image" `(1, *spatial)` of the structures' numbers, the "mask" `(S, *spatial)` of each with errors
        as a segmenter makes them, and the true share of blocks of two voxels as "labels" `(S, *spatial / 2)`.
        """
        spatial = tuple(self.settings.shapes[self.rng.integers(len(self.settings.shapes))])
        first, second = (self.shown[index] for index in self.rng.choice(len(self.shown), 2, replace=False))
        size = (first.high - first.low) * first.spacing
        fixed, moving = (self._known(shown, spatial, size) for shown in (first, second))
        return fixed, moving

    def _known(self, shown: Model, spatial: tuple[int, ...], size: Tensor) -> dict[str, Tensor]:
        """Return a side of a pair: the structures of a label map that is stretched to a size in mm."""
        places, _, mirror = self._places(shown, spatial, size)
        table = self._table(mirror=mirror, stripped=False)
        table[self.structures + 1 :] = 0
        error = float(self.rng.uniform(0, self.settings.unsure)) * self.chance.smooth(3, spatial, 4)[0]
        told, true = (table[looked_up(shown.labels, place).long()] for place in (places + error, places))
        mask, share = (one_hot(labels, self.structures) for labels in (told, true))
        return {"image": told[None] / self.structures, "mask": mask, "labels": F.avg_pool3d(share, 2)}

    def portrait(self, shown: Model | None, spatial: tuple[int, ...], means: Tensor | None = None) -> dict[str, Tensor]:
        """Return an image of a label map, or of random shapes alone.

        Args:
            shown: The label map; None for shapes.
            spatial: Size of the image.
            means: Intensities of the labels, from `contrast`; None for random ones.
        """
        if shown is None:
            here = torch.zeros(spatial, dtype=torch.long)
            return self._painted([here], here, self._shapes(spatial), torch.ones(spatial, dtype=torch.bool), means)
        places, matrix, mirror = self._places(shown, spatial)
        stripped = shown.shows and bool(self.rng.random() < self.settings.stripped)
        table = self._table(mirror=mirror, stripped=stripped)
        labels = table[looked_up(shown.labels, places).long()]
        within = [places + (matrix @ point).view(3, 1, 1, 1) for point in POINTS]
        points = [table[looked_up(shown.labels, place).long()] for place in within]
        behind = torch.zeros_like(labels)
        if self.settings.body and shown.shows:
            behind = self._body(shown, places)
        # Scans end across the body's length; to its sides there is air.
        seen = (places[0] > 0.5) & (places[0] < shown.labels.shape[0] - 1.5)
        if stripped and self.rng.random() < BLANK:
            seen &= labels > 0
        return self._painted(points, labels, behind, seen, means)

    def contrast(self) -> Tensor:
        """Return an intensity of each label, for images that are to look alike."""
        return self._means(FAT + MOST_SHAPES)

    def _places(
        self, shown: Model, spatial: tuple[int, ...], size: Tensor | None = None
    ) -> tuple[Tensor, Tensor, bool]:
        """Return the voxels `(3, *spatial)` of a label map that an image shows, and their matrix, perhaps mirrored.

        Its structures are stretched to a size `(3,)` in mm, if one is given.
        """
        settings, rng = self.settings, self.rng
        matrix = rotation(rng.normal(0, settings.turn, 3)) @ (np.eye(3) + rng.normal(0, settings.stretch, (3, 3)))
        matrix = matrix * settings.spacing * math.exp(rng.normal(0, settings.zoom)) / shown.spacing.numpy()[:, None]
        if size is not None:
            matrix = ((shown.high - shown.low) * shown.spacing / size).numpy()[:, None] * matrix
        mirror = bool(rng.random() < settings.mirrored)
        if mirror:
            matrix[:, 2] *= -1
        shift = rng.normal(0, settings.shift, 3) * spatial
        turned = torch.from_numpy(matrix).float()
        grid = identity_grid(spatial, torch.empty(()))[0]
        center = (torch.tensor(spatial).float() - 1) / 2 + torch.from_numpy(shift).float()
        off = grid - center.view(3, 1, 1, 1)
        for wave in WAVES:
            amplitude = float(rng.uniform(0, settings.elastic)) * wave
            off += amplitude * self.chance.smooth(3, spatial, wave)[0]
        middle = ((shown.low + shown.high) / 2).view(3, 1, 1, 1)
        return (turned @ off.flatten(1)).view_as(off) + middle, turned, mirror

    def _table(self, *, mirror: bool, stripped: bool) -> Tensor:
        """Return what becomes of each label: that of the other side, or nothing of what is stripped."""
        table = torch.arange(FAT)
        if mirror:
            table[: len(self.mirror)] = self.mirror
        if stripped:
            left = [label for label in range(self.structures + 1, len(self.names) + 1) if self.rng.random() < 0.5]
            kept = table[left].clone()
            table[self.structures + 1 :] = 0
            table[left] = kept
        return table

    def _shapes(self, spatial: tuple[int, ...], fat: float = 0.0) -> Tensor:
        """Return random blobs, numbered from `FAT` on, whose own are the larger the more there is of it."""
        count, wave = int(self.rng.integers(4, MOST_SHAPES + 1)), float(self.rng.uniform(6, 20))
        noise = self.chance.smooth(count, spatial, wave)[0]
        noise[0] += fat
        return FAT + noise.argmax(0)

    def _body(self, shown: Model, places: Tensor) -> Tensor:
        """Return labels of tissue within an ellipse about the structures of a label map, fat around it, air outside."""
        spatial = tuple(places.shape[1:])
        half = (shown.high - shown.low)[1:] / 2 * torch.from_numpy(self.rng.uniform(1.05, 1.4, 2)).float()
        middle = ((shown.low + shown.high) / 2)[1:] + half * torch.from_numpy(self.rng.normal(0, 0.05, 2)).float()
        off = (places[1:] - middle.view(2, 1, 1, 1)) / half.view(2, 1, 1, 1)
        radius = off.square().sum(0).sqrt()
        within = self._shapes(spatial, fat=float(self.rng.uniform(0, 1.5)))
        within = torch.where(radius < 1, within, FAT)
        return torch.where(radius < float(self.rng.uniform(1, 1.25)), within, 0)

    def _means(self, count: int) -> Tensor:
        """Return an intensity of each label: of both sides alike, in half of the images also of each tissue."""
        means = self.painter.means(count)
        if self.rng.random() < 0.5:
            for tissue in self.settings.tissues:
                members = [n for n, name in enumerate(self.names, start=1) if without_side(name) in tissue]
                means[members] = means[members[0]] + 0.05 * self.chance.normal(len(members))
        pairs = self.mirror.minimum(torch.arange(len(self.mirror)))
        means[: len(pairs)] = means[pairs]
        return means

    def _painted(
        self, points: list[Tensor], labels: Tensor, behind: Tensor, seen: Tensor, means: Tensor | None
    ) -> dict[str, Tensor]:
        """Return image and labels.

        Args:
            points: Labels `(*spatial)` at points within each voxel.
            labels: Those at its centre.
            behind: What shows where there is no label.
            seen: What is in the field of view.
            means: As of `portrait`.
        """
        means = self._means(max(int(behind.max()), FAT) + 1) if means is None else means
        spatial = tuple(labels.shape)
        solid = means.clone()
        solid[0] = 0
        image, free = torch.zeros(spatial), torch.zeros(spatial)
        for point in points:
            image += solid[point]
            free += point == 0
        image = (image + free * means[behind]) / len(points)
        image += self.painter.texture(torch.where(labels == 0, behind, labels)[None, None])[0, 0]
        seen = seen & self._window(spatial)
        shown = self.painter.acquired(image[None, None]) * seen
        target = torch.where(seen & (labels <= self.structures), labels, 0)
        return {"image": self.painter.displayed(shown)[0], "labels": target.to(torch.uint8)}

    def _window(self, spatial: tuple[int, ...]) -> Tensor:
        """Return a field of view that, at times, ends early along one axis."""
        window = torch.ones(spatial, dtype=torch.bool)
        if self.rng.random() < 0.15:
            axis = int(self.rng.integers(3))
            lost = int(spatial[axis] * self.rng.uniform(0, 0.25))
            start = 0 if self.rng.random() < 0.5 else spatial[axis] - lost
            window.narrow(axis, start, lost).zero_()
        return window


def drawing_of(config: Config) -> DrawnImages:
    """Return what an experiment draws.

    Raises:
        ConfigError: If it draws nothing.
    """
    if config.drawing is None:
        msg = f"{config.title}: a multiclass segmentation needs a drawing"
        raise ConfigError(msg)
    return config.drawing


def drawn_cases(config: Config, found: CaseSet) -> list[ImageCase]:
    """Return cases with images: those that have one, and of each label map images that are the same every time."""
    settings, cases = drawing_of(config), []
    for number, case in enumerate(found.cases):
        if case.image.numel():
            cases.append(case)
            continue
        shown = model(case, config.data.labels)
        for index in range(settings.validation):
            drawer = Drawer(config, [shown], np.random.default_rng([config.seed, 1 << 21, number, index]))
            drawn = drawer.portrait(shown, tuple(settings.shapes[0]))
            subset = DRAWN if shown.shows else ABSENT
            cases.append(replace(case, image=drawn["image"], labels=drawn["labels"], subset=subset))
    return cases
