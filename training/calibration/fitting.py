"""Fits what the engine says of its own errors to registrations whose error is known.

Percentiles are fitted by pinball losses, each run counting alike. What is told of coverage, and the margins that make
bounds hold (split-conformal calibration, here over families), come from runs of families that played no part in the
fit that predicted them: users come with families that nobody has seen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from DeepAttentionRegEngine.evidence.error_model import BEYOND, LEAST, Layers, as_percentiles
from DeepAttentionRegEngine.evidence.expected_error import SHARE

from .runs import Plan

NOMINAL = 0.95
HIDDEN = (32, 32)
EPOCHS = 6
LEAST_STEPS = 300  # of the optimizer, where there are few voxels
BATCH = 4096
DECAY = 0.01
DIGITS = 4


@dataclass(frozen=True, eq=False)
class KnownRun:
    """A registration and what is known of it: `plan`, and `data` as `runs.measure` returns it."""

    plan: Plan
    data: dict[str, np.ndarray]

    @property
    def weights(self) -> str:
        """With which it was registered, "none" for refinement alone."""
        return str(self.data["weights"])

    @property
    def clues(self) -> np.ndarray:
        """The clues `(N, C)`."""
        return self.data["values"]

    @property
    def log_error(self) -> np.ndarray:
        """Logarithm of the true error `(N,)`."""
        return np.log(self.data["error"] + LEAST)

    @property
    def corresponds(self) -> bool:
        """Whether there is a true error."""
        return bool(np.isfinite(self.data["error"]).all())

    @property
    def failed(self) -> bool:
        """Whether it failed: nothing corresponds, or too much is too far off."""
        return not self.corresponds or bool(self.data["off"] > SHARE)


@dataclass(frozen=True, eq=False)
class Judgement:
    """What is said of a run.

    Attributes:
        run: The run.
        logs: Logarithms of median and bound of the error `(N, 2)`.
        chance: Probability that it failed.
        is_unusual: Whether it is too far from what is known.
    """

    run: KnownRun
    logs: np.ndarray
    chance: float
    is_unusual: bool

    def is_silent(self, failed: float) -> bool:
        """Return whether there is no bound, for it probably failed, or nothing is known of such runs."""
        return self.is_unusual or self.chance >= failed


class Dense(nn.Module):
    """What becomes a `Layers`."""

    means: Tensor
    deviations: Tensor

    def __init__(self, values: Tensor, outputs: int, hidden: Sequence[int] = HIDDEN) -> None:
        """Take means and deviations from values `(N, C)`."""
        super().__init__()
        self.register_buffer("means", values.mean(0))
        self.register_buffer("deviations", values.std(0) + 1e-3)
        sizes = [values.shape[1], *hidden, outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, values: Tensor) -> Tensor:
        """Return outputs `(N, O)`."""
        values = ((values - self.means) / self.deviations).clamp(-BEYOND, BEYOND)
        for index, layer in enumerate(self.layers):
            values = layer(F.dropout(F.silu(values), 0.1, self.training) if index else values)
        return values

    def exported(self) -> Layers:
        """Return it as the engine reads it."""
        layers = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        return Layers(
            rounded(self.means),
            rounded(self.deviations),
            [rounded(layer.weight) for layer in layers],
            [rounded(layer.bias) for layer in layers],
        )


def rounded(values: Any) -> Any:
    """Return a tensor or array as nested lists of few digits, as they are stored."""
    found = values.detach().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return [float(f"{value:.{DIGITS}g}") for value in found] if found.ndim == 1 else [rounded(row) for row in found]


def pinball(off: Tensor, share: float) -> Tensor:
    """Return the loss whose minimum is the percentile at a share."""
    return torch.maximum(share * off, (share - 1) * off)


def fitted(runs: Sequence[KnownRun]) -> Dense:
    """Return a network of median and bound, fitted to the runs that have a true error."""
    taught = [run for run in runs if run.corresponds]
    torch.manual_seed(0)
    errors = [run.log_error for run in taught]
    values = torch.from_numpy(np.concatenate([run.clues for run in taught]))
    wanted = torch.from_numpy(np.concatenate(errors)).float()
    share = torch.from_numpy(np.concatenate([np.full(len(e), 1 / len(e)) for e in errors])).float()
    share /= share.mean()
    network = Dense(values, 2)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=DECAY)
    batches = math.ceil(len(values) / BATCH)
    epochs = max(EPOCHS, math.ceil(LEAST_STEPS / batches))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * batches)
    for _epoch in range(epochs):
        for batch in torch.randperm(len(values)).split(BATCH):
            median, above = network(values[batch]).unbind(1)
            off = wanted[batch] - median
            loss = pinball(off, 0.5) + 2 * pinball(off - F.softplus(above), NOMINAL)
            optimizer.zero_grad()
            (loss * share[batch]).mean().backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def predicted(network: Dense, run: KnownRun) -> np.ndarray:
    """Return the logarithms of median and bound of a run `(N, 2)`, without a margin."""
    return as_percentiles(network(torch.from_numpy(run.clues)).T).T.numpy()


def families_of(runs: Sequence[KnownRun]) -> np.ndarray:
    """Return the family of each run `(R,)`."""
    return np.array([run.plan.recipe.family for run in runs])


def without_family(runs: Sequence[KnownRun]) -> list[np.ndarray]:
    """Return what fits that saw none of their family predict of runs `(N, 2)`."""
    families = families_of(runs)
    networks = {
        family: fitted([run for run, other in zip(runs, families, strict=True) if other != family])
        for family in np.unique(families)
    }
    return [predicted(networks[family], run) for run, family in zip(runs, families, strict=True)]


def margin(runs: Sequence[KnownRun], logs: Sequence[np.ndarray]) -> float:
    """Return what to add to the logarithms of bounds, so that they hold for as many voxels as they say, runs alike."""
    pairs = [
        (run.log_error - log[:, 1], np.full(len(log), 1 / len(log)))
        for run, log in zip(runs, logs, strict=True)
        if run.corresponds
    ]
    excess, share = (np.concatenate(side) for side in zip(*pairs, strict=True))
    order = np.argsort(excess)
    reached = np.cumsum(share[order]) / share.sum()
    return float(excess[order][min(int(np.searchsorted(reached, NOMINAL)), len(order) - 1)])
