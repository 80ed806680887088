"""How far a displacement depends on what should not matter: its spread over registrations of slightly changed images.

Each sample changes brightness and contrast of both images, adds noise, and bends the moving image smoothly, which is
undone in the displacement found; refinement is up to four times as smooth or as loose. Where the images leave no doubt
all samples agree; where they say little, as in uniform tissue, the samples keep part of what bent them, and the spread
shows it. What all samples get wrong together, it cannot show. It is no bound of the error, which
expected_error.py knows.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..deform.warp import LINEAR_MODES, compose, resize_displacement, warp
from ..protocol.contract import Event, Progress
from ..protocol.reporting import Reporter
from ..registration.method_run import Observer
from ..registration.preprocess import WorkingPair, field_on
from ..registration.registered import Registered
from ..registration.search import Search
from ..volume.fields import resize

NOISE = 0.005  # standard deviation, of the range of the image
GAMMA = 0.1  # contrast: exponent of the brightness, by which it differs from 1 at most
GAIN = 0.05  # factor of the brightness, by which it differs from 1 at most
BEND_POINTS = 3  # along each axis, between which the bending is interpolated
BEND_SHARE = 0.06  # of the mean length of the axes: the largest component of the bending
SMOOTHNESS = 4.0  # factor or divisor, at most


@dataclass(frozen=True)
class Perturbed:
    """A slightly changed pair.

    Attributes:
        pair: The images.
        bending: `(1, nd, *spatial)` in voxels of the working grid: where the changed moving image comes from.
        smoothness: Factor of the smoothness of the refinement.
    """

    pair: WorkingPair
    bending: Tensor
    smoothness: float

    def undo(self, displacement: Tensor) -> Tensor:
        """Return what a displacement found for the changed pair means for the unchanged one, in voxels of its grid."""
        return compose(resize_displacement(self.bending, displacement.shape[2:]), displacement)


def perturb(pair: WorkingPair, generator: torch.Generator) -> Perturbed:
    """Return a pair with changed brightness, contrast, noise and shape.

    Args:
        pair: On the working grid.
        generator: Of the CPU, so that every device gets the same changes.
    """
    bending = _bending(tuple(pair.fixed.shape[2:]), generator).to(pair.fixed)
    changed = replace(
        pair,
        fixed=_recolored(pair.fixed, generator),
        moving=_recolored(warp(pair.moving, bending), generator),
        moving_mask=None if pair.moving_mask is None else warp(pair.moving_mask, bending),
    )
    return Perturbed(changed, bending, math.exp(math.log(SMOOTHNESS) * _symmetric(generator)))


def _symmetric(generator: torch.Generator) -> float:
    """Return a random number between -1 and 1."""
    return 2 * float(torch.rand(1, generator=generator)) - 1


def _bending(spatial: tuple[int, ...], generator: torch.Generator) -> Tensor:
    axes = len(spatial)
    coarse = torch.randn(1, axes, *[BEND_POINTS] * axes, generator=generator)
    smooth = F.interpolate(coarse, size=spatial, mode=LINEAR_MODES[axes], align_corners=True)
    return smooth * (BEND_SHARE * sum(spatial) / axes / float(smooth.abs().max()))


def _recolored(image: Tensor, generator: torch.Generator) -> Tensor:
    gamma, gain = (1 + limit * _symmetric(generator) for limit in (GAMMA, GAIN))
    noise = NOISE * torch.randn(image.shape, generator=generator)
    return gain * image.clamp_min(0) ** gamma + noise.to(image)


class Spread:
    """The standard deviation of displacements that are added one by one, without keeping them.

    Source: Welford 1962, for vectors: the square root of the mean squared distance from the mean vector.
    """

    def __init__(self, displacement_lps_mm: np.ndarray) -> None:
        """Start with a displacement `(k, j, i, 3)`, mm."""
        self.count = 1
        self._mean = displacement_lps_mm.astype(np.float32)
        self._squares = np.zeros(displacement_lps_mm.shape[:3], np.float32)

    def add(self, displacement_lps_mm: np.ndarray) -> None:
        """Add another displacement on the same grid."""
        self.count += 1
        change = displacement_lps_mm - self._mean
        self._mean += change / self.count
        self._squares += np.einsum("...c,...c->...", change, displacement_lps_mm - self._mean)

    def millimetres(self) -> np.ndarray:
        """Return the standard deviation `(k, j, i)`, mm, of what was added; 0 for a single one."""
        return np.sqrt(self._squares / max(self.count - 1, 1))


def measure_spread(registered: Registered, reporter: Reporter, observer: Observer | None = None) -> Spread:
    """Register slightly changed images from the same alignment on, and keep how far the results lie apart.

    That is done on the grid on which the deformation is stored; `on_fixed` says what it means for the fixed volume.

    Args:
        registered: What came of the images as they are; the first of the samples, of which its settings say how many.
        reporter: Told of every step; may end it early.
        observer: As for the first sample, if it kept a sequence of Gaussians.
    """
    registrar, settings = registered.registrar, registered.search.settings
    generator = torch.Generator().manual_seed(settings.seed)
    grid = registered.deformation.geometry
    spread = Spread(registered.deformation.displacement_lps_mm)

    def tell(event: Event) -> None:
        if isinstance(event, Progress):
            text = f"Sample {spread.count + 1} of {settings.samples}: {event.message}"
            reporter.emit(Progress("uncertainty", spread.count, settings.samples, text))

    while spread.count < settings.samples and not reporter.enough():
        changed = perturb(replace(registered.search.pair, structures=None), generator)
        altered = replace(settings, smoothness=settings.smoothness * changed.smoothness)
        told = Reporter(tell, reporter.cancelled)
        guide = registered.search.guide and registered.search.guide.bent(changed.bending)
        sample = Search(altered, changed.pair, registered.geometry, told, guide=guide)
        registrar.find(sample, observer)
        undone = changed.undo(sample.displacement)
        if registered.search.bodies is not None:
            undone = registered.search.bodies.settled(undone)
        spread.add(field_on(undone, registered.search.pair, grid))
    return spread


def on_fixed(spread: Spread, registered: Registered) -> np.ndarray:
    """Return the standard deviation in mm on the fixed grid, float32 `(k, j, i)`, linear between the nodes."""
    values = spread.millimetres()[..., None]
    return resize(values, registered.deformation.geometry, registered.geometry)[..., 0]


def uncertainty(registered: Registered, on_progress: Callable[[Event], None] = lambda event: None) -> np.ndarray:
    """Return how far a deformation depends on what should not matter, in mm; it ranks places, and is no bound.

    Args:
        registered: What was registered; its settings say how many samples are taken.
        on_progress: Called with every step forward.

    Returns:
        Standard deviation of the displacement over the samples, float32 `(k, j, i)`, on the fixed grid.

    Examples:
        >>> registered = register(fixed, moving, Settings(method="none", refinement_steps=3, samples=2))
        >>> uncertainty(registered).shape
        (32, 32, 32)
    """
    return on_fixed(measure_spread(registered, Reporter(on_progress)), registered)
