"""Applies a method to a working pair, and keeps what its recursions leave behind."""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..deform.gaussians import Gaussians, render
from ..deform.losses import local_ncc
from ..deform.mind import mind_ssc
from ..deform.refine import Masks, OnStep
from ..deform.warp import warp
from ..evidence.gaussian_files import Sequence3d, gather
from ..evidence.recursion_folder import RecursionFolder
from ..networks import load_network
from ..networks.base import ImagePair, Recursion, RegistrationNetwork
from ..networks.bspline import Bspline, BsplineSettings
from ..protocol.contract import RegisterJob
from ..protocol.files import require_writable
from ..protocol.registry import GridPolicy, Method, Variant
from ..protocol.reporting import Reporter
from ..volume.geometry import Geometry
from ..volume.recursions import INDEX
from .gaussian_refine import GaussianRefinement, refine_gaussians
from .preprocess import WorkingPair

SIMILARITY_WINDOW = 7


def similarity(pair: WorkingPair, displacement: Tensor) -> float:
    """Return the local correlation of the pair under a displacement, in [0, 1]."""
    return float(local_ncc(warp(pair.moving, displacement), pair.fixed, SIMILARITY_WINDOW, pair.weight))


def structures_closer(pair: WorkingPair, displacement: Tensor) -> bool:
    """Return whether a displacement brings the self-similarities (MIND-SSC) of the pair closer to each other.

    Two modalities may be well aligned without correlating; whatever is not a number is not closer.
    """
    fixed, moving = mind_ssc(pair.fixed), mind_ssc(pair.moving)
    before, after = (
        ((image - fixed).abs().mean(1, keepdim=True) * pair.weight).mean()
        for image in (moving, warp(moving, displacement))
    )
    return bool(after < before)


def network_size(spatial: tuple[int, ...], policy: GridPolicy) -> tuple[int, ...]:
    """Return the size of the grid a network sees for a working grid of a given size, both in array order."""
    factor = max(1.0, (math.prod(spatial) / policy.network_voxels) ** (1 / len(spatial)))
    return tuple(max(policy.minimum_size, round(n / factor)) for n in spatial)


def image_pair(pair: WorkingPair) -> ImagePair:
    """Return what a network is given; masks are 0 or 1 again after resampling."""
    masks = (None if mask is None else (mask >= 0.5).float() for mask in (pair.fixed_mask, pair.moving_mask))
    return ImagePair(pair.fixed, pair.moving, *masks)


@dataclass(frozen=True)
class Proposal:
    """A sequence of Gaussians that a network proposed.

    Attributes:
        steps: In coordinates of the network's grid.
        view: The pair on that grid.
        settings: Those of the network; `mode` and `kappa` say how to read the sequence and where it would fold.
    """

    steps: list[Gaussians]
    view: WorkingPair
    settings: Any

    def refined(self, iterations: int, similarity: str, smoothness: float, on_step: OnStep) -> "Proposal":
        """Return the sequence with its numbers optimised on the pair.

        Args:
            iterations: Adam steps.
            similarity: "ncc" or "mse".
            smoothness: Factor of the usual regularity.
            on_step: Called after every iteration with (done, of, loss); returns whether that is enough, may raise.
        """
        usual = GaussianRefinement(self.settings.mode, self.settings.kappa, similarity)
        settings = replace(usual, smoothness=usual.smoothness * smoothness)
        steps = refine_gaussians(image_pair(self.view), self.steps, iterations, settings, on_step)
        return replace(self, steps=steps)

    def displacement(self, spatial: tuple[int, ...]) -> Tensor:
        """Return the displacement `(1, nd, *spatial)` in voxels of a grid over the same field of view."""
        return render(self.steps, self.settings.mode, self.view.fixed.shape[2:], spatial)

    @property
    def spline_numbers(self) -> int:
        """How many numbers a B-spline of the usual spacing would take on the network's grid, for comparison."""
        return Bspline(BsplineSettings()).control_values(tuple(self.view.fixed.shape[2:]))

    def in_world(self) -> Sequence3d:
        """Return the sequence in LPS mm."""
        return gather(self.steps, self.view.geometry, self.settings.mode, self.view.alignment)


@dataclass(frozen=True)
class Applied:
    """What a method found.

    Attributes:
        displacement: `(1, nd, *spatial)` in voxels of the network's grid.
        view: The pair on that grid.
        similarities: Before the first and after every recursion, in [0, 1].
        masks: Of the structures that the network sees, on the same grid; None unless refinement wants them.
        proposal: Of Gaussians, where the method makes one and it was asked for.
        index: Of the folder of recursions, where one was asked for.
    """

    displacement: Tensor
    view: WorkingPair
    similarities: list[float]
    masks: Masks | None
    proposal: Proposal | None
    index: Path | None


@dataclass(frozen=True)
class MethodRun:
    """A method about to be applied.

    Attributes:
        job: What was asked for.
        method: The method.
        variant: Its weights.
        count: Number of recursions.
        reporter: Told of every recursion.
        will_create: Told of every file and folder before it is made.
    """

    job: RegisterJob
    method: Method
    variant: Variant
    count: int
    reporter: Reporter
    will_create: Callable[[Path], object]

    @torch.no_grad()
    def apply(self, pair: WorkingPair, fixed: Geometry) -> Applied:
        """Apply the method.

        Args:
            pair: On the working grid.
            fixed: Grid of the fixed volume, on which fields are kept.
        """
        spatial = tuple(pair.fixed.shape[2:])
        view = pair.at(network_size(spatial, self.method.grid[len(spatial)]))
        network = self._network(view.fixed.device)
        folder = self._open_folder(view, fixed)
        similarities = [similarity(view, torch.zeros_like(view.fixed).expand(-1, len(spatial), *view.fixed.shape[2:]))]

        def on_step(done: int, of: int, loss: float) -> bool:
            ended = len(similarities) - 1
            self.reporter.step("recursion", ended, self.count, f"Iteration {done} of {of}, loss {loss:.4f}.")
            return self.reporter.enough()

        network.on_step = on_step
        attend = self.job.attention or self.job.output_gaussians is not None
        steps: list[Gaussians] = []
        self._report(0)
        for index, state in enumerate(network.recurse(image_pair(view), self.count, attend=attend), start=1):
            if state.evidence is not None and state.evidence.gaussians is not None:
                steps.append(state.evidence.gaussians)
            similarities.append(similarity(view, state.displacement))
            file = None if folder is None else str(self._keep(folder, state, similarities[-1]))
            self._report(index, file)
            if self.reporter.enough():
                break
        proposal = Proposal(steps, view, network.settings) if steps else None
        wanted = self.job.refinement_steps and self.variant.refinement.get("structures")
        masks = network.attended(image_pair(view)) if wanted else None
        kept = None if folder is None else folder.close()
        return Applied(state.displacement, view, similarities, masks, proposal, kept)

    def _network(self, device: torch.device) -> RegistrationNetwork:
        network = load_network(self.method.architecture, self.variant).to(device)
        network.half_precision = self.job.half_precision
        return network

    def _report(self, index: int, file: str | None = None) -> None:
        unit = self.method.recursions.unit
        message = f"{unit[:1].upper()}{unit[1:]} {index} of {self.count}." if index else "Running the method."
        self.reporter.step("recursion", index, self.count, message, file)

    def _open_folder(self, view: WorkingPair, fixed: Geometry) -> RecursionFolder | None:
        if self.job.output_recursions is None:
            return None
        path = Path(self.job.output_recursions)
        for folder in reversed([path, *path.parents]):
            self.will_create(folder)
        with suppress(OSError):  # reported by the next line, which tries to write there
            path.mkdir(parents=True, exist_ok=True)
        require_writable(path / INDEX, (".json",))
        self.will_create(path / INDEX)
        limit = self.job.recursion_voxels
        return RecursionFolder(path, self.job.method, view, fixed if limit is None else fixed.coarsened(limit))

    def _keep(self, folder: RecursionFolder, state: Recursion, similarity: float) -> Path:
        for name in folder.names(len(folder.steps) + 1, state.evidence):
            self.will_create(folder.folder / name)
        return folder.add(state, similarity)
