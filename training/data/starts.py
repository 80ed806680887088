"""What coarse recursions would have found already: pairs as finer ones meet them.

Networks climb a pyramid (`registration/pyramid.py`): on a fine grid most of the motion is known, and what is left is
small and not smooth. Here optical flow alone, with the gains of an untrained network, finds it on a coarse grid.
"""

import torch
from torch import Tensor

from DeepAttentionRegEngine.deform.warp import compose, integrate_velocity, resize_displacement, warp
from DeepAttentionRegEngine.networks.blocks import enlarge, pool
from DeepAttentionRegEngine.networks.forces import Guides, described, flows, start_gain

GUIDES: Guides = ((1, 5), (1, 9))
CORRELATED = (3, 5)
STEPS = 3
SQUARINGS = 4
FIXED_POINT = 8  # iterations


@torch.no_grad()
def coarse_start(fixed: Tensor, moving: Tensor) -> Tensor:
    """Return the displacement `(1, nd, *spatial)` in voxels that optical flow finds on a grid of half the resolution.

    Args:
        fixed: `(1, 1, *spatial)`.
        moving: Same shape.
    """
    target, source = pool(fixed), pool(moving)
    nd, spatial, known = fixed.ndim - 2, target.shape[2:], described(target, GUIDES, CORRELATED)
    half, gain = [n // 2 for n in spatial], start_gain(len(GUIDES) + len(CORRELATED))
    found = torch.zeros(1, nd, *spatial)
    for _ in range(STEPS):
        flow = flows(known, described(warp(source, found), GUIDES, CORRELATED), GUIDES, CORRELATED)
        velocity = gain * torch.stack([resize_displacement(step, half) for step in flow.candidates]).sum(0)
        found = compose(found, 2 * enlarge(integrate_velocity(velocity, SQUARINGS), spatial))
    return resize_displacement(found, fixed.shape[2:])


def left_over(whole: Tensor, start: Tensor) -> Tensor:
    """Return the displacement after which a start leads where the whole one does: `u(x) = r(x) + s(x + r(x))`."""
    rest = whole - start
    for _ in range(FIXED_POINT):
        rest = whole - warp(start, rest)
    return rest
