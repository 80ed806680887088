"""Pairs of images drawn from label maps with random contrast, so that a network learns shapes and not one modality.

Source: Hoffmann et al. 2022 (SynthMorph): images from label maps by random intensities, noise, bias field and blur,
label maps deformed at random, overlap of labels as the loss. Displacements that are known where both images come from
one label map, random shapes behind sparse anatomy, thick slices and cut fields of view are this project's additions.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation
from torch import Tensor

from DeepAttentionRegEngine.deform.warp import (
    compose,
    identity_grid,
    integrate_velocity,
    resize_displacement,
    sample,
    warp,
)

from ..configs.schema import ConfigError, Synthesis
from .cases import CaseSet
from .painting import Chance, Painter

KINDS = ("shapes", "anatomy", "subjects", "real")
SQUARINGS = 4  # of random velocities, which are smooth
WAVES = (16, 8)  # voxels between the control points of random velocities


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
    """A volume to look at: labels `(*size)`, image `(*size)` in [0, 1] if there is one, centre of the labels (3,)."""

    labels: Tensor
    image: Tensor | None
    center: Tensor


def anatomies(found: CaseSet) -> dict[str, list[Anatomy]]:
    """Return the volumes of each subset of cases."""
    result: dict[str, list[Anatomy]] = {}
    for case in found.cases:
        center = (case.label_map > 0).nonzero().float().mean(0)
        image = case.image[0] if case.image.numel() else None
        result.setdefault(case.subset, []).append(Anatomy(case.label_map, image, center))
    return result


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
            ConfigError: For unknown kinds of pairs, or real ones where no data set has images.
        """
        unknown = set(settings.kinds) - set(KINDS)
        if unknown:
            msg = f"synthesis: kinds: {', '.join(sorted(unknown))} unknown (known: {', '.join(KINDS)})"
            raise ConfigError(msg)
        self.settings, self.subsets, self.labels = settings, subsets, labels
        self.with_images = [name for name, members in subsets.items() if members[0].image is not None]
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
        chosen = self._chosen(scene)
        fixed, moving = (
            {"image": image[0], "labels": _shares(labels, chosen, self.labels)}
            for image, labels in zip(scene.images or self._painted(scene), (scene.fixed, scene.moving), strict=True)
        )
        still = torch.zeros(len(spatial), *spatial)
        fixed["displacement"] = still if scene.displacement is None else scene.displacement[0]
        fixed["known"] = torch.tensor(float(scene.displacement is not None))
        return fixed, {**moving, "displacement": still, "known": torch.tensor(1.0)}  # of the moving side to itself

    def _scene(self, spatial: tuple[int, ...]) -> Scene:
        kinds, weights = zip(*self.settings.kinds.items(), strict=True)
        kind = self.rng.choice(kinds, p=np.array(weights) / sum(weights))
        step = self._displacement(spatial)
        if kind == "shapes":
            moving = self._shapes(spatial)
            return Scene(warp(moving, step, nearest=True), moving, step)
        subjects = self._subset(real=kind == "real")
        first, second = (subjects[index] for index in self.rng.integers(len(subjects), size=2))
        view = self._viewpoint(first, spatial)
        if kind == "anatomy":
            moving = self._on_shapes(_seen(first.labels, first.center, view, spatial))
            return Scene(warp(moving, step, nearest=True), moving, step)
        fixed, moving = (_seen(one.labels, one.center, view, spatial) for one in (first, second))
        images = None
        if kind == "real":
            pictures = [_seen(one.image, one.center, view, spatial, nearest=False) for one in (first, second)]
            images = warp(pictures[0], step), pictures[1]
        return Scene(warp(fixed, step, nearest=True), moving, None, images)

    def _subset(self, *, real: bool) -> list[Anatomy]:
        return self.subsets[str(self.rng.choice(self.with_images if real else list(self.subsets)))]

    def _viewpoint(self, anatomy: Anatomy, spatial: tuple[int, ...]) -> np.ndarray:
        """Return the map `(3, nd + 1)` from voxels off the centre to voxels off the centre of an anatomy.

        Axes are exchanged, flipped and turned a little; the plane of a slice is any.
        """
        turn = np.eye(3)[self.rng.permutation(3)] * self.rng.choice([-1, 1], 3) @ rotation(self.rng.normal(0, 0.15, 3))
        volume = np.array(anatomy.labels.shape, float)
        zoom = self.rng.uniform(*self.settings.zoom) * math.exp(np.log(volume).mean() - np.log(spatial).mean())
        shift = self.rng.normal(0, 0.08, 3) * volume
        return np.column_stack([turn[:, : len(spatial)] * zoom, shift])

    def _shapes(self, spatial: tuple[int, ...]) -> Tensor:
        """Return a label map of random blobs."""
        count, wave = int(self.rng.integers(5, 17)), float(self.rng.uniform(6, 20))
        return self.chance.smooth(count, spatial, wave).argmax(1, keepdim=True).float()

    def _on_shapes(self, labels: Tensor) -> Tensor:
        """Return a label map whose background, most times, shows random blobs."""
        if self.rng.random() < 0.3:
            return labels
        blobs = self._shapes(tuple(labels.shape[2:]))
        return torch.where(labels == 0, torch.where(blobs > 0, blobs + labels.max(), 0), labels)

    def _displacement(self, spatial: tuple[int, ...]) -> Tensor:
        """Return a random displacement `(1, nd, *spatial)`: an affine map after a diffeomorphism."""
        nd, strength = len(spatial), self.settings.strength
        half = [n // 2 for n in spatial]
        velocity = torch.zeros(1, nd, *half)
        for wave in WAVES:
            amplitude = float(self.rng.uniform(0, strength)) * wave / 2
            velocity += amplitude * self.chance.smooth(nd, half, wave / 2)
        elastic = resize_displacement(integrate_velocity(velocity, SQUARINGS), spatial)
        matrix = rotation(self.rng.normal(0, self.settings.turn, 3))[-nd:, -nd:] - np.eye(nd)
        matrix += np.diag(self.rng.normal(0, self.settings.stretch, nd))
        shift = self.rng.normal(0, self.settings.shift, (nd, 1)) * np.array(spatial)[:, None]
        grid = identity_grid(spatial, elastic)
        center = torch.tensor(spatial).view(-1, 1) / 2 - 0.5
        off = grid.flatten(2)[0] - center
        affine = (torch.from_numpy(matrix).float() @ off + torch.from_numpy(shift).float()).view_as(elastic)
        return compose(affine, elastic)

    def _painted(self, scene: Scene) -> tuple[Tensor, Tensor]:
        return self.painter.pair(scene.fixed, scene.moving, scene.displacement, self.settings.alike)

    def _chosen(self, scene: Scene) -> Tensor:
        """Return the labels of the pair that the loss sees: those that both sides show."""
        common = np.intersect1d(scene.fixed.unique().numpy(), scene.moving.unique().numpy())
        common = common[common > 0]
        return torch.from_numpy(self.rng.permutation(common)[: self.labels].copy())


def rotation(angles: np.ndarray) -> np.ndarray:
    """Return the rotation by angles (radians) about the three axes, one after the other."""
    return Rotation.from_euler("XYZ", angles * [1, -1, 1]).as_matrix()


def _seen(
    volume: Tensor, middle: Tensor, view: np.ndarray, spatial: tuple[int, ...], *, nearest: bool = True
) -> Tensor:
    """Return a volume `(*size)` about its middle `(3,)`, from a viewpoint, on a grid of two or three axes.

    Returns:
        `(1, 1, *spatial)`.
    """
    grid = identity_grid(spatial, torch.empty(()))
    center = torch.tensor(spatial).view(-1, *[1] * len(spatial)) / 2 - 0.5
    matrix = torch.from_numpy(view).float()
    places = matrix[:, :-1] @ (grid[0] - center).flatten(1) + matrix[:, -1:] + middle[:, None]
    flat = sample(volume[None, None].float(), places.view(1, 3, 1, 1, -1), nearest=nearest)
    return flat.view(1, 1, *spatial)


def _shares(labels: Tensor, chosen: Tensor, count: int) -> Tensor:
    """Return the share of each label in blocks of two voxels along each axis: `(count, *spatial / 2)`."""
    channels = (labels[0] == chosen.view(-1, *[1] * (labels.ndim - 2))).float()
    pool = F.avg_pool2d if labels.ndim == 4 else F.avg_pool3d
    shares = pool(channels[None], 2)[0] if len(channels) else channels.new_zeros(0, *[n // 2 for n in labels.shape[2:]])
    return F.pad(shares, [0, 0] * (labels.ndim - 2) + [0, count - len(shares)])
