"""Train one registration network from a configuration file.

    python training/train.py training/configs/rman_hippocampus.json --output runs/rman_hippocampus

Resumes from the newest checkpoint of the output folder; `export.py` turns a checkpoint into a weight file.
"""

import argparse
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data import Case, augmented, data_folder, load_cases, random_pairs, read_split
from DeepAttentionRegEngine.losses import diffusion, fold_penalty, local_ncc, soft_dice
from DeepAttentionRegEngine.networks import build
from DeepAttentionRegEngine.networks.base import ImagePair, RegistrationNetwork
from DeepAttentionRegEngine.warp import warp

Pair = tuple[Tensor, ...]
LOG = logging.getLogger("training")


def recursions_at(progress: float, maximum: int, rng: np.random.Generator) -> int:
    """Return how many recursions to train with: one at first, then a random number that favours the maximum."""
    allowed = 1 + min(maximum - 1, int(progress * 2 * maximum))
    return int(max(rng.integers(1, allowed + 1, 2)))


def pair_loss(config: dict[str, Any], network: RegistrationNetwork, pair: Pair, recursions: int) -> Tensor:
    """Return the training loss of one pair: similarity and overlap after every recursion, and regularity.

    Args:
        config: The experiment.
        network: One recursion.
        pair: fixed image, fixed labels, moving image, moving labels, each `(1, C, *spatial)`.
        recursions: Number of passes.

    Source: rman specification section 4, `sum_k gamma^(K-k) D(fixed, warped_k) + R(phi_K) + mean_k R(psi_k)`.
    """
    fixed, fixed_labels, moving, moving_labels = pair
    weights = config["weights"]
    total, regularity = fixed.new_zeros(()), fixed.new_zeros(())
    weight_sum = 0.0
    for index, step in enumerate(network.recurse(ImagePair(fixed, moving), recursions), start=1):
        weight = config["gamma"] ** (recursions - index)
        weight_sum += weight
        similarity = weights["ncc"] * (1 - local_ncc(step.warped, fixed, config["ncc_window"]))
        overlap = weights["dice"] * (1 - soft_dice(warp(moving_labels, step.displacement), fixed_labels))
        total = total + weight * (similarity + overlap)
        regularity = regularity + diffusion(step.increment) / recursions
        if moving is fixed:  # similarity alone hardly tells that nothing should move
            regularity = regularity + weights["stillness"] * step.increment.square().sum(1).mean() / recursions
    field = step.displacement
    return (
        total / weight_sum
        + weights["diffusion"] * diffusion(field)
        + weights["step_diffusion"] * regularity
        + weights["fold"] * fold_penalty(field, margin=0.1)
    )


def learning_rate(config: dict[str, Any], step: int) -> float:
    """Return the rate of a step: 100 steps of warm-up, then a half cosine to zero."""
    warm = min(1.0, (step + 1) / 100)
    return config["learning_rate"] * warm * 0.5 * (1 + math.cos(math.pi * step / config["steps"]))


@torch.no_grad()
def validate(network: RegistrationNetwork, cases: list[Any], recursions: int, pairs: int = 20) -> float:
    """Return the mean Dice of nearest-neighbour warped labels over fixed pairs of validation subjects."""
    rng = np.random.default_rng(1)
    scores = []
    for _ in range(pairs):
        a, b = rng.choice(len(cases), 2, replace=False)
        fixed, moving = cases[a], cases[b]
        *_, last = network.recurse(ImagePair(fixed.image[None], moving.image[None]), recursions)
        warped = warp(moving.labels[None], last.displacement, nearest=True)
        scores.append(float(soft_dice(warped, fixed.labels[None])))
    return float(np.mean(scores))


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint so that an interrupted run never leaves half a file."""
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    temporary.replace(path)


class Trainer:
    """One run: network, its moving average, optimiser, checkpoint."""

    def __init__(self, config: dict[str, Any], output: Path) -> None:
        torch.manual_seed(config["seed"])
        self.config, self.output = config, output
        self.network, self.average = (build(config["method"], config["network"]) for _ in range(2))
        self.average.load_state_dict(self.network.state_dict())
        self.network.half_precision = self.average.half_precision = True
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=config["learning_rate"], betas=(0.9, 0.98))
        self.step = 0
        self.checkpoint = output / "checkpoint.pt"
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True)
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]

    def save(self) -> None:
        """Write the checkpoint."""
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        save_atomically(state, self.checkpoint)

    def update(self, pair: Pair, recursions: int) -> float:
        """Take one optimiser step and return the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        self.optimizer.zero_grad()
        loss = pair_loss(self.config, self.network, pair, recursions)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        decay = min(self.config["ema"], self.step / (self.step + 10))
        with torch.no_grad():
            for averaged, current in zip(self.average.parameters(), self.network.parameters(), strict=True):
                averaged.lerp_(current, 1 - decay)
        self.step += 1
        return float(loss.detach())


def draw(fixed: Case, moving: Case, config: dict[str, Any], rng: np.random.Generator) -> Pair:
    """Return fixed and moving image and labels, augmented; now and then an image with itself, which must not move."""
    first = augmented(fixed, rng, **config["augmentation"])
    same = rng.random() < config["identity_share"]
    return (*first, *(first if same else augmented(moving, rng, **config["augmentation"])))


def run(config: dict[str, Any], config_folder: Path, output: Path) -> None:
    """Train until the configured number of steps, logging and saving every 100."""
    output.mkdir(parents=True, exist_ok=True)
    split = read_split(config_folder.parent / config["split"])
    folder = data_folder(config["data"])
    shape = tuple(config["shape"])
    train = load_cases(folder, split["train"], shape, config["labels"])
    held_out = load_cases(folder, split["validation"], shape, config["labels"])
    trainer = Trainer(config, output)
    started, losses = time.monotonic(), []
    for fixed, moving, rng in random_pairs(train, config["seed"] + trainer.step):
        if trainer.step >= config["steps"]:
            break
        pair = draw(fixed, moving, config, rng)
        recursions = recursions_at(trainer.step / config["steps"], config["recursions"], rng)
        losses.append(trainer.update(pair, recursions))
        if trainer.step % 100 == 0:
            trainer.save()
            dice = validate(trainer.average, held_out, config["recursions"]) if trainer.step % 500 == 0 else math.nan
            LOG.info(
                "step %d loss %.4f validation Dice %.4f elapsed %.0f s",
                trainer.step,
                np.mean(losses),
                dice,
                time.monotonic() - started,
            )
            losses.clear()
    trainer.save()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run(json.loads(arguments.config.read_text(encoding="ascii")), arguments.config.resolve().parent, arguments.output)


if __name__ == "__main__":
    main()
