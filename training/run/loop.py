"""The training loop: steps, moving average, checkpoints, curves. Devices, precision and processes are Fabric's."""

import logging
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from DeepAttentionRegEngine.deform.warp import resize

from ..configs.reading import to_dict
from ..configs.schema import Optimizer
from ..data.batches import Batch, Batches, CaseSource, recursions_at
from ..data.cases import CaseSet
from ..objectives.tasks import Score, TrainingTask

LOG = logging.getLogger("training")
CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"
FALLING = 0.2  # of the steps of a "plateau"


def learning_rate(settings: Optimizer, step: int, steps: int) -> float:
    """Return the rate of a step."""
    warm = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    left = 1 - step / steps
    decay = {
        "constant": 1.0,
        "cosine": 0.5 * (1 - math.cos(math.pi * left)),
        "poly": max(left, 0.0) ** 0.9,
        "plateau": min(1.0, left / FALLING),
    }
    return settings.learning_rate * warm * decay[settings.schedule]


def make_optimizer(settings: Optimizer, network: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser of the weights that train."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    common: dict[str, Any] = {"lr": settings.learning_rate, "betas": settings.betas, "amsgrad": settings.amsgrad}
    if settings.name == "adamw":
        return torch.optim.AdamW(weights, weight_decay=settings.weight_decay, **common)
    return torch.optim.Adam(weights, **common)


@torch.no_grad()
def average_into(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move weights and statistics of `average` towards those of `network`; counters are copied."""
    for averaged, current in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if averaged.is_floating_point():
            averaged.lerp_(current, 1 - decay)
        else:
            averaged.copy_(current)


class Trainer:
    """One run: task, moving average of its network, optimiser, checkpoint, curves."""

    def __init__(self, fabric: Fabric, task: TrainingTask, average: TrainingTask, output: Path) -> None:
        """Set up a run, continuing from the checkpoint of the output folder if there is one.

        Args:
            fabric: Device, precision and processes; launched.
            task: To be trained.
            average: The same task, whose weights become the moving average.
            output: Folder of checkpoint and curves.
        """
        self.config, self.fabric, self.output, self.step = task.config, fabric, output, 0
        self.best = -math.inf
        average.network.load_state_dict(task.network.state_dict())
        self.average = average.requires_grad_(False).eval().to(fabric.device)
        self.plain = task
        if max(weight.ndim for weight in task.parameters()) == 4:  # images: a quarter faster on the CPU
            task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = make_optimizer(self.config.optimizer, task)
        self.task, self.optimizer = fabric.setup(task, optimizer)
        output.mkdir(parents=True, exist_ok=True)
        if (output / CHECKPOINT).exists():
            self._load(output / CHECKPOINT)
        self.writer = SummaryWriter(str(output), purge_step=self.step) if fabric.is_global_zero else None

    def _load(self, path: Path) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["config"]["seed"] != self.config.seed or state["config"]["network"] != to_dict(self.config)["network"]:
            msg = f"{path} is of another seed or network; give another --output"
            raise ValueError(msg)
        self.plain.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best = state["step"], state["best"]

    def save(self, name: str = CHECKPOINT) -> None:
        """Write a checkpoint so that an interrupted run never leaves half a file."""
        if self.fabric.is_global_zero:
            state = {
                "config": to_dict(self.config),
                "network": self.plain.network.state_dict(),
                "average": self.average.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "best": self.best,
            }
            temporary = self.output / f"{name}.part"
            torch.save(state, temporary)
            os.replace(temporary, self.output / name)
        self.fabric.barrier()

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Take one optimiser step and return the loss terms."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config.optimizer, self.step, config.run.steps)
        # Dropout and noise of a step follow from its number, like its batch.
        torch.manual_seed(hash((config.seed, self.fabric.global_rank, self.step)) % 2**63)
        self.task.train()
        self.optimizer.zero_grad()
        terms = self.task(batch, recursions_at(config, self.step))
        self.fabric.backward(terms["loss"])
        if config.optimizer.clip is not None:
            self.fabric.clip_gradients(self.task, self.optimizer, max_norm=config.optimizer.clip)
        self.optimizer.step()
        decay = min(config.run.ema, self.step / (self.step + 10))
        average_into(self.average.network, self.plain.network, decay)
        self.step += 1
        return {name: value.detach() for name, value in terms.items()}

    def fit(self, train: CaseSet, validation: CaseSet, limit: int | None = None) -> None:
        """Train until the configured number of steps, or until `limit`."""
        run = self.config.run
        end = run.steps if limit is None else min(limit, run.steps)
        source = CaseSource(self.config, self.plain.prepare(train), self.fabric.global_rank)
        batches = Batches(source).after(self.step)
        bar = tqdm(total=end, initial=self.step, disable=True if self.writer is None else None, desc=self.output.name)
        started, first = time.monotonic(), self.step
        while self.step < end:
            terms = self.update(self.fabric.to_device(next(batches)))
            bar.update()
            if self.writer is not None and self.step % run.log_every == 0:
                rate = (time.monotonic() - started) / (self.step - first)
                self._log(self.writer, terms, rate)
                bar.set_postfix(loss=float(terms["loss"]))
            if self.step % run.validate_every == 0 or self.step == run.steps:
                self._validate(validation)
            if self.step % run.save_every == 0 or self.step == end:
                self.save()
        bar.close()

    def _log(self, writer: SummaryWriter, terms: dict[str, Tensor], seconds: float) -> None:
        for name, value in terms.items():
            writer.add_scalar(f"training/{name}", float(value), self.step)
        writer.add_scalar("training/learning rate", self.optimizer.param_groups[0]["lr"], self.step)
        writer.add_scalar("training/seconds per step", seconds, self.step)
        LOG.info("step %d of %d: loss %.4f, %.3f s a step", self.step, self.config.run.steps, terms["loss"], seconds)

    def _validate(self, validation: CaseSet) -> None:
        if self.writer is not None:
            score = self.average.validate(validation, self.fabric.device)
            self.writer.add_scalar("validation/score", score.value, self.step)
            for name, value in score.details.items():
                self.writer.add_scalar(f"validation/{name}", value, self.step)
            self.writer.add_image("validation/cases", figure(score), self.step)
            LOG.info("step %d: validation %.4f", self.step, score.value)
            LOG.info(", ".join(f"{name} {value:.3f}" for name, value in score.details.items()))
            improved, self.best = score.value > self.best, max(score.value, self.best)
        else:
            improved = False
        if self.fabric.broadcast(improved):
            self.save(BEST)


def figure(score: Score) -> Tensor:
    """Return the images of a score as one, a row per case, `(1, height, width)`, all in the size of the first."""
    size = score.images[0][0].shape[1:]
    rows = [torch.cat([resize(image[None], size)[0] for image in row], 2) for row in score.images]
    return torch.cat(rows, 1).clamp(0, 1)
