"""How fast a device is, in a workload small enough to be run whenever somebody asks."""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

CHANNELS, EDGE, KERNEL = 32, 32, 3
OPERATIONS = 2 * CHANNELS**2 * KERNEL**3 * EDGE**3
SAMPLED_EDGE, SHIFT = 64, 0.01
ROUNDS = 15


@torch.no_grad()
def registration_speed(device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return how fast a device registers: operations of a 3D convolution, in 10^9, a second of convolving and warping.

    A network convolves, a refinement warps, and what disturbs a processor rarely disturbs both alike. The best of each
    counts, over half a second on two CPU cores, so that another program is likely to pause in between.

    Args:
        device: What to measure.
        clock: Returns seconds.
    """
    image = torch.ones(1, CHANNELS, EDGE, EDGE, EDGE, device=device)
    kernel = torch.ones(CHANNELS, CHANNELS, KERNEL, KERNEL, KERNEL, device=device)
    sampled = torch.ones(1, 3, SAMPLED_EDGE, SAMPLED_EDGE, SAMPLED_EDGE, device=device)
    places = F.affine_grid(torch.eye(3, 4, device=device)[None] + SHIFT, list(sampled.shape), align_corners=False)
    tasks: tuple[Callable[[], torch.Tensor], ...] = (
        lambda: F.conv3d(image, kernel, padding=KERNEL // 2),
        lambda: F.grid_sample(sampled, places, padding_mode="border", align_corners=False),
    )
    seconds: list[list[float]] = [[], []]
    for _ in range(1 + ROUNDS):
        for task, taken in zip(tasks, seconds, strict=True):
            started = clock()
            float(task().flatten()[0])  # reading a value waits for a GPU
            taken.append(clock() - started)
    return OPERATIONS / sum(min(taken[1:]) for taken in seconds) / 1e9  # the first round sets the library up
