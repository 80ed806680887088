"""Applies a method to a working pair, and shows an observer every recursion."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..deform.gaussian_refine import GaussianRefinement, refine_gaussians
from ..deform.gaussians import Gaussians, render
from ..deform.losses import local_ncc
from ..deform.mind import mind_ssc
from ..deform.pairs import Masks, OnStep
from ..deform.warp import warp
from ..networks.base import ImagePair, Recursion, RegistrationNetwork
from ..networks.bspline import Bspline, BsplineSettings
from ..protocol.grid import pyramid_factors
from ..protocol.registry import Method, Variant
from ..protocol.reporting import Reporter
from ..volume.geometry import Geometry
from .guidance import Guidance
from .preprocess import WorkingPair
from .pyramid import climb, grid_size
from .working_grid import spatial_shape

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


class Observer:
    """Sees the state after every recursion of a method; this one looks away. Subclasses keep what they want.

    Attributes:
        attends: Whether it wants to see what the network attended to.
        keeps_gaussians: Whether a sequence of Gaussians is wanted; refinement then works on its numbers.
    """

    attends = False
    keeps_gaussians = False

    def begin(self, view: WorkingPair, fixed: Geometry) -> None:
        """Learn what the network sees, and the grid of the fixed volume; called before the first recursion."""

    def see(self, state: Recursion, similarity: float) -> str | None:
        """Look at a recursion; returns the file to tell of it, if one was written."""
        return None

    def end(self) -> None:
        """Learn that there are no more."""


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
        steps = refine_gaussians(self.view.for_network(), self.steps, iterations, settings, on_step)
        return replace(self, steps=steps)

    def displacement(self, spatial: tuple[int, ...]) -> Tensor:
        """Return the displacement `(1, nd, *spatial)` in voxels of a grid over the same field of view."""
        return render(self.steps, self.settings.mode, self.view.fixed.shape[2:], spatial)

    @property
    def spline_numbers(self) -> int:
        """How many numbers a B-spline of the usual spacing would take on the network's grid, for comparison."""
        return Bspline(BsplineSettings()).control_values(tuple(self.view.fixed.shape[2:]))


@dataclass(frozen=True)
class Applied:
    """What a method found.

    Attributes:
        displacement: `(1, nd, *spatial)` in voxels of the network's grid.
        view: The pair on that grid.
        similarities: Before the first and after every recursion, in [0, 1].
        structures: Masks of what the network sees, on the same grid; None if an image shows none, or it sees none.
        proposal: Of Gaussians, where the method makes one and it was asked for.
    """

    displacement: Tensor
    view: WorkingPair
    similarities: list[float]
    structures: Masks | None
    proposal: Proposal | None


@dataclass(frozen=True)
class Tool:
    """A method ready to be applied: its description, its weights and its network."""

    method: Method
    variant: Variant
    network: RegistrationNetwork

    def network_size(self, working: Geometry) -> tuple[int, ...]:
        """Return the size, in array order, of the grid that the network sees over a working grid."""
        spatial, known = spatial_shape(working), self.variant.spacing_mm
        return self.method.grid[len(spatial)].network_size(spatial, known / working.spacing[0] if known else 1.0)


@dataclass(frozen=True)
class MethodRun:
    """A method about to be applied.

    Attributes:
        tool: The method.
        count: Number of recursions.
        reporter: Told of every recursion.
        observer: Shown every recursion.
        guidance: Segments that steer; None if none do.
    """

    tool: Tool
    count: int
    reporter: Reporter
    observer: Observer
    guidance: Guidance | None = None

    @torch.no_grad()
    def apply(self, pair: WorkingPair, fixed: Geometry) -> Applied:
        """Apply the method.

        Args:
            pair: On the working grid.
            fixed: Grid of the fixed volume.
        """
        view = self._view(pair)
        images, observer = view.for_network(), self.observer
        observer.begin(view, fixed)
        still = torch.zeros_like(view.fixed).expand(-1, view.fixed.ndim - 2, *view.fixed.shape[2:])
        similarities = [similarity(view, still)]

        def on_step(done: int, of: int, loss: float) -> bool:
            ended = len(similarities) - 1
            self.reporter.step("recursion", ended, self.count, f"Iteration {done} of {of}, loss {loss:.4f}.")
            return self.reporter.enough()

        self.tool.network.on_step = on_step
        attend = observer.attends or observer.keeps_gaussians
        steps: list[Gaussians] = []
        self._report(0)
        for index, state in enumerate(self._recursions(images, attend), start=1):
            if state.evidence is not None and state.evidence.gaussians is not None:
                steps.append(state.evidence.gaussians)
            similarities.append(similarity(view, state.displacement))
            self._report(index, observer.see(state, similarities[-1]))
            if self.reporter.enough():
                break
        proposal = Proposal(steps, view, self.tool.network.settings) if steps else None
        observer.end()
        return Applied(state.displacement, view, similarities, state.structures, proposal)

    def _recursions(self, images: ImagePair, attend: bool) -> Iterator[Recursion]:
        """Return the states after each recursion, as the weights climb."""
        network, own = self.tool.network, tuple(images.fixed.shape[2:])
        factors = pyramid_factors(self.tool.variant.pyramid, self.count)
        sizes = [grid_size(own, factor, network.minimum_size) for factor in factors]
        return climb(network, images, sizes, attend=attend)

    def _view(self, pair: WorkingPair) -> WorkingPair:
        """Return the pair as the network sees it."""
        view = pair.at(self.tool.network_size(pair.geometry))
        if self.guidance is None:
            return view
        return replace(view, known=self.guidance.known(view, self.tool.variant.structures))

    def _report(self, index: int, file: str | None = None) -> None:
        unit = self.tool.method.recursions.unit
        message = f"{unit[:1].upper()}{unit[1:]} {index} of {self.count}." if index else "Running the method."
        self.reporter.step("recursion", index, self.count, message, file)
