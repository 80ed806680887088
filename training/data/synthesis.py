"""Pairs of images drawn from label maps with random contrast, so that a network learns shapes and not one modality.

Source: Hoffmann et al. 2022 (SynthMorph): images from label maps by random intensities, noise, bias field and blur,
label maps deformed at random, overlap of labels as the loss. Displacements that are known where both images come from
one label map, motions of many kinds, views that are near or far, subjects brought together by the centres of their
structures, random shapes behind sparse anatomy, thick slices and cut fields of view are this project's additions.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from DeepAttentionRegEngine.deform.warp import compose, identity_grid, sample, warp

from ..configs.schema import ConfigError, Synthesis
from . import motions
from .cases import CaseSet, looked_up
from .painting import Chance, Painter
from .starts import coarse_start, left_over

KINDS = ("shapes", "anatomy", "subjects", "real")
AIMS = 2000  # places of an anatomy at which views may aim
ENOUGH_CENTERS = 12  # structures that both subjects have; with fewer, only their middles are brought together


@dataclass(frozen=True)
class Scene:
    """What a pair shows, `(1, 1, *spatial)` each.

    Attributes:
        fixed: Labels, whole numbers, 0 background.
        moving: The same of the moving side.
        displacement: `(1, nd, *spatial)` voxels with `fixed(x) = moving(x + u(x))`; None between two subjects.
        images: Real images of both; None where they are to be drawn.
    """

    fixed: Tensor
    moving: Tensor
    displacement: Tensor | None = None
    images: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Anatomy:
    """A volume to look at.

    Attributes:
        labels: `(*size)`.
        image: `(*size)` in [0, 1]; None if there is none.
        center: `(3,)` voxels, of all labels.
        aims: `(N, 3)` voxels with a label.
        centers: `(values, 3)` voxels, of each label; NaN where it does not occur.
    """

    labels: Tensor
    image: Tensor | None
    center: Tensor
    aims: Tensor
    centers: Tensor

    def onto(self, other: "Anatomy") -> tuple[Tensor, Tensor]:
        """Return the affine map `x -> A x + t` of voxels that brings structures onto those of another subject.

        Least squares between the centres of what both have, once more without the worse half.
        """
        count = min(len(self.centers), len(other.centers))
        both = torch.cat([self.centers[1:count], other.centers[1:count]], 1)
        both = both[both.isfinite().all(1)].double()
        if len(both) < ENOUGH_CENTERS:
            return torch.eye(3), other.center - self.center
        matrix, shift = _fitted(both)
        error = (both[:, :3] @ matrix.T + shift - both[:, 3:]).norm(dim=1)
        if len(both) >= 2 * ENOUGH_CENTERS:
            matrix, shift = _fitted(both[error <= error.median()])
        return matrix.float(), shift.float()


def _fitted(both: Tensor) -> tuple[Tensor, Tensor]:
    """Return the affine map from the first three to the last three columns of `(N, 6)`."""
    here = torch.cat([both[:, :3], torch.ones_like(both[:, :1])], 1)
    found = torch.linalg.lstsq(here, both[:, 3:]).solution
    return found[:3].T, found[3]


def anatomies(found: CaseSet) -> dict[str, list[Anatomy]]:
    """Return the volumes of each subset of cases."""
    result: dict[str, list[Anatomy]] = {}
    for case in found.cases:
        labels = case.label_map
        inside = (labels > 0).nonzero()
        image = case.image[0] if case.image.numel() else None
        aims = inside[:: max(1, len(inside) // AIMS)].float()
        result.setdefault(case.subset, []).append(
            Anatomy(labels, image, inside.float().mean(0), aims, _centers(labels, inside))
        )
    return result


def _centers(labels: Tensor, inside: Tensor) -> Tensor:
    """Return the centre of each label value `(values, 3)` of a map, given the voxels `(N, 3)` that have one."""
    values = labels[tuple(inside.T)].long()
    count = int(labels.max()) + 1
    sums = torch.zeros(count, 3, dtype=torch.double).index_add_(0, values, inside.double())
    return (sums / torch.bincount(values, minlength=count)[:, None]).float()


def validation_pairs(
    settings: Synthesis, found: CaseSet, labels: int, count: int, seed: int
) -> Iterator[tuple[str, tuple[dict[str, Tensor], dict[str, Tensor]]]]:
    """Yield the same pairs every time: their kind, in turn, and both sides; see `Synthesiser.pair`."""
    kinds = [kind for kind, weight in settings.kinds.items() if weight > 0]
    subsets = anatomies(found)
    for index in range(count):
        rng, kind = np.random.default_rng([seed, index]), kinds[index % len(kinds)]
        spatial = tuple(settings.shapes[rng.integers(len(settings.shapes))])
        yield kind, Synthesiser(replace(settings, kinds={kind: 1.0}), subsets, labels, rng).pair(spatial)


class Synthesiser:
    """Draws pairs, all randomness from one generator."""

    def __init__(
        self, settings: Synthesis, subsets: dict[str, list[Anatomy]], labels: int, rng: np.random.Generator
    ) -> None:
        """Set up a source of pairs.

        Args:
            settings: What to draw.
            subsets: What there is to look at; two subjects are taken from one subset.
            labels: Label channels of a pair; where there are more labels, some are chosen.
            rng: Source of chance.

        Raises:
            ConfigError: For unknown kinds of pairs or of motions, or real ones where no data set has images.
        """
        for key, given, known in (("kinds", settings.kinds, KINDS), ("motions", settings.motions, motions.KINDS)):
            if unknown := set(given) - set(known):
                msg = f"synthesis: {key}: {', '.join(sorted(unknown))} unknown (known: {', '.join(known)})"
                raise ConfigError(msg)
        self.settings, self.subsets, self.labels = settings, subsets, labels
        self.with_images = [name for name, members in subsets.items() if members[0].image is not None]
        self.with_others = [name for name, members in subsets.items() if len(members) > 1] or list(subsets)
        if settings.kinds.get("real") and not self.with_images:
            msg = "synthesis: real pairs need a data set with images"
            raise ConfigError(msg)
        self.chance, self.rng = Chance(rng), rng
        self.painter = Painter(settings, self.chance)

    def pair(self, spatial: tuple[int, ...]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return "image" `(1, *spatial)` and "labels" `(L, *spatial / 2)` of a fixed and a moving side.

        Both also have the "displacement" `(nd, *spatial)` in voxels, from them to the moving side, and whether it is
        "known": 1 or 0.
        """
        scene = self._scene(spatial)
        images = scene.images or self._painted(scene)
        if self.rng.random() < self.settings.started:
            scene, images = _started(scene, images)
        chosen = self._chosen(scene)
        fixed, moving = (
            {"image": image[0], "labels": _shares(labels, chosen, self.labels)}
            for image, labels in zip(images, (scene.fixed, scene.moving), strict=True)
        )
        still = torch.zeros(len(spatial), *spatial)
        fixed["displacement"] = still if scene.displacement is None else scene.displacement[0]
        fixed["known"] = torch.tensor(float(scene.displacement is not None))
        return fixed, {**moving, "displacement": still, "known": torch.tensor(1.0)}  # of the moving side to itself

    def _scene(self, spatial: tuple[int, ...]) -> Scene:
        kind = self._drawn(self.settings.kinds)
        step = self._displacement(spatial)
        if kind == "shapes":
            moving = self.chance.blobs(spatial)
            return Scene(warp(moving, step, nearest=True), moving, step)
        if kind == "anatomy":
            subjects = self._subset(list(self.subsets))
            first = subjects[self.rng.integers(len(subjects))]
            moving = self._on_shapes(looked_up(first.labels, self._places(first, spatial))[None, None].float())
            return Scene(warp(moving, step, nearest=True), moving, step)
        return self._two_subjects(spatial, step, real=kind == "real")

    def _two_subjects(self, spatial: tuple[int, ...], step: Tensor, *, real: bool) -> Scene:
        """Return the same view of two subjects that are brought together, and a random deformation between them."""
        subjects = self._subset(self.with_images if real else self.with_others)
        first, second = (subjects[index] for index in self.rng.integers(len(subjects), size=2))
        places = self._places(first, spatial)
        matrix, shift = first.onto(second)
        others = (matrix @ places.flatten(1) + shift[:, None]).view_as(places)
        sides = ((first, places), (second, others))
        fixed, moving = (looked_up(one.labels, seen)[None, None].float() for one, seen in sides)
        images = None
        if real:
            pictures = [_pictured(one.image, seen) for one, seen in sides if one.image is not None]
            images = warp(pictures[0], step), pictures[1]
        return Scene(warp(fixed, step, nearest=True), moving, None, images)

    def _subset(self, names: list[str]) -> list[Anatomy]:
        """Return one of these subsets; a larger one comes more often, by the root of its size."""
        return self.subsets[self._drawn({name: math.sqrt(len(self.subsets[name])) for name in names})]

    def _drawn(self, weights: dict[str, float]) -> str:
        names, shares = zip(*weights.items(), strict=True)
        return str(self.rng.choice(names, p=np.array(shares) / sum(shares)))

    def _places(self, anatomy: Anatomy, spatial: tuple[int, ...]) -> Tensor:
        """Return the voxels `(3, *spatial)` of an anatomy that a random view of it shows.

        Axes are exchanged, flipped and turned a little; the plane of a slice is any. A near view aims anywhere.
        """
        turn = motions.orientation(self.rng)
        volume, near = np.array(anatomy.labels.shape, float), motions.log_uniform(self.rng, *self.settings.zoom)
        zoom = near * math.exp(np.log(volume).mean() - np.log(spatial).mean())
        aim = anatomy.aims[self.rng.integers(len(anatomy.aims))] - anatomy.center
        beside = torch.from_numpy(self.rng.normal(0, 0.08, 3) * near * volume).float()
        middle = anatomy.center + max(0.0, 1 - near) * aim + beside
        grid = identity_grid(spatial, torch.empty(()))[0]
        off = grid - (torch.tensor(spatial) / 2 - 0.5).view(-1, *[1] * len(spatial))
        matrix = torch.from_numpy(turn[:, : len(spatial)] * zoom).float()
        return (matrix @ off.flatten(1) + middle[:, None]).view(3, *spatial)

    def _on_shapes(self, labels: Tensor) -> Tensor:
        """Return a label map whose background, most times, shows random blobs."""
        if self.rng.random() < 0.3:
            return labels
        blobs = self.chance.blobs(labels.shape[2:])
        return torch.where(labels == 0, torch.where(blobs > 0, blobs + labels.max(), 0), labels)

    def _displacement(self, spatial: tuple[int, ...]) -> Tensor:
        """Return a random displacement `(1, nd, *spatial)`: an affine map after a motion."""
        nd, settings = len(spatial), self.settings
        motion = torch.zeros(1, nd, *spatial)
        if settings.motions:
            amplitude = motions.log_uniform(self.rng, *settings.amplitude)
            motion = motions.draw_motion(self._drawn(settings.motions), spatial, amplitude, self.chance)
        matrix = motions.rotation(self.rng.normal(0, settings.turn, 3))[-nd:, -nd:] - np.eye(nd)
        matrix += np.diag(self.rng.normal(0, settings.stretch, nd))
        shift = self.rng.normal(0, settings.shift, (nd, 1)) * np.array(spatial)[:, None]
        grid = identity_grid(spatial, motion)
        center = torch.tensor(spatial).view(-1, 1) / 2 - 0.5
        off = grid.flatten(2)[0] - center
        affine = (torch.from_numpy(matrix).float() @ off + torch.from_numpy(shift).float()).view_as(motion)
        return compose(affine, motion)

    def _painted(self, scene: Scene) -> tuple[Tensor, Tensor]:
        return self.painter.pair(scene.fixed, scene.moving, scene.displacement, self.settings.alike)

    def _chosen(self, scene: Scene) -> Tensor:
        """Return the labels of the pair that the loss sees: those that both sides show."""
        common = np.intersect1d(scene.fixed.unique().numpy(), scene.moving.unique().numpy())
        common = common[common > 0]
        return torch.from_numpy(self.rng.permutation(common)[: self.labels].copy())


def _started(scene: Scene, images: tuple[Tensor, Tensor]) -> tuple[Scene, tuple[Tensor, Tensor]]:
    """Return a scene and its images, the moving side warped by what coarse recursions would have found."""
    fixed, moving = images
    start = coarse_start(fixed, moving)
    rest = None if scene.displacement is None else left_over(scene.displacement, start)
    return Scene(scene.fixed, warp(scene.moving, start, nearest=True), rest), (fixed, warp(moving, start))


def _pictured(image: Tensor, places: Tensor) -> Tensor:
    """Return an image `(*size)` at places `(3, *spatial)`, `(1, 1, *spatial)`."""
    flat = sample(image[None, None].float(), places.view(1, 3, 1, 1, -1))
    return flat.view(1, 1, *places.shape[1:])


def _shares(labels: Tensor, chosen: Tensor, count: int) -> Tensor:
    """Return the share of each label in blocks of two voxels along each axis: `(count, *spatial / 2)`."""
    channels = (labels[0] == chosen.view(-1, *[1] * (labels.ndim - 2))).float()
    pool = F.avg_pool2d if labels.ndim == 4 else F.avg_pool3d
    shares = pool(channels[None], 2)[0] if len(channels) else channels.new_zeros(0, *[n // 2 for n in labels.shape[2:]])
    return F.pad(shares, [0, 0] * (labels.ndim - 2) + [0, count - len(shares)])
