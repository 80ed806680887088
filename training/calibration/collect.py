"""Makes the registrations that calibration learns from and is measured on, each once, in several processes."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from DeepAttentionRegEngine.protocol.contract import METHOD_NONE
from DeepAttentionRegEngine.protocol.errors import EngineError
from DeepAttentionRegEngine.protocol.registry import choose_variant, load_method

from .fitting import KnownRun
from .runs import Plan, measure, plan


@dataclass(frozen=True)
class RunSet:
    """Registrations of one kind.

    Attributes:
        name: Of their files.
        first: The first of their seeds.
        count: How many.
        held_out: Of families that teach nothing.
    """

    name: str
    first: int
    count: int
    held_out: bool = False


PARTS = (
    RunSet("taught", 0, 320),
    RunSet("held-out", 7000, 240, held_out=True),
)


def collect(folder: Path, axes: int, processes: int) -> None:
    """Measure all registrations of which there is no file yet; those that the engine refuses leave an empty one."""
    wanted = [(part, seed) for part in PARTS for seed in range(part.first, part.first + part.count)]
    jobs = [(part, seed, path) for part, seed in wanted if not (path := _file(folder, part, axes, seed)).exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        done = [pool.submit(_measure, path, axes, part, seed) for part, seed, path in jobs]
        for future in tqdm(done, desc=f"{axes} axes"):
            future.result()


def read(folder: Path, axes: int, name: str) -> list[KnownRun]:
    """Return the registrations of a part, without those that were refused or show too little."""
    part = next(part for part in PARTS if part.name == name)
    return list(_read(folder, axes, part))


def _read(folder: Path, axes: int, part: RunSet) -> Iterator[KnownRun]:
    for seed in range(part.first, part.first + part.count):
        path = _file(folder, part, axes, seed)
        if path.exists() and path.stat().st_size:
            with np.load(path) as file:
                data = dict(file)
            yield KnownRun(_planned(axes, part, seed), data)


def _file(folder: Path, part: RunSet, axes: int, seed: int) -> Path:
    return folder / f"{part.name}-{axes}d-{seed}.npz"


def _planned(axes: int, part: RunSet, seed: int) -> Plan:
    return plan(seed, axes, held_out=part.held_out)


def _measure(path: Path, axes: int, part: RunSet, seed: int) -> None:
    one, partial = _planned(axes, part, seed), path.with_suffix(f".{os.getpid()}")
    try:
        found = measure(one)
    except EngineError as error:
        print(f"{path.name} is left out: {error}")
        path.touch()
        return
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, weights=np.array(weights_of(one)), **found)
    partial.rename(path)


def weights_of(one: Plan) -> str:
    """Return by which weights a trial registers; a method that needs none stands for itself."""
    method = one.settings.method
    if method == METHOD_NONE:
        return METHOD_NONE
    return choose_variant(load_method(method), one.recipe.nd, None).weights or method
