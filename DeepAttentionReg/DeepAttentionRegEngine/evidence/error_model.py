"""What was learned of the errors of registrations: percentiles of the error at a place, and whether a run has failed.

`Resources/calibration.json` holds it, with how well it holds; `make calibration` measures and writes it. It stands for
the weights that it names and for no others, not even for others of the same name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..protocol.contract import build
from ..protocol.registry import listed_weights, read_description, resources

FILE = "calibration.json"
LEAST = 0.05  # voxels that are added to lengths of which logarithms are taken
BEYOND = 4.0  # standard deviations, beyond which a clue counts no more


@dataclass(frozen=True)
class Layers:
    """A small network of dense layers.

    Attributes:
        means: Of the inputs, which are brought to mean 0 and deviation 1.
        deviations: Of the inputs.
        weights: Of each layer, a row an output.
        biases: Of each layer.
    """

    means: list[float]
    deviations: list[float]
    weights: list[list[list[float]]]
    biases: list[list[float]]

    def __call__(self, values: Tensor) -> Tensor:
        """Return the outputs `(O, N)` for inputs `(I, N)`."""
        mean, deviation = (torch.tensor(side).to(values)[:, None] for side in (self.means, self.deviations))
        values = ((values - mean) / deviation).clamp(-BEYOND, BEYOND)
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            inputs = F.silu(values) if index else values
            values = torch.tensor(weight).to(values) @ inputs + torch.tensor(bias).to(values)[:, None]
        return values


@dataclass(frozen=True)
class Percentiles:
    """The median of the error of a voxel, and a bound that holds for 95 %.

    Attributes:
        layers: What they follow from; its outputs are the logarithm of the median, and how far above it the bound is.
        margin: Added to the logarithm of the bound, so that it holds as often as it says (conformal calibration).
    """

    layers: Layers
    margin: float

    def bare(self, values: Tensor) -> Tensor:
        """Return the logarithms `(2, N)` of both, `LEAST` added, in voxels, from `(C, N)`; without a margin."""
        return as_percentiles(self.layers(values))

    def __call__(self, values: Tensor) -> Tensor:
        """Return the same with the margin."""
        return self.bare(values) + torch.tensor([[0.0], [self.margin]]).to(values)


def as_percentiles(outputs: Tensor) -> Tensor:
    """Return the logarithms of median and bound that outputs of layers stand for, both `(2, N)`."""
    median, above = outputs
    return torch.stack([median, median + F.softplus(above)])


@dataclass(frozen=True)
class Verdicts:
    """Whether a run has failed.

    Attributes:
        layers: Signs of a run to the logit of the probability that it has.
        suspicious: Probability from which a run is suspicious.
        failed: Probability from which it is said to have failed.
        measured: How often that was right, a sentence.
    """

    layers: Layers
    suspicious: float
    failed: float
    measured: str


@dataclass(frozen=True)
class Calibration:
    """What was learned of registrations of images with so many axes.

    Attributes:
        percentiles: Of the error of a voxel, from the clues of a run.
        unusual: Means of the clues over a run, to numbers whose mean square tells how far it is from what is known.
        limit: Mean square beyond which nothing is known.
        verdicts: On whole runs.
        digests: SHA-256 by weights; empty for refinement alone and for methods that have none.
    """

    percentiles: Percentiles
    unusual: Layers
    limit: float
    verdicts: Verdicts
    digests: dict[str, str]

    def covers(self, weights: str) -> bool:
        """Return whether it was made for these weights, or for this method that has none, as they are now."""
        known = self.digests.get(weights)
        return known is not None and (not known or listed_weights(weights).sha256 == known)


@lru_cache(maxsize=4)
def load_calibration(axes: int, path: Path | None = None) -> Calibration:
    """Return what is known of images with so many axes.

    Args:
        axes: 2 or 3.
        path: Another file than the one that comes along.

    Raises:
        EngineError: If the file is damaged.
    """
    return read_description(path or resources() / FILE, lambda data: _calibration(data[str(axes)]))


def _calibration(data: Mapping[str, Any]) -> Calibration:
    percentiles = Percentiles(build(Layers, data["percentiles"]["layers"]), data["percentiles"]["margin"])
    verdicts = Verdicts(**{**data["verdicts"], "layers": build(Layers, data["verdicts"]["layers"])})
    unusual = build(Layers, data["unusual"])
    return Calibration(percentiles, unusual, data["limit"], verdicts, data["digests"])
