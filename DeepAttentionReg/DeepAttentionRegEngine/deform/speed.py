"""How fast a device is, in a workload small enough to be run whenever somebody asks."""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

CHANNELS, EDGE, KERNEL = 32, 32, 3
OPERATIONS = 2 * CHANNELS**2 * KERNEL**3 * EDGE**3
REPEATS = 3


@torch.no_grad()
def convolution_speed(device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the speed of a 3D convolution as registration networks use it, in 10^9 operations per second.

    The best of three, so that another program disturbs it little; takes less than 0.1 s on two CPU cores.

    Args:
        device: What to measure.
        clock: Returns seconds.
    """
    image = torch.ones(1, CHANNELS, EDGE, EDGE, EDGE, device=device)
    kernel = torch.ones(CHANNELS, CHANNELS, KERNEL, KERNEL, KERNEL, device=device)
    seconds = []
    for _ in range(1 + REPEATS):
        started = clock()
        float(F.conv3d(image, kernel, padding=KERNEL // 2).flatten()[0])  # reading a value waits for a GPU
        seconds.append(clock() - started)
    return OPERATIONS / min(seconds[1:]) / 1e9  # the first call sets the library up
