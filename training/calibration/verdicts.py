"""Learns from signs of whole runs whether they failed, and counts how often that is right."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from .fitting import Dense

DECAY = 0.003  # of squared weights, beside the mean loss of a run
STEPS = 300
FALSE_ALARMS = {"suspicious": 0.05, "failed": 0.02}  # of sound runs, that are allowed where the thresholds are chosen


@dataclass(frozen=True)
class Counts:
    """How often verdicts were right.

    Attributes:
        failures: Runs that failed.
        found: Of them, those that were suspected at least.
        sound: Runs that did not fail.
        suspected: Of these, those that were suspected at least.
        accused: Of these, those that were said to have failed.
    """

    failures: int
    found: int
    sound: int
    suspected: int
    accused: int

    @property
    def sentence(self) -> str:
        """What users are told."""
        return (
            f"Of {self.failures} failures among {self.failures + self.sound} registrations on which this was measured "
            f"it found {100 * self.found / max(self.failures, 1):.0f} %, and it suspected "
            f"{100 * self.suspected / max(self.sound, 1):.0f} % of the others."
        )


def fit(signs: np.ndarray, failed: np.ndarray) -> Dense:
    """Return the logit of a failure by logistic regression; signs `(R, S)`, failures `(R,)`."""
    torch.manual_seed(0)
    values, wanted = torch.from_numpy(signs.astype(np.float32)), torch.from_numpy(failed.astype(np.float32))
    network = Dense(values, 1, hidden=())
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=STEPS)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        weights = next(network.layers[0].parameters())
        loss = F.binary_cross_entropy_with_logits(network(values)[:, 0], wanted) + DECAY * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return network.eval()


@torch.no_grad()
def chances(network: Dense, signs: np.ndarray) -> np.ndarray:
    """Return probabilities `(R,)` of a failure."""
    return torch.sigmoid(network(torch.from_numpy(signs.astype(np.float32)))[:, 0]).numpy()


def without_family(signs: np.ndarray, failed: np.ndarray, families: np.ndarray) -> np.ndarray:
    """Return probabilities by fits that saw no run of the same family `(R,)`."""
    found = np.empty(len(signs))
    for family in np.unique(families):
        here = families == family
        found[here] = chances(fit(signs[~here], failed[~here]), signs[here])
    return found


def thresholds(found: np.ndarray, failed: np.ndarray) -> dict[str, float]:
    """Return the probabilities from which so many sound runs at most are suspected, and accused."""
    sound = found[~failed]
    return {name: float(max(np.quantile(sound, 1 - share), 0.2)) for name, share in FALSE_ALARMS.items()}


def count(found: np.ndarray, failed: np.ndarray, limits: dict[str, float]) -> Counts:
    """Return how often verdicts by these probabilities were right."""
    suspected, accused = (found >= limits[name] for name in ("suspicious", "failed"))
    return Counts(
        int(failed.sum()),
        int((suspected & failed).sum()),
        int((~failed).sum()),
        int((suspected & ~failed).sum()),
        int((accused & ~failed).sum()),
    )
