"""Does more recursion help? Figure 5 of the RMAn paper (arXiv 2206.01863) in small, on made-up images.

    python -m training figure5-synthetic

Trains RMAn and RCn, the recursive cascade without attention, with 1, 2 and 3 recursions on pairs of random textures and
applies each with up to 6. Prints the mean end-point error in voxels; results/figure5_synthetic.md keeps it. The paper
reports that networks trained with one recursion get worse with more, that those trained with two or three improve and
level out, and that RMAn is better than RCn at every number. Takes about three minutes of one CPU core.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from DeepAttentionRegEngine.deform.losses import diffusion, mean_squared
from DeepAttentionRegEngine.deform.warp import warp
from DeepAttentionRegEngine.networks import build
from DeepAttentionRegEngine.networks.base import ImagePair, RegistrationNetwork

NETWORKS: dict[str, dict[str, Any]] = {"RMAn": {}, "RCn": {"attention": False, "siamese": False}}
TRAINED = (1, 2, 3)
APPLIED = 6
SIZE, BATCH, PEAK = 48, 8, 6.0  # voxels, pairs a step, voxels
GAMMA, SMOOTHNESS = 0.5, 0.02


def smooth_noise(generator: torch.Generator, channels: int, spacing: int) -> Tensor:
    """Return noise `(BATCH, channels, SIZE, SIZE)` of one knot per `spacing` voxels, smoothly interpolated."""
    knots = torch.randn(BATCH, channels, SIZE // spacing, SIZE // spacing, generator=generator)
    return F.interpolate(knots, (SIZE, SIZE), mode="bicubic", align_corners=False)


def pairs(seed: int) -> Iterator[tuple[ImagePair, Tensor]]:
    """Yield batches of pairs without end, with the displacement `(BATCH, 2, SIZE, SIZE)` that made the fixed image."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        moving = torch.sigmoid(2 * smooth_noise(generator, 1, 4))
        truth = smooth_noise(generator, 2, 12)
        truth = PEAK * truth / truth.abs().amax((1, 2, 3), keepdim=True)
        yield ImagePair(warp(moving, truth), moving), truth


def train(arguments: dict[str, Any], recursions: int, steps: int) -> RegistrationNetwork:
    """Return a network trained with a fixed number of recursions; deterministic on one thread.

    The loss is `sum_k gamma^(K-k) D(fixed, warped_k)` plus regularity; the paper's own is not public.
    """
    torch.manual_seed(0)
    network = build("rman", {"nd": 2, "widths": "small", "flow_level": 1, "extent": float(SIZE), **arguments})
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _, (pair, _) in zip(range(steps), pairs(seed=1), strict=False):
        states = list(network.recurse(pair, recursions))
        differences = [
            GAMMA ** (recursions - k) * mean_squared(state.warped, pair.fixed)
            for k, state in enumerate(states, start=1)
        ]
        loss = 100 * torch.stack(differences).sum() + SMOOTHNESS * diffusion(states[-1].displacement)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def errors(network: RegistrationNetwork, batches: int) -> list[float]:
    """Return the mean end-point error in voxels before and after each recursion, on pairs not trained on."""
    total = torch.zeros(APPLIED + 1)
    for _, (pair, truth) in zip(range(batches), pairs(seed=2), strict=False):
        total[0] += truth.norm(dim=1).mean()
        for k, state in enumerate(network.recurse(pair, APPLIED), start=1):
            total[k] += (state.displacement - truth).norm(dim=1).mean()
    return (total / batches).tolist()


def table(steps: int, batches: int) -> Iterator[str]:
    """Yield the lines of the table as they are known."""
    yield "| network | K in training | " + " | ".join(f"K = {k}" for k in range(APPLIED + 1)) + " |"
    yield "|---|---|" + "---|" * (APPLIED + 1)
    for name, arguments in NETWORKS.items():
        for recursions in TRAINED:
            figures = errors(train(arguments, recursions, steps), batches)
            yield f"| {name} | {recursions} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Tell a parser what the command takes."""
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batches", type=int, default=8)


def command(arguments: argparse.Namespace) -> None:
    """Print the table."""
    torch.set_num_threads(1)  # the same figures on every machine of one kind
    for line in table(arguments.steps, arguments.batches):
        print(line, flush=True)
